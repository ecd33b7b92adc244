"""Apps that a server must be able to stop: one as it is, the others behind the middleware with something to stop."""

import os
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from jwt_middleware import JWTMiddleware, Provider
from jwt_middleware.issuing import MemoryStore, Sessions, SQLiteStore, TokenIssuer


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An app without lifespan, which answers after the first message."""
    assert scope["type"] == "http"
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
    else:
        await bare(scope, receive, send)


def load_user(token: Any) -> str:
    """Runs in a worker thread."""
    return "ada"


# Written out, because servers that import tests.support take longer to start.
tokens = TokenIssuer("a secret of thirty-two bytes, yes", audience="orders")


def behind(app: Any, store: Any, *others: Provider) -> JWTMiddleware:
    return JWTMiddleware(
        app, providers=[tokens.provider(), *others], revocations=Sessions(store, tokens), load_user=load_user
    )


if "STORE" in os.environ:
    sqlite = behind(with_lifespan, SQLiteStore(Path(os.environ["STORE"])))
    sqlite_without_lifespan = behind(bare, SQLiteStore(Path(os.environ["STORE"])))

if "ISSUER" in os.environ:
    memory_and_remote = behind(
        with_lifespan, MemoryStore(), Provider(issuer=os.environ["ISSUER"], audience="orders", name="remote")
    )
