"""Sessions in a SQLite file: for one machine with any number of processes, even if they crash."""

import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from anyio import to_thread

from ..._support.arguments import check_callable
from ...errors import ConfigurationError, StoreUnavailable
from ...revocation.log import RevocationPage
from ...revocation.revoked import Revocation
from ...telling import Events
from ..rotation import Opening, Outcome, Realm, RevocationRequest, Rotation, Session, rotate
from . import sqlite_tables as tables
from .sqlite_file import DatabaseFile, Identity, explain
from .sqlite_queue import PATIENCE, Step, StepQueue

Result = TypeVar("Result")


class SQLiteStore:
    """A ``SessionStore`` in a SQLite file, which is made when it is first used, readable for its owner alone.

    Processes of one machine share the file; it must not be on a network file system
    (https://www.sqlite.org/wal.html). Once a step is answered, its result survives even a crash of the machine
    (``synchronous=FULL``). Steps that come at the same moment share one write to the disk, and a step that cannot be
    done in time is refused at once.

    ``path``
        The file. Beside it stand ``-wal``, ``-shm`` and ``-owner``, which belong to it.
    ``clock``
        Gives Unix time, by default ``time.time``. It must be the same for all processes.

    ``back_up`` copies the file, and ``restore`` puts a copy back, while processes run. A file that is moved to ``path``
    is noticed before the next write: nothing is written until it is safe to open. A file that is copied **over**
    ``path`` (``cp``) cannot be noticed in time, and damages the database. ``events`` tells of all this, and ``problem``
    reports it for health checks. Raises ``ConfigurationError`` for an argument that cannot work.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise ConfigurationError(f"path must be a file's path, not {path!r}")
        if str(path) == ":memory:" or str(path).startswith("file:"):
            raise ConfigurationError("path must be a file's path; without a file, there is MemoryStore()")
        if "://" in str(path):
            # It may hold a password.
            raise ConfigurationError(
                "path must be a file's path, not an address; for those there is RedisStore(address)"
            )
        self._path = Path(path).absolute()
        if not self._path.parent.is_dir():
            raise ConfigurationError(f"path: there is no directory {str(self._path.parent)!r}")
        if self._path.is_dir():
            raise ConfigurationError(f"path: {str(self._path)!r} is a directory; name a file in it")
        check_callable("clock", clock)
        self.events = Events()
        self._file = DatabaseFile(self._path, self.events)
        self._clock = _Clock(clock)
        # Readers do not wait for writers.
        self._writer = _Connection(self._file, self._path, self._clock, writes=True)
        self._reader = _Connection(self._file, self._path, self._clock, writes=False)
        for connection in (self._writer, self._reader):
            _connections.add(connection)
            weakref.finalize(self, connection.queue.close_now)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

    @property
    def problem(self) -> str | None:
        """What is wrong with the file, and what to do about it. None if nothing is known to be wrong."""
        return self._file.problem

    async def open(self, opening: Opening, *, max_sessions: int) -> tuple[Session, tuple[Revocation, ...]]:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> tuple[Session, tuple[Revocation, ...]]:
            before = tables.select_session(db, opening.id, opening.realm)
            if before is not None:
                return before, ()
            evicted = tables.end_sessions(db, opening.subject, opening.realm, now, keep=max_sessions - 1)
            session = opening.begin(now, self._advance(db, now))
            tables.insert_session(db, session)
            return session, evicted

        return await self._writer.queue.run(step)

    async def read(self, id: str, realm: Realm) -> tuple[Session | None, float]:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> tuple[Session | None, float]:
            session = tables.select_session(db, id, realm)
            return (session if session is not None and session.is_alive(realm, now) else None), now

        return await self._reader.queue.run(step)

    async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> tuple[Outcome, Session | None]:
            before = tables.select_session(db, rotation.id, rotation.realm)
            outcome, session = rotate(before, rotation, now, self._advance(db, now))
            if outcome is Outcome.THEFT and session is not None:
                tables.end_session(db, session.id, session.realm)
            elif session is not None and outcome is not Outcome.LATE:
                tables.update_session(db, session)
            return outcome, session

        return await self._writer.queue.run(step)

    async def revoke(self, request: RevocationRequest) -> Revocation:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> Revocation:
            revocation = request.begin(now)
            if request.claim == "jti":
                return tables.write_revocation(db, revocation)
            ended = tables.end_session(db, request.value, request.realm)
            before = ended or tables.select_revocation(db, revocation)
            return before if before is not None and before.until > now else tables.write_revocation(db, revocation)

        return await self._writer.queue.run(step)

    async def revoke_subject(self, subject: str, realm: Realm) -> tuple[Revocation, ...]:
        """See ``SessionStore``."""

        return await self._writer.queue.run(lambda db, now: tables.end_sessions(db, subject, realm, now))

    async def sessions(self, subject: str, realm: Realm) -> tuple[Session, ...]:
        """See ``SessionStore``."""
        return await self._reader.queue.run(lambda db, now: tables.select_sessions(db, subject, realm, now))

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        """See ``RevocationLog``."""
        return await self._reader.queue.run(
            lambda db, now: RevocationPage(*tables.select_revocations(db, after, limit), now)
        )

    async def back_up(self, path: str | os.PathLike[str]) -> None:
        """Write a sound copy of the database to ``path``, a new file, while processes run.

        Raises ``FileExistsError`` if the file exists, and ``StoreUnavailable``.
        """
        target = Path(path)
        os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        # On its own connection, so that a long copy holds up no other step.
        await to_thread.run_sync(_copy, self._path, target)

    async def restore(self, path: str | os.PathLike[str]) -> None:
        """Put the sessions of a backup at ``path`` back, while processes run, in one transaction.

        The current sessions are replaced. The current revocations stay, and the sessions that they name stay ended, so
        no user who has logged out is logged in again. Raises ``FileNotFoundError`` if there is no such file, and
        ``StoreUnavailable``.
        """
        os.stat(path)
        await self._writer.queue.run(lambda db, now: tables.restore(db, Path(path)))

    async def aclose(self) -> None:
        """Close the file in this process; the next step opens it again."""
        await self._writer.queue.aclose()
        await self._reader.queue.aclose()

    def _advance(self, db: sqlite3.Connection, now: float) -> float:
        return tables.advance_time(db, now, self._clock.take_latest(now))


class _Clock:
    """The store's clock, which remembers its latest reading in this process; see ``SteadyTime``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._latest = 0.0

    def __call__(self) -> float:
        now = self._clock()
        self._latest = max(self._latest, now)
        return now

    def take_latest(self, now: float) -> float:
        """Return the latest reading, and replace it with ``now``, because the reading is written to the store."""
        latest, self._latest = self._latest, now
        return latest


