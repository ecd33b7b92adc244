import gc
import json
import logging
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from httpx2 import Headers
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jwt_middleware import (
    ConfigurationError,
    JWTCredentials,
    JWTMiddleware,
    JWTUser,
    Provider,
    Refusal,
    RemoteKeys,
    Token,
    bearer_header,
    cookie,
)
from jwt_middleware.errors import (
    MissingToken,
)
from jwt_middleware.provider import ProviderOptions

from .support import (
    NOW,
    SECRET,
    bare_client,
    bearer,
    claims,
    client,
    echo,
    http,
    provider,
    sent,
    signed,
    token,
    websocket,
)
from .support.logs import records
from .support.refusals import ANSWERS, ISSUER, REFUSED, raising, refusing, unreachable

OPTIONS: dict[str, Any] = {"key": SECRET, "audience": "orders", "clock": lambda: NOW}


def test_every_code_is_reached_below() -> None:
    assert REFUSED.keys() == ANSWERS.keys()


@pytest.mark.parametrize("code", REFUSED)
def test_a_request_is_refused(code: str, backend: str) -> None:
    app, lines = refusing(code)
    answer = ANSWERS[code]
    response = bare_client(app, backend=backend).get("/", headers=[(b"authorization", line) for line in lines])
    assert response.status_code == answer.status
    assert response.json() == {"error": answer.error, "error_description": answer.description, "code": code}
    said = {name: response.headers[name] for name in ("www-authenticate", "retry-after") if name in response.headers}
    assert said == answer.headers


@pytest.mark.parametrize("code", REFUSED)
def test_a_websocket_is_denied(code: str, backend: str) -> None:
    app, lines = refusing(code)
    answer = ANSWERS[code]
    denying = bare_client(app, backend=backend)
    denying.headers = Headers([(b"authorization", line) for line in lines])
    with pytest.raises(WebSocketDenialResponse) as denied, denying.websocket_connect("/"):
        pass
    assert denied.value.status_code == answer.status
    assert denied.value.json()["code"] == code
    assert answer.headers.items() <= dict(denied.value.headers).items()


@pytest.mark.anyio
@pytest.mark.parametrize("code", REFUSED)
async def test_a_websocket_is_closed_before_accept_where_the_server_cannot_deny(code: str) -> None:
    app, lines = refusing(code)
    (message,) = await sent(app, websocket("/", *lines))
    assert (message["type"], message["reason"]) == ("websocket.close", code)


@pytest.mark.anyio
@pytest.mark.parametrize("code", REFUSED)
async def test_a_head_request_is_refused_without_content(code: str) -> None:
    app, lines = refusing(code)
    start, body = await sent(app, http("/", *lines, method="HEAD"))
    assert (start["status"], body["body"]) == (ANSWERS[code].status, b"")
    assert dict(start["headers"])[b"content-length"] != b"0"


@pytest.mark.parametrize("raised", ["missing_token", "bad_signature"])
def test_the_realm_is_the_apps(raised: str) -> None:
    _, lines = REFUSED[raised]
    response = client(realm='", error="none').get("/", headers=[("authorization", line) for line in lines])
    assert response.headers["www-authenticate"].startswith(r'Bearer realm="\", error=\"none"')


def test_a_token_with_quotes_in_its_claims_does_not_reach_the_challenge() -> None:
    hostile = token(header={"kid": '", realm="'}, aud='", error="none', scope='x", y="')
    response = client().get("/", headers=bearer(hostile))
    assert response.headers["www-authenticate"] == ANSWERS["wrong_audience"].headers["www-authenticate"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        pytest.param("Bearer {}", None, id="as RFC 6750 writes it"),
        pytest.param("bearer {}", None, id="lower case"),
        pytest.param("BEARER    {}", None, id="capitals and spaces"),
        pytest.param("Bearer {} ", None, id="a trailing space, which is not part of the value"),
        pytest.param("Bearer\t{}", "malformed_token", id="a tab"),
        pytest.param("Bearer \t{}", "malformed_token", id="a space and a tab"),
        pytest.param("Bearer", "malformed_token", id="no token"),
        pytest.param("Bearer ", "malformed_token", id="a space and no token"),
        pytest.param("Bearer: {}", "malformed_token", id="a colon"),
        pytest.param('Bearer "{}"', "malformed_token", id="quoted"),
        pytest.param("Bearer {}=", "malformed_token", id="padded"),
        pytest.param("Bearer {}\n", "malformed_token", id="a line feed"),
        pytest.param("Bearer \u00e9{}", "malformed_token", id="a byte over 127"),
        pytest.param("Basic {}", "missing_token", id="Basic"),
        pytest.param("Bearerish {}", "missing_token", id="a longer scheme"),
        pytest.param("{}", "missing_token", id="no scheme"),
        pytest.param("", "missing_token", id="nothing"),
    ],
)
@pytest.mark.anyio
async def test_the_authorization_header_is_read_strictly(line: str, code: str | None) -> None:
    app = JWTMiddleware(echo, **OPTIONS)
    start, body = await sent(app, http("/", line.format(token()).encode("latin-1")))
    assert (start["status"], json.loads(body["body"]).get("code")) == (ANSWERS[code].status if code else 200, code)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "line", ["Bearer {0}, Bearer {0}", "Bearer {0},{0}", "Bearer {0} {0}", "Bearer {0}, Basic Og=="]
)
async def test_lines_that_a_proxy_has_joined_are_no_good_token(line: str) -> None:
    start, body = await sent(JWTMiddleware(echo, **OPTIONS), http("/", line.format(token()).encode()))
    assert (start["status"], json.loads(body["body"])["error"]) == (401, "invalid_token")


