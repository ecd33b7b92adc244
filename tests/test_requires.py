import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache, partial, wraps
from inspect import isclass
from typing import Annotated, Any

import anyio.lowlevel
import httpx2
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI
from fastapi import Request as FastAPIRequest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import ConfigurationError, JWTMiddleware, requires
from jwt_middleware.errors import Refusal

from .support import NOW, SECRET, bare_client, bearer, client, http, sent, token, websocket

READER = bearer(token(scope="orders:read"))
WRITER = bearer(token(scope="orders:read orders:write"))

FORBIDDEN = (
    'Bearer realm="api", error="insufficient_scope", '
    'error_description="The access token lacks a scope that is needed here.", scope="orders:write"'
)


def routed(*routes: BaseRoute, **options: Any) -> TestClient:
    return client(Starlette(routes=list(routes)), allow_anonymous=True, **options)


def guards(service: TestClient, path: str = "/", method: str = "GET", **request: Any) -> httpx2.Response:
    """The response to a writer, once a reader and nobody have been refused as they should be."""
    nobody, reader = refused(service, path, method, **request)
    assert (nobody.json()["code"], reader.json()["code"]) == ("missing_token", "insufficient_scope")
    return service.request(method, path, headers=WRITER, **request)


def refused(service: TestClient, path: str = "/", method: str = "GET", **request: Any) -> list[httpx2.Response]:
    """The responses to nobody and to a reader, with the right status and challenge whatever the body."""
    nobody = service.request(method, path, **request)
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, 'Bearer realm="api"')
    reader = service.request(method, path, headers=READER, **request)
    assert (reader.status_code, reader.headers["www-authenticate"]) == (403, FORBIDDEN)
    return [nobody, reader]


def guards_websocket(service: TestClient, path: str = "/") -> str:
    """What a writer is told, once a reader and nobody have been denied as they should be."""
    for headers, status in (({}, 401), (READER, 403)):
        with pytest.raises(WebSocketDenialResponse) as denied, service.websocket_connect(path, headers=headers):
            pass
        assert denied.value.status_code == status
        assert denied.value.headers["www-authenticate"] == (FORBIDDEN if status == 403 else 'Bearer realm="api"')
    with service.websocket_connect(path, headers=WRITER) as connection:
        connection.send_text("hello")
        return connection.receive_text()


# Endpoints of Starlette's, with arguments of any name.


@requires("orders:write")
async def by_function(request: Request) -> Response:
    """Says hello."""
    await anyio.lowlevel.checkpoint()
    return PlainTextResponse("hello")


@requires("orders:write")
def by_sync_function(req: Request) -> Response:
    return PlainTextResponse("hello")


@requires("orders:write")
async def by_function_without_annotations(whatever):  # type: ignore[no-untyped-def]  # most of Starlette's docs are so
    return PlainTextResponse("hello")


@requires("orders:write")
async def by_function_with_defaults(request: Request, greeting: str = "hello") -> Response:
    return PlainTextResponse(greeting)


async def with_a_greeting(greeting: str, request: Request) -> Response:
    return PlainTextResponse(greeting)


def with_a_greeting_sync(greeting: str, request: Request) -> Response:
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


