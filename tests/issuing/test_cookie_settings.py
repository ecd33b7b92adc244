"""Settings of the cookies that hold tokens: what is sent, what browsers would drop, and a login of one's own.

A browser is played by its rules (RFC 6265bis): which cookies it keeps, and to which requests it adds them.
"""

import logging
from functools import partial
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from jwt_middleware import ConfigurationError, JWTMiddleware, bearer_header, cookie
from jwt_middleware.events import Advice, Event
from jwt_middleware.issuing import Cookies, MemoryStore, Sessions, TokenIssuer, auth_routes

from ..support import SECRET, logged
from .test_cookies import FOREIGN, GOOD, OWN, SAME_SITE, Site, cookies_of

PAGE = "https://shop.example"
CROSS = {"origin": PAGE, "sec-fetch-site": "cross-site"}


def attributes(kept: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in kept.items() if name not in ("value", "max-age")}


@pytest.mark.parametrize(
    ("settings", "refresh", "access"),
    [
        pytest.param(
            {},
            {"path": "/auth", "httponly": "True", "secure": "True", "samesite": "strict"},
            {"path": "/", "httponly": "True", "secure": "True", "samesite": "lax"},
            id="defaults",
        ),
        pytest.param(
            {"samesite": "none"},
            {"path": "/auth", "httponly": "True", "secure": "True", "samesite": "none"},
            {"path": "/", "httponly": "True", "secure": "True", "samesite": "none"},
            id="pages of other sites",
        ),
        pytest.param(
            {"domain": "shop.example", "path": "/api/auth"},
            {"path": "/api/auth", "httponly": "True", "secure": "True", "samesite": "strict", "domain": "shop.example"},
            {"path": "/", "httponly": "True", "secure": "True", "samesite": "lax", "domain": "shop.example"},
            id="all hosts of a domain",
        ),
        pytest.param(
            {"secure": False, "samesite": "lax"},
            {"path": "/auth", "httponly": "True", "samesite": "lax"},
            {"path": "/", "httponly": "True", "samesite": "lax"},
            id="plain http",
        ),
    ],
)
def test_each_setting_reaches_login_refresh_and_logout(
    settings: dict[str, Any], refresh: dict[str, str], access: dict[str, str]
) -> None:
    cookies = Cookies("all", **settings)
    site = Site(cookies)
    responses = [site.post("login", data=GOOD)]
    value = cookies_of(responses[0])[cookies.refresh_name]["value"]
    line = {"cookie": f"{cookies.refresh_name}={value}"}
    responses += [site.post("refresh", {**OWN, **line}), site.post("logout", {**OWN, **line})]
    for response in responses:
        assert response.status_code == 200
        kept = cookies_of(response)
        assert attributes(kept[cookies.refresh_name]) == refresh
        assert attributes(kept[cookies.access_name]) == access


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        pytest.param({}, ("__Secure-refresh", "__Host-access"), id="defaults"),
        pytest.param({"domain": "shop.example"}, ("__Secure-refresh", "__Secure-access"), id="a domain"),
        pytest.param({"secure": False}, ("refresh", "access"), id="plain http"),
        pytest.param({"refresh_name": "r", "access_name": "a"}, ("r", "a"), id="names of the app's own"),
        pytest.param({"path": "/", "refresh_name": "__Host-r"}, ("__Host-r", "__Host-access"), id="the strictest"),
    ],
)
def test_names_have_the_strictest_prefix_that_browsers_accept(settings: Any, names: tuple[str, str]) -> None:
    cookies = Cookies("all", **settings)
    assert (cookies.refresh_name, cookies.access_name) == names


@pytest.mark.parametrize("settings", [{}, {"refresh_name": "r", "access_name": "a"}, {"secure": False}])
def test_a_page_lives_with_any_names(settings: dict[str, Any]) -> None:
    site = Site(Cookies("all", **settings))
    site.login()
    assert site.browser.get("/me").json() == {"user": "ada"}
    assert site.browser.post("/me", headers=FOREIGN).json()["code"] == "cross_site"
    # Safe methods count from anywhere; others need an origin, and with neither header they never count.
    assert site.browser.get("/me", headers=FOREIGN).json() == {"user": "ada"}
    assert site.browser.post("/me").json()["code"] == "cross_site"
    assert site.post("refresh", SAME_SITE).status_code == 200
    assert site.post("logout").status_code == 200
    assert not site.browser.cookies


