"""Every server that we are tested with, as a process of its own."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import httpx2
import pytest

from ..support.processes import python


@dataclass(frozen=True)
class Server:
    command: str
    denies: bool = True
    """Whether it can refuse a WebSocket with a response of ours; the others close, which is a bare 403."""
    has_lifespan: bool = True
    says_why: bool = True
    """Whether the reason of a close reaches the client."""


@dataclass(frozen=True)
class Running:
    server: Server
    port: int
    client: httpx2.Client
    process: Popen[bytes]
    log: Path


SERVERS = [
    pytest.param(Server("uvicorn {app} --port {port} --ws websockets"), id="uvicorn websockets"),
    pytest.param(Server("uvicorn {app} --port {port} --ws websockets-sansio"), id="uvicorn websockets-sansio"),
    pytest.param(Server("uvicorn {app} --port {port} --ws wsproto"), id="uvicorn wsproto"),
    pytest.param(Server("hypercorn {app} --bind 127.0.0.1:{port}"), id="hypercorn asyncio"),
    pytest.param(Server("hypercorn {app} --bind 127.0.0.1:{port} --worker-class trio"), id="hypercorn trio"),
    pytest.param(Server("granian {app} --interface asgi --host 127.0.0.1 --port {port}"), id="granian"),
    pytest.param(
        Server("daphne {app} --bind 127.0.0.1 --port {port}", denies=False, has_lifespan=False, says_why=False),
        id="daphne",
    ),
]

WITHOUT_WEBSOCKETS = [server for server in SERVERS if server.id not in ("uvicorn websockets-sansio", "uvicorn wsproto")]
"""The same servers, each once, for tests that open no WebSocket."""


@contextmanager
def started(server: Server, app: str, log: Path) -> Iterator[Running]:
    """``server`` with ``app``, once it listens; its output goes to ``log``."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]

    def listens(output: str) -> bool:
        with socket.socket() as probe:
            # A port that nobody listens on yet can be given to the probe itself, which then connects to itself.
            return probe.connect_ex(("127.0.0.1", port)) == 0 and probe.getsockname() != probe.getpeername()

    with (
        python("-m", *server.command.format(app=app, port=port).split(), log=log, ready=listens) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as client,
    ):
        yield Running(server, port, client, process, log)
