"""Which file is the database now, and may it be written? Files are replaced while processes have them open.

SQLite keeps the last writes of ``sessions.db`` in ``sessions.db-wal``, and takes any file of that name for its own. If
a backup is moved to ``sessions.db`` while the log of the previous file is there, SQLite mixes the two. So, under a lock
that all our processes take:

1. Whoever opens the database writes into ``sessions.db-owner`` which file (inode) the log belongs to.
2. Whoever finds another file in its place moves the log of the previous file out of the way, and only then opens it.
3. A file that appears while we look is opened once it has not changed for a second: it may still be being copied.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TypeAlias

from ...errors import StoreUnavailable
from ...events import Advice
from ...telling import Events
from .sqlite_tables import prepare

BUSY_SECONDS = 0.8
"""Seconds that a transaction waits for other processes: less than a caller waits for it."""

SETTLED_SECONDS = 1
"""Seconds without a change after which a file that was put in place counts as complete."""

Identity: TypeAlias = tuple[int, int]
"""Device and inode."""


class DatabaseFile:
    """The file of one store, which several connections of this process share."""

    def __init__(self, path: Path, events: Events) -> None:
        self._path = path
        self._log = _beside(path, "-wal")
        self._owner = _beside(path, "-owner")
        self._events = events
        self._lock = Lock()
        self._missing_since: float | None = None
        # The file that was there when it was last opened.
        self._known: Identity | None = None
        self.problem: str | None = None
        """What is wrong with the file, and what to do about it. None if nothing is known to be wrong."""

    def connect(self) -> tuple[sqlite3.Connection, Identity]:
        """A connection to the file that is there now, and the identity of that file.

        Raises ``StoreUnavailable`` while it is not safe to open it, ``sqlite3.Error`` and ``OSError``.
        """
        with self._lock, _locked(self._path.parent):
            found = self.identity()
            if self._known is not None and found != self._known:
                self._check_settled(found)
            if found != self._known or found is None:
                self._retire_log(found)
                self._create()
                found = found or self.identity()
            db, identity = self._open(found)
            self._known = identity
            self.problem = self._missing_since = None
            return db, identity

    def identity(self) -> Identity | None:
        """The file that has the name now; None if there is none."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def check(self, identity: Identity) -> bool:
        """Whether the file is still the one of ``identity``. If not, that is told once."""
        if self.identity() == identity:
            return True
        if self.problem is None and self._known == identity:
            self.problem = (
                f"{self._path} is another file than before; nothing is written until the new one is safe to open"
            )
            self._events.tell(Advice(text=self.problem))
        return False

    def _check_settled(self, found: Identity | None) -> None:
        """Refuse to open a file that has just appeared, unless another process of ours has it open already."""
        now = monotonic()
        if found is None:
            self._missing_since = self._missing_since or now
            if now - self._missing_since < SETTLED_SECONDS:
                raise StoreUnavailable(f"{self._path} was removed; a new one is made in {SETTLED_SECONDS} s")
        elif self._owner_of_log()[0] != found[1]:
            changed_at = os.stat(self._path).st_mtime
            if abs(time.time() - changed_at) < SETTLED_SECONDS:
                raise StoreUnavailable(f"{self._path} was replaced and is still being written")

    def _retire_log(self, found: Identity | None) -> None:
        """Move the log of another file out of the way."""
        database, log = self._owner_of_log()
        with suppress(FileNotFoundError):
            if os.stat(self._log).st_ino == log and (found is None or found[1] != database):
                retired = _beside(self._log, f"-of-{database}")
                os.replace(self._log, retired)
                _beside(self._path, "-shm").unlink(missing_ok=True)
                self._events.tell(
                    Advice(
                        text=f"{self._path} was replaced; the log of the previous file, which the new one must not "
                        f"read, is kept as {retired}"
                    )
                )

    def _claim_log(self, found: Identity) -> None:
        """Note that the log belongs to the file that was found."""
        owner = found[1], os.stat(self._log).st_ino
        if owner != self._owner_of_log():
            descriptor = os.open(self._owner, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w") as file:
                file.write("{} {}".format(*owner))

    def _owner_of_log(self) -> tuple[int, int]:
        """The inodes of a database and of its log, as they were noted last."""
        with suppress(OSError, ValueError):
            database, log = self._owner.read_text().split()
            return int(database), int(log)
        return 0, 0

    def _create(self) -> None:
        # SQLite itself would let others read the file if the umask does. Only a new file is opened here, and
        # before SQLite knows it: closing it gives up all locks that this process has on it
        # (https://www.sqlite.org/howtocorrupt.html, 2.2).
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def _open(self, found: Identity | None) -> tuple[sqlite3.Connection, Identity]:
        """A connection to the file that was found. Raises ``StoreUnavailable`` if it is another one by now."""
        deadline = monotonic() + BUSY_SECONDS
        while True:
            db = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                # SQLite has opened the file, and looks for a log only with its first statement.
                identity = self._check_unchanged(found)
                _set_up(db)
                # From now on, the log is the one of this file, whatever stands at its path.
                self._claim_log(identity)
                return db, self._check_unchanged(identity)
            except BaseException as error:
                db.close()
                # SQLite's own patience does not help when several processes switch a new file to WAL at once.
                if _code(error) != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _check_unchanged(self, found: Identity | None) -> Identity:
        if found is None or self.identity() != found:
            raise StoreUnavailable(f"{self._path} was removed or replaced while it was opened")
        return found


def explain(error: Exception, path: Path) -> str:
    """A text about ``error`` for the log, with what the operator should do."""
    text = f"{type(error).__name__}: {error}"
    advice = _ADVICE.get(_code(error))
    return text if advice is None else f"{text}; {advice.format(path=path)}"


_ADVICE = {
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move {path} away and call SQLiteStore.restore(backup); without a "
    "backup, everybody logs in again",
    sqlite3.SQLITE_NOTADB: "move {path} away, or name another file",
    sqlite3.SQLITE_READONLY: "{path} and its directory must be writable",
    sqlite3.SQLITE_CANTOPEN: "{path} and its directory must be readable and writable",
    sqlite3.SQLITE_FULL: "make room on the disk of {path}",
    sqlite3.SQLITE_IOERR: "the disk of {path} fails",
    sqlite3.SQLITE_BUSY: "another process writes for too long",
}


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _set_up(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    prepare(db)
    db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other processes of ours from opening a database in ``directory``."""
    try:
        from fcntl import LOCK_EX, flock
    except ImportError:
        # Windows, where an open file cannot be replaced.
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        flock(descriptor, LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