def is_sent(response: Any, *, to: str, from_other_site: bool) -> bool:
    """Whether a browser that got ``response`` adds its cookies to a fetch() with POST, of ``to`` over https."""
    kept = cookies_of(response)
    host = "api.other.example"
    return bool(kept) and all(
        (not from_other_site or (cookie["samesite"] == "none" and cookie.get("secure") == "True"))
        and (to == host or to.endswith("." + cookie.get("domain", "-")))
        for cookie in kept.values()
    )


def test_a_page_on_another_site_than_the_api_keeps_its_login() -> None:
    def login(**settings: Any) -> Any:
        sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
        cookies = Cookies("all", origins=[PAGE], **settings)
        routes = auth_routes(sessions, authenticate=lambda name, password: name, cookies=cookies)
        app = CORSMiddleware(Starlette(routes=routes), allow_origins=[PAGE], allow_credentials=True)
        response = TestClient(app, base_url="https://api.other.example").post("/login", data=GOOD, headers=CROSS)
        assert response.status_code == 200
        assert response.headers["access-control-allow-credentials"] == "true"
        return response

    assert is_sent(login(samesite="none"), to="api.other.example", from_other_site=True)
    assert not is_sent(login(), to="api.other.example", from_other_site=True)
    assert is_sent(login(), to="api.other.example", from_other_site=False)
    assert is_sent(login(domain="other.example"), to="www.other.example", from_other_site=False)
    assert not is_sent(login(), to="www.other.example", from_other_site=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"mode": "access"}, "cookies must be 'refresh', 'all' or Cookies", id="another mode"),
        pytest.param({"mode": ["all"]}, "cookies must be 'refresh', 'all' or Cookies", id="a list"),
        pytest.param({"path": "auth"}, "must be a path as browsers write it", id="a path without a slash"),
        pytest.param({"path": "/a;Domain=x"}, "must be a path as browsers write it", id="a path with an attribute"),
        pytest.param({"origins": ["*"]}, "origins entry", id="any origin"),
        pytest.param({"domain": "example"}, "^domain of the cookies must be a host name with a dot", id="no dot"),
        pytest.param({"domain": ".shop.example"}, "^domain", id="a dot before it"),
        pytest.param({"domain": "127.0.0.1"}, "browsers drop cookies of addresses", id="an address"),
        pytest.param({"domain": "https://shop.example"}, "^domain", id="an address with a scheme"),
        pytest.param({"domain": "shop.example; Path=/"}, "^domain", id="an attribute"),
        pytest.param({"domain": 5}, "^domain", id="a number"),
        pytest.param({"samesite": "Strict"}, "^samesite of the cookies must be 'strict', 'lax', 'none'", id="capitals"),
        pytest.param({"samesite": True}, "^samesite of the cookies must", id="a boolean"),
        pytest.param({"secure": 1}, "^secure of the cookies must be True or False", id="a number for a switch"),
        pytest.param({"samesite": "none", "secure": False}, "samesite='none' .* needs secure", id="none over http"),
        pytest.param({"refresh_name": "a b"}, "^refresh_name must be letters", id="a space in a name"),
        pytest.param({"access_name": ""}, "^access_name must be letters", id="an empty name"),
        pytest.param({"access_name": 5}, "^access_name must be letters", id="a number for a name"),
        pytest.param({"access_name": "__Secure-refresh"}, "must differ", id="one name for both"),
        pytest.param({"secure": False, "access_name": "__Host-a"}, "unless it is secure=True", id="__Host- over http"),
        pytest.param({"secure": False, "refresh_name": "__SECURE-r"}, "unless it is secure=True", id="any case"),
        pytest.param({"domain": "a.example", "access_name": "__Host-a"}, "has a domain", id="__Host- with a domain"),
        pytest.param({"path": "/auth", "refresh_name": "__Host-r"}, "another path than '/'", id="__Host- with a path"),
        pytest.param({"refresh_name": "__host-r"}, "another path than '/'", id="__Host- with the path of the mount"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_construction(settings: dict[str, Any], message: str) -> None:
    settings = {"mode": "all", **settings}
    with pytest.raises(ConfigurationError, match=message):
        Cookies(settings.pop("mode"), **settings)


def test_no_text_of_a_wrong_setting_is_shown() -> None:
    for name in ("domain", "samesite", "secure", "access_name", "path"):
        with pytest.raises(ConfigurationError) as info:
            Cookies("all", **{name: "hunter 2"})  # type: ignore[arg-type]  # a text for each
        assert "hunter" not in str(info.value)


@pytest.mark.parametrize("options", [{"cookie_path": "/auth"}, {"origins": [PAGE]}])
def test_settings_are_given_once(options: dict[str, Any]) -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    with pytest.raises(ConfigurationError, match="give them to Cookies"):
        auth_routes(sessions, authenticate=lambda name, password: name, cookies=Cookies("all"), **options)


# What only a request can tell


def advice(url: str, headers: dict[str, str], cookies: Cookies | None = None, times: int = 3) -> list[str]:
    """What the operator is told at the logins of a browser that sends ``headers`` to ``url``."""
    events: list[Event] = []
    site = Site(cookies or Cookies("all"), url=url, on_event=events.append)
    for _ in range(times):
        assert site.post("login", headers, data=GOOD).status_code == 200
    return [str(event) for event in events if isinstance(event, Advice)]


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        pytest.param("http://192.168.1.5:8000", {"origin": "http://192.168.1.5:8000"}, id="an address at home"),
        pytest.param("http://nas.local", {"origin": "http://nas.local"}, id="a host name"),
        pytest.param("http://app.example", {"origin": "http://app.example"}, id="a public name"),
    ],
)
def test_the_log_says_once_that_plain_http_loses_the_cookies(
    url: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    host = url.split("/")[2].split(":")[0]
    assert advice(url, headers) == [
        f"browsers drop the cookies of the login: they are Secure, and {host} was reached over plain http. Use https, "
        "or for development Cookies(..., secure=False)"
    ]
    assert sum(level == logging.WARNING and "plain http" in said for level, said in logged(caplog)) == 1


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        pytest.param("https://app.example", {"origin": "https://app.example"}, id="https"),
        pytest.param("http://localhost:8000", {"origin": "http://localhost:8000"}, id="localhost"),
        pytest.param("http://shop.localhost", {"origin": "http://shop.localhost"}, id="a name below localhost"),
        pytest.param("http://127.0.0.1:8000", {"origin": "http://127.0.0.1:8000"}, id="loopback"),
        pytest.param("http://[::1]:8000", {"origin": "http://[::1]:8000"}, id="loopback by IPv6"),
        pytest.param("http://10.0.0.7:8000", {"sec-fetch-site": "same-origin"}, id="behind a proxy that ends TLS"),
        pytest.param(
            "http://10.0.0.7:8000",
            {"sec-fetch-site": "same-origin", "origin": "http://["},
            id="an Origin that is none",
        ),
    ],
)
def test_it_says_nothing_where_browsers_keep_them(url: str, headers: dict[str, str]) -> None:
    assert advice(url, headers) == []


