"""Sessions in a SQLite file: for one machine, with as many processes as it likes, whatever becomes of them."""

import json
import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from ..._support.arguments import check_callable
from ...errors import ConfigurationError, StoreUnavailable
from ...revocation.revoked import MARGIN, Revocation
from ..rotation import Opening, Outcome, Rotation, Session, rotated

logger = logging.getLogger("jwt_middleware")

Result = TypeVar("Result")

SCHEMA = 1
"""The version of the tables."""

BUSY_SECONDS = 0.8
"""What a step waits for other processes, at most: less than whoever waits for the step."""

SWEEP = 20
"""Rows that are over and go away with each step that writes."""


class SQLiteStore:
    """A ``SessionStore`` in a SQLite file, which is made when it is first used, readable for its owner alone.

    Processes of one machine share it (not over network file systems: https://www.sqlite.org/wal.html). What was
    answered is on the disk, also after a crash of the machine (``synchronous=FULL``). ``clock`` gives Unix time, by
    default ``time.time``, and must be the same for all processes. Raises ``ConfigurationError`` where ``path`` cannot
    work.
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
        self._clock = clock
        # Readers do not wait for writers. By process, since a fork of one may find a lock held for ever.
        self._writers: dict[int, _Connection] = {}
        self._readers: dict[int, _Connection] = {}
        # By event loop: of more threads, all but one would wait for the connection.
        self._limiters: RunVar[tuple[CapacityLimiter, CapacityLimiter]] = RunVar("jwt_middleware.sqlite")
        weakref.finalize(self, _close, self._writers, self._readers)
        _stores.add(self)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

    async def open(
        self, opening: Opening, *, provider: str, max_sessions: int
    ) -> tuple[Session, tuple[Revocation, ...]]:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> tuple[Session, tuple[Revocation, ...]]:
            session = opening.begun(now)
            others = _ids(db, opening.subject, now)
            evicted = tuple(_end(db, id, access_until, provider) for id, access_until in others[max_sessions - 1 :])
            db.execute(_INSERT, _row(session))
            return session, evicted

        return await self._write(step)

    async def read(self, id: str) -> tuple[Session | None, float]:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> tuple[Session | None, float]:
            session = _session(db, id)
            return (None if session is None or now >= session.expires_at else session), now

        return await self._read(step)

    async def rotate(self, rotation: Rotation, *, provider: str) -> tuple[Outcome, Session | None]:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> tuple[Outcome, Session | None]:
            session = _session(db, rotation.id)
            outcome, moved = rotated(session, rotation, now)
            if outcome is Outcome.THEFT and session is not None:
                _end(db, session.id, session.access_until, provider)
                return outcome, session
            if moved is not None and outcome is not Outcome.LATE:
                db.execute(_MOVE, {**_moving(moved), "id": moved.id})
            return outcome, moved

        return await self._write(step)

    async def revoke(self, revocation: Revocation) -> Revocation:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> Revocation:
            if revocation.ends == "jti":
                return _revoke(db, revocation)
            known = db.execute("SELECT access_until FROM sessions WHERE id = ?", (revocation.value,)).fetchone()
            if known is not None:
                return _end(db, revocation.value, known[0], revocation.provider)
            before = _revoked(db, revocation)
            return _revoke(db, revocation) if before is None or before.until <= now else before

        return await self._write(step)

    async def revoke_subject(self, subject: str, *, provider: str) -> tuple[Revocation, ...]:
        """See ``SessionStore``."""

        def step(db: sqlite3.Connection, now: float) -> tuple[Revocation, ...]:
            return tuple(_end(db, id, access_until, provider) for id, access_until in _ids(db, subject, now))

        return await self._write(step)

    async def sessions(self, subject: str) -> tuple[Session, ...]:
        """See ``SessionStore``."""
        return await self._read(lambda db, now: tuple(_sessions(db, subject, now)))

    async def revocations(self, after: str, limit: int) -> tuple[str, tuple[Revocation, ...]]:
        """See ``RevocationLog``."""
        number, _, mark = after.partition(".")

        def step(db: sqlite3.Connection, now: float) -> tuple[str, tuple[Revocation, ...]]:
            head = "{}.{}".format(*db.execute("SELECT number, mark FROM head").fetchone())
            if after == head:
                return head, ()
            known = (
                after
                and db.execute(
                    "SELECT 1 FROM revocations WHERE number = ? AND mark = ?", (int(number), mark)
                ).fetchone()
            )
            rows = db.execute(
                "SELECT provider, ends, value, until, number, mark FROM revocations WHERE number > ? "
                "ORDER BY number LIMIT ?",
                (int(number) if known else 0, limit),
            ).fetchall()
            position = head if len(rows) < limit else "{}.{}".format(*rows[-1][4:])
            return position, tuple(Revocation(*row[:4]) for row in rows)

        return await self._read(step)

    async def aclose(self) -> None:
        """Close the file in this process; the next step opens it again."""
        await to_thread.run_sync(_close, self._writers, self._readers)

    async def _write(self, step: Callable[[sqlite3.Connection, float], Result]) -> Result:
        def write(db: sqlite3.Connection) -> Result:
            db.execute("BEGIN IMMEDIATE")
            # Only now: it may have waited.
            now = self._clock()
            _sweep(db, now)
            return step(db, now)

        limiter, _ = self._of_this_loop()
        return await to_thread.run_sync(self._run, self._writers, write, limiter=limiter, abandon_on_cancel=True)

    async def _read(self, step: Callable[[sqlite3.Connection, float], Result]) -> Result:
        def read(db: sqlite3.Connection) -> Result:
            db.execute("BEGIN")
            return step(db, self._clock())

        _, limiter = self._of_this_loop()
        return await to_thread.run_sync(self._run, self._readers, read, limiter=limiter, abandon_on_cancel=True)

    def _of_this_loop(self) -> tuple[CapacityLimiter, CapacityLimiter]:
        limiters = self._limiters.get(None)
        if limiters is None:
            limiters = CapacityLimiter(1), CapacityLimiter(1)
            self._limiters.set(limiters)
        return limiters

    def _run(self, connections: "dict[int, _Connection]", work: Callable[[sqlite3.Connection], Result]) -> Result:
        """``work`` in a transaction, in this thread."""
        pid = os.getpid()
        connection = connections.get(pid) or connections.setdefault(pid, _Connection())
        # Whoever gave up waiting for a disk that stalls has left his thread with it.
        if not connection.lock.acquire(timeout=BUSY_SECONDS):
            raise StoreUnavailable(f"another step takes more than {BUSY_SECONDS} s")
        try:
            db = connection.opened(self._path)
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        finally:
            connection.lock.release()
        return result


class _Connection:
    def __init__(self) -> None:
        self.lock = Lock()
        self.db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def opened(self, path: Path) -> sqlite3.Connection:
        """The connection to the file that is ``path`` now."""
        if self.db is not None and _identity(path) != self._file:
            # A copy that was put back, say: who went on with the old one would be alone with it.
            logger.warning("sessions: %s is another file than before; it is opened anew", path)
            self.close()
        if self.db is None:
            self.db = _opened(path)
            self._file = _identity(path)
        return self.db

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    generation INTEGER NOT NULL,
    opened_at REAL NOT NULL,
    rotated_at REAL NOT NULL,
    used_at REAL NOT NULL,
    ends_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    access_until INTEGER NOT NULL,
    granted TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_by_subject ON sessions (subject);
CREATE INDEX IF NOT EXISTS sessions_by_end ON sessions (expires_at);
-- AUTOINCREMENT: without it, numbers come again once the rows that had them are deleted.
CREATE TABLE IF NOT EXISTS revocations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    mark TEXT NOT NULL,
    provider TEXT NOT NULL,
    ends TEXT NOT NULL,
    value TEXT NOT NULL,
    until REAL NOT NULL,
    UNIQUE (provider, ends, value)
);
CREATE INDEX IF NOT EXISTS revocations_by_end ON revocations (until);
-- The last row that was written, should it be swept away. The mark tells it from one that was written in its place
-- after the file was put back.
CREATE TABLE IF NOT EXISTS head (number INTEGER NOT NULL, mark TEXT NOT NULL);
INSERT INTO head SELECT 0, '{{mark}}' WHERE NOT EXISTS (SELECT 1 FROM head);
PRAGMA user_version = {SCHEMA};
COMMIT;
"""


