"""The issuing half: mint access tokens, and routes that log users in."""

from .issuer import TokenIssuer
from .routes import auth_routes

__all__ = ["TokenIssuer", "auth_routes"]