def test_it_says_nothing_where_they_are_not_secure() -> None:
    home = {"origin": "http://192.168.1.5:8000"}
    assert advice("http://192.168.1.5:8000", home, Cookies("all", secure=False)) == []


def test_it_says_that_a_host_is_not_of_the_domain() -> None:
    settings = Cookies("all", domain="shop.example")
    assert advice("https://api.other.example", {"origin": "https://api.other.example"}, settings) == [
        "browsers drop the cookies of the login: their domain is shop.example, and api.other.example is not one of its "
        "hosts"
    ]
    for host in ("shop.example", "api.shop.example"):
        settings = Cookies("all", domain="shop.example")
        assert advice(f"https://{host}", {"origin": f"https://{host}"}, settings) == []
    # A proxy that rewrites Host: the browser knows which host it asked.
    behind = {"sec-fetch-site": "same-origin", "origin": "https://api.shop.example"}
    assert advice("http://10.0.0.7:8000", behind, Cookies("all", domain="shop.example")) == []


def test_it_says_that_a_page_of_another_site_needs_samesite_none() -> None:
    assert advice("https://api.other.example", CROSS, Cookies("all", origins=[PAGE])) == [
        "browsers drop the cookies of the login: the page at shop.example is another site, which needs "
        "Cookies(..., samesite='none')"
    ]
    settings = Cookies("all", origins=[PAGE], samesite="none")
    assert advice("https://api.other.example", CROSS, settings) == []


