"""auth_routes() for pages in browsers: tokens that cookies keep."""

from http.cookies import SimpleCookie
from typing import Any

import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import Message

from jwt_middleware import ConfigurationError, JWTMiddleware, bearer_header, cookie
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.events import Event, RequestRefused
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer, auth_routes

from ..support import SECRET, bearer, http

GOOD = {"username": "ada", "password": "lovelace"}
OWN = {"origin": "https://testserver"}
SAME_SITE = {"sec-fetch-site": "same-origin"}
FOREIGN = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}


class Away(MemoryStore):
    """A store that can be away."""

    is_away = False
    revoked = 0

    async def revoke(self, *arguments: Any, **options: Any) -> Any:
        self.revoked += 1
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().revoke(*arguments, **options)


class Site:
    """An app with its own login, behind the middleware, and a browser that is on one of its pages."""

    def __init__(
        self,
        cookies: Any = "refresh",
        *,
        backend: str = "asyncio",
        at: str = "/auth",
        proxy: str = "",
        url: str = "https://testserver",
        **options: Any,
    ) -> None:
        self.store = Away()
        self.sessions = Sessions(self.store, TokenIssuer(SECRET, audience="orders"))
        routes = auth_routes(
            self.sessions,
            authenticate=lambda name, password: name if password == "lovelace" else None,
            cookies=cookies,
            **options,
        )
        app = Starlette(routes=[Mount(at, routes=routes), Route("/me", me, methods=["GET", "POST"])])
        protected = JWTMiddleware(
            app,
            providers=self.sessions.tokens.provider(),
            revocations=self.sessions,
            sources=[bearer_header(), cookie(getattr(cookies, "access_name", "__Host-access"))],
            public=[f"{at}/*"],
        )
        self.at = proxy + at
        self.browser = TestClient(
            protected,
            base_url=url,
            backend=backend,  # type: ignore[arg-type]  # a str for a Literal
            root_path=proxy,
        )

    def post(self, name: str, headers: Any = OWN, **options: Any) -> Any:
        return self.browser.post(f"{self.at}/{name}", headers=headers, **options)

    def login(self) -> Any:
        response = self.post("login", data=GOOD)
        assert response.status_code == 200
        return response


async def me(request: Request) -> Response:
    return JSONResponse({"user": request.user.identity})


def cookies_of(response: Any) -> dict[str, dict[str, str]]:
    """The cookies that ``response`` sets, each with its attributes and its value."""
    read = {}
    for line in response.headers.get_list("set-cookie"):
        for name, morsel in SimpleCookie(line).items():
            read[name] = {key: str(value) for key, value in morsel.items() if value} | {"value": morsel.value}
    return read


def test_the_refresh_token_is_kept_in_a_cookie_and_goes_to_no_page(backend: str) -> None:
    response = Site(backend=backend).login()
    assert set(response.json()) == {"access_token", "token_type", "expires_in"}
    (name, kept), *others = cookies_of(response).items()
    assert (name, others) == ("__Secure-refresh", [])
    value = kept.pop("value")
    assert value.count(".") == 2
    assert value not in response.text
    assert kept == {
        "path": "/auth",
        "max-age": str(14 * 24 * 3600),
        "httponly": "True",
        "secure": "True",
        "samesite": "strict",
    }
    assert response.headers["cache-control"] == "no-store"


def test_the_access_token_is_in_a_cookie_as_well_where_all_tokens_are(backend: str) -> None:
    site = Site("all", backend=backend)
    response = site.login()
    assert response.json() == {"token_type": "bearer", "expires_in": 900}
    kept = cookies_of(response)
    assert set(kept) == {"__Secure-refresh", "__Host-access"}
    access = kept["__Host-access"]
    assert access.pop("value").count(".") == 2
    # RFC 6265bis 4.1.3.2: __Host- demands Secure, the path / and no domain.
    assert access == {"path": "/", "max-age": "900", "httponly": "True", "secure": "True", "samesite": "lax"}
    assert site.browser.get("/me").json() == {"user": "ada"}
    assert site.browser.post("/me", headers=SAME_SITE).json() == {"user": "ada"}
    assert site.browser.post("/me", headers=FOREIGN).json()["code"] == "cross_site"


def test_refresh_takes_the_cookie_and_replaces_it(backend: str) -> None:
    site = Site(backend=backend)
    login = site.login()
    before = cookies_of(login)["__Secure-refresh"]["value"]
    response = site.post("refresh")
    assert response.status_code == 200
    assert set(response.json()) == {"access_token", "token_type", "expires_in"}
    assert cookies_of(response)["__Secure-refresh"]["value"] != before
    assert session(response.json()["access_token"]) == session(login.json()["access_token"])
    assert site.browser.get("/me", headers=bearer(response.json()["access_token"])).json() == {"user": "ada"}


