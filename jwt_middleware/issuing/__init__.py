"""The issuing half: mint access tokens, and routes that log users in."""

from .issuer import TokenIssuer
from .passwords import password_check
from .routes import auth_routes
from .throttle import Throttle

__all__ = ["Throttle", "TokenIssuer", "auth_routes", "password_check"]
