"""What do a hostile request, a slow store, many tenants and a full log cost? Each part runs alone with ``--only``.

It uses public names only, so it also measures an earlier version: set PYTHONPATH to that.
"""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from unittest.mock import patch

import jwt
import redis
from cryptography.hazmat.primitives.asymmetric import ec
from harness import bare_app, publish, table
from jwt.algorithms import ECAlgorithm
from servers import redis_server

from jwt_middleware import JWTMiddleware, Provider, RevocationView, Verifier, cookie
from jwt_middleware.errors import Refusal, StoreUnavailable
from jwt_middleware.issuing import RedisStore, Sessions, SQLiteStore, TokenIssuer

SECRET = "a secret of thirty-two bytes, yes"
REVOCATIONS = 200_000

Figures: TypeAlias = dict[str, Any]


def public_jwk(curve: ec.EllipticCurve, kid: str) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(ec.generate_private_key(curve).public_key(), as_dict=True), "kid": kid}


async def stalls(longest: list[float]) -> None:
    """Add the longest time for which the event loop did nothing else, until cancelled."""
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        longest[0] = max(longest[0], time.perf_counter() - start - 0.001)


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    longest = [0.0]
    watching = asyncio.create_task(stalls(longest))
    await asyncio.sleep(0.02)
    longest[0] = 0
    yield longest
    watching.cancel()


def hostile() -> Figures:
    """Milliseconds of processor time for one request without a good token."""
    keys = [{"keys": [public_jwk(ec.SECP521R1(), f"{number}") for number in range(8)]} for _ in range(4)]
    many = [Provider(name=f"p{number}", key=keys[number % 4], audience="orders") for number in range(100)]
    public = ["/docs/*", "/health"]
    simple = JWTMiddleware(bare_app, key=SECRET, audience="orders", public=public)
    cookies = JWTMiddleware(bare_app, key=SECRET, audience="orders", sources=[cookie("access")])
    stranger = ec.generate_private_key(ec.SECP521R1())
    bad = jwt.encode({"aud": "orders", "sub": "ada", "exp": 2**33}, stranger, "ES512")
    lines = [(f"x-{number}".encode(), b"1") for number in range(10_000)]
    requests: dict[str, tuple[Any, str, list[tuple[bytes, bytes]]]] = {
        "path of 4 KB": (simple, "/" + "a/" * 2_000, []),
        "path of 64 KB": (simple, "/" + "a/" * 32_000, []),
        "10,000 header lines": (simple, "/", lines),
        "Cookie of 4 MB": (cookies, "/", [(b"cookie", b";" * 4_000_000)]),
        "bad token, 100 providers of 8 P-521 keys": (
            JWTMiddleware(bare_app, providers=many),
            "/",
            [(b"authorization", b"Bearer " + bad.encode())],
        ),
    }
    return {name: asyncio.run(milliseconds(*request)) for name, request in requests.items()}


