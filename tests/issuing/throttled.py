"""Apps with a throttled login, for servers: one that faces its clients, one behind a proxy on this machine."""

import time

from starlette.applications import Starlette

from jwt_middleware.issuing import Throttle, TokenIssuer, auth_routes

from ..support import SECRET


def check(username: str, password: str) -> str | None:
    # Long enough for others to come meanwhile.
    time.sleep(0.01)
    return username if password == "lovelace" else None


def app(throttle: Throttle) -> Starlette:
    return Starlette(routes=auth_routes(TokenIssuer(SECRET, audience="orders"), authenticate=check, throttle=throttle))


facing = app(Throttle())
behind = app(Throttle(trusted_proxies="127.0.0.1"))