def noisy(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await endpoint(*args, **kwargs)

    return wrapper


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


class Orders(HTTPEndpoint):
    """Orders."""

    async def get(self, request: Request) -> Response:
        return PlainTextResponse("hello")

    def post(self, request: Request) -> Response:
        return PlainTextResponse("hello")


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
async def echo_once(connection: WebSocket) -> None:
    await connection.accept()
    await connection.send_text(await connection.receive_text())
    await connection.close()


@requires("orders:write")
class EchoEndpoint(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(data)


class ConnectGuarded(WebSocketEndpoint):
    encoding = "text"

    @requires("orders:write")
    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()

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


async def plain_app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


class PlainApp:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await plain_app(scope, receive, send)


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


# FastAPI: endpoints of every signature.


class Order(BaseModel):
    item: str
    amount: int = 1


def subject(connection: HTTPConnection) -> str:
    identity: str = connection.user.identity
    return identity


def number(n: int = 7) -> int:
    return n


service = FastAPI()
Number = Annotated[int, Depends(number)]


@service.get("/bare")
@requires("orders:write")
async def bare() -> str:
    """Takes nothing."""
    return "hello"


@service.get("/bare-sync")
@requires("orders:write")
def bare_sync() -> str:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    return "hello"


@service.get("/request")
@requires("orders:write")
async def with_request(request: Request) -> str:
    return subject(request)


@service.get("/fastapi-request")
@requires("orders:write")
async def with_fastapi_request(r: FastAPIRequest) -> str:
    return subject(r)


@service.get("/connection")
@requires("orders:write")
def with_connection(connection: HTTPConnection) -> str:
    return subject(connection)


@service.get("/string")
@requires("orders:write")
async def with_string_annotation(request: "Request", n: "Number", q: "int" = 1) -> "list[int | str]":
    return [subject(request), n, q]


@service.get("/annotated-request")
@requires("orders:write")
async def with_annotated_request(request: Annotated[Request, "ours"]) -> str:
    return subject(request)


@service.get("/path/{n}")
@requires("orders:write")
async def with_path(n: int, q: str = "default") -> list[int | str]:
    return [n, q]


@service.get("/depends")
@requires("orders:write")
async def with_depends(n: Number, m: int = Depends(number)) -> list[int]:
    return [n, m]


@service.post("/body", status_code=201)
@requires("orders:write")
async def with_body(order: Order, note: Annotated[str, Body()] = "") -> Order:
    return order


@service.get("/model", response_model=Order)
@requires("orders:write")
async def with_response_model() -> dict[str, Any]:
    return {"item": "book", "amount": 2, "secret": "left out"}


@service.get("/keywords")
@requires("orders:write")
async def with_keywords(n: int, **kwargs: Any) -> int:
    return n


@service.get("/twice")
@requires("orders:read")
@requires("orders:write")
async def twice(n: Number) -> int:
    return n


@service.get("/noisy")
@noisy
@requires("orders:write")
async def decorated(n: Number) -> int:
    return n


def of_one_argument(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    async def wrapper(request: Request) -> Any:
        return await endpoint(request)

    return wrapper


@service.get("/decorated")
@of_one_argument
@requires("orders:write")
async def decorated_with_request(request: Request) -> str:
    return subject(request)


@service.get("/decorated-string")
@of_one_argument
@requires("orders:write")
async def decorated_with_string_annotation(request: "Request") -> str:
    return subject(request)


router = APIRouter(prefix="/router")


@router.get("/bare")
@requires("orders:write")
async def on_a_router() -> str:
    return "hello"


class Methods:
    @requires("orders:write")
    async def method(self, n: Number) -> int:
        return n


router.add_api_route("/method", Methods().method)
router.add_api_route("/partial", requires("orders:write")(partial(number, n=3)))
service.include_router(router)


@service.websocket("/websocket")
@requires("orders:write")
async def with_websocket(websocket: WebSocket, n: Number) -> None:
    await websocket.accept()
    await websocket.send_text(f"{await websocket.receive_text()} {n}")


@service.websocket("/websocket-by-connection")
@requires("orders:write")
async def with_websocket_by_another_name(connection: "WebSocket") -> None:
    await echo_once.__wrapped__(connection)  # type: ignore[attr-defined]  # wraps() sets it


def fastapi(backend: str = "asyncio") -> TestClient:
    return client(service, allow_anonymous=True, backend=backend)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/bare", "hello"),
        ("/bare-sync", "hello"),
        ("/request", "ada"),
        ("/fastapi-request", "ada"),
        ("/connection", "ada"),
        ("/string?q=3", ["ada", 7, 3]),
        ("/annotated-request", "ada"),
        ("/path/5?q=a", [5, "a"]),
        ("/depends?n=2", [2, 2]),
        ("/model", {"item": "book", "amount": 2}),
        ("/router/bare", "hello"),
        ("/router/method?n=4", 4),
        ("/router/partial", 3),
    ],
)
def test_a_fastapi_endpoint_is_guarded_whatever_its_signature(path: str, body: Any, backend: str) -> None:
    response = guards(fastapi(backend), path)
    assert (response.status_code, response.json()) == (200, body)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/twice?n=1", 1), ("/noisy?n=1", 1), ("/decorated", "ada"), ("/decorated-string", "ada")],
)
def test_a_fastapi_endpoint_inside_another_decorator_is_guarded(path: str, body: Any, backend: str) -> None:
    guarded = fastapi(backend)
    refused(guarded, path)
    assert guarded.get(path, headers=WRITER).json() == body