@pytest.mark.anyio
async def test_a_token_of_a_megabyte_is_refused_before_it_is_looked_at() -> None:
    app = JWTMiddleware(echo, **OPTIONS)
    line = b"Bearer " + b"x" * 1_000_000
    await sent(app, http("/", line))
    tracemalloc.start()
    try:
        _, body = await sent(app, http("/", line))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert json.loads(body["body"])["code"] == "token_too_large"
    assert peak < 500_000, "it was copied"


@pytest.mark.parametrize(("size", "code"), [(0, None), (-1, "token_too_large")], ids=["at the limit", "over it"])
def test_the_size_of_a_token_is_limited(size: int, code: str | None) -> None:
    raw = token()
    response = client(max_token_size=len(raw) + size).get("/", headers=bearer(raw))
    assert response.json().get("code") == code


def test_a_good_token_lets_the_request_pass(backend: str) -> None:
    seen = client(backend=backend).get("/", headers=bearer(token())).json()
    assert seen == {
        "user": "ada",
        "is_authenticated": True,
        "claims": claims(),
        "scopes": ["orders:read", "orders:write"],
        "provider": "jwt",
    }


def test_a_good_token_lets_a_websocket_pass(backend: str) -> None:
    with client(backend=backend).websocket_connect("/", headers=bearer(token())) as connection:
        assert connection.receive_json()["user"] == "ada"


NOBODY = {"user": "", "is_authenticated": False, "claims": {}, "scopes": [], "provider": None}


def test_without_a_token_a_request_is_anonymous_where_that_is_allowed(backend: str) -> None:
    assert client(allow_anonymous=True, backend=backend).get("/").json() == NOBODY
    assert client(allow_anonymous=True).get("/", headers={"authorization": "Basic Og=="}).json() == NOBODY
    with client(allow_anonymous=True, backend=backend).websocket_connect("/") as connection:
        assert connection.receive_json() == NOBODY


def test_a_good_token_is_somebodys_where_none_is_required() -> None:
    assert client(allow_anonymous=True).get("/", headers=bearer(token())).json()["user"] == "ada"


@pytest.mark.anyio
@pytest.mark.parametrize("code", [code for code in REFUSED if code != "missing_token"])
async def test_a_bad_token_is_refused_even_when_none_is_required(code: str) -> None:
    app, lines = refusing(code, echo, allow_anonymous=True)
    start, body = await sent(app, http("/", *lines))
    assert (start["status"], json.loads(body["body"])["code"]) == (ANSWERS[code].status, code)


async def generated(token: Token) -> Any:
    yield False


class Misleading:
    """Revocations that raise what they must not."""

    def is_revoked(self, token: Token) -> bool | None:
        raise MissingToken

    async def catch_up(self) -> None:
        raise MissingToken

    async def stop(self) -> None:
        pass


class Unsure(Misleading):
    def is_revoked(self, token: Token) -> bool | None:
        return None


class NoTokenThatCounts(MissingToken):
    pass


def raise_missing(scope: Scope) -> str | None:
    raise MissingToken


@pytest.mark.anyio
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"load_user": raising(MissingToken())}, id="load_user"),
        pytest.param({"validate": raising(MissingToken())}, id="validate"),
        pytest.param({"validate": raising(NoTokenThatCounts())}, id="validate, with a class of its own"),
        pytest.param({"revocations": Misleading()}, id="is_revoked"),
        pytest.param({"revocations": Unsure()}, id="catch_up"),
        pytest.param({"sources": [bearer_header(), raise_missing]}, id="a source"),
    ],
)
@pytest.mark.parametrize("passing", [{"allow_anonymous": True}, {"allow_preflight": True}], ids=repr)
@pytest.mark.parametrize("make", [http, websocket], ids=["http", "websocket"])
async def test_a_token_that_was_presented_is_not_missing_whatever_a_hook_raises(
    options: dict[str, Any], passing: dict[str, Any], make: Callable[..., Scope]
) -> None:
    app = JWTMiddleware(unreachable, **OPTIONS, **options, **passing)
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    scope = make("/", f"Bearer {token()}".encode())
    if "allow_preflight" in passing and scope["type"] == "http":
        # An Authorization header makes it no preflight. A token from elsewhere does not.
        scope["method"] = "OPTIONS"
        scope["headers"] = [(name.encode(), value.encode()) for name, value in preflight.items()]
        app = JWTMiddleware(unreachable, **{**OPTIONS, "sources": [lambda scope: token()], **options}, **passing)
    messages = await sent(app, scope)
    assert messages[0].get("status", 403) in (401, 403)


@pytest.mark.anyio
@pytest.mark.parametrize("providers", [1, 3])
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("x", id="malformed"),
        pytest.param(token(SECRET[::-1]), id="a bad signature"),
        pytest.param(token(exp=NOW - 100), id="expired"),
    ],
)
async def test_a_bad_token_leaves_nothing_to_the_garbage_collector(raw: str, providers: int) -> None:
    app = JWTMiddleware(unreachable, providers=[provider(name=name) for name in "abc"[:providers]], clock=lambda: NOW)
    assert await left_to_the_garbage_collector(app, [raw] * 51) < 50


