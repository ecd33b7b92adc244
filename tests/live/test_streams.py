"""A streamed response ends with its token."""

import zlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from jwt_middleware import JWTMiddleware, renew

from ..support import NOW, SECRET, Clock, http, until
from .connecting import CLOSED, LATER, LONG_ENOUGH, Listener, Server, opened, running, streaming, warnings

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


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
        assert run.open_connections == 1
        run.clock.now = NOW + 60
        await run.ends()
    assert run.open_connections == 0
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
        await until(lambda: run.open_connections == 0)
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


async def test_anonymous_streams_and_websockets_pass_where_streams_are_closed() -> None:
    async with running(JSONResponse("seen"), http(), public=["/"], close_streams_on_expiry=True) as run:
        await run.ends()
    assert run.server.sent[-1]["body"] == b'"seen"'
    async with running(Listener(), opened(), close_streams_on_expiry=True) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1] == CLOSED


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


@pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "outside"])
async def test_compression_belongs_outside(is_inside: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Inside, the compressor never learns that the response is over, and the log says what to do."""
    app: Any = StreamingResponse(forever(), media_type="application/x-ndjson")
    clock, server = Clock(), Server({"type": "http.request"})
    middleware = JWTMiddleware(
        GZipMiddleware(app, 1) if is_inside else app,
        key=SECRET,
        audience="orders",
        clock=clock,
        close_streams_on_expiry=True,
    )
    served = middleware if is_inside else GZipMiddleware(middleware, 1)
    scope = streaming("2.0")
    scope["headers"].append((b"accept-encoding", b"gzip"))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as together:
            together.start_soon(served, scope, server.receive, server.send)
            await server.has_sent("http.response.body")
            clock.now = NOW + 60
    server.close()
    body = zlib.decompressobj(31)
    body.decompress(b"".join(message.get("body", b"") for message in server.sent))
    assert body.eof is not is_inside
    assert ("put the compression middleware outside" in caplog.text) is is_inside
