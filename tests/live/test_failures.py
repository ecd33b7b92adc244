"""What an app or server raises around the end of a connection."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import JWTMiddleware

from ..support import NOW, SECRET, Clock, until
from .connecting import CLOSED, Listener, Server, opened, running, warnings

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


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
        await until(lambda: run.open_connections == 1)
        run.clock.now = NOW + 60
        await run.ends()
    (record,) = warnings(caplog)
    assert "serving a closed connection failed" in record.getMessage()
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
    assert middleware.open_connections == 0
    server.close()


async def test_a_cancelled_app_stays_cancelled() -> None:
    async with running(Listener(), opened()) as run:
        await run.server.has_sent("websocket.accept")
    assert run.over.is_set()
    assert run.open_connections == 0


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
