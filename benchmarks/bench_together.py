"""What if 64 requests to two processes present one refresh token at once? It has one successor, and no session ends."""

import asyncio
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from threading import Barrier

import jwt
from harness import need, publish, table
from servers import postgres_server, redis_server, store_at

from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import InvalidGrant, Sessions, SQLStore, TokenIssuer

SECRET = "a secret of thirty-two bytes, yes"
CLIENTS = 64
PROCESSES = 2
GRACE = 10
"""Seconds. The sessions are older than that when their tokens are presented, so the first refresh makes a successor."""


@dataclass
class Told:
    """The answers that one process got."""

    successors: list[set[int]] = field(default_factory=list)
    """For each token, the generations that its refreshes gave."""
    refused: int = 0
    """Refreshes that were answered with 503, and then repeated."""
    thefts: int = 0
    seconds: list[float] = field(default_factory=list)


def sessions(where: str) -> Sessions:
    return Sessions(store_at(where), TokenIssuer(SECRET, audience="orders"), grace=GRACE)


async def open_sessions(where: str, count: int) -> list[str]:
    """The refresh tokens of new sessions."""
    store = store_at(where)
    if isinstance(store, SQLStore):
        await store.create_tables()
        await store.aclose()
    here = sessions(where)
    tokens = [(await here.open(f"user {number}")).refresh_token for number in range(count)]
    await here.stop()
    await asyncio.sleep(GRACE)
    return tokens


async def count_sessions(where: str, count: int) -> int:
    """How many of them are alive."""
    here = sessions(where)
    alive = [len(await here.list(f"user {number}")) for number in range(count)]
    await here.stop()
    return sum(alive)


async def present(where: str, barrier: Barrier, tokens: Sequence[str]) -> Told:
    """For each token in turn, present it many times at once, in step with the other process."""
    here, told = sessions(where), Told()

    async def refresh(token: str) -> None:
        began = time.perf_counter()
        while True:
            try:
                grant = await here.refresh(token)
                break
            except InvalidGrant:
                told.thefts += 1
                return
            except StoreUnavailable:
                told.refused += 1
        told.seconds.append(time.perf_counter() - began)
        claims = jwt.decode(grant.refresh_token, options={"verify_signature": False})
        told.successors[-1].add(claims["gen"])

    for token in tokens:
        told.successors.append(set())
        await asyncio.to_thread(barrier.wait)
        await asyncio.gather(*(refresh(token) for _ in range(CLIENTS // PROCESSES)))
    await here.stop()
    return told


def present_in_process(where: str, barrier: Barrier, tokens: Sequence[str]) -> Told:
    return asyncio.run(present(where, barrier, tokens))


def measure(name: str, where: str, rounds: int) -> list[str]:
    """A row of the table."""
    tokens = asyncio.run(open_sessions(where, rounds))
    spawn = get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
        barrier = manager.Barrier(PROCESSES)
        told = list(pool.map(partial(present_in_process, where, barrier), [tokens] * PROCESSES))
    one = sum(set.union(*given) == {2} for given in zip(*(each.successors for each in told), strict=True))
    cuts = quantiles([second * 1000 for each in told for second in each.seconds], n=100)
    counts = (rounds, one, sum(each.thefts for each in told), rounds - asyncio.run(count_sessions(where, rounds)))
    return [name, *map(str, counts), str(sum(each.refused for each in told)), f"{cuts[49]:.0f}", f"{cuts[98]:.0f}"]


HEAD = ["store", "rounds", "with one successor", "thefts", "sessions lost", "503, asked again", "p50, ms", "p99, ms"]


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    need("redis-server")
    with TemporaryDirectory() as name, ExitStack() as stack:
        addresses = {
            "SQLite": f"{name}/sessions.db",
            "Redis": stack.enter_context(redis_server(Path(name))).url,
            "PostgreSQL, asyncpg": stack.enter_context(postgres_server()).url("asyncpg"),
            "PostgreSQL, psycopg": stack.enter_context(postgres_server()).url("psycopg"),
        }
        rows = [measure(kind, where, options.rounds) for kind, where in addresses.items()]
    title = f"{CLIENTS} refreshes of one token at once, from {PROCESSES} processes"
    figures = {"together": [dict(zip(HEAD, row, strict=True)) for row in rows]}
    publish("together", table(title, HEAD, rows), figures, ["sqlalchemy", "asyncpg", "psycopg", "redis"])


if __name__ == "__main__":
    main()
