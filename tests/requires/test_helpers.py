"""A guarded helper raises, because its caller may drop what it returns."""

from functools import wraps
from inspect import isclass
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import requires

from ..support import client
from .guarding import READER, WRITER, ConnectGuarded, refused, routed

reached: list[str] = []


@requires("orders:write")
async def check(request: Request) -> Response:
    return PlainTextResponse("checked")


class CallsFunction(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        await check(request)
        return reach()


class CallsMethod(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        await self.check(request)
        return reach()

    @requires("orders:write")
    async def check(self, request: Request) -> None:
        pass


class CallsOtherMethod(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        await self.post(request)
        return reach()

    @requires("orders:write")
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("posted")


class CallsParent(CallsOtherMethod):
    async def post(self, request: Request) -> Response:
        await super().post(request)
        return reach()


class CallsGetFromHead(HTTPEndpoint):
    @requires("orders:write")
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("got")

    async def head(self, request: Request) -> Response:
        await self.get(request)
        return reach()


class CallsFromDispatch(HTTPEndpoint):
    async def dispatch(self) -> None:
        await self.get(Request(self.scope))
        await reach()(self.scope, self.receive, self.send)

    @requires("orders:write")
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("got")


class CallsFromNotAllowed(CallsMethod):
    async def method_not_allowed(self, request: Request) -> Response:
        return await self.get(request)


class CallsFromInstance(CallsOtherMethod):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.post = self.get  # type: ignore[method-assign]  # what the instance has is what the dispatch calls

    async def get(self, request: Request) -> Response:
        await CallsOtherMethod.post(self, request)
        return reach()


@wraps(check)
async def calls_what_it_wraps(request: Request) -> Response:
    await check(request)
    return reach()


def reach() -> Response:
    reached.append("reached")
    return PlainTextResponse("hello")


@pytest.mark.parametrize(
    ("endpoint", "method"),
    [
        pytest.param(CallsFunction, "GET", id="a function"),
        pytest.param(CallsMethod, "GET", id="a method"),
        pytest.param(CallsMethod, "HEAD", id="a method, asked with HEAD"),
        pytest.param(CallsOtherMethod, "GET", id="the method of another"),
        pytest.param(CallsGetFromHead, "HEAD", id="get from head"),
        pytest.param(CallsParent, "POST", id="its parent's"),
        pytest.param(CallsFromDispatch, "GET", id="from a dispatch of its own"),
        pytest.param(CallsFromNotAllowed, "CHECK", id="by the name of the HTTP method"),
        pytest.param(CallsFromInstance, "POST", id="what the instance replaced"),
        pytest.param(calls_what_it_wraps, "GET", id="what it wraps"),
    ],
)
def test_a_guarded_helper_of_an_endpoint_refuses_before_its_caller_goes_on(
    endpoint: Any, method: str, backend: str
) -> None:
    reached.clear()
    service = routed(Route("/", endpoint, methods=None if isclass(endpoint) else ["GET"]), backend=backend)
    refused(service, method=method)
    assert not reached
    assert service.request(method, "/", headers=WRITER).status_code == 200
    assert reached == ["reached"]


async def checked(request: Request, call_next: RequestResponseEndpoint) -> Response:
    await check(request)
    return await call_next(request)


async def checking_app(scope: Scope, receive: Receive, send: Send) -> None:
    await check(Request(scope, receive))
    await reach()(scope, receive, send)


def checked_fastapi() -> FastAPI:
    app = FastAPI()
    app.middleware("http")(checked)
    app.add_api_route("/", reach)
    return app


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(checked_fastapi(), id="FastAPI's middleware"),
        pytest.param(BaseHTTPMiddleware(Starlette(routes=[Route("/", lambda _: reach())]), checked), id="Starlette's"),
        pytest.param(checking_app, id="an ASGI app"),
    ],
)
def test_a_guarded_helper_of_a_middleware_lets_nobody_through(app: ASGIApp, backend: str) -> None:
    reached.clear()
    service = client(app, allow_anonymous=True, backend=backend)
    for headers, status in (({}, 401), (READER, 403)):
        with pytest.raises(HTTPException) as raised:
            service.get("/", headers=headers)
        assert raised.value.status_code == status
    assert not reached
    assert service.get("/", headers=WRITER).text == "hello"
    assert reached == ["reached"]


class TalksAfterCheck(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await self.check(websocket)
        reached.append(data)
        await websocket.close()

    @requires("orders:write")
    async def check(self, websocket: WebSocket) -> None:
        pass


class GuardedReceive(WebSocketEndpoint):
    encoding = "text"

    @requires("orders:write")
    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        reached.append(data)
        await websocket.close()


class ReceivesAsParent(GuardedReceive):
    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await super().on_receive(websocket, "unless refused")
        reached.append(data)


class ConnectsFromDispatch(ConnectGuarded):
    async def dispatch(self) -> None:
        websocket = WebSocket(self.scope, self.receive, self.send)
        await self.on_connect(websocket)
        reached.append("connected")


@pytest.mark.parametrize("endpoint", [TalksAfterCheck, GuardedReceive, ReceivesAsParent])
def test_a_guarded_helper_of_a_websocket_closes_it_before_its_caller_goes_on(endpoint: Any, backend: str) -> None:
    reached.clear()
    service = routed(WebSocketRoute("/", endpoint), backend=backend)
    for headers, code in (({}, 3000), (READER, 3003)):
        with service.websocket_connect("/", headers=headers) as connection:
            # Those that come before the client has seen the close find nobody who would read them.
            for _ in range(3):
                connection.send_text("hello")
            with pytest.raises(WebSocketDisconnect) as closed:
                connection.receive_text()
        assert closed.value.code == code
    assert not reached
    with service.websocket_connect("/", headers=WRITER) as connection:
        connection.send_text("hello")
        with pytest.raises(WebSocketDisconnect) as closed:
            connection.receive_text()
    assert closed.value.code == 1000
    assert "hello" in reached


class ConnectsAsParent(ConnectGuarded):
    async def on_connect(self, websocket: WebSocket) -> None:
        await super().on_connect(websocket)
        reached.append("connected")


@pytest.mark.parametrize("endpoint", [ConnectsFromDispatch, ConnectsAsParent])
def test_a_guarded_on_connect_refuses_before_its_caller_goes_on(endpoint: Any, backend: str) -> None:
    reached.clear()
    service = routed(WebSocketRoute("/", endpoint), backend=backend)
    for headers, code in (({}, 3000), (READER, 3003)):
        with pytest.raises(WebSocketDisconnect) as closed, service.websocket_connect("/", headers=headers):
            pass
        assert closed.value.code == code
    assert not reached
    with service.websocket_connect("/", headers=WRITER):
        pass
    assert reached == ["connected"]


def test_a_guarded_on_connect_that_is_called_once_more_refuses_before_its_caller_goes_on(backend: str) -> None:
    class ConnectsAgain(ConnectGuarded):
        async def on_receive(self, websocket: WebSocket, data: str) -> None:
            self.scope["auth"].scopes.clear()
            await self.on_connect(websocket)
            reached.append(data)

    reached.clear()
    service = routed(WebSocketRoute("/", ConnectsAgain), backend=backend)
    with service.websocket_connect("/", headers=WRITER) as connection:
        connection.send_text("hello")
        with pytest.raises(WebSocketDisconnect) as closed:
            connection.receive_text()
    assert closed.value.code == 3003
    assert not reached
