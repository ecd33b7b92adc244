"""What Redis does to sessions, and they to it, beside the contract of stores; all of it with real servers."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio

from jwt_middleware import ConfigurationError, RevocationView, Token
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import RedisStore
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.issuing.session_store import SESSION_RETENTION
from jwt_middleware.issuing.stores.redis import MAX_CONNECTIONS
from jwt_middleware.revocation.revoked import RETENTION
from jwt_middleware.testing.store_contract import REALM, opening, revocation_request, rotation

from ..support.logs import logged
from ..support.processes import run
from ..support.redis_server import RedisServer, free_port, redis_server
from ..support.tokens import verified
from ..support.waiting import until
from .rotation_rule import check_rotations
from .store_steps import opened, rotated_by, timed

pytestmark = pytest.mark.anyio
PASSWORD = "the password of this redis"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    directory = tmp_path_factory.mktemp("redis")
    options = ("--unixsocket", str(directory / "redis.sock"), "--repl-diskless-sync-delay", "0")
    with redis_server(directory, *options) as running:
        yield running


@pytest.fixture
def admin(server: RedisServer) -> Iterator[Any]:
    with redis.Redis(port=server.port) as admin:
        yield admin


@pytest.fixture
def prefix() -> str:
    return token_hex(4)


@pytest.fixture
async def store(server: RedisServer, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, prefix=prefix)
    yield store
    await store.aclose()


@contextmanager
def setting(admin: Any, name: str, value: Any) -> Iterator[None]:
    before = admin.config_get(name)[name]
    admin.config_set(name, value)
    try:
        yield
    finally:
        admin.config_set(name, before)


def keys(admin: Any, prefix: str) -> list[str]:
    return sorted(key.decode() for key in admin.scan_iter(f"{{{prefix}}}*"))


def token_with(jti: str) -> Token:
    return verified(id=jti)


# The scripts


async def test_the_script_of_rotation_does_what_the_rule_says(store: RedisStore) -> None:
    """It is written twice, in two languages."""
    await check_rotations(store, 500)


async def test_a_session_in_the_layout_before_is_refreshed_listed_and_revoked(
    store: RedisStore, admin: Any, prefix: str
) -> None:
    now = int(time.time() * 1000)
    granted = json.dumps({"scopes": ["a"], "claims": {}, "device": ""})
    for id in ("old", "stale"):
        row = ["ada", 3, now - 9000, now - 9000, now - 9000, now + 90_000, now + 9000, now // 1000 + 60, granted]
        admin.set(f"{{{prefix}}}:session:{id}", json.dumps(row), px=60_000)
        admin.zadd(f"{{{prefix}}}:subject:ada", {id: now})
    entry = f'0123456789abcdef|{now + 9000}|["jwt","jti","token"]'
    admin.zadd(f"{{{prefix}}}:log", {entry: 1})
    admin.hset(f"{{{prefix}}}:head", mapping={"number": 1, "mark": "0123456789abcdef"})
    assert sorted(session.id for session in await store.sessions("ada", REALM)) == ["old", "stale"]
    assert await rotated_by(store, 3, "old", grace=0) == (Outcome.NEXT, 4)
    assert await rotated_by(store, 2, "stale", grace=0) == (Outcome.THEFT, 3)
    assert len(await store.revoke_subject("ada", REALM)) == 1
    revoked = (await store.revocations("", 9)).revocations
    assert [(one.claim, one.value, one.issuer) for one in revoked] == [
        ("jti", "token", None),
        ("sid", "stale", None),
        ("sid", "old", None),
    ]


async def test_what_is_over_leaves_no_key(store: RedisStore, admin: Any, prefix: str) -> None:
    brief = {
        "idle_lifetime": 0.3 - SESSION_RETENTION,
        "session_lifetime": 0.5 - SESSION_RETENTION,
        "access_lifetime": 0.5 - RETENTION,
    }
    for number in range(30):
        await opened(store, f"s{number}", f"user {number % 3}", **brief)
    assert keys(admin, prefix)
    await store.revoke(revocation_request("lost", lifetime=0.5 - RETENTION))
    await store.revoke(revocation_request("s1", lifetime=1 - RETENTION))
    await store.revoke(revocation_request("token", claim="jti", lifetime=0.5 - RETENTION))
    await store.open(opening("last", "user 0", **brief), max_sessions=2)
    await until(lambda: not keys(admin, prefix), 3)
    # Who had read to the end finds what comes then.
    written = await store.revoke(revocation_request("new", claim="jti"))
    assert list((await store.revocations("11.0123456789abcdef", 9)).revocations) == [written]


async def test_a_clock_that_jumps_ahead_by_a_day_deletes_nothing_that_is_needed(
    store: RedisStore, admin: Any, prefix: str
) -> None:
    await opened(store)
    await store.revoke(revocation_request("t", lifetime=1))
    day = 24 * 3600
    left = {key.partition(":")[2]: admin.ttl(key) for key in keys(admin, prefix)}
    assert set(left) == {
        "session:s",
        "subject:ada",
        "clock",
        "layout",
        "revoked:" + '["jwt",null,"sid","t"]',
        "head",
        "log",
        "ends",
    }
    assert all(seconds > day for seconds in left.values()), left


async def test_a_token_that_was_replaced_an_hour_ago_is_theft_where_the_clock_was_set_back(
    store: RedisStore, admin: Any, prefix: str
) -> None:
    """As if the server's clock had been read an hour from now, and had been set back then."""
    await opened(store)
    await rotated_by(store, 1, grace=0)
    admin.hset(f"{{{prefix}}}:clock", "seen", int((time.time() + 3600) * 1000))
    assert await rotated_by(store, 1, grace=10) == (Outcome.THEFT, 2)


