"""Open connections end with their tokens: in one process, against servers that do what a test tells them."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import JWTMiddleware, Provider, Token, renew
from jwt_middleware._support.background import Background
from jwt_middleware.errors import (
    BadSignature,
    Expired,
    InvalidClaim,
    MalformedToken,
    MissingToken,
    Refusal,
    RevocationsUnavailable,
    Revoked,
    UserRefused,
    WrongIssuer,
)
from jwt_middleware.live.connections import TICK, Connection, Connections, Ended, Timer
from jwt_middleware.refuser import Refuser

from ..support import NOW, SECRET, http, token, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

LEEWAY = 5
SOON = token(exp=NOW + 1)
LATER = token(exp=NOW + 1000)
LONG_ENOUGH = 2 * TICK
CLOSED = {"type": "websocket.close", "code": 3000, "reason": "expired"}
DISCONNECT = {"type": "websocket.disconnect", "code": 3000, "reason": "expired"}


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while True:
            if condition():
                return
            await anyio.sleep(0.01)


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Our own: a busy event loop has its own to say, in Python's development mode."""
    return [record for record in caplog.records if record.levelno > logging.INFO and record.name == "jwt_middleware"]


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now: float = NOW

    def __call__(self) -> float:
        return self.now


class Revoking:
    """``Revocations`` that a test sets: subjects that are revoked, and what ``is_revoked`` can tell at all."""

    def __init__(self) -> None:
        self.subjects: set[str | None] = set()
        self.can_tell = True
        self.can_catch_up = True
        self.is_broken = False
        self.error: Exception | None = None
        self.looked = 0

    def is_revoked(self, token: Token) -> bool | None:
        self.looked += 1
        if self.error is not None:
            raise self.error
        return token.subject in self.subjects if self.can_tell else None

    async def catch_up(self) -> None:
        if self.is_broken:
            raise LookupError("another bug of theirs")
        if not self.can_catch_up:
            raise RevocationsUnavailable
        self.can_tell = True

    async def stop(self) -> None:
        pass


class Server:
    """One connection as a server has it: what the app sent, and what a test lets come in."""

    def __init__(self, *messages: Message) -> None:
        self.sent: list[Message] = []
        self.on_send: Callable[[Message], Awaitable[None]] | None = None
        self._into, self._out_of = anyio.create_memory_object_stream[Message](100)
        for message in messages:
            self.comes(message)

    def comes(self, message: Message) -> None:
        self._into.send_nowait(message)

    async def receive(self) -> Message:
        return await self._out_of.receive()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self.on_send is not None:
            await self.on_send(message)

    async def has_sent(self, kind: str) -> Message:
        await until(lambda: any(message["type"] == kind for message in self.sent))
        return next(message for message in self.sent if message["type"] == kind)

    def close(self) -> None:
        self._into.close()
        self._out_of.close()


class Running:
    """An app behind the middleware that serves one connection; ``over`` when it has returned."""

    def __init__(self, middleware: JWTMiddleware, server: Server, clock: Clock) -> None:
        self.middleware = middleware
        self.server = server
        self.clock = clock
        self.over = anyio.Event()

    @property
    def timer(self) -> Timer:
        return self.middleware._connections.timer()

    async def ends(self) -> None:
        with anyio.fail_after(5):
            await self.over.wait()


@asynccontextmanager
async def running(app: ASGIApp, scope: Scope, server: Server | None = None, **options: Any) -> AsyncIterator[Running]:
    """``app`` with one connection of ``scope``, while the block lasts."""
    clock = Clock()
    options = {"key": SECRET, "audience": "orders", **options}
    if "providers" in options:
        del options["key"], options["audience"]
    middleware = JWTMiddleware(app, clock=clock, **options)
    if server is None:
        first = {"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request"}
        server = Server(first)
    run = Running(middleware, server, clock)

    async def serve() -> None:
        try:
            await middleware(scope, run.server.receive, run.server.send)
        finally:
            run.over.set()

    try:
        async with anyio.create_task_group() as together:
            together.start_soon(serve)
            yield run
            together.cancel_scope.cancel()
    finally:
        server.close()


def opened(raw: str = SOON, **changes: Any) -> Scope:
    return websocket("/", f"Bearer {raw}".encode(), **changes)


