"""What does FastAPI send if an endpoint returns its user or its token? Their public attributes, and no claims."""

from typing import Any

from fastapi.encoders import ENCODERS_BY_TYPE

from ..identity import JWTUser
from ..verifying.token import Token


def encode_user(user: JWTUser) -> dict[str, Any]:
    """The identity (None for an anonymous user, or a token without a subject), the name and the scopes."""
    identity = None if user.token is None else user.token.subject
    return {"identity": identity, "display_name": user.display_name, "scopes": [*user.scopes]}


def encode_token(token: Token) -> dict[str, Any]:
    """The provider, the issuer, the subject, the scopes and the Unix time of expiry."""
    return {
        "provider": token.provider,
        "issuer": token.issuer,
        "subject": token.subject,
        "scopes": [*token.scopes],
        "expires_at": token.expires_at,
    }


# Otherwise FastAPI would send the internal attributes of these objects.
ENCODERS_BY_TYPE[JWTUser] = encode_user
ENCODERS_BY_TYPE[Token] = encode_token