_creating = Lock()


def _opened(path: Path) -> sqlite3.Connection:
    # SQLite's own way would let others read it, as far as the umask does. Only a file that is new is opened here, and
    # before SQLite knows it: closing it gives up all locks that this process has on it
    # (https://www.sqlite.org/howtocorrupt.html, 2.2), and the next process to go would take the log away from under us.
    with _creating, suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return _prepared(path)
        except sqlite3.OperationalError as error:
            # SQLite's own patience does not help where several make a new file one with WAL at once.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _prepared(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA):
            raise StoreUnavailable(f"the tables are of version {version}, not {SCHEMA}: another release made them")
        if version == 0:
            db.executescript(_TABLES.format(mark=token_hex(8)))
        db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    except BaseException:
        db.close()
        raise
    return db


def _close(*kinds: dict[int, _Connection]) -> None:
    for connections in kinds:
        connection = connections.get(os.getpid())
        if connection is not None:
            with connection.lock:
                connection.close()


_stores: "weakref.WeakSet[SQLiteStore]" = weakref.WeakSet()


def _close_all() -> None:
    for store in tuple(_stores):
        _close(store._writers, store._readers)


# https://www.sqlite.org/howtocorrupt.html, 2.6: a connection must not be carried across a fork. Its locks are not there
# afterwards, which SQLite in the forked process does not notice, not even for connections that are opened there.
getattr(os, "register_at_fork", lambda **hooks: None)(before=_close_all)


