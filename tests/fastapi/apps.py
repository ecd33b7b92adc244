"""The FastAPI apps that the tests ask."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from jwt_middleware.fastapi import Auth

from ..support import NOW, SECRET, bare_client, bearer, token

READER = bearer(token(scope="orders:read"))
WRITER = bearer(token(scope="orders:write"))


def make_auth(**options: Any) -> Auth:
    """An ``Auth`` for the tokens of ``support.token``."""
    given: dict[str, Any] = {"key": SECRET, "audience": "orders", "clock": lambda: NOW, **options}
    return Auth(**{name: value for name, value in given.items() if value is not None})


def serve(auth: Auth, declare: Callable[[FastAPI], object], *, backend: str = "asyncio", **options: Any) -> TestClient:
    """A client of an app where ``auth`` is installed with ``options``, and whose routes ``declare`` declares."""
    app = FastAPI()
    auth.install(app, **options)
    declare(app)
    return bare_client(app, backend=backend)