class ClockClient(redis.asyncio.Redis):
    """A client for whose scripts the server's time is the key ``now``, in seconds."""

    def register_script(self, script: Any) -> Any:
        assert "redis.call('TIME')" in script
        return super().register_script(script.replace("redis.call('TIME')", "{redis.call('GET', KEYS[1] .. 'now'), 0}"))


async def test_a_clock_that_was_set_back_ends_grace_once(server: RedisServer, admin: Any, prefix: str) -> None:
    store, now = RedisStore(lambda: ClockClient(port=server.port), prefix=prefix), int(time.time())
    admin.set(f"{{{prefix}}}:now", now)
    await opened(store)
    await store.read("s", REALM)
    admin.set(f"{{{prefix}}}:now", now - 3600)
    assert await rotated_by(store, 1, grace=10) == (Outcome.NEXT, 2)
    # A parallel tab is no thief.
    assert await rotated_by(store, 1, grace=10) == (Outcome.AGAIN, 2)
    # Nor is one whose session was opened since then.
    await store.read("s", REALM)
    admin.set(f"{{{prefix}}}:now", now - 7200)
    await opened(store, "new")
    assert await rotated_by(store, 1, "new", grace=10) == (Outcome.AGAIN, 1)
    await store.aclose()


async def test_a_subject_takes_no_more_room_than_its_sessions(store: RedisStore, admin: Any, prefix: str) -> None:
    for number in range(60):
        await store.open(opening(f"s{number}", idle_lifetime=0.05), max_sessions=5)
        await store.open(opening(f"t{number}", "bob"), max_sessions=5)
    index = f"{{{prefix}}}:subject:"
    assert admin.zcard(f"{index}ada") <= 5
    assert admin.zcard(f"{index}bob") == 5
    assert len([key for key in keys(admin, prefix) if ":session:" in key]) <= 10


