"""How is a refusal that a dependency raises answered? As the middleware answers its own."""

from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Scope
from starlette.websockets import WebSocket, WebSocketState

from ..errors import Refusal
from ..identity import JWTCredentials

# Where Starlette's ExceptionMiddleware keeps the handlers that routes look their exceptions up in.
_HANDLERS = "starlette.exception_handlers"


class EarlyRefusal(HTTPException):
    """Carries a refusal out of FastAPI's reading of a body, which turns any exception of another class into a 400."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.description)
        # Handlers for a status come first, and would not know the answer.
        self.status_code = 0
        self.refusal = refusal


async def answer(connection: HTTPConnection, exception: Exception) -> ASGIApp | None:
    """The exception handler for ``Refusal`` and ``EarlyRefusal``: an app that answers in the middleware's name."""
    refusal = exception.refusal if isinstance(exception, EarlyRefusal) else exception
    credentials = connection.scope.get("auth")
    if not isinstance(refusal, Refusal) or not isinstance(credentials, JWTCredentials):
        raise exception
    if refusal.provider is None and credentials.token is not None:
        # An app's own code raised it, and knows nothing of what an operator wants to read.
        refusal.about(credentials.token)
    if isinstance(connection, WebSocket) and connection.application_state is not WebSocketState.CONNECTING:
        if connection.application_state is WebSocketState.CONNECTED:
            await credentials.refuser.close(refusal, connection.scope, connection.send)
        return None
    return partial(credentials.refuser, refusal)


def answer_here(scope: Scope) -> None:
    """Have refusals answered by ``answer`` in whichever app ``scope`` has come to, unless it has a handler itself."""
    handlers = scope.get(_HANDLERS)
    if handlers is not None and EarlyRefusal not in handlers[0]:
        handlers[0].setdefault(Refusal, answer)
        handlers[0][EarlyRefusal] = answer
