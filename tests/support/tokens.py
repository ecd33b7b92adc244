"""Tokens of any shape, signed by PyJWT, so that we never verify only what we made ourselves."""

import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt

from jwt_middleware import Token
from jwt_middleware.verifying.token import make_facts

from .clock import NOW

SECRET = "a secret of thirty-two bytes, yes"


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims at NOW, with ``changes``; a claim that is changed to None is left out."""
    good = {"sub": "ada", "aud": "orders", "iat": NOW, "exp": NOW + 900, "scope": "orders:read orders:write"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token made by PyJWT, so that we never verify only what we made ourselves."""
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=header)


def signed(header: bytes | dict[str, Any], payload: bytes | dict[str, Any], key: str = SECRET) -> str:
    """A token with a good HS256 signature over any bytes."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signing_input = b".".join(b64(part) for part in parts)
    algorithm = jwt.get_algorithm_by_name("HS256")
    return b".".join((signing_input, b64(algorithm.sign(signing_input, key.encode())))).decode()


def verified(
    *,
    provider: str = "jwt",
    subject: str | None = "ada",
    id: str | None = None,
    session_id: str | None = None,
    issuer: str | None = None,
    expires_at: int = NOW + 900,
) -> Token:
    """A token as if it were verified, for what is not about verifying."""
    return Token(
        make_facts(
            provider=provider, subject=subject, id=id, session_id=session_id, issuer=issuer, expires_at=expires_at
        )
    )


def b64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