async def test_services_with_prefixes_of_their_own_do_not_meet(
    server: RedisServer, admin: Any, store: RedisStore
) -> None:
    prefix = token_hex(4)
    other = RedisStore(server.url, prefix=prefix)
    before = set(admin.scan_iter("*"))
    await opened(other)
    await other.revoke_subject("ada", REALM)
    await opened(other)
    assert {key for key in set(admin.scan_iter("*")) - before if not key.startswith(f"{{{prefix}}}:".encode())} == set()
    assert (await store.read("s", REALM))[0] is None
    assert await store.sessions("ada", REALM) == ()
    assert not (await store.revocations("", 9)).revocations
    assert list(await store.revoke_subject("ada", REALM)) == []
    assert (await other.read("s", REALM))[0] is not None
    await other.aclose()


# Whose server, and which client


async def test_a_policy_that_evicts_is_logged_once(
    server: RedisServer, admin: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with setting(admin, "maxmemory-policy", "allkeys-lru"):
        store = RedisStore(server.url, prefix=prefix)
        async with anyio.create_task_group() as together:
            for _ in range(20):
                together.start_soon(store.read, "s", REALM)
        await store.aclose()
    ((level, said),) = logged(caplog)
    assert level == logging.WARNING
    assert "its maxmemory-policy is allkeys-lru" in said
    assert said.endswith("set noeviction")


async def test_a_policy_that_could_not_be_asked_for_is_asked_for_again(
    server: RedisServer, admin: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(server.url, prefix=prefix)
    with setting(admin, "maxmemory-policy", "volatile-ttl"):
        with server.stalled(), pytest.raises(StoreUnavailable):
            await store.read("s", REALM)
        assert logged(caplog) == []
        await store.read("s", REALM)
    await store.aclose()
    assert "volatile-ttl" in logged(caplog)[0][1]


async def test_a_user_that_may_not_ask_for_the_policy_will_do(
    server: RedisServer, admin: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    admin.execute_command("ACL", "SETUSER", "limited", "on", f">{PASSWORD}", f"~{{{prefix}}}:*", "+@all", "-info")
    store = RedisStore(server.url.replace("//", f"//limited:{PASSWORD.replace(' ', '%20')}@"), prefix=prefix)
    await opened(store)
    assert await rotated_by(store, 1, grace=0) == (Outcome.NEXT, 2)
    await store.revoke_subject("ada", REALM)
    assert len((await store.revocations("", 9)).revocations) == 1
    await store.aclose()
    assert logged(caplog) == []
    elsewhere = RedisStore(server.url.replace("//", f"//limited:{PASSWORD.replace(' ', '%20')}@"), prefix="elsewhere")
    with pytest.raises(StoreUnavailable, match="NoPermission") as refused:
        await elsewhere.read("s", REALM)
    assert PASSWORD not in f"{refused.value} {refused.value.__cause__!r} {elsewhere!r}"
    await elsewhere.aclose()


async def test_a_wrong_password_is_not_told(server: RedisServer, prefix: str) -> None:
    store = RedisStore(server.url.replace("//", "//nobody:letmein@"), prefix=prefix)
    with pytest.raises(StoreUnavailable) as refused:
        await store.read("s", REALM)
    assert "letmein" not in f"{refused.value} {refused.value.__cause__!r} {store!r}"
    await store.aclose()


async def test_a_server_may_be_reached_by_a_unix_socket(server: RedisServer, admin: Any, prefix: str) -> None:
    path = admin.config_get("unixsocket")["unixsocket"]
    store = RedisStore(f"unix://{path}", prefix=prefix)
    await opened(store)
    assert keys(admin, prefix)
    await store.aclose()


@pytest.mark.parametrize("is_decoding", [False, True], ids=["that gives bytes", "that gives texts"])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_apps_own_client(server: RedisServer, prefix: str, is_decoding: bool, protocol: int) -> None:
    made: list[Any] = []

    def make_client() -> Any:
        made.append(redis.asyncio.Redis(port=server.port, decode_responses=is_decoding, protocol=protocol))
        return made[-1]

    store = RedisStore(make_client, prefix=prefix)
    session = await opened(store, "s", "ada é", claims={"é": [1]}, scopes=("a",))
    assert (await store.read("s", REALM))[0] == session
    assert await rotated_by(store, 1, grace=0) == (Outcome.NEXT, 2)
    assert [one.id for one in await store.sessions("ada é", REALM)] == ["s"]
    _, evicted = await store.open(opening("t", "ada é"), max_sessions=1)
    assert [revocation.value for revocation in evicted] == ["s"]
    page = await store.revocations("", 1)
    assert list(page.revocations) == list(evicted)
    assert not (await store.revocations(page.position, 9)).revocations
    assert len(made) == 1
    await store.aclose()
    # What is closed is made again.
    await store.read("s", REALM)
    assert len(made) == 2
    await store.aclose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"server": f"http://{PASSWORD}@host"}, "server must be an address", id="another scheme"),
        pytest.param({"server": "localhost:6379"}, "server must be an address", id="no scheme"),
        pytest.param({"server": 6379}, "server must be an address", id="a port"),
        pytest.param({"server": f"redis://:{PASSWORD}@host:port/0"}, "cannot be read", id="a word for a port"),
        pytest.param({"prefix": ""}, "prefix must be a text without braces", id="no prefix"),
        pytest.param({"prefix": "{a}"}, "prefix must be a text without braces", id="braces"),
        pytest.param({"prefix": 5}, "prefix must be a text without braces", id="a number for a prefix"),
        pytest.param({"wait_replicas": -1}, "wait_replicas must be a whole number", id="fewer than no replicas"),
        pytest.param({"wait_replicas": True}, "wait_replicas must be a whole number", id="yes for a number"),
    ],
)
def test_what_cannot_work_is_said_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        RedisStore(**{"server": "redis://127.0.0.1:6379/0", **arguments})
    assert PASSWORD not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"install asgi-jwt-middleware\[redis\]"):
        RedisStore("redis://127.0.0.1:6379/0")