def session(raw: str) -> str:
    read: str = jwt.decode(raw, options={"verify_signature": False})["sid"]
    return read


def test_where_all_are_kept_the_page_stays_logged_in_without_a_token_of_its_own() -> None:
    site = Site("all")
    site.login()
    assert site.post("refresh", SAME_SITE).json() == {"token_type": "bearer", "expires_in": 900}
    assert site.browser.get("/me").json() == {"user": "ada"}


def test_a_refresh_token_in_the_body_beats_the_cookie() -> None:
    site, other = Site(), Site(None)
    other.sessions = site.sessions
    site.login()
    grant = Site(None).post("login", data=GOOD).json()
    # Of another store: it is read, and not good here.
    assert site.post("refresh", data={"refresh_token": grant["refresh_token"]}).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("mode", ["refresh", "all"])
def test_logout_needs_no_parameters_ends_the_session_and_clears_the_cookies(mode: str, backend: str) -> None:
    site = Site(mode, backend=backend)
    login = site.login()
    raw = cookies_of(login).get("__Host-access", {}).get("value") or login.json()["access_token"]
    response = site.post("logout")
    assert (response.status_code, response.json()) == (200, {})
    cleared = cookies_of(response)
    assert set(cleared) == ({"__Secure-refresh"} if mode == "refresh" else {"__Secure-refresh", "__Host-access"})
    for name, kept in cleared.items():
        assert (kept["value"], kept["max-age"]) == ("", "0")
        assert kept["path"] == cookies_of(login)[name]["path"]
    assert not site.browser.cookies
    assert site.browser.get("/me", headers=bearer(raw)).json()["code"] == "revoked"
    assert site.post("refresh").json()["error"] == "invalid_grant"


def test_logout_clears_the_cookies_where_the_store_cannot_end_the_session() -> None:
    site = Site("all")
    site.login()
    site.store.is_away = True
    response = site.post("logout")
    assert (response.status_code, response.json()) == (
        503,
        {
            "error": "temporarily_unavailable",
            "error_description": "The cookies are cleared, but the session could not be ended and may live on.",
        },
    )
    assert set(cookies_of(response)) == {"__Secure-refresh", "__Host-access"}
    assert not site.browser.cookies


@pytest.mark.parametrize("mode", ["refresh", "all"])
@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        pytest.param(b"bye", "text/plain;charset=UTF-8", id="a text, as fetch() sends it"),
        pytest.param(b"{", "application/json", id="broken JSON"),
        pytest.param(b"token=%ff", "application/x-www-form-urlencoded", id="no UTF-8"),
        pytest.param(b"token=a&token=b", "application/x-www-form-urlencoded", id="two tokens"),
        pytest.param(b"x" * 17_000, "application/json", id="a large body"),
    ],
)
def test_logout_ends_the_session_whatever_the_body(mode: str, content: bytes, content_type: str) -> None:
    site = Site(mode)
    login = site.login()
    raw = cookies_of(login).get("__Host-access", {}).get("value") or login.json()["access_token"]
    response = site.post("logout", {**OWN, "content-type": content_type}, content=content)
    assert (response.status_code, response.json()) == (200, {})
    assert not site.browser.cookies
    assert site.browser.get("/me", headers=bearer(raw)).json()["code"] == "revoked"


