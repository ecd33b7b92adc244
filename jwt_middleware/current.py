"""Which token does a request carry? ``current_token``, for apps without dependencies."""

from starlette.requests import HTTPConnection

from .errors import MissingToken
from .identity import JWTCredentials
from .verifying.token import Token


def current_token(connection: HTTPConnection) -> Token:
    """The verified token of a request or WebSocket, with its type.

    ::

        async def me(request: Request) -> Response:
            return PlainTextResponse(current_token(request).subject)

    An anonymous request is refused with an ``HTTPException`` or ``WebSocketException`` that has the status, challenge
    or close code of ``missing_token``. Raises ``RuntimeError`` without ``JWTMiddleware`` in front.
    """
    credentials = connection.scope.get("auth")
    if not isinstance(credentials, JWTCredentials):
        raise RuntimeError("current_token() found no credentials: wrap the app in JWTMiddleware")
    if credentials.token is None:
        raise credentials.refuser.exception(MissingToken(), connection.scope)
    return credentials.token