def test_the_repr_of_a_store_holds_no_address() -> None:
    assert repr(RedisStore(f"redis://:{PASSWORD}@host/0", prefix="a")) == "RedisStore(prefix='a')"


# Replicas


async def test_a_revocation_waits_for_replicas(server: RedisServer, prefix: str, tmp_path: Path) -> None:
    store = RedisStore(server.url, prefix=prefix, wait_replicas=1)
    for id in "abcd":
        await opened(store, id, f"user {id}")
    began = time.monotonic()
    for _ in range(2):
        # Written, and yet not where it must be: whoever asks again is told the same.
        with pytest.raises(StoreUnavailable, match="only 0 replicas of 1"):
            await store.revoke(revocation_request("a"))
    assert time.monotonic() - began < 2
    with redis_server(tmp_path, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        with redis.Redis(port=replica.port) as copy:
            await until(lambda: copy.info("replication")["master_link_status"] == "up", 10)
            assert (await store.revoke(revocation_request("a"))).value == "a"
            await store.revoke_subject("user b", REALM)
            assert copy.zcard(f"{{{prefix}}}:log") == 2
        with replica.stalled():
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="only 0 replicas of 1"):
                    await store.revoke(revocation_request("c"))
        assert (await store.revoke(revocation_request("c"))).value == "c"
        # What need not be there is not waited for.
        with replica.stalled():
            await rotated_by(store, 1, "d")
    await store.aclose()


async def test_a_server_that_only_reads_changes_nothing(store: RedisStore, admin: Any) -> None:
    await opened(store)
    admin.replicaof("127.0.0.1", free_port())
    try:
        for step in (
            lambda: store.rotate(rotation("s", 1, grace=0)),
            lambda: store.revoke(revocation_request("s")),
            lambda: opened(store, "t"),
        ):
            with pytest.raises(StoreUnavailable, match="ReadOnly"):
                await step()
    finally:
        admin.replicaof("NO", "ONE")
    assert await rotated_by(store, 1, grace=0) == (Outcome.NEXT, 2)
    assert list((await store.revocations("", 9)).revocations) == []