@pytest.mark.anyio
async def test_logout_ends_the_session_though_its_client_leaves_in_the_middle_of_the_body() -> None:
    site = Site("all")
    kept = cookies_of(site.login())["__Secure-refresh"]["value"]
    messages: list[Message] = []
    coming: list[Message] = [
        {"type": "http.request", "body": b"token=", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return coming.pop(0)

    async def send(message: Message) -> None:
        messages.append(message)

    lines = [(b"cookie", f"__Secure-refresh={kept}".encode()), (b"origin", b"http://testserver")]
    headers = [(b"host", b"testserver"), (b"content-type", b"application/x-www-form-urlencoded"), *lines]
    await site.browser.app(http("/auth/logout", method="POST", headers=headers), receive, send)
    assert messages[0]["status"] == 200
    assert await site.sessions.list("ada") == ()


def test_logout_looks_at_a_bounded_number_of_cookies_and_at_each_once() -> None:
    site = Site("all")
    kept = cookies_of(site.login())["__Secure-refresh"]["value"]
    site.browser.cookies.clear()
    line = f"__Secure-refresh={kept}; " * 500 + "; ".join(f"__Secure-refresh={number}" for number in range(500))
    assert site.post("logout", {**OWN, "cookie": line}).status_code == 200
    assert site.store.revoked == 1


def test_a_logout_without_a_session_ends_none() -> None:
    assert Site("all").post("logout").status_code == 200


def test_logout_ends_the_session_of_the_access_token_where_the_other_cookie_is_gone_or_stale() -> None:
    for stale in ("", "__Secure-refresh=a.b.c; "):
        site = Site("all")
        raw = cookies_of(site.login())["__Host-access"]["value"]
        site.browser.cookies.clear()
        assert site.post("logout", {**OWN, "cookie": f"{stale}__Host-access={raw}"}).status_code == 200
        assert site.browser.get("/me", headers=bearer(raw)).json()["code"] == "revoked"


def test_logout_takes_a_token_that_the_page_sends_as_well() -> None:
    site = Site()
    raw = site.login().json()["access_token"]
    site.browser.cookies.clear()
    assert site.post("logout", {**OWN, **bearer(raw)}).status_code == 200
    assert site.browser.get("/me", headers=bearer(raw)).json()["code"] == "revoked"
    raw = site.login().json()["access_token"]
    assert site.post("logout", data={"token": raw}).status_code == 200
    assert site.browser.get("/me", headers=bearer(raw)).json()["code"] == "revoked"


@pytest.mark.parametrize(
    ("cookies", "data"),
    [
        pytest.param("__Secure-refresh={kept}", {"token": "garbage"}, id="beside a token that is none"),
        pytest.param("__Secure-refresh={kept}; __Secure-refresh=planted", {}, id="before one of another host"),
        pytest.param("__Secure-refresh=planted; __Secure-refresh={kept}", {}, id="behind one of another host"),
    ],
)
def test_logout_ends_the_session_of_the_cookie_whatever_else_comes(cookies: str, data: dict[str, str]) -> None:
    site = Site()
    login = site.login()
    kept = cookies_of(login)["__Secure-refresh"]["value"]
    site.browser.cookies.clear()
    assert site.post("logout", {**OWN, "cookie": cookies.format(kept=kept)}, data=data).status_code == 200
    assert site.browser.get("/me", headers=bearer(login.json()["access_token"])).json()["code"] == "revoked"


@pytest.mark.parametrize("name", ["login", "refresh", "logout"])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="neither header"),
        pytest.param(FOREIGN, id="another site"),
        pytest.param({"origin": "null"}, id="null"),
        pytest.param({"origin": "https://testserver.evil.example"}, id="a look-alike"),
        pytest.param({"origin": "http://testserver"}, id="another scheme"),
        pytest.param({"sec-fetch-site": "same-site"}, id="a sibling"),
        pytest.param({"sec-fetch-site": "none"}, id="the address bar"),
    ],
)
def test_another_sites_page_can_neither_log_in_nor_refresh_nor_log_out(name: str, headers: dict[str, str]) -> None:
    site = Site("all")
    site.login()
    response = site.post(name, headers, data=GOOD)
    assert (response.status_code, response.json()["code"]) == (403, "cross_site")
    assert "set-cookie" not in response.headers
    assert "www-authenticate" not in response.headers
    assert site.browser.get("/me").json() == {"user": "ada"}


@pytest.mark.parametrize("name", ["login", "refresh", "logout"])
def test_an_operator_is_told_from_where_a_page_of_another_site_came(name: str) -> None:
    heard: list[Event] = []
    site = Site("all", origins=["https://pages.example"], on_event=heard.append)
    site.post(name, FOREIGN, data=GOOD)
    (event,) = heard
    assert isinstance(event, RequestRefused)
    assert (event.code, event.path) == ("cross_site", f"/auth/{name}")
    assert event.expected == "https://pages.example, https://testserver"
    assert event.found == "Origin https://evil.example, Sec-Fetch-Site cross-site"


@pytest.mark.parametrize("headers", [OWN, SAME_SITE, {"origin": "https://pages.example"}], ids=str)
def test_a_page_of_its_own_or_of_a_configured_origin_can(headers: dict[str, str]) -> None:
    site = Site("all", origins=["https://pages.example"])
    for name in ("login", "refresh", "logout"):
        assert site.post(name, headers, data=GOOD).status_code == 200


def test_without_cookies_clients_that_are_no_browsers_need_no_origin() -> None:
    site = Site(None)
    login = site.post("login", {}, data=GOOD)
    assert "set-cookie" not in login.headers
    assert "refresh_token" in login.json()
    assert site.post("refresh", {"cookie": f"__Secure-refresh={login.json()['refresh_token']}"}).status_code == 400


