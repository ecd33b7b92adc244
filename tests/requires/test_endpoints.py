"""Functions, classes and ASGI apps are guarded, over HTTP and WebSocket."""

import asyncio
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import JWTMiddleware, requires

from ..support import NOW, SECRET, client, sent, websocket
from .guarding import (
    READER,
    WRITER,
    ConnectGuarded,
    Orders,
    PlainApp,
    by_function,
    echo_once,
    guards,
    guards_websocket,
    noisy,
    plain_app,
    refused,
    routed,
    with_a_greeting,
    with_a_greeting_sync,
)


@requires("orders:write")
def by_sync_function(req: Request) -> Response:
    return PlainTextResponse("hello")


@requires("orders:write")
async def by_function_without_annotations(whatever):  # type: ignore[no-untyped-def]  # most of Starlette's docs are so
    return PlainTextResponse("hello")


@requires("orders:write")
async def by_function_with_defaults(request: Request, greeting: str = "hello") -> Response:
    return PlainTextResponse(greeting)


class Controller:
    @requires("orders:write")
    async def method(self, request: Request) -> Response:
        return PlainTextResponse("hello")

    @requires("orders:write")
    def sync_method(self, request: Request) -> Response:
        return PlainTextResponse("hello")

    @staticmethod
    @requires("orders:write")
    async def static(request: Request) -> Response:
        return PlainTextResponse("hello")

    @classmethod
    @requires("orders:write")
    async def of_class(cls, request: Request) -> Response:
        return PlainTextResponse("hello")

    async def unguarded(self, request: Request) -> Response:
        return PlainTextResponse("hello")


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param(by_function, id="async"),
        pytest.param(by_sync_function, id="sync"),
        pytest.param(by_function_without_annotations, id="no annotations"),
        pytest.param(by_function_with_defaults, id="defaults"),
        pytest.param(requires("orders:write")(partial(with_a_greeting, "hello")), id="partial"),
        pytest.param(requires("orders:write")(partial(with_a_greeting_sync, "hello")), id="sync partial"),
        pytest.param(partial(requires("orders:write")(with_a_greeting), "hello"), id="partial of a guarded function"),
        pytest.param(Controller().method, id="method"),
        pytest.param(Controller().sync_method, id="sync method"),
        pytest.param(Controller.static, id="static method"),
        pytest.param(Controller.of_class, id="class method"),
        pytest.param(requires("orders:write")(Controller().unguarded), id="bound method"),
        pytest.param(requires("orders:write")(lambda request: PlainTextResponse("hello")), id="lambda"),
        pytest.param(
            requires("orders:write")(noisy(partial(with_a_greeting, "hello"))), id="outside another decorator"
        ),
    ],
)
def test_a_function_is_guarded(endpoint: Any, backend: str) -> None:
    response = guards(routed(Route("/", endpoint), backend=backend))
    assert (response.status_code, response.text) == (200, "hello")


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param(noisy(by_function), id="another's"),
        pytest.param(noisy(noisy(by_sync_function)), id="two"),
        pytest.param(requires()(by_sync_function), id="ours"),
    ],
)
def test_a_function_inside_another_decorator_is_guarded(endpoint: Any, backend: str) -> None:
    service = routed(Route("/", endpoint), backend=backend)
    refused(service)
    assert service.get("/", headers=WRITER).text == "hello"


def test_a_sync_function_does_not_run_on_the_event_loop() -> None:
    @requires()
    def sync(request: Request) -> Response:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return PlainTextResponse("hello")

    assert routed(Route("/", sync)).get("/", headers=READER).text == "hello"


