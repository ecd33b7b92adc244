"""What PostgreSQL does to sessions, and they to it, beside the contract of stores; all of it with a real server."""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import zip_longest
from secrets import token_hex
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import psycopg.errors
import pytest
import sqlalchemy
import sqlalchemy.dialects
from anyio import to_thread
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.ext.asyncio import create_async_engine

from jwt_middleware import ConfigurationError
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import SQLStore
from jwt_middleware.issuing.rotation import Outcome, Realm
from jwt_middleware.issuing.session_store import SESSION_RETENTION
from jwt_middleware.issuing.stores import sql_connections, sql_engines
from jwt_middleware.issuing.stores.sql_connections import MOST_TRIES
from jwt_middleware.issuing.stores.sql_errors import explain
from jwt_middleware.issuing.stores.sql_statements import SWEEP
from jwt_middleware.testing.store_contract import REALM, opening, revocation_request

from ..support.postgres import PASSWORD, STRICT, USER, PostgresServer
from ..support.processes import run
from ..support.waiting import until
from .rotation_rule import check_rotations
from .store_steps import opened, rotated_by

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy: what steps do is tested here, and one test sets back how long they may take."""
    monkeypatch.setattr(sql_connections, "STEP_SECONDS", 20)
    monkeypatch.setattr(sql_engines, "POOL_SECONDS", 20)


@pytest.fixture
def prefix() -> str:
    return f"t{token_hex(4)}_"


@pytest.fixture
async def store(postgres: PostgresServer, prefix: str) -> AsyncIterator[SQLStore]:
    store = SQLStore(postgres.url("asyncpg"), prefix=prefix)
    await store.create_tables()
    yield store
    await store.aclose()


@pytest.fixture
def change(postgres: PostgresServer) -> Any:
    """Runs SQL of the test's own, outside the store; returns the rows."""

    def change(statement: str) -> list[Any]:
        with postgres.connect() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    return change


# The statements


async def test_the_statement_of_rotation_does_what_the_rule_says(store: SQLStore) -> None:
    """It is written twice, in two languages."""
    await check_rotations(store, 200)


def statements(postgres: PostgresServer, prefix: str) -> list[str]:
    """What the server was asked about the tables with ``prefix``, and every BEGIN and COMMIT."""
    log = (postgres.data.parent / f"postgres-{postgres.port}.log").read_text()
    entries = log.split("LOG:  ")
    return [entry for entry in entries if prefix in entry or "BEGIN" in entry[:60] or "COMMIT" in entry[:60]]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_refresh_is_one_round_trip(postgres: PostgresServer, prefix: str, driver: str) -> None:
    store = SQLStore(postgres.url(driver), prefix=prefix)
    await store.create_tables()
    await opened(store)
    for generation in range(1, 7):
        await rotated_by(store, generation, grace=0)
    before = len(statements(postgres, prefix))
    assert await rotated_by(store, 7, grace=0) == (Outcome.NEXT, 8)
    await until(lambda: len(statements(postgres, prefix)) > before)
    (asked,) = statements(postgres, prefix)[before:]
    assert "WITH locked" in asked
    await store.aclose()


async def test_every_text_that_json_can_hold_is_kept(store: SQLStore) -> None:
    """PostgreSQL takes no NUL and no half of a surrogate pair; an index takes no long text."""
    odd = 'a\0b"\\é\ud800' + "x" * 9000
    realm = Realm("jwt", "https://issuer.example/\0é")
    session, _ = await store.open(opening("s", odd, realm=realm, claims={odd: [odd]}, device=odd), max_sessions=9)
    assert (session.subject, session.claims, session.device) == (odd, {odd: [odd]}, odd)
    assert [one.id for one in await store.sessions(odd, realm)] == ["s"]
    revoked = await store.revoke(revocation_request(odd, claim="jti", realm=realm))
    assert list((await store.revocations("", 9)).revocations) == [revoked]
    assert revoked.value == odd
    assert (await store.read(odd, realm))[0] is None
    assert len(await store.revoke_subject(odd, realm)) == 1