_COLUMNS = (
    *("id", "subject", "generation", "opened_at", "rotated_at", "used_at", "ends_at", "expires_at", "access_until"),
    "granted",
)
_INSERT = f"INSERT INTO sessions ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
_MOVED = ("generation", "rotated_at", "used_at", "expires_at", "access_until")
_MOVE = f"UPDATE sessions SET {', '.join(f'{name} = :{name}' for name in _MOVED)} WHERE id = :id"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM sessions"


def _row(session: Session) -> dict[str, Any]:
    granted = {"scopes": session.scopes, "claims": session.claims, "device": session.device}
    return {name: getattr(session, name) for name in _COLUMNS[:-1]} | {"granted": json.dumps(granted)}


def _moving(session: Session) -> dict[str, Any]:
    return {name: getattr(session, name) for name in _MOVED}


def _read_row(row: Sequence[Any]) -> Session:
    granted = json.loads(row[-1])
    return Session(
        **dict(zip(_COLUMNS[:-1], row[:-1], strict=True)),
        scopes=tuple(granted["scopes"]),
        claims=granted["claims"],
        device=granted["device"],
    )


def _session(db: sqlite3.Connection, id: str) -> Session | None:
    row = db.execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone()
    return None if row is None else _read_row(row)


def _sessions(db: sqlite3.Connection, subject: str, now: float) -> list[Session]:
    rows = db.execute(f"{_SELECT} WHERE subject = ? AND expires_at > ? ORDER BY used_at DESC", (subject, now))
    return [_read_row(row) for row in rows]


def _ids(db: sqlite3.Connection, subject: str, now: float) -> list[tuple[str, int]]:
    """The ids and ``access_until`` of the sessions of ``subject``, the last used first: enough to end them."""
    rows = db.execute(
        "SELECT id, access_until FROM sessions WHERE subject = ? AND expires_at > ? ORDER BY used_at DESC",
        (subject, now),
    )
    return list(rows)


def _end(db: sqlite3.Connection, id: str, access_until: int, provider: str) -> Revocation:
    db.execute("DELETE FROM sessions WHERE id = ?", (id,))
    return _revoke(db, Revocation(provider, "sid", id, access_until + MARGIN))


def _revoked(db: sqlite3.Connection, revocation: Revocation) -> Revocation | None:
    row = db.execute(
        "SELECT provider, ends, value, until FROM revocations WHERE provider = ? AND ends = ? AND value = ?",
        (revocation.provider, revocation.ends, revocation.value),
    ).fetchone()
    return None if row is None else Revocation(*row)


def _revoke(db: sqlite3.Connection, revocation: Revocation) -> Revocation:
    before = _revoked(db, revocation)
    if before is not None and before.until >= revocation.until:
        return before
    mark = token_hex(8)
    # A new number, since whoever has read the old one would not see that it lasts longer.
    number = db.execute(
        "REPLACE INTO revocations (mark, provider, ends, value, until) VALUES (?, ?, ?, ?, ?)",
        (mark, revocation.provider, revocation.ends, revocation.value, revocation.until),
    ).lastrowid
    db.execute("UPDATE head SET number = ?, mark = ?", (number, mark))
    return revocation


def _sweep(db: sqlite3.Connection, now: float) -> None:
    for table, key, end in (("sessions", "id", "expires_at"), ("revocations", "number", "until")):
        db.execute(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {end} <= ? LIMIT {SWEEP})", (now,)
        )