class Listener:
    """Accepts, and keeps what comes in until it is over."""

    def __init__(self) -> None:
        self.received: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.received.append(await receive())
        await send({"type": "websocket.accept"})
        while self.received[-1]["type"] != "websocket.disconnect":
            self.received.append(await receive())


async def test_a_websocket_ends_when_its_token_does() -> None:
    app = Listener()
    async with running(app, opened()) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 1 + LEEWAY - 0.01
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 1 + LEEWAY
        await run.ends()
    assert run.server.sent == [{"type": "websocket.accept"}, CLOSED]
    assert app.received == [{"type": "websocket.connect"}, DISCONNECT]


async def test_the_end_is_no_later_than_the_age_that_a_provider_allows() -> None:
    app = Listener()
    async with running(app, opened(LATER), max_token_age=60) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60 + LEEWAY
        await run.ends()
    assert run.server.sent[-1] == CLOSED


async def test_the_leeway_is_the_providers() -> None:
    app = Listener()
    async with running(app, opened(), leeway=30) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 30
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 31
        await run.ends()


async def test_a_handshake_that_takes_longer_than_its_token_is_refused() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await send({"type": "websocket.accept"})

    async with running(slow, opened()) as run:
        await until(lambda: len(run.timer) == 1)
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent == [CLOSED]


async def test_an_app_that_only_sends_ends_by_an_os_error_that_goes_no_further(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[BaseException] = []

    async def ticking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await anyio.sleep(0.01)
        except OSError as error:
            seen.append(error)
            raise

    async with running(ticking, opened()) as run:
        await run.server.has_sent("websocket.send")
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1] == CLOSED
    assert "expired" in str(seen[0])
    assert not warnings(caplog)


async def goodbye(websocket: WebSocket) -> None:
    await websocket.close()


async def last_words(websocket: WebSocket) -> None:
    await websocket.send_text("goodbye")


async def in_a_group(websocket: WebSocket) -> None:
    async with anyio.create_task_group() as together:
        together.start_soon(last_words, websocket)
        together.start_soon(anyio.sleep_forever)


@pytest.mark.parametrize("afterwards", [goodbye, last_words, in_a_group])
async def test_what_the_end_provokes_goes_no_further(
    afterwards: Callable[[WebSocket], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = WebSocket(scope, receive, send)
        await connection.accept()
        try:
            while True:
                await connection.receive_text()
        finally:
            await afterwards(connection)

    async with running(app, opened()) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1] == CLOSED
    assert not warnings(caplog)


async def test_another_failure_after_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass
        raise ConnectionError("the database is gone")

    async with running(app, opened()) as run:
        await until(lambda: len(run.timer) == 1)
        run.clock.now = NOW + 60
        await run.ends()
    (record,) = warnings(caplog)
    assert "failed after its connection was ended" in record.getMessage()
    assert "the database is gone" in caplog.text


async def test_a_failure_that_has_nothing_to_do_with_the_end_gets_through() -> None:
    go = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await go.wait()
        raise LookupError("a bug")

    async def check() -> None:
        async with running(app, opened()) as run:
            await run.server.has_sent("websocket.accept")
            run.clock.now = NOW + 60
            assert await run.server.has_sent("websocket.close") == CLOSED
            go.set()
            await run.ends()

    with pytest.raises(ExceptionGroup) as raised:
        await check()
    assert raised.value.subgroup(LookupError) is not None


async def test_a_failure_before_the_end_gets_through_and_nothing_is_left() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise WebSocketDisconnect

    middleware, server = JWTMiddleware(app, key=SECRET, audience="orders", clock=Clock()), Server()
    with pytest.raises(WebSocketDisconnect):
        await middleware(opened(), server.receive, server.send)
    assert len(middleware._connections.timer()) == 0
    server.close()


async def test_everyone_who_waits_hears_of_the_end() -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})

        async def wait() -> None:
            heard.append(await receive())

        async with anyio.create_task_group() as together:
            together.start_soon(wait)
            together.start_soon(wait)
        heard.append(await receive())

    async with running(app, opened()) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert heard == [DISCONNECT] * 3


async def test_a_message_that_comes_with_the_end_comes_too_late() -> None:
    app = Listener()
    async with running(app, opened()) as run:
        await run.server.has_sent("websocket.accept")
        (connection,) = run.timer._open.values()
        run.server.comes({"type": "websocket.receive", "text": "too late"})
        connection.condemn(Expired())
        connection.end()
        await run.ends()
    assert [message["type"] for message in app.received] == ["websocket.connect", "websocket.disconnect"]


