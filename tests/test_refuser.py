import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Message, Scope

from jwt_middleware.errors import (
    BadSignature,
    ConfigurationError,
    CrossSite,
    InsufficientScope,
    InvalidToken,
    KeysUnavailable,
    MissingToken,
    Refusal,
    Revoked,
    TokenTooLarge,
    UserRefused,
)
from jwt_middleware.refuser import Refuser

from .support import http, sent, websocket
from .support.refusals import ANSWERS
from .test_errors import made

DENIAL: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}


async def answered(refuser: Refuser, refusal: Refusal, scope: Scope) -> list[Message]:
    return await sent(partial(refuser, refusal), scope)


def headers(message: Message) -> dict[str, str]:
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
    assert len(named) == len(message["headers"])
    return named


@pytest.mark.anyio
@pytest.mark.parametrize("code", ANSWERS)
@pytest.mark.parametrize(
    ("prefix", "scope"), [("", http()), ("websocket.", websocket(**DENIAL))], ids=["http", "websocket denial"]
)
async def test_a_refusal_is_a_response(code: str, prefix: str, scope: Scope) -> None:
    start, body = await answered(Refuser(), made(code), scope)
    answer = ANSWERS[code]
    assert (start["type"], start["status"]) == (f"{prefix}http.response.start", answer.status)
    assert headers(start) == {
        "content-length": str(len(body["body"])),
        "content-type": "application/json",
        **answer.headers,
    }
    assert body["type"] == f"{prefix}http.response.body"
    assert json.loads(body["body"]) == {
        "error": answer.error,
        "error_description": answer.description,
        "code": code,
    }


@pytest.mark.anyio
@pytest.mark.parametrize("code", ANSWERS)
async def test_a_websocket_is_closed_before_accept_where_the_server_cannot_deny(code: str) -> None:
    close_code = {400: 1008, 401: 3000, 403: 3003, 503: 1013}[ANSWERS[code].status]
    close = {"type": "websocket.close", "code": close_code, "reason": code}
    assert await answered(Refuser(), made(code), websocket()) == [close]
    extensions: Any
    for extensions in (None, {}, {"websocket.other": {}}):
        assert await answered(Refuser(), made(code), websocket(extensions=extensions)) == [close]


@pytest.mark.anyio
@pytest.mark.parametrize("code", ANSWERS)
async def test_a_head_request_gets_the_headers_and_no_content(code: str) -> None:
    start, body = await answered(Refuser(), made(code), http(method="HEAD"))
    get, content = await answered(Refuser(), made(code), http())
    assert start == get
    assert body == {**content, "body": b""}


@pytest.mark.anyio
async def test_a_streamed_answer_to_a_head_request_has_no_content_either() -> None:
    async def page() -> AsyncIterator[bytes]:
        for part in (b"no", b"body"):
            yield part

    refuser = Refuser(refusal_response=lambda connection, refusal: StreamingResponse(page(), refusal.status))
    scope = http(method="HEAD", asgi={"version": "3.0", "spec_version": "2.4"})
    start, *rest = await answered(refuser, MissingToken(), scope)
    assert start["status"] == 401
    assert [message["body"] for message in rest] == [b"", b"", b""]


@pytest.mark.anyio
@pytest.mark.parametrize("scope", [http(), websocket(**DENIAL)], ids=["http", "websocket"])
async def test_what_others_add_to_one_answer_is_not_in_the_next(scope: Scope) -> None:
    refuser = Refuser()
    for _ in range(2):
        start, _ = await answered(refuser, MissingToken(), scope)
        assert len(start["headers"]) == 3
        start["headers"].append((b"x-request-id", b"5"))
        response = await refuser.response(MissingToken(), scope)
        assert len(response.headers) == 3
        response.set_cookie("session", "")


