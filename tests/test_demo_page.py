"""The page of the demo in a real Chromium, and what pages of other origins cannot do to its users."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from .support.chromium import Chromium, Page
from .test_examples import address, demo

LIFETIME = 3
LEEWAY = 5


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the demo that runs writes its log."""
    log = tmp_path_factory.mktemp("demo") / "log"
    with demo(log.parent, "--port", "0", log=log):
        yield log


@pytest.fixture(scope="module")
def url(log: Path) -> str:
    return address(log)


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a demo whose page has tokens of LIFETIME."""
    log = tmp_path_factory.mktemp("short-lived") / "log"
    with demo(log.parent, "--port", "0", "--page-lifetime", str(LIFETIME), log=log):
        yield address(log)


def logged_in(browser: Chromium, url: str, mode: str = "page", username: str = "ada") -> Page:
    """A page of the demo in a browser of its own, whose user has logged in."""
    page = browser.page()
    page.open(url + "/")
    log_in(page, mode, username)
    return page


def log_in(page: Page, mode: str = "page", username: str = "ada", password: str = "") -> None:
    page.run(f"document.getElementById('username').value = '{username}'")
    words = {"ada": "lovelace", "bob": "builder"}
    page.run(f"document.getElementById('password').value = '{password or words[username]}'")
    page.click(f"[value={mode}]")
    page.click("#login button")
    if not password:
        page.shows("who", f"{username} is logged in.")
        page.shows("sessions", "This browser")


def test_a_user_logs_in_sees_her_token_and_its_countdown(browser: Chromium, url: str, short_lived: str) -> None:
    page = logged_in(browser, url)
    assert '"sub": "ada"' in page.text("decoded")
    assert '"alg": "HS256"' in page.text("decoded")
    page.until("/^([1-5]?[0-9]|60) s$/.test(document.getElementById('countdown').textContent)")
    (kept,) = page.cookies()
    assert (kept["name"], kept["path"], kept["httpOnly"], kept["secure"], kept["sameSite"]) == (
        "__Secure-refresh",
        "/page/auth",
        True,
        True,
        "Strict",
    )
    assert page.run("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])") == (
        '[{},{"mode":"page"},""]'
    )
    logged_in(browser, short_lived).shows("countdown", "expired")


def test_protected_requests_are_answered_and_refusals_explained(browser: Chromium, url: str) -> None:
    page = logged_in(browser, url, username="bob")
    for button, answer in (
        ("[data-request='GET /me']", "You are bob. Your token allows orders:read."),
        ("[data-request='GET /orders']", "The orders are tea and biscuits."),
        ("[data-request='POST /orders']", "This user may not do that."),
        ("[data-token=forged]", "Somebody changed the token, or made it without the key."),
        ("[data-token=none]", "No token came along: log in."),
    ):
        page.click(button)
        page.until(f"document.querySelector('#answers summary').textContent.endsWith({answer!r})")
    # The request and its answer are there for those who want to see them, and only then.
    assert page.run("document.querySelectorAll('#answers details[open]').length") == 0
    assert "{" not in page.run("document.getElementById('answers').innerText")
    page.click("#answers summary")
    assert 'GET /me: 401\n{\n  "error": "missing_token"' in page.run("document.getElementById('answers').innerText")
    assert "eyJ" not in page.text("answers"), "a token is shown"


def newest(page: Page) -> str:
    """The newest line of the log, in words."""
    said: str = page.run("document.querySelector('#answers summary').textContent")
    return said


def test_a_visitor_reads_what_the_page_shows_and_what_to_do_next(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.open(url + "/")
    lead = "document.querySelector('header p').innerText"
    assert page.run(lead).startswith("See a login live: what its token says, what the token opens,")
    assert page.run(lead).endswith("Start here: log in as ada.")
    log_in(page)
    assert page.run(lead).endswith("Next: try the requests, and open the WebSocket.")
    page.click("#logout")
    page.shows("next", "Start here")


def test_the_login_form_steps_back_once_somebody_is_logged_in(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.open(url + "/")
    is_shown = "document.getElementById('login').checkVisibility()"
    assert page.run(is_shown)
    log_in(page)
    assert not page.run(is_shown)
    assert page.text("as") == "You are logged in as ada."
    page.click("#another")
    assert page.run(is_shown)
    log_in(page, username="bob")
    assert not page.run(is_shown)
    page.click("#logout")
    page.until(is_shown)


def test_sessions_are_named_as_people_name_their_devices(browser: Chromium, url: str) -> None:
    logged_in(browser, url)
    page = logged_in(browser, url)
    assert re.search(r"This browser \(Chrome on Linux\), since \d", page.text("sessions"))
    assert re.search(r"(?<!\()Chrome on Linux, since \d", page.text("sessions"))
    assert "Mozilla" not in page.text("sessions")


def test_the_button_that_ends_a_session_is_whole_on_every_width(browser: Chromium, url: str) -> None:
    logged_in(browser, url)
    page = logged_in(browser, url)
    assert page.run("document.querySelectorAll('#sessions button').length") >= 1
    # A name that does not break anywhere. Meanwhile the page must not load the list again.
    page.run(
        "document.querySelectorAll('#sessions span').forEach((span) => { span.textContent = 'x'.repeat(200) });"
        "window.fetch = () => new Promise(() => {})"
    )
    for width in (280, 320, 390, 760, 1280):
        page.resize(width, 800)
        assert page.run("document.querySelector('#sessions span').textContent.length") == 200
        assert page.run(
            "[...document.querySelectorAll('#sessions button')].every((button) => {"
            "const box = button.getBoundingClientRect(), section = button.closest('section').getBoundingClientRect();"
            "return button.scrollWidth <= button.clientWidth && box.right <= section.right && box.width > 40; })"
        ), f"the button is cut at {width} pixels"


def test_a_page_over_plain_http_says_that_the_cookies_are_lost(browser: Chromium, url: str, log: Path) -> None:
    here = browser.page()
    here.open(url + "/")
    assert not here.run("document.getElementById('insecure').checkVisibility()")
    page = browser.page()
    page.open(url.replace("127.0.0.1", "demo.example") + "/")
    assert page.run("document.getElementById('insecure').checkVisibility()")
    log_in(page)
    assert page.cookies() == []
    said = "browsers drop the cookies of the login: they are Secure, and demo.example was reached over plain http"
    assert log.read_text().count(said) == 1


def test_a_wrong_password_is_explained(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.open(url + "/")
    log_in(page, password="wrong")
    page.shows("answers", "The name or the password is wrong.")
    assert page.text("who") == "Nobody is logged in."
    page.until("document.activeElement.id === 'password'")


def test_a_websocket_closes_when_its_token_runs_out(browser: Chromium, short_lived: str) -> None:
    page = logged_in(browser, short_lived)
    page.click("#open")
    page.shows("socket-state", "Open, with the subprotocol bearer.")
    page.click("#send")
    page.shows("answers", "WebSocket: ada: hello")
    page.shows("socket-state", "closed with 3000 expired. The access token has expired")


def test_a_websocket_lives_on_by_renewal(browser: Chromium, short_lived: str) -> None:
    page = logged_in(browser, short_lived)
    page.click("#open")
    page.shows("socket-state", "Open")
    # The page's own clock: at this time the first token is over, with its leeway.
    page.run(f"window.over = Date.now() + {1000 * (LIFETIME + LEEWAY)}")
    page.run("new Promise((resolve) => setTimeout(resolve, 3000))")
    page.click("#refresh")
    page.shows("answers", "/page/auth/refresh: 200")
    page.shows("who", "ada is logged in.")
    page.click("#renew")
    page.shows("answers", "WebSocket: renewed until")
    page.run("new Promise((resolve) => setTimeout(resolve, over + 500 - Date.now()))")
    assert page.text("socket-state").startswith("Open")
    page.shows("socket-state", "closed with 3000 expired")


def test_a_page_that_is_loaded_again_is_still_logged_in(browser: Chromium, url: str) -> None:
    for mode in ("page", "cookie"):
        page = logged_in(browser, url, mode)
        page.open(url + "/")
        page.shows("who", "ada is logged in.")


def test_a_second_tab_shows_who_is_logged_in_and_logs_out(browser: Chromium, url: str) -> None:
    for mode in ("page", "cookie"):
        page = logged_in(browser, url, mode)
        # What a new tab has: the cookies of the first, and a storage of its own.
        page.run("sessionStorage.clear()")
        page.open(url + "/")
        page.shows("who", "ada is logged in.")
        page.click("#logout")
        page.shows("who", "Logged out. Nobody is logged in.")
        assert page.cookies() == []


def test_a_page_without_a_login_shows_no_refusal(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.open(url + "/")
    page.until("performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/refresh')).length === 2")
    assert page.text("who") == "Nobody is logged in."
    assert page.text("answers") == ""


@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        pytest.param(
            503,
            '{"error":"temporarily_unavailable"}',
            "Forgotten here, but the session may live on",
            id="the store is away",
        ),
        pytest.param(403, '{"code":"cross_site"}', "ada is still logged in: cross_site.", id="refused"),
        pytest.param(500, "Internal Server Error", "ada is still logged in: the logout failed.", id="an error"),
    ],
)
def test_a_logout_that_fails_is_not_called_one(browser: Chromium, url: str, status: int, body: str, shown: str) -> None:
    page = logged_in(browser, url)
    page.run(f"void (fetch = async () => new Response({body!r}, {{status: {status}}}))")
    page.click("#logout")
    page.shows("who", shown)
    assert "Logged out" not in page.text("who")
    assert page.run("document.getElementById('logout').ariaDisabled") == str(status == 503).lower()


def test_an_answer_that_is_not_json_is_told_from_none(browser: Chromium, url: str) -> None:
    page = logged_in(browser, url)
    page.run("void (fetch = async () => new Response('Bad Gateway', {status: 502}))")
    page.click("#list")
    page.shows("answers", "The answer is not JSON.")
    assert "GET /sessions: 502\nBad Gateway" in page.text("answers")
    assert "does not answer" not in page.text("answers")
    page.run("void (fetch = async () => { throw new TypeError('unreachable') })")
    page.click("#list")
    page.shows("answers", "The demo does not answer. Is it still running?")


def test_a_script_that_is_smuggled_into_the_page_does_not_run(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.open(url + "/")
    page.run("document.addEventListener('securitypolicyviolation', (e) => { window.blocked = e.effectiveDirective })")
    page.run("void (window.script = document.createElement('script'))")
    page.run("void document.body.append(Object.assign(script, {textContent: 'window.smuggled = 1'}))")
    page.until("window.blocked === 'script-src-elem'")
    assert page.run("window.smuggled === undefined")


def test_logout_ends_the_session_and_clears_the_cookie(browser: Chromium, url: str) -> None:
    for mode in ("page", "cookie"):
        page = logged_in(browser, url, mode)
        assert page.cookies()
        page.click("#logout")
        page.shows("who", "Logged out. Nobody is logged in.")
        assert page.cookies() == []
        page.click("[data-request='GET /me']")
        page.shows("answers", "No token came along: log in.")


def test_a_session_is_ended_from_another_browser(browser: Chromium, url: str) -> None:
    phone, laptop = logged_in(browser, url), logged_in(browser, url)
    phone.click("#open")
    phone.shows("socket-state", "Open")
    laptop.click("#list")
    laptop.until("document.querySelectorAll('#sessions button').length > 0")
    # The last used first: that of the phone stands before those of the tests before.
    laptop.click("#sessions button")
    laptop.shows("answers", "DELETE /sessions/")
    phone.shows("socket-state", "closed with 3000 revoked. The session was ended", 5)
    phone.click("[data-request='GET /me']")
    phone.shows("answers", "GET /me: 401")
    assert newest(phone).endswith("The session was ended, here or elsewhere: log in again.")
    assert "Nobody is logged in." in phone.text("who")


def test_logging_out_everywhere_ends_every_browsers_session(browser: Chromium, url: str) -> None:
    phone, laptop = (logged_in(browser, url, username="bob") for _ in range(2))
    laptop.click("#logout-everywhere")
    laptop.shows("who", "Logged out everywhere.")
    phone.run("new Promise((resolve) => setTimeout(resolve, 1000))")
    phone.click("[data-request='GET /me']")
    phone.shows("answers", "GET /me: 401")
    assert newest(phone).endswith("The session was ended, here or elsewhere: log in again.")


def test_in_cookie_mode_no_script_has_a_token(browser: Chromium, short_lived: str) -> None:
    page = logged_in(browser, short_lived, "cookie")
    assert {kept["name"]: (kept["path"], kept["httpOnly"], kept["secure"]) for kept in page.cookies()} == {
        "__Secure-refresh": ("/cookie/auth", True, True),
        "__Host-access": ("/", True, True),
    }
    assert page.run("document.cookie") == ""
    page.click("[data-request='POST /orders']")
    page.shows("answers", "Ordered by ada.")
    page.click("#open")
    page.shows("socket-state", "Open.")
    page.click("#send")
    page.shows("answers", "WebSocket: ada: hello")
    page.shows("socket-state", "closed with 3000 expired")


@contextmanager
def foreign_page(html: str) -> Iterator[str]:
    """The address of a page at another port: another origin, whose requests carry our cookies all the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