@pytest.mark.anyio
async def test_a_good_token_that_another_provider_refuses_leaves_nothing_to_the_garbage_collector() -> None:
    app = JWTMiddleware(echo, providers=[provider(name="a", key=SECRET[::-1]), provider(name="b")], clock=lambda: NOW)
    assert await left_to_the_garbage_collector(app, [token(jti=str(number)) for number in range(51)]) < 50


@pytest.mark.anyio
async def test_a_token_whose_keys_cannot_be_had_leaves_nothing_to_the_garbage_collector() -> None:
    async def fetch(url: str) -> Any:
        raise OSError

    def remote(name: str) -> Provider:
        return Provider(name=name, audience="orders", jwks=RemoteKeys("https://login.example/jwks", fetch=fetch))

    app = JWTMiddleware(unreachable, providers=[remote("a"), remote("b")], clock=lambda: NOW)
    assert await left_to_the_garbage_collector(app, [token(jti=str(number)) for number in range(51)]) < 50


async def left_to_the_garbage_collector(app: JWTMiddleware, raws: list[str]) -> int:
    """How many objects it finds after requests with all ``raws`` but the first."""
    first, *others = raws
    await sent(app, http("/", f"Bearer {first}".encode()))
    gc.collect()
    gc.disable()
    try:
        for raw in others:
            await sent(app, http("/", f"Bearer {raw}".encode()))
        return gc.collect()
    finally:
        gc.enable()


def test_a_public_path_needs_no_token(backend: str) -> None:
    public = client(public=["/health", "/docs/*", "GET /items/*"], backend=backend)
    for path in ("/health", "/docs/", "/docs/a/b", "/items/1"):
        assert public.get(path).json() == NOBODY
    assert public.head("/items/1").status_code == public.options("/items/1").status_code == 200
    with public.websocket_connect("/health") as connection:
        assert connection.receive_json() == NOBODY


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("GET", "/", id="another path"),
        pytest.param("GET", "/healthz", id="a longer name"),
        pytest.param("GET", "/health/", id="a trailing slash"),
        pytest.param("GET", "/docs", id="the prefix without its slash"),
        pytest.param("GET", "/docs%2fa", id="an encoded slash"),
        pytest.param("GET", "/docs/a%2Fb", id="an encoded slash below"),
        pytest.param("GET", "/docs/%2e%2e/admin", id="encoded dots"),
        pytest.param("GET", "/docs/%252e%252e/admin", id="dots encoded twice"),
        pytest.param("GET", "/docs/..%5cadmin", id="an encoded backslash"),
        pytest.param("GET", "/docs//admin", id="two slashes"),
        pytest.param("GET", "/docs/%00", id="NUL"),
        pytest.param("GET", "/health%3f", id="an encoded question mark"),
        pytest.param("GET", "/health%23", id="an encoded hash"),
        pytest.param("GET", "/health%0a", id="an encoded line feed"),
        pytest.param("POST", "/items/1", id="another method"),
    ],
)
def test_what_only_looks_like_a_public_path_needs_a_token(method: str, path: str) -> None:
    public = client(public=["/health", "/docs/*", "GET /items/*"])
    response = public.request(method, path)
    assert (response.status_code, response.json()["code"]) == (401, "missing_token")


def test_a_query_does_not_change_what_is_public() -> None:
    public = client(public=["/health"])
    assert public.get("/health?a=/../b%2f").status_code == 200
    assert public.get("/admin?/health").status_code == 401


def test_a_good_token_attaches_its_user_on_a_public_path() -> None:
    assert client(public=["/"]).get("/", headers=bearer(token())).json()["user"] == "ada"


@pytest.mark.anyio
@pytest.mark.parametrize("code", REFUSED)
async def test_a_bad_token_is_ignored_on_a_public_path(code: str) -> None:
    app, lines = refusing(code, echo, public=["/"])
    start, body = await sent(app, http("/", *lines))
    assert (start["status"], json.loads(body["body"])) == (200, NOBODY)


def test_public_paths_are_those_that_a_router_sees_in_a_mount() -> None:
    inner = JWTMiddleware(echo, public=["/health"], **OPTIONS)
    mounted = bare_client(Starlette(routes=[Mount("/api", inner), Mount("/{tenant}", inner)]))
    assert mounted.get("/api/health").status_code == 200
    assert mounted.get("/blue/health").status_code == 200
    for path in ("/api/healthz", "/api/api/health", "/api//health", "/%2e%2e/health"):
        assert mounted.get(path).status_code == 401


def test_public_paths_lead_into_mounts() -> None:
    app = Starlette(routes=[Mount("/api", routes=[Route("/health", lambda request: PlainTextResponse("up"))])])
    outside = client(app, public=["/api/health"])
    assert outside.get("/api/health").text == "up"
    assert outside.get("/health").status_code == 401


def test_public_paths_are_less_the_root_path_of_a_proxy() -> None:
    proxied = bare_client(JWTMiddleware(echo, public=["/health"], **OPTIONS), root_path="/proxy")
    assert proxied.get("/proxy/health").status_code == 200
    assert proxied.get("/health").status_code == 200
    assert proxied.get("/proxyhealth").status_code == 401


