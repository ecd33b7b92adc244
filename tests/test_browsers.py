"""Tokens as browsers can send them, through the whole middleware: cookies, subprotocols, functions."""

from typing import Any

import pytest
from httpx2 import Headers
from starlette.responses import JSONResponse
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from jwt_middleware import ConfigurationError, JWTMiddleware, bearer_header, cookie, subprotocol
from jwt_middleware.errors import MalformedToken

from .support import NOW, SECRET, bearer, client, http, sent, token, websocket

FORGED = token("another secret of thirty-two bytes")
OWN = {"origin": "http://testserver"}
FOREIGN = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}


def with_cookie(raw: str, **headers: str) -> dict[str, str]:
    return {"cookie": f"access={raw}", **headers}


def browser(app: Any = None, *, backend: str = "asyncio", **options: Any) -> TestClient:
    """A client of an app that takes tokens from header, subprotocol ``bearer`` and cookie ``access``."""
    sources = [bearer_header(), subprotocol("bearer"), cookie("access")]
    return client(app or protocols, backend=backend, **{"sources": sources, **options})


async def protocols(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the user and what it sees of subprotocols; on accept it chooses what the query says."""
    lines = [value.decode() for name, value in scope["headers"] if name == b"sec-websocket-protocol"]
    seen = {"user": scope["user"].identity, "offered": scope.get("subprotocols"), "lines": lines}
    if scope["type"] == "http":
        await JSONResponse(seen)(scope, receive, send)
        return
    connection = WebSocket(scope, receive, send)
    await connection.accept(subprotocol=scope["query_string"].decode() or None)
    await connection.send_json(seen)
    await connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(bearer(token()), id="header"),
        pytest.param(with_cookie(token()), id="cookie"),
        pytest.param(with_cookie(FORGED, **bearer(token())), id="header beside a bad cookie"),
        pytest.param(with_cookie("x; access=y", **bearer(token())), id="header beside doubled cookies"),
    ],
)
def test_a_request_is_let_in_by_any_of_its_sources(headers: dict[str, str], backend: str) -> None:
    assert browser(backend=backend).get("/", headers=headers).json()["user"] == "ada"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({}, 401, "missing_token", id="nothing"),
        pytest.param(with_cookie(FORGED), 401, "bad_signature", id="a bad cookie"),
        pytest.param(with_cookie(token(exp=1)), 401, "expired", id="a stale cookie"),
        pytest.param(with_cookie(f"{token()}; access={token()}"), 400, "ambiguous_token", id="doubled cookies"),
        pytest.param(with_cookie("x" * 17_000), 400, "token_too_large", id="a large cookie"),
        pytest.param(with_cookie(token(), **bearer(FORGED)), 401, "bad_signature", id="a bad header beside a cookie"),
        pytest.param({"cookie": f"Access={token()}"}, 401, "missing_token", id="another cookie"),
    ],
)
def test_a_request_is_refused(headers: dict[str, str], status: int, code: str) -> None:
    response = browser().get("/", headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_only_the_sources_that_are_named_are_read() -> None:
    assert client().get("/", headers=with_cookie(token())).json()["code"] == "missing_token"
    only_cookie = browser(sources=[cookie("access")])
    assert only_cookie.get("/", headers=bearer(token())).json()["code"] == "missing_token"
    with pytest.raises(WebSocketDenialResponse), client().websocket_connect("/", subprotocols=["bearer", token()]):
        pass


def test_a_function_is_a_source() -> None:
    def from_query(scope: Scope) -> bytes | None:
        if scope["query_string"] == b"odd":
            raise MalformedToken
        return scope["query_string"] or None

    app = browser(sources=[from_query, bearer_header()])
    assert app.get(f"/?{token()}").json()["user"] == "ada"
    assert app.get("/", headers=bearer(token())).json()["user"] == "ada"
    assert app.get(f"/?{token()}", headers=bearer(token())).json()["code"] == "ambiguous_token"
    assert app.get("/?odd").json()["code"] == "malformed_token"
    assert app.get("/").json()["code"] == "missing_token"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        pytest.param({"sec-fetch-site": "same-origin"}, True, id="same-origin"),
        pytest.param(OWN, True, id="its own Origin"),
        pytest.param({"origin": "https://pages.example"}, True, id="a configured Origin"),
        pytest.param({}, False, id="neither header"),
        pytest.param(FOREIGN, False, id="another site"),
        pytest.param({"origin": "null"}, False, id="null"),
        pytest.param({"origin": "http://testserver.evil.example"}, False, id="a look-alike"),
        pytest.param({"sec-fetch-site": "same-site"}, False, id="a sibling"),
    ],
)
def test_an_unsafe_request_is_a_cookies_only_from_where_it_may_come(
    method: str, headers: dict[str, str], is_let_in: bool
) -> None:
    response = browser(origins=["https://pages.example"]).request(method, "/", headers=with_cookie(token(), **headers))
    assert (response.status_code, response.json().get("code")) == ((200, None) if is_let_in else (403, "cross_site"))
    assert "www-authenticate" not in response.headers


def test_a_safe_request_may_come_from_anywhere() -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        assert browser().request(method, "/", headers=with_cookie(token(), **FOREIGN)).status_code == 200


def test_a_token_that_no_browser_sends_by_itself_is_good_from_anywhere() -> None:
    for headers in (bearer(token()), with_cookie("stale", **bearer(token()))):
        assert browser().post("/", headers={**headers, **FOREIGN}).json()["user"] == "ada"


def test_another_sites_request_is_refused_where_no_token_is_required_and_anonymous_on_a_public_path() -> None:
    headers = with_cookie(token(), **FOREIGN)
    assert browser(allow_anonymous=True).post("/", headers=headers).json()["code"] == "cross_site"
    assert browser(public=["/"]).post("/", headers=headers).json()["user"] == ""
    assert browser(public=["/"]).post("/", headers=with_cookie(token(), **OWN)).json()["user"] == "ada"


def test_a_stale_cookie_does_not_lock_out_of_a_public_path() -> None:
    for stale in (token(exp=1), FORGED, "", "x; access=y", "x" * 17_000):
        for method in ("GET", "POST"):
            assert browser(public=["/auth/*"]).request(method, "/auth/login", headers=with_cookie(stale)).is_success


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        pytest.param(OWN, True, id="its own Origin"),
        pytest.param({"origin": "https://pages.example"}, True, id="a configured Origin"),
        pytest.param({}, False, id="no Origin"),
        pytest.param(FOREIGN, False, id="another site"),
        pytest.param({"origin": "null"}, False, id="null"),
        pytest.param({"origin": "https://testserver"}, False, id="another scheme"),
        pytest.param({"origin": "ws://testserver"}, False, id="the scheme of the WebSocket"),
    ],
)
def test_every_websocket_is_a_cookies_only_from_where_it_may_come(headers: dict[str, str], is_let_in: bool) -> None:
    app = browser(origins=["https://pages.example"])
    app.headers = Headers(with_cookie(token(), **headers))
    if is_let_in:
        with app.websocket_connect("/") as connection:
            assert connection.receive_json()["user"] == "ada"
    else:
        with pytest.raises(WebSocketDenialResponse) as denied, app.websocket_connect("/"):
            pass
        assert (denied.value.status_code, denied.value.json()["code"]) == (403, "cross_site")


@pytest.mark.anyio
async def test_another_sites_websocket_is_closed_where_the_server_cannot_deny() -> None:
    app = JWTMiddleware(protocols, key=SECRET, audience="orders", sources=[cookie("access")])
    scope = websocket(headers=[(b"cookie", f"access={token()}".encode()), (b"origin", b"https://evil.example")])
    assert await sent(app, scope) == [{"type": "websocket.close", "code": 3003, "reason": "cross_site"}]


@pytest.mark.parametrize(
    ("offered", "chosen", "accepted", "seen"),
    [
        pytest.param(["bearer", token()], "", "bearer", [], id="the token alone"),
        pytest.param(["v2", "bearer", token(), "v1"], "", "bearer", ["v2", "v1"], id="the app chooses none"),
        pytest.param(["v2", "bearer", token(), "v1"], "v1", "v1", ["v2", "v1"], id="the app chooses one"),
        pytest.param(["bearer", token(), "v1"], "v3", "bearer", ["v1"], id="one that the client does not know"),
    ],
)
def test_a_subprotocol_brings_a_token_that_the_app_does_not_see(
    offered: list[str], chosen: str, accepted: str, seen: list[str], backend: str
) -> None:
    app = browser(backend=backend)
    with app.websocket_connect(f"/?{chosen}", subprotocols=offered) as connection:
        assert connection.accepted_subprotocol == accepted
        lines = [", ".join(seen)] if seen else []
        assert connection.receive_json() == {"user": "ada", "offered": seen, "lines": lines}


def test_without_a_token_the_subprotocols_are_the_apps() -> None:
    app = browser(allow_anonymous=True)
    for offered, chosen, accepted in ((["v2", "v1"], "v1", "v1"), (["v1"], "", None)):
        with app.websocket_connect(f"/?{chosen}", subprotocols=offered) as connection:
            assert connection.accepted_subprotocol == accepted
            assert connection.receive_json() == {"user": "", "offered": offered, "lines": [", ".join(offered)]}


@pytest.mark.parametrize(
    "offered",
    [
        pytest.param(["bearer", FORGED], id="bad"),
        pytest.param(["bearer"], id="none"),
        pytest.param(["bearer", token(), "bearer", token()], id="two"),
    ],
)
def test_a_bad_token_is_taken_out_on_a_public_path_too(offered: list[str]) -> None:
    app = browser(public=["/"])
    with app.websocket_connect("/", subprotocols=offered) as connection:
        assert connection.accepted_subprotocol == "bearer"
        assert connection.receive_json() == {"user": "", "offered": [], "lines": []}


@pytest.mark.parametrize(
    ("offered", "headers", "code"),
    [
        pytest.param(["bearer"], {}, "malformed_token", id="nothing follows"),
        pytest.param([token(), "bearer"], {}, "malformed_token", id="the wrong way round"),
        pytest.param(["bearer", "v1", token()], {}, "malformed_token", id="something between"),
        pytest.param(["bearer", ""], {}, "malformed_token", id="an empty token"),
        pytest.param(["bearer", token(), "bearer", token()], {}, "ambiguous_token", id="two"),
        pytest.param(["bearer", token()], bearer(token()), "ambiguous_token", id="beside a header"),
        pytest.param(["bearer", FORGED], with_cookie(token(), **OWN), "bad_signature", id="beside a good cookie"),
        pytest.param(["Bearer", token()], {}, "missing_token", id="another case"),
    ],
)
def test_a_handshake_with_an_odd_list_of_subprotocols_is_refused(
    offered: list[str], headers: dict[str, str], code: str
) -> None:
    app = browser()
    app.headers = Headers(headers)
    with pytest.raises(WebSocketDenialResponse) as denied, app.websocket_connect("/", subprotocols=offered):
        pass
    assert denied.value.json()["code"] == code


@pytest.mark.anyio
async def test_headers_that_can_be_read_once_are_there_for_every_source() -> None:
    sources = [bearer_header(), cookie("access")]
    app = JWTMiddleware(protocols, key=SECRET, audience="orders", sources=sources, clock=lambda: NOW)
    scope = http(headers=[(b"cookie", f"access={token()}".encode())])
    scope["headers"] = iter(scope["headers"])
    start, _ = await sent(app, scope)
    assert start["status"] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"sources": []}, "sources must name at least one source", id="no sources"),
        pytest.param({"origins": ["*"]}, "origins entry", id="any origin"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        browser(**options)