async def test_a_token_that_was_replaced_an_hour_ago_is_theft_where_the_clock_was_set_back(
    store: SQLStore, change: Any, prefix: str
) -> None:
    """As if the server's clock had been read an hour from now, and had been set back then."""
    await opened(store)
    await rotated_by(store, 1, grace=0)
    change(f"UPDATE {prefix}head SET seen = {time.time() + 3600}")
    assert await rotated_by(store, 1, grace=10) == (Outcome.THEFT, 2)


async def test_a_clock_that_another_step_has_seen_later_ends_grace_too(
    store: SQLStore, change: Any, prefix: str
) -> None:
    await opened(store)
    assert await rotated_by(store, 1, grace=10) == (Outcome.AGAIN, 1)
    # The session itself was used an hour from now.
    change(f"UPDATE {prefix}sessions SET used_at = used_at + 3600, rotated_at = rotated_at + 3600")
    assert await rotated_by(store, 1, grace=10) == (Outcome.NEXT, 2)
    # What was added then stays.
    assert await rotated_by(store, 2, grace=10) == (Outcome.AGAIN, 2)
    assert change(f"SELECT shift > 86400 FROM {prefix}head") == [(True,)]


async def test_a_clock_that_was_set_back_ends_grace_once(postgres: PostgresServer, change: Any, prefix: str) -> None:
    schema = f"{prefix}clock"
    change(f"CREATE SCHEMA {schema}")
    change(f"CREATE TABLE {schema}.moved AS SELECT interval '0' AS by")
    change(
        f"CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql "
        f"AS 'SELECT pg_catalog.clock_timestamp() + by FROM {schema}.moved'"
    )
    # The store finds this clock before that of the server.
    settings = {"server_settings": {"search_path": f"{schema}, pg_catalog"}}
    engine = create_async_engine(postgres.url("asyncpg"), connect_args=settings)
    store = SQLStore(engine, prefix=prefix)
    await store.create_tables()
    await opened(store, "s1")
    await opened(store, "s2", "bob")
    await store.read("s1", REALM)
    change(f"UPDATE {schema}.moved SET by = interval '-1 hour'")
    assert await rotated_by(store, 1, "s1", grace=10) == (Outcome.NEXT, 2)
    assert await rotated_by(store, 1, "s2", grace=10) == (Outcome.NEXT, 2)
    # A parallel tab is no thief, although other sessions were used before the clock was set back.
    assert await rotated_by(store, 1, "s1", grace=10) == (Outcome.AGAIN, 2)
    await store.read("s1", REALM)
    change(f"UPDATE {schema}.moved SET by = interval '-2 hours'")
    await opened(store, "s3")
    assert await rotated_by(store, 1, "s3", grace=10) == (Outcome.AGAIN, 1)
    await store.aclose()
    await engine.dispose()