PREFLIGHT = {"origin": "https://app.example", "access-control-request-method": "DELETE"}


def test_a_preflight_needs_a_token_and_the_log_says_once_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    strict = client()
    for _ in range(3):
        assert strict.options("/items/1", headers=PREFLIGHT).json()["code"] == "missing_token"
    (warning,) = caplog.messages
    assert "CORSMiddleware outside JWTMiddleware" in warning
    assert "allow_preflight=True" in warning


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no preflight"),
        pytest.param({**PREFLIGHT, "authorization": "Basic Og=="}, id="with credentials"),
    ],
)
def test_the_log_speaks_of_preflights_only(headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert client().options("/", headers=headers).status_code == 401
    assert "CORS" not in caplog.text


def test_a_preflight_passes_as_anonymous_where_that_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert client(allow_preflight=True).options("/items/1", headers=PREFLIGHT).json() == NOBODY
    assert not caplog.records


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        pytest.param("OPTIONS", {}, id="OPTIONS alone"),
        pytest.param("OPTIONS", {"origin": "https://app.example"}, id="no method asked for"),
        pytest.param("OPTIONS", {"access-control-request-method": "GET"}, id="no origin"),
        pytest.param("OPTIONS", {**PREFLIGHT, "cookie": "session=1"}, id="with a cookie"),
        pytest.param("OPTIONS", {**PREFLIGHT, "authorization": "Basic Og=="}, id="with Basic"),
        pytest.param("OPTIONS", {**PREFLIGHT, "authorization": "Bearer x"}, id="with a bad token"),
        pytest.param("GET", PREFLIGHT, id="GET"),
        pytest.param("POST", PREFLIGHT, id="POST"),
    ],
)
def test_what_only_looks_like_a_preflight_needs_a_token(method: str, headers: dict[str, str]) -> None:
    assert client(allow_preflight=True).request(method, "/items/1", headers=headers).status_code == 401


@dataclass
class User:
    """The app's own user, with what ``echo`` shows of it."""

    identity: str
    thread: int = 0
    is_authenticated: bool = True


def load(token: Token, team: str = "") -> User:
    return User(f"{token.subject}{team}", threading.get_ident())


async def load_async(token: Token, team: str = "") -> User:
    await anyio.lowlevel.checkpoint()
    return load(token, team)


class Loader:
    def __call__(self, token: Token) -> User:
        return load(token)

    def method(self, token: Token) -> User:
        return load(token)


class AsyncLoader:
    async def __call__(self, token: Token) -> User:
        return await load_async(token)


