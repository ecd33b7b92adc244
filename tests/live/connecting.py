"""Open connections of one process, against a server that does what a test tells it."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jwt_middleware import JWTMiddleware, Token, renew
from jwt_middleware.errors import (
    Refusal,
    RevocationsUnavailable,
)
from jwt_middleware.live.connection import Connection
from jwt_middleware.live.timer import TICK

from ..support import NOW, SECRET, Clock, http, token, until, websocket
from ..support.logs import records

LEEWAY = 5
SOON = token(exp=NOW + 1)
LATER = token(exp=NOW + 1000)


LONG_ENOUGH = 2 * TICK
CLOSED = {"type": "websocket.close", "code": 3000, "reason": "expired"}
DISCONNECT = {"type": "websocket.disconnect", "code": 3000, "reason": "expired"}


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in records(caplog) if record.levelno > logging.INFO]


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

    def __init__(self, middleware: JWTMiddleware, scope: Scope, server: Server, clock: Clock) -> None:
        self.middleware = middleware
        self.scope = scope
        self.server = server
        self.clock = clock
        self.over = anyio.Event()

    @property
    def open_connections(self) -> int:
        return self.middleware.open_connections

    @property
    def connection(self) -> Connection:
        connection: Connection = self.scope["jwt_middleware.connection"]
        return connection

    async def ends(self, within: float = 5) -> None:
        with anyio.fail_after(within):
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
    run = Running(middleware, scope, server, clock)

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


def renewing() -> tuple[ASGIApp, list[Any]]:
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
                held = scope["auth"].token
                # A user without a subject has no identity to read.
                identity = None if held.subject is None else scope["user"].identity
                came.append((identity, held.expires_at, scope["auth"].scopes))

    return app, came


async def renewed(run: Running, came: list[Any], *texts: Any) -> None:
    for text in texts:
        run.server.comes({"type": "websocket.receive", "text": text})
    await until(lambda: len(came) == len(texts))


def streaming(spec_version: str, raw: str = SOON) -> Scope:
    return http("/", f"Bearer {raw}".encode(), asgi={"version": "3.0", "spec_version": spec_version})