FORM = "<form method=post action='{url}'><input name=username value=bob><input name=password value=builder></form>"


def test_a_page_of_another_origin_is_refused_whatever_it_tries(browser: Chromium, url: str, log: Path) -> None:
    page = logged_in(browser, url, "cookie")

    def refusals() -> int:
        # In uvicorn's access log: refusals themselves are logged once a minute.
        return len(re.findall(r'" 403', log.read_text()))

    for action in ("/orders", "/cookie/auth/login", "/cookie/auth/refresh", "/cookie/auth/logout"):
        before = refusals()
        with foreign_page(FORM.format(url=url + action)) as foreign:
            page.open(foreign)
            page.run("document.forms[0].submit()")
            page.until("document.body.innerText.includes('cross_site')")
        assert refusals() == before + 1, action
    with foreign_page("a page") as foreign:
        page.open(foreign)
        before = refusals()
        for action in ("/orders", "/cookie/auth/login", "/cookie/auth/refresh", "/cookie/auth/logout"):
            options = "{method: 'POST', mode: 'no-cors', credentials: 'include'}"
            assert page.run(f"fetch('{url}{action}', {options}).then((response) => response.type)") == "opaque"
        assert refusals() == before + 4
        opened = page.run(
            "new Promise((resolve) => {"
            f"const socket = new WebSocket('{url.replace('http', 'ws')}/ws');"
            "socket.onopen = () => resolve('open'); socket.onclose = (event) => resolve(event.code);"
            "})"
        )
        assert opened == 1006
        assert refusals() == before + 5
    page.open(url + "/")
    page.shows("who", "ada is logged in.")