async def who(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the app's own user and whether it was loaded in another thread than the event loop's."""
    user, auth = scope["user"], scope["auth"]
    seen = {"user": user.identity, "elsewhere": user.thread != threading.get_ident(), "subject": auth.token.subject}
    await JSONResponse(seen)(scope, receive, send)


@pytest.mark.parametrize(
    ("load_user", "identity", "elsewhere"),
    [
        pytest.param(load, "ada", True, id="function"),
        pytest.param(partial(load, team="@blue"), "ada@blue", True, id="partial"),
        pytest.param(Loader(), "ada", True, id="object"),
        pytest.param(Loader().method, "ada", True, id="method"),
        pytest.param(lambda token: load(token), "ada", True, id="lambda"),
        pytest.param(load_async, "ada", False, id="async function"),
        pytest.param(partial(load_async, team="@blue"), "ada@blue", False, id="partial of an async function"),
        pytest.param(AsyncLoader(), "ada", False, id="async object"),
        pytest.param(lambda token: load_async(token), "ada", False, id="a lambda that gives a coroutine"),
    ],
)
def test_load_user_gives_the_apps_own_user(load_user: Any, identity: str, elsewhere: bool, backend: str) -> None:
    loading = client(who, load_user=load_user, backend=backend)
    for _ in range(3):  # an event loop each, since the client is not entered
        seen = loading.get("/", headers=bearer(token())).json()
        assert seen == {"user": identity, "elsewhere": elsewhere, "subject": "ada"}


def test_load_user_gets_the_token() -> None:
    seen: list[Token] = []

    def remember(token: Token) -> User:
        seen.append(token)
        return load(token)

    client(load_user=remember).get("/", headers=bearer(token(header={"kid": "k"}, sid="s-1")))
    (loaded,) = seen
    assert (loaded.subject, loaded.provider, loaded.session_id, loaded.expires_at) == ("ada", "jwt", "s-1", NOW + 900)
    assert loaded.header["kid"] == "k"


@pytest.mark.parametrize("user", [0, "", [], {}], ids=repr)
def test_only_none_and_false_are_no_user(user: Any) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"user": scope["user"]})(scope, receive, send)

    assert client(app, load_user=lambda token: user).get("/", headers=bearer(token())).json() == {"user": user}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_load_user_may_refuse_as_it_likes(is_async: bool) -> None:
    class Suspended(Refusal):
        code = "suspended"
        status = 403
        description = "The account is suspended."

    def refuse(token: Token) -> Any:
        raise Suspended

    response = client(load_user=raising(Suspended()) if is_async else refuse).get("/", headers=bearer(token()))
    assert (response.status_code, response.json()["code"]) == (403, "suspended")


@pytest.mark.parametrize("options", [{}, {"public": ["/"]}, {"allow_anonymous": True}], ids=repr)
def test_what_load_user_raises_by_mistake_gets_through(options: dict[str, Any], backend: str) -> None:
    broken = client(load_user=raising(LookupError("database")), backend=backend, **options)
    with pytest.raises(LookupError, match="database"):
        broken.get("/", headers=bearer(token()))


def test_load_user_is_not_asked_about_a_bad_token() -> None:
    asked: list[Token] = []
    client(load_user=asked.append, public=["/"]).get("/", headers=bearer(token(exp=NOW - 60)))
    assert not asked


def told(**options: Any) -> tuple[TestClient, list[Refusal]]:
    """A client, and what ``refusal_response`` is told."""
    refusals: list[Refusal] = []

    def remember(connection: HTTPConnection, refusal: Refusal) -> Response:
        refusals.append(refusal)
        return PlainTextResponse(refusal.code, refusal.status)

    return client(refusal_response=remember, **options), refusals


@pytest.mark.parametrize(
    ("options", "raw", "expected"),
    [
        pytest.param({}, "x", (None, None, None, None), id="not parsed"),
        pytest.param({}, token("x" * 32, header={"kid": "k"}), ("jwt", "k", None, None), id="not verified"),
        pytest.param(
            {}, token(header={"kid": "k"}, exp=NOW - 60), ("jwt", "k", "ada", "exp"), id="verified, and expired"
        ),
        pytest.param({"name": "staff"}, token(aud="x"), ("staff", None, "ada", "aud"), id="another audience"),
        pytest.param(
            {"required_claims": ["email"]}, token(), ("jwt", None, "ada", "email"), id="a claim of the app's is missing"
        ),
        pytest.param(
            {"load_user": lambda token: None},
            token(header={"kid": "k"}),
            ("jwt", "k", "ada", None),
            id="no user",
        ),
    ],
)
def test_the_refusal_says_what_the_operator_may_know(
    options: dict[str, Any], raw: str, expected: tuple[str | None, ...]
) -> None:
    asking, refusals = told(**options)
    assert asking.get("/", headers=bearer(raw)).headers["www-authenticate"]
    (refusal,) = refusals
    assert (refusal.provider, refusal.kid, refusal.subject, refusal.claim) == expected
    assert raw.rpartition(".")[2] not in repr(vars(refusal)) or raw == "x"


def test_each_missing_token_is_a_refusal_of_its_own_to_a_refusal_response() -> None:
    asking, refusals = told()
    asking.get("/")
    asking.get("/")
    first, second = refusals
    assert first is not second


def test_the_first_request_with_a_token_may_have_several_spaces_behind_the_scheme() -> None:
    assert client().get("/", headers={"authorization": f"Bearer  {token()}"}).json()["user"] == "ada"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"", b" ", id="a space"),
        pytest.param(b"", b"\t", id="a tab"),
        pytest.param(b"", b" \t" * 9, id="much"),
        pytest.param(b"\t ", b"", id="before"),
    ],
)
async def test_white_space_around_a_header_is_not_part_of_it(before: bytes, after: bytes) -> None:
    middleware = JWTMiddleware(echo, **OPTIONS)
    for _ in range(3):
        start, _ = await sent(middleware, http("/", before + b"Bearer " + token().encode() + after))
        assert start["status"] == 200


def test_a_refusal_response_serves_websockets_too(backend: str) -> None:
    asking, refusals = told(backend=backend)
    with pytest.raises(WebSocketDenialResponse) as denied, asking.websocket_connect("/"):
        pass
    assert (denied.value.status_code, denied.value.text) == (401, "missing_token")
    assert [refusal.code for refusal in refusals] == ["missing_token"]


def test_an_async_refusal_response_is_awaited(backend: str) -> None:
    async def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        await anyio.lowlevel.checkpoint()
        return PlainTextResponse("go away", refusal.status)

    response = client(refusal_response=page, backend=backend).get("/")
    assert (response.status_code, response.text) == (401, "go away")
    assert response.headers["www-authenticate"] == 'Bearer realm="api"'


class Seen:
    """An app that remembers with what it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append((scope, receive, send))
        if scope["type"] == "http":
            await Response()(scope, receive, send)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["lifespan", "mqtt", "http.custom", ""])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    seen = Seen()
    scope = {"type": kind, "user": "as it was"}

    async def receive() -> Message:
        raise AssertionError("nobody asked")

    async def send(message: Message) -> None:
        raise AssertionError("nobody answered")

    await JWTMiddleware(seen, **OPTIONS)(scope, receive, send)
    (call,) = seen.calls
    assert call[0] is scope
    assert call[1] is receive
    assert call[2] is send
    assert scope == {"type": kind, "user": "as it was"}


