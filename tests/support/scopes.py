"""Requests as ASGI servers hand them over, and the messages with which an app answers."""

from typing import Any

from starlette.types import Message, Scope


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
