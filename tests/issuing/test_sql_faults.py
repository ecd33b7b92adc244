"""What becomes of sessions when PostgreSQL, a connection or a process fails; all of it with real ones."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from starlette.middleware import Middleware

from jwt_middleware import JWTMiddleware, RevocationView
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.fastapi import auth_router
from jwt_middleware.issuing import Sessions, SQLStore, TokenIssuer
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.issuing.stores import sql, sql_connections
from jwt_middleware.issuing.stores.sql_connections import MOST_OPENING, MOST_READERS
from jwt_middleware.testing.store_contract import REALM, opening, revocation_request, rotation

from ..support import SECRET
from ..support.clients import bearer
from ..support.postgres import (
    USER,
    PostgresServer,
    binaries,
    folder,
    initialise,
    pg_bouncer,
    postgres_server,
    serving,
    unprivileged,
)
from ..support.processes import ROOT
from ..support.redis_server import free_port
from ..support.tcp_proxy import Proxy, tcp_proxy
from ..support.tokens import verified
from ..support.waiting import until
from .store_steps import timed

pytestmark = pytest.mark.anyio

DRIVERS = pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def prefix() -> str:
    return f"t{token_hex(4)}_"


@asynccontextmanager
async def made(url: Any, prefix: str) -> AsyncIterator[SQLStore]:
    """A store whose tables are there, and whose connection is open."""
    store = SQLStore(url, prefix=prefix)
    await store.create_tables()
    await patiently(partial(store.read, "s", REALM))
    yield store
    await store.aclose()


async def patiently(step: Callable[[], Awaitable[Any]]) -> Any:
    """What ``step`` returns, as soon as the server has time for it: machines that run tests are busy."""
    for _ in range(20):
        with suppress(StoreUnavailable):
            return await step()
    raise AssertionError("the store is not available")


# The app's own engine


def believe(username: str, password: str) -> str:
    return username


def app_of(sessions: Sessions) -> FastAPI:
    app = FastAPI(
        middleware=[
            Middleware(JWTMiddleware, providers=sessions.tokens.provider(), revocations=sessions, public=["/auth/*"]),
        ],
    )
    app.include_router(auth_router(sessions, authenticate=believe), prefix="/auth")

    @app.get("/me")
    async def me() -> str:
        return "me"

    return app


@DRIVERS
async def test_an_exhausted_pool_costs_logins_a_503_and_requests_nothing(
    postgres: PostgresServer, prefix: str, driver: str
) -> None:
    engine = create_async_engine(postgres.url(driver), pool_size=1, max_overflow=0)
    async with made(engine, prefix) as store, made(postgres.url(driver), prefix) as elsewhere:
        sessions = Sessions(store, TokenIssuer(SECRET, audience="orders"))
        transport = httpx.ASGITransport(app_of(sessions))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            form = {"username": "ada", "password": "x"}
            first, second = [(await client.post("/auth/login", data=form)).json() for _ in range(2)]
            assert (await client.get("/me", headers=bearer(first["access_token"]))).json() == "me"
            listed = await sessions.list("ada")
            async with engine.connect() as held:
                await held.execute(text("SELECT 1"))
                began = time.monotonic()
                login = client.post("/auth/login", data=form)
                refresh = client.post("/auth/refresh", data={"refresh_token": first["refresh_token"]})
                for answer in await asyncio.gather(login, refresh):
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert time.monotonic() - began < 1.5
                # What another process revokes is known here within a second, and nothing else waits.
                assert (await client.get("/me", headers=bearer(first["access_token"]))).json() == "me"
                await elsewhere.revoke(revocation_request(listed[0].id))
                await anyio.sleep(1)
                answers = [await client.get("/me", headers=bearer(one["access_token"])) for one in (first, second)]
                assert sorted(answer.status_code for answer in answers) == [200, 401]
            assert sessions.health().revocations_error is None
            again = await client.post("/auth/login", data=form)
            assert again.status_code == 200
            assert sessions.health().store_error is None
        await sessions.stop()
        # The app's engine is still the app's.
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    await engine.dispose()


@DRIVERS
async def test_an_engine_that_pools_nothing_will_do(postgres: PostgresServer, prefix: str, driver: str) -> None:
    engine = create_async_engine(postgres.url(driver), poolclass=NullPool)
    async with made(engine, prefix) as store:
        await store.open(opening("s"), max_sessions=9)
        with postgres.connect() as other:
            count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
            for _ in range(3):
                assert (await store.revocations("", 9)).revocations == ()
                # The reader's own connection, and no other as soon as the sweep is over.
                await until(lambda: other.execute(count, (f"%{prefix}%",)).fetchone() == (1,))


async def test_readers_of_a_slow_server_are_few_and_then_one(
    postgres: PostgresServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server keeps a connection that its reader has given up for as long as the lock is held.
    monkeypatch.setattr(sql, "READ_SECONDS", 20)
    async with made(postgres.url("asyncpg"), prefix) as store:
        with postgres.connect() as other, postgres.connect() as observer:
            pids = f"{other.info.backend_pid}, {observer.info.backend_pid}"
            query = f"query LIKE '%{prefix}revocations%' AND pid NOT IN ({pids})"

            def connections() -> Any:
                return observer.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {query}").fetchone()[0]

            other.execute("BEGIN")
            other.execute(f"LOCK TABLE {prefix}revocations")
            async with anyio.create_task_group() as together:
                for _ in range(9):
                    together.start_soon(patiently, partial(store.revocations, "", 9))
                await until(lambda: connections() >= MOST_READERS)
                await anyio.sleep(0.2)
                assert connections() == MOST_READERS
                other.execute("ROLLBACK")
            await until(lambda: connections() == 1)


# Answers that are lost


async def lose(proxy: Proxy, store: SQLStore) -> None:
    """Lose the answer to the next step, once all connections of the pool are good and nothing else is under way."""
    await anyio.sleep(0.05)
    for _ in range(3):
        await store.read("s", REALM)
    proxy.loses = True


@DRIVERS
async def test_a_step_that_was_done_is_not_done_again(postgres: PostgresServer, prefix: str, driver: str) -> None:
    async with tcp_proxy(postgres.port) as proxy, made(postgres.url(driver, port=proxy.port), prefix) as store:
        for id in "st":
            await store.open(opening(id), max_sessions=9)
        for generation in range(1, 12):
            if generation > 8:
                await lose(proxy, store)
            outcome, session = await store.rotate(rotation("s", generation, grace=0))
            assert not proxy.loses
            assert (outcome, session and session.generation) == (Outcome.NEXT, generation + 1)
        for step in (partial(store.read, "s", REALM), partial(store.sessions, "ada", REALM)):
            await lose(proxy, store)
            await step()
        await store.revocations("", 9)
        await lose(proxy, store)
        await store.revocations("", 9)
        await lose(proxy, store)
        assert (await store.rotate(rotation("s", 1, grace=0)))[0] is Outcome.THEFT
        await lose(proxy, store)
        assert (await store.revoke(revocation_request("t"))).value == "t"
        assert [one.value for one in (await store.revocations("", 9)).revocations] == ["s", "t"]


async def test_a_step_that_cannot_be_done_twice_is_given_up(postgres: PostgresServer, prefix: str) -> None:
    async with tcp_proxy(postgres.port) as proxy, made(postgres.url("psycopg", port=proxy.port), prefix) as store:
        await store.open(opening("s"), max_sessions=9)
        # The first statement of the step only asks whether the connection is there.
        proxy.spared = 1
        await lose(proxy, store)
        with pytest.raises(StoreUnavailable):
            await store.revoke_subject("ada", REALM)
        assert not proxy.loses
        assert await store.sessions("ada", REALM) == ()


@DRIVERS
async def test_every_step_survives_a_connection_that_died_in_the_pool(
    postgres: PostgresServer, prefix: str, driver: str
) -> None:
    """A firewall or the server ends connections that are idle."""
    role = f"role{token_hex(4)}"
    with postgres.connect() as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
    async with made(postgres.url(driver).replace(USER, role), prefix) as store:
        steps: tuple[Callable[[], Awaitable[Any]], ...] = (
            partial(store.open, opening("s"), max_sessions=9),
            partial(store.rotate, rotation("s", 1)),
            partial(store.sessions, "ada", REALM),
            partial(store.revocations, "", 9),
            partial(store.revoke, revocation_request("t", claim="jti")),
            partial(store.revoke_subject, "ada", REALM),
        )
        for step in steps:
            # Until all connections of the pool are good.
            for _ in range(3):
                async with anyio.create_task_group() as together:
                    for _ in range(3):
                        together.start_soon(patiently, partial(store.read, "s", REALM))
            with postgres.connect() as admin:
                admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
            await step()
        assert {one.value for one in (await store.revocations("", 9)).revocations} == {"s", "t"}


# Servers that are away


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresServer]:
    """A server that tests may stall."""
    with postgres_server() as running:
        yield running


@DRIVERS
async def test_no_request_waits_for_a_server_that_hangs_and_it_is_used_again_afterwards(
    own: PostgresServer, prefix: str, driver: str
) -> None:
    async with made(own.url(driver), prefix) as store:
        view = RevocationView(store)
        await view.catch_up()
        for id in "st":
            await store.open(opening(id), max_sessions=9)
        taken: list[float] = []
        with own.stalled():
            async with anyio.create_task_group() as together:
                for _ in range(20):
                    together.start_soon(timed, partial(store.rotate, rotation("s", 1, grace=0, deadline=0)), taken)
                    together.start_soon(timed, partial(store.read, "s", REALM), taken)
            assert max(taken) < 1.5
            began = time.monotonic()
            await view.catch_up()
            # A request waits a second at most, once; then it goes on with what is known.
            assert time.monotonic() - began < 1.5
        await until(lambda: view.error is None, 10)
        await anyio.sleep(0.5)
        outcome, session = await store.rotate(rotation("s", 1, grace=0))
        assert (outcome, session and session.generation) == (Outcome.NEXT, 2)
        await store.revoke(revocation_request("t"))
        await until(lambda: view.is_revoked(verified(session_id="t")), 5)
        await view.stop()


@DRIVERS
async def test_a_server_that_is_far_away_is_used_once_a_connection_is_open(
    postgres: PostgresServer, prefix: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To connect takes many round trips, and so longer than a step may take."""
    async with made(postgres.url(driver), prefix) as near, tcp_proxy(postgres.port) as proxy:
        await near.open(opening("s"), max_sessions=9)
        revoked = await near.revoke(revocation_request("t", claim="jti"))
        proxy.delay = 0.03
        monkeypatch.setattr(sql_connections, "STEP_SECONDS", 0.25)
        monkeypatch.setattr(sql, "READ_SECONDS", 0.25)
        store = SQLStore(postgres.url(driver, port=proxy.port), prefix=prefix)
        with pytest.raises(StoreUnavailable):
            await store.read("s", REALM)
        with pytest.raises(StoreUnavailable):
            await store.revocations("", 9)
        session, _ = await patiently(partial(store.read, "s", REALM))
        assert session is not None
        page = await patiently(partial(store.revocations, "", 9))
        assert page.revocations == (revoked,)
        await store.aclose()


