"""After a logout, when does the last of four busy workers refuse the token? 200 logouts per store (needs wrk)."""

import asyncio
import re
import signal
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

from bench_server import SCRIPT
from harness import need, publish, table
from servers import postgres_server, redis_server
from services import USERS, Service, running

WORKERS = 4
TOGETHER = 2
"""Logouts that are under way at a time."""
PAUSE = 0.01
"""Seconds between two requests to a worker that still accepts the token."""
CONNECTIONS = 16
"""Of the load, to each worker."""

LOAD = f"""{SCRIPT}
function delay()
  return math.random(10, 30)
end
"""
"""Each connection waits 10 to 30 ms before its next request: the workers are busy, but not overloaded."""


@dataclass(frozen=True)
class Trial:
    since_sent: float
    """Seconds from when the logout was sent until the last worker refused the token."""
    since_answered: float
    """Seconds from its answer; below zero if all workers refused it before."""


class Client:
    """One connection to a worker."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, token: str) -> int:
        """The status of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        lines = (f"{method} {path} HTTP/1.1", "Host: test", f"Authorization: Bearer {token}", "Content-Length: 0")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if length:
            await reader.readexactly(int(length[1]))
        return int(head.split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def log_out(workers: list[Service], number: int) -> Trial | None:
    """None if the logout was answered with 503, because the store got no processor time for a second."""
    clients = [Client(worker.port) for worker in workers]
    token = (await asyncio.to_thread(workers[number % WORKERS].log_in, USERS[number % len(USERS)]))["access_token"]
    if {await client.ask("GET", "/", token) for client in clients} != {200}:
        raise SystemExit("a new token was refused: nothing was measured")

    async def refused(client: Client) -> float:
        while await client.ask("GET", "/", token) == 200:  # noqa: ASYNC110 - another process decides when
            await asyncio.sleep(PAUSE)
        return time.perf_counter()

    logging_out = Client(workers[number % WORKERS].port)
    sent = time.perf_counter()
    watching = asyncio.gather(*map(refused, clients))
    statuses = [await logging_out.ask("POST", "/auth/logout", token)]
    answered = time.perf_counter()
    while statuses[-1] == 503:
        statuses.append(await logging_out.ask("POST", "/auth/logout", token))
    last = max(await watching)
    for client in (*clients, logging_out):
        client.close()
    return None if statuses[0] == 503 else Trial(last - sent, last - answered)


async def log_out_many(workers: list[Service], count: int) -> tuple[list[Trial], int]:
    """``count`` logouts that were answered at once, and how many others were answered with 503."""
    trials: list[Trial] = []
    unavailable = 0

    async def some(first: int) -> None:
        nonlocal unavailable
        number = first
        while len(trials) < count:
            trial = await log_out(workers, number)
            if trial is None:
                unavailable += 1
            else:
                trials.append(trial)
            number += TOGETHER

    await asyncio.gather(*(some(first) for first in range(TOGETHER)))
    return trials[:count], unavailable


@contextmanager
def loaded(workers: list[Service], folder: Path) -> Iterator[list[int]]:
    """wrk asks each worker all the time. Afterwards, the list says how many requests each of them has answered."""
    script, tokens = folder / "get.lua", folder / "tokens"
    script.write_text(LOAD, encoding="ascii")
    tokens.write_text(
        "\n".join(workers[0].log_in(name)["access_token"] for name in USERS[:100]) + "\n", encoding="ascii"
    )
    how = ["-t1", f"-c{CONNECTIONS}", "-d600s", "-s", str(script)]
    commands = [["wrk", *how, f"http://127.0.0.1:{worker.port}/", "--", str(tokens)] for worker in workers]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    answered: list[int] = []
    try:
        yield answered
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            output = process.communicate()[0]
            counted = re.search(r"(\d+) requests in ", output)
            if counted is None or "Non-2xx" in output:
                raise SystemExit(f"wrk could not measure:\n{output}")
            answered.append(int(counted[1]))


def measure(where: str, queries: Callable[[], int] | None, folder: Path, count: int) -> dict[str, Any]:
    with ExitStack() as stack:
        workers = [stack.enter_context(running("ours", where)) for _ in range(WORKERS)]
        before, began = queries() if queries else 0, time.monotonic()
        with loaded(workers, folder) as answered:
            time.sleep(1)
            trials, unavailable = asyncio.run(log_out_many(workers, count))
        taken = time.monotonic() - began
        asked = queries() - before if queries else None
    return {
        "trials": trials,
        "unavailable": unavailable,
        "requests": sum(answered),
        "queries": asked,
        "seconds": taken,
    }


def row(name: str, found: dict[str, Any]) -> list[str]:
    since_sent = [1000 * trial.since_sent for trial in found["trials"]]
    late = sum(trial.since_answered > 1 for trial in found["trials"])
    cells = (min(since_sent), median(since_sent), quantiles(since_sent, n=20)[18], max(since_sent))
    rate = found["requests"] / found["seconds"]
    asked = "-" if found["queries"] is None else f"{found['queries'] / found['requests']:.4f}"
    return [
        name,
        f"{len(since_sent)}",
        *(f"{cell:.0f}" for cell in cells),
        f"{late}",
        f"{found['unavailable']}",
        f"{rate:,.0f}",
        asked,
    ]


HEAD = ["", "logouts", "min", "median", "95 %", "max", "over 1 s", "503", "requests/s", "queries a request"]


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--logouts", type=int, default=200, help="per store")
    options = parser.parse_args()
    need("wrk", "redis-server")
    figures: dict[str, Any] = {}
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        postgres, redis = stack.enter_context(postgres_server()), stack.enter_context(redis_server(folder))
        stores: dict[str, tuple[str, Callable[[], int] | None]] = {
            "PostgreSQL": (postgres.url(), postgres.queries),
            "Redis": (redis.url, redis.queries),
            "SQLite": (str(folder / "sessions.db"), None),
        }
        for kind, (where, queries) in stores.items():
            figures[kind] = measure(where, queries, folder, options.logouts)
            print(*row(kind, figures[kind]), flush=True)
    title = f"Milliseconds from a logout until the last of {WORKERS} workers refuses the token"
    report = table(title, HEAD, [row(kind, found) for kind, found in figures.items()])
    report += (
        f"\nFastAPI, uvicorn on uvloop. Meanwhile, wrk asks each worker over {CONNECTIONS} connections.\n"
        "Over 1 s: since the logout was answered. 503: further logouts, not counted.\n"
        "Queries: of all requests, logins, logouts and polls, by the server's own count.\n"
    )
    publish("logout", report, figures, ["fastapi", "sqlalchemy", "asyncpg", "redis", "uvicorn", "uvloop"])


if __name__ == "__main__":
    main()