def test_a_fastapi_endpoint_with_a_body_is_guarded() -> None:
    response = guards(fastapi(), "/body", "POST", json={"order": {"item": "book"}, "note": "soon"})
    assert (response.status_code, response.json()) == (201, {"item": "book", "amount": 1})


def test_a_fastapi_endpoint_with_open_keywords_gets_none_of_ours() -> None:
    response = fastapi().get("/keywords?n=3&kwargs=x", headers=WRITER)
    assert (response.status_code, response.json()) == (200, 3)
    assert fastapi().get("/keywords?n=3&kwargs=x").status_code == 401


@pytest.mark.parametrize(
    ("path", "said"), [("/websocket?n=2", "hello 2"), ("/websocket-by-connection", "hello")], ids=["named", "unnamed"]
)
def test_a_fastapi_websocket_is_guarded(path: str, said: str, backend: str) -> None:
    assert guards_websocket(fastapi(backend), path) == said


@pytest.mark.parametrize("name", ["jwt_middleware_connection", "request", "given"])
def test_no_parameter_of_a_request_stands_for_its_connection(name: str) -> None:
    assert fastapi().get("/bare", params={name: "x"}).status_code == 401
    assert fastapi().get("/bare", params={name: "x"}, headers=READER).status_code == 403
    assert fastapi().get("/bare", params={name: "x"}, headers=WRITER).status_code == 200


def test_the_openapi_schema_does_not_show_what_we_inject() -> None:
    schema = fastapi().get("/openapi.json", headers=WRITER).json()
    assert "jwt_middleware" not in str(schema)
    assert "parameters" not in schema["paths"]["/bare"]["get"]
    assert schema["paths"]["/bare"]["get"]["description"] == "Takes nothing."
    assert schema["paths"]["/bare"]["get"]["summary"] == "Bare"
    assert [p["name"] for p in schema["paths"]["/path/{n}"]["get"]["parameters"]] == ["n", "q"]


# Dependencies: what is not an endpoint cannot answer, so it must raise.

dependent = FastAPI()
reached: list[str] = []


@requires("orders:write")
async def writer() -> str:
    return "a writer"


@requires("orders:write")
def sync_writer(connection: HTTPConnection) -> str:
    return "a writer"


@dependent.get("/value")
async def by_value(who: Annotated[str, Depends(writer)]) -> str:
    reached.append("value")
    return who


@dependent.get("/sync-value")
async def by_sync_value(who: Annotated[str, Depends(sync_writer)]) -> str:
    reached.append("sync-value")
    return who


@dependent.get("/route", dependencies=[Depends(writer)])
async def by_route() -> str:
    reached.append("route")
    return "a writer"


@dependent.get("/called")
async def by_call(request: Request) -> str:
    await sync_writer(request)  # type: ignore[misc]  # it is async once it is guarded
    reached.append("called")
    return "a writer"


@dependent.websocket("/websocket")
async def by_websocket(websocket: WebSocket, who: Annotated[str, Depends(writer)]) -> None:
    reached.append("websocket")
    await websocket.accept()
    await websocket.send_text(who)
    await websocket.close()


guarded_router = APIRouter(dependencies=[Depends(writer)])


@guarded_router.get("/router")
async def by_router() -> str:
    reached.append("router")
    return "a writer"


dependent.include_router(guarded_router)


@dependent.get("/guarded")
@requires("orders:read")
async def by_value_of_a_guarded_endpoint(who: Annotated[str, Depends(writer)]) -> str:
    reached.append("guarded")
    return who


@pytest.mark.parametrize("path", ["/value", "/sync-value", "/route", "/router", "/called", "/guarded"])
def test_a_guarded_dependency_refuses_before_the_endpoint_runs(path: str, backend: str) -> None:
    reached.clear()
    guarded = client(dependent, allow_anonymous=True, backend=backend)
    nobody, reader = guarded.get(path), guarded.get(path, headers=READER)
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, 'Bearer realm="api"')
    assert (reader.status_code, reader.headers["www-authenticate"]) == (403, FORBIDDEN)
    assert not reached
    assert guarded.get(path, headers=WRITER).json() == "a writer"
    assert reached == [path.removeprefix("/")]