async def test_steps_that_gave_up_do_not_gather_before_an_exhausted_pool(
    postgres: PostgresServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_async_engine(postgres.url("asyncpg"), pool_size=1, max_overflow=0)
    async with made(engine, prefix) as store:
        monkeypatch.setattr(sql_connections, "STEP_SECONDS", 0.1)
        before = len(asyncio.all_tasks())

        async def give_up() -> None:
            with pytest.raises(StoreUnavailable):
                await store.read("s", REALM)

        async with engine.connect():
            await asyncio.gather(*(give_up() for _ in range(30)))
            # Each of those that still open a connection has two tasks.
            await until(lambda: len(asyncio.all_tasks()) <= before + 2 * MOST_OPENING)
        await until(lambda: len(asyncio.all_tasks()) == before)
        await patiently(partial(store.read, "s", REALM))
    await engine.dispose()


async def test_closing_does_not_wait_for_a_server_that_hangs(own: PostgresServer, prefix: str) -> None:
    store = SQLStore(own.url("asyncpg"), prefix=prefix)
    await store.create_tables()
    await store.revocations("", 9)
    began = time.monotonic()
    with own.stalled():
        async with anyio.create_task_group() as together:
            taken: list[float] = []
            together.start_soon(timed, partial(store.revocations, "", 9), taken)
            await anyio.sleep(0.1)
            await store.aclose()
    assert time.monotonic() - began < 4


WRITER = """
import asyncio, sys
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import SQLStore
from jwt_middleware.issuing.rotation import Realm, RevocationRequest, Rotation

JWT = Realm("jwt")
TERMS = {"grace": 0.2, "idle_lifetime": 1000, "access_lifetime": 300, "deadline": 4e9}

async def write():
    store = SQLStore(sys.argv[1], prefix=sys.argv[2])
    generation = int(sys.argv[3])
    while True:
        try:
            outcome, session = await store.rotate(Rotation(id="s", realm=JWT, generation=generation, **TERMS))
            generation = session.generation
            print("rotated", outcome.value, generation, flush=True)
            value = f"{sys.argv[3]}.{generation}"
            revoked = await store.revoke(RevocationRequest(realm=JWT, claim="jti", value=value, lifetime=300))
            print("revoked", revoked.value, generation, flush=True)
            await asyncio.sleep(0.2 if outcome.value == "again" else 0)
        except StoreUnavailable:
            print("unavailable - -", flush=True)
            await asyncio.sleep(0.02)

asyncio.run(write())
"""


@contextmanager
def writing(url: str, prefix: str, generation: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        command = [sys.executable, "-c", WRITER, url, prefix, str(generation)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_nothing_that_was_answered_is_lost_when_writers_and_servers_are_killed(
    tmp_path: Path, prefix: str
) -> None:
    """Killed as by `kill -9`: the operating system goes on, so what was written to its files stays."""
    random = Random(18)
    server: PostgresServer | None = None
    log = tmp_path / "written"
    with folder() as place, ExitStack() as servers:
        initialise(place / "data")
        port = free_port()
        generation = 1
        answered: set[str] = set()
        for killed in ("writer", "server", "writer", "server", "writer"):
            if server is None:
                server = servers.enter_context(serving(place / "data", "synchronous_commit=on", port=port))
            async with made(server.url("asyncpg"), prefix) as store:
                await patiently(partial(store.open, opening("s"), max_sessions=9))
                session, _ = await patiently(partial(store.read, "s", REALM))
                # A rotation that got no answer may have been done.
                assert generation <= session.generation <= generation + 1
                page = await patiently(partial(store.revocations, "", 2000))
                assert answered <= {one.value for one in page.revocations}
                with writing(server.url("psycopg"), prefix, session.generation, log):
                    await until(lambda: log.read_text().count("revoked") > 1, 20)
                    await anyio.sleep(random.random() / 5)
                    if killed == "server":
                        server.kill()
                        server = None
                        await anyio.sleep(0.1)
                written = log.read_text()
                assert "Traceback" not in written
                lines = [line.split() for line in written.splitlines(keepends=True) if line.endswith("\n")]
                assert not {line[1] for line in lines} & {"theft", "gone", "ahead"}
                generation = max(int(line[2]) for line in lines if line[0] == "rotated")
                answered |= {line[1] for line in lines if line[0] == "revoked"}
        assert len(answered) >= 5


async def test_a_failover_that_loses_writes_is_noticed(prefix: str) -> None:
    """The replica is behind when the primary dies. The app's address then leads to the replica."""
    with folder() as place:
        initialise(place / "data")
        with serving(place / "data") as primary:
            async with (
                tcp_proxy(primary.port) as link,
                tcp_proxy(primary.port) as proxy,
                made(primary.url("asyncpg", port=proxy.port), prefix) as store,
            ):
                copied = ("-D", str(place / "copy"), "--checkpoint=fast", "--no-sync", "-R", "-X", "stream")
                source = ("-h", "127.0.0.1", "-p", str(link.port), "-U", USER)
                await anyio.run_process(unprivileged(str(binaries() / "pg_basebackup"), *copied, *source), cwd="/")
                with serving(place / "copy") as replica:
                    view = RevocationView(store)
                    await patiently(partial(store.open, opening("s"), max_sessions=9))
                    await store.rotate(rotation("s", 1, grace=0))
                    await store.revoke(revocation_request("kept", claim="jti"))
                    await until(partial(_has, replica, f"SELECT FROM {prefix}revocations"), 10)
                    # From here on, nothing reaches the replica.
                    link.target = 1
                    link.cut()
                    await store.rotate(rotation("s", 2, grace=0))
                    for value in ("lost", "lost too"):
                        await store.revoke(revocation_request(value, claim="jti"))
                    await view.catch_up()
                    await until(lambda: view.is_revoked(verified(id="lost too")))
                    primary.kill()
                    with replica.connect() as admin:
                        admin.execute("SELECT pg_promote()")
                    proxy.target = replica.port
                    proxy.cut()
                    # Whose numbers the lost ones had.
                    for value in ("new", "newer", "newest"):
                        await patiently(partial(store.revoke, revocation_request(value, claim="jti")))
                    await until(lambda: view.is_revoked(verified(id="newest")))
                    assert all(view.is_revoked(verified(id=id)) for id in ("kept", "lost", "lost too", "new", "newer"))
                    outcome, session = await store.rotate(rotation("s", 3, grace=0))
                    assert (outcome, session and session.generation) == (Outcome.AHEAD, 4)
                    await view.stop()


def _has(server: PostgresServer, query: str) -> bool:
    with server.connect() as admin, suppress(Exception):
        return bool(admin.execute(query).fetchall())
    return False


# Several processes


REFRESHER = """
import asyncio, json, sys
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import SQLStore
from jwt_middleware.issuing.rotation import Realm, Rotation

JWT = Realm("jwt")
TERMS = {"grace": 60, "idle_lifetime": 1000, "access_lifetime": 300, "deadline": 4e9}

refused = 0

async def ask(step):
    # As a client does that gets a 503.
    global refused
    while True:
        try:
            return await step()
        except StoreUnavailable:
            refused += 1

async def refresh():
    store = SQLStore(sys.argv[1], prefix=sys.argv[2])
    await asyncio.gather(*(ask(lambda: store.read("s", JWT)) for _ in range(8)))
    print("ready", flush=True)
    for line in sys.stdin:
        before = refused
        present = lambda: store.rotate(Rotation(id=line.strip(), realm=JWT, generation=1, **TERMS))
        answers = await asyncio.gather(*(ask(present) for _ in range(32)))
        found = [[outcome.value, session.generation] for outcome, session in answers]
        print(json.dumps([found, refused - before]), flush=True)
    await store.aclose()

asyncio.run(refresh())
"""


def start(command: list[str]) -> Any:
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@DRIVERS
async def test_a_token_that_64_requests_of_two_processes_present_has_one_successor(
    postgres: PostgresServer, prefix: str, driver: str
) -> None:
    async with made(postgres.url(driver), prefix) as store:
        rounds = [f"s{number}" for number in range(5)]
        for id in rounds:
            await patiently(partial(store.open, opening(id), max_sessions=9))
        with postgres.connect() as admin:
            # They were opened an hour ago.
            admin.execute(f"UPDATE {prefix}sessions SET rotated_at = rotated_at - 3600")
        command = [sys.executable, "-c", REFRESHER, postgres.url(driver), prefix]
        processes = [start(command) for _ in range(2)]
        try:
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            for id in rounds:
                for process in processes:
                    process.stdin.write(f"{id}\n")
                    process.stdin.flush()
                told = [json.loads(process.stdout.readline()) for process in processes]
                answers = sorted(answer for found, _ in told for answer in found)
                assert answers[:63] == [["again", 2]] * 63
                # A step that took too long may have been the first one. Then no client got its answer.
                was_refused = any(refused for _, refused in told)
                assert answers[63] == ["next", 2] or (was_refused and answers[63] == ["again", 2])
        finally:
            for process in processes:
                process.stdin.close()
                process.kill()
                process.wait()
                process.stdout.close()


# PgBouncer in transaction mode


@pytest.mark.parametrize(
    "kind", ["asyncpg as documented", "psycopg as documented", "asyncpg by address", "asyncpg, half"]
)
async def test_behind_a_pooler_each_transaction_may_have_another_connection(
    postgres: PostgresServer, bouncer: int, prefix: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long the two connections of the pooler take is not the question here.
    monkeypatch.setattr(sql_connections, "STEP_SECONDS", 20)
    arguments: dict[str, Any] = {"prepare_threshold": None}
    url = postgres.url(kind.split()[0].strip(","), port=bouncer)
    if "asyncpg" in kind:
        arguments = {"statement_cache_size": 0, "prepared_statement_name_func": lambda: f"__{token_hex(8)}__"}
        # Without it, our first steps find out.
        url += "" if "half" in kind else "?prepared_statement_cache_size=0"
    server = url if "address" in kind else create_async_engine(url, poolclass=NullPool, connect_args=arguments)
    async with made(server, prefix) as store:

        async def use(id: str) -> None:
            await store.open(opening(id, id), max_sessions=9)
            for generation in range(1, 6):
                outcome, session = await store.rotate(rotation(id, generation, grace=0))
                assert (outcome, session and session.generation) == (Outcome.NEXT, generation + 1)
                await store.revocations("", 9)
            assert len(await store.revoke_subject(id, REALM)) == 1

        async with anyio.create_task_group() as together:
            for id in "abcd":
                together.start_soon(use, id)
        assert len((await store.revocations("", 9)).revocations) == 4


@pytest.fixture(scope="module")
def bouncer(postgres: PostgresServer) -> Iterator[int]:
    with pg_bouncer(postgres) as port:
        yield port


# Event loops


@pytest.mark.parametrize("server", ["an address", "an engine"])
def test_one_loop_per_job_works_and_leaves_no_connection_behind(
    postgres: PostgresServer, prefix: str, server: str
) -> None:
    url = postgres.url("asyncpg")
    engine = create_async_engine(url) if server == "an engine" else None
    store = SQLStore(engine or url, prefix=prefix)
    sessions = Sessions(store, TokenIssuer(SECRET, audience="orders"))

    async def job(number: int) -> None:
        grant = await sessions.open(f"user {number}")
        await sessions.catch_up()
        await sessions.refresh(grant.refresh_token)

    async def set_up() -> None:
        await store.create_tables()
        if engine is not None:
            # The store leaves it open.
            await engine.dispose()

    asyncio.run(set_up())
    with postgres.connect() as admin:
        count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        before = admin.execute(count).fetchone()
        for number in range(6):
            asyncio.run(job(number))
        deadline = time.monotonic() + 5
        while admin.execute(count).fetchone() != before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert admin.execute(count).fetchone() == before


def test_on_trio_it_says_what_would_work() -> None:
    store = SQLStore("postgresql+asyncpg://127.0.0.1:1/database")
    with pytest.raises(RuntimeError, match="on trio there is SQLiteStore"):
        anyio.run(store.read, "s", REALM, backend="trio")
