"""Do sessions in PostgreSQL cost the same with a million of them, how large are they, and do their tables stay so?"""

import asyncio
import time
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from statistics import quantiles
from typing import Any

from harness import publish, table
from servers import Postgres, postgres_server
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from jwt_middleware.issuing import SQLStore
from jwt_middleware.issuing.rotation import Opening, Realm, RevocationRequest, Rotation

JWT = Realm("jwt")
DAY = 24 * 3600
REFRESHES = 10
EACH = 20
"""Steps of a kind in a row, before those of the next kind or store."""
TOGETHER = 500
"""Refreshes in one transaction while the growth is measured: with one in each, it would take hours."""

FILL = """
INSERT INTO {sessions} (id, layout, realm, owner, generation, is_used, opened_at, rotated_at, used_at, ends_at,
    expires_at, access_until, over_day, attempt, granted)
SELECT 'session-' || lpad(n::text, 14, '0'), 1, '["jwt", null]', substr(sha256(n::text::bytea), 1, 16), 1, false,
    used, used, used, used + 90 * 86400, used + 14 * 86400, used + 900, floor((used + 14 * 86400) / 86400), '',
    json_build_object('subject', 'user ' || n, 'scopes', json_build_array('orders:read', 'orders:write'),
    'claims', json_build_object('tenant', 7),
    'device', 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0')
FROM (SELECT n, extract(epoch FROM now())::float8 - random() * 86400 AS used FROM generate_series(1, {count}) AS n) AS s
"""
"""Sessions that were opened during the last day."""

REFRESH = """
UPDATE {sessions} SET generation = generation + 1, parent = generation, rotated_at = rotated_at + :later,
    used_at = used_at + :later, expires_at = expires_at + :later, access_until = access_until + :later,
    over_day = floor((expires_at + :later) / 86400), attempt = substr(md5(id || generation), 1, 16) || 'next'
WHERE id = ANY (CAST(:ids AS text[]))"""
"""It makes the row versions that ``rotate`` makes."""


@dataclass(frozen=True)
class Latency:
    what: str
    sessions: int
    median: float
    """In milliseconds, like the 95th percentile below."""
    p95: float


@dataclass(frozen=True)
class Growth:
    sessions: int
    every: str
    before: tuple[int, int]
    """Bytes of the table and of its indexes."""
    after: tuple[int, int]
    hot: float
    """The share of the updates that wrote to no index."""
    seconds: float

    @property
    def times(self) -> float:
        return sum(self.after) / sum(self.before)


@dataclass(frozen=True)
class Filled:
    """A store with many sessions."""

    store: SQLStore
    engine: AsyncEngine
    server: Postgres
    count: int

    @property
    def table(self) -> str:
        return self.store.names.of("sessions")

    def size(self) -> tuple[int, int]:
        heap, indexes = self.server.ask(f"SELECT pg_table_size('{self.table}'), pg_indexes_size('{self.table}')")
        return heap, indexes


@asynccontextmanager
async def filled(server: Postgres, prefix: str, count: int) -> AsyncIterator[Filled]:
    engine = create_async_engine(server.url())
    store = SQLStore(engine, prefix=prefix)
    await store.create_tables()
    there = Filled(store, engine, server, count)
    with server.client() as client:
        client.execute(FILL.format(sessions=there.table, count=count))
        client.execute(f"VACUUM ANALYZE {there.table}")
        client.execute("CHECKPOINT")
    yield there
    await store.aclose()
    await engine.dispose()


def session_id(number: int) -> str:
    return f"session-{number:014}"


