"""JWT bearer authentication for any ASGI app."""

from .claims import Token
from .errors import ConfigurationError, Refusal
from .identity import JWTCredentials, JWTUser
from .live import renew
from .middleware import JWTMiddleware
from .provider import ANY, Provider
from .remote import RemoteKeys
from .requires import requires
from .revocation import Revocation, Revocations
from .revocation_view import RevocationView
from .sources import bearer_header, cookie, subprotocol
from .verifier import Verifier

__all__ = [
    "ANY",
    "ConfigurationError",
    "JWTCredentials",
    "JWTMiddleware",
    "JWTUser",
    "Provider",
    "Refusal",
    "RemoteKeys",
    "Revocation",
    "RevocationView",
    "Revocations",
    "Token",
    "Verifier",
    "bearer_header",
    "cookie",
    "renew",
    "requires",
    "subprotocol",
]
