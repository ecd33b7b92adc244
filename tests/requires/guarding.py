"""Endpoints that are guarded with ``requires``, and checks that they are."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import anyio.lowlevel
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from jwt_middleware import requires

from ..support import bearer, client, token

READER = bearer(token(scope="orders:read"))


WRITER = bearer(token(scope="orders:read orders:write"))


FORBIDDEN = (
    'Bearer realm="api", error="insufficient_scope", '
    'error_description="The access token lacks a scope that is needed here.", scope="orders:write"'
)


def routed(*routes: BaseRoute, middleware: Sequence[Middleware] = (), **options: Any) -> TestClient:
    """A client of an app with these routes; ``middleware`` stands inside ours, to which ``options`` go."""
    return client(Starlette(routes=list(routes), middleware=list(middleware)), allow_anonymous=True, **options)


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


async def with_a_greeting(greeting: str, request: Request) -> Response:
    return PlainTextResponse(greeting)


def with_a_greeting_sync(greeting: str, request: Request) -> Response:
    return PlainTextResponse(greeting)


def noisy(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await endpoint(*args, **kwargs)

    return wrapper


class Orders(HTTPEndpoint):
    """Orders."""

    async def get(self, request: Request) -> Response:
        return PlainTextResponse("hello")

    def post(self, request: Request) -> Response:
        return PlainTextResponse("hello")


@requires("orders:write")
async def echo_once(connection: WebSocket) -> None:
    await connection.accept()
    await connection.send_text(await connection.receive_text())
    await connection.close()


class ConnectGuarded(WebSocketEndpoint):
    encoding = "text"

    @requires("orders:write")
    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(data)


async def plain_app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


class PlainApp:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await plain_app(scope, receive, send)