def test_lifespan_reaches_the_app(backend: str) -> None:
    with client(backend=backend) as entered:
        assert entered.get("/", headers=bearer(token())).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "lines"),
    [
        pytest.param({}, [f"Bearer {token()}"], id="verified"),
        pytest.param({"public": ["/"]}, [], id="public"),
        pytest.param({"public": ["/"]}, ["Bearer x"], id="public, a bad token"),
        pytest.param({"allow_anonymous": True}, [], id="anonymous"),
    ],
)
@pytest.mark.parametrize("make", [http, websocket], ids=["http", "websocket"])
async def test_user_and_auth_are_always_ours_and_the_scope_stays_the_same_dict(
    options: dict[str, Any], lines: list[str], make: Callable[..., Scope]
) -> None:
    seen = Seen()
    scope = make("/", *(line.encode() for line in lines), user="spoofed", auth="spoofed")
    await sent(JWTMiddleware(seen, **OPTIONS, **options), scope)
    ((given, _, _),) = seen.calls
    assert given is scope
    assert isinstance(scope["user"], JWTUser)
    assert isinstance(scope["auth"], JWTCredentials)


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"allow_anonymous": True}, {"public": ["/other"]}], ids=repr)
async def test_no_spoofed_user_makes_a_bad_token_good(options: dict[str, Any]) -> None:
    seen = Seen()
    scope = http("/", b"Bearer x", user=JWTUser(None), auth="spoofed")
    start, _ = await sent(JWTMiddleware(seen, **OPTIONS, **options), scope)
    assert start["status"] == 401
    assert not seen.calls


def test_the_inner_of_two_has_the_last_word() -> None:
    inner = JWTMiddleware(
        echo, key="another secret of thirty-two bytes", audience="orders", allow_anonymous=True, name="inner"
    )
    both = client(inner, allow_anonymous=True)
    assert both.get("/").json() == NOBODY
    assert both.get("/", headers=bearer(token())).json()["code"] == "bad_signature"
    same = client(JWTMiddleware(echo, **OPTIONS, name="inner"))
    assert same.get("/", headers=bearer(token())).json()["provider"] == "inner"


def test_what_a_request_does_to_its_claims_no_other_request_sees() -> None:
    async def spoil(scope: Scope, receive: Receive, send: Send) -> None:
        held = scope["auth"].token
        seen = {
            "user": scope["user"].claims,
            "token": held.claims,
            "header": held.header,
            "scopes": scope["auth"].scopes,
        }
        await JSONResponse(seen)(scope, receive, send)
        scope["user"].claims["role"] = "admin"
        scope["user"].claims["groups"].append("admin")
        held.claims["sub"] = "eve"
        held.header["kid"] = "eve"
        scope["auth"].scopes.append("admin")

    raw = token(groups=["staff"])
    spoiled = client(spoil)
    expected = {
        "user": claims(groups=["staff"]),
        "token": claims(groups=["staff"]),
        "header": {"alg": "HS256", "typ": "JWT"},
        "scopes": ["orders:read", "orders:write"],
    }
    for _ in range(3):
        assert spoiled.get("/", headers=bearer(raw)).json() == expected


def test_anonymous_claims_are_not_shared_either() -> None:
    async def spoil(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse([scope["user"].claims, scope["auth"].scopes])(scope, receive, send)
        scope["user"].claims["role"] = "admin"
        scope["auth"].scopes.append("admin")

    spoiled = client(spoil, allow_anonymous=True)
    assert spoiled.get("/").json() == spoiled.get("/").json() == [{}, []]


def test_logs_hold_no_token_no_secret_and_no_header(caplog: pytest.LogCaptureFixture, backend: str) -> None:
    caplog.set_level(logging.DEBUG)
    good = [token(), token(email="ada@example.com"), token(header={"kid": "k"})]
    bad = [line.removeprefix("Bearer ") for _, lines in REFUSED.values() for line in lines]
    secrets = {SECRET, *(segment for raw in good + bad for segment in raw.split(".") if len(segment) > 8)}
    secrets |= {"not-a-token", "dXNlcjpwYXNz", "ada@example.com"}
    for code in REFUSED:
        app, lines = refusing(code)
        bare_client(app, backend=backend).get("/", headers=[(b"authorization", line) for line in lines])
    every = client(backend=backend, public=["/public"])
    for raw in good + bad:
        every.get("/", headers=bearer(raw))
        every.get("/public", headers=bearer(raw))
    every.get("/", headers={"authorization": "Basic dXNlcjpwYXNz"})
    assert len(records(caplog)) > len(REFUSED)
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert not [secret for secret in secrets if secret in logged]
    assert "bearer " not in logged.lower()


@pytest.mark.anyio
async def test_an_attackers_kid_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jwt_middleware")
    hostile = signed({"alg": "HS256", "kid": "k\r\n2030 INFO accepted: ada\u2028"}, claims(), key="x" * 32)
    await sent(JWTMiddleware(echo, **OPTIONS), http("/", f"Bearer {hostile}".encode()))
    (message,) = caplog.messages
    assert len(message.splitlines()) == 1
    assert "bad_signature" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"app": "main:app"}, r"app must be callable as \(scope, receive, send\)", id="app"),
        pytest.param({"allow_anonymous": "no"}, "allow_anonymous must be True or False", id="allow_anonymous"),
        pytest.param({"allow_preflight": 1}, "allow_preflight must be True or False", id="allow_preflight"),
        pytest.param({"load_user": "ada"}, r"load_user must be callable as \(token\)", id="load_user"),
        pytest.param({"load_user": lambda: None}, r"load_user must be callable as \(token\)", id="load_user's arity"),
        pytest.param({"load_user": generated}, "load_user must return its result; a generator", id="a generator"),
        pytest.param({"validate": generated}, "validate must return its result; a generator", id="another"),
        pytest.param({"validate": dict}, "validate must return True or False; a class", id="a class"),
        pytest.param({"refusal_response": {}}, "refusal_response must be callable", id="refusal_response"),
        pytest.param({"realm": "a\nb"}, "realm must be printable ASCII", id="realm"),
        pytest.param({"public": "/health"}, "public must be a list of paths", id="public"),
        pytest.param({"public": ["OPTIONS /*"]}, "allow_preflight=True", id="a public entry"),
        pytest.param({"clock": 5}, "clock must be callable", id="clock"),
        pytest.param({"max_token_size": 0}, "max_token_size must be", id="max_token_size"),
        pytest.param({"audiance": "orders"}, "audiance is not an argument of JWTMiddleware; audience is", id="a typo"),
        pytest.param(
            {"load_users": None}, "load_users is not an argument of JWTMiddleware; load_user is", id="another"
        ),
        pytest.param({"secret": SECRET}, "secret is not an argument of JWTMiddleware; key is", id="a name of others"),
        pytest.param({"allow_http": ["keycloak"]}, r"allow_http .* jwks=RemoteKeys\(", id="an argument of RemoteKeys"),
        pytest.param({"frobnicate": 1}, "frobnicate is not an argument of JWTMiddleware$", id="like nothing we know"),
        pytest.param({"key": None}, "key is required", id="no key"),
        pytest.param({"audience": None}, "audience is required", id="no audience"),
        pytest.param(
            {"providers": [provider(name="a")]},
            "key, audience cannot be combined with providers=",
            id="both ways",
        ),
    ],
)
def test_an_argument_that_cannot_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"app": echo, "key": SECRET, "audience": "orders", **options}
    with pytest.raises(ConfigurationError, match=message) as refused:
        JWTMiddleware(**arguments)
    assert SECRET not in str(refused.value)


