"""The app that every server runs."""

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from jwt_middleware import JWTMiddleware

from ..support import NOW, SECRET, echo

lifespan = {"seen": False}


async def service(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        lifespan["seen"] = True
    if scope.get("path") == "/lifespan":
        await JSONResponse(lifespan)(scope, receive, send)
    else:
        await echo(scope, receive, send)


denying = JWTMiddleware(service, key=SECRET, audience="orders", public=["/public", "/lifespan"], clock=lambda: NOW)
closing = JWTMiddleware(service, key=SECRET, audience="orders", clock=lambda: NOW, websocket_refusals="close")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await (closing if scope.get("path") == "/closing" else denying)(scope, receive, send)
