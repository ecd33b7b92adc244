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
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import anyio
import pytest

from jwt_middleware import ConfigurationError, RevocationView, Token
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.issuing.session_store import SESSION_RETENTION
from jwt_middleware.testing.store_contract import REALM, opening, revocation_request, rotation

from ..support.clock import NOW, Clock
from ..support.processes import python, run
from ..support.tokens import verified
from ..support.waiting import until
from .store_steps import opened, rotated_by

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    await store.aclose()


def token_with(jti: str) -> Token:
    return verified(id=jti)


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
        SQLiteStore(path, clock=5)  # type: ignore[arg-type]  # not a function


async def test_the_file_is_made_when_it_is_used_and_is_its_owners_alone(store: SQLiteStore, path: Path) -> None:
    assert repr(store) == f"SQLiteStore({str(path)!r})"
    assert os.listdir(path.parent) == []
    before = os.umask(0)
    try:
        await opened(store)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {f"sessions.db{suffix}": 0o600 for suffix in ("", "-wal", "-shm", "-owner")}


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
    assert len(await stores[0].sessions("ada", REALM)) == 12
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
    assert (await store.read("s", REALM))[0] is not None
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
    with pytest.raises(StoreUnavailable, match="the tables have layout 9, which needs workers of layout 9 or later"):
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


async def test_a_disk_that_is_full_changes_nothing(path: Path, tmp_path: Path) -> None:
    run("-c", FULL, str(path))


FULL = """
import resource, signal, sys, anyio
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.testing import REALM, opening, rotation

async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open(opening("s"), max_sessions=9)
    # A file that must not grow is as good as a disk that is full.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    written = 0
    try:
        while True:
            await store.open(opening(f"t{written}", "bob", device="x" * 250), max_sessions=9999)
            written += 1
    except StoreUnavailable as error:
        assert "the disk of" in str(error), error
    assert len(await store.sessions("bob", REALM)) == written > 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    outcome, session = await store.rotate(rotation("s", 1, grace=0))
    assert session.generation == 2
    await store.open(opening("u"), max_sessions=9)
    await store.aclose()

anyio.run(main)
"""


def test_a_disk_that_is_full_before_a_step_is_over_undoes_all_steps_of_its_transaction(path: Path) -> None:
    run("-c", FULL_WITHIN_A_STEP, str(path))


FULL_WITHIN_A_STEP = """
import resource, signal, sys, threading, time, anyio
from dataclasses import replace
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.testing.store_contract import REALM, opening

is_slow = False
refused = []

def clock():
    if is_slow and threading.current_thread().name == "sqlite writer":
        time.sleep(0.2)
    return time.time()

async def refuse(wrong):
    try:
        await store.open(wrong, max_sessions=9)
    except StoreUnavailable as error:
        assert "the disk of" in str(error), error
        refused.append(wrong.id)

async def main():
    global is_slow
    await store.open(opening("kept"), max_sessions=9)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    is_slow = True
    async with anyio.create_task_group() as together:
        # While the first is done, the other two gather for one transaction.
        together.start_soon(lambda: store.open(opening("first", "bob"), max_sessions=9))
        await anyio.sleep(0.1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
        together.start_soon(refuse, opening("small", "bob"))
        # More than SQLite keeps in memory until the end of a transaction.
        together.start_soon(refuse, replace(opening("large", "bob"), claims={"n": "x" * 5_000_000}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    is_slow = False
    assert sorted(refused) == ["large", "small"], refused
    assert [session.id for session in await store.sessions("bob", REALM)] == ["first"]
    await store.open(opening("small", "bob"), max_sessions=9)
    assert len(await store.sessions("bob", REALM)) == 2
    await store.aclose()

store = SQLiteStore(sys.argv[1], clock=clock)
anyio.run(main)
"""


async def test_a_step_that_fails_leaves_no_part_of_it_and_harms_no_other_of_its_moment(store: SQLiteStore) -> None:
    session = await opened(store)
    # The least recently used session ends for it before its subject turns out to be none.
    wrong = replace(opening("t"), claims={"n": object()})
    async with anyio.create_task_group() as together:
        for number in range(20):
            together.start_soon(opened, store, f"u{number}", f"user {number}")
        with pytest.raises(TypeError, match="not JSON serializable"):
            await store.open(wrong, max_sessions=1)
    assert await store.sessions("ada", REALM) == (session,)
    assert [len(await store.sessions(f"user {number}", REALM)) for number in range(20)] == [1] * 20
    assert (await store.revocations("", 9)).revocations == ()


