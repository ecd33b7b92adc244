"""The issuing half: mint access tokens, keep sessions, and routes that log users in."""

from ..errors import StoreUnavailable
from .cookies import Cookies
from .grants import Grant, InvalidGrant
from .issuer import TokenIssuer
from .passwords import password_check
from .rotation import Session
from .routes import auth_routes
from .session_store import SessionStore
from .sessions import Sessions, SessionsHealth
from .stores import MemoryStore, RedisStore, SQLiteStore, SQLStore
from .throttle import LoginRefused, Throttle

__all__ = [
    "Cookies",
    "Grant",
    "InvalidGrant",
    "LoginRefused",
    "MemoryStore",
    "RedisStore",
    "SQLStore",
    "SQLiteStore",
    "Session",
    "SessionStore",
    "Sessions",
    "SessionsHealth",
    "StoreUnavailable",
    "Throttle",
    "TokenIssuer",
    "auth_routes",
    "password_check",
]