def test_a_guarded_dependency_refuses_websockets_before_the_endpoint_runs(backend: str) -> None:
    reached.clear()
    guarded = client(dependent, allow_anonymous=True, backend=backend)
    for headers, code in (({}, 3000), (READER, 3003)):
        with pytest.raises(WebSocketDisconnect) as closed, guarded.websocket_connect("/websocket", headers=headers):
            pass
        assert closed.value.code == code
    assert not reached
    with guarded.websocket_connect("/websocket", headers=WRITER) as connection:
        assert connection.receive_text() == "a writer"


# Helpers: who calls them may drop what they return.


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


accepting = FastAPI()


async def accepted(websocket: WebSocket) -> None:
    await websocket.accept()


async def accepted_and_closed(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(4000)


@accepting.websocket("/accepted", dependencies=[Depends(accepted)])
@accepting.websocket("/closed", dependencies=[Depends(accepted_and_closed)])
@requires("orders:write")
async def after_a_dependency(websocket: WebSocket) -> None:
    raise AssertionError("the endpoint was reached")


@pytest.mark.parametrize(("path", "code"), [("/accepted", 3003), ("/closed", 4000)])
def test_a_websocket_is_closed_once(path: str, code: int, backend: str) -> None:
    service = client(accepting, allow_anonymous=True, backend=backend)
    with (
        service.websocket_connect(path, headers=READER) as connection,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        connection.receive_text()
    assert closed.value.code == code


misused = FastAPI()


@misused.post("/route", dependencies=[Depends(requires("orders:write"))])
@misused.get("/route", dependencies=[Depends(requires("orders:write"))])
async def misused_route() -> str:
    raise AssertionError("the endpoint was reached")


@misused.post("/value")
@misused.get("/value")
async def misused_value(guard: Annotated[Any, Depends(requires())]) -> str:
    raise AssertionError("the endpoint was reached")


@pytest.mark.parametrize("path", ["/route", "/value"])
@pytest.mark.parametrize("headers", [{}, READER, WRITER], ids=["nobody", "reader", "writer"])
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"params": {"endpoint": "x"}}, id="query"),
        pytest.param({"params": [("endpoint", "x"), ("endpoint", "y")]}, id="query twice"),
        pytest.param({"params": {"endpoint": "builtins.print"}}, id="query that names a function"),
        pytest.param({"method": "POST", "json": {"endpoint": "x"}}, id="JSON body"),
        pytest.param({"method": "POST", "json": "builtins.print"}, id="JSON string"),
        pytest.param({"method": "POST", "json": None}, id="JSON null"),
        pytest.param({"cookies": {"endpoint": "x"}}, id="cookie"),
    ],
)
def test_requires_itself_as_a_dependency_lets_nobody_in(
    path: str, headers: dict[str, str], request_: dict[str, Any]
) -> None:
    request = {"method": "GET", **request_}
    service = client(misused, allow_anonymous=True)
    service.cookies.update(request.pop("cookies", {}))
    assert service.request(url=path, headers=headers, **request).status_code in (403, 422)


# What is demanded.


def demanding(*scopes: str, **more: Any) -> TestClient:
    endpoint = requires(*scopes, **more)(with_a_greeting_sync.__get__("hello"))
    return routed(Route("/", endpoint))


@pytest.mark.parametrize(
    ("scopes", "any_of", "held", "missing"),
    [
        pytest.param([], None, "", None, id="nothing demanded"),
        pytest.param(["a"], None, "a", None, id="one, held"),
        pytest.param(["a"], None, "b", "a", id="one, not held"),
        pytest.param(["a"], None, "", "a", id="none held"),
        pytest.param(["a"], None, "aa", "a", id="part of another's name"),
        pytest.param(["a"], None, "A", "a", id="another case"),
        pytest.param(["a", "b"], None, "b a c", None, id="all held"),
        pytest.param(["a", "b", "c"], None, "b", "a c", id="some missing"),
        pytest.param([], ["a", "b"], "b", None, id="one of several"),
        pytest.param([], ["a", "b"], "c", "a b", id="none of several"),
        pytest.param([], "a", "a", None, id="one of one"),
        pytest.param([], ("a" for _ in "a"), "b", "a", id="one of an iterator"),
        pytest.param(["a"], ["b", "c"], "a c", None, id="all and one of"),
        pytest.param(["a"], ["b", "c"], "b c", "a", id="all missing, one of held"),
        pytest.param(["a"], ["b", "c"], "a", "b c", id="all held, one of missing"),
        pytest.param(["a"], ["a", "b"], "c", "a b", id="each is named once"),
    ],
)
def test_all_of_the_scopes_and_one_of_any_of_are_demanded(
    scopes: list[str], any_of: Any, held: str, missing: str | None
) -> None:
    response = demanding(*scopes, any_of=any_of).get("/", headers=bearer(token(scope=held)))
    if missing is None:
        assert response.text == "hello"
    else:
        assert response.status_code == 403
        assert response.headers["www-authenticate"].endswith(f', scope="{missing}"')


