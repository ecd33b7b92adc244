"""The middleware starts its work before it says that startup is complete, and stops it before shutdown is."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message, Receive, Scope, Send

from jwt_middleware import JWTMiddleware, Token

from .support import SECRET, echo

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Work:
    """``Revocations`` that note what becomes of them."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def is_revoked(self, token: Token) -> bool | None:
        return False

    async def catch_up(self) -> None:
        self.noted.append("started")

    async def stop(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.noted.append("stopped")


async def lifespan(app: Any, work: Work) -> list[str]:
    """What happened in which order, on a server that cancels the app as soon as its shutdown is complete."""
    middleware = JWTMiddleware(app, key=SECRET, audience="orders", revocations=work)
    into, out_of = anyio.create_memory_object_stream[Message](2)
    for kind in ("startup", "shutdown"):
        into.send_nowait({"type": f"lifespan.{kind}"})

    with into, out_of, anyio.CancelScope() as server:

        async def send(message: Message) -> None:
            work.noted.append(message["type"].removeprefix("lifespan."))
            if message["type"].startswith("lifespan.shutdown"):
                server.cancel()

        await middleware({"type": "lifespan"}, out_of.receive, send)
    return work.noted


async def test_the_work_stops_before_the_server_hears_that_shutdown_is_complete() -> None:
    assert await lifespan(echo, Work()) == ["started", "startup.complete", "stopped", "shutdown.complete"]


async def test_the_work_stops_before_the_server_hears_that_shutdown_has_failed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "the database is gone"})

    assert await lifespan(app, Work()) == ["started", "startup.complete", "stopped", "shutdown.failed"]


async def test_a_startup_that_failed_starts_no_work() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is gone"})

    assert await lifespan(app, Work()) == ["startup.failed", "stopped"]


async def test_the_work_stops_where_the_app_raises() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise LookupError("a bug")

    work = Work()
    with pytest.raises(LookupError, match="a bug"):
        await lifespan(app, work)
    assert work.noted == ["started", "startup.complete", "stopped"]
