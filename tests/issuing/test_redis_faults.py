"""What an operator reads when Redis refuses, and what becomes of answers and connections that are lost."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import RedisStore, Sessions, TokenIssuer
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.issuing.stores.redis_errors import COMMANDS, explain
from jwt_middleware.testing.store_contract import REALM, opening, revocation_request, rotation

from ..support import SECRET
from ..support.processes import program
from ..support.redis_server import RedisServer, free_port, redis_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def admin(server: RedisServer) -> Iterator[Any]:
    with redis.Redis(port=server.port) as admin:
        yield admin


# Errors say what to do, and nothing of a session


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(redis.exceptions.MovedError("9 127.0.0.1:7001"), "RedisCluster(host=..., port=...)", id="MOVED"),
        pytest.param(redis.ResponseError("MOVED 9 127.0.0.1:7001"), "RedisCluster(host=..., port=...)", id="a text"),
        pytest.param(
            redis.ResponseError("unknown command 'EVALSHA', with args beginning with: 'session-7'"),
            "Sentinel([...]).master_for(name)",
            id="a Sentinel",
        ),
        pytest.param(redis.exceptions.NoPermissionError("this user may not 'session-7'"), COMMANDS, id="an ACL"),
        pytest.param(redis.ConnectionError("Connection closed by server."), "begins with rediss://", id="a TLS port"),
        pytest.param(redis.exceptions.InvalidResponse("Protocol Error: session-7"), "rediss://", id="its alert"),
        pytest.param(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version"), "TLS failed", id="a plain port"),
        pytest.param(redis.AuthenticationError("WRONGPASS"), "refuses the user name or password", id="a password"),
        pytest.param(redis.ResponseError("WRONGTYPE for session-7"), "WRONGTYPE", id="a code"),
        pytest.param(redis.ResponseError("user_script:3: session-7"), "refuses the command", id="a script"),
        pytest.param(redis.ConnectionError("Error 111 connecting to host:6379."), "host:6379", id="no server there"),
    ],
)
def test_an_error_says_what_to_do_and_nothing_of_a_session(error: Exception, said: str) -> None:
    text = explain(error, "{jwt}:", 2)
    assert said in text
    assert "session-7" not in text


async def test_a_user_without_a_command_is_told_all_that_it_needs(server: RedisServer, admin: Any) -> None:
    prefix = token_hex(4)
    strict = COMMANDS.replace("+time ", "")
    admin.execute_command("ACL", "SETUSER", "strict", "on", ">letmein", f"~{{{prefix}}}:*", *strict.split())
    store = RedisStore(server.url.replace("//", "//strict:letmein@"), prefix=prefix)
    with pytest.raises(StoreUnavailable, match=r"must allow ~\{.*\+time") as refused:
        await store.open(opening("session-7"), max_sessions=9)
    assert "session-7" not in f"{refused.value} {refused.value.__cause__!r}"
    # What the text names is enough.
    admin.execute_command("ACL", "SETUSER", "strict", "+time")
    await store.open(opening("session-7"), max_sessions=1)
    await store.rotate(rotation("session-7", 1, grace=0))
    await store.open(opening("other"), max_sessions=1)
    await store.revoke_subject("ada", REALM)
    await store.revoke(revocation_request("t", claim="jti"))
    assert len((await store.revocations("", 9)).revocations) == 3
    await store.aclose()


async def test_the_address_of_a_sentinel_is_recognised(tmp_path: Path) -> None:
    port = free_port()
    settings = tmp_path / "sentinel.conf"
    settings.write_text(f"bind 127.0.0.1\nport {port}\ndir {tmp_path}\nsentinel monitor m 127.0.0.1 1 1\n")
    command = ("redis-server", str(settings), "--sentinel")
    with program(*command, log=tmp_path / "log", ready=lambda log: "Sentinel ID" in log):
        store = RedisStore(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(StoreUnavailable, match="Sentinel") as refused:
            await store.open(opening("session-7"), max_sessions=9)
        assert "session-7" not in f"{refused.value} {refused.value.__cause__!r}"
        await store.aclose()


async def test_an_address_of_valkey_is_one(server: RedisServer) -> None:
    store = RedisStore(server.url.replace("redis://", "valkey://"), prefix=token_hex(4))
    await store.open(opening("s"), max_sessions=9)
    await store.aclose()


# Answers that are lost


class Losing(redis.asyncio.Connection):
    """Loses the answer to a script once, after the server has run it: the connection breaks."""

    lose = False

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        answer = await super().read_response(*arguments, **options)
        if Losing.lose and isinstance(answer, list | int):
            Losing.lose = False
            raise redis.ConnectionError("Connection reset by peer")
        return answer


@asynccontextmanager
async def losing_store(server: RedisServer) -> AsyncIterator[RedisStore]:
    """A store whose client sends a step again when the connection breaks, as redis-py does by itself."""

    def make_client() -> Any:
        retry = Retry(NoBackoff(), 3, supported_errors=(redis.ConnectionError,))
        pool = redis.asyncio.ConnectionPool(
            connection_class=Losing, host="127.0.0.1", port=server.port, protocol=2, retry=retry
        )
        return redis.asyncio.Redis.from_pool(pool)

    store = RedisStore(make_client, prefix=token_hex(4))
    await store.read("s", REALM)
    yield store
    await store.aclose()


async def test_a_rotation_that_was_done_is_not_done_again(server: RedisServer) -> None:
    async with losing_store(server) as store:
        await store.open(opening("s"), max_sessions=9)
        for generation in (1, 2, 3):
            Losing.lose = True
            outcome, session = await store.rotate(rotation("s", generation, grace=0))
            assert not Losing.lose
            assert session is not None
            assert (outcome, session.generation) == (Outcome.NEXT, generation + 1)


async def test_a_theft_that_was_found_is_told_all_the_same(server: RedisServer) -> None:
    async with losing_store(server) as store:
        await store.open(opening("s"), max_sessions=9)
        await store.rotate(rotation("s", 1, grace=0))
        await store.rotate(rotation("s", 2, grace=0))
        Losing.lose = True
        outcome, session = await store.rotate(rotation("s", 1, grace=0))
        assert session is not None
        assert (outcome, session.id) == (Outcome.THEFT, "s")


async def test_sessions_that_ended_are_named_all_the_same(server: RedisServer) -> None:
    async with losing_store(server) as store:
        await store.open(opening("a"), max_sessions=9)
        Losing.lose = True
        _, evicted = await store.open(opening("b"), max_sessions=1)
        assert [one.value for one in evicted] == ["a"]
        Losing.lose = True
        assert [one.value for one in await store.revoke_subject("ada", REALM)] == ["b"]


# Event loops


@pytest.mark.parametrize("runs", ["asyncio.run", "a loop of its own"])
def test_jobs_that_stop_nothing_leave_no_connection_behind(server: RedisServer, admin: Any, runs: str) -> None:
    sessions = Sessions(RedisStore(server.url, prefix=token_hex(4)), TokenIssuer(SECRET, audience="orders"))

    async def job(number: int) -> None:
        grant = await sessions.open(f"user {number}")
        await sessions.catch_up()
        await sessions.refresh(grant.refresh_token)

    before = len(admin.client_list())
    for number in range(60):
        if runs == "asyncio.run":
            asyncio.run(job(number))
        else:
            with asyncio.Runner() as runner:
                runner.run(job(number))
        assert len(admin.client_list()) <= before + 2
    assert len(admin.client_list()) <= before + 1
