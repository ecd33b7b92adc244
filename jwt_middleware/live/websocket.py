"""How does a WebSocket end with its token?"""

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import Refusal
from ..verifying.token import Token
from .connection import Connection
from .connections import Connections


class WebSocketConnection(Connection):
    """A WebSocket that is closed with 3000 when its token is no longer good.

    It is also closed if its client has not authenticated within ``authenticate_within`` seconds.
    """

    def __init__(self, connections: Connections, token: Token | None, receive: Receive, send: Send) -> None:
        super().__init__(connections, token, receive, send)
        if token is None and connections.authenticate_within is not None:
            self.good_until = connections.clock() + connections.authenticate_within

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        self._open()
        await super().serve(app, scope)

    async def _send_end(self, refusal: Refusal) -> None:
        await self._connections.refuser.end_websocket(refusal, self._send)

    def _disconnect(self) -> Message:
        assert self._refusal is not None
        return {"type": "websocket.disconnect", "code": 3000, "reason": self._refusal.code}

    def _after_receive(self, message: Message) -> None:
        if message["type"] == "websocket.disconnect":
            self._leave()

    def _after_send(self, message: Message) -> None:
        if message["type"] in ("websocket.close", "websocket.http.response.start"):
            self._leave()


def answer_with(answer: str, offered: Collection[str], send: Send) -> Send:
    """Accept with the subprotocol ``answer``, unless the app chooses one of the ``offered`` ones."""

    async def send_accept(message: Message) -> None:
        if message["type"] == "websocket.accept" and message.get("subprotocol") not in offered:
            message = {**message, "subprotocol": answer}
        await send(message)

    return send_accept
