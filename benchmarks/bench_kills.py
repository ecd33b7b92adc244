"""What is lost when writers and PostgreSQL are killed? Nothing that was answered, unless synchronous_commit is off."""

import asyncio
import subprocess
import sys
import time
from argparse import ArgumentParser
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from harness import publish, table
from servers import Postgres, postgres_data, postgres_server

from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import SQLStore
from jwt_middleware.issuing.rotation import Opening, Realm, RevocationRequest, Rotation

JWT = Realm("jwt")
WRITERS = 2
CHAINS = 8
"""Clients per writer. Each has one session, which it refreshes again and again."""
READ = 2000


@dataclass(frozen=True)
class Answer:
    """A step that was answered."""

    what: str
    name: str
    """Of the session, or of the token that was revoked."""
    generation: int
    at: float
    """By the monotonic clock, which all processes of a machine share."""


@dataclass
class Losses:
    """What became of the answered steps of all rounds with one setting."""

    setting: str
    rounds: int = 0
    answered: int = 0
    lost: int = 0
    lost_after_all: int = 0
    """Steps that were there after their own round, and missing after the last one."""
    rounds_with_losses: int = 0
    oldest_ms: float = 0
    """Milliseconds from the answer to the oldest lost step until the server was killed."""
    each_ms: list[float] = field(default_factory=list)


async def write(address: str, first: str) -> None:
    """Refresh sessions and revoke tokens until the server is gone; print each step once it is answered."""
    store = SQLStore(address)

    def tell(*answer: Any) -> None:
        print(*answer, time.monotonic(), flush=True)

    async def chain(id: str) -> None:
        generation = 1
        with suppress(StoreUnavailable):
            while True:
                rotation = Rotation(
                    id=id,
                    realm=JWT,
                    generation=generation,
                    grace=0,
                    idle_lifetime=14 * 86400,
                    access_lifetime=900,
                    deadline=time.time() + 10,
                )
                outcome, session = await store.rotate(rotation)
                if session is None or session.generation != generation + 1:
                    raise SystemExit(f"{outcome} of {id}, generation {generation}")
                generation += 1
                tell("refresh", id, generation)
                value = f"{id}.{generation}"
                await store.revoke(RevocationRequest(realm=JWT, claim="jti", value=value, lifetime=86400))
                tell("revocation", value, generation)

    await asyncio.gather(*(chain(f"{first}.{number}") for number in range(CHAINS)))
    await store.aclose()


async def open_sessions(server: Postgres, names: list[str]) -> None:
    store = SQLStore(server.url())
    await store.create_tables()
    for id in (f"{name}.{number}" for name in names for number in range(CHAINS)):
        opening = Opening(
            id=id,
            realm=JWT,
            subject=id,
            session_lifetime=90 * 86400,
            idle_lifetime=14 * 86400,
            access_lifetime=900,
        )
        await store.open(opening, max_sessions=9)
    await store.aclose()


async def find_lost(server: Postgres, answers: list[Answer]) -> list[Answer]:
    """Those of ``answers`` that the server does not know."""
    store = SQLStore(server.url())
    revoked: set[str] = set()
    position = ""
    while True:
        page = await store.revocations(position, READ)
        position = page.position
        revoked.update(one.value for one in page.revocations)
        if len(page.revocations) < READ:
            break
    known: dict[str, int] = {}
    for id in {answer.name for answer in answers if answer.what == "refresh"}:
        session, _ = await store.read(id, JWT)
        known[id] = session.generation if session else 0
    await store.aclose()
    return [
        answer
        for answer in answers
        if (answer.name not in revoked if answer.what == "revocation" else answer.generation > known[answer.name])
    ]


def kill_all(server: Postgres, names: list[str], folder: Path, random: Random) -> tuple[list[Answer], float]:
    """Kill a writer and then the server, at random moments; the answered steps, and when the server was killed."""
    logs = [folder / name for name in names]
    writers = []
    for name, log in zip(names, logs, strict=True):
        with log.open("wb") as output:
            writers.append(subprocess.Popen([sys.executable, __file__, "--write", server.url(), name], stdout=output))
    deadline = time.monotonic() + 20
    while any(log.stat().st_size == 0 for log in logs) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3 + random.random() / 2)
    writers[0].kill()
    time.sleep(random.random() / 4)
    killed_at = server.kill()
    writers[0].wait()
    for writer in writers[1:]:
        if writer.wait(20):
            raise SystemExit("a writer failed")
    lines = "".join(log.read_text() for log in logs).splitlines(keepends=True)
    # The last line of a writer that was killed may be cut off. It does not count as answered.
    whole = [line.split() for line in lines if line.endswith("\n") and len(line.split()) == 4]
    return [Answer(what, name, int(generation), float(at)) for what, name, generation, at in whole], killed_at


def measure(setting: str, rounds: int) -> Losses:
    random, losses = Random(18), Losses(setting)
    everything: list[Answer] = []
    with postgres_data() as data, TemporaryDirectory() as folder:
        for number in range(rounds):
            names = [f"{number}-{writer}" for writer in range(WRITERS)]
            with postgres_server(data, synchronous_commit=setting) as server:
                asyncio.run(open_sessions(server, names))
                answers, killed_at = kill_all(server, names, Path(folder), random)
            with postgres_server(data, synchronous_commit=setting) as server:
                lost = asyncio.run(find_lost(server, answers))
            ages = [1000 * (killed_at - answer.at) for answer in lost]
            losses.rounds += 1
            losses.answered += len(answers)
            losses.lost += len(lost)
            losses.rounds_with_losses += bool(lost)
            losses.oldest_ms = max([losses.oldest_ms, *ages])
            losses.each_ms.append(max(ages, default=0))
            everything += [answer for answer in answers if answer not in lost]
        with postgres_server(data) as server:
            losses.lost_after_all = len(asyncio.run(find_lost(server, everything)))
    return losses


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--write", nargs=2, metavar=("ADDRESS", "NAME"), help="(used by the benchmark itself)")
    options = parser.parse_args()
    if options.write:
        asyncio.run(write(*options.write))
        return
    found = [measure(setting, options.rounds) for setting in ("on", "off")]
    head = ("synchronous_commit", "rounds", "answered steps", "lost", "rounds with losses", "oldest lost, ms", "at end")
    rows = [
        (
            losses.setting,
            f"{losses.rounds}",
            f"{losses.answered:,}",
            f"{losses.lost:,}",
            f"{losses.rounds_with_losses}",
            f"{losses.oldest_ms:.0f}",
            f"{losses.lost_after_all}",
        )
        for losses in found
    ]
    title = f"kill -9 of one of {WRITERS} writers with {CHAINS} clients each, and then of the server; fsync=on"
    report = table(title, head, rows)
    report += "\nOldest lost: answered so long before the server was killed. At end: lost by a later round.\n"
    publish("kills", report, {"losses": found}, ["sqlalchemy", "asyncpg"])


if __name__ == "__main__":
    main()
