"""What a file, its disk and its processes do to sessions, beside the contract of stores."""

import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import anyio
import pytest

from jwt_middleware import ConfigurationError, Revocation, RevocationView
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import Session, SQLiteStore
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.issuing.stores.sqlite import _close_all
from jwt_middleware.testing.store_contract import FAR, PROVIDER, opening, rotation

from ..support import until
from ..support.processes import python, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    await store.aclose()


async def opened(store: SQLiteStore, id: str = "s", subject: str = "ada", **changes: Any) -> Session:
    session, _ = await store.open(opening(id, subject, **changes), provider=PROVIDER, max_sessions=100)
    return session


async def rotated_by(store: SQLiteStore, generation: int, **changes: Any) -> tuple[Outcome, int | None]:
    outcome, session = await store.rotate(rotation("s", generation, **changes), provider=PROVIDER)
    return outcome, None if session is None else session.generation


# The file


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("", "path must be a file's path", id="nothing"),
        pytest.param(5, "path must be a file's path", id="a number"),
        pytest.param(b"sessions.db", "path must be a file's path", id="bytes"),
        pytest.param(":memory:", r"there is MemoryStore\(\)", id="memory"),
        pytest.param("file:sessions.db?mode=memory", r"there is MemoryStore\(\)", id="an address"),
        pytest.param("redis://:hunter2@db/0", r"there is RedisStore\(address\)$", id="an address with a password"),
        pytest.param("/nowhere/sessions.db", "there is no directory '/nowhere'", id="no directory"),
        pytest.param("/", "is a directory", id="a directory"),
    ],
)
def test_a_path_that_cannot_work_is_said_at_construction(path: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SQLiteStore(path)


def test_a_clock_that_is_none_is_said_at_construction(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="clock must be callable"):
        SQLiteStore(path, clock=5)  # type: ignore[arg-type]  # no function


async def test_the_file_is_made_when_it_is_used_and_is_its_owners_alone(store: SQLiteStore, path: Path) -> None:
    assert repr(store) == f"SQLiteStore({str(path)!r})"
    assert os.listdir(path.parent) == []
    before = os.umask(0)
    try:
        await opened(store)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db-shm": 0o600}


async def test_a_relative_path_means_what_it_meant_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("sessions.db")
    monkeypatch.chdir("/")
    await opened(store)
    await store.aclose()
    assert (tmp_path / "sessions.db").exists()


async def test_many_may_be_the_first_to_open_it(path: Path) -> None:
    stores = [SQLiteStore(path) for _ in range(12)]
    async with anyio.create_task_group() as together:
        for number, store in enumerate(stores):
            together.start_soon(opened, store, f"s{number}")
    assert len(await stores[0].sessions("ada")) == 12
    for store in stores:
        await store.aclose()


async def test_whoever_comes_while_another_makes_the_file_waits(path: Path) -> None:
    store = SQLiteStore(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked"):
            await opened(store)
        assert 0.5 < time.monotonic() - began < 3
        async with anyio.create_task_group() as together:
            together.start_soon(opened, store)
            await anyio.sleep(0.2)
            other.execute("ROLLBACK")
    assert (await store.read("s"))[0] is not None
    await store.aclose()


async def test_a_file_that_cannot_be_opened_is_an_outage_at_once(path: Path) -> None:
    store = SQLiteStore(path)
    os.mkdir(path)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="unable to open"):
        await opened(store)
    assert time.monotonic() - began < 0.5


async def test_tables_of_another_release_are_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    store = SQLiteStore(path)
    with pytest.raises(StoreUnavailable, match="of version 9, not 1"):
        await opened(store)
    await store.aclose()


def test_a_file_that_is_something_else_is_left_alone(path: Path) -> None:
    path.write_text("a letter to my mother " * 100)
    store = SQLiteStore(path)
    with pytest.raises(StoreUnavailable, match="not a database"):
        anyio.run(opened, store)
    assert path.read_text().startswith("a letter")
    path.unlink()
    anyio.run(opened, store)
    anyio.run(store.aclose)


async def test_a_directory_that_went_away_is_an_outage(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    store = SQLiteStore(directory / "sessions.db")
    directory.rmdir()
    with pytest.raises(StoreUnavailable, match="FileNotFoundError"):
        await opened(store)
    directory.mkdir()
    await opened(store)
    await store.aclose()


async def test_a_disk_that_is_full_changes_nothing(store: SQLiteStore) -> None:
    await opened(store)
    db = store._writers[os.getpid()].db
    assert db is not None
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    written: list[Session] = []

    async def fill() -> None:
        while True:
            written.append(await opened(store, f"t{len(written)}", "bob", device="x" * 250))

    with pytest.raises(StoreUnavailable, match="full"):
        await fill()
    assert len(await store.sessions("bob")) == len(written)
    assert not db.in_transaction
    db.execute("PRAGMA max_page_count = 100000")
    assert await rotated_by(store, 1, grace=0) == (Outcome.NEXT, 2)
    await opened(store, "u")


async def test_a_step_that_fails_leaves_no_part_of_it(store: SQLiteStore) -> None:
    session = await opened(store)
    other = await opened(store, "t")
    # The least recently used would end for it, were it not there already.
    with pytest.raises(StoreUnavailable, match="IntegrityError"):
        await store.open(opening("t"), provider=PROVIDER, max_sessions=2)
    assert await store.sessions("ada") == (other, session)
    assert (await store.revocations("", 9))[1] == ()


async def test_sessions_that_are_over_go_away(store: SQLiteStore) -> None:
    for number in range(60):
        await opened(store, f"s{number}", f"user {number}", idle_lifetime=0.01)
    await anyio.sleep(0.05)
    for number in range(4):
        await opened(store, f"t{number}")
    db = store._writers[os.getpid()].db
    assert db is not None
    assert db.execute("SELECT count(*) FROM sessions").fetchone() == (4,)


# Others at the file


async def test_while_another_writes_too_long_steps_fail_in_time_and_reads_go_on(store: SQLiteStore, path: Path) -> None:
    session = await opened(store)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="locked"):
        await rotated_by(store, 1)
    assert 0.5 < time.monotonic() - began < 3
    assert (await store.read("s"))[0] == session
    assert (await store.revocations("", 9))[1] == ()
    other.execute("ROLLBACK")
    other.close()
    assert await rotated_by(store, 1, grace=0) == (Outcome.NEXT, 2)


async def test_what_waited_for_another_past_its_deadline_is_not_done(store: SQLiteStore, path: Path) -> None:
    await opened(store)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    found: list[tuple[Outcome, int | None]] = []

    async def rotate() -> None:
        found.append(await rotated_by(store, 1, grace=0, deadline=time.time() + 0.1))

    async with anyio.create_task_group() as together:
        together.start_soon(rotate)
        await anyio.sleep(0.3)
        other.execute("ROLLBACK")
    other.close()
    assert found == [(Outcome.LATE, 1)]


async def test_who_goes_away_leaves_the_store_as_it_was(store: SQLiteStore) -> None:
    await opened(store)
    random = Random(7)
    generation = 1
    for _ in range(60):
        with anyio.move_on_after(random.random() * 0.002):
            await rotated_by(store, generation, grace=0)
        outcome, moved = await rotated_by(store, generation, grace=3600)
        assert outcome is Outcome.AGAIN
        assert moved in (generation, generation + 1)
        generation = moved


async def test_before_a_fork_files_are_closed_and_afterwards_opened_again(store: SQLiteStore) -> None:
    session = await opened(store)
    assert await store.sessions("ada") == (session,)
    connections = (store._writers[os.getpid()], store._readers[os.getpid()])
    _close_all()
    assert [connection.db for connection in connections] == [None, None]
    assert await store.sessions("ada") == (session,)


async def test_a_store_that_is_let_go_of_closes_its_file(path: Path) -> None:
    store = SQLiteStore(path)
    await opened(store)
    connections = [store._writers[os.getpid()]]
    del store
    await until(lambda: connections[0].db is None)


# A file that is put back


async def test_a_file_that_was_put_back_passes_the_generations_that_it_lost(store: SQLiteStore, path: Path) -> None:
    await opened(store)
    await rotated_by(store, 1, grace=0)
    await store.revoke(Revocation(PROVIDER, "jti", "a", FAR))
    await store.aclose()
    shutil.copy(path, path.with_suffix(".copy"))
    for generation in (2, 3, 4):
        await rotated_by(store, generation, grace=0)
    for value in "bcd":
        await store.revoke(Revocation(PROVIDER, "jti", value, FAR))
    view = RevocationView(store)
    await view.catch_up()
    position, _ = await store.revocations("", 9)
    await store.aclose()
    shutil.copy(path.with_suffix(".copy"), path)
    assert await rotated_by(store, 5) == (Outcome.AHEAD, 6)
    assert await rotated_by(store, 5) == (Outcome.AGAIN, 6)
    assert await rotated_by(store, 6, grace=0) == (Outcome.NEXT, 7)
    # The numbers of those that were lost come again, for others.
    for value in "efg":
        await store.revoke(Revocation(PROVIDER, "jti", value, FAR))
    _, read = await store.revocations(position, 9)
    assert [revocation.value for revocation in read] == list("aefg")
    await until(lambda: len(view._known) == 7)
    await view.stop()


# Processes that are killed, and that fork


def test_a_process_that_is_killed_at_any_moment_leaves_one_live_generation(path: Path, tmp_path: Path) -> None:
    random = Random()
    store = SQLiteStore(path)
    anyio.run(opened, store)
    answered = [1]
    killed = 0
    while answered[-1] < 500 or killed < 5:
        log = tmp_path / f"log{killed}"
        lasts = random.randrange(1, 200)

        def is_far_enough(output: str, lasts: int = lasts) -> bool:
            return output.count("\n") >= lasts

        arguments = ("-E", "-m", "tests.issuing.rotating", str(path), str(answered[-1]))
        with python(*arguments, log=log, ready=is_far_enough) as process:
            time.sleep(random.random() * 0.01)
            process.kill()
            process.wait()
        killed += 1
        lines = re.findall(r"^(\w+) (\d+)\n", log.read_text(), re.MULTILINE)
        # What was asked before it was killed is given again, once it was done; then one follows the other.
        assert lines[0][0] == "again"
        assert int(lines[0][1]) in (answered[-1], answered[-1] + 1)
        assert {outcome for outcome, _ in lines[1:]} <= {"next"}
        answered += [int(generation) for _, generation in lines]
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("SELECT count(*), max(generation) FROM sessions").fetchone()[0] == 1
        db.close()
    assert answered == sorted(answered)
    assert len(set(answered)) >= len(answered) - killed
    outcome, generation = anyio.run(partial(rotated_by, store, answered[-1], grace=3600))
    assert outcome is Outcome.AGAIN
    assert generation in (answered[-1], answered[-1] + 1)


VISIT = """
import sys, anyio
from jwt_middleware.issuing import SQLiteStore

async def visit():
    found = (await store.revocations("", 9))[1]
    assert [revocation.value for revocation in found] == sys.argv[2:], found
    await store.aclose()

store = SQLiteStore(sys.argv[1])
anyio.run(visit)
"""


def test_a_process_that_comes_and_goes_takes_nothing_from_those_that_stay(path: Path) -> None:
    """A file that a process closes takes all its locks with it (https://sqlite.org/howtocorrupt.html, 2.2).

    Who comes then takes itself for the only one, and removes the log in which the others still write.
    """
    store = SQLiteStore(path)
    ended: list[str] = []
    for value in "abc":
        anyio.run(store.revoke, Revocation(PROVIDER, "jti", value, FAR))
        anyio.run(store.read, "s")
        ended.append(value)
        run("-E", "-c", VISIT, str(path), *ended)
    anyio.run(store.aclose)


FORK = """
import os, sys, anyio
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.testing import PROVIDER, opening, rotation

async def use(id):
    await store.open(opening(id), provider=PROVIDER, max_sessions=9)
    for generation in range(1, 30):
        outcome, session = await store.rotate(rotation(id, generation, grace=0), provider=PROVIDER)
        assert session.generation == generation + 1, outcome

store = SQLiteStore(sys.argv[1])
anyio.run(use, "before")
child = os.fork()
if child == 0:
    anyio.run(use, "child")
    anyio.run(store.aclose)
    sys.exit()
anyio.run(use, "parent")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(anyio.run(store.sessions, "ada")) == 3
"""


LEFT = """
import os, subprocess, sys, anyio
from jwt_middleware import Revocation
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.testing import FAR

store = SQLiteStore(sys.argv[1])

def end(value):
    anyio.run(store.revoke, Revocation("jwt", "jti", value, FAR))

end("a")
here, there = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    anyio.run(store.read, "s")
    os.write(here[1], b".")
    os.read(there[0], 1)
    end("b")
    anyio.run(store.aclose)
    sys.exit()
os.read(here[0], 1)
anyio.run(store.aclose)
subprocess.run([sys.executable, "-E", "-c", sys.argv[2], sys.argv[1], "a"], check=True)
os.write(there[1], b".")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
subprocess.run([sys.executable, "-E", "-c", sys.argv[2], sys.argv[1], "a", "b"], check=True)
"""


def test_a_forked_process_holds_locks_of_its_own(path: Path) -> None:
    """Locks are not inherited, and SQLite does not know (https://sqlite.org/howtocorrupt.html, 2.6)."""
    run("-X", "dev", "-W", "error", "-c", LEFT, str(path), VISIT)


def test_a_forked_process_has_connections_of_its_own(path: Path) -> None:
    run("-X", "dev", "-W", "error", "-c", FORK, str(path))
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def test_one_event_loop_after_the_other_and_several_at_once(path: Path, anyio_backend: str) -> None:
    store = SQLiteStore(path)

    async def use(id: str) -> None:
        await opened(store, id)
        for generation in range(1, 10):
            _, session = await store.rotate(rotation(id, generation, grace=0), provider=PROVIDER)
            assert session is not None
            assert session.generation == generation + 1

    def run_loop(id: str) -> None:
        anyio.run(use, id, backend=anyio_backend)

    for id in "ab":
        run_loop(id)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run_loop, "cdef")) == [None] * 4
    anyio.run(store.aclose, backend=anyio_backend)


