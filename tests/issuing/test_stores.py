"""The contract of stores, kept by ours; what each has besides is in the tests of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import anyio
import pytest
import redis.asyncio
from redis._parsers import AsyncCommandsParser

from jwt_middleware.issuing import MemoryStore, RedisStore, SQLiteStore, SQLStore
from jwt_middleware.issuing.stores import sql_connections
from jwt_middleware.testing.store_contract import StoreContract

from ..support.clock import Clock
from ..support.postgres import PostgresServer
from ..support.redis_server import RedisServer, redis_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cluster of one: it, too, refuses a script whose keys are in several slots."""
    with redis_server(tmp_path_factory.mktemp("cluster"), "--cluster-enabled", "yes") as running:
        with redis.Redis(port=running.port) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            while "cluster_state:ok" not in str(client.execute_command("CLUSTER", "INFO")):
                pass
        yield running


@pytest.mark.virtual_time
class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(clock=anyio.current_time)


class TestSQLiteStore(StoreContract):
    clock = Clock()

    async def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SQLiteStore]:
        store = SQLiteStore(tmp_path / "sessions.db", clock=self.clock)
        yield store
        await store.aclose()


class InRedis(StoreContract):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"


class TestRedisStore(InRedis):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RedisStore]:
        store = RedisStore(server.url, prefix=token_hex(4))
        yield store
        await store.aclose()


class KnownCommands(AsyncCommandsParser):
    """Reads the list of all commands once, and not for every client: that takes half a second."""

    async def initialize(self, node: Any = None) -> None:
        if not self.commands:
            await super().initialize(node)
        self.node = node


COMMANDS = KnownCommands()


class TestRedisStoreOfAClientInACluster(InRedis):
    @pytest.fixture
    async def store(self, cluster: RedisServer) -> AsyncIterator[RedisStore]:
        def make_client() -> Any:
            client = redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster.port)
            client.commands_parser = COMMANDS
            return client

        store = RedisStore(make_client, prefix=token_hex(4))
        yield store
        await store.aclose()


class InPostgreSQL(StoreContract):
    driver: str

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SQLStore]:
        # The contract is about what steps do. How long one may take on a busy machine is tested elsewhere.
        monkeypatch.setattr(sql_connections, "STEP_SECONDS", 20)
        store = SQLStore(postgres.url(self.driver), prefix=f"t{token_hex(4)}_")
        await store.create_tables()
        yield store
        await store.aclose()


class TestSQLStoreWithAsyncpg(InPostgreSQL):
    driver = "asyncpg"


class TestSQLStoreWithPsycopg(InPostgreSQL):
    driver = "psycopg"