@pytest.mark.parametrize(
    "stale",
    [
        pytest.param("__Secure-refresh=a.b.c; __Host-access=a.b.c", id="nonsense"),
        pytest.param("__Secure-refresh=; __Host-access=", id="empty"),
        pytest.param("__Secure-refresh=a; __Secure-refresh=b; __Host-access=a; __Host-access=b", id="doubled"),
        pytest.param(f"__Secure-refresh={'x' * 17_000}; __Host-access={'x' * 17_000}", id="large"),
        pytest.param("__Secure-refresh=\u00e9; __Host-access=\u00e9", id="not ASCII"),
    ],
)
def test_a_stale_cookie_does_not_prevent_login_and_logout(stale: str) -> None:
    site = Site("all")
    headers = [(b"cookie", stale.encode("latin-1")), (b"origin", b"https://testserver")]
    assert site.post("login", headers, data=GOOD).status_code == 200
    site.browser.cookies.clear()
    refreshed = site.post("refresh", headers)
    assert refreshed.status_code in (400, 401)
    logout = site.post("logout", headers)
    assert set(cookies_of(logout)) == {"__Secure-refresh", "__Host-access"}


def test_a_stale_access_cookie_does_not_lock_out_of_refresh() -> None:
    site = Site("all")
    kept = cookies_of(site.login())["__Secure-refresh"]["value"]
    site.browser.cookies.clear()
    response = site.post("refresh", {**OWN, "cookie": f"__Secure-refresh={kept}; __Host-access=stale"})
    assert response.status_code == 200


def test_a_doubled_refresh_cookie_is_not_guessed_at() -> None:
    site = Site()
    kept = cookies_of(site.login())["__Secure-refresh"]["value"]
    site.browser.cookies.clear()
    response = site.post("refresh", {**OWN, "cookie": f"__Secure-refresh={kept}; __Secure-refresh=planted"})
    assert (response.status_code, response.json()["code"]) == (400, "ambiguous_token")


@pytest.mark.parametrize(
    ("place", "path"),
    [
        pytest.param({}, "/auth", id="the mount"),
        pytest.param({"at": "/api/v1/auth"}, "/api/v1/auth", id="a deeper mount"),
        pytest.param({"proxy": "/proxy"}, "/proxy/auth", id="below the root path"),
        pytest.param({"cookie_path": "/public/auth"}, "/public/auth", id="as it is told"),
        pytest.param({"cookie_path": "/"}, "/", id="everywhere, as it is told"),
    ],
)
def test_the_refresh_cookie_is_for_the_path_of_the_routes(place: dict[str, Any], path: str) -> None:
    assert cookies_of(Site(**place).login())["__Secure-refresh"]["path"] == path


def test_the_path_of_a_request_cannot_add_to_the_cookie() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    routes = auth_routes(sessions, authenticate=lambda name, password: name, cookies="refresh")
    browser = TestClient(Starlette(routes=[Mount("/{tenant}/auth", routes=routes)]), base_url="https://testserver")
    response = browser.post("/a; Domain=example%00\u00e9/auth/login", headers=OWN, data=GOOD)
    kept = cookies_of(response)["__Secure-refresh"]
    assert kept["path"] == "/a%3B%20Domain=example%00%C3%A9/auth"
    assert "domain" not in kept


def test_routes_that_are_not_mounted_keep_it_for_everything() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    app = Starlette(routes=auth_routes(sessions, authenticate=lambda name, password: name, cookies="refresh"))
    response = TestClient(app, base_url="https://testserver").post("/login", headers=OWN, data=GOOD)
    assert cookies_of(response)["__Secure-refresh"]["path"] == "/"


def test_a_wrong_password_sets_no_cookie() -> None:
    response = Site("all").post("login", data={**GOOD, "password": "wrong"})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")
    assert "set-cookie" not in response.headers


def test_a_refusal_is_answered_as_the_app_wants() -> None:
    site = Site(refusal_response=lambda connection, refusal: JSONResponse(refusal.code, 418))
    assert site.post("login", FOREIGN, data=GOOD).status_code == 418


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"cookies": True}, "cookies must be 'refresh', 'all' or Cookies", id="another mode"),
        pytest.param({"cookies": "all", "cookie_path": "auth"}, "cookie_path, .* must be a path", id="no slash"),
        pytest.param(
            {"cookies": "all", "cookie_path": "/a;Domain=x"},
            "cookie_path, .* must be a path",
            id="an attribute",
        ),
        pytest.param({"cookies": "all", "cookie_path": 5}, "cookie_path, .* must be a path", id="no text"),
        pytest.param({"cookies": "all", "origins": ["*"]}, "origins entry", id="any origin"),
        pytest.param({"cookie_path": "/auth"}, "are for cookies=", id="a path without cookies"),
        pytest.param({"origins": ["https://pages.example"]}, "are for cookies=", id="origins without cookies"),
    ],
)
def test_cookies_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    with pytest.raises(ConfigurationError, match=message):
        auth_routes(sessions, authenticate=lambda name, password: name, **options)


def test_without_sessions_there_is_nothing_to_keep() -> None:
    with pytest.raises(ConfigurationError, match="cookies: without Sessions"):
        auth_routes(TokenIssuer(SECRET, audience="orders"), authenticate=lambda name, password: name, cookies="all")
