"""The conformance suite of MCP finds the same with the middleware as without it.

It takes half a minute, most of it waiting, so it is not among the other tests: tox runs it in an environment of its
own. OIDC_PROVIDER names a folder with npm's packages ``node`` (22 or later) and ``@modelcontextprotocol/conformance``.
The suite sends no token, so a proxy adds one.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from jwt_middleware.mcp import protect

from ..support.frameworks import SECRET, token
from ..support.serving import free_port, serving
from .conforming import make_server

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

SECONDS = 240

Results = dict[str, list[tuple[str, str]]]
"""Of each scenario, the name and the status of every check."""


@pytest.fixture(scope="module")
def command() -> list[str]:
    """The command of the suite."""
    modules = Path(os.environ.get("OIDC_PROVIDER", "")) / "node_modules"
    program = modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    if not program.exists():
        reason = "OIDC_PROVIDER names no folder with npm's @modelcontextprotocol/conformance"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return [str(modules / ".bin" / "node"), str(program)]


@contextmanager
def proxy(to: int, authorization: str) -> Iterator[int]:
    """The port of a proxy before the server on port ``to``; it adds a header to every request."""
    port, ended = free_port(), threading.Event()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, sending = await asyncio.open_connection("127.0.0.1", to)

        async def answer() -> None:
            while data := await upstream.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        answering = asyncio.create_task(answer())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, _, rest = head.partition(b"\r\n")
                sending.write(line + b"\r\nAuthorization: " + authorization.encode() + b"\r\n" + rest)
                for name, _, value in (field.partition(b":") for field in rest.split(b"\r\n")):
                    if name.lower() == b"content-length":
                        sending.write(await reader.readexactly(int(value)))
                await sending.drain()
        sending.close()
        with suppress(ConnectionError):
            await answering

    async def serve() -> None:
        async with await asyncio.start_server(forward, "127.0.0.1", port):
            listening.set()
            await asyncio.to_thread(ended.wait)

    listening = threading.Event()
    thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
    thread.start()
    assert listening.wait(10)
    try:
        yield port
    finally:
        ended.set()
        thread.join(10)


def found(folder: Path) -> Results:
    """The name and the status of every check, by scenario."""
    results: Results = {}
    for path in folder.glob("*/checks.json"):
        # The name of a folder ends with a moment: server-ping-2026-11-28T20-14-28-820Z.
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*", "", path.parent.name)
        checks = [(check["id"], check["status"]) for check in json.loads(path.read_text("utf-8"))]
        results[scenario] = sorted([*results.get(scenario, []), *checks])
    return results


def run(command: list[str], revision: str, urls: dict[str, str], folder: Path) -> tuple[Results, Results]:
    """What the suite finds without the middleware, and with it."""
    running = []
    for name, url in urls.items():
        arguments = ["server", "--url", f"{url}/mcp", "--requirements", revision, "--output-dir", str(folder / name)]
        # Some scenarios fail with this server, with and without the middleware: so the status says nothing.
        running.append(subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL))
    for process in running:
        process.wait(SECONDS)
    return found(folder / "without"), found(folder / "with")


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_the_suite_finds_the_same_with_the_middleware(command: list[str], tmp_path: Path, revision: str) -> None:
    port = free_port()
    guarded = protect(make_server(), f"http://127.0.0.1:{port}/mcp", key=SECRET, audience="orders")
    with (
        serving(make_server().streamable_http_app()) as bare,
        serving(guarded, port),
        proxy(port, f"Bearer {token(client_id='suite')}") as proxied,
    ):
        urls = {"without": bare, "with": f"http://127.0.0.1:{proxied}"}
        without: Results = {}
        through: Results = {}
        # Some scenarios measure time, and may fail by chance on a busy machine.
        for attempt in range(3):
            without, through = run(command, revision, urls, tmp_path / str(attempt))
            if without == through:
                break
    assert {name: (without[name], through.get(name)) for name in without if without[name] != through.get(name)} == {}
    statuses = Counter(status for checks in without.values() for _, status in checks)
    sys.stdout.write(f"{revision}: {dict(statuses)}\n")
    assert statuses["SUCCESS"] > 60
