"""How are sessions laid out in SQLite? The tables, the statements, and the rows. Nothing here waits for a lock."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote

from ...errors import StoreUnavailable
from ...revocation.revoked import Revocation
from ..rotation import Realm, Session, revoke_session
from ..session_store import SESSION_RETENTION
from ..steady import SteadyTime
from .layouts import explain_later

LAYOUT = 4
"""The layout of the tables that this code makes. The table ``head`` names it."""

OLDEST = 3
"""The oldest layout whose workers can use these tables. It is SQLite's ``user_version``."""

SWEEP = 20
"""How many rows of each table that are over are removed with each transaction that writes."""

TABLES = f"""
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    generation INTEGER NOT NULL,
    parent INTEGER,
    is_used INTEGER NOT NULL,
    opened_at REAL NOT NULL,
    rotated_at REAL NOT NULL,
    used_at REAL NOT NULL,
    ends_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    access_until REAL NOT NULL,
    granted TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_by_subject ON sessions (subject);
CREATE INDEX sessions_by_end ON sessions (expires_at);
-- AUTOINCREMENT: without it, numbers come again once the rows that had them are deleted.
CREATE TABLE revocations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    mark TEXT NOT NULL,
    provider TEXT NOT NULL,
    issuer TEXT NOT NULL,
    claim TEXT NOT NULL,
    value TEXT NOT NULL,
    until REAL NOT NULL,
    UNIQUE (provider, issuer, claim, value)
);
CREATE INDEX revocations_by_end ON revocations (until);
-- The last row that was written, even if it was swept away since. The mark tells it from one that was written in its
-- place after the file was put back. `seen` and `offset` belong to steady time.
CREATE TABLE head (
    number INTEGER NOT NULL,
    mark TEXT NOT NULL,
    seen REAL NOT NULL,
    offset REAL NOT NULL,
    layout INTEGER NOT NULL
);
PRAGMA user_version = {OLDEST};
"""

# Sessions had no realm, so they belong to every realm that asks.
_FROM_1 = f"""
DROP INDEX sessions_by_subject;
DROP INDEX sessions_by_end;
DROP INDEX revocations_by_end;
ALTER TABLE sessions RENAME TO old_sessions;
ALTER TABLE revocations RENAME TO old_revocations;
ALTER TABLE head RENAME TO old_head;
{TABLES}
INSERT INTO sessions SELECT id, '', '', subject, generation, generation - 1, 1, opened_at, rotated_at, used_at, ends_at,
    expires_at, access_until, granted FROM old_sessions;
INSERT INTO revocations SELECT number, mark, provider, '', ends, value, until FROM old_revocations;
INSERT INTO head SELECT number, mark, 0, 0, {LAYOUT} FROM old_head;
DROP TABLE old_sessions;
DROP TABLE old_revocations;
DROP TABLE old_head;
"""

_FROM_3 = f"ALTER TABLE head ADD COLUMN layout INTEGER NOT NULL DEFAULT {LAYOUT};"