async def test_a_file_that_is_put_in_its_place_is_opened_by_all(
    store: SQLiteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await opened(store, "kept")
    await store.aclose()
    shutil.copy(path, path.with_suffix(".copy"))
    await opened(store, "lost")
    assert (await store.read("lost"))[0] is not None
    other = SQLiteStore(path)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.with_suffix(".copy").rename(path)
    await opened(other, "new")
    for one in (store, other):
        assert [(await one.read(id))[0] is not None for id in ("kept", "lost", "new")] == [True, False, True]
    assert f"{path} is another file than before" in caplog.text
    await other.aclose()


async def test_a_file_that_was_deleted_is_made_anew(
    store: SQLiteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await opened(store, "lost")
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    await opened(store, "new")
    assert [(await store.read(id))[0] is not None for id in ("lost", "new")] == [False, True]
    assert f"{path} is another file than before" in caplog.text


async def test_a_step_that_hangs_holds_nobody_longer_than_he_waits(path: Path) -> None:
    stalls = Event()
    store = SQLiteStore(path, clock=lambda: time.time() if stalls.wait(10) else 0)
    with anyio.move_on_after(0.1) as patience:
        await store.read("s")
    assert patience.cancelled_caught
    before, is_answered = time.monotonic(), False
    # On asyncio it is told so, on trio it waits until it gives up as well.
    with suppress(StoreUnavailable), anyio.move_on_after(2):
        await store.read("s")
        is_answered = True
    assert not is_answered
    assert time.monotonic() - before < 5
    stalls.set()
    await until(lambda: not store._readers[os.getpid()].lock.locked())
    assert (await store.read("s"))[0] is None
    await store.aclose()


async def test_a_row_that_cannot_be_read_is_in_nobodys_way(store: SQLiteStore, path: Path) -> None:
    for id in "ab":
        await opened(store, id)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE sessions SET granted = '{'")
    db.close()
    _, ended = await store.open(opening("c"), provider=PROVIDER, max_sessions=2)
    assert len(ended) == 1
    assert len(await store.revoke_subject("ada", provider=PROVIDER)) == 2
