"""A service with sessions, for tests that run several of it.

    python -m tests.issuing.serving STORE PORT LIFESPAN

STORE is a file's path, or the address of a Redis; LIFESPAN is ``on`` or ``off``. It logs all that there is to log.
"""

import logging
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from jwt_middleware import JWTMiddleware
from jwt_middleware.issuing import RedisStore, Sessions, SessionStore, SQLiteStore, TokenIssuer, auth_routes

from ..support import SECRET, echo

GRACE = 1
PASSWORD = "lovelace, the password"


def check(username: str, password: str) -> str | None:
    return username if password == PASSWORD else None


def service(store: SessionStore, **options: object) -> JWTMiddleware:
    """Login routes below /auth, and the echo app elsewhere."""
    tokens = TokenIssuer(SECRET, audience="orders")
    sessions = Sessions(store, tokens, **{"grace": GRACE, **options})  # type: ignore[arg-type]  # options of any type
    routes = [Mount("/auth", routes=auth_routes(sessions, authenticate=check)), Mount("/", app=echo)]
    return JWTMiddleware(
        Starlette(routes=routes), providers=tokens.provider(), revocations=sessions, public=["/auth/*"]
    )


if __name__ == "__main__":
    where, port, lifespan = sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG)
    uvicorn.run(
        service(RedisStore(where) if "://" in where else SQLiteStore(where)),
        port=int(port),
        lifespan="on" if lifespan == "on" else "off",
        log_level="debug",
    )