HIDDEN = "hunter2-hunter2-hunter2-hunter2-hunter2"
ARGUMENTS = sorted({*signature(JWTMiddleware).parameters, *ProviderOptions.__optional_keys__} - {"provider"})


@pytest.mark.shows_tokens("what is given as a name, such as an issuer, is shown like a name")
@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(HIDDEN, id="text"),
        pytest.param("\u00e9" + HIDDEN, id="text that is not ASCII"),
        pytest.param(f"https://user:{HIDDEN}@login.example:x/?{HIDDEN}", id="an address"),
        pytest.param(HIDDEN.encode(), id="bytes"),
        pytest.param([HIDDEN], id="a list"),
        pytest.param([f"https://user:{HIDDEN}@login.example"], id="a list of addresses"),
        pytest.param([f"{HIDDEN} /path"], id="a list with words"),
        pytest.param([HIDDEN.encode()], id="a list of bytes"),
        pytest.param({"password": HIDDEN}, id="a dict"),
    ],
)
def test_no_configuration_error_shows_a_value_that_could_be_a_secret(argument: str, wrong: Any) -> None:
    arguments: dict[str, Any] = {"app": echo, "key": SECRET, "audience": "orders", argument: wrong}
    message = argument
    try:
        JWTMiddleware(**arguments)
    except ConfigurationError as error:
        message = str(error)
    assert argument in message
    # A text for jwks is the path of a file, which the operator must see.
    assert "hunter2" not in message or argument == "jwks"


@pytest.mark.parametrize(
    "providers", [provider(name="a"), [provider(name="a")], (provider(name="a"), provider(name="b", issuer=ISSUER))]
)
def test_providers_may_be_one_or_several(providers: Any) -> None:
    assert client(providers=providers).get("/", headers=bearer(token())).json()["provider"] == "a"


def test_the_scope_is_that_of_starlettes_requests() -> None:
    def me(request: Request) -> Response:
        return JSONResponse([request.user.display_name, request.auth.scopes, request.auth.token.id])

    app = Starlette(routes=[Route("/me", me)])
    seen = client(app).get("/me", headers=bearer(token(name="Ada Lovelace", jti="t-1"))).json()
    assert seen == ["Ada Lovelace", ["orders:read", "orders:write"], "t-1"]


@pytest.mark.parametrize("nobody", [None, False])
def test_a_load_user_that_finds_no_user_refuses(nobody: Any, backend: str) -> None:
    response = client(load_user=lambda token: nobody, backend=backend).get("/", headers=bearer(token()))
    assert (response.status_code, response.json()["code"]) == (401, "user_refused")


@pytest.mark.anyio
async def test_headers_that_can_be_read_once_are_there_for_the_app() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(len(list(scope["headers"])))(scope, receive, send)

    middleware = JWTMiddleware(app, key=SECRET, audience="orders", clock=lambda: NOW)
    scope = http(headers=[(b"host", b"api"), (b"authorization", f"Bearer {token()}".encode())])
    scope["headers"] = iter(scope["headers"])
    _, body = await sent(middleware, scope)
    assert body["body"] == b"2"


# Functions of the scope


def test_a_function_says_which_requests_may_be_anonymous(backend: str) -> None:
    service = client(allow_anonymous=lambda scope: scope["path"] == "/guests", backend=backend)
    assert service.get("/guests").json() == NOBODY
    assert service.get("/members").json()["code"] == "missing_token"
    assert service.get("/guests", headers=bearer("x")).json()["code"] == "malformed_token"
    assert service.get("/guests", headers=bearer(token())).json()["user"] == "ada"
    with service.websocket_connect("/guests") as connection:
        assert connection.receive_json() == NOBODY


