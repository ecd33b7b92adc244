"""Every refusal: how a request comes by it, and what its client gets, to the letter."""

from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from jwt_middleware import JWTMiddleware, Token
from jwt_middleware.errors import (
    CrossSite,
    InsufficientScope,
    InsufficientUserAuthentication,
    KeysUnavailable,
    RevocationsUnavailable,
    Revoked,
)

from .clients import provider
from .clock import NOW
from .tokens import SECRET, b64, claims, signed, token

ISSUER = "https://login.example"


class Answer(NamedTuple):
    """What a client gets, to the letter."""

    status: int
    error: str
    description: str
    headers: dict[str, str]


def challenge(status: int, error: str, description: str, more: str = "") -> Answer:
    said = f'Bearer realm="api", error="{error}", error_description="{description}"{more}'
    return Answer(status, error, description, {"www-authenticate": said})


def invalid_token(description: str) -> Answer:
    return challenge(401, "invalid_token", description)


ANSWERS = {
    "missing_token": Answer(
        401,
        "missing_token",
        "This resource needs an access token: Authorization: Bearer <token>.",
        {"www-authenticate": 'Bearer realm="api"'},
    ),
    "ambiguous_token": challenge(400, "invalid_request", "The request carries more than one credential."),
    "token_too_large": challenge(400, "invalid_request", "The access token is too large."),
    "malformed_token": invalid_token("The access token is not a well-formed JSON Web Token."),
    "encrypted_token": invalid_token("The access token is encrypted; only signed tokens are accepted."),
    "unknown_issuer": invalid_token("The access token comes from an issuer that is not accepted here."),
    "unknown_key": invalid_token("The access token names a key that is not known here."),
    "algorithm_not_allowed": invalid_token("The access token is signed with an algorithm that is not accepted here."),
    "bad_signature": invalid_token("The signature of the access token does not verify."),
    "expired": invalid_token("The access token has expired."),
    "not_yet_valid": invalid_token("The access token is not valid yet."),
    "too_old": invalid_token("The access token was issued too long ago."),
    "wrong_issuer": invalid_token("The access token comes from another issuer."),
    "wrong_audience": invalid_token("The access token is meant for another audience."),
    "wrong_type": invalid_token("The token is of another type than an access token."),
    "missing_claim": invalid_token("The access token lacks a claim that is needed here."),
    "invalid_claim": invalid_token("The access token has a claim that is not acceptable."),
    "sender_constrained": invalid_token(
        "The access token is bound to its sender and cannot be used as a Bearer token."
    ),
    "revoked": invalid_token("The access token has been revoked."),
    "user_refused": invalid_token("The user of the access token is not accepted."),
    "insufficient_user_authentication": challenge(
        401,
        "insufficient_user_authentication",
        "A different or more recent login is needed here.",
        ', acr_values="urn:example:gold", max_age="300"',
    ),
    "insufficient_scope": challenge(
        403,
        "insufficient_scope",
        "The access token lacks a scope that is needed here.",
        ', scope="orders:write orders:admin"',
    ),
    "cross_site": Answer(403, "cross_site", "The request comes from another site.", {}),
    "keys_unavailable": Answer(
        503,
        "keys_unavailable",
        "The keys for this access token are temporarily unavailable.",
        {"retry-after": "5"},
    ),
    "revocations_unavailable": Answer(
        503,
        "revocations_unavailable",
        "Revocations of access tokens are temporarily unavailable.",
        {"retry-after": "5"},
    ),
}


def raising(error: Exception) -> Callable[[Token], Any]:
    async def hook(token: Token) -> Any:
        raise error

    return hook


# Each code: the options and the Authorization lines that lead to it.
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "missing_token": ({}, []),
    "ambiguous_token": ({}, [f"Bearer {token()}", f"Bearer {token()}"]),
    "token_too_large": ({"max_token_size": 100}, [f"Bearer {token()}"]),
    "malformed_token": ({}, ["Bearer not-a-token"]),
    "encrypted_token": ({}, ["Bearer a.b.c.d.e"]),
    "unknown_issuer": (
        {"providers": [provider(name="a", issuer="https://a.example"), provider(name="b", issuer="https://b.example")]},
        [f"Bearer {token(iss=ISSUER)}"],
    ),
    "unknown_key": (
        {"key": {"kty": "oct", "k": b64(SECRET.encode()).decode(), "kid": "current"}},
        [f"Bearer {token(header={'kid': 'old'})}"],
    ),
    "algorithm_not_allowed": ({}, [f"Bearer {signed({'alg': 'none'}, claims())}"]),
    "bad_signature": ({}, [f"Bearer {token('another secret of thirty-two bytes')}"]),
    "expired": ({}, [f"Bearer {token(exp=NOW - 5)}"]),
    "not_yet_valid": ({}, [f"Bearer {token(nbf=NOW + 6)}"]),
    "too_old": ({"max_token_age": 60}, [f"Bearer {token(iat=NOW - 65)}"]),
    "wrong_issuer": ({"issuer": ISSUER}, [f"Bearer {token(iss='https://evil.example')}"]),
    "wrong_audience": ({}, [f"Bearer {token(aud='billing')}"]),
    "wrong_type": ({"token_type": "at+jwt"}, [f"Bearer {token()}"]),
    "missing_claim": ({}, [f"Bearer {token(exp=None)}"]),
    "invalid_claim": ({}, [f"Bearer {signed({'alg': 'HS256'}, claims(sub=['ada']))}"]),
    "sender_constrained": ({}, [f"Bearer {token(cnf={'jkt': 'thumbprint'})}"]),
    "revoked": ({"validate": raising(Revoked())}, [f"Bearer {token()}"]),
    "user_refused": ({"load_user": lambda token: None}, [f"Bearer {token()}"]),
    "insufficient_user_authentication": (
        {"load_user": raising(InsufficientUserAuthentication(acr_values=["urn:example:gold"], max_age=300))},
        [f"Bearer {token()}"],
    ),
    "insufficient_scope": (
        {"load_user": raising(InsufficientScope(["orders:write", "orders:admin"]))},
        [f"Bearer {token()}"],
    ),
    "cross_site": ({"load_user": raising(CrossSite())}, [f"Bearer {token()}"]),
    "keys_unavailable": ({"validate": raising(KeysUnavailable())}, [f"Bearer {token()}"]),
    "revocations_unavailable": ({"validate": raising(RevocationsUnavailable())}, [f"Bearer {token()}"]),
}


async def unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the app was reached")


def refusing(code: str, app: ASGIApp = unreachable, **more: Any) -> tuple[JWTMiddleware, list[bytes]]:
    """``app`` behind the middleware, and the Authorization lines that it refuses with ``code``."""
    options, lines = REFUSED[code]
    keys: dict[str, Any] = {} if "providers" in options else {"key": SECRET, "audience": "orders"}
    options = {"clock": lambda: NOW, **keys, **options, **more}
    return JWTMiddleware(app, **options), [line.encode() for line in lines]
