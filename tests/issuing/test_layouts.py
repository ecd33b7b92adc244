"""Old and new workers use one store at once during a deploy, and those that are too old are refused in words.

A worker of another release is a process that runs this release, with the layout that the other release has.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import redis

from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import RedisStore, SQLiteStore
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.issuing.stores.sqlite_tables import prepare
from jwt_middleware.testing.store_contract import REALM, revocation_request

from ..support.processes import ROOT, run
from ..support.redis_server import RedisServer, redis_server
from .store_steps import opened, rotated_by

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# A release in a process of its own

WORKER = """
import asyncio, json, sys
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import RedisStore, SQLiteStore
from jwt_middleware.issuing.stores import redis as redis_store, sqlite_tables
from jwt_middleware.issuing.testing import opening, revocation_request, rotation

async def answer(step, id="", generation=0):
    if step == "open":
        return (await store.open(opening(id), max_sessions=99))[0].generation
    if step == "rotate":
        outcome, session = await store.rotate(rotation(id, generation, grace=0))
        return [outcome.value, session and session.generation]
    if step == "revoke":
        return (await store.revoke(revocation_request(id))).value
    return [one.value for one in (await store.revocations("", 99)).revocations]

async def work():
    for line in sys.stdin:
        try:
            answered = await answer(*json.loads(line))
        except StoreUnavailable as error:
            answered = str(error)
        print(json.dumps(answered), flush=True)

