"""Programs with other frameworks, on a real server, and tokens for them."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from websockets.sync.client import ClientConnection, connect

from .clients import bearer
from .processes import program

SECRET = "a secret that has thirty-two bytes or more"
CHALLENGE = (
    'Bearer realm="api", error="insufficient_scope", '
    'error_description="The access token lacks a scope that is needed here.", scope="orders:read"'
)


def token(lifetime: float = 900, **claims: Any) -> str:
    """A token by the real clock."""
    return jwt.encode({"sub": "ada", "aud": "orders", "exp": time.time() + lifetime, **claims}, SECRET)


READER, OTHER = bearer(token(scope="orders:read")), bearer(token(scope="orders:write"))


@dataclass(frozen=True)
class Served:
    name: str
    port: int
    client: httpx2.Client
    log: Path

    def websocket(self, path: str, **options: Any) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.port}{path}"
        connection: ClientConnection = connect(url, open_timeout=5, close_timeout=5, proxy=None, **options)
        return connection


@contextmanager
def served(name: str, text: str, folder: Path) -> Iterator[Served]:
    """The program ``text``, which needs the framework ``name``, on uvicorn; its app is called ``app``."""
    if find_spec(name if name != "django" else "asgiref") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    (folder / "main.py").write_text(text, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--ws", "wsproto", "main:app"]
    command += ["--timeout-graceful-shutdown", "1"]
    log = folder / "log"
    with (
        program(*command, log=log, ready=lambda output: "startup complete" in output, folder=folder),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield Served(name, port, client, log)
        output = log.read_text()
    # Strawberry and Ariadne log every error of a field with its traceback.
    assert "Traceback" not in output or name in ("strawberry", "ariadne")
    assert SECRET not in output