class OrdersByMethod(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("free")

    @requires("orders:write")
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("hello")

    @requires("orders:write")
    def put(self, request: Request) -> Response:
        return PlainTextResponse("hello")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_http_endpoint_class_is_guarded(method: str, backend: str) -> None:
    service = routed(Route("/", requires("orders:write")(Orders)), backend=backend)
    assert guards(service, method=method).text == "hello"
    assert service.head("/").status_code == 401
    assert service.head("/", headers=WRITER).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_method_of_an_http_endpoint_is_guarded(method: str, backend: str) -> None:
    service = routed(Route("/", OrdersByMethod), backend=backend)
    assert guards(service, method=method).text == "hello"
    assert service.get("/").text == "free"


def test_a_guarded_get_answers_head_as_the_middleware_does() -> None:
    class Endpoint(HTTPEndpoint):
        @requires("orders:write")
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("hello")

    service = routed(Route("/", Endpoint))
    for refusal in refused(service, method="HEAD"):
        assert refusal.headers["content-type"] == "application/json"
    assert service.head("/", headers=WRITER).status_code == 200


def test_a_guarded_class_leaves_the_class_as_it_was() -> None:
    guarded = requires("orders:write")(Orders)
    assert issubclass(guarded, Orders)
    assert (guarded.__name__, guarded.__qualname__, guarded.__doc__) == ("Orders", "Orders", "Orders.")
    assert guarded.__module__ == Orders.__module__
    service = routed(Route("/guarded", guarded), Route("/free", Orders))
    assert service.get("/free").text == "hello"
    assert service.get("/guarded").status_code == 401


def test_a_class_below_a_guarded_class_is_guarded() -> None:
    @requires("orders:write")
    class Parent(HTTPEndpoint):
        pass

    class Child(Parent):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("hello")

    assert guards(routed(Route("/", Child))).text == "hello"


@requires("orders:write")
class EchoEndpoint(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(data)


@requires("orders:write")
async def websocket_app(scope: Scope, receive: Receive, send: Send) -> None:
    await echo_once.__wrapped__(WebSocket(scope, receive, send))  # type: ignore[attr-defined]  # wraps() sets it


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(WebSocketRoute("/", echo_once), id="function"),
        pytest.param(WebSocketRoute("/", EchoEndpoint), id="class"),
        pytest.param(WebSocketRoute("/", ConnectGuarded), id="on_connect"),
        pytest.param(Mount("/", websocket_app), id="ASGI app"),
    ],
)
def test_a_websocket_is_guarded(route: BaseRoute, backend: str) -> None:
    assert guards_websocket(routed(route, backend=backend)) == "hello"


@pytest.mark.anyio
@pytest.mark.parametrize("endpoint", [echo_once, EchoEndpoint, ConnectGuarded])
@pytest.mark.parametrize(
    ("lines", "close_code", "reason"),
    [
        pytest.param([], 3000, "missing_token", id="nobody"),
        pytest.param([READER["authorization"].encode()], 3003, "insufficient_scope", id="a reader"),
    ],
)
async def test_a_websocket_is_closed_before_accept_where_the_server_cannot_deny(
    endpoint: Any, lines: list[bytes], close_code: int, reason: str
) -> None:
    app = JWTMiddleware(
        Starlette(routes=[WebSocketRoute("/", endpoint)]),
        key=SECRET,
        audience="orders",
        clock=lambda: NOW,
        allow_anonymous=True,
    )
    close = {"type": "websocket.close", "code": close_code, "reason": reason}
    assert await sent(app, websocket("/", *lines)) == [close]


def test_an_open_websocket_is_closed_by_a_guarded_on_receive(backend: str) -> None:
    class ReceiveGuarded(WebSocketEndpoint):
        encoding = "text"

        @requires("orders:write")
        async def on_receive(self, websocket: WebSocket, data: str) -> None:
            await websocket.send_text(data)

    service = routed(WebSocketRoute("/", ReceiveGuarded), backend=backend)
    with service.websocket_connect("/", headers=WRITER) as connection:
        connection.send_text("hello")
        assert connection.receive_text() == "hello"
    with service.websocket_connect("/", headers=READER) as connection:
        connection.send_text("hello")
        with pytest.raises(WebSocketDisconnect) as closed:
            connection.receive_text()
    assert (closed.value.code, closed.value.reason) == (3003, "insufficient_scope")


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(plain_app, id="function"),
        pytest.param(PlainApp(), id="object"),
        pytest.param(PlainApp().__call__, id="method"),
        pytest.param(Starlette(routes=[Route("/", lambda request: PlainTextResponse("hello"))]), id="Starlette"),
        pytest.param(partial(PlainApp()), id="partial of an object"),
    ],
)
def test_an_asgi_app_is_guarded_wherever_it_is_mounted(app: Any, backend: str) -> None:
    guarded = requires("orders:write")(app)
    assert guards(routed(Mount("/sub", guarded), backend=backend), "/sub/").text == "hello"
    assert guards(client(guarded, allow_anonymous=True)).text == "hello"


@pytest.mark.anyio
async def test_lifespan_passes_a_guarded_app() -> None:
    types: list[str] = []

    class App:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            types.append(scope["type"])

    await sent(requires("orders:write")(App()), {"type": "lifespan"})
    assert types == ["lifespan"]


@pytest.mark.anyio
async def test_no_other_scope_type_passes_a_guarded_app() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the app was reached")

    with pytest.raises(RuntimeError, match="no credentials for the scope type 'webtransport'"):
        await sent(requires("orders:write")(app), {"type": "webtransport"})


@pytest.mark.anyio
async def test_no_argument_of_a_function_makes_it_an_app() -> None:
    @requires("orders:write")
    async def helper(order: dict[str, Any], amount: int, price: int) -> None:
        raise AssertionError("the helper was reached")

    with pytest.raises(RuntimeError, match="found no request"):
        await helper({"type": "lifespan"}, 1, 2)