place, prefix, layout, oldest, upgrade = sys.argv[1:]
module = redis_store if prefix else sqlite_tables
module.LAYOUT, module.OLDEST = int(layout), int(oldest)
sqlite_tables.UPGRADES = {int(layout) - 1: upgrade} if upgrade else {}
store = RedisStore(place, prefix=prefix) if prefix else SQLiteStore(place)
asyncio.run(work())
"""


class Worker:
    """A worker in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, *step: object) -> Any:
        """The answer to a step. If the store is not available, the answer is what it says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def worker(place: object, layout: int, oldest: int, upgrade: str = "", *, prefix: str = "") -> Iterator[Worker]:
    """A worker of a release whose store has ``layout``, on a file or, with a prefix, in Redis; killed in the end."""
    command = [sys.executable, "-c", WORKER, str(place), prefix, str(layout), str(oldest), upgrade]
    # In development mode, a process takes twice as long to start.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDEVMODE"}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


# SQLite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


async def make_layout_3(path: Path) -> None:
    """A file with the sessions "s" and "t", as the release before made it."""
    store = SQLiteStore(path)
    for id in "st":
        await opened(store, id)
    await store.aclose()
    change(path, "ALTER TABLE head DROP COLUMN layout")


async def test_workers_of_the_release_before_go_on_beside_those_that_bring_the_file_up_to_date(path: Path) -> None:
    await make_layout_3(path)
    new = SQLiteStore(path)
    with worker(path, 3, 3) as old:
        assert old.ask("rotate", "s", 1) == ["next", 2]
        # The file is brought up to date, and the old worker has it open.
        assert await rotated_by(new, 2, grace=0) == (Outcome.NEXT, 3)
        assert old.ask("rotate", "s", 3) == ["next", 4]
        assert old.ask("revoke", "t") == "t"
        assert await rotated_by(new, 1, "t") == (Outcome.GONE, None)
        await new.aclose()
        assert old.ask("open", "u") == 1
    with worker(path, 3, 3) as old:
        # This worker starts after the upgrade, as when a deploy is rolled back.
        assert old.ask("rotate", "u", 1) == ["next", 2]
        assert await rotated_by(new, 2, "u", grace=0) == (Outcome.NEXT, 3)
        await new.revoke(revocation_request("u"))
        assert old.ask("rotate", "u", 3) == ["gone", None]
        assert old.ask("revocations") == ["t", "u"]
    await new.aclose()


@pytest.mark.parametrize("is_new", [True, False], ids=["a new file", "a file of the release before"])
async def test_workers_that_prepare_one_file_at_the_same_moment_can_all_use_it(path: Path, is_new: bool) -> None:
    class Overtaken(sqlite3.Connection):
        """Before its first change, another worker is quicker."""

        is_overtaken = False

        def executescript(self, script: str, /) -> sqlite3.Cursor:
            if not self.is_overtaken:
                self.is_overtaken = True
                with closing(sqlite3.connect(path)) as db:
                    prepare(db)
            return super().executescript(script)

    if not is_new:
        await make_layout_3(path)
    with closing(sqlite3.connect(path, factory=Overtaken)) as db:
        prepare(db)
        assert db.is_overtaken
        assert not db.in_transaction
    store = SQLiteStore(path)
    await opened(store, "u")
    assert await rotated_by(store, 1, "u", grace=0) == (Outcome.NEXT, 2)
    await store.aclose()


async def test_a_file_that_cannot_be_prepared_says_why(path: Path) -> None:
    change(path, "CREATE TABLE sessions (name TEXT)")
    with pytest.raises(StoreUnavailable, match="table sessions already exists"):
        await opened(SQLiteStore(path))


NEXT = "ALTER TABLE sessions ADD COLUMN flavour TEXT NOT NULL DEFAULT 'plain'; UPDATE head SET layout = 5;"
AFTER_NEXT = "ALTER TABLE sessions RENAME COLUMN granted TO given; UPDATE head SET layout = 6; PRAGMA user_version = 5;"


async def test_workers_go_on_in_a_file_of_the_next_layout_and_are_refused_in_the_one_after_it(path: Path) -> None:
    this = SQLiteStore(path)
    await opened(this, "s")
    with worker(path, 5, 3, NEXT) as following:
        assert following.ask("rotate", "s", 1) == ["next", 2]
        assert await rotated_by(this, 2, grace=0) == (Outcome.NEXT, 3)
        restarted = SQLiteStore(path)
        assert await rotated_by(restarted, 3, grace=0) == (Outcome.NEXT, 4)
        await opened(restarted, "t")
        assert following.ask("revoke", "t") == "t"
        assert [one.value for one in (await this.revocations("", 9)).revocations] == ["t"]
        with worker(path, 6, 5, AFTER_NEXT) as later:
            assert later.ask("revocations") == ["t"]
            # They are refused at once, although they have the file open, and they neither read nor write.
            for store in (this, restarted, SQLiteStore(path)):
                with pytest.raises(StoreUnavailable, match="layout 6, which needs workers of layout 5 or later"):
                    await rotated_by(store, 4)
                with pytest.raises(StoreUnavailable, match="this worker has layout 4: install a newer version"):
                    await store.revocations("", 9)
                await store.aclose()
            assert following.ask("revocations") == ["t"]


LAYOUT_1 = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, subject TEXT NOT NULL, generation INTEGER NOT NULL, opened_at REAL NOT NULL,
    rotated_at REAL NOT NULL, used_at REAL NOT NULL, ends_at REAL NOT NULL, expires_at REAL NOT NULL,
    access_until INTEGER NOT NULL, granted TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX sessions_by_subject ON sessions (subject);
CREATE INDEX sessions_by_end ON sessions (expires_at);
CREATE TABLE revocations (number INTEGER PRIMARY KEY AUTOINCREMENT, mark TEXT NOT NULL, provider TEXT NOT NULL,
    ends TEXT NOT NULL, value TEXT NOT NULL, until REAL NOT NULL, UNIQUE (provider, ends, value));
CREATE INDEX revocations_by_end ON revocations (until);
CREATE TABLE head (number INTEGER NOT NULL, mark TEXT NOT NULL);
INSERT INTO head VALUES (1, 'm');
INSERT INTO revocations VALUES (1, 'm', 'jwt', 'jti', 'token', 4e9);
PRAGMA user_version = 1;
"""


def make_layout_1(path: Path) -> None:
    """A file with the sessions "s" and "t" of three generations, as the first release made it."""
    change(path, LAYOUT_1)
    now, granted = time.time(), '{"scopes": ["a"], "claims": {}, "device": ""}'
    with closing(sqlite3.connect(path)) as db:
        for id in "st":
            row = (id, "ada", 3, now - 9, now - 9, now - 9, now + 900, now + 900, now + 60, granted)
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.commit()


async def test_a_file_of_the_first_layout_is_brought_up_to_date(path: Path) -> None:
    make_layout_1(path)
    store = SQLiteStore(path)
    assert len(await store.sessions("ada", REALM)) == 2
    assert await rotated_by(store, 3, grace=0) == (Outcome.NEXT, 4)
    assert await rotated_by(store, 2, "t", grace=0) == (Outcome.THEFT, 3)
    assert len(await store.revoke_subject("ada", REALM)) == 1
    revoked = (await store.revocations("", 9)).revocations
    assert [(one.claim, one.value) for one in revoked] == [("jti", "token"), ("sid", "t"), ("sid", "s")]
    await store.aclose()


