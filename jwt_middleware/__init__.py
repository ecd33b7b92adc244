"""JWT bearer authentication for any ASGI app."""

from .current import current_token
from .errors import ConfigurationError, KeysUnavailable, Refusal
from .identity import JWTCredentials, JWTUser
from .keys.key_set import KeySet
from .keys.load_balancer import LoadBalancerKeys
from .keys.remote import RemoteKeys
from .keys.source import KeysHealth, KeySource
from .live.renewal import renew
from .middleware import JWTMiddleware
from .probes import Health, health, health_routes
from .provider import ANY, Provider
from .reading.sources import bearer_header, cookie, proxy_header, subprotocol
from .requires import requires
from .resolver import ProviderResolver
from .resource import ProtectedResource
from .revocation.revoked import Revocation, Revocations
from .revocation.view import RevocationView
from .verifying.token import Token
from .verifying.verifier import Verifier

__version__ = "0.1.0"

__all__ = [
    "ANY",
    "ConfigurationError",
    "Health",
    "JWTCredentials",
    "JWTMiddleware",
    "JWTUser",
    "KeySet",
    "KeySource",
    "KeysHealth",
    "KeysUnavailable",
    "LoadBalancerKeys",
    "ProtectedResource",
    "Provider",
    "ProviderResolver",
    "Refusal",
    "RemoteKeys",
    "Revocation",
    "RevocationView",
    "Revocations",
    "Token",
    "Verifier",
    "bearer_header",
    "cookie",
    "current_token",
    "health",
    "health_routes",
    "proxy_header",
    "renew",
    "requires",
    "subprotocol",
]
