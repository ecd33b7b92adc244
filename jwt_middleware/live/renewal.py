"""May an open connection go on with another token?"""

from starlette.types import Scope

from ..errors import InvalidClaim, MalformedToken, WrongIssuer
from ..verifying.token import Token
from .connection import KEY, Connection


async def renew(scope: Scope, new_token: str | bytes) -> Token:
    """Let the open connection of ``scope`` go on with ``new_token``. Returns the verified token.

    1. The token is verified in full, with everything that a request's token must pass, ``load_user`` included, by the
       authentication scheme with which the connection began.
    2. It must be of the same provider, issuer and subject as the token before: ``wrong_issuer``, ``invalid_claim``.
       If tokens have no subject, the client (``client_id``, RFC 9068 2.2) must be the same.
       On a connection that began without a token, the first good one decides to whom it belongs.
    3. ``scope["auth"]`` and ``scope["user"]`` are replaced, and the connection ends when the new token does.

    Its scopes may differ from those before. A ``requires`` that has let the connection in does not ask again.

    Raises a ``Refusal``, and leaves everything as it was, if the token is not accepted or the connection is already
    over. Raises ``RuntimeError`` if the scope has no open connection.
    """
    connection: Connection | None = scope.get(KEY)
    if connection is None:
        raise RuntimeError(
            "renew() found no open connection: it is for WebSockets behind JWTMiddleware, and for other requests where "
            "close_streams_on_expiry=True"
        )
    if not isinstance(new_token, str | bytes):
        # It comes from the client and can be any JSON value.
        raise MalformedToken(found=f"a value of the type {type(new_token).__name__}")
    token, user = await connection.authenticate(new_token, scope)
    if connection.token is not None:
        _check_same_owner(connection.token, token)
    connection.adopt(token, user, scope)
    return token


def _check_same_owner(before: Token, token: Token) -> None:
    """Raise a ``Refusal`` unless both tokens are of the same provider, issuer and subject."""
    if token.provider != before.provider or token.claims.get("iss") != before.claims.get("iss"):
        raise WrongIssuer(
            claim="iss",
            expected=f"{before.claims.get('iss')} of provider {before.provider}",
            found=f"{token.claims.get('iss')}",
        ).about(token)
    if token.subject != before.subject:
        raise InvalidClaim(claim="sub", expected=before.subject, found=token.subject).about(token)
    if token.subject is None:
        client = token.claims.get("client_id")
        if not isinstance(client, str) or client != before.claims.get("client_id"):
            expected = before.claims.get("client_id")
            raise InvalidClaim(claim="client_id", expected=f"{expected}", found=f"{client}").about(token)
