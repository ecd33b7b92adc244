"""One app that answers with what it sees, and clients that ask it."""

from typing import Any

from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from jwt_middleware import JWTMiddleware, Provider

from .clock import NOW
from .tokens import SECRET


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


def provider(**options: Any) -> Provider:
    """A provider with SECRET and the audience orders, unless ``options`` say otherwise."""
    return Provider(**{"key": SECRET, "audience": "orders", **options})


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
