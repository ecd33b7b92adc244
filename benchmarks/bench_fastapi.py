"""What does a dependency of ours cost in FastAPI, beside one that does nothing?

Apps that differ in one dependency are asked in turns, in short rounds, so that what else the machine does falls on all
of them. A figure is the processor time of one request in microseconds, in process and without a server. What ours adds
is the median, over the rounds, of its difference to the mean of two apps whose dependency does nothing, asked before it
and after it. The difference of these two, which are the same code, says how exact that is.
"""

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, Security
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message

from jwt_middleware import JWTUser
from jwt_middleware.fastapi import Auth
from jwt_middleware.testing import headers_for

ROUNDS = 200
WARM_UP = 20
"""Requests before the measured ones: the interpreter specializes what the apps share for the one that is asked."""
REQUESTS = 40
TARGET = 5
"""Microseconds that a dependency of ours may add."""

auth = Auth(key="a secret that has thirty-two bytes or more", audience="orders")
RAW = headers_for(auth, "ada", scopes=["orders:write"])["Authorization"].encode()


class Nothing:
    """A dependency with the arguments of ours."""

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> None: ...


nothing = Nothing()


def app_with(dependency: Callable[..., Any], scopes: list[str]) -> FastAPI:
    """An app whose one route has ``dependency``."""
    app = FastAPI(openapi_url=None)
    auth.install(app)

    @app.get("/")
    async def read(user: Annotated[JWTUser | None, Security(dependency, scopes=scopes)]) -> None: ...

    @app.get("/plain")
    async def plain(user: Annotated[None, Depends(nothing)]) -> None: ...

    return app


async def ask(app: ASGIApp) -> float:
    """Seconds of processor that one request takes."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message

    started = 0.0
    for number in range(WARM_UP + REQUESTS):
        if number == WARM_UP:
            started = time.thread_time()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"api"), (b"authorization", RAW)],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        await app(scope, receive, send)
    return (time.thread_time() - started) / REQUESTS


async def main() -> None:
    ours: dict[str, tuple[Callable[..., Any], list[str]]] = {
        "auth": (auth, []),
        "auth, one scope": (auth, ["orders:write"]),
        "auth.token": (auth.token, []),
        "auth.optional": (auth.optional, []),
        "auth.any_of": (auth.any_of("orders:write", "admin"), []),
    }
    gc.disable()
    for name, (dependency, scopes) in ours.items():
        apps = [app_with(nothing, scopes), app_with(dependency, scopes), app_with(nothing, scopes)]
        rounds = [[await ask(app) * 1e6 for app in apps] for _ in range(ROUNDS)]
        added = median(with_ours - (before + after) / 2 for before, with_ours, after in rounds)
        noise = median(before - after for before, _, after in rounds)
        verdict = "meets" if added <= TARGET else "MISSES"
        print(
            f"{name:16} {median(with_ours for _, with_ours, _ in rounds):6.1f} µs a request, {added:+.1f} µs by ours "
            f"({noise:+.1f} by the same code): {verdict} the target of {TARGET}"
        )
        gc.collect()


if __name__ == "__main__":
    anyio.run(main)