async def test_a_server_without_memory_opens_nothing_and_still_ends_sessions(store: RedisStore, admin: Any) -> None:
    for id in "st":
        await opened(store, id)
    with setting(admin, "maxmemory", 1):
        with pytest.raises(StoreUnavailable, match="OutOfMemory"):
            await opened(store, "u")
        with pytest.raises(StoreUnavailable, match="OutOfMemory"):
            await rotated_by(store, 1, grace=0)
        assert (await store.read("s", REALM))[0] is not None
        revoked = await store.revoke(revocation_request("s"))
        assert await rotated_by(store, 0, "t", grace=0) == (Outcome.THEFT, 1)
        with pytest.raises(StoreUnavailable, match="OutOfMemory"):
            await store.revoke(revocation_request("token", claim="jti"))
    assert (await store.revocations("", 9)).revocations[0] == revoked
    assert [revocation.value for revocation in (await store.revocations("", 9)).revocations] == ["s", "t"]
    assert await store.sessions("ada", REALM) == ()


# Faults


async def test_sessions_of_a_server_that_lost_its_keys_are_gone(store: RedisStore, admin: Any, prefix: str) -> None:
    await opened(store)
    view = RevocationView(store)
    await store.revoke(revocation_request("token", claim="jti"))
    await view.catch_up()
    position = (await store.revocations("", 9)).position
    admin.delete(*keys(admin, prefix))
    assert await store.rotate(rotation("s", 1)) == (Outcome.GONE, None)
    assert not (await store.revocations(position, 9)).revocations
    after = [await store.revoke(revocation_request(f"token {number}", claim="jti")) for number in range(3)]
    # The number that was read is there again, with another entry.
    assert list((await store.revocations(position, 9)).revocations) == after
    await until(lambda: all(view.is_revoked(token_with(one.value)) for one in after))
    assert view.is_revoked(token_with("token"))
    await view.stop()


async def test_a_server_that_was_put_back_passes_the_generations_that_it_lost(
    store: RedisStore, admin: Any, prefix: str
) -> None:
    await opened(store)
    await rotated_by(store, 1, grace=0)
    before = {key: admin.dump(key) for key in keys(admin, prefix)}
    for generation in (2, 3, 4):
        await rotated_by(store, generation, grace=0)
    for key, dump in before.items():
        admin.restore(key, 60_000, dump, replace=True)
    assert await rotated_by(store, 5) == (Outcome.AHEAD, 6)
    # Another tab still has the one before.
    assert await rotated_by(store, 5) == (Outcome.AGAIN, 6)
    assert await rotated_by(store, 6, grace=0) == (Outcome.NEXT, 7)


async def test_no_request_waits_for_a_server_that_stalls_and_it_is_used_again_afterwards(
    store: RedisStore, server: RedisServer, admin: Any
) -> None:
    for number in range(100):
        await opened(store, f"s{number}", f"user {number}")
    taken: list[float] = []
    with server.stalled():
        async with anyio.create_task_group() as together:
            for number in range(100):
                together.start_soon(timed, partial(store.read, f"s{number}", REALM), taken)
    assert len(taken) == 100
    assert max(taken) < 5
    # No answer of then is taken for one of now.
    found: dict[int, str] = {}

    async def read(number: int) -> None:
        session, _ = await store.read(f"s{number}", REALM)
        assert session is not None
        found[number] = session.subject

    for first in (0, 50, 0):
        found.clear()
        async with anyio.create_task_group() as together:
            for number in range(first, first + 50):
                together.start_soon(read, number)
        assert found == {number: f"user {number}" for number in range(first, first + 50)}
    assert len(admin.client_list()) <= MAX_CONNECTIONS + 5


