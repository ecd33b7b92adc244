import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import current_token

from .support import bearer, client, token


async def me(request: Request) -> Response:
    return PlainTextResponse(current_token(request).subject)


async def feed(websocket: WebSocket) -> None:
    subject = current_token(websocket).subject
    await websocket.accept()
    await websocket.send_text(subject)
    await websocket.close()


app = Starlette(routes=[Route("/", me), WebSocketRoute("/feed", feed)])


def test_a_starlette_endpoint_gets_the_token(backend: str) -> None:
    service = client(app, backend=backend)
    assert service.get("/", headers=bearer(token())).text == "ada"
    with service.websocket_connect("/feed", headers=bearer(token())) as connection:
        assert connection.receive_text() == "ada"


def test_an_anonymous_request_is_refused() -> None:
    service = client(app, allow_anonymous=True)
    refused = service.get("/")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="api"')
    with pytest.raises(WebSocketDisconnect), service.websocket_connect("/feed"):
        pass


def test_without_the_middleware_it_says_so() -> None:
    with pytest.raises(RuntimeError, match="wrap the app in JWTMiddleware"):
        TestClient(app).get("/")