async def latencies(stores: list[Filled], count: int) -> list[Latency]:
    """``count`` steps of each kind, one at a time, in the stores in turn."""
    random = Random(1)
    taken: dict[tuple[str, int], list[float]] = {}
    for number in range(-1, count // EACH):
        for there in stores:
            store = there.store
            ids = [session_id(random.randint(1, there.count)) for _ in range(EACH)]
            subjects = [f"subject {number} {one}" for one in range(EACH)]
            steps: dict[str, Iterator[Awaitable[Any]]] = {
                "refresh": (refresh(store, id) for id in ids),
                "login": (log_in(store, subject) for subject in subjects),
                "list": (store.sessions(subject, JWT) for subject in subjects),
                "logout": (log_out(store, subject) for subject in subjects),
            }
            for what, those in steps.items():
                for step in those:
                    began = time.perf_counter()
                    await step
                    # In the first round, statements are prepared and caches are filled.
                    if number >= 0:
                        taken.setdefault((what, there.count), []).append((time.perf_counter() - began) * 1000)
    cuts = {each: quantiles(seconds, n=20) for each, seconds in taken.items()}
    return [Latency(what, sessions, found[9], found[18]) for (what, sessions), found in sorted(cuts.items())]


async def refresh(store: SQLStore, id: str) -> None:
    """A read and a rotation, as ``Sessions.refresh`` does it."""
    session, now = await store.read(id, JWT)
    assert session is not None
    await store.rotate(
        Rotation(
            id=id,
            realm=JWT,
            generation=session.generation,
            grace=0,
            idle_lifetime=14 * DAY,
            access_lifetime=900,
            deadline=now + 1,
        )
    )


async def log_in(store: SQLStore, subject: str) -> None:
    opening = Opening(
        id=f"of {subject}",
        realm=JWT,
        subject=subject,
        idle_lifetime=14 * DAY,
        session_lifetime=90 * DAY,
        access_lifetime=900,
    )
    await store.open(opening, max_sessions=100)


async def log_out(store: SQLStore, subject: str) -> None:
    await store.revoke(RevocationRequest(realm=JWT, claim="sid", value=f"of {subject}", lifetime=900))


async def grow(there: Filled, every: str, later: int) -> Growth:
    """Refresh each session ten times, in a random order each time."""
    updates = f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = '{there.table}'::regclass"
    before, began, numbers, random = there.size(), time.monotonic(), list(range(1, there.count + 1)), Random(1)
    for _ in range(REFRESHES):
        random.shuffle(numbers)
        for first in range(0, there.count, TOGETHER):
            ids = [session_id(number) for number in numbers[first : first + TOGETHER]]
            async with there.engine.begin() as connection:
                await connection.execute(text(REFRESH.format(sessions=there.table)), {"ids": ids, "later": later})
    seconds = time.monotonic() - began
    await there.engine.dispose()
    # A connection reports its updates when it ends.
    await asyncio.sleep(1)
    all_updates, hot = there.server.ask(updates)
    return Growth(there.count, every, before, there.size(), hot / all_updates, seconds)


async def measure(server: Postgres, few: int, many: int, grown: int, count: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"growth": []}
    if count:
        async with filled(server, "few_", few) as small, filled(server, "many_", many) as large:
            heap, indexes = large.size()
            figures["bytes a session"] = {"table": heap / many, "indexes": indexes / many}
            figures["latencies"] = await latencies([small, large], count)
    if grown:
        for prefix, every, later in (("often_", "15 minutes", 900), ("daily_", "day", DAY)):
            async with filled(server, prefix, grown) as there:
                figures["growth"].append(await grow(there, every, later))
                print(figures["growth"][-1], flush=True)
    return figures


def report(figures: dict[str, Any]) -> str:
    parts = []
    if "latencies" in figures:
        steps = [(row.what, f"{row.sessions:,}", f"{row.median:.2f}", f"{row.p95:.2f}") for row in figures["latencies"]]
        parts.append(table("Milliseconds of a step, one by one", ("step", "sessions", "median", "95 %"), steps))
        each = figures["bytes a session"]
        parts.append(f"Bytes a session: {sum(each.values()):.0f}, of which indexes {each['indexes']:.0f}\n")
    if figures["growth"]:
        rows = [
            (
                f"every {row.every}",
                f"{row.sessions:,}",
                f"{sum(row.before) / 1e6:.0f}",
                f"{sum(row.after) / 1e6:.0f}",
                f"{row.times:.2f}",
                f"{row.after[0] / row.before[0]:.2f}",
                f"{row.after[1] / row.before[1]:.2f}",
                f"{100 * row.hot:.0f}",
                f"{row.seconds:.0f}",
            )
            for row in figures["growth"]
        ]
        head = ("a refresh", "sessions", "MB before", "MB after", "times", "table", "indexes", "HOT, %", "taking, s")
        title = f"After {REFRESHES} refreshes of each session, {TOGETHER} in a transaction, with autovacuum as it comes"
        parts.append(table(title, head, rows))
    return "\n".join(parts)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--grown", type=int, default=100_000, help="sessions that are refreshed ten times; 0: none")
    parser.add_argument("--count", type=int, default=400, help="steps of each kind; 0: none")
    parser.add_argument("--publish", default="sql", help="the name of the results")
    given = parser.parse_args()
    with postgres_server() as server:
        figures = asyncio.run(measure(server, given.few, given.many, given.grown, given.count))
    publish(given.publish, report(figures), figures, ("sqlalchemy", "asyncpg"))


if __name__ == "__main__":
    main()
