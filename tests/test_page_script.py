"""Does the script that docs/browsers.rst shows keep a page logged in? In a real Chromium."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from jwt_middleware import JWTMiddleware, bearer_header, cookie, renew, subprotocol
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer, auth_routes
from jwt_middleware.issuing.cookies import CookieMode

from .support.chromium import Chromium, Page
from .support.documents import ROOT, blocks
from .support.serving import serving

PAGE = """<!doctype html><title>A page</title><script type=module>
import { Session } from "/session.js";
window.changes = [];
window.session = new Session({ onChange: (isLoggedIn) => changes.push(isLoggedIn) });
</script>"""
(SHOWN,) = (block.text for block in blocks("docs/browsers.rst") if block.caption == "page.js")
MODES = [pytest.param("all", id="no script has a token"), pytest.param("refresh", id="the page has the access token")]


class Service:
    """An app with a login and a WebSocket; it counts the refreshes."""

    def __init__(self, cookies: CookieMode | None, lifetime: float = 900) -> None:
        tokens = TokenIssuer("a secret that has thirty-two bytes or more", audience="orders", access_lifetime=lifetime)
        self.sessions = Sessions(MemoryStore(), tokens)
        self.paths: list[str] = []
        routes = [
            Route("/", lambda request: HTMLResponse(PAGE)),
            Route("/shown", lambda request: HTMLResponse(f"<script type=module>{SHOWN}</script>")),
            Route("/session.js", lambda request: FileResponse(ROOT / "examples" / "session.js")),
            Route("/me", self.me),
            WebSocketRoute("/live", self.chat),
            Mount("/auth", routes=auth_routes(self.sessions, authenticate=self.check_password, cookies=cookies)),
        ]
        guard = Middleware(
            JWTMiddleware,
            providers=tokens.provider(leeway=1),
            revocations=self.sessions,
            sources=[bearer_header(), subprotocol("bearer"), cookie("__Host-access")],
            public=["/", "/shown", "/session.js", "/auth/*"],
        )
        self.app = Starlette(routes=routes, middleware=[Middleware(self.count), guard])

    def count(self, app: ASGIApp) -> ASGIApp:
        async def counting(scope: Scope, receive: Receive, send: Send) -> None:
            self.paths.append(scope.get("path", ""))
            await app(scope, receive, send)

        return counting

    @property
    def refreshes(self) -> int:
        return self.paths.count("/auth/refresh")

    @staticmethod
    def check_password(username: str, password: str) -> str | None:
        return username if password == "lovelace" else None

    @staticmethod
    async def me(request: Request) -> JSONResponse:
        return JSONResponse({"user": request.user.identity})

    @staticmethod
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        async for message in websocket.iter_json():
            if "token" in message:
                token = await renew(websocket.scope, message["token"])
                await websocket.send_json({"expires_at": token.expires_at})
            else:
                await websocket.send_json(message)


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., tuple[Service, str]]]:
    """Serves one service for each setting of its tokens: that of the tests before, and its address."""
    served: dict[tuple[object, ...], tuple[Service, str]] = {}
    with ExitStack() as stack:

        def serve(cookies: CookieMode | None, lifetime: float = 900) -> tuple[Service, str]:
            if (cookies, lifetime) not in served:
                service = Service(cookies, lifetime)
                served[cookies, lifetime] = service, stack.enter_context(serving(service.app))
            service, address = served[cookies, lifetime]
            service.paths.clear()
            return service, address

        yield serve


def loaded(page: Page, address: str) -> Page:
    page.open(address + "/")
    page.until("window.session !== undefined")
    return page


def logged_in(browser: Chromium, address: str, username: str = "ada") -> Page:
    page = loaded(browser.page(), address)
    assert page.run(f"session.login('{username}', 'lovelace').then((response) => response.ok)")
    return page


def pass_time(page: Page, seconds: float) -> None:
    """Let the page's clock show ``seconds`` more, and the user look at the page again."""
    page.run(f"void (((now) => {{ Date.now = () => now() + {1000 * seconds} }})(Date.now))")
    page.run("void document.dispatchEvent(new Event('visibilitychange'))")