def test_it_says_that_a_token_is_too_large_for_a_cookie(caplog: pytest.LogCaptureFixture) -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    for size, is_dropped in ((2_000, False), (3_500, True)):
        grant = anyio.run(partial(sessions.open, "ada", claims={"groups": "x" * size}))
        cookies = Cookies("all", path="/auth")
        caplog.clear()
        for _ in range(2):
            cookies.set_cookies(Response(), grant)
        said = [text for _, text in logged(caplog)]
        assert len(said) == is_dropped
        assert all("__Host-access has" in text and "4096 are allowed" in text for text in said)


# A login of one's own


def test_a_login_of_the_apps_own_sets_the_cookies_on_its_response() -> None:
    tokens = TokenIssuer(SECRET, audience="orders")
    sessions = Sessions(MemoryStore(), tokens, session_lifetime=90 * 86400, idle_lifetime=30 * 86400)
    cookies = Cookies("all", path="/auth")

    async def callback(request: Request) -> Response:
        # After the identity provider has said who it is.
        grant = await sessions.open("ada", scopes=["orders:read"])
        response = RedirectResponse("/", 303)
        cookies.set_cookies(response, grant)
        return response

    async def me(request: Request) -> Response:
        return Response(request.user.identity)

    login = auth_routes(sessions, authenticate=lambda name, password: None, cookies=cookies)
    app = Starlette(routes=[Route("/callback", callback), Route("/me", me), Mount("/auth", routes=login)])
    protected = JWTMiddleware(
        app,
        providers=tokens.provider(),
        revocations=sessions,
        sources=[bearer_header(), cookie(cookies.access_name)],
        public=["/callback", "/auth/*"],
    )
    browser = TestClient(protected, base_url="https://testserver", follow_redirects=False)
    response = browser.get("/callback")
    assert response.status_code == 303
    assert cookies_of(response)["__Secure-refresh"]["max-age"] == str(30 * 86400)
    assert cookies_of(response)["__Host-access"]["max-age"] == "900"
    assert browser.get("/me").text == "ada"
    assert browser.post("/auth/refresh", headers=OWN).status_code == 200
    assert browser.post("/auth/logout", headers=OWN).status_code == 200
    assert browser.get("/me").status_code == 401


def test_the_cookie_lasts_as_long_as_its_session() -> None:
    # "Remember me", and its opposite: open(..., lifetime=).
    tokens = TokenIssuer(SECRET, audience="orders")
    sessions = Sessions(MemoryStore(), tokens, idle_lifetime=30 * 86400, session_lifetime=90 * 86400)
    cookies = Cookies("refresh", path="/auth")
    for lifetime, idle in ((None, 30 * 86400), (60 * 86400, 30 * 86400), (86400, 86400)):
        grant = anyio.run(partial(sessions.open, "ada", lifetime=lifetime))
        response = Response()
        cookies.set_cookies(response, grant)
        kept = cookies_of(TestClientResponse(response))["__Secure-refresh"]
        assert idle - 2 <= int(kept["max-age"]) <= idle
        again = Response()
        cookies.set_cookies(again, anyio.run(sessions.refresh, grant.refresh_token))
        kept = cookies_of(TestClientResponse(again))["__Secure-refresh"]
        assert idle - 10 <= int(kept["max-age"]) <= idle


def test_the_refresh_cookie_alone_can_be_set_too() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    grant = anyio.run(sessions.open, "ada")
    response = Response()
    Cookies("refresh", path="/auth").set_cookies(response, grant)
    assert set(cookies_of(TestClientResponse(response))) == {"__Secure-refresh"}


class TestClientResponse:
    """A response that was never sent, with the headers of one that was received."""

    __test__ = False

    def __init__(self, response: Response) -> None:
        self.headers = self
        self._response = response

    def get_list(self, name: str) -> list[str]:
        return self._response.headers.getlist(name)


def test_a_login_of_the_apps_own_needs_the_path_of_refresh_and_logout() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    grant = anyio.run(sessions.open, "ada")
    with pytest.raises(ConfigurationError, match=r"set_cookies\(\) needs Cookies\(\.\.\., path='/auth'\)"):
        Cookies("all").set_cookies(Response(), grant)