def test_a_function_says_which_requests_are_public() -> None:
    service = client(public=lambda scope: scope["path"] == "/health")
    assert service.get("/health").json() == NOBODY
    assert service.get("/health", headers=bearer("x")).json() == NOBODY
    assert service.get("/orders").status_code == 401


def test_a_function_that_gives_no_bool_lets_nobody_in() -> None:
    service = client(allow_anonymous=lambda scope: 1)
    with pytest.raises(TypeError, match="allow_anonymous"):
        service.get("/")


async def asynchronous(scope: Any) -> bool:
    return False


@pytest.mark.parametrize("option", ["public", "allow_anonymous"])
def test_a_function_of_the_scope_cannot_be_async(option: str) -> None:
    options: dict[str, Any] = {option: asynchronous}
    with pytest.raises(ConfigurationError, match=f"{option} must be a plain function"):
        client(echo, **options)


class Rooted:
    """An app that serves paths without its own root path, as FastAPI(root_path=...) does."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("app", "public", "is_said"),
    [
        pytest.param(Rooted(echo, "/docs"), ["/docs/*"], True, id="the app's own root path"),
        pytest.param(Rooted(Rooted(echo, "/docs"), ""), ["/docs/*"], True, id="behind another middleware"),
        pytest.param(Rooted(echo, "/docs"), ["/health"], False, id="another path"),
        pytest.param(Rooted(echo, "/docs"), lambda scope: False, False, id="a function"),
        pytest.param(Rooted(echo, ""), ["/docs/*"], False, id="no root path"),
        pytest.param(echo, ["/docs/*"], False, id="an app that has none"),
    ],
)
def test_an_entry_that_opens_more_than_it_says_is_mentioned(
    app: ASGIApp, public: Any, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    JWTMiddleware(app, **OPTIONS, public=public)
    assert ("public entry '/docs/*' opens more than it says" in caplog.text) is is_said


def test_an_entry_below_a_mount_that_cannot_match_is_explained_once(caplog: pytest.LogCaptureFixture) -> None:
    inner = JWTMiddleware(echo, **OPTIONS, public=["/api/health", "/ok"])
    asking = bare_client(Starlette(routes=[Mount("/api", inner)]))
    for _ in range(2):
        assert asking.get("/api/health").status_code == 401
    assert asking.get("/api/ok").status_code == 200
    (said,) = [message for message in caplog.messages if "looks like an entry of public" in message]
    assert "this middleware stands below '/api'" in said


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_hooks_see_the_connection_if_they_have_a_second_parameter(is_async: bool) -> None:
    seen: list[tuple[str, str | None]] = []

    def validate(token: Token, connection: HTTPConnection) -> bool:
        seen.append((connection.headers["host"], token.subject))
        return connection.headers["host"] == "testserver"

    def load_user(token: Token, connection: HTTPConnection) -> Any:
        seen.append((connection.url.path, token.subject))
        return JWTUser(token)

    async def validate_later(token: Token, connection: HTTPConnection) -> bool:
        return validate(token, connection)

    async def load_later(token: Token, connection: HTTPConnection) -> Any:
        return load_user(token, connection)

    hooks = (validate_later, load_later) if is_async else (validate, load_user)
    app = JWTMiddleware(echo, **OPTIONS, validate=hooks[0], load_user=hooks[1])
    line = f"Bearer {token()}".encode()
    for _ in range(2):
        start, _ = await sent(app, http("/a", line))
        assert start["status"] == 200
    assert seen == [("testserver", "ada"), ("/a", "ada")] * 2
    start, _ = await sent(app, http("/a", line, headers=[(b"host", b"evil"), (b"authorization", line)]))
    assert start["status"] == 401
    cookies = JWTMiddleware(echo, **OPTIONS, validate=hooks[0], sources=[lambda scope: token()])
    assert (await sent(cookies, http("/a")))[0]["status"] == 200


def test_a_request_with_a_token_in_none_of_the_sources_has_none() -> None:
    asking = client(sources=[lambda scope: None, cookie("access")])
    assert asking.get("/", headers=bearer(token())).json()["code"] == "missing_token"


@pytest.mark.parametrize("make", [http, websocket], ids=["http", "websocket"])
@pytest.mark.anyio
async def test_one_provider_cannot_stand_in_for_another(make: Callable[..., Scope]) -> None:
    seen: list[tuple[str, str | None, list[str]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        held = scope["auth"].token
        seen.append((held.provider, held.issuer, scope["auth"].scopes))

    providers = [
        provider(name="staff", issuer="https://staff.example"),
        provider(name="partners", issuer="https://partners.example", key=SECRET[::-1], may_grant=["orders:read"]),
    ]
    both = JWTMiddleware(app, providers=providers, clock=lambda: NOW)
    for key, iss in ((SECRET, "https://staff.example"), (SECRET[::-1], "https://partners.example")):
        await sent(both, make("/", f"Bearer {token(key, iss=iss, sub='1', scope='admin orders:read')}".encode()))
    assert seen == [
        ("staff", "https://staff.example", ["admin", "orders:read"]),
        ("partners", "https://partners.example", ["orders:read"]),
    ]
    (start, *_) = await sent(both, make("/", f"Bearer {token(SECRET[::-1], iss='https://staff.example')}".encode()))
    assert start.get("status", 403) in (401, 403)