@pytest.mark.anyio
async def test_two_realms_and_two_refusals_do_not_share_an_answer() -> None:
    answers = [
        headers((await answered(Refuser(realm), refusal, http()))[0])["www-authenticate"]
        for realm in ("a", "b")
        for refusal in (InsufficientScope(["x"]), InsufficientScope(["y"]))
    ]
    assert [(said[13:16], said[-10:]) for said in answers] == [
        ('"a"', ' scope="x"'),
        ('"a"', ' scope="y"'),
        ('"b"', ' scope="x"'),
        ('"b"', ' scope="y"'),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("realm", "expected"),
    [
        pytest.param("orders", 'Bearer realm="orders"', id="a word"),
        pytest.param("", 'Bearer realm=""', id="empty"),
        pytest.param('my "realm"\\', r'Bearer realm="my \"realm\"\\"', id="quotes and a backslash"),
        pytest.param('", error="none', r'Bearer realm="\", error=\"none"', id="one that tries to break out"),
    ],
)
async def test_the_realm_is_quoted(realm: str, expected: str) -> None:
    start, _ = await answered(Refuser(realm), MissingToken(), http())
    assert headers(start)["www-authenticate"] == expected


@pytest.mark.parametrize(
    "realm",
    [
        pytest.param("caf\u00e9", id="not ASCII"),
        pytest.param("a\r\nb", id="a new line"),
        pytest.param("a\x00", id="NUL"),
        pytest.param(b"api", id="bytes"),
        pytest.param(None, id="None"),
    ],
)
def test_a_realm_that_no_header_can_hold_is_refused(realm: Any) -> None:
    with pytest.raises(ConfigurationError, match="realm must be printable ASCII"):
        Refuser(realm)


def test_a_refusal_response_must_be_callable() -> None:
    with pytest.raises(ConfigurationError, match=r"refusal_response must be callable as \(connection, refusal\)"):
        Refuser(refusal_response="no")  # type: ignore[arg-type]  # what a user might write


@pytest.mark.anyio
async def test_the_app_may_build_the_response() -> None:
    def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        return HTMLResponse(f"<h1>{connection.url.path}: {refusal.code}</h1>", refusal.status)

    start, body = await answered(Refuser(refusal_response=page), BadSignature(), http("/orders"))
    assert start["status"] == 401
    assert headers(start)["content-type"] == "text/html; charset=utf-8"
    assert body["body"] == b"<h1>/orders: bad_signature</h1>"


@pytest.mark.anyio
async def test_the_app_may_wait_while_it_builds_the_response() -> None:
    async def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        return PlainTextResponse(refusal.code, refusal.status)

    start, body = await answered(Refuser(refusal_response=page), CrossSite(), http())
    assert (start["status"], body["body"]) == (403, b"cross_site")


@pytest.mark.anyio
@pytest.mark.parametrize("code", ANSWERS)
async def test_headers_that_the_answer_needs_are_added_to_the_apps_response(code: str) -> None:
    refuser = Refuser(refusal_response=lambda connection, refusal: Response(status_code=refusal.status))
    start, _ = await answered(refuser, made(code), http())
    assert headers(start) == {"content-length": "0", **ANSWERS[code].headers}


@pytest.mark.anyio
async def test_a_challenge_of_the_apps_own_is_kept() -> None:
    def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        return RedirectResponse("/login", 303, headers={"WWW-Authenticate": 'DPoP algs="ES256"'})

    start, _ = await answered(Refuser(refusal_response=page), MissingToken(), http())
    assert headers(start)["www-authenticate"] == 'DPoP algs="ES256"'
    assert (start["status"], headers(start)["location"]) == (303, "/login")


@pytest.mark.anyio
async def test_the_apps_response_denies_a_websocket_too() -> None:
    refuser = Refuser(refusal_response=lambda connection, refusal: PlainTextResponse(connection.url.path, 401))
    start, body = await answered(refuser, MissingToken(), websocket("/feed", **DENIAL))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert headers(start)["www-authenticate"] == 'Bearer realm="api"'
    assert (body["type"], body["body"]) == ("websocket.http.response.body", b"/feed")


@pytest.mark.anyio
async def test_the_app_is_told_what_the_operator_may_know() -> None:
    told: list[Refusal] = []

    def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        told.append(refusal)
        return Response(status_code=refusal.status)

    refusal = Revoked(provider="staff", kid="key-1", subject="ada", claim="jti")
    await answered(Refuser(refusal_response=page), refusal, http())
    assert told == [refusal]