def user_of(page: Page) -> str:
    user: str = page.run("session.fetch('/me').then((response) => response.json()).then(({ user }) => user)")
    return user


@pytest.mark.parametrize("cookies", [*MODES, pytest.param(None, id="the page has both tokens")])
def test_a_page_refreshes_before_its_token_expires(
    browser: Chromium, serve: Callable[..., tuple[Service, str]], cookies: CookieMode | None
) -> None:
    service, address = serve(cookies)
    page = logged_in(browser, address)
    assert user_of(page) == "ada"
    pass_time(page, 600)
    assert user_of(page) == "ada"
    assert service.refreshes == 0
    pass_time(page, 100)
    assert user_of(page) == "ada"
    assert service.refreshes == 1
    assert page.run("changes") == [True]


@pytest.mark.parametrize("cookies", MODES)
def test_several_tabs_refresh_once(
    browser: Chromium, serve: Callable[..., tuple[Service, str]], cookies: CookieMode
) -> None:
    service, address = serve(cookies)
    first = logged_in(browser, address)
    tabs = [first, *(loaded(first.tab(), address) for _ in range(2))]
    for tab in tabs[1:]:
        assert tab.run("session.refresh()") is True
    before = service.refreshes
    for tab in tabs:
        tab.run("void (((now) => { Date.now = () => now() + 700_000 })(Date.now))")
    for tab in tabs:
        tab.run("void (window.user = session.fetch('/me').then((response) => response.json()))")
    assert [tab.run("user.then(({ user }) => user)") for tab in tabs] == ["ada"] * 3
    assert service.refreshes == before + 1


def test_a_logout_in_one_tab_is_seen_in_the_others(
    browser: Chromium, serve: Callable[..., tuple[Service, str]]
) -> None:
    _, address = serve("refresh")
    page = logged_in(browser, address)
    other = loaded(page.tab(), address)
    assert other.run("session.refresh()") is True
    assert page.run("session.logout().then((response) => response.ok)")
    other.until("session.isLoggedIn === false")
    assert other.run("changes") == [True, False]
    assert other.run("session.fetch('/me').then((response) => response.status)") == 401


def test_tabs_without_cookies_have_logins_of_their_own(
    browser: Chromium, serve: Callable[..., tuple[Service, str]]
) -> None:
    _, address = serve(None)
    ada = logged_in(browser, address)
    bob = loaded(ada.tab(), address)
    assert bob.run("session.refresh()") is False
    assert bob.run("session.login('bob', 'lovelace').then((response) => response.ok)")
    assert (user_of(ada), user_of(bob)) == ("ada", "bob")
    assert bob.run("session.logout().then((response) => response.ok)")
    assert user_of(ada) == "ada"


def test_the_lines_that_are_shown_work(browser: Chromium, serve: Callable[..., tuple[Service, str]]) -> None:
    service, address = serve("all")
    page = browser.page()
    page.open(address + "/shown")
    page.until("document.title === 'My orders'")
    deadline = time.monotonic() + 20
    while "/live" not in service.paths:
        assert time.monotonic() < deadline, service.paths
        time.sleep(0.02)
    assert "/me" in service.paths


def test_a_session_that_was_ended_elsewhere_ends_the_login_of_the_page(
    browser: Chromium, serve: Callable[..., tuple[Service, str]]
) -> None:
    _, address = serve("refresh")
    page, phone = logged_in(browser, address, "eve"), logged_in(browser, address, "eve")
    assert phone.run("session.logout().then((response) => response.ok)")
    assert user_of(page) == "eve"
    end = "fetch('/auth/logout', {method: 'POST'}).then((response) => response.ok)"
    assert page.run(end)
    assert page.run("session.refresh()") is False
    assert page.run("changes") == [True, False]