class _Connection:
    """One connection of a store, and the steps that wait for it."""

    def __init__(self, file: DatabaseFile, path: Path, clock: Callable[[], float], *, writes: bool) -> None:
        self._file = file
        self._path = path
        self._clock = clock
        self._writes = writes
        self._db: sqlite3.Connection | None = None
        self._identity: Identity = (0, 0)
        self.queue = StepQueue(f"sqlite {'writer' if writes else 'reader'}", self._perform, self.close)

    def close(self) -> None:
        """Close the connection; its lock must be held."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def abandon(self) -> None:
        """Begin anew in a forked process, which does not have the thread and must not touch the connection."""
        self.queue.reset()
        _abandoned.append(self._db)
        self._db = None

    def _perform(self, steps: list[Step[Any]]) -> None:
        try:
            db = self._opened()
            try:
                db.execute("BEGIN IMMEDIATE" if self._writes else "BEGIN")
                # Read only now: the transaction may have waited for another process.
                now = self._clock()
                tables.check_layout(db)
                if self._writes:
                    tables.sweep(db, now)
                for step in steps:
                    self._take(db, step, now)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            if self._writes and not self._file.check(self._identity):
                raise StoreUnavailable(f"{self._path} was replaced while it was written")
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(explain(error, self._path)) from error

    def _take(self, db: sqlite3.Connection, step: Step[Any], now: float) -> None:
        """Do one step of several. A step that fails changes nothing and harms no other."""
        db.execute("SAVEPOINT step")
        try:
            step.result = step.work(db, now)
        except Exception as error:
            if not db.in_transaction:
                # SQLite has undone the whole transaction.
                raise
            db.execute("ROLLBACK TO step")
            is_ours = isinstance(error, sqlite3.Error | OSError)
            step.error = StoreUnavailable(explain(error, self._path)) if is_ours else error
        db.execute("RELEASE step")

    def _opened(self) -> sqlite3.Connection:
        if self._db is not None and not self._file.check(self._identity):
            # SQLite itself leaves the log alone when it closes a file that was moved.
            self.close()
        if self._db is None:
            self._db, self._identity = self._file.connect()
        return self._db


_connections: "weakref.WeakSet[_Connection]" = weakref.WeakSet()
_held: list[_Connection] = []
_abandoned: list[sqlite3.Connection | None] = []
"""Objects that a forked process must neither use nor close."""


def _copy(path: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(target)) as copy:
            db.backup(copy)
            # One file, without a log.
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise StoreUnavailable(explain(error, path)) from error


def _before_fork() -> None:
    # A connection must not be carried across a fork (https://www.sqlite.org/howtocorrupt.html, 2.6): its locks are
    # gone afterwards, and SQLite in the forked process does not notice.
    for connection in tuple(_connections):
        connection.queue.end_thread()
        if connection.queue.lock.acquire(timeout=PATIENCE):
            connection.close()
            _held.append(connection)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().queue.lock.release()
    for connection in tuple(_connections):
        connection.queue.go_on()


def _after_fork_in_child() -> None:
    _held.clear()
    for connection in tuple(_connections):
        connection.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