async def test_from_the_end_on_nothing_gets_through_though_others_are_told_first() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        seen.append(await receive())
        await send({"type": "websocket.send", "text": "x"})

    async with running(app, opened()) as run:
        await run.server.has_sent("websocket.accept")
        (connection,) = run.timer._open.values()
        connection.condemn(Expired())
        connection.condemn(Revoked())
        run.server.comes({"type": "websocket.receive", "text": "too late"})
        await run.ends()
    assert seen == [DISCONNECT]
    assert run.server.sent == [{"type": "websocket.accept"}, CLOSED]
    assert len(run.timer) == 0


async def test_a_cancelled_app_stays_cancelled() -> None:
    async with running(Listener(), opened()) as run:
        await run.server.has_sent("websocket.accept")
    assert run.over.is_set()
    assert len(run.timer) == 0


async def test_the_close_comes_after_what_the_app_is_sending() -> None:
    go = anyio.Event()
    order: list[str] = []

    async def slowly(message: Message) -> None:
        if message["type"] == "websocket.send":
            await go.wait()
        order.append(message["type"])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def say(text: str) -> None:
            await send({"type": "websocket.send", "text": text})

        await send({"type": "websocket.accept"})
        async with anyio.create_task_group() as together:
            for text in ("a", "b"):
                together.start_soon(say, text)
        await receive()
        assert (await receive())["type"] == "websocket.disconnect"

    server = Server({"type": "websocket.connect"})
    server.on_send = slowly
    async with running(app, opened(), server) as run:
        await server.has_sent("websocket.send")
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        assert order == ["websocket.accept"]
        go.set()
        await run.ends()
    assert order == ["websocket.accept", "websocket.send", "websocket.send", "websocket.close"]


async def test_the_app_hears_at_once_of_an_end_that_its_client_does_not_answer() -> None:
    heard = anyio.Event()
    answered = anyio.Event()

    async def handshake(message: Message) -> None:
        if message["type"] == "websocket.close":
            await answered.wait()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        heard.set()

    server = Server({"type": "websocket.connect"})
    server.on_send = handshake
    async with running(app, opened(), server) as run:
        await server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        with anyio.fail_after(5):
            await heard.wait()
        await server.has_sent("websocket.close")
        assert not run.over.is_set(), "the server would close with another code"
        answered.set()
        await run.ends()


@pytest.mark.parametrize("stuck_at", ["websocket.send", "websocket.close"])
async def test_a_client_that_takes_nothing_is_waited_for_no_longer_than_patience_lasts(stuck_at: str) -> None:
    async def stuck(message: Message) -> None:
        if message["type"] == stuck_at:
            await anyio.sleep_forever()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def say() -> None:
            await send({"type": "websocket.send", "text": "x"})

        async with anyio.create_task_group() as together:
            together.start_soon(say)
            while (await receive())["type"] != "websocket.disconnect":
                pass
            together.cancel_scope.cancel()

    server, clock = Server({"type": "websocket.connect"}), Clock()
    server.on_send = stuck
    verifying = JWTMiddleware(app, key=SECRET, audience="orders", clock=clock)
    verifying._connections.patience = 0.1
    async with anyio.create_task_group() as together:
        together.start_soon(verifying, opened(), server.receive, server.send)
        await server.has_sent("websocket.send")
        clock.now = NOW + 60
        await until(lambda: not verifying._connections.background._tasks.get(set()))
        together.cancel_scope.cancel()
    server.close()


async def test_a_server_that_cannot_close_any_more_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def gone(message: Message) -> None:
        if message["type"] == "websocket.close":
            raise RuntimeError("Unexpected ASGI message 'websocket.close'")

    server = Server({"type": "websocket.connect"})
    server.on_send = gone
    async with running(Listener(), opened(), server) as run:
        await server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert not warnings(caplog)


async def closes(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1000})
    while True:
        await receive()


async def denies(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"x"})
    while True:
        await receive()


