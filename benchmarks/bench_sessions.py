"""Does a refresh cost the same with a million sessions, in SQLite and in Redis? What if Redis stalls?"""

import asyncio
import signal
import sqlite3
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

from harness import need, publish, table
from servers import Server, redis_server

from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import RedisStore, Sessions, SessionStore, SQLiteStore, TokenIssuer
from jwt_middleware.issuing.refresh_tokens import RefreshTokens
from jwt_middleware.issuing.rotation import Opening, Realm
from jwt_middleware.issuing.stores.sqlite_tables import insert_session

SECRET = "a secret of thirty-two bytes, yes"
FEW = 1000
DAY = 24 * 3600
REALM = Realm("jwt")


def sessions(store: SessionStore, **options: Any) -> Sessions:
    return Sessions(store, TokenIssuer(SECRET, audience="orders"), **options)


def opening(number: int) -> Opening:
    """A login as apps have them: an id of 22 characters, two scopes, a claim, a User-Agent."""
    return Opening(
        id=f"session-{number:014}",
        realm=REALM,
        subject=f"user-{number:08}",
        idle_lifetime=14 * DAY,
        session_lifetime=90 * DAY,
        access_lifetime=900,
        scopes=("orders:read", "orders:write"),
        claims={"tenant": 7},
        device="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    )


def pieces(count: int, size: int) -> Iterator[range]:
    return (range(first, min(first + size, count)) for first in range(0, count, size))


def fill_sqlite(path: Path, count: int) -> float:
    """Opens ``count`` sessions as the store itself writes them, in few transactions; bytes a session."""
    store = SQLiteStore(path)
    asyncio.run(store.sessions("nobody", REALM))
    asyncio.run(store.aclose())
    empty = path.stat().st_size
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for numbers in pieces(count, 50_000):
            db.execute("BEGIN")
            for number in numbers:
                insert_session(db, opening(number).begin(now := time.time(), now))
            db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (path.stat().st_size - empty) / count


def used_memory(client: Any) -> int:
    used: int = client.info("memory")["used_memory"]
    return used


async def fill_redis(server: Server, count: int) -> float:
    """Opens ``count`` sessions by the store itself, many at once; bytes a session."""
    store = RedisStore(server.url)
    with closing(server.client()) as client:
        before = used_memory(client)
        for numbers in pieces(count, 50):
            await asyncio.gather(*(store.open(opening(number), max_sessions=100) for number in numbers))
        await store.aclose()
        return (used_memory(client) - before) / count


async def refresh_latency(stores: dict[int, SessionStore], rounds: int, each: int) -> dict[int, list[float]]:
    """Seconds that single refreshes take, of random sessions of each store, in turn."""
    random = Random(1)
    renewing = {count: sessions(store, grace=0) for count, store in stores.items()}
    generations: dict[tuple[int, int], int] = {}
    refresh_tokens = RefreshTokens(TokenIssuer(SECRET, audience="orders"), 90 * DAY)
    taken: dict[int, list[float]] = {count: [] for count in stores}
    for number in range(-1, rounds):
        for count, here in renewing.items():
            for _ in range(each):
                which = random.randrange(count)
                generation = generations.get((count, which), 1)
                now = time.time()
                session = replace(opening(which).begin(now, now), generation=generation)
                token = refresh_tokens.mint(session, now, now)
                began = time.perf_counter()
                await here.refresh(token)
                if number >= 0:
                    taken[count].append(time.perf_counter() - began)
                generations[count, which] = generation + 1
    for here in renewing.values():
        await here.stop()
    return taken


async def stalled(server: Server) -> dict[str, float]:
    """What becomes of refreshes and logouts while the server stops in its tracks."""
    here = sessions(RedisStore(server.url), grace=60)
    grant = await here.open("ada")
    await here.refresh(grant.refresh_token)
    late: list[float] = []
    taken: list[float] = []
    done: list[str] = []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - began - 0.001)

    async def attempt(kind: str) -> None:
        began = time.perf_counter()
        try:
            await (here.refresh if kind == "refresh" else here.logout)(grant.refresh_token)
            done.append(kind)
        except StoreUnavailable:
            taken.append(time.perf_counter() - began)

    watching = asyncio.create_task(watch())
    # What the machine itself does to an event loop, meanwhile.
    await asyncio.sleep(5)
    idle = max(late)
    late.clear()
    server.process.send_signal(signal.SIGSTOP)
    attempts = []
    for kind in ("refresh", "logout") * 250:
        attempts.append(asyncio.create_task(attempt(kind)))
        await asyncio.sleep(0.01)
    await asyncio.gather(*attempts)
    server.process.send_signal(signal.SIGCONT)
    began = time.perf_counter()
    while not done:
        await attempt("refresh")
    well = time.perf_counter() - began
    watching.cancel()
    await here.stop()
    return {
        "refused": len(taken),
        "p99 of a refusal, ms": percentile(taken, 99) * 1000,
        "longest refusal, ms": max(taken) * 1000,
        "longest lag of the event loop, ms": max(late) * 1000,
        "longest lag before, with nothing to do, ms": idle * 1000,
        "well again after, ms": well * 1000,
    }


def percentile(values: Sequence[float], which: int) -> float:
    return quantiles(values, n=100)[which - 1]


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000, help="in each store")
    parser.add_argument("--rounds", type=int, default=20, help="of 200 refreshes for each store and size")
    options = parser.parse_args()
    need("redis-server")
    many = options.sessions
    figures: dict[str, Any] = {"latency": [], "stalled": {}}
    with TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        servers = {count: stack.enter_context(redis_server(directory)) for count in (FEW, many)}
        sizes: dict[tuple[str, int], float] = {}
        for count in (FEW, many):
            sizes["SQLite", count] = fill_sqlite(directory / f"{count}.db", count)
            sizes["Redis", count] = asyncio.run(fill_redis(servers[count], count))
            print(f"{count:,} sessions in each store", flush=True)
        for kind in ("SQLite", "Redis"):
            stores: dict[int, SessionStore] = {
                count: SQLiteStore(directory / f"{count}.db") if kind == "SQLite" else RedisStore(servers[count].url)
                for count in (FEW, many)
            }
            for count, taken in asyncio.run(refresh_latency(stores, options.rounds, 200)).items():
                figures["latency"].append(
                    {
                        "store": kind,
                        "sessions": count,
                        "p50": percentile(taken, 50),
                        "p99": percentile(taken, 99),
                        "bytes a session": sizes[kind, count],
                    }
                )
        figures["stalled"] = asyncio.run(stalled(stack.enter_context(redis_server(directory))))
    publish("sessions", report(figures), figures, ["redis", "anyio"])


def report(figures: dict[str, Any]) -> str:
    latency = [
        [one["store"], f"{one['sessions']:,}", *_milliseconds_of(one), f"{one['bytes a session']:.0f}"]
        for one in figures["latency"]
    ]
    stall = [[what, f"{value:.0f}"] for what, value in figures["stalled"].items()]
    return "\n".join(
        (
            table("A refresh, one at a time", ["store", "sessions", "p50, ms", "p99, ms", "bytes a session"], latency),
            table("While Redis stalls: 500 refreshes and logouts, 100 a second", ["", ""], stall),
        )
    )


def _milliseconds_of(figures: dict[str, Any]) -> list[str]:
    return [f"{figures[name] * 1000:.2f}" for name in ("p50", "p99")]


if __name__ == "__main__":
    main()