async def test_rows_that_are_over_go_away_a_day_later(path: Path) -> None:
    clock = Clock()
    store = SQLiteStore(path, clock=clock)
    for number in range(60):
        await opened(store, f"s{number}", f"user {number}", idle_lifetime=1)
    for after, left in ((2, 60), (SESSION_RETENTION + 2, 0)):
        clock.now = NOW + after
        for number in range(4):
            await opened(store, f"t{after} {number}", "bob")
        with closing(sqlite3.connect(path)) as db:
            (rows,) = db.execute("SELECT count(*) FROM sessions WHERE id LIKE 's%'").fetchone()
        assert rows == left
    await store.aclose()


# Others at the file


async def test_while_another_writes_too_long_steps_fail_in_time_and_reads_go_on(store: SQLiteStore, path: Path) -> None:
    session = await opened(store)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="locked"):
        await rotated_by(store, 1)
    assert 0.5 < time.monotonic() - began < 3
    assert (await store.read("s", REALM))[0] == session
    assert (await store.revocations("", 9)).revocations == ()
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


def open_files(path: Path) -> list[str]:
    """Which files that begin with ``path`` this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [name for name in found if name.startswith(str(path))]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not say which files are open")
async def test_a_store_that_is_let_go_of_closes_its_file(path: Path) -> None:
    store = SQLiteStore(path)
    await opened(store)
    assert open_files(path)
    del store
    await until(lambda: not open_files(path))


# A file that is put back


async def test_a_file_that_was_put_back_passes_the_generations_that_it_lost(store: SQLiteStore, path: Path) -> None:
    await opened(store)
    await rotated_by(store, 1, grace=0)
    await store.revoke(revocation_request("a", claim="jti"))
    await store.aclose()
    shutil.copy(path, path.with_suffix(".copy"))
    for generation in (2, 3, 4):
        await rotated_by(store, generation, grace=0)
    for value in "bcd":
        await store.revoke(revocation_request(value, claim="jti"))
    view = RevocationView(store)
    await view.catch_up()
    position = (await store.revocations("", 9)).position
    await store.aclose()
    shutil.copy(path.with_suffix(".copy"), path)
    assert await rotated_by(store, 5) == (Outcome.AHEAD, 6)
    assert await rotated_by(store, 5) == (Outcome.AGAIN, 6)
    assert await rotated_by(store, 6, grace=0) == (Outcome.NEXT, 7)
    # The numbers of those that were lost come again, for others.
    for value in "efg":
        await store.revoke(revocation_request(value, claim="jti"))
    read = (await store.revocations(position, 9)).revocations
    assert [revocation.value for revocation in read] == list("aefg")
    await until(lambda: all(view.is_revoked(token_with(value)) for value in "abcdefg"))
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
    found = (await store.revocations("", 9)).revocations
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
        anyio.run(store.revoke, revocation_request(value, claim="jti"))
        anyio.run(store.read, "s", REALM)
        ended.append(value)
        run("-E", "-c", VISIT, str(path), *ended)
    anyio.run(store.aclose)


FORK = """
import os, sys, anyio
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.testing import REALM, opening, rotation

async def use(id):
    await store.open(opening(id), max_sessions=9)
    for generation in range(1, 30):
        outcome, session = await store.rotate(rotation(id, generation, grace=0))
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
assert len(anyio.run(store.sessions, "ada", REALM)) == 3
"""


LEFT = """
import os, subprocess, sys, anyio
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.testing import REALM, revocation_request

store = SQLiteStore(sys.argv[1])

def end(value):
    anyio.run(store.revoke, revocation_request(value, claim="jti"))

end("a")
here, there = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    anyio.run(store.read, "s", REALM)
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
    run("-W", "error", "-c", LEFT, str(path), VISIT)


def test_a_forked_process_has_connections_of_its_own(path: Path) -> None:
    run("-W", "error", "-c", FORK, str(path))
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