@pytest.mark.anyio
async def test_what_the_apps_response_raises_is_the_apps_affair() -> None:
    def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        raise LookupError("no template")

    with pytest.raises(LookupError, match="no template"):
        await answered(Refuser(refusal_response=page), MissingToken(), http())


def test_a_refusal_may_be_an_exception_with_the_same_challenge() -> None:
    refusal = InsufficientScope(["orders:admin"])
    raised = Refuser("orders").exception(refusal, http())
    assert isinstance(raised, HTTPException)
    assert (raised.status_code, raised.detail) == (403, refusal.description)
    assert raised.headers == dict(refusal.headers("orders"))


def test_a_refusal_may_be_an_exception_on_a_websocket() -> None:
    raised = Refuser().exception(KeysUnavailable(), websocket())
    assert isinstance(raised, WebSocketException)
    assert (raised.code, raised.reason) == (1013, "keys_unavailable")


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["http", "denial", "close", "exception"])
async def test_the_log_says_once_why_a_request_was_refused(way: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jwt_middleware")
    refusal = Revoked(provider="staff", kid="key-1", subject="ada", claim="jti")
    if way == "exception":
        Refuser().exception(refusal, http())
    else:
        scope = {"http": http(), "denial": websocket(**DENIAL), "close": websocket()}[way]
        await answered(Refuser(), refusal, scope)
    assert caplog.record_tuples == [
        (
            "jwt_middleware.requests",
            logging.INFO,
            f"refused {'GET' if way in ('http', 'exception') else 'WebSocket'} /: revoked (claim=jti, provider=staff, "
            "kid=key-1, subject=ada)",
        )
    ]


@pytest.mark.anyio
async def test_the_log_is_silent_where_nobody_asked_for_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "jwt_middleware")
    await answered(Refuser(), MissingToken(), http())
    assert not caplog.records


@pytest.mark.anyio
@pytest.mark.parametrize(
    "kid",
    [
        pytest.param("k\nINFO refused: nothing", id="a new line"),
        pytest.param("k\r\n\r\n", id="carriage returns"),
        pytest.param("k\u2028\u2029\x85\x0b\x0c\x1c", id="new lines of Unicode"),
        pytest.param("\x1b[2J\x1b[31m", id="terminal control"),
        pytest.param("\u202eabc\u200b", id="writing direction"),
        pytest.param("x" * 10_000, id="a long one"),
    ],
)
async def test_a_kid_cannot_forge_a_log_line(kid: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await answered(Refuser(), TokenTooLarge(kid=kid, subject=kid[:100]), http())
    (message,) = caplog.messages
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < 700


class Counted(InvalidToken):
    code = "counted"

    @property
    def body(self) -> dict[str, Any]:
        return {**super().body, "tries": [1, 2]}

    def headers(self, realm: str) -> list[tuple[str, str]]:
        return [*super().headers(realm), ("www-authenticate", "DPoP")]


@pytest.mark.anyio
async def test_a_refusal_of_the_apps_own_says_what_it_likes() -> None:
    start, body = await answered(Refuser(), Counted(), http())
    assert json.loads(body["body"])["tries"] == [1, 2]
    assert [value for name, value in start["headers"] if name == b"www-authenticate"][1] == b"DPoP"


@pytest.mark.anyio
async def test_what_one_refusal_says_of_a_user_no_other_says() -> None:
    refuser = Refuser()
    locked = UserRefused()
    locked.description = "The account of ada is locked."  # type: ignore[misc]  # a class's text, but Python lets them
    for refusal in (UserRefused(), locked, UserRefused(subject="bob")):
        _, body = await answered(refuser, refusal, http())
        assert json.loads(body["body"])["error_description"] == refusal.description


@pytest.mark.anyio
@pytest.mark.parametrize("built", [None, "no", {"error": "no"}])
async def test_a_refusal_response_that_is_no_response_is_an_error_that_says_so(built: Any) -> None:
    refuser = Refuser(refusal_response=lambda connection, refusal: built)
    with pytest.raises(TypeError, match="refusal_response must give a Starlette Response"):
        await answered(refuser, MissingToken(), http())


def test_long_texts_of_a_token_are_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "jwt_middleware"):
        Refuser().exception(BadSignature(kid="k" * 900, subject="s" * 900), http())
    assert len(caplog.messages[0]) < 500