async def listens(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass
    # As long as it cleans up, the connection is over all the same.
    await anyio.sleep_forever()


@pytest.mark.parametrize("app", [closes, denies, listens])
async def test_what_is_over_before_its_token_is_not_ended_again(app: ASGIApp) -> None:
    server = Server({"type": "websocket.connect"})
    async with running(app, opened(), server) as run:
        await until(lambda: bool(server.sent))
        if app is listens:
            server.comes({"type": "websocket.disconnect", "code": 1001})
        await until(lambda: len(run.timer) == 0)
        sent = list(server.sent)
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        assert server.sent == sent
        assert not run.over.is_set()


async def test_without_a_token_nothing_ends() -> None:
    app = Listener()
    async with running(app, websocket(), public=["/"]) as run:
        await run.server.has_sent("websocket.accept")
        assert len(run.timer) == 0
        run.server.comes({"type": "websocket.disconnect", "code": 1001})
        await run.ends()
    assert app.received[-1]["code"] == 1001


async def test_a_token_that_a_public_path_did_not_need_ends_its_connection_too() -> None:
    async with running(Listener(), opened(), public=["/"]) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()


async def test_each_end_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jwt_middleware")
    async with running(Listener(), opened(token(exp=NOW + 1, header={"kid": "k"}))) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert caplog.messages == ["refused: expired (provider=jwt kid='k' subject='ada' claim=exp)"]


async def test_a_revoked_token_ends_its_connection_within_the_second() -> None:
    revocations = Revoking()
    app = Listener()
    async with running(app, opened(LATER), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        await anyio.sleep(2 * TICK)
        assert not run.over.is_set()
        revocations.subjects.add("ada")
        with anyio.fail_after(2 * TICK):
            await run.over.wait()
    assert run.server.sent[-1] == {"type": "websocket.close", "code": 3000, "reason": "revoked"}
    assert app.received[-1] == {"type": "websocket.disconnect", "code": 3000, "reason": "revoked"}


async def test_revocations_that_must_be_waited_for_are() -> None:
    revocations = Revoking()
    async with running(Listener(), opened(LATER), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        revocations.can_tell = False
        revocations.subjects.add("ada")
        await run.ends()


async def test_while_revocations_cannot_be_told_connections_go_on_and_still_expire() -> None:
    revocations = Revoking()
    async with running(Listener(), opened(), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        revocations.can_tell = revocations.can_catch_up = False
        revocations.subjects.add("ada")
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1] == CLOSED


async def test_revocations_that_fail_are_logged_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    revocations = Revoking()
    async with running(Listener(), opened(LATER), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        revocations.error = LookupError("a bug of theirs")
        await anyio.sleep(LONG_ENOUGH)
        revocations.error, revocations.can_tell, revocations.is_broken = None, False, True
        await anyio.sleep(LONG_ENOUGH)
        assert len([record for record in caplog.records if "could not be looked up" in record.getMessage()]) == 1
        revocations.is_broken = False
        revocations.subjects.add("ada")
        await run.ends()


def renewing(*, revocations: Revoking | None = None) -> tuple[ASGIApp, list[Any]]:
    """An app that renews by what it receives, and what came of it: a user, or a refusal."""
    came: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            if message["type"] != "websocket.receive":
                continue
            before = scope["auth"].token, scope["user"]
            try:
                assert await renew(scope, message["text"]) is scope["auth"].token
            except Refusal as refusal:
                assert (scope["auth"].token, scope["user"]) == before
                came.append(refusal)
            else:
                came.append((scope["user"].identity, scope["auth"].token.expires_at, scope["auth"].scopes))

    return app, came


async def renewed(run: Running, came: list[Any], *texts: Any) -> None:
    for text in texts:
        run.server.comes({"type": "websocket.receive", "text": text})
    await until(lambda: len(came) == len(texts))


async def test_a_connection_lives_on_with_a_new_token() -> None:
    app, came = renewing()
    async with running(app, opened()) as run:
        await renewed(run, came, token(exp=NOW + 100, scope="orders:read"))
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 100 + LEEWAY
        await run.ends()
    assert came == [("ada", NOW + 100, ["orders:read"])]
    assert run.server.sent == [{"type": "websocket.accept"}, CLOSED]


PROVIDERS = [
    Provider(name="ours", key=SECRET, audience="orders", issuer="https://ours.example"),
    Provider(name="theirs", key="x" * 32, audience="orders", issuer="https://theirs.example"),
]
OURS: dict[str, Any] = {"iss": "https://ours.example"}


@pytest.mark.parametrize(
    ("new_token", "refusal"),
    [
        pytest.param(token(**OURS, sub="bob", exp=NOW + 100), InvalidClaim, id="another subject"),
        pytest.param(token(**OURS, sub=None, exp=NOW + 100), InvalidClaim, id="no subject"),
        pytest.param(token("x" * 32, iss="https://theirs.example", exp=NOW + 100), WrongIssuer, id="another provider"),
        pytest.param(token(**OURS, exp=NOW - LEEWAY), Expired, id="expired"),
        pytest.param(token(**OURS, jti="revoked", exp=NOW + 100), Revoked, id="revoked"),
        pytest.param(token("x" * 32, **OURS, exp=NOW + 100), BadSignature, id="forged"),
        pytest.param(token(**OURS, aud="billing", exp=NOW + 100), Refusal, id="another audience"),
        pytest.param(token(**OURS, jti="unloved", exp=NOW + 100), UserRefused, id="load_user finds nobody"),
        pytest.param("", MalformedToken, id="empty"),
        pytest.param("\u00e9", MalformedToken, id="not ASCII"),
        pytest.param(b"\xff", MalformedToken, id="bytes"),
        pytest.param(None, MalformedToken, id="null"),
        pytest.param({"token": 5}, MalformedToken, id="an object"),
    ],
)
async def test_any_other_token_is_refused_and_changes_nothing(new_token: Any, refusal: type[Refusal]) -> None:
    class ByToken(Revoking):
        def is_revoked(self, token: Token) -> bool:
            return token.id == "revoked"

    class User:
        identity = "ada"

    async def load_user(token: Token) -> Any:
        return None if token.id == "unloved" else User()

    app, came = renewing()
    scope = opened(token(**OURS, exp=NOW + 1))
    async with running(app, scope, providers=PROVIDERS, revocations=ByToken(), load_user=load_user) as run:
        await renewed(run, came, new_token)
        assert isinstance(came[0], refusal)
        run.clock.now = NOW + 1 + LEEWAY
        await run.ends()
    assert run.server.sent == [{"type": "websocket.accept"}, CLOSED]


async def test_tokens_that_name_nobody_are_not_the_same_persons() -> None:
    app, came = renewing()
    async with running(app, opened(token(sub=None, exp=NOW + 1))) as run:
        await renewed(run, came, token(sub=None, exp=NOW + 100))
        assert isinstance(came[0], InvalidClaim)


async def test_a_connection_that_was_ended_is_not_renewed() -> None:
    came: list[Refusal] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass
        try:
            await renew(scope, LATER)
        except Refusal as refusal:
            came.append(refusal)

    async with running(app, opened()) as run:
        await until(lambda: len(run.timer) == 1)
        run.clock.now = NOW + 60
        await run.ends()
    assert isinstance(came[0], Expired)


async def test_nobodys_connection_cannot_be_renewed() -> None:
    app, came = renewing()
    async with running(app, websocket(), public=["/"]) as run:
        await renewed(run, came, LATER)
    assert isinstance(came[0], MissingToken)


async def test_only_open_connections_can_be_renewed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match="close_streams_on_expiry=True"):
            await renew(scope, LATER)
        await JSONResponse("seen")(scope, receive, send)

    async with running(app, http("/", f"Bearer {SOON}".encode())) as run:
        await run.ends()
    assert run.server.sent[-1]["body"] == b'"seen"'


def streaming(spec_version: str, raw: str = SOON) -> Scope:
    return http("/", f"Bearer {raw}".encode(), asgi={"version": "3.0", "spec_version": spec_version})


async def forever() -> AsyncIterator[bytes]:
    while True:
        yield b"data: tick\n\n"
        await anyio.sleep(0.01)


@pytest.mark.parametrize("spec_version", ["2.0", "2.4"])
async def test_a_stream_ends_when_its_token_does(spec_version: str, caplog: pytest.LogCaptureFixture) -> None:
    app = StreamingResponse(forever(), media_type="text/event-stream")
    async with running(app, streaming(spec_version), close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.body")
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert [message.get("more_body") for message in run.server.sent[1:]].count(False) == 1
    assert not warnings(caplog)


async def test_a_stream_whose_app_waits_for_something_else_ends_for_the_client() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        seen.append(await receive())
        with pytest.raises(OSError, match="expired"):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.start")
        run.clock.now = NOW + 60
        await run.ends()
    assert seen == [{"type": "http.disconnect"}]
    assert run.server.sent[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]


async def test_trailers_that_were_announced_are_sent() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.start")
        run.clock.now = NOW + 60
        await run.ends()
    assert [message["type"] for message in run.server.sent[1:]] == ["http.response.body", "http.response.trailers"]


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length"])
async def test_a_response_that_says_its_length_is_never_cut(name: bytes) -> None:
    go = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(name, b"2")]})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await go.wait()
        await send({"type": "http.response.body", "body": b"k", "more_body": False})

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.body")
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        go.set()
        await run.ends()
    assert b"".join(message["body"] for message in run.server.sent[1:]) == b"ok"


async def test_a_response_that_has_not_begun_is_not_cut() -> None:
    began, go = anyio.Event(), anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await began.wait()
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        go.set()
        await run.ends()
    assert run.server.sent[-1]["body"] == b"ok"


async def test_an_app_that_starts_twice_is_ended_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.start")
        assert len(run.timer) == 1
        run.clock.now = NOW + 60
        await run.ends()
    assert len(run.timer) == 0
    assert [message["type"] for message in run.server.sent].count("http.response.body") == 1


async def test_a_stream_whose_client_has_gone_is_not_ended_again() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        await anyio.sleep_forever()

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.start")
        run.server.comes({"type": "http.disconnect"})
        await until(lambda: len(run.timer) == 0)
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
    assert len(run.server.sent) == 1


async def test_streams_are_left_alone_unless_told_otherwise() -> None:
    app = StreamingResponse(forever())
    async with running(app, streaming("2.4")) as run:
        await run.server.has_sent("http.response.body")
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()


async def test_a_stream_is_renewed_as_well() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await renew(scope, LATER)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.start")
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 2000
        await run.ends()


async def test_streams_of_nobody_and_websockets_pass_where_streams_are_closed() -> None:
    async with running(JSONResponse("seen"), http(), public=["/"], close_streams_on_expiry=True) as run:
        await run.ends()
    assert run.server.sent[-1]["body"] == b'"seen"'
    async with running(Listener(), opened(), close_streams_on_expiry=True) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1] == CLOSED