def test_a_page_waits_while_the_service_cannot_refresh(
    browser: Chromium, serve: Callable[..., tuple[Service, str]]
) -> None:
    service, address = serve("all")
    page = logged_in(browser, address)
    page.run("void (window.real = fetch, window.fetch = async () => { throw new TypeError('unreachable') })")
    assert page.run("session.refresh()") is True
    busy = "new Response('', {status: 503, headers: {'retry-after': '1'}})"
    page.run(f"void (window.fetch = async (url) => url === '/auth/refresh' ? {busy} : real(url))")
    pass_time(page, 6)
    assert user_of(page) == "ada"
    page.run("void (window.fetch = real)")
    page.until("performance.getEntriesByName(location.origin + '/auth/refresh').length === 1")
    assert user_of(page) == "ada"
    assert service.refreshes == 1
    assert page.run("changes") == [True]


def test_a_wrong_password_and_a_logout_that_fails_change_nothing(
    browser: Chromium, serve: Callable[..., tuple[Service, str]]
) -> None:
    _, address = serve("all")
    page = logged_in(browser, address)
    assert page.run("session.login('ada', 'wrong').then((response) => response.status)") == 400
    page.run("void (window.real = fetch, window.fetch = async () => new Response('', {status: 500}))")
    assert page.run("session.logout().then((response) => response.status)") == 500
    page.run("void (window.fetch = real)")
    assert user_of(page) == "ada"
    assert page.run("changes") == [True]


def test_the_token_goes_to_the_origins_of_the_page_alone(
    browser: Chromium, serve: Callable[..., tuple[Service, str]]
) -> None:
    _, address = serve("refresh")
    page = logged_in(browser, address)
    page.run("void (window.fetch = async ({ headers }) => new Response(headers.get('authorization')))")
    sent = "session.fetch({url!r}).then((response) => response.text())"
    assert page.run(sent.format(url="/me")).startswith("Bearer eyJ")
    assert page.run(sent.format(url="https://other.example/me")) == ""


def test_websockets_live_on_and_a_page_that_slept_goes_on(
    browser: Chromium, serve: Callable[..., tuple[Service, str]]
) -> None:
    open_socket = """void (window.ends = [], window.messages = [], window.socket = session.connect(
        location.origin.replace('http', 'ws') + '/live',
        { onMessage: (data) => messages.push(JSON.parse(data)), onClose: (event) => ends.push(event.code) }))"""
    lifetime = 2
    (_, all_in_cookies), (service, in_page) = (serve(cookies, lifetime) for cookies in ("all", "refresh"))
    pages = [logged_in(browser, address) for address in (all_in_cookies, in_page)]
    asleep = loaded(browser.page(), in_page)
    asleep.run("void (((real) => { window.setTimeout = (f, delay) => delay < 1000 && real(f, delay) })(setTimeout))")
    assert asleep.run("session.login('ada', 'lovelace').then((response) => response.ok)")
    asleep.run("void (((now) => { Date.now = () => now() - 60_000 })(Date.now))")
    for page in (*pages, asleep):
        page.run(open_socket)
        page.run("socket.send('{\"said\": 1}')")
        page.until("messages.length > 0")
    pages[0].run(f"new Promise((resolve) => setTimeout(resolve, {1000 * (lifetime + 1.2)}))")
    assert user_of(asleep) == "ada"
    for page in (*pages, asleep):
        page.run("socket.send('{\"said\": 2}')")
        page.until("messages.some(({ said }) => said === 2)")
        assert page.run("ends") == []
        page.run("socket.close()")
        page.until("ends.length === 1")
        assert page.run("ends") == [1000]
    assert pages[1].run("messages.filter(({ expires_at }) => expires_at).length > 0")
    assert service.paths.count("/live") >= 3  # one of the page that was awake, two of the other
