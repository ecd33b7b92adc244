"""Nothing is left of a connection that is over, nor of its event loop."""

import asyncio
import gc
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Receive, Scope, Send

from jwt_middleware import JWTMiddleware
from jwt_middleware.live.connection import Ended

from ..support import NOW, SECRET, Clock
from .connecting import CLOSED, Listener, Server, opened, running

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


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
    assert middleware.open_connections == 0
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


async def listens_or_leaves(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    if (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.close"})


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
