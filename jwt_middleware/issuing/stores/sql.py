"""Sessions in PostgreSQL 12 or later, in the app's own database: for several machines. asyncio only."""

import json
import re
from collections.abc import Sequence
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, StoreUnavailable
from ...revocation.log import RevocationPage
from ...revocation.revoked import Revocation
from ..rotation import Opening, Outcome, Realm, RevocationRequest, Rotation, Session
from .layouts import explain_later
from .sql_connections import READ_SECONDS, Attempt, Connections
from .sql_engines import engine_maker
from .sql_rows import (
    escape,
    granted_text,
    lock_number,
    owner_of,
    read_ended,
    read_revocation,
    read_session,
    realm_text,
    revocation_key,
)
from .sql_statements import LAYOUT, SWEEP, Names, Statements

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Row
    from sqlalchemy.ext.asyncio import AsyncEngine

PREFIX = "jwt_"

SWEEP_SECONDS = 10
"""Seconds between two sweeps of a process, unless the last one has left something."""

TABLE_SECONDS = 60
"""Seconds that ``create_tables`` may take."""


class _Metadata:
    """``SQLStore.metadata``: on the class, the tables that a store has by default; on a store, its own tables."""

    def __get__(self, store: "SQLStore | None", owner: "type[SQLStore]") -> "MetaData":
        from .sql_tables import tables

        return tables(Names(None, PREFIX) if store is None else store.names)


