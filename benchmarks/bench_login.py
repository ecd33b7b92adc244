"""What does a login tell about who has an account, and what do throttling and bursts cost?

The part about bursts runs by itself with ``--only burst``, also against an earlier version: set PYTHONPATH to it.
"""

import asyncio
import random
import shutil
import signal
import socket
import subprocess
import time
from argparse import ArgumentParser
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from resource import getpagesize
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

from harness import publish, table
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.applications import Starlette
from starlette.types import Message, Scope

from jwt_middleware.issuing import Throttle, TokenIssuer, auth_routes, password_check
from jwt_middleware.issuing.throttle import LoginRefused

SECRET = "a secret of thirty-two bytes, yes"
KNOWN, UNKNOWN = "ada@example.org", "eve@example.org"

# Cheaper than anyone should use, so that nothing hides behind the time that it takes.
HASHER = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=1024, parallelism=1),))


@dataclass(frozen=True)
class User:
    identity: str
    password_hash: str


USERS = {KNOWN: User(KNOWN, HASHER.hash("lovelace"))}

Authenticate = Callable[[str, str], Any]
Answer = tuple[int, bytes, bytes]


def by_hand(username: str, password: str) -> User | None:
    user = USERS.get(username)
    return user if user is not None and HASHER.verify(password, user.password_hash) else None


class Service:
    """Login routes without a server around them."""

    def __init__(self, authenticate: Authenticate, throttle: Throttle | None) -> None:
        tokens = TokenIssuer(SECRET, audience="orders")
        self._app = Starlette(routes=auth_routes(tokens, authenticate=authenticate, throttle=throttle))

    async def login(self, username: str, password: str = "wrong", address: str = "203.0.113.9") -> tuple[float, Answer]:
        """Seconds until the answer; its status, headers (except the one that counts down) and body."""
        body = urlencode({"username": username, "password": password}).encode()
        headers = [
            (b"host", b"127.0.0.1:8000"),
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"content-length", str(len(body)).encode()),
        ]
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": "/login",
            "query_string": b"",
            "headers": headers,
            "client": (address, 54321),
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            sent.append(message)

        start = time.perf_counter()
        await self._app(scope, receive, send)
        seconds = time.perf_counter() - start
        lines = b"\n".join(b": ".join(line) for line in sent[0]["headers"] if line[0] != b"retry-after")
        return seconds, (sent[0]["status"], lines, sent[1]["body"])


async def told(service: Service, logins: int) -> tuple[set[Answer], float, float, float]:
    """The answers to ``logins`` wrong passwords of a known and of an unknown user each, in random order; the medians
    of their times in ms, and how well these tell one from the other: 0.5 is not at all, 0 or 1 is always."""
    names = [KNOWN, UNKNOWN] * logins
    random.Random(4).shuffle(names)
    seconds: dict[str, list[float]] = {KNOWN: [], UNKNOWN: []}
    answers: set[Answer] = set()
    for _ in range(50):
        await service.login(KNOWN)
        await service.login(UNKNOWN)
    for name in names:
        taken, answer = await service.login(name)
        seconds[name].append(taken)
        answers.add(answer)
    known, unknown = seconds[KNOWN], seconds[UNKNOWN]
    return answers, median(known) * 1e3, median(unknown) * 1e3, separable(known, unknown)


def separable(some: list[float], others: list[float]) -> float:
    """The area under the ROC curve: how often one of ``some`` is larger than one of ``others`` (Mann and Whitney)."""
    others = sorted(others)
    larger = sum(bisect_left(others, value) + bisect_right(others, value) for value in some)
    return larger / 2 / len(some) / len(others)


def unlimited(**options: Any) -> Throttle:
    return Throttle(account_failures=10**9, address_failures=10**9, **options)


async def cost(throttle: Throttle, logins: int) -> tuple[float, float]:
    """Microseconds that a throttle adds to a failed login, and to a good one."""
    scope = {"client": ("203.0.113.9", 54321), "headers": []}
    for _ in range(100):
        await throttle.forgive(await throttle.attempt(KNOWN, scope))
    failed, good = [], []
    for _ in range(logins):
        start = time.perf_counter()
        attempt = await throttle.attempt(KNOWN, scope)
        middle = time.perf_counter()
        await throttle.forgive(attempt)
        failed.append(middle - start)
        good.append(time.perf_counter() - start)
    return median(failed) * 1e6, median(good) * 1e6


