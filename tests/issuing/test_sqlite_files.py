"""A SQLite file that is replaced, put back, damaged or slow, while processes use it."""

# ruff: noqa: ASYNC240  # the files are local, and nothing else runs meanwhile

import asyncio
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event, Thread, current_thread
from threading import enumerate as enumerate_threads
from typing import Any

import anyio
import pytest

from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import Sessions, SQLiteStore, TokenIssuer
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.issuing.stores.sqlite_file import SETTLED_SECONDS
from jwt_middleware.testing.store_contract import REALM, revocation_request, rotation

from ..support import SECRET
from ..support.logs import logged
from ..support.processes import run
from ..support.waiting import until
from .store_steps import opened

pytestmark = pytest.mark.anyio
OLD = time.time() - 3600
"""When a backup was made that is not being written any more."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    await store.aclose()


async def found(store: SQLiteStore, *ids: str) -> list[bool]:
    return [(await store.read(id, REALM))[0] is not None for id in ids]


async def backup_of(store: SQLiteStore, path: Path) -> Path:
    """A backup that has been there for an hour."""
    backup = path.with_suffix(".backup")
    await store.back_up(backup)
    os.utime(backup, (OLD, OLD))
    return backup


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


# A file in its place


@pytest.mark.parametrize("removes_log", [True, False], ids=["and the log removed", "and the log left"])
async def test_a_backup_that_is_moved_into_place_is_opened_by_all_and_stays_sound(
    store: SQLiteStore, path: Path, caplog: pytest.LogCaptureFixture, removes_log: bool
) -> None:
    other = SQLiteStore(path)
    await opened(store, "kept")
    backup = await backup_of(store, path)
    for number in range(100):
        await opened(other if number % 2 else store, f"lost {number}")
    if removes_log:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
    backup.rename(path)
    for number in range(20):
        await opened(other if number % 2 else store, f"new {number}")
    for one in (store, other):
        assert await found(one, "kept", "lost 0", "lost 99", "new 0", "new 19") == [True, False, False, True, True]
        assert one.problem is None
    assert f"{path} is another file than before" in caplog.text
    await other.aclose()
    await store.aclose()
    assert is_sound(path)


START = """
import logging, sys, anyio
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.testing import REALM, opening

async def main():
    logging.disable()
    store = SQLiteStore(sys.argv[1])
    for number in range(3):
        await store.open(opening(f"new {number}"), max_sessions=9)
    assert (await store.read("kept", REALM))[0] is not None
    assert (await store.read("lost 0", REALM))[0] is None
    await store.aclose()

