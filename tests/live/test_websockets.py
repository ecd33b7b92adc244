"""A WebSocket ends when its token expires."""

import logging
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jwt_middleware.errors import (
    Expired,
    Revoked,
)

from ..support import NOW, logged, until, websocket
from .connecting import (
    CLOSED,
    DISCONNECT,
    LATER,
    LEEWAY,
    LONG_ENOUGH,
    Listener,
    Server,
    opened,
    running,
    streaming,
    warnings,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


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
        await until(lambda: run.open_connections == 1)
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
        run.server.comes({"type": "websocket.receive", "text": "too late"})
        run.connection.block(Expired())
        run.connection.close()
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
        run.connection.block(Expired())
        run.connection.block(Revoked())
        run.server.comes({"type": "websocket.receive", "text": "too late"})
        await run.ends()
    assert seen == [DISCONNECT]
    assert run.server.sent == [{"type": "websocket.accept"}, CLOSED]
    assert run.open_connections == 0


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
async def test_a_client_that_takes_no_data_is_waited_for_half_a_minute(stuck_at: str) -> None:
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

    server = Server({"type": "websocket.connect"})
    server.on_send = stuck
    async with running(app, opened(), server) as run:
        await server.has_sent("websocket.send")
        run.clock.now = NOW + 60
        began = anyio.current_time()
        await run.ends(within=40)
        waited = anyio.current_time() - began
    assert waited == pytest.approx(30 if stuck_at == "websocket.close" else 0, abs=1)


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
        await until(lambda: run.open_connections == 0)
        sent = list(server.sent)
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        assert server.sent == sent
        assert not run.over.is_set()


async def test_without_a_token_nothing_ends() -> None:
    app = Listener()
    async with running(app, websocket(), public=["/"]) as run:
        await run.server.has_sent("websocket.accept")
        assert run.open_connections == 0
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
    async with running(Listener(), opened()) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert logged(caplog) == [(logging.INFO, "a connection of 'ada' was closed: expired (provider=jwt)")]


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
        await server.has_sent(kind)
        run.clock.now = NOW + 60
        await run.ends(within=40)
    assert len(raised) == 1


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