@pytest.mark.parametrize("layout", [1, 3])
async def test_a_backup_of_an_earlier_layout_is_put_back(path: Path, layout: int) -> None:
    backup = path.with_suffix(".backup")
    if layout == 1:
        make_layout_1(backup)
    else:
        await make_layout_3(backup)
    before = backup.read_bytes()
    store = SQLiteStore(path)
    await store.revoke(revocation_request("t"))
    await store.restore(backup)
    assert [session.id for session in await store.sessions("ada", REALM)] == ["s"]
    assert backup.read_bytes() == before
    await store.aclose()


KILLED = """
import os, shutil, signal, sqlite3, sys
from functools import partial
import anyio
from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.issuing.testing import REALM

class Killed(sqlite3.Connection):
    def executescript(self, script):
        statement = ""
        for part in script.split(";"):
            statement += part + ";"
            if sqlite3.complete_statement(statement):
                global left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                self.execute(statement)
                statement = ""

path, step, number = sys.argv[1], int(sys.argv[2]), 0
while True:
    file = f"{path}.{number}"
    shutil.copy(path, file)
    child = os.fork()
    if child == 0:
        left = number
        sqlite3.connect = partial(sqlite3.connect, factory=Killed)
        anyio.run(SQLiteStore(file).read, "s", REALM)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    number += step
"""


@pytest.mark.parametrize(("layout", "generation", "step"), [(1, 3, 4), (3, 1, 1)])
async def test_a_worker_that_is_killed_while_it_brings_a_file_up_to_date_leaves_that_to_the_next(
    path: Path, layout: int, generation: int, step: int
) -> None:
    if layout == 1:
        make_layout_1(path)
    else:
        await make_layout_3(path)
    # It is killed before each statement, or before each fourth one, from BEGIN to COMMIT. At last it completes.
    run("-W", "ignore", "-c", KILLED, str(path), str(step))
    files = [file for file in path.parent.iterdir() if file.suffix[1:].isdecimal()]
    assert len(files) >= 4
    for file in files:
        store = SQLiteStore(file)
        assert await rotated_by(store, generation, grace=0) == (Outcome.NEXT, generation + 1)
        assert len(await store.sessions("ada", REALM)) == 2
        await store.aclose()


# Redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


async def test_workers_go_on_beside_those_of_the_next_layout_in_redis_and_are_refused_beside_those_of_the_one_after_it(
    server: RedisServer,
) -> None:
    prefix = token_hex(4)
    this = RedisStore(server.url, prefix=prefix)
    for id in "stu":
        await opened(this, id)
    with worker(server.url, 3, 2, prefix=prefix) as following, redis.Redis(port=server.port) as admin:
        assert following.ask("rotate", "s", 1) == ["next", 2]
        # A session of a later layout has more at its end.
        key = f"{{{prefix}}}:session:s"
        admin.set(key, json.dumps([3, *json.loads(admin.get(key) or "")[1:], "flavour"]), keepttl=True)
        assert await rotated_by(this, 2, grace=0) == (Outcome.NEXT, 3)
        assert [session.id for session in await this.sessions("ada", REALM)] == ["s", "u", "t"]
        assert json.loads(admin.get(key) or "")[-1] == "flavour"
        restarted = RedisStore(server.url, prefix=prefix)
        assert await rotated_by(restarted, 3, grace=0) == (Outcome.NEXT, 4)
        await restarted.revoke(revocation_request("t"))
        assert following.ask("rotate", "t", 1) == ["gone", None]
        # Older workers are refused as soon as it changes a session.
        with worker(server.url, 4, 3, prefix=prefix) as later:
            assert later.ask("revocations") == ["t"]
            assert await rotated_by(this, 4, grace=0) == (Outcome.NEXT, 5)
            assert later.ask("rotate", "s", 5) == ["next", 6]
        for store in (this, restarted, RedisStore(server.url, prefix=prefix, wait_replicas=1)):
            with pytest.raises(
                StoreUnavailable, match="the keys have layout 4, which needs workers of layout 3 or later"
            ):
                await rotated_by(store, 6)
            with pytest.raises(StoreUnavailable, match="this worker has layout 2: install a newer version"):
                await store.revoke(revocation_request("u"))
            await store.aclose()
        assert following.ask("rotate", "s", 6) == ["next", 7]