async def test_what_is_over_goes_away_in_small_steps(
    store: SQLStore, change: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for id in "abc":
        await opened(store, id)
    await store.revoke(revocation_request("kept", claim="jti"))
    old = f"expires_at - {SESSION_RETENTION} - 2 * 86400"
    columns = (
        "layout, realm, owner, generation, is_used, opened_at, rotated_at, used_at, ends_at, access_until, attempt"
    )
    change(
        f"INSERT INTO {prefix}sessions (id, {columns}, expires_at, over_day, granted) SELECT 'old' || n, {columns}, "
        f"{old}, ({old}) / 86400, granted FROM {prefix}sessions, generate_series(1, {SWEEP + 50}) n WHERE id = 'a'"
    )
    change(
        f"INSERT INTO {prefix}revocations SELECT sha256(n::text::bytea), -n, '', '[\"jwt\", null]', 'jti', n::text, 1 "
        f"FROM generate_series(1, {SWEEP + 50}) n"
    )
    counts = f"SELECT (SELECT count(*) FROM {prefix}sessions), (SELECT count(*) FROM {prefix}revocations)"
    # A sweep is due every ten seconds, and at once after one that left something.
    later = time.monotonic()
    monkeypatch.setattr("jwt_middleware.issuing.stores.sql.monotonic", lambda: later + 20)
    await store.revocations("", 9)
    await until(lambda: change(counts) == [(3 + 50, 1 + 50)])
    await store.revocations("", 9)
    await until(lambda: change(counts) == [(3, 1)])
    assert {session.id for session in await store.sessions("ada", REALM)} == set("abc")


async def test_sessions_of_a_refresh_stay_on_their_pages(store: SQLStore, change: Any, prefix: str) -> None:
    """An update that changes no indexed column writes no index (HOT), and its old row goes with the next visit."""
    for number in range(40):
        await opened(store, f"s{number}")
    for generation in range(1, 6):
        for number in range(40):
            await rotated_by(store, generation, f"s{number}", grace=0)
    await store.aclose()

    def updates() -> Any:
        return change(f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{prefix}sessions'")[0]

    await until(lambda: updates()[0] == 200)
    assert updates()[1] > 150


# Transactions


async def test_a_revocation_that_was_told_is_found_by_every_later_read(store: SQLStore) -> None:
    told: list[str] = []
    missing: list[str] = []
    position = ""
    read: set[str] = set()

    async def write(writer: int) -> None:
        for number in range(20):
            value = f"{writer}.{number}"
            await store.revoke(revocation_request(value, claim="jti"))
            told.append(value)

    async def follow() -> None:
        nonlocal position
        while True:
            before = list(told)
            page = await store.revocations(position, 2000)
            position = page.position
            read.update(one.value for one in page.revocations)
            missing.extend(value for value in before if value not in read)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as together:
        together.start_soon(follow)
        async with anyio.create_task_group() as writers:
            for writer in range(6):
                writers.start_soon(write, writer)
        together.cancel_scope.cancel()
    assert len(told) == 120
    assert missing == []


async def test_a_log_that_lost_its_last_writes_is_read_from_its_beginning(
    store: SQLStore, change: Any, prefix: str
) -> None:
    """As after a failover to a replica that was behind."""
    kept = [await store.revoke(revocation_request(f"{n}", claim="jti")) for n in range(2)]
    change(f"CREATE TABLE {prefix}old AS SELECT * FROM {prefix}head")
    for value in ("lost", "lost too"):
        await store.revoke(revocation_request(value, claim="jti"))
    position = (await store.revocations("", 9)).position
    change(
        f"DELETE FROM {prefix}revocations WHERE value LIKE 'lost%'; DELETE FROM {prefix}head; "
        f"INSERT INTO {prefix}head SELECT * FROM {prefix}old"
    )
    assert list((await store.revocations(position, 9)).revocations) == kept
    # The numbers come again, with other marks.
    written = [await store.revoke(revocation_request(f"new {n}", claim="jti")) for n in range(3)]
    assert list((await store.revocations(position, 9)).revocations) == kept + written


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_steps_are_read_committed_whatever_the_role_is_set_to(
    postgres: PostgresServer, prefix: str, change: Any, level: str, driver: str
) -> None:
    role = f"role{token_hex(4)}"
    change(f"CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET default_transaction_isolation = '{level}'")
    change(f"GRANT CREATE, USAGE ON SCHEMA public TO {role}")
    store = SQLStore(postgres.url(driver).replace(USER, role), prefix=prefix)
    await store.create_tables()
    await opened(store)
    answers: list[tuple[Outcome, int | None]] = []

    async def refresh() -> None:
        answers.append(await rotated_by(store, 1, grace=60))

    # It was opened an hour ago.
    change(f"UPDATE {prefix}sessions SET rotated_at = rotated_at - 3600")
    async with anyio.create_task_group() as together:
        for _ in range(10):
            together.start_soon(refresh)
    assert sorted(answer.value for answer, _ in answers) == ["again"] * 9 + ["next"]
    assert {generation for _, generation in answers} == {2}
    await store.aclose()


def rolled_back(postgres: PostgresServer, reason: str) -> int:
    """How many statements the server has rolled back for ``reason``, according to its log."""
    return (postgres.data.parent / f"postgres-{postgres.port}.log").read_text().count(f"ERROR:  {reason}")


@pytest.fixture
def role(change: Any) -> str:
    """The name of a new superuser."""
    name = f"role{token_hex(4)}"
    change(f"CREATE ROLE {name} LOGIN SUPERUSER")
    return name


@asynccontextmanager
async def connected_as(role: str, postgres: PostgresServer, prefix: str, driver: str) -> AsyncIterator[SQLStore]:
    store = SQLStore(postgres.url(driver).replace(USER, role), prefix=prefix)
    await store.create_tables()
    yield store
    await store.aclose()


def in_the_way(admin: Any, waiting: str) -> list[int]:
    """The processes of the server that hold a lock for which a session waits; ``waiting`` is a condition on it."""
    query = f"SELECT unnest(pg_blocking_pids(pid)) FROM pg_stat_activity WHERE {waiting}"
    return [pid for (pid,) in admin.execute(query).fetchall()]


@pytest.mark.parametrize("deadlocks", [1, MOST_TRIES])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_step_that_the_server_rolls_back_to_break_a_deadlock_is_done_again_so_many_times(
    postgres: PostgresServer, prefix: str, role: str, change: Any, driver: str, deadlocks: int
) -> None:
    """A migration of the app may lock our rows in another order."""
    before = rolled_back(postgres, "deadlock detected")
    # Whoever has waited for so long looks for a deadlock, once. So it is the step that the server rolls back.
    change(f"ALTER ROLE {role} SET deadlock_timeout = '50ms'")
    ended: list[Any] = []
    async with connected_as(role, postgres, prefix, driver) as store:

        async def end() -> None:
            try:
                ended.extend(one.value for one in await store.revoke_subject("ada", REALM))
            except StoreUnavailable as error:
                ended.append(str(error))

        def lock(other: Any, id: str) -> None:
            other.execute("SET deadlock_timeout = '60s'; BEGIN")
            other.execute(f"SELECT FROM {prefix}sessions WHERE id = '{id}' FOR SHARE")

        for id in "abc":
            await opened(store, id)
        with postgres.connect() as admin, postgres.connect() as gate, ExitStack() as stack:
            others = [stack.enter_context(postgres.connect()) for _ in range(deadlocks)]
            lock(gate, "b")
            lock(others[0], "c")
            async with anyio.create_task_group() as together:
                together.start_soon(end)
                for other, following in zip_longest(others, others[1:]):
                    # The step has a, and waits for b. The other transaction has c, and waits for a.
                    await until(lambda: ended or in_the_way(admin, f"usename = '{role}'") == [gate.info.backend_pid])
                    if ended:
                        # The step locked a again before the other transaction got it. That makes one more deadlock.
                        break
                    async with anyio.create_task_group() as waiting:
                        wanted = f"SELECT FROM {prefix}sessions WHERE id = 'a' FOR SHARE"
                        waiting.start_soon(to_thread.run_sync, other.execute, wanted)
                        await until(partial(in_the_way, admin, f"pid = {other.info.backend_pid}"))
                        # Now the step gets b, and waits for c.
                        gate.execute("ROLLBACK")
                    # The step has let go of a.
                    if following is not None:
                        lock(gate, "b")
                        lock(following, "c")
                    other.execute("ROLLBACK")
        seen = rolled_back(postgres, "deadlock detected") - before
        if deadlocks < MOST_TRIES:
            assert deadlocks <= seen < MOST_TRIES
            assert sorted(ended) == ["a", "b", "c"]
        else:
            assert seen == MOST_TRIES
            assert ended == ["40P01: other transactions were in the way again and again"]
            assert len(await store.sessions("ada", REALM)) == 3


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_step_that_the_server_cannot_serialize_is_done_again_as_read_committed(
    postgres: PostgresServer, prefix: str, role: str, change: Any, driver: str
) -> None:
    """The role is set to another isolation level while the app runs; new connections have it."""
    before = rolled_back(postgres, "could not serialize access")
    answers: list[tuple[Outcome, int | None]] = []
    async with connected_as(role, postgres, prefix, driver) as store:

        async def refresh(generation: int) -> None:
            answers.append(await rotated_by(store, generation, grace=0))

        await opened(store)
        change(f"ALTER ROLE {role} SET default_transaction_isolation = 'serializable'")
        change(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
        with postgres.connect() as admin, postgres.connect() as other:
            for generation in (1, 2):
                other.execute("BEGIN")
                other.execute(f"UPDATE {prefix}sessions SET is_used = is_used")
                async with anyio.create_task_group() as together:
                    together.start_soon(refresh, generation)
                    await until(lambda: in_the_way(admin, f"usename = '{role}'") == [other.info.backend_pid])
                    other.execute("COMMIT")
        assert answers == [(Outcome.NEXT, 2), (Outcome.NEXT, 3)]
        # The second time, the step is read committed from its start.
        assert rolled_back(postgres, "could not serialize access") == before + 1


async def test_a_subject_that_logs_in_many_times_at_once_has_no_more_sessions_than_it_may(store: SQLStore) -> None:
    async def log_in(number: int) -> None:
        # They take turns, which may take too long on a busy machine.
        with suppress(StoreUnavailable):
            await store.open(opening(f"s{number}"), max_sessions=3)

    async with anyio.create_task_group() as together:
        for number in range(8):
            together.start_soon(log_in, number)
    assert len(await store.sessions("ada", REALM)) == 3


async def test_a_step_that_waited_for_a_lock_too_long_is_not_done_later(
    store: SQLStore, postgres: PostgresServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await opened(store)
    _, now = await store.read("s", REALM)
    monkeypatch.setattr(sql_connections, "STEP_SECONDS", 0.9)
    with postgres.connect() as other:
        other.execute("BEGIN")
        other.execute(f"SELECT FROM {prefix}sessions WHERE id = 's' FOR UPDATE")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await rotated_by(store, 1, grace=0, deadline=now + 0.8)
        assert time.monotonic() - began < 1.5
        other.execute("ROLLBACK")
    monkeypatch.setattr(sql_connections, "STEP_SECONDS", 20)
    await anyio.sleep(0.1)
    assert (await store.read("s", REALM))[0] == session


# Tables


async def test_many_stores_may_make_the_tables_at_once(postgres: PostgresServer, prefix: str) -> None:
    stores = [SQLStore(postgres.url(driver), prefix=prefix) for driver in ("asyncpg", "psycopg") * 2]
    async with anyio.create_task_group() as together:
        for store in stores:
            together.start_soon(store.create_tables)
    for store in stores:
        await store.read("s", REALM)
        await store.aclose()


async def test_tables_that_a_migration_made_are_used(postgres: PostgresServer, change: Any) -> None:
    schema = f"schema{token_hex(4)}"
    change(f"CREATE SCHEMA {schema}")
    store = SQLStore(postgres.url("psycopg"), schema=schema, prefix="auth_")
    engine = sqlalchemy.create_engine(postgres.url("psycopg"))
    store.metadata.create_all(engine)
    engine.dispose()
    await opened(store)
    assert change(f"SELECT id FROM {schema}.auth_sessions") == [("s",)]
    assert await rotated_by(store, 1, grace=0) == (Outcome.NEXT, 2)
    await store.aclose()


def test_the_tables_are_known_without_a_store() -> None:
    assert set(SQLStore.metadata.tables) == {"jwt_sessions", "jwt_revocations", "jwt_head"}
    store = SQLStore("postgresql+asyncpg://host/database", schema="auth", prefix="x_")
    assert set(store.metadata.tables) == {"auth.x_sessions", "auth.x_revocations", "auth.x_head"}


async def test_tables_of_a_later_layout_are_used_if_they_only_have_more(
    store: SQLStore, postgres: PostgresServer, change: Any, prefix: str
) -> None:
    """As during a deploy: the tables are migrated, and workers of the version before still run."""
    await opened(store)
    change(
        f"ALTER TABLE {prefix}sessions ADD COLUMN flavour text NOT NULL DEFAULT ''; "
        f"ALTER TABLE {prefix}head ADD COLUMN note text; UPDATE {prefix}head SET layout = 2, oldest = 1"
    )
    old = SQLStore(postgres.url("psycopg"), prefix=prefix)
    await old.create_tables()
    for worker in (store, old):
        await opened(worker, f"s{id(worker)}")
        await worker.revoke(revocation_request(f"s{id(worker)}"))
    assert await rotated_by(old, 1, grace=0) == (Outcome.NEXT, 2)
    assert await rotated_by(store, 2, grace=0) == (Outcome.NEXT, 3)
    assert len((await store.revocations("", 9)).revocations) == 2
    await old.aclose()


async def test_tables_of_a_layout_that_is_too_late_are_refused(
    store: SQLStore, postgres: PostgresServer, change: Any, prefix: str
) -> None:
    await opened(store)
    change(f"UPDATE {prefix}head SET layout = 3, oldest = 2")
    old = SQLStore(postgres.url("asyncpg"), prefix=prefix)
    # A worker that is running finds out with the next poll of the log.
    await store.revocations("", 9)
    for step in (
        old.create_tables,
        partial(old.read, "s", REALM),
        partial(rotated_by, store, 1),
        partial(store.revocations, "", 9),
    ):
        with pytest.raises(
            StoreUnavailable, match="the tables have layout 3, which needs workers of layout 2 or later"
        ):
            await step()
    assert change(f"SELECT generation FROM {prefix}sessions") == [(1,)]
    change(f"UPDATE {prefix}head SET oldest = 1")
    assert await rotated_by(store, 1, grace=0) == (Outcome.NEXT, 2)
    await old.aclose()


@pytest.mark.parametrize("statement", ["DELETE FROM {0}head", "TRUNCATE {0}head, {0}sessions, {0}revocations"])
async def test_tables_that_were_emptied_while_a_worker_was_running_are_used_again(
    store: SQLStore, postgres: PostgresServer, change: Any, prefix: str, statement: str
) -> None:
    for id in "st":
        await opened(store, id)
    await store.revoke(revocation_request("before", claim="jti"))
    position = (await store.revocations("", 9)).position
    steps: dict[str, Any] = {
        "open": partial(opened, store, "u"),
        "rotate": partial(rotated_by, store, 1),
        "revoke": partial(store.revoke, revocation_request("s")),
        "revoke a token": partial(store.revoke, revocation_request("token", claim="jti")),
        "revoke a subject": partial(store.revoke_subject, "ada", REALM),
        "read the log": partial(store.revocations, position, 9),
    }
    count = f"SELECT count(*) FROM {prefix}sessions"
    for step in steps.values():
        change(statement.format(prefix))
        before = change(count)
        with pytest.raises(StoreUnavailable, match=f'the row of "{prefix}head" is missing; the next step makes it'):
            await step()
        assert change(count) == before
        # The row is made by the next step, whatever it is, and then nothing is missing.
        await step()
    written = await store.revoke(revocation_request("after", claim="jti"))
    assert (await store.revocations(position, 9)).revocations[-1] == written


# Errors say what to do, and nothing of a session


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_what_is_missing_at_the_server_is_named(
    postgres: PostgresServer, prefix: str, change: Any, driver: str
) -> None:
    store = SQLStore(postgres.url(driver), prefix=prefix)
    with pytest.raises(StoreUnavailable, match=r"call await store.create_tables\(\), or migrate"):
        await opened(store)
    await store.create_tables()
    # Without a new start.
    await opened(store)
    change(f"ALTER TABLE {prefix}sessions RENAME COLUMN attempt TO tries")
    with pytest.raises(StoreUnavailable, match="a column is missing"):
        await rotated_by(store, 1)
    await store.aclose()
    change(f"DO $$ BEGIN CREATE ROLE {STRICT} LOGIN PASSWORD 'right'; EXCEPTION WHEN OTHERS THEN NULL; END $$")
    for old, new, said in (
        ("/postgres", "/nowhere", "the server has no such database"),
        (USER, "somebody", "no such role"),
        (f"{USER}:", f"{STRICT}:wrong", "refuses the user name or password"),
        (f":{postgres.port}/", ":1/", "does not listen there"),
    ):
        store = SQLStore(postgres.url(driver).replace(old, new, 1), prefix=prefix)
        with pytest.raises(StoreUnavailable, match=said) as refused:
            await store.read("session-7", REALM)
        assert "session-7" not in f"{refused.value} {refused.value.__cause__!r}"
        assert PASSWORD not in f"{refused.value} {refused.value.__cause__!r}"
        await store.aclose()
    strict = postgres.url(driver).replace(f"{USER}:{PASSWORD.replace(' ', '%20')}", f"{STRICT}:right")
    store = SQLStore(strict, prefix=prefix)
    with pytest.raises(StoreUnavailable, match="the role lacks a privilege"):
        await store.read("s", REALM)
    await store.aclose()
    store = SQLStore(postgres.url(driver), schema="nowhere")
    with pytest.raises(StoreUnavailable, match="the schema is missing"):
        await store.create_tables()
    await store.aclose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_timeout_of_the_server_and_a_server_that_only_reads_are_named(
    postgres: PostgresServer, prefix: str, role: str, change: Any, driver: str
) -> None:
    store = SQLStore(postgres.url(driver).replace(USER, role), prefix=prefix)
    await store.create_tables()
    await store.aclose()
    change(f"ALTER ROLE {role} SET statement_timeout = 250")
    await opened(store)
    with postgres.connect() as other:
        other.execute("BEGIN")
        other.execute(f"SELECT FROM {prefix}sessions WHERE id = 's' FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="took longer than statement_timeout"):
            await rotated_by(store, 1)
        other.execute("ROLLBACK")
    assert await rotated_by(store, 1) == (Outcome.AGAIN, 1)
    await store.aclose()
    change(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    store = SQLStore(postgres.url(driver).replace(USER, role), prefix=prefix)
    with pytest.raises(StoreUnavailable, match="the server only reads, as a replica does"):
        await rotated_by(store, 1)
    # A service that verifies tokens needs no more.
    assert (await store.revocations("", 9)).revocations == ()
    await store.aclose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"engine": 5}, "engine must be an AsyncEngine or an address", id="a number"),
        pytest.param({"engine": PASSWORD}, "engine must be an AsyncEngine or an address", id="no address"),
        pytest.param({"engine": f"mysql+aiomysql://u:{PASSWORD}@h/d"}, "not of mysql", id="MySQL"),
        pytest.param({"engine": "sqlite+aiosqlite:///x.db"}, "there is SQLiteStore", id="SQLite"),
        pytest.param({"engine": f"postgresql+psycopg2://u:{PASSWORD}@h/d"}, "psycopg2", id="a driver that waits"),
        pytest.param({"engine": f"postgresql+pg8000://u:{PASSWORD}@h/d"}, "pg8000", id="another driver"),
        pytest.param({"engine": f"postgresql+asyncpgg://u:{PASSWORD}@h/d"}, "install asyncpg", id="no driver"),
        pytest.param({"engine": "postgresql+asyncpg://h/d?sslmode=require"}, "ssl= in the address", id="sslmode"),
        pytest.param({"prefix": ""}, "prefix must be 1 to 32 letters", id="no prefix"),
        pytest.param({"prefix": 'a"b'}, "prefix must be 1 to 32 letters", id="a quote"),
        pytest.param({"prefix": 5}, "prefix must be 1 to 32 letters", id="a number for a prefix"),
        pytest.param({"schema": 'a"b'}, "schema must be the name of a schema", id="a quote in a schema"),
        pytest.param({"schema": 5}, "schema must be the name of a schema", id="a number for a schema"),
    ],
)
def test_what_cannot_work_is_said_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        SQLStore(**{"engine": "postgresql+asyncpg://host/database", **arguments})
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("server", ["an address", "an engine"])
@pytest.mark.parametrize(("implementation", "version"), [("binary", "3.2"), ("c", "3.2"), ("python", "3.1")])
def test_a_psycopg_with_which_a_hanging_server_would_stop_the_whole_process_is_refused(
    monkeypatch: pytest.MonkeyPatch, server: str, implementation: str, version: str
) -> None:
    """libpq before 17 cancels a query only by waiting for the server."""
    address = "postgresql+psycopg://host/database"
    monkeypatch.setattr(psycopg.pq, "__impl__", implementation)
    monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: False)
    if version == "3.1":
        monkeypatch.delattr(psycopg, "capabilities")
    with pytest.raises(ConfigurationError, match=r"install psycopg\[binary\]>=3.2.3, or .* or use asyncpg"):
        SQLStore(address if server == "an address" else create_async_engine(address))


def test_a_psycopg_in_python_will_do_with_any_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits in a thread."""
    monkeypatch.setattr(psycopg.pq, "__impl__", "python")
    monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: False)
    SQLStore("postgresql+psycopg://host/database")


class Waiting(PGDialect):
    """A driver that waits in a thread of the event loop, as psycopg2 does."""

    driver = "waiting"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        return psycopg


def test_a_driver_that_waits_is_refused() -> None:
    sqlalchemy.dialects.registry.register("postgresql.waiting", __name__, "Waiting")
    with pytest.raises(ConfigurationError, match="the driver waiting is not asynchronous; use asyncpg or psycopg"):
        SQLStore("postgresql+waiting://host/database")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(OSError(113, "No route to host"), "OSError: No route to host", id="no route"),
        pytest.param(OSError("session-7"), "the connection to the server failed", id="no reason"),
        pytest.param(psycopg.OperationalError("FATAL: too many clients already"), "raise max_connections", id="full"),
        pytest.param(
            psycopg.OperationalError('connection to server at "database", port 5432 failed: Connection refused'),
            "the server does not listen there",
            id="a host called database",
        ),
        pytest.param(psycopg.errors.DiskFull("session-7"), "53100: the server lacks resources", id="a full disk"),
        pytest.param(psycopg.errors.CheckViolation("session-7"), "23514: the server refuses the statement", id="else"),
    ],
)
def test_an_error_says_what_it_means_and_nothing_of_a_session(error: Exception, said: str) -> None:
    assert said in explain(error)
    assert "session-7" not in explain(error)


def test_an_engine_that_waits_and_one_of_another_database_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"must be an AsyncEngine, from create_async_engine"):
        SQLStore(sqlalchemy.create_engine("postgresql+psycopg://host/database"))  # type: ignore[arg-type]  # not async
    with pytest.raises(ConfigurationError, match="not of sqlite; for SQLite there is SQLiteStore"):
        SQLStore(create_async_engine("sqlite+aiosqlite://"))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
async def test_an_address_as_hosting_providers_write_it_will_do(
    postgres: PostgresServer, prefix: str, scheme: str
) -> None:
    store = SQLStore(postgres.url("x").replace("postgresql+x", scheme) + "?sslmode=prefer", prefix=prefix)
    await store.create_tables()
    await opened(store)
    await store.aclose()


@pytest.mark.parametrize(
    ("package", "message"),
    [("sqlalchemy", r"install asgi-jwt-middleware\[sql\]"), ("asyncpg", r"install asyncpg or psycopg\[binary\]")],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str, message: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=message):
        SQLStore("postgresql+asyncpg://host/database")


def test_what_is_not_used_is_not_imported() -> None:
    run("-c", "import jwt_middleware.issuing, sys; assert 'sqlalchemy' not in sys.modules")


def test_the_repr_of_a_store_holds_no_address() -> None:
    store = SQLStore(f"postgresql+asyncpg://owner:{PASSWORD}@host/database", prefix="a_")
    assert repr(store) == "SQLStore(schema=None, prefix='a_')"
