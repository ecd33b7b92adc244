"""What do 10,000 open WebSockets cost, and do they end in time when their tokens expire or are revoked?"""

import asyncio
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from resource import getpagesize
from socket import create_server
from statistics import median, quantiles
from typing import Any
from urllib.request import urlopen

import uvicorn
from harness import publish, table
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from tokens import AUDIENCE, SECRET, issuer

from jwt_middleware import JWTMiddleware, Token

BY = issuer("HS256")
OVER = 10
"""Seconds over which the tokens expire."""

Figures = dict[str, float]
LIMITS: Figures = {
    "late, s, at most": 1,
    "event loop lag, ms, p99": 50,
    "left in the timer": 0,
    "objects more": 1000,
    # Of what they took: pages that are not wholly free are kept.
    "memory kept, %": 5,
}


class Revoked:
    """``Revocations`` that end everybody at once when they are told."""

    def __init__(self) -> None:
        self.everybody = False

    def is_revoked(self, token: Token) -> bool | None:
        return self.everybody

    async def catch_up(self) -> None:
        pass

    async def stop(self) -> None:
        pass


async def listen(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.receive_text()


async def careful(websocket: WebSocket) -> None:
    """What a bare app does, where clients leave."""
    with suppress(WebSocketDisconnect):
        await listen(websocket)


class Lag:
    """How much later than it should a task of the event loop runs."""

    def __init__(self) -> None:
        self._seconds: list[float] = [0, 0]
        self._since = 0.0

    async def watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            if before > self._since:
                self._seconds.append(time.perf_counter() - before - 0.005)

    def figures(self) -> Figures:
        """Milliseconds; and begin anew, from the next time on that is not in the middle of this."""
        percentiles = [1000 * lag for lag in quantiles(self._seconds, n=100)]
        found = {"p50": percentiles[49], "p99": percentiles[98], "max": 1000 * max(self._seconds)}
        self._seconds = [0, 0]
        return found

    def resume(self) -> None:
        self._since = time.perf_counter()


def serve(bare: bool) -> None:
    """Serves, in a process started for it, and prints the port."""
    lag, revocations = Lag(), Revoked()

    async def figures(request: Request) -> JSONResponse:
        found: dict[str, Any] = {"lag": lag.figures(), "tasks": len(asyncio.all_tasks())}
        gc.collect()
        found["objects"] = len(gc.get_objects())
        if _trim is not None:
            # Otherwise, glibc decides when it gives back unused memory.
            _trim(0)
        found["memory"] = _memory()
        found["open"] = app.open_connections if isinstance(app, JWTMiddleware) else 0
        lag.resume()
        return JSONResponse(found)

    async def revoke(request: Request) -> JSONResponse:
        revocations.everybody = request.query_params["everybody"] == "yes"
        return JSONResponse({})

    routes = [WebSocketRoute("/", careful if bare else listen), Route("/figures", figures), Route("/revoke", revoke)]
    app: Any = Starlette(routes=routes)
    if not bare:
        app = JWTMiddleware(
            app,
            key=SECRET,
            audience=AUDIENCE,
            leeway=0,
            revocations=revocations,
            public=["/figures", "/revoke"],
            # What is remembered of tokens is bounded, and is bench_memory.py's to measure.
            cache_size=0,
        )

    config = uvicorn.Config(
        app, loop="uvloop", ws="websockets-sansio", lifespan="off", log_level="error", ws_ping_interval=None
    )

    async def run() -> None:
        with create_server(("127.0.0.1", 0), backlog=4096) as listener:
            print(listener.getsockname()[1], flush=True)
            watching = asyncio.create_task(lag.watch())
            await uvicorn.Server(config).serve(sockets=[listener])
            watching.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


class Client(asyncio.Protocol):
    """A WebSocket that waits until it is closed, and answers that."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[tuple[float, bytes]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.opened.done():
            head, end, self._received = self._received.partition(b"\r\n\r\n")
            if end:
                self.opened.set_result(head.startswith(b"HTTP/1.1 101 "))
        if self._received[:1] == b"\x88" and not self.closed.done():
            self.closed.set_result((time.time(), self._received[2:]))
            self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        for future, result in ((self.opened, False), (self.closed, (0.0, b""))):
            if not future.done():
                future.set_result(result)  # type: ignore[arg-type]  # each its own

    def leave(self) -> None:
        """Close, as RFC 6455 5.5.1 has it: a frame with the code 1000, masked with zeros."""
        assert self._transport is not None
        self._transport.write(b"\x88\x82\0\0\0\0\x03\xe8")
        self._transport.close()


async def connect(port: int, ends: list[int]) -> list[Client]:
    """A client for each of the moments that ``ends`` names, with a token until then."""
    loop = asyncio.get_running_loop()
    clients = []
    for first in range(0, len(ends), 100):
        for number, end in enumerate(ends[first : first + 100], first):
            token = BY.token(number, exp=end, iat=end - 3600).decode()
            lines = [
                "GET / HTTP/1.1",
                f"Host: 127.0.0.1:{port}",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
                f"Authorization: Bearer {token}",
            ]
            request = "\r\n".join([*lines, "", ""]).encode()
            connecting = loop.create_connection(lambda: Client(request), "127.0.0.1", port)  # noqa: B023 - awaited here
            clients.append((await connecting)[1])
        if not all(await asyncio.gather(*(client.opened for client in clients[first:]))):
            raise SystemExit("a WebSocket was refused: nothing was measured")
    return clients


def ask(port: int, path: str) -> Any:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
        return json.load(response)


async def gone(port: int, tasks: int) -> Any:
    """The figures when the server has nothing left to do, or after five seconds."""
    found = await asyncio.to_thread(ask, port, "/figures")
    lag, deadline = found["lag"], time.monotonic() + 5
    while found["tasks"] > tasks and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        found = await asyncio.to_thread(ask, port, "/figures")
    return {**found, "lag": lag}


async def closed(clients: list[Client], code: int, reason: bytes) -> list[float]:
    """When each of ``clients`` was closed with ``code`` and ``reason``."""
    ends = await asyncio.wait_for(asyncio.gather(*(client.closed for client in clients)), 60)
    if {payload for _, payload in ends} != {code.to_bytes(2) + reason}:
        raise SystemExit("a WebSocket was closed otherwise than it should be")
    return [at for at, _ in ends]


@dataclass(frozen=True)
class Wave:
    """Many connections that were opened, and ended."""

    late: list[float]
    """Seconds after its time that each was closed."""
    opening: float
    """Seconds that it took to open them."""
    during: Any
    after: Any
    """The server's figures while they were open, and when they had ended."""


async def expiring(port: int, count: int, opening: float, tasks: int) -> Wave:
    """``count`` connections whose tokens expire, beginning when ``opening`` seconds have passed."""
    began = time.time()
    start = int(began + opening) + 5
    ends = [start + number * OVER // count for number in range(count)]
    clients = await connect(port, ends)
    opened = time.time()
    if opened > start:
        raise SystemExit("opening took longer than the first token was good for")
    # It collects garbage for that, which takes a while.
    await asyncio.sleep(max(0, start - opened - 4))
    during = await asyncio.to_thread(ask, port, "/figures")
    at = await closed(clients, 3000, b"expired")
    late = [closing - end for closing, end in zip(at, ends, strict=True)]
    if min(late) < 0:
        raise SystemExit("a WebSocket was closed before its time")
    return Wave(late, opened - began, during, await gone(port, tasks))


async def revoked(port: int, count: int, tasks: int) -> tuple[Wave, Any]:
    """``count`` connections that end all at once; and the figures of a time before, while nothing ended."""
    began = time.time()
    clients = await connect(port, [int(began) + 1000] * count)
    opened = time.time()
    await asyncio.sleep(1)
    during = await asyncio.to_thread(ask, port, "/figures")
    await asyncio.sleep(3)
    looking = await asyncio.to_thread(ask, port, "/figures")
    at = time.time()
    await asyncio.to_thread(ask, port, "/revoke?everybody=yes")
    late = [closing - at for closing in await closed(clients, 3000, b"revoked")]
    after = await gone(port, tasks)
    await asyncio.to_thread(ask, port, "/revoke?everybody=no")
    return Wave(late, opened - began, during, after), looking


async def measure(port: int, count: int) -> tuple[Figures, Figures]:
    """What was measured while tokens expired, and while all were revoked at once."""
    idle = await asyncio.to_thread(ask, port, "/figures")
    # What memory is left is counted from the second time on: an allocator keeps what it once had.
    first, looking = await revoked(port, count, idle["tasks"])
    second = await expiring(port, count, 3 * first.opening, idle["tasks"])
    third = await expiring(port, count, 3 * second.opening, idle["tasks"])
    before = second.after["memory"]
    by_expiry = {
        **_figures(third),
        "left in the timer": third.after["open"],
        "objects more": third.after["objects"] - second.after["objects"],
        "memory kept, %": 100 * (third.after["memory"] - before) / (third.during["memory"] - before),
    }
    return by_expiry, {
        **_figures(first),
        "event loop lag while nothing ends, ms, p99": looking["lag"]["p99"],
        "memory of each while open, kB": (first.during["memory"] - idle["memory"]) / count / 1e3,
    }


async def measure_bare(port: int, count: int) -> float:
    """Bytes that a connection takes of an app without the middleware."""
    before = await asyncio.to_thread(ask, port, "/figures")
    clients = await connect(port, [int(time.time()) + 1000] * count)
    during = await asyncio.to_thread(ask, port, "/figures")
    for client in clients:
        client.leave()
    bytes_each: float = (during["memory"] - before["memory"]) / count
    return bytes_each


def _figures(wave: Wave) -> Figures:
    lag = wave.after["lag"]
    return {
        "late, s, at most": max(wave.late),
        "late, s, median": median(wave.late),
        "event loop lag, ms, p99": lag["p99"],
        "event loop lag, ms, p50": lag["p50"],
        "event loop lag, ms, at most": lag["max"],
    }


@contextmanager
def running(*, bare: bool) -> Iterator[int]:
    command = [sys.executable, __file__, "--serve", *(["--bare"] if bare else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def _memory() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * getpagesize()


def _report(title: str, measured: Figures, limits: Figures) -> str:
    rows = []
    for what, value in measured.items():
        limit = limits.get(what)
        verdict = ["", ""] if limit is None else [f"{limit:.3g}", "reached" if value <= limit else "missed"]
        rows.append([what, f"{value:.3g}", *verdict])
    return table(title, ["", "measured", "at most", ""], rows)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--serve", action="store_true", help="(used by the benchmark itself)")
    parser.add_argument("--bare", action="store_true", help="(used by the benchmark itself)")
    options = parser.parse_args()
    if options.serve:
        serve(options.bare)
        return
    count = options.connections
    with running(bare=False) as port:
        by_expiry, by_revocation = asyncio.run(measure(port, count))
    with running(bare=True) as port:
        bare = asyncio.run(measure_bare(port, count))
    report = "\n".join(
        [
            _report(f"{count:,} WebSockets whose tokens expire over {OVER} seconds", by_expiry, LIMITS),
            _report(f"{count:,} WebSockets whose tokens are revoked at once", by_revocation, {}),
            f"A connection of the bare app takes {bare / 1000:.1f} kB.",
            f"uvicorn on uvloop, websockets-sansio, {os.cpu_count()} processors for server and clients",
            "",
        ]
    )
    publish(
        "live",
        report,
        {"expired": by_expiry, "revoked": by_revocation, "bare_bytes_each": bare},
        ["uvicorn", "uvloop", "websockets"],
    )


if __name__ == "__main__":
    main()