async def attack(count: int) -> dict[str, float]:
    """``count`` made-up accounts from as many addresses, then what somebody sees who has nothing to do with it."""
    throttle = Throttle()
    headers: list[tuple[bytes, bytes]] = []
    await throttle.attempt("first", {"client": ("192.0.2.1", 1), "headers": headers})
    memory, start = _memory(), time.perf_counter()
    for number in range(count):
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        with suppress(LoginRefused):
            await throttle.attempt(f"user{number}", {"client": (address, 1), "headers": headers})
    seconds = time.perf_counter() - start
    refused = 0
    for number in range(10_000):
        try:
            await throttle.attempt(
                f"innocent{number}", {"client": (f"172.16.{number >> 8}.{number & 255}", 1), "headers": headers}
            )
        except LoginRefused:
            refused += 1
    return {
        "memory, MB more": (_memory() - memory) / 1e6,
        "microseconds each": seconds / count * 1e6,
        "others refused, of 10,000": refused,
    }


def _memory() -> int:
    """Bytes of this process that are in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * getpagesize()
    except FileNotFoundError:
        raise SystemExit("this benchmark reads /proc, as Linux has it") from None


@dataclass
class Outage:
    """What logins saw. Durations are seconds."""

    statuses: dict[int, int] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    stall: float = 0

    async def login(self, service: Service, username: str) -> None:
        taken, (status, _, _) = await service.login(username, "lovelace")
        self.durations.append(taken)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    async def watch(self) -> None:
        """Measures stalls of the event loop, until it is cancelled."""
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            self.stall = max(self.stall, time.perf_counter() - start - 0.001)


async def outage(url: str, logins: int) -> Outage:
    """What becomes of ``logins`` with the right password, a hundred a second."""

    async def authenticate(username: str, password: str) -> str:
        return username

    service, seen = Service(authenticate, Throttle(storage=url)), Outage()
    watching = asyncio.create_task(seen.watch())
    tasks = []
    for number in range(logins):
        tasks.append(asyncio.create_task(seen.login(service, f"user{number}")))
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    watching.cancel()
    return seen


@dataclass
class Burst:
    """What a burst of wrong passwords did to a client with the right one, and to everything else."""

    logged_in_after: float | None = None
    """Seconds until a client that comes back as it is told has its 200. None: it never had it."""
    tries: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)
    unanswered: int = 0
    """Requests that had no answer three seconds after the last one was sent."""
    stall: float = 0


async def burst(addresses: int, each: int, seconds: float) -> Burst:
    """Wrong passwords from ``addresses``, of which each has ``each`` requests under way and heeds no ``Retry-After``.

    Hashes have the cost that pwdlib recommends. A client with the right password comes after half a second.
    """
    hasher = PasswordHash.recommended()
    users = {KNOWN: User(KNOWN, hasher.hash("lovelace"))}
    service = Service(password_check(users.get, hasher), Throttle(address_failures=10**6, account_failures=10**6))
    seen = Burst()
    ends_at = time.monotonic() + seconds

    async def attacker(address: str, number: int) -> None:
        while time.monotonic() < ends_at:
            taken, (status, _, _) = await service.login(f"{address}-{number}", "wrong", address)
            seen.durations.append(taken)
            seen.statuses[status] += 1
            await asyncio.sleep(0.02)

    async def client() -> None:
        await asyncio.sleep(0.5)
        started_at = time.monotonic()
        while seen.logged_in_after is None and time.monotonic() < ends_at:
            seen.tries += 1
            taken, (status, _, _) = await service.login(KNOWN, "lovelace", "198.51.100.1")
            seen.durations.append(taken)
            if status == 200:
                seen.logged_in_after = time.monotonic() - started_at
            else:
                # What the answer says: Retry-After: 1.
                await asyncio.sleep(1)

    watched = Outage()
    watching = asyncio.create_task(watched.watch())
    tasks = [asyncio.create_task(client())]
    for address in range(addresses):
        tasks += [asyncio.create_task(attacker(f"192.0.2.{address}", number)) for number in range(each)]
    _, unanswered = await asyncio.wait(tasks, timeout=seconds + 3)
    for task in unanswered:
        task.cancel()
    watching.cancel()
    seen.unanswered = len(unanswered)
    seen.stall = watched.stall
    return seen


BURSTS = {"200 at once, from 20 addresses": (20, 10, 15.0), "as many, from 200 addresses": (200, 1, 15.0)}


def bursts() -> tuple[str, dict[str, Any]]:
    """The report about bursts, and its figures."""
    rows, figures = [], {}
    for name, (addresses, each, seconds) in BURSTS.items():
        seen = asyncio.run(burst(addresses, each, seconds))
        after = "never" if seen.logged_in_after is None else f"{seen.logged_in_after:.1f}"
        rows.append(
            [
                name,
                after,
                str(seen.tries),
                f"{max(seen.durations, default=0):.1f}",
                str(seen.statuses[400]),
                str(seen.statuses[503]),
                str(seen.unanswered),
                f"{seen.stall * 1e3:.0f}",
            ]
        )
        figures[name] = {
            "logged in after s": seen.logged_in_after,
            "tries": seen.tries,
            "longest answer s": max(seen.durations, default=0),
            "unanswered": seen.unanswered,
            "answers": {str(status): number for status, number in seen.statuses.items()},
            "longest stall ms": seen.stall * 1e3,
        }
    title = "Wrong passwords without end, hashed by argon2 as pwdlib recommends, and a client with the right one"
    columns = ["under way", "logged in, s", "tries", "longest answer, s", "400", "503", "no answer", "stall, ms"]
    return table(title, columns, rows), figures


@contextmanager
def redis() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory() as directory:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", directory]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}", process
        finally:
            process.kill()
            process.wait()


async def timing(logins: int) -> tuple[list[list[str]], dict[str, Any]]:
    ours = password_check(USERS.get, HASHER)
    services = {
        "password_check": Service(ours, None),
        "password_check, throttled": Service(ours, unlimited()),
        "password_check, refused with 429": Service(ours, Throttle(account_failures=1, address_failures=10**9)),
        "by hand, no hash for nobody": Service(by_hand, None),
    }
    rows, figures = [], {}
    for name, service in services.items():
        answers, known, unknown, area = await told(service, logins)
        rows.append([name, str(len(answers)), f"{known:.3f}", f"{unknown:.3f}", f"{area:.3f}"])
        figures[name] = {"answers": len(answers), "known ms": known, "unknown ms": unknown, "AUC": area}
    return rows, figures


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--logins", type=int, default=2_000, help="of a known and of an unknown user each")
    parser.add_argument("--only", choices=["burst"], help="measure this alone, and keep no result")
    parser.add_argument("--accounts", type=int, default=1_000_000, help="made-up ones, from as many addresses")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    if options.only == "burst":
        print(bursts()[0])
        return

    # First, since memory that was given back is not there for it.
    figures["attack"] = asyncio.run(attack(options.accounts))
    attacked = table(
        f"{options.accounts:,} made-up accounts from as many addresses, in memory",
        ["", "measured"],
        [[what, f"{value:.3g}"] for what, value in figures["attack"].items()],
    )

    rows, figures["timing"] = asyncio.run(timing(options.logins))
    report = table(
        f"{options.logins:,} wrong passwords of a known user and of an unknown one, in random order",
        ["", "answers", "known, ms", "unknown, ms", "AUC"],
        rows,
    )
    report += "\n" + attacked

    costs = {"memory": asyncio.run(cost(unlimited(), options.logins))}
    if shutil.which("redis-server"):
        with redis() as (url, process):
            costs["Redis on this machine"] = asyncio.run(cost(unlimited(storage=url), options.logins))
            outages = {"well": asyncio.run(outage(url, 500))}
            process.send_signal(signal.SIGSTOP)
            outages["stalled"] = asyncio.run(outage(url, 500))
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
            outages["gone"] = asyncio.run(outage(url, 500))
    else:
        outages = {}
        report += "\nredis-server is not installed: nothing was measured with it.\n"
    figures["cost"], figures["outages"] = costs, outages
    report += "\n" + table(
        "Microseconds that throttling adds to a login",
        ["counts in", "failed", "good"],
        [[where, f"{failed:.0f}", f"{good:.0f}"] for where, (failed, good) in costs.items()],
    )
    if outages:
        report += "\n" + table(
            "500 good logins in five seconds, by the state of Redis",
            ["Redis", "200", "429", "503", "median, ms", "p99, ms", "longest stall, ms"],
            [[state, *_figures(seen)] for state, seen in outages.items()],
        )
    burst_report, figures["bursts"] = bursts()
    report += "\n" + burst_report
    publish("login", report, figures, ("pwdlib", "limits", "redis"))


def _figures(seen: Outage) -> list[str]:
    durations = sorted(seen.durations)
    return [
        *(str(seen.statuses.get(status, 0)) for status in (200, 429, 503)),
        f"{median(durations) * 1e3:.1f}",
        f"{durations[int(len(durations) * 0.99)] * 1e3:.0f}",
        f"{seen.stall * 1e3:.0f}",
    ]


if __name__ == "__main__":
    main()