async def test_who_goes_away_leaves_no_answer_to_another(store: RedisStore) -> None:
    random = Random(4)
    for number in range(8):
        await opened(store, f"s{number}", f"user {number}")

    async def visit(number: int) -> None:
        for _ in range(40):
            with anyio.move_on_after(random.random() * 0.004):
                session, _ = await store.read(f"s{number}", REALM)
                assert session is not None
                assert session.subject == f"user {number}"

    async with anyio.create_task_group() as together:
        for number in range(8):
            together.start_soon(visit, number)
    assert len(await store.sessions("user 3", REALM)) == 1


async def test_a_flood_takes_no_more_connections_than_it_may(store: RedisStore, admin: Any) -> None:
    before = len(admin.client_list())
    most = 0
    await opened(store)

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(admin.client_list()) - before)
            await anyio.sleep(0.01)

    async def visit() -> None:
        # Who waits too long for a connection is told so.
        with suppress(StoreUnavailable):
            await store.read("s", REALM)

    async with anyio.create_task_group() as together:
        together.start_soon(watch)
        async with anyio.create_task_group() as flood:
            for _ in range(400):
                flood.start_soon(visit)
        together.cancel_scope.cancel()
    assert 8 < most <= MAX_CONNECTIONS


async def test_a_server_that_was_away_is_found_again(tmp_path: Path, prefix: str) -> None:
    port = free_port()
    store = RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix)
    with pytest.raises(StoreUnavailable):
        await store.read("s", REALM)
    for _ in range(2):
        with redis_server(tmp_path, port=port) as server:
            async with anyio.create_task_group() as together:
                for number in range(20):
                    together.start_soon(opened, store, f"s{number}")
            server.kill()
        taken: list[float] = []
        async with anyio.create_task_group() as together:
            for _ in range(20):
                together.start_soon(timed, partial(store.read, "s", REALM), taken)
        assert max(taken) < 5
    await store.aclose()


# Event loops and processes


def test_one_event_loop_after_the_other_and_several_at_once(server: RedisServer, prefix: str) -> None:
    store = RedisStore(server.url, prefix=prefix)

    async def use(id: str) -> None:
        await opened(store, id)
        for generation in range(1, 20):
            assert await rotated_by(store, generation, id, grace=0) == (Outcome.NEXT, generation + 1)
        await store.aclose()

    for id in "ab":
        asyncio.run(use(id))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(asyncio.run, map(use, "cdef"))) == [None] * 4


FORK = """
import asyncio, gc, os, sys
from jwt_middleware.issuing import RedisStore
from jwt_middleware.issuing.testing import REALM, opening, rotation

async def use(store, id):
    await store.open(opening(id), max_sessions=9)
    for generation in range(1, 30):
        outcome, session = await store.rotate(rotation(id, generation, grace=0))
        assert session.generation == generation + 1, outcome

store = RedisStore(sys.argv[1], prefix=sys.argv[2])
runner = asyncio.Runner()
runner.run(use(store, "before"))
child = os.fork()
if child == 0:
    asyncio.set_event_loop(None)
    with asyncio.Runner() as own:
        own.run(use(store, "child"))
        # What it collects must not take the parent's connections out of the selector that both share.
        gc.collect()
        own.run(store.aclose())
    os._exit(0)
runner.run(use(store, "parent"))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
runner.run(use(store, "after"))
runner.run(store.aclose())
runner.close()
"""


def test_a_forked_process_has_connections_of_its_own(server: RedisServer, prefix: str) -> None:
    run("-W", "error", "-c", FORK, server.url, prefix)


def test_on_trio_it_says_what_would_work() -> None:
    store = RedisStore("redis://127.0.0.1:1/0")
    with pytest.raises(RuntimeError, match="on trio there is SQLiteStore"):
        anyio.run(store.read, "s", REALM, backend="trio")
