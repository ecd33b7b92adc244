"""The app of the tests of open connections: by the real clock, with sessions that can be revoked."""

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import JWTMiddleware, Refusal, bearer_header, cookie, renew, subprotocol
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer

# Written out, because servers that import tests.support take longer to start.
tokens = TokenIssuer("a secret of thirty-two bytes, yes", audience="orders")
sessions = Sessions(MemoryStore(), tokens)

ended: list[dict[str, Any]] = []
"""What each app that listens has been told last."""


async def listen(websocket: WebSocket) -> None:
    """Answers with what it sees, then takes tokens to renew by, or the word ``close``."""
    await websocket.accept()
    seen = {"user": websocket.user.identity, "offered": websocket.scope["subprotocols"]}
    await websocket.send_json({**seen, "header": websocket.headers.get("sec-websocket-protocol")})
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if message["text"] == "close":
            await websocket.close(4000, "by the app")
            return
        try:
            token = await renew(websocket.scope, message["text"])
        except Refusal as refusal:
            await websocket.send_json({"refused": refusal.code})
        else:
            await websocket.send_json({"expires_at": token.expires_at})
    ended.append({"code": message["code"], "reason": message.get("reason")})


async def tick(websocket: WebSocket) -> None:
    """Only ever sends."""
    await websocket.accept()
    while True:
        await websocket.send_text("tick")
        await anyio.sleep(0.05)


async def careful(websocket: WebSocket) -> None:
    """The same, for clients that may go."""
    with suppress(WebSocketDisconnect):
        await tick(websocket)


async def events(request: Request) -> StreamingResponse:
    async def ticks() -> AsyncIterator[str]:
        while True:
            yield "data: tick\n\n"
            await anyio.sleep(0.05)

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def state(request: Request) -> JSONResponse:
    return JSONResponse({"open": app.open_connections, "ended": ended})


async def open_session(request: Request) -> JSONResponse:
    grant = await sessions.open("ada")
    return JSONResponse({"access_token": grant.access_token, "session": grant.session_id})


async def revoke(request: Request) -> JSONResponse:
    await sessions.revoke(session=request.query_params["session"])
    return JSONResponse({"at": time.time()})


app = JWTMiddleware(
    Starlette(
        routes=[
            WebSocketRoute("/listen", listen),
            WebSocketRoute("/tick", tick),
            WebSocketRoute("/careful", careful),
            Route("/events", events),
            Route("/state", state),
            Route("/session", open_session, methods=["POST"]),
            Route("/revoke", revoke, methods=["POST"]),
        ]
    ),
    providers=tokens.provider(leeway=0),
    revocations=sessions,
    sources=[bearer_header(), subprotocol("bearer"), cookie("access")],
    close_streams_on_expiry=True,
    public=["/state", "/session", "/revoke"],
)