UPGRADES = {1: _FROM_1, 3: _FROM_3}
"""What brings each earlier layout up to date; 2 was never in use."""


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an earlier layout up to date, in one transaction.

    Raises ``StoreUnavailable`` if they have a layout that this code cannot use.
    """
    while True:
        layout, oldest = _read_layout(db)
        _check(layout, oldest, "the tables have")
        text = UPGRADES.get(layout)
        if layout == 0:
            text = f"{TABLES}INSERT INTO head VALUES (0, '{token_hex(8)}', 0, 0, {LAYOUT});"
        if text is None:
            return
        try:
            db.executescript(f"BEGIN IMMEDIATE;{text}COMMIT;")
        except sqlite3.OperationalError:
            db.rollback()
            # Another worker may have done this meanwhile.
            if _read_layout(db) == (layout, oldest):
                raise


def check_layout(db: sqlite3.Connection) -> None:
    """Raise ``StoreUnavailable`` if a newer worker has brought the tables up to a layout that this code cannot use."""
    (oldest,) = db.execute("PRAGMA user_version").fetchone()
    if oldest > LAYOUT:
        _check(*_read_layout(db), "the tables have")


def _read_layout(db: sqlite3.Connection) -> tuple[int, int]:
    """The layout of the tables, and the oldest one whose workers can use them. Both are 0 if there are no tables."""
    (oldest,) = db.execute("PRAGMA user_version").fetchone()
    if not any(name == "layout" for _, name, *_ in db.execute("PRAGMA table_info(head)")):
        # Only workers of the same layout can use layouts 1 to 3.
        return oldest, oldest
    (layout,) = db.execute("SELECT layout FROM head").fetchone()
    return layout, oldest


def _check(layout: int, oldest: int, stored: str) -> None:
    if oldest > LAYOUT:
        raise StoreUnavailable(explain_later(stored, layout, oldest, LAYOUT))


_NUMBERS = ("opened_at", "rotated_at", "used_at", "ends_at", "expires_at", "access_until")
_PLAIN = ("subject", "generation", "parent", "is_used", *_NUMBERS)
_COLUMNS = ("id", "provider", "issuer", *_PLAIN, "granted")
_INSERT = f"INSERT INTO sessions ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
_MOVED = ("generation", "parent", "is_used", "rotated_at", "used_at", "expires_at", "access_until")
_MOVE = f"UPDATE sessions SET {', '.join(f'{name} = :{name}' for name in _MOVED)} WHERE id = :id"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM sessions"
_REVOCATION = "provider, claim, value, until, NULLIF(issuer, '')"
"""The members of a ``Revocation``, in their order."""
_OF_REALM = "(provider = :provider AND issuer = :issuer OR provider = '')"


def insert_session(db: sqlite3.Connection, session: Session) -> None:
    """Write a new session."""
    granted = {"scopes": session.scopes, "claims": session.claims, "device": session.device}
    plain = {name: getattr(session, name) for name in ("id", *_PLAIN)}
    db.execute(_INSERT, plain | _realm_columns(session.realm) | {"granted": json.dumps(granted)})


def update_session(db: sqlite3.Connection, session: Session) -> None:
    """Write what a rotation changes."""
    db.execute(_MOVE, {name: getattr(session, name) for name in ("id", *_MOVED)})


def select_session(db: sqlite3.Connection, id: str, realm: Realm) -> Session | None:
    """The session, ended or not, unless it belongs to another realm."""
    row = db.execute(f"{_SELECT} WHERE id = :id AND {_OF_REALM}", {"id": id, **_realm_columns(realm)}).fetchone()
    return None if row is None else _read_row(row, realm)


def select_sessions(db: sqlite3.Connection, subject: str, realm: Realm, now: float) -> tuple[Session, ...]:
    """The sessions of ``subject`` that have not ended, most recently used first."""
    where = f"WHERE subject = :subject AND {_OF_REALM} AND expires_at > :now ORDER BY used_at DESC"
    rows = db.execute(f"{_SELECT} {where}", {"subject": subject, "now": now, **_realm_columns(realm)})
    return tuple(_read_row(row, realm) for row in rows)


def end_session(db: sqlite3.Connection, id: str, realm: Realm) -> Revocation | None:
    """Delete a session, and revoke its tokens. Returns None if there is no such session."""
    # The rest of the row is not read: a damaged session must not stay alive.
    where = f"WHERE id = :id AND {_OF_REALM}"
    found = {"id": id, **_realm_columns(realm)}
    row = db.execute(f"SELECT access_until FROM sessions {where}", found).fetchone()
    if row is None:
        return None
    db.execute(f"DELETE FROM sessions {where}", found)
    return write_revocation(db, revoke_session(id, realm, row[0]))


def end_sessions(
    db: sqlite3.Connection, subject: str, realm: Realm, now: float, *, keep: int = 0
) -> tuple[Revocation, ...]:
    """End the sessions of ``subject`` except for the ``keep`` that were used last."""
    where = (
        f"WHERE subject = :subject AND {_OF_REALM} AND expires_at > :now ORDER BY used_at DESC LIMIT -1 OFFSET :keep"
    )
    wanted = {"subject": subject, "now": now, "keep": keep, **_realm_columns(realm)}
    ids = [id for (id,) in db.execute(f"SELECT id FROM sessions {where}", wanted)]
    return tuple(filter(None, (end_session(db, id, realm) for id in ids)))


def select_revocation(db: sqlite3.Connection, revocation: Revocation) -> Revocation | None:
    """The revocation of the same session or token that is already written."""
    row = db.execute(
        f"SELECT {_REVOCATION} FROM revocations WHERE provider = ? AND issuer = ? AND claim = ? AND value = ?",
        (revocation.provider, revocation.issuer or "", revocation.claim, revocation.value),
    ).fetchone()
    return None if row is None else Revocation._make(row)


def write_revocation(db: sqlite3.Connection, revocation: Revocation) -> Revocation:
    """Write a revocation, unless the same is already written for as long. Returns the one in force."""
    before = select_revocation(db, revocation)
    if before is not None and before.until >= revocation.until:
        return before
    mark = token_hex(8)
    # A new number: a reader that is past the old one would not see that the revocation lasts longer.
    number = db.execute(
        "REPLACE INTO revocations (mark, provider, issuer, claim, value, until) VALUES (?, ?, ?, ?, ?, ?)",
        (
            mark,
            revocation.provider,
            revocation.issuer or "",
            revocation.claim,
            revocation.value,
            revocation.until,
        ),
    ).lastrowid
    db.execute("UPDATE head SET number = ?, mark = ?", (number, mark))
    return revocation


def select_revocations(db: sqlite3.Connection, after: str, limit: int) -> tuple[str, tuple[Revocation, ...]]:
    """The next revocations after a position, and the position after them."""
    head = "{}.{}".format(*db.execute("SELECT number, mark FROM head").fetchone())
    if after == head:
        return head, ()
    number, _, mark = after.partition(".")
    known = db.execute("SELECT number FROM revocations WHERE number = ? AND mark = ?", (number, mark)).fetchone()
    rest = "FROM revocations WHERE number > ? ORDER BY number"
    start = known[0] if known else 0
    # A process that starts reads all that are in force, so no function is called for each row.
    rows = db.execute(f"SELECT {_REVOCATION} {rest} LIMIT ?", (start, limit))
    found = tuple(map(Revocation._make, rows))
    if len(found) < limit:
        return head, found
    last = db.execute(f"SELECT number, mark {rest} LIMIT 1 OFFSET ?", (start, limit - 1)).fetchone()
    return "{}.{}".format(*last), found


def advance_time(db: sqlite3.Connection, now: float, latest: float) -> float:
    """Steady time at ``now``; ``latest`` is the latest reading of the clock in this process. See ``SteadyTime``."""
    state = SteadyTime(*db.execute("SELECT seen, offset FROM head").fetchone()).read(now, latest=latest)
    db.execute("UPDATE head SET seen = ?, offset = ?", (state.seen, state.offset))
    return state.time


def sweep(db: sqlite3.Connection, now: float) -> None:
    """Delete some rows that are over."""
    ends = (("sessions", "id", "expires_at", now - SESSION_RETENTION), ("revocations", "number", "until", now))
    for table, key, end, before in ends:
        over = f"SELECT {key} FROM {table} WHERE {end} <= ? LIMIT {SWEEP}"
        db.execute(f"DELETE FROM {table} WHERE {key} IN ({over})", (before,))


def restore(db: sqlite3.Connection, source: Path) -> None:
    """Replace the sessions by those in the database at ``source``, without those that are revoked by now."""
    with (
        closing(sqlite3.connect(f"file:{quote(str(source.absolute()))}?mode=ro", uri=True)) as backup,
        # An empty path makes a temporary database.
        closing(sqlite3.connect("")) as upgraded,
    ):
        layout, oldest = _read_layout(backup)
        _check(layout, oldest, "the backup has")
        if layout == 0:
            raise StoreUnavailable("this file is not a backup: it has no tables of SQLiteStore")
        found = backup
        if layout in UPGRADES:
            backup.backup(upgraded)
            prepare(upgraded)
            found = upgraded
        db.execute("DELETE FROM sessions")
        places = ", ".join("?" for _ in _COLUMNS)
        rows = found.execute(f"SELECT {', '.join(_COLUMNS)} FROM sessions")
        db.executemany(f"INSERT INTO sessions ({', '.join(_COLUMNS)}) VALUES ({places})", rows)
        for row in found.execute(f"SELECT {_REVOCATION} FROM revocations"):
            write_revocation(db, Revocation._make(row))
    db.execute("DELETE FROM sessions WHERE id IN (SELECT value FROM revocations WHERE claim = 'sid')")


def _realm_columns(realm: Realm) -> dict[str, str]:
    return {"provider": realm.provider, "issuer": realm.issuer or ""}


def _read_row(row: Sequence[Any], realm: Realm) -> Session:
    values = dict(zip(_COLUMNS, row, strict=True))
    del values["provider"], values["issuer"]
    granted = json.loads(values.pop("granted"))
    values["is_used"] = bool(values["is_used"])
    return Session(
        **values,
        realm=realm,
        scopes=tuple(granted["scopes"]),
        claims=granted["claims"],
        device=granted["device"],
    )