anyio.run(main)
"""


async def test_a_process_that_starts_after_a_backup_was_moved_into_place_reads_no_log_of_the_old_file(
    store: SQLiteStore, path: Path
) -> None:
    """The process that had the file open was killed, and its log is still there."""
    await opened(store, "kept")
    backup = await backup_of(store, path)
    for number in range(100):
        await opened(store, f"lost {number}")
    backup.rename(path)
    run("-E", "-c", START, str(path))
    assert is_sound(path)
    assert [file.name for file in path.parent.iterdir() if "-wal-of-" in file.name]


async def test_a_file_that_is_still_being_copied_is_not_opened(store: SQLiteStore, path: Path) -> None:
    await opened(store, "kept")
    backup = await backup_of(store, path)
    os.utime(backup)
    backup.rename(path)
    with pytest.raises(StoreUnavailable, match="still being written"):
        await opened(store, "new")
    assert store.problem is not None
    assert "nothing is written until the new one is safe to open" in store.problem
    os.utime(path, (OLD, OLD))
    await opened(store, "new")
    assert store.problem is None
    assert await found(store, "kept", "new") == [True, True]


async def test_a_file_that_is_not_safe_to_open_is_told_once_to_the_operator(
    store: SQLiteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await opened(store, "kept")
    assert await found(store, "kept") == [True]
    backup = await backup_of(store, path)
    os.utime(backup)
    backup.rename(path)
    # Writes and reads have connections of their own, and both find the other file.
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="still being written"):
            await opened(store, "new")
        with pytest.raises(StoreUnavailable, match="still being written"):
            await found(store, "kept")
    told = [said for _, said in logged(caplog) if "is another file than before" in said]
    assert len(told) == 1


async def test_a_file_that_is_removed_while_it_is_opened_is_not_used(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def remove_and_open(name: str | os.PathLike[str], *arguments: int) -> int:
        if os.fspath(name).endswith("-owner"):
            path.unlink()
        return open_file(name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", remove_and_open)
        with pytest.raises(StoreUnavailable, match="was removed or replaced while it was opened"):
            await opened(store, "lost")
    await opened(store, "new")
    assert await found(store, "lost", "new") == [False, True]


@pytest.mark.parametrize("replaces", ["before", "after"])
async def test_a_file_that_is_replaced_while_it_is_opened_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, replaces: str
) -> None:
    """Before SQLite opens it, or when SQLite has opened the one before."""
    first = SQLiteStore(path)
    await opened(first, "kept")
    backup = await backup_of(first, path)
    for number in range(50):
        await opened(first, f"lost {number}")
    connect = sqlite3.connect

    def connect_and_replace(*arguments: Any, **options: Any) -> sqlite3.Connection:
        if replaces == "before":
            backup.replace(path)
        db: sqlite3.Connection = connect(*arguments, **options)
        if replaces == "after":
            backup.replace(path)
        return db

    store = SQLiteStore(path)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_and_replace)
        with pytest.raises(StoreUnavailable, match="was removed or replaced while it was opened"):
            await opened(store, "refused")
    await opened(store, "new")
    for one in (store, first):
        assert await found(one, "kept", "lost 0", "refused", "new") == [True, False, False, True]
        await one.aclose()
    assert is_sound(path)


async def test_a_log_that_was_made_while_a_process_waited_for_its_turn_is_left_alone(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes are the first to open the file."""
    lock, first = fcntl.flock, SQLiteStore(path)

    def wait_for_turn(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        anyio.run(partial(opened, first, "first"))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", wait_for_turn)
    await opened(store, "second")
    for one in (store, first):
        assert await found(one, "first", "second") == [True, True]
    assert not [file.name for file in path.parent.iterdir() if "-wal-of-" in file.name]
    await first.aclose()


async def test_a_file_whose_owner_cannot_be_noted_is_not_used(store: SQLiteStore, path: Path) -> None:
    owner = path.with_name("sessions.db-owner")
    owner.mkdir()
    with pytest.raises(StoreUnavailable, match="IsADirectoryError"):
        await opened(store, "lost")
    owner.rmdir()
    await opened(store, "new")
    assert await found(store, "lost", "new") == [False, True]


async def test_a_file_that_was_removed_is_made_anew_a_moment_later(store: SQLiteStore, path: Path) -> None:
    await opened(store, "lost")
    path.unlink()
    with pytest.raises(StoreUnavailable, match="was removed; a new one is made in"):
        await opened(store, "new")
    await anyio.sleep(SETTLED_SECONDS)
    await opened(store, "new")
    assert await found(store, "lost", "new") == [False, True]
    assert is_sound(path)


async def test_a_write_during_which_the_file_is_replaced_is_not_answered(path: Path) -> None:
    replaces = False

    def clock() -> float:
        if replaces and current_thread().name == "sqlite writer":
            backup.replace(path)
        return time.time()

    store = SQLiteStore(path, clock=clock)
    await opened(store, "kept")
    backup = await backup_of(store, path)
    replaces = True
    with pytest.raises(StoreUnavailable, match="was replaced while it was written"):
        await opened(store, "lost")
    replaces = False
    assert await found(store, "kept", "lost") == [True, False]
    await store.aclose()


async def test_without_locks_of_files_a_file_is_opened_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has none."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    store = SQLiteStore(path)
    await opened(store)
    await store.aclose()


# Backup and restore


async def test_restoring_a_backup_while_processes_run_logs_no_one_in_again(store: SQLiteStore, path: Path) -> None:
    other = SQLiteStore(path)
    for id in ("kept", "logged out"):
        await opened(store, id)
    await store.revoke(revocation_request("before", claim="jti"))
    backup = await backup_of(store, path)
    await opened(other, "lost")
    await store.revoke(revocation_request("logged out"))
    await store.rotate(rotation("kept", 1, grace=0))
    await store.restore(backup)
    for one in (store, other):
        assert await found(one, "kept", "logged out", "lost") == [True, False, False]
    # A client that was given a later generation goes on.
    assert (await other.rotate(rotation("kept", 2)))[0] is Outcome.AHEAD
    revoked = (await other.revocations("", 9)).revocations
    assert sorted(one.value for one in revoked) == ["before", "logged out"]
    await other.aclose()
    assert is_sound(path)


async def test_a_backup_is_a_new_file_of_its_owner(store: SQLiteStore, path: Path) -> None:
    await opened(store)
    backup = await backup_of(store, path)
    assert backup.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        await store.back_up(backup)
    with pytest.raises(FileNotFoundError):
        await store.restore(path.with_suffix(".none"))


@pytest.mark.parametrize(
    ("layout", "message"),
    [(0, "this file is not a backup"), (9, "the backup has layout 9, which needs workers of layout 9 or later")],
)
async def test_a_file_that_is_no_backup_changes_nothing(
    store: SQLiteStore, path: Path, tmp_path: Path, layout: int, message: str
) -> None:
    await opened(store, "kept")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute(f"PRAGMA user_version = {layout}")
        db.execute("CREATE TABLE letters (text TEXT)")
    with pytest.raises(StoreUnavailable, match=message):
        await store.restore(other)
    assert await found(store, "kept") == [True]


async def test_a_database_that_cannot_be_read_cannot_be_backed_up(path: Path) -> None:
    path.write_text("a letter to my mother " * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await SQLiteStore(path).back_up(path.with_suffix(".backup"))


# A damaged file


async def test_a_damaged_file_says_what_to_do(store: SQLiteStore, path: Path) -> None:
    for number in range(50):
        await opened(store, f"{number}")
    backup = await backup_of(store, path)
    await store.aclose()
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreUnavailable, match=r"damaged: move .*sessions.db away and call SQLiteStore.restore"):
        await opened(store, "new")
    path.rename(path.with_suffix(".damaged"))
    await anyio.sleep(SETTLED_SECONDS)
    with pytest.raises(StoreUnavailable):
        await opened(store, "new")
    await anyio.sleep(SETTLED_SECONDS)
    await store.restore(backup)
    assert await found(store, "0", "49") == [True, True]


# A slow disk


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_256_logins_at_once_on_a_disk_that_takes_20_ms_are_all_answered(path: Path) -> None:
    """The clock is read once in each transaction, so it can stand for the time that a disk takes."""

    def clock() -> float:
        if current_thread().name == "sqlite writer":
            time.sleep(0.02)
        return time.time()

    store = SQLiteStore(path, clock=clock)
    sessions = Sessions(store, TokenIssuer(SECRET, audience="orders"))
    await sessions.open("warm")
    began = time.monotonic()
    grants = await asyncio.gather(*(sessions.open(f"user {number}") for number in range(256)))
    assert len({grant.session_id for grant in grants}) == 256
    # One after the other, they would take more than five seconds.
    assert time.monotonic() - began < 3
    await sessions.stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_disk_cannot_do_in_time_is_refused_at_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hangs = Event()
    store = SQLiteStore(path, clock=lambda: time.time() if hangs.wait(5) else 0)
    hangs.set()
    await opened(store)
    hangs.clear()
    # Two readers: one that hangs, and one that waits for it in vain.
    with anyio.move_on_after(0.9):
        async with anyio.create_task_group() as together:
            together.start_soon(partial(store.read, "s", REALM))
            await anyio.sleep(0.05)
            together.start_soon(partial(store.read, "s", REALM))
    began = time.monotonic()
    for _ in range(10):
        with pytest.raises(StoreUnavailable, match="a transaction takes"):
            await store.read("s", REALM)
    assert time.monotonic() - began < 0.5
    hangs.set()
    await store.aclose()
    assert await found(store, "s") == [True]
    assert logged(caplog) == []
    await store.aclose()


async def test_only_so_many_steps_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jwt_middleware.issuing.stores.sqlite_queue.MAX_WAITING", 3)
    hangs = Event()
    store = SQLiteStore(path, clock=lambda: time.time() if hangs.wait(5) else 0)
    refused = 0

    async def read() -> None:
        nonlocal refused
        try:
            await store.read("s", REALM)
        except StoreUnavailable as error:
            refused += "steps wait already" in str(error)

    async with anyio.create_task_group() as together:
        together.start_soon(read)
        await anyio.sleep(0.1)
        for _ in range(5):
            together.start_soon(read)
        await anyio.sleep(0.1)
        hangs.set()
    assert refused == 2
    await store.aclose()


async def test_a_step_that_comes_while_the_file_is_slowly_closed_is_refused_in_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closes = Event()

    class OnSlowDisk(sqlite3.Connection):
        def close(self) -> None:
            closes.set()
            time.sleep(1.5)
            super().close()

    monkeypatch.setattr("jwt_middleware.issuing.stores.sqlite_queue.IDLE_SECONDS", 0.1)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=OnSlowDisk))
    before = set(enumerate_threads())
    store = SQLiteStore(path)
    assert await found(store, "s") == [False]
    # A store that nobody uses has no thread. Stores of other tests may have theirs.
    await until(lambda: not any(thread.name == "sqlite reader" for thread in set(enumerate_threads()) - before), 20)
    closing = Thread(target=anyio.run, args=(store.aclose,))
    closing.start()
    assert closes.wait(5)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="the file is being closed"):
        await store.read("s", REALM)
    assert time.monotonic() - began < 1.4
    closing.join(10)
    assert await found(store, "s") == [False]
    await store.aclose()


# A process that ends


HANG = """
import sys, threading, anyio
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.testing.store_contract import REALM

hangs = threading.Event()

def clock():
    hangs.set()
    threading.Event().wait()

async def main():
    with anyio.move_on_after(0.3):
        await store.read("s", REALM)
    assert hangs.is_set()

store = SQLiteStore(sys.argv[1], clock=clock)
anyio.run(main)
"""


def test_a_process_whose_disk_hangs_exits(path: Path) -> None:
    began = time.monotonic()
    run("-E", "-W", "ignore", "-c", HANG, str(path))
    assert time.monotonic() - began < 15


LEAVE = """
import asyncio, sys
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.testing import opening

# A server that stops its loop and does not end it, as daphne does.
loop = asyncio.new_event_loop()
store = SQLiteStore(sys.argv[1])
task = loop.create_task(store.open(opening("s"), max_sessions=9))
task.add_done_callback(lambda task: loop.stop())
loop.run_forever()
"""


def test_a_process_whose_event_loop_is_never_ended_exits(path: Path) -> None:
    began = time.monotonic()
    run("-E", "-W", "ignore", "-c", LEAVE, str(path))
    assert time.monotonic() - began < 30
    assert is_sound(path)