class SQLStore:
    """A ``SessionStore`` in PostgreSQL. Each step is atomic. Most are one statement.

    ``engine``
        The app's own ``AsyncEngine``, or an address: ``postgresql+asyncpg://...`` or ``postgresql+psycopg://...``. The
        store closes the engines that it made itself, and leaves the app's open. The log of revocations is read through
        a connection of the store's own, so that a pool that is exhausted delays no request that carries a token.
    ``schema``
        The schema of the tables. Default None: the first one in the ``search_path`` of the connection.
    ``prefix``
        What the names of the tables begin with. Default ``jwt_``.

    ``create_tables`` makes the tables; ``SQLStore.metadata``, or ``store.metadata`` with another schema or prefix, is
    for Alembic. All moments are by the clock of the database. What is answered has been committed: with
    ``synchronous_commit=on``, the default of PostgreSQL, it survives a crash of the server.

    Raises ``ConfigurationError`` for an argument that cannot work, and if the extra ``sql`` is not installed.
    """

    metadata = _Metadata()
    """The tables, a ``sqlalchemy.MetaData``: the ``target_metadata`` of Alembic."""

    def __init__(self, engine: "AsyncEngine | str", *, schema: str | None = None, prefix: str = PREFIX) -> None:
        make_engine, errors = engine_maker(engine)
        if schema is not None and not (isinstance(schema, str) and re.fullmatch(r"[\w $-]{1,63}", schema)):
            raise ConfigurationError("schema must be the name of a schema: letters, digits, and _ $ - or spaces")
        if not isinstance(prefix, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,31}", prefix):
            raise ConfigurationError("prefix must be 1 to 32 letters, digits or _, and not begin with a digit")
        self.names = Names(schema, prefix)
        """What the tables are called."""
        self._statements = Statements(self.names)
        self._connections = Connections(make_engine, errors, self._check)
        # The latest reading of the database's clock that no step has written there; see steady.py.
        self._latest = 0.0
        self._sweeps_at = 0.0

    def __repr__(self) -> str:
        # The address may hold a password.
        return f"SQLStore(schema={self.names.schema!r}, prefix={self.names.prefix!r})"

    async def create_tables(self) -> None:
        """Make the tables that are missing. Several processes may call this at once.

        Raises ``StoreUnavailable`` if the role may not do that, or if the tables have a layout that this version of the
        package does not know.
        """

        async def step(attempt: Attempt) -> None:
            # Whoever comes second finds the tables of the first.
            await attempt.query(self._statements.lock, number=lock_number(self.names.of("")))
            await attempt.connection.run_sync(self.metadata.create_all)
            await self._check(attempt)

        await self._connections.run(step, seconds=TABLE_SECONDS, checks=False, is_single=False)

    async def open(self, opening: Opening, *, max_sessions: int) -> tuple[Session, tuple[Revocation, ...]]:
        """See ``SessionStore``."""
        owner = owner_of(opening.realm, opening.subject)

        async def step(attempt: Attempt) -> Any:
            await attempt.query(self._statements.lock, number=lock_number(self.names.of(""), owner))
            attempt.is_repeatable = False
            rows = await attempt.query(
                self._statements.open,
                id=escape(opening.id),
                realm=realm_text(opening.realm),
                owner=owner,
                granted=granted_text(opening),
                keep=max_sessions - 1,
                session_lifetime=float(opening.session_lifetime),
                idle_lifetime=float(opening.idle_lifetime),
                access_lifetime=float(opening.access_lifetime),
                mark=token_hex(8),
                latest=self._latest,
            )
            # Checked before the commit, so that a failed step ends none of the sessions that had to make room.
            return self._check_head(rows)

        (row,) = await self._connections.run(step, is_single=False, is_repeatable=True)
        self._latest = row.used_at
        self._sweep_soon(reads_log=False)
        return read_session(row), read_ended(json.loads(row.evicted or "[]"), opening.realm)

    async def read(self, id: str, realm: Realm) -> tuple[Session | None, float]:
        """See ``SessionStore``."""
        (row,) = await self._query(self._statements.read, id=escape(id), realm=realm_text(realm))
        return (None if row.id is None else read_session(row)), self._see(row.now)

    async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
        """See ``SessionStore``."""
        rows = await self._query(
            self._statements.rotate,
            id=escape(rotation.id),
            realm=realm_text(rotation.realm),
            key=revocation_key(rotation.realm, "sid", rotation.id),
            presented=rotation.generation,
            grace=float(rotation.grace),
            idle_lifetime=float(rotation.idle_lifetime),
            access_lifetime=float(rotation.access_lifetime),
            deadline=float(rotation.deadline),
            reuse=rotation.reuse_until_used,
            mark=token_hex(8),
            latest=self._latest,
        )
        (row,) = self._check_head(rows)
        self._latest = row.now
        if row.is_theft:
            # The connection broke after the session had been ended.
            return Outcome.THEFT, None
        if row.id is None:
            return (Outcome.LATE if row.now > rotation.deadline else Outcome.GONE), None
        outcome = Outcome(row.outcome)
        return outcome, None if outcome is Outcome.GONE else read_session(row)

    async def revoke(self, request: RevocationRequest) -> Revocation:
        """See ``SessionStore``."""
        rows = await self._query(
            self._statements.revoke,
            key=revocation_key(request.realm, request.claim, request.value),
            realm=realm_text(request.realm),
            claim=request.claim,
            value=escape(request.value),
            lifetime=float(request.lifetime),
            mark=token_hex(8),
        )
        (row,) = self._check_head(rows)
        return Revocation(request.realm.provider, request.claim, request.value, row.until, request.realm.issuer)

    async def revoke_subject(self, subject: str, realm: Realm) -> tuple[Revocation, ...]:
        """See ``SessionStore``."""
        statement = self._statements.revoke_subject
        values = {"owner": owner_of(realm, subject), "realm": realm_text(realm), "mark": token_hex(8)}

        async def step(attempt: Attempt) -> Any:
            # Finds out whether the connection has died in the pool. The next statement cannot be repeated: it would not
            # name the sessions that it ended the first time.
            await attempt.query("SELECT 1")
            attempt.is_repeatable = False
            return await attempt.query(statement, **values)

        rows = self._check_head(await self._connections.run(step, is_repeatable=True))
        return read_ended([row for row in rows if row.value is not None], realm)

    async def sessions(self, subject: str, realm: Realm) -> tuple[Session, ...]:
        """See ``SessionStore``."""
        owner = owner_of(realm, subject)
        rows = await self._query(self._statements.sessions, owner=owner, realm=realm_text(realm))
        return tuple(map(read_session, rows))

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        """See ``RevocationLog``. The position is number and mark of a revocation.

        If a failover has lost it, no revocation has both, whatever was written since then; so the log is read again
        from its beginning.
        """
        number, _, mark = after.partition(".")
        rows = self._check_head(
            await self._connections.run(
                lambda attempt: attempt.query(
                    self._statements.revocations, number=int(number or 0), mark=mark, limit=limit
                ),
                seconds=READ_SECONDS,
                reads_log=True,
                is_repeatable=True,
            )
        )
        self._sweep_soon(reads_log=True)
        last, found = rows[-1], [row for row in rows if row.number is not None]
        if last.oldest > LAYOUT:
            # The tables were migrated while this worker was running. From now on, its steps are refused.
            self._connections.check_again()
        position = f"{last.last}.{last.last_mark}"
        if len(found) == limit:
            position = f"{last.number}.{last.mark}"
        return RevocationPage(position, tuple(map(read_revocation, found)), self._see(last.now))

    async def aclose(self) -> None:
        """Close what the store has opened on this event loop; the next step opens it again."""
        await self._connections.aclose()

    def _see(self, now: float) -> float:
        self._latest = max(self._latest, now)
        return now

    async def _query(self, statement: str, **values: Any) -> "Sequence[Row[Any]]":
        """Do a step of one statement that may be sent twice."""
        return await self._connections.run(lambda attempt: attempt.query(statement, **values), is_repeatable=True)

    def _check_head(self, rows: "Sequence[Row[Any]]") -> "Sequence[Row[Any]]":
        """Raise ``StoreUnavailable`` if there are no rows: the tables were emptied while this worker was running."""
        if not rows:
            self._connections.check_again()
            raise StoreUnavailable(f"the row of {self.names.of('head')} is missing; the next step makes it again")
        return rows

    def _sweep_soon(self, *, reads_log: bool) -> None:
        now = monotonic()
        if now >= self._sweeps_at:
            self._sweeps_at = now + SWEEP_SECONDS
            self._connections.start(self._sweep, reads_log=reads_log)

    async def _sweep(self, attempt: Attempt) -> None:
        for statement in self._statements.sweep:
            if len(await attempt.query(statement)) == SWEEP:
                self._sweeps_at = 0

    async def _check(self, attempt: Attempt) -> str:
        """Look at the layout of the tables; write it down where they are new."""
        (row,) = await attempt.query(self._statements.check)
        if row.layout is None:
            await attempt.query(self._statements.begin, mark=token_hex(8))
        elif row.oldest > LAYOUT:
            raise StoreUnavailable(explain_later("the tables have", row.layout, row.oldest, LAYOUT))
        return str(row.isolation)
