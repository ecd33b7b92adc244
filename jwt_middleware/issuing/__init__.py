"""The issuing half: mint access tokens, keep sessions, and routes that log users in."""

from ..errors import StoreUnavailable
from .issuer import TokenIssuer
from .passwords import password_check
from .rotation import Session
from .routes import auth_routes
from .sessions import Grant, InvalidGrant, SessionEvent, Sessions, SessionStore
from .stores import MemoryStore, RedisStore, SQLiteStore
from .throttle import Throttle

__all__ = [
    "Grant",
    "InvalidGrant",
    "MemoryStore",
    "RedisStore",
    "SQLiteStore",
    "Session",
    "SessionEvent",
    "SessionStore",
    "Sessions",
    "StoreUnavailable",
    "Throttle",
    "TokenIssuer",
    "auth_routes",
    "password_check",
]