async def milliseconds(app: Any, path: str, headers: list[tuple[bytes, bytes]]) -> float:
    async def send(message: Any) -> None:
        pass

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    taken = []
    for _ in range(5):
        scope: Figures = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "scheme": "http", "path": path}
        scope |= {"raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers}
        start = time.process_time()
        await app(scope, receive, send)
        taken.append(time.process_time() - start)
    return min(taken) * 1000


class SlowConnection(sqlite3.Connection):
    """A disk whose sync takes 20 ms."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        result = super().execute(sql, *arguments)
        if sql == "COMMIT":
            time.sleep(0.02)
        return result


def slow_disk() -> Figures:
    """256 logins at once, where a sync of the disk takes 20 ms."""
    connect = partial(sqlite3.connect, factory=SlowConnection)
    with TemporaryDirectory() as directory, patch("sqlite3.connect", connect):
        return asyncio.run(logins(Path(directory) / "sessions.db"))


async def logins(path: Path) -> Figures:
    sessions = Sessions(SQLiteStore(path), TokenIssuer(SECRET, audience="orders"))
    await sessions.open("first")
    answered: list[float] = []
    refused: list[float] = []

    async def login(number: int) -> None:
        start = time.perf_counter()
        try:
            await sessions.open(f"user {number}")
            answered.append(time.perf_counter() - start)
        except StoreUnavailable:
            refused.append(time.perf_counter() - start)

    await asyncio.gather(*map(login, range(256)))
    await sessions.stop()
    return {
        "logged in, of 256": len(answered),
        "refused": len(refused),
        "longest login, s": max(answered, default=0),
        "longest refusal, s": max(refused, default=0),
    }


async def tenants(number: int) -> Figures:
    """Start with the keys of ``number`` providers, each of which has its own metadata."""
    serving, address = identity_provider()
    tokens = TokenIssuer(SECRET, audience="orders", issuer="https://us.example")
    before, began, used = resident(), time.perf_counter(), time.process_time()
    providers = [Provider(name=f"t{n}", issuer=f"{address}/t{n}", audience="orders") for n in range(number)]
    verifier = Verifier([tokens.provider(), *providers])
    built, threads = time.perf_counter() - began, 0
    token = tokens.mint("ada")
    try:
        async with watched() as stall:
            starting = asyncio.create_task(verifier.start())
            while not starting.done():
                threads = max(threads, count_threads())
                await asyncio.sleep(0.02)
            await verifier.verify(token)
            serves = time.perf_counter() - began
            while count_ready(verifier) < number and time.perf_counter() - began < 15 + number / 25:
                threads = max(threads, count_threads())
                # To ask all of them takes a while.
                await asyncio.sleep(max(0.1, number / 2000))
        figures = {
            "built, s": built,
            "serves after, s": serves,
            "have keys": count_ready(verifier),
            "after, s": time.perf_counter() - began,
            "processor, s": time.process_time() - used,
            "threads": threads,
            "MB more": (resident() - before) / 1e6,
            "longest stall, ms": stall[0] * 1000,
        }
        await verifier.stop()
        return figures
    finally:
        serving.kill()
        serving.wait()


def identity_provider() -> tuple[subprocess.Popen[str], str]:
    """A process that is the identity provider of all tenants, and its address."""
    key = json.dumps({"keys": [public_jwk(ec.SECP256R1(), "a")]})
    serving = subprocess.Popen([sys.executable, "-c", IDENTITY_PROVIDER, key], stdout=subprocess.PIPE, text=True)
    assert serving.stdout is not None
    return serving, f"http://127.0.0.1:{int(serving.stdout.readline())}"


IDENTITY_PROVIDER = r"""
import asyncio, json, sys

async def answer(reader, writer):
    try:
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            tenant = path.split("/")[1]
            here = f"http://127.0.0.1:{port}"
            metadata = {"issuer": f"{here}/{tenant}", "jwks_uri": f"{here}/jwks"}
            body = json.dumps(metadata) if "known" in path else sys.argv[1]
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    except (asyncio.IncompleteReadError, OSError):
        writer.close()

async def main():
    global port
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def count_ready(verifier: Verifier) -> int:
    return sum(health.keys > 0 for name, health in verifier.health().items() if name.startswith("t"))


def count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


async def late(port: int, delay: float) -> Figures:
    """Requests with a remembered token, 50 a second, while each answer of the store comes ``delay`` seconds late."""
    holds = [0.0]

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(holds[0] if is_answer else 0)
                writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        its_reader, its_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(relay(reader, its_writer, False), relay(its_reader, writer, True))

    proxy = await asyncio.start_server(connect, "127.0.0.1", 0)
    store = RedisStore(f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0")
    tokens = TokenIssuer(SECRET, audience="orders")
    verifier = Verifier(tokens.provider(), revocations=RevocationView(store))
    token, taken, answers = tokens.mint("ada"), [], Counter[str]()
    await verifier.verify(token)
    holds[0] = delay

    async def request() -> None:
        start = time.perf_counter()
        answers[await outcome(lambda: verifier.verify(token))] += 1
        taken.append(time.perf_counter() - start)

    async with watched() as stall:
        together = []
        for _ in range(300):
            together.append(asyncio.create_task(request()))
            await asyncio.sleep(0.02)
        await asyncio.gather(*together)
    await verifier.stop()
    proxy.close()
    return {
        "waited, %": 100 * sum(seconds > 0.02 + stall[0] for seconds in taken) / len(taken),
        "longest, s": max(taken),
        "refused": answers.total() - answers["good"],
        "longest stall, ms": stall[0] * 1000,
    }


async def outcome(verify: Callable[[], Awaitable[object]]) -> str:
    try:
        await verify()
    except Refusal as refusal:
        return refusal.code
    return "good"


def fill_redis(port: int) -> None:
    until = int((time.time() + 1500) * 1000)
    with closing(redis.Redis(port=port)) as client, client.pipeline(transaction=False) as pipeline:
        for first in range(1, REVOCATIONS, 5000):
            numbers = range(first, first + 5000)
            # Without an issuer, as the layout of all versions allows.
            entries = {f'{n:016x}|{until}|["jwt","sid","session {n}"]': n for n in numbers}
            pipeline.zadd("{jwt}:log", entries)
            pipeline.zadd("{jwt}:ends", dict.fromkeys(entries, until))
            pipeline.execute()
        pipeline.hset("{jwt}:head", mapping={"number": REVOCATIONS, "mark": f"{REVOCATIONS:016x}"})
        pipeline.execute()


def fill_sqlite(path: Path) -> None:
    asyncio.run(_make(path))
    until = time.time() + 1500
    with closing(sqlite3.connect(path)) as db, db:
        columns = [name for _, name, *_ in db.execute("PRAGMA table_info(revocations)")]
        claim = "claim" if "claim" in columns else "ends"
        rows = ((f"{n:016x}", "jwt", "sid", f"session {n}", until) for n in range(1, REVOCATIONS + 1))
        issuer = ", issuer" if "issuer" in columns else ""
        db.executemany(
            f"INSERT INTO revocations (mark, provider, {claim}, value, until{issuer}) "
            f"VALUES (?, ?, ?, ?, ?{issuer and ', ' + repr('')})",
            rows,
        )
        db.execute("UPDATE head SET number = ?, mark = ?", (REVOCATIONS, f"{REVOCATIONS:016x}"))


async def _make(path: Path) -> None:
    store = SQLiteStore(path)
    await store.revocations("", 1)
    await store.aclose()


async def first_answer(store: Any) -> Figures:
    """A process starts among many revocations, and a request asks until it is answered."""
    tokens = TokenIssuer(SECRET, audience="orders")
    verifier = Verifier(tokens.provider(), revocations=RevocationView(store))
    token, answers = tokens.mint("ada", claims={"sid": "another"}), Counter[str]()
    async with watched() as stall:
        began, used = time.perf_counter(), time.process_time()
        while not answers["good"]:
            answers[await outcome(lambda: verifier.verify(token))] += 1
            await asyncio.sleep(0.02)
        seconds, processor = time.perf_counter() - began, time.process_time() - used
    await verifier.stop()
    await store.aclose()
    return {
        "good after, s": seconds,
        "503 before": answers.total() - 1,
        "processor, s": processor,
        "longest stall, ms": stall[0] * 1000,
    }


def measure_hostile() -> dict[str, Figures]:
    return {name: {"ms": value} for name, value in hostile().items()}


def measure_disk() -> dict[str, Figures]:
    return {"256 logins at once": slow_disk()}


def measure_tenants() -> dict[str, Figures]:
    return {f"{number} tenants": asyncio.run(tenants(number)) for number in options.tenants}


def measure_late() -> dict[str, Figures]:
    with TemporaryDirectory() as directory, redis_server(Path(directory)) as server:
        return {f"{delay} s late": asyncio.run(late(server.port, delay)) for delay in (0.3, 0.6, 0.8)}


def measure_start() -> dict[str, Figures]:
    with TemporaryDirectory() as directory, redis_server(Path(directory)) as server:
        fill_redis(server.port)
        path = Path(directory) / "sessions.db"
        fill_sqlite(path)
        return {
            "Redis": asyncio.run(first_answer(RedisStore(server.url))),
            "SQLite": asyncio.run(first_answer(SQLiteStore(path))),
        }


PARTS: dict[str, tuple[str, Callable[[], dict[str, Figures]]]] = {
    "hostile": ("One request without a good token, in ms of processor time", measure_hostile),
    "disk": ("SQLite on a disk whose sync takes 20 ms", measure_disk),
    "late": ("Requests with a remembered token, while Redis answers late", measure_late),
    "start": (f"A process that starts among {REVOCATIONS:,} revocations", measure_start),
    "tenants": ("A process that starts with many identity providers", measure_tenants),
}

options: Any = None


def main() -> None:
    global options
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure these parts, and keep no result")
    parser.add_argument("--tenants", type=int, nargs="*", default=[500, 10_000])
    options = parser.parse_args()
    reports, figures = [], {}
    for name in options.only or PARTS:
        title, measure = PARTS[name]
        figures[name] = measured = measure()
        columns = list(next(iter(measured.values())))
        rows = [[what, *(f"{value:.4g}" for value in one.values())] for what, one in measured.items()]
        reports.append(table(title, ["", *columns], rows))
        print(reports[-1], flush=True)
    if options.only is None:
        publish("faults", "\n".join(reports), figures, ["redis", "httpx2"])


if __name__ == "__main__":
    main()