FORK_MEANWHILE = """
import os, sys, threading, time, anyio
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.testing.store_contract import REALM, opening

parent, slow_seconds, answers = os.getpid(), 0, []

def clock():
    global slow_seconds
    if threading.current_thread().name == "sqlite reader" and os.getpid() == parent and slow_seconds:
        seconds, slow_seconds = slow_seconds, 0
        time.sleep(seconds)
    return time.time()

async def read():
    try:
        answers.append((await store.read("s", REALM))[0].id)
    except StoreUnavailable:
        answers.append("unavailable")

async def use():
    await store.open(opening("child", "bob"), max_sessions=9)
    assert (await store.read("s", REALM))[0].id == "s"
    await store.aclose()

def fork():
    began = time.monotonic()
    child = os.fork()
    if not child:
        try:
            anyio.run(use)
            os._exit(0)
        finally:
            os._exit(1)
    taken = time.monotonic() - began
    assert taken < 4, taken
    return child

async def main():
    global slow_seconds
    await store.open(opening("s"), max_sessions=9)
    await read()
    slow_seconds = float(sys.argv[2])
    async with anyio.create_task_group() as together:
        for _ in range(2):
            together.start_soon(read)
            await anyio.sleep(0.1)
        child = await anyio.to_thread.run_sync(fork)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert answers == sys.argv[3:], answers
    with anyio.fail_after(10):
        while answers[-1] != "s":
            await read()
    assert len(await store.sessions("bob", REALM)) == 1
    await store.aclose()

store = SQLiteStore(sys.argv[1], clock=clock)
anyio.run(main)
"""


@pytest.mark.parametrize(
    ("slow_seconds", "answers"),
    [
        pytest.param("0.5", ["s", "s", "s"], id="that is slow"),
        pytest.param("3", ["s", "s", "unavailable"], id="that hangs"),
    ],
)
def test_a_fork_during_a_transaction_loses_no_step(path: Path, slow_seconds: str, answers: list[str]) -> None:
    """One step is in the transaction, and another waits for it. The fork waits for the transaction, but not long."""
    run("-W", "ignore", "-c", FORK_MEANWHILE, str(path), slow_seconds, *answers)


WITHOUT_FORKS = """
import asyncio, os, random, sys, anyio
del os.register_at_fork
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.testing.store_contract import REALM, opening

async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open(opening("s"), max_sessions=9)
    assert (await store.read("s", REALM))[0].id == "s"
    await store.aclose()

anyio.run(main)
"""


def test_where_processes_cannot_be_forked_a_file_is_used_all_the_same(path: Path) -> None:
    """Windows has no forks."""
    run("-c", WITHOUT_FORKS, str(path))


def test_one_event_loop_after_the_other_and_several_at_once(path: Path, anyio_backend: str) -> None:
    store = SQLiteStore(path)

    async def use(id: str) -> None:
        await opened(store, id)
        for generation in range(1, 10):
            _, session = await store.rotate(rotation(id, generation, grace=0))
            assert session is not None
            assert session.generation == generation + 1

    def run_loop(id: str) -> None:
        anyio.run(use, id, backend=anyio_backend)

    for id in "ab":
        run_loop(id)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run_loop, "cdef")) == [None] * 4
    anyio.run(store.aclose, backend=anyio_backend)


async def until_read(store: SQLiteStore) -> None:
    with anyio.fail_after(5):
        while True:
            with suppress(StoreUnavailable):
                await store.read("s", REALM)
                return
            await anyio.sleep(0.05)


async def test_a_step_that_hangs_delays_no_request_beyond_its_own_timeout(path: Path) -> None:
    stalls = Event()
    store = SQLiteStore(path, clock=lambda: time.time() if stalls.wait(10) else 0)
    with anyio.move_on_after(0.1) as patience:
        await store.read("s", REALM)
    assert patience.cancelled_caught
    before, is_answered = time.monotonic(), False
    # On asyncio it is told so, on trio it waits until it gives up as well.
    with suppress(StoreUnavailable), anyio.move_on_after(2):
        await store.read("s", REALM)
        is_answered = True
    assert not is_answered
    assert time.monotonic() - before < 5
    stalls.set()
    await until_read(store)
    assert (await store.read("s", REALM))[0] is None
    await store.aclose()


async def test_a_row_that_cannot_be_read_stops_no_other_session(store: SQLiteStore, path: Path) -> None:
    for id in "ab":
        await opened(store, id)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE sessions SET granted = '{'")
    db.close()
    _, ended = await store.open(opening("c"), max_sessions=2)
    assert len(ended) == 1
    assert len(await store.revoke_subject("ada", REALM)) == 2