def test_any_user_will_do_where_no_scope_is_demanded() -> None:
    assert demanding().get("/").json()["code"] == "missing_token"
    assert demanding().get("/", headers=bearer(token(scope=None))).text == "hello"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"scopes": [by_function]}, TypeError, r"write @requires\(\)", id="no parentheses"),
        pytest.param({"scopes": [5]}, TypeError, "takes scopes, not 5", id="a number"),
        pytest.param({"scopes": [["a", "b"]]}, TypeError, "takes scopes, not", id="a list"),
        pytest.param({"scopes": [None]}, TypeError, "takes scopes, not None", id="None"),
        pytest.param({"any_of": [5]}, TypeError, "takes scopes, not 5", id="a number in any_of"),
        pytest.param({"any_of": 5}, TypeError, "takes scopes, not 5", id="a number as any_of"),
        pytest.param({"any_of": False}, TypeError, "takes scopes, not False", id="False as any_of"),
        pytest.param({"any_of": []}, ConfigurationError, "any_of must name a scope", id="an empty any_of"),
        pytest.param({"scopes": [""]}, ConfigurationError, "cannot be a scope", id="empty"),
        pytest.param({"scopes": ["a b"]}, ConfigurationError, "cannot be a scope", id="two in one"),
        pytest.param({"scopes": ['a"']}, ConfigurationError, "cannot be a scope", id="a quote"),
        pytest.param({"scopes": ["a\\"]}, ConfigurationError, "cannot be a scope", id="a backslash"),
        pytest.param({"scopes": ["a\n"]}, ConfigurationError, "cannot be a scope", id="a line feed"),
        pytest.param({"scopes": ["caf\u00e9"]}, ConfigurationError, "cannot be a scope", id="not ASCII"),
        pytest.param({"any_of": ["a", "b c"]}, ConfigurationError, "cannot be a scope", id="two in one of any_of"),
    ],
)
def test_what_cannot_be_demanded_is_refused_where_it_is_written(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        requires(*arguments.pop("scopes", []), **arguments)


async def async_generator() -> AsyncIterator[str]:
    yield "no answer"


def generator() -> Iterator[str]:
    yield "no answer"


class CallableEndpoint:
    async def __call__(self, request: Request) -> Response:
        return PlainTextResponse("hello")


class KeywordApp:
    async def __call__(self, scope: Scope, receive: Receive, *, send: Send) -> None:
        pass


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        pytest.param(None, "None is none", id="None"),
        pytest.param("orders:write", "'orders:write' is none", id="a string"),
        pytest.param(Order, "is none", id="a class that is no endpoint"),
        pytest.param(WebSocket, "is none", id="a class of Starlette's that is no endpoint"),
        pytest.param(CallableEndpoint(), "is none", id="an object that takes a request"),
        pytest.param(lru_cache(with_a_greeting_sync), "is none", id="a cache"),
        pytest.param(staticmethod(by_function), "is none", id="a static method, above"),
        pytest.param(KeywordApp(), "is none", id="an object that takes keywords"),
        pytest.param(getattr, "is none", id="a builtin"),
        pytest.param(generator, "cannot answer for a generator", id="a generator"),
        pytest.param(async_generator, "cannot answer for a generator", id="an async generator"),
        pytest.param(partial(generator), "cannot answer for a generator", id="partial of a generator"),
    ],
)
def test_what_is_no_endpoint_is_refused_where_it_is_decorated(endpoint: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        requires("orders:write")(endpoint)


# How it answers.


def test_an_endpoint_keeps_its_name_its_docstring_and_its_place() -> None:
    assert (by_function.__name__, by_function.__doc__) == ("by_function", "Says hello.")
    assert by_function.__module__ == __name__
    assert list(inspect.signature(with_path).parameters)[:2] == ["n", "q"]
    assert [route.name for route in Starlette(routes=[Route("/", by_function)]).routes if isinstance(route, Route)] == [
        "by_function"
    ]


@pytest.mark.anyio
async def test_an_endpoint_keeps_its_return_value() -> None:
    answer = StreamingResponse(iter([b"a", b"b"]))

    @requires()
    def endpoint(request: Request) -> Response:
        return answer

    @requires()
    async def async_endpoint(request: Request) -> Response:
        return answer

    scope = http("/", WRITER["authorization"].encode())
    await sent(JWTMiddleware(plain_app, key=SECRET, audience="orders", clock=lambda: NOW), scope)
    assert await async_endpoint(Request(scope)) is answer
    assert await endpoint(Request(scope)) is answer  # type: ignore[misc]  # it is async once it is guarded


def test_the_realm_and_the_refusal_response_are_the_middlewares() -> None:
    def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        return PlainTextResponse(f"{refusal.code} {refusal.subject} {connection.url.path}", refusal.status)

    service = routed(Route("/orders", by_function), realm="orders", refusal_response=page)
    response = service.get("/orders", headers=READER)
    assert (response.status_code, response.text) == (403, "insufficient_scope ada /orders")
    assert response.headers["www-authenticate"] == FORBIDDEN.replace('"api"', '"orders"')


def test_the_refusal_says_whose_token_it_was() -> None:
    told: list[Refusal] = []

    def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        told.append(refusal)
        return Response(status_code=refusal.status)

    service = routed(Route("/", by_function), refusal_response=page, name="staff")
    service.get("/", headers=bearer(token(header={"kid": "k"}, scope=None)))
    service.get("/")
    assert [(refusal.code, refusal.provider, refusal.kid, refusal.subject) for refusal in told] == [
        ("insufficient_scope", "staff", "k", "ada"),
        ("missing_token", None, None, None),
    ]


@pytest.mark.parametrize("user", [object(), {"is_authenticated": False}, "ada"], ids=["object", "dict", "str"])
def test_the_apps_own_user_need_not_be_one_of_ours(user: Any) -> None:
    service = routed(Route("/", by_function), load_user=lambda token: user)
    assert guards(service).text == "hello"


def test_scopes_that_the_app_grants_count() -> None:
    async def grant(scope: Scope, receive: Receive, send: Send) -> None:
        scope["auth"].scopes.append("orders:write")
        await requires("orders:write")(plain_app)(scope, receive, send)

    assert client(grant).get("/", headers=READER).text == "hello"


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(Starlette(routes=[Route("/", by_function)]), id="function"),
        pytest.param(Starlette(routes=[Route("/", requires()(Orders))]), id="class"),
        pytest.param(Starlette(routes=[Mount("/", requires()(PlainApp()))]), id="ASGI app"),
    ],
)
def test_without_the_middleware_in_front_it_is_an_error_and_not_a_way_in(app: ASGIApp) -> None:
    with pytest.raises(RuntimeError, match="wrap the app in JWTMiddleware"):
        bare_client(app).get("/")


@pytest.mark.anyio
@pytest.mark.parametrize("auth", [None, "spoofed", object()], ids=["None", "str", "object"])
async def test_credentials_of_someone_else_are_none(auth: Any) -> None:
    with pytest.raises(RuntimeError, match="wrap the app in JWTMiddleware"):
        await sent(requires()(plain_app), http(auth=auth))


@pytest.mark.anyio
async def test_a_function_that_is_given_no_request_is_an_error_and_not_a_way_in() -> None:
    @requires()
    async def helper(n: int) -> int:
        return n

    with pytest.raises(RuntimeError, match="found no request"):
        await helper(5)


def test_threads_do_not_mix_up_whose_request_it_is() -> None:
    seen: set[tuple[str, str]] = set()

    @requires("orders:write")
    def endpoint(request: Request) -> Response:
        seen.add((request.user.identity, request.query_params["who"]))
        return JSONResponse(None)

    service = routed(Route("/", endpoint))
    people = [f"user-{n}" for n in range(8)]
    calls = [
        threading.Thread(
            target=service.get, args=("/",), kwargs={"params": {"who": who}, "headers": bearer(token(sub=who))}
        )
        for who in people
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join(10)
    assert seen == {(who, who) for who in people}
