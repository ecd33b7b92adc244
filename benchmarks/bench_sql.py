"""Do sessions in PostgreSQL cost the same with a million of them, how large are they, and do their tables stay so?"""

import asyncio
import time
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import quantiles
from typing import Any

from harness import publish, table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from jwt_middleware.issuing import SQLStore
from jwt_middleware.issuing.rotation import Opening, Realm, RevocationRequest, Rotation

JWT = Realm("jwt")
PREFIX = "bench_"
LATER = 4e9
REFRESHES = 10
TOGETHER = 500
"""Refreshes in one transaction while tables are measured: to send each alone would take hours."""

FILL = f"""
INSERT INTO {PREFIX}sessions (id, layout, realm, owner, generation, is_used, opened_at, rotated_at, used_at, ends_at,
    expires_at, access_until, over_day, attempt, granted)
SELECT 'session-' || lpad(n::text, 14, '0'), 1, '["jwt", null]', substr(sha256(n::text::bytea), 1, 16), 1, false, now,
    now - 60, now, now + 7776000, now + 1209600, now + 900, (now + 1209600) / 86400, '', json_build_object('subject',
    'user ' || n, 'scopes', json_build_array('orders:read'), 'claims', json_build_object(), 'device', 'a browser')
FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n,
    (SELECT extract(epoch FROM clock_timestamp())::float8 AS now OFFSET 0) AS moment"""

REFRESH = f"""
UPDATE {PREFIX}sessions SET generation = generation + 1, parent = generation,
    rotated_at = rotated_at + 1, used_at = used_at + 1,
    expires_at = expires_at + 1, access_until = access_until + 1, attempt = substr(md5(id), 1, 16) || 'next'
WHERE id = ANY (CAST(:ids AS text[]))"""

SIZE = f"SELECT pg_table_size('{PREFIX}sessions'), pg_indexes_size('{PREFIX}sessions')"


@dataclass(frozen=True)
class Latency:
    what: str
    sessions: int
    median: float
    """Milliseconds, and the 95th per cent below."""
    p95: float


def session_id(number: int) -> str:
    return f"session-{number:014}"


async def measure(what: str, sessions: int, steps: list[Callable[[], Awaitable[Any]]]) -> Latency:
    taken = []
    for step in steps:
        began = time.perf_counter()
        await step()
        taken.append((time.perf_counter() - began) * 1000)
    cuts = quantiles(taken, n=20)
    return Latency(what, sessions, cuts[9], cuts[18])


async def latencies(store: SQLStore, sessions: int, count: int) -> list[Latency]:
    """Of steps that come one after the other."""
    random = Random(sessions)
    chosen = random.sample(range(1, sessions + 1), count)
    terms = partial(Rotation, grace=10, idle_lifetime=1209600, access_lifetime=900, deadline=LATER)

    async def refresh(number: int) -> None:
        await store.read(session_id(number), JWT)
        await store.rotate(terms(id=session_id(number), realm=JWT, generation=1))

    def log_in(number: int) -> Callable[[], Awaitable[Any]]:
        opening = Opening(
            id=f"new-{sessions}-{number}",
            realm=JWT,
            subject=f"new user {number}",
            idle_lifetime=1209600,
            session_lifetime=7776000,
            access_lifetime=900,
        )
        return partial(store.open, opening, max_sessions=100)

    def log_out(number: int) -> Callable[[], Awaitable[Any]]:
        request = RevocationRequest(realm=JWT, claim="sid", value=f"new-{sessions}-{number}", lifetime=900)
        return partial(store.revoke, request)

    # Prepared, and in the caches, as in a server that has run for a while.
    await measure("", sessions, [partial(refresh, number) for number in chosen[:20]])
    return [
        await measure("refresh", sessions, [partial(refresh, number) for number in chosen[20:]]),
        await measure("login", sessions, [log_in(number) for number in range(count)]),
        await measure("list", sessions, [partial(store.sessions, f"new user {n}", JWT) for n in range(count)]),
        await measure("logout", sessions, [log_out(number) for number in range(count)]),
    ]


async def size(engine: AsyncEngine) -> tuple[int, int]:
    async with engine.connect() as connection:
        heap, indexes = (await connection.execute(text(SIZE))).one()
    return heap, indexes


async def refresh_all(engine: AsyncEngine, sessions: int) -> None:
    """Refresh each session once, in a random order."""
    numbers = list(range(1, sessions + 1))
    Random(1).shuffle(numbers)
    for first in range(0, sessions, TOGETHER):
        async with engine.begin() as connection:
            ids = [session_id(number) for number in numbers[first : first + TOGETHER]]
            await connection.execute(text(REFRESH), {"ids": ids})


async def main(address: str, few: int, many: int, grown: int, count: int) -> None:
    engine = create_async_engine(address)
    store = SQLStore(engine, prefix=PREFIX)
    async with engine.begin() as connection:
        await connection.run_sync(store.metadata.drop_all)
    await store.create_tables()
    rows: list[Latency] = []
    filled = 0
    growth: tuple[float, float] = (0, 0)
    for wanted in sorted({few, grown, many}):
        async with engine.begin() as connection:
            await connection.execute(text(FILL), {"first": filled + 1, "last": wanted})
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(f"VACUUM ANALYZE {PREFIX}sessions"))
        filled = wanted
        if wanted == grown:
            before = await size(engine)
            for _ in range(REFRESHES):
                await refresh_all(engine, grown)
            after = await size(engine)
            growth = (sum(after) / sum(before), after[0] / before[0])
            async with engine.begin() as connection:
                await connection.execute(text(f"UPDATE {PREFIX}sessions SET generation = 1, attempt = ''"))
        if wanted in (few, many):
            rows += await latencies(store, wanted, min(count, wanted))
    heap, indexes = await size(engine)
    await store.aclose()
    await engine.dispose()
    report = table(
        "Milliseconds of a step, one after the other",
        ("step", "sessions", "median", "95 %"),
        [(row.what, f"{row.sessions:,}", f"{row.median:.2f}", f"{row.p95:.2f}") for row in rows],
    )
    per_session = (heap + indexes) / filled
    report += (
        f"\nBytes a session, indexes included: {per_session:.0f} (heap {heap / filled:.0f})\n"
        f"Size of the tables after {REFRESHES} refreshes of each of {grown:,} sessions, {TOGETHER} in a transaction: "
        f"{growth[0]:.2f} times (heap {growth[1]:.2f})\n"
    )
    figures = {"latencies": rows, "bytes": per_session, "growth": growth}
    publish("sql", report, figures, ("sqlalchemy", "asyncpg"))


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("address", help="postgresql+asyncpg://... of an empty database")
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--grown", type=int, default=100_000, help="sessions that are refreshed ten times each")
    parser.add_argument("--count", type=int, default=300, help="steps of each kind")
    given = parser.parse_args()
    asyncio.run(main(given.address, given.few, given.many, given.grown, given.count))
