"""Login routes that store nothing, and a client of theirs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import jwt
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import Message

from jwt_middleware.issuing import TokenIssuer, auth_routes

from ..support import SECRET, Clock, http

GOOD = {"username": "ada", "password": "lovelace"}


@dataclass
class User:
    identity: Any = "ada"
    scopes: Any = ()
    claims: Any = field(default_factory=dict)


def check(username: str, password: str) -> str | None:
    return username if password == "lovelace" else None


def finds(user: object) -> Callable[[str, str], object]:
    """An ``authenticate`` that finds ``user`` for everybody."""
    return lambda username, password: user


def app(authenticate: Any = check, *, clock: Any = None, key: Any = SECRET, routes: Any = None, **options: Any) -> Any:
    tokens = TokenIssuer(key, **{"audience": "orders", "clock": clock or Clock(), **options})
    return Starlette(routes=auth_routes(tokens, authenticate=authenticate, **(routes or {})))


def client(authenticate: Any = check, *, backend: str = "asyncio", **options: Any) -> TestClient:
    return TestClient(app(authenticate, **options), backend=backend)  # type: ignore[arg-type]  # a str for a Literal


def minted(response: Any) -> dict[str, Any]:
    """The claims of the token in ``response``, as PyJWT reads them."""
    assert response.status_code == 200, response.text
    read: dict[str, Any] = jwt.decode(response.json()["access_token"], options={"verify_signature": False})
    return read


async def status_of_login(app: Any, address: str, username: str = "ada", password: str = "lovelace") -> int:
    """The status with which ``app`` answers a login from ``address``, without a server or a thread in between."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": urlencode({"username": username, "password": password}).encode()}

    async def send(message: Message) -> None:
        messages.append(message)

    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    await app(http("/login", method="POST", headers=headers, client=(address, 4711)), receive, send)
    status: int = messages[0]["status"]
    return status