def test_the_page_is_used_by_keyboard_alone(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.open(url + "/")
    page.run("document.getElementById('username').focus()")
    page.press("Tab")
    page.type("lovelace")
    page.press("Enter", "\r")
    page.shows("who", "ada is logged in.")
    reached = []
    for _ in range(40):
        page.press("Tab")
        reached.append(page.run("document.activeElement.textContent.trim().split('\\n')[0]"))
        assert page.run("document.activeElement === document.body || document.activeElement.matches(':focus-visible')")
    for button in ("Refresh", "Log out here", "Log out everywhere", "Who am I?", "Open", "Look again"):
        assert any(button in text for text in reached), button

    def press(id: str) -> None:
        page.run(f"document.getElementById('{id}').focus()")
        page.press("Enter", "\r")
        # Only once a frame is drawn does the focus leave a button that was disabled.
        page.run("new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 50)))")
        assert page.run("document.activeElement !== document.body"), id

    press("refresh")
    page.shows("who", "ada is logged in.")
    press("open")
    page.shows("socket-state", "Open, ")
    assert page.run("document.activeElement.id") == "text"
    press("send")
    page.shows("answers", "WebSocket: ada: hello")
    press("renew")
    page.shows("answers", "WebSocket: renewed until")
    press("close")
    page.shows("socket-state", "Closed")
    press("logout")
    page.shows("who", "Logged out.")
    page.until("document.activeElement.id === 'username'")
    press("logout")
    assert page.text("who") == "Logged out. Nobody is logged in."


def test_the_page_fits_the_screen(browser: Chromium, url: str) -> None:
    page = logged_in(browser, url)
    page.run("document.querySelector('details').open = true")
    for width in (320, 390, 1280):
        page.resize(width, 800)
        assert page.run("document.documentElement.scrollWidth") <= width
        small = page.run(
            "[...document.querySelectorAll('button')].filter((b) => b.checkVisibility() && b.offsetHeight < 44).length"
        )
        assert small == 0, f"a button is too small for a finger at {width} pixels"


def test_the_page_loads_nothing_from_elsewhere(browser: Chromium, url: str) -> None:
    html = (Path(__file__).parent.parent / "examples" / "demo.html").read_text()
    assert re.findall(r"(?:https?:)?//[a-z]", html) == []
    page = logged_in(browser, url)
    loaded = page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith(url)] == []
