"""JWT bearer authentication for any ASGI app."""

from .claims import Token
from .errors import ConfigurationError, Refusal
from .identity import JWTCredentials, JWTUser
from .middleware import JWTMiddleware
from .provider import ANY, Provider
from .remote import RemoteKeys
from .requires import requires
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
    "Token",
    "Verifier",
    "requires",
]
