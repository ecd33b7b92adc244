"""What does a dependency of ours cost in FastAPI, beside one that does nothing?

Two apps that differ in one dependency are asked in turns, so that what else the machine does falls on both. Each figure
is the lowest decile over rounds of the processor time of one request, in microseconds, in process and without a server:
what else the machine does can only add.
"""

import time
from collections.abc import Callable
from statistics import quantiles
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, Security
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message

from jwt_middleware import JWTUser
from jwt_middleware.fastapi import Auth
from jwt_middleware.testing import headers_for

ROUNDS = 40
REQUESTS = 200
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
    """Seconds of processor that one request takes, of ``REQUESTS``."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message

    started = time.thread_time()
    for _ in range(REQUESTS):
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
    for name, (dependency, scopes) in ours.items():
        apps = [app_with(nothing, scopes), app_with(dependency, scopes), app_with(nothing, scopes)]
        times: list[list[float]] = [[], [], []]
        for _ in range(ROUNDS):
            for app, taken in zip(apps, times, strict=True):
                taken.append(await ask(app))
        base, with_ours, again = (quantiles(taken, n=10)[0] * 1e6 for taken in times)
        added = with_ours - (base + again) / 2
        verdict = "meets" if added <= TARGET else "MISSES"
        print(
            f"{name:16} {with_ours:7.1f} µs, beside {base:.1f} and {again:.1f} with one that does nothing: "
            f"{added:+.1f} µs, {verdict} the target of {TARGET}"
        )


if __name__ == "__main__":
    anyio.run(main)