async def tasks() -> int:
    """How many tasks live on this event loop, once those that are ending have ended."""
    await anyio.sleep(0.05)
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        import trio

        return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize("who", ["app", "client", "token"])
async def test_nothing_is_left_whoever_ends_the_connection(who: str) -> None:
    middleware = JWTMiddleware(listens_or_leaves, key=SECRET, audience="orders", clock=(clock := Clock()))
    before = await tasks()
    references = []
    for _ in range(3):
        server = Server({"type": "websocket.connect"})
        scope = opened()
        async with anyio.create_task_group() as together:
            together.start_soon(middleware, scope, server.receive, server.send)
            await server.has_sent("websocket.accept")
            references.append(weakref.ref(scope["jwt_middleware.connection"]))
            if who == "client":
                server.comes({"type": "websocket.disconnect", "code": 1001})
            elif who == "app":
                server.comes({"type": "websocket.receive", "text": "leave"})
            else:
                clock.now += 60
        clock.now = NOW
        server.close()
        del scope, server, together
    assert await tasks() == before
    timer = middleware._connections.timer()
    assert (len(timer), timer._ends) == (0, [])
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


async def listens_or_leaves(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    if (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.close"})


def bare_timer(clock: Clock, revocations: Any = None) -> Timer:
    return Timer(Background("test"), revocations, clock)


class Bare(Connection):
    """A connection that only keeps when it was ended."""

    def __init__(self, timer: Timer, good_until: float) -> None:
        self.good_until = good_until
        self.token = Token(("jwt", b"", b"", None, "ada", (), None, None, 0))
        self.ended: list[Refusal] = []
        self.timer = timer
        self.place = timer.add(self)

    def condemn(self, refusal: Refusal) -> None:
        self.refusal = refusal

    def end(self) -> Any:
        self.timer.discard(self.place)
        self.ended.append(self.refusal)

    _say = _disconnect = _received = _sent = None  # type: ignore[assignment]  # never asked


async def test_renewals_and_departures_do_not_pile_up() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    stays = Bare(timer, NOW + 1000)
    for number in range(10_000):
        Bare.__init__(passing := object.__new__(Bare), timer, NOW + 10_000 + number)
        timer.discard(passing.place)
        stays.good_until += 1
        timer.move(stays.place)
        assert len(timer._ends) <= 70
    clock.now = NOW + 10_999.5
    await anyio.sleep(2 * TICK)
    assert not stays.ended
    clock.now = NOW + 11_000
    await anyio.sleep(2 * TICK)
    assert len(stays.ended) == 1


async def test_each_connection_ends_in_its_own_time_whatever_their_order() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    connections = {seconds: Bare(timer, NOW + seconds) for seconds in (5, 1, 4, 2, 3)}
    for now in range(1, 6):
        clock.now = NOW + now
        await anyio.sleep(1.5 * TICK)
        assert sorted(seconds for seconds, one in connections.items() if one.ended) == list(range(1, now + 1))


async def test_many_that_end_at_once_let_others_have_their_turn() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    connections = [Bare(timer, NOW + 1) for _ in range(500)]
    clock.now = NOW + 1
    turns: list[int] = []
    with anyio.fail_after(5):
        while len(timer):
            turns.append(sum(len(one.ended) for one in connections))
            await anyio.lowlevel.checkpoint()
    assert max(after - before for before, after in pairwise(turns)) <= 100


async def test_a_timer_starts_again_after_it_had_nothing_to_do() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    for _ in range(3):
        connection = Bare(timer, clock.now + 1)
        timer.discard(connection.place)
        connection = Bare(timer, clock.now + 1)
        clock.now += 2
        await anyio.sleep(1.5 * TICK)
        assert len(connection.ended) == 1


async def test_a_timer_whose_clock_fails_starts_again_with_the_next_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Clock):
        def __call__(self) -> float:
            if self.now == 0:
                raise LookupError("no time")
            return self.now

    clock = Broken()
    timer = bare_timer(clock)
    first = Bare(timer, NOW + 1)
    clock.now = 0
    await anyio.sleep(1.5 * TICK)
    assert "a detached task failed" in caplog.text
    clock.now = NOW + 2
    Bare(timer, NOW + 1000)
    await anyio.sleep(1.5 * TICK)
    assert len(first.ended) == 1


async def test_the_look_at_many_revocations_lets_others_have_their_turn() -> None:
    class Slow(Revoking):
        def is_revoked(self, token: Token) -> bool:
            self.looked += 1
            return self.looked % 10 == 0

    revocations = Slow()
    timer = bare_timer(Clock(), revocations)
    connections = [Bare(timer, NOW + 1000) for _ in range(2000)]
    turns = [0]
    with anyio.fail_after(5):
        while revocations.looked < 2000:
            turns.append(revocations.looked)
            await anyio.lowlevel.checkpoint()
    assert max(after - before for before, after in pairwise(turns)) <= 1000
    await until(lambda: sum(len(one.ended) for one in connections) >= 200)


def test_what_is_left_of_a_connection_says_that_it_is_over() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.extend((receive, send))

    async def check() -> None:
        async with running(app, opened()) as run:
            await run.ends()
        with pytest.raises(Ended):
            await kept[0]()
        with pytest.raises(Ended):
            await kept[1]({"type": "websocket.send", "text": "x"})

    kept: list[Any] = []
    anyio.run(check)


def test_a_middleware_serves_several_event_loops_one_after_another() -> None:
    app, clock = Listener(), Clock()
    middleware = JWTMiddleware(app, key=SECRET, audience="orders", clock=clock)

    async def serve() -> None:
        server = Server({"type": "websocket.connect"})
        clock.now = NOW
        async with anyio.create_task_group() as together:
            together.start_soon(middleware, opened(), server.receive, server.send)
            await server.has_sent("websocket.accept")
            clock.now = NOW + 60
        assert server.sent[-1] == CLOSED
        server.close()

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(serve, backend=backend)


def test_connections_are_made_of_what_the_middleware_gives() -> None:
    async def authenticate(raw: str | bytes) -> tuple[Token, Any]:
        raise MalformedToken

    connections = Connections(
        good_until=lambda token: 5, authenticate=authenticate, revocations=None, refuser=Refuser(), clock=Clock()
    )
    assert connections.patience == 30


class Knowing(Revoking):
    """Tells of some subjects only: what it cannot tell, or raises, is of one of them."""

    def __init__(self, subject: str, error: Exception | None) -> None:
        super().__init__()
        self.subject = subject
        self.failure = error

    def is_revoked(self, token: Token) -> bool | None:
        if token.subject != self.subject:
            return token.subject in self.subjects
        if self.failure is not None:
            raise self.failure
        return None


@pytest.mark.parametrize("error", [None, LookupError("a bug of theirs")], ids=["cannot be told", "fails"])
@pytest.mark.parametrize("order", [["ada", "bob"], ["bob", "ada"]])
async def test_one_that_cannot_be_looked_up_saves_no_other_from_its_end(
    order: list[str], error: Exception | None
) -> None:
    revocations = Knowing("bob", error)
    revocations.can_catch_up = False
    app, clock = Listener(), Clock()
    middleware = JWTMiddleware(app, key=SECRET, audience="orders", clock=clock, revocations=Revoking())
    middleware._connections._revocations = revocations
    servers = {name: Server({"type": "websocket.connect"}) for name in order}
    async with anyio.create_task_group() as together:
        for name, server in servers.items():
            raw = token(sub=name, exp=NOW + 900)
            together.start_soon(middleware, opened(raw), server.receive, server.send)
            await server.has_sent("websocket.accept")
        revocations.subjects.add("ada")
        await servers["ada"].has_sent("websocket.close")
        assert not any(message["type"] == "websocket.close" for message in servers["bob"].sent)
        together.cancel_scope.cancel()
    for server in servers.values():
        server.close()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_app_whose_client_takes_nothing_more_ends_as_well(is_stream: bool) -> None:
    kind = "http.response.body" if is_stream else "websocket.send"
    raised: list[OSError] = []

    async def stuck(message: Message) -> None:
        if message["type"] == kind:
            await anyio.sleep_forever()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if is_stream:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": kind, "body": b"x", "text": "x", "more_body": True})
        except OSError as error:
            raised.append(error)
            raise

    server = Server({"type": "http.request"} if is_stream else {"type": "websocket.connect"})
    server.on_send = stuck
    scope = streaming("2.4") if is_stream else opened()
    async with running(app, scope, server, close_streams_on_expiry=True) as run:
        run.middleware._connections.patience = 0.1
        await server.has_sent(kind)
        run.clock.now = NOW + 60
        await run.ends()
    assert len(raised) == 1


async def test_a_mistake_in_catching_up_is_logged_and_everybody_still_expires(caplog: pytest.LogCaptureFixture) -> None:
    revocations = Revoking()
    async with running(Listener(), opened(), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        revocations.can_tell, revocations.is_broken = False, True
        await until(lambda: "another bug of theirs" in caplog.text)
        run.clock.now = NOW + 60
        await run.ends()


async def test_a_mistake_in_cleaning_up_after_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = WebSocket(scope, receive, send)
        await connection.accept()
        try:
            await connection.receive_text()
        except WebSocketDisconnect:
            raise KeyError("the room is not there")  # noqa: B904  # as apps do

    async with running(app, opened()) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert len(warnings(caplog)) == 1
    assert "the room is not there" in caplog.text


async def test_headers_that_can_be_read_once_come_to_the_server() -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"set-cookie", b"a=b")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": iter(headers)})
        await send({"type": "http.response.body", "body": b""})

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await run.ends()
    assert list(run.server.sent[0]["headers"]) == headers


async def test_a_message_that_is_no_body_does_not_free_a_stream_of_its_end() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.push", "path": "/style.css", "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with running(app, streaming("2.4"), close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.push")
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1]["type"] == "http.response.body"


async def test_a_close_that_the_server_does_not_take_ends_nothing() -> None:
    async def refuses(message: Message) -> None:
        if message.get("code") == 1:
            raise RuntimeError("1 is no close code")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        with suppress(RuntimeError):
            await send({"type": "websocket.close", "code": 1})
        await Listener()(scope, receive, send)

    server = Server({"type": "websocket.connect"})
    server.on_send = refuses
    async with running(app, opened(), server) as run:
        await until(lambda: len(server.sent) == 3)
        run.clock.now = NOW + 60
        await run.ends()
    assert server.sent[-1] == CLOSED


async def test_a_stream_of_nobody_has_no_token_to_renew() -> None:
    refused: list[Refusal] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await renew(scope, SOON)
        except Refusal as refusal:
            refused.append(refusal)

    async with running(app, http("/"), allow_anonymous=True, close_streams_on_expiry=True) as run:
        await run.ends()
    assert [refusal.code for refusal in refused] == ["missing_token"]


async def test_what_starlette_says_of_a_message_after_the_end_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = WebSocket(scope, receive, send)
        await connection.accept()
        with suppress(WebSocketDisconnect):
            await connection.receive_text()
        await connection.receive_text()

    async with running(app, opened()) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert not warnings(caplog)
