"""Sessions live in Valkey, in a Redis that Sentinels fail over, and in a Redis Cluster of three nodes."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
from redis.crc import key_slot

from jwt_middleware import RevocationView
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import RedisStore
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.testing.store_contract import REALM, opening, revocation_request, rotation

from ..support.processes import need, program
from ..support.redis_server import RedisServer, free_port, redis_server
from ..support.tokens import verified
from ..support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def made(server: Any, **settings: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(server, **{"prefix": token_hex(4), **settings})
    yield store
    await store.aclose()


async def use(store: RedisStore) -> None:
    """Everything that a store does, once."""
    for id in "stu":
        await store.open(opening(id), max_sessions=9)
    for generation in (1, 2):
        outcome, session = await store.rotate(rotation("s", generation, grace=0))
        assert (outcome, session and session.generation) == (Outcome.NEXT, generation + 1)
    assert (await store.rotate(rotation("s", 1, grace=0)))[0] is Outcome.THEFT
    assert {session.id for session in await store.sessions("ada", REALM)} == {"t", "u"}
    _, evicted = await store.open(opening("v"), max_sessions=2)
    assert [one.value for one in evicted] == ["t"]
    await store.revoke(revocation_request("u"))
    assert [one.value for one in await store.revoke_subject("ada", REALM)] == ["v"]
    page = await store.revocations("", 9)
    assert [one.value for one in page.revocations] == ["s", "t", "u", "v"]
    assert list((await store.revocations(page.position, 9)).revocations) == []


# Valkey


async def test_sessions_live_in_valkey(tmp_path: Path) -> None:
    # Not every Debian has it: CI names a file.
    server = os.environ.get("VALKEY_SERVER", "valkey-server")
    need(server)
    port = free_port()
    settings = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path))
    with program(server, *settings, log=tmp_path / "log", ready=lambda log: "Ready to accept" in log):
        async with made(f"valkey://127.0.0.1:{port}/0") as store:
            await use(store)


# Sentinels


@contextmanager
def sentinel(folder: Path, primary: RedisServer) -> Iterator[int]:
    """A Sentinel that calls a server dead after a fifth of a second; its port."""
    port = free_port()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {folder}\nsentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 200\nsentinel failover-timeout main 2000\n"
    )
    command = ("redis-server", str(settings), "--sentinel")
    with program(*command, log=folder / "sentinel.log", ready=lambda log: "+monitor" in log):
        yield port


async def again(step: Callable[[], Any]) -> Any:
    """What ``step`` returns once there is a server again."""
    for _ in range(100):
        with suppress(StoreUnavailable):
            return await step()
        await anyio.sleep(0.05)
    raise AssertionError("no server")


async def test_sessions_survive_a_failover_by_sentinels(tmp_path: Path) -> None:
    need("redis-server")
    diskless = ("--repl-diskless-sync-delay", "0")
    with (
        redis_server(tmp_path, *diskless) as primary,
        redis_server(tmp_path, "--replicaof", "127.0.0.1", str(primary.port), *diskless) as replica,
    ):
        with redis.Redis(port=replica.port) as admin:
            await until(lambda: admin.info("replication")["master_link_status"] == "up", 10)
        with sentinel(tmp_path, primary) as port, redis.Redis(port=port, decode_responses=True) as admin:
            watchers: Any = partial(redis.asyncio.sentinel.Sentinel)([("127.0.0.1", port)])

            def make_client() -> Any:
                return watchers.master_for("main", socket_timeout=0.9)

            def masters() -> Any:
                return admin.execute_command("SENTINEL", "MASTERS")

            await until(
                lambda: "num-slaves" in str(masters()) and admin.execute_command("SENTINEL", "REPLICAS", "main")
            )
            async with made(make_client, wait_replicas=1) as store:
                view = RevocationView(store)
                await store.open(opening("s"), max_sessions=9)
                await store.rotate(rotation("s", 1, grace=0))
                # Told only once the replica has it, and with it all that was written before.
                await again(partial(store.revoke, revocation_request("token", claim="jti")))
                await view.catch_up()
                primary.kill()
                outcome, session = await again(partial(store.rotate, rotation("s", 2, grace=0)))
                assert (outcome, session.generation) == (Outcome.NEXT, 3)
                assert {one.value for one in (await store.revocations("", 9)).revocations} == {"token"}
                await until(lambda: view.error is None)
                assert view.is_revoked(verified(id="token"))
                await view.stop()
            for watcher in watchers.sentinels:
                await watcher.aclose()


# A cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The ports of three nodes that share the slots."""
    need("redis-server")
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            port = free_port()
            # A cluster's nodes speak to each other on another port, by default on one that may be beyond all ports.
            settings = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            folder = tmp_path_factory.mktemp(f"node{number}")
            nodes.append(stack.enter_context(redis_server(folder, *settings, port=port)))
        admins = [stack.enter_context(redis.Redis(port=node.port, decode_responses=True)) for node in nodes]
        for number, admin in enumerate(admins):
            admin.execute_command("CLUSTER ADDSLOTSRANGE", number * 5462, min(16383, number * 5462 + 5461))
        for number, node in enumerate(nodes[1:], 1):
            bus = admins[number].config_get("cluster-port")["cluster-port"]
            admins[0].execute_command("CLUSTER MEET", "127.0.0.1", node.port, bus)
        deadline = time.monotonic() + 20
        while not all("cluster_state:ok" in str(admin.execute_command("CLUSTER", "INFO")) for admin in admins):
            assert time.monotonic() < deadline, "the nodes have not found each other"
            time.sleep(0.02)
        yield [node.port for node in nodes]


async def test_sessions_live_in_a_cluster_of_three_nodes(cluster: list[int]) -> None:
    """Each prefix lies in one slot, and so on one node."""
    for number, port in enumerate(cluster):
        prefix = next(f"p{n}" for n in range(100) if key_slot(f"p{n}".encode()) // 5462 == number)
        # Any node leads to the right one.
        make_client = partial(redis.asyncio.RedisCluster, host="127.0.0.1", port=cluster[number - 1])
        async with made(make_client, prefix=prefix) as store:
            await use(store)
        with redis.Redis(port=port) as admin:
            assert admin.dbsize() > 0
