"""What the tests share: keys, tokens of any shape, one echo app and one client."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import anyio
import jwt
import pytest
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from jwt_middleware import JWTMiddleware

NOW = 1_900_000_000
SECRET = "a secret of thirty-two bytes, yes"


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims at NOW, with ``changes``; a claim that is changed to None is left out."""
    good = {"sub": "ada", "aud": "orders", "iat": NOW, "exp": NOW + 900, "scope": "orders:read orders:write"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token made by PyJWT, so that we never verify only what we made ourselves."""
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=header)


def signed(header: bytes | dict[str, Any], payload: bytes | dict[str, Any], key: str = SECRET) -> str:
    """A token with a good HS256 signature over any bytes."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signing_input = b".".join(b64(part) for part in parts)
    algorithm = jwt.get_algorithm_by_name("HS256")
    return b".".join((signing_input, b64(algorithm.sign(signing_input, key.encode())))).decode()


def b64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it sees; on lifespan it starts and stops."""
    if scope["type"] == "lifespan":
        for answer in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{answer}.complete"})
        return
    user, auth = scope["user"], scope["auth"]
    seen = {
        "user": user.identity,
        "is_authenticated": user.is_authenticated,
        "claims": getattr(user, "claims", None),
        "scopes": auth.scopes,
        "provider": auth.token and auth.token.provider,
    }
    if scope["type"] == "websocket":
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        await websocket.send_json(seen)
        await websocket.close()
    else:
        await JSONResponse(seen)(scope, receive, send)


def client(app: Any = echo, *, backend: str = "asyncio", **options: Any) -> TestClient:
    """A client of ``app`` behind the middleware; without options about keys, with SECRET and the audience orders."""
    if "providers" not in options:
        options = {"key": SECRET, "audience": "orders", **options}
    return bare_client(JWTMiddleware(app, clock=lambda: NOW, **options), backend=backend)


def bare_client(app: Any, *, backend: str = "asyncio", **options: Any) -> TestClient:
    """A client of ``app`` as it is; ``options`` are the TestClient's."""
    return TestClient(app, backend="trio" if backend == "trio" else "asyncio", **options)


def bearer(raw: str) -> dict[str, str]:
    return {"authorization": f"Bearer {raw}"}


def http(path: str = "/", *authorization: bytes, **changes: Any) -> Scope:
    """The scope of a GET as servers make it, with an Authorization line for each of ``authorization``."""
    headers = [(b"host", b"testserver"), *((b"authorization", line) for line in authorization)]
    return {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers, **changes}


def websocket(path: str = "/", *authorization: bytes, **changes: Any) -> Scope:
    """The scope of a WebSocket handshake, from a server without the extension websocket.http.response."""
    scope = http(path, *authorization, type="websocket", scheme="ws", subprotocols=[], **changes)
    return {name: value for name, value in scope.items() if name != "method"}


async def sent(app: Any, scope: Scope) -> list[Message]:
    """The messages with which ``app`` answers one request, or one handshake, of ``scope``."""
    messages: list[Message] = []
    coming: list[Message] = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]
    if scope["type"] == "websocket":
        coming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006}]

    async def receive() -> Message:
        return coming.pop(0)

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return messages


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What we logged, and how badly; in development mode asyncio logs what was slow."""
    records = [record for record in caplog.records if record.name == "jwt_middleware"]
    return [(record.levelno, record.getMessage()) for record in records]


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Return when ``condition()`` is true; fail after ``seconds``."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await anyio.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")
