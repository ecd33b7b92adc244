"""How does a streamed response end with its token?"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import Refusal
from ..events import Advice
from .connection import Connection
from .connections import Connections


async def serve_stream(connections: Connections, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Call ``app``. A response without a Content-Length ends with its token."""
    if scope["type"] == "http":
        await StreamConnection(connections, scope["auth"].token, receive, send).serve(app, scope)
    else:
        await app(scope, receive, send)


class StreamConnection(Connection):
    """A response that gets a clean end when its token is no longer good. One that names its length is left alone."""

    _has_trailers = False
    _is_encoded = False

    async def _send_end(self, refusal: Refusal) -> None:
        if self._is_encoded:
            self._connections.events.tell(Advice(text=_CUT_INSIDE_AN_ENCODING), once="compression inside")
        await self._connections.refuser.end_stream(refusal, self._send)
        if self._has_trailers:
            await self._send({"type": "http.response.trailers", "headers": [], "more_trailers": False})

    def _disconnect(self) -> Message:
        return {"type": "http.disconnect"}

    def _after_receive(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self._leave()

    def _before_send(self, message: Message) -> Message:
        if message["type"] == "http.response.start":
            # ASGI allows any iterable. The server must not find it used up.
            message = {**message, "headers": list(message.get("headers", ()))}
            self._has_trailers = message.get("trailers", False)
            names = {name.lower() for name, _ in message["headers"]}
            self._is_encoded = b"content-encoding" in names
            # Cutting a response shorter than the length that it names would be our error.
            if b"content-length" not in names:
                self._open()
        return message

    def _after_send(self, message: Message) -> None:
        # Other messages, such as http.response.push, are not part of the body.
        if message["type"] in _BODIES and not message.get("more_body", False):
            self._leave()


_CUT_INSIDE_AN_ENCODING = (
    "a compressed response was ended with its token, and its client cannot read the end of it: put the compression "
    "middleware outside JWTMiddleware"
)

_BODIES = frozenset({"http.response.body", "http.response.zerocopysend", "http.response.pathsend"})
