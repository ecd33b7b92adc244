"""Sessions on a bad day: several processes, stores that stall, vanish, forget or are stolen. All parts are real."""

import asyncio
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import redis

from jwt_middleware import JWTMiddleware
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import InvalidGrant, MemoryStore, RedisStore, Sessions, SQLiteStore, TokenIssuer
from jwt_middleware.testing.store_contract import opening, rotation

from ..support import SECRET, bearer, logged
from ..support.processes import ROOT, python
from ..support.redis_server import RedisServer, free_port, redis_server
from . import refreshing
from .refreshing import generation_of
from .serving import GRACE, PASSWORD, service
from .test_sessions import Heard

LOGIN = {"username": "ada", "password": PASSWORD}
SOON = 1.0
"""Seconds within which what is ended is refused everywhere."""
BUSY = 1.0
"""What a busy machine may take on top of what is promised."""


# Two processes


@dataclass
class Pair:
    """Two services that share a store: one that its server starts and stops, and one whose server has no lifespan."""

    where: str
    first: httpx2.Client
    second: httpx2.Client
    directory: Path

    def start(self, lifespan: str) -> Any:
        return serving(self.where, self.directory, lifespan)


@contextmanager
def serving(where: str, directory: Path, lifespan: str) -> Iterator[httpx2.Client]:
    port = free_port()
    arguments = ("-E", "-m", "tests.issuing.serving", where, str(port), lifespan)
    with (
        python(*arguments, log=directory / f"log{port}", ready=lambda output: "Uvicorn running" in output),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield client


@pytest.fixture(scope="module", params=["SQLite", "Redis"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    with ExitStack() as stack:
        where = str(directory / "sessions.db")
        if request.param == "Redis":
            where = stack.enter_context(redis_server(directory)).url
        first, second = (stack.enter_context(serving(where, directory, lifespan)) for lifespan in ("on", "off"))
        yield Pair(where, first, second, directory)


def post(client: httpx2.Client, name: str, **fields: str) -> httpx2.Response:
    return client.post(f"/auth/{name}", data=fields)


def opened(client: httpx2.Client, username: str = "ada") -> dict[str, str]:
    response = post(client, "login", **{**LOGIN, "username": username})
    assert response.status_code == 200, response.text
    tokens: dict[str, str] = response.json()
    return tokens


def status(client: httpx2.Client, access_token: str) -> int:
    response = client.get("/", headers=bearer(access_token))
    if response.status_code == 401:
        assert response.json()["code"] == "revoked"
    return response.status_code


def goes_on_for(client: httpx2.Client, access_token: str) -> float:
    """Seconds after which a token is refused, by a service that is asked all the time."""
    began = last = time.monotonic()
    while status(client, access_token) == 200:
        last = time.monotonic()
        assert last - began < 5
    return last - began


def test_a_session_is_at_home_in_both_processes(pair: Pair) -> None:
    tokens = opened(pair.first)
    assert status(pair.second, tokens["access_token"]) == 200
    for client in (pair.second, pair.first):
        time.sleep(GRACE)
        tokens = post(client, "refresh", refresh_token=tokens["refresh_token"]).json()
    assert generation_of(tokens["refresh_token"]) == 3


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_who_logs_out_of_one_process_is_refused_by_the_other_within_a_second(pair: Pair, kind: str) -> None:
    for here, there in ((pair.first, pair.second), (pair.second, pair.first)):
        tokens, other = opened(here), opened(there)
        assert status(there, tokens["access_token"]) == 200
        assert post(here, "logout", token=tokens[kind]).status_code == 200
        assert status(here, tokens["access_token"]) == 401
        assert goes_on_for(there, tokens["access_token"]) < SOON + BUSY
        assert post(there, "refresh", refresh_token=tokens["refresh_token"]).json()["error"] == "invalid_grant"
        assert status(here, other["access_token"]) == status(there, other["access_token"]) == 200


@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_who_has_logged_out_is_refused_by_a_process_that_starts_then(pair: Pair, lifespan: str) -> None:
    tokens, other = opened(pair.first), opened(pair.first)
    assert post(pair.first, "logout", token=tokens["refresh_token"]).status_code == 200
    with pair.start(lifespan) as client:
        assert status(client, tokens["access_token"]) == 401
        assert status(client, other["access_token"]) == 200


def test_a_replay_ends_all_tokens_of_its_session_in_both_processes_and_no_others(pair: Pair) -> None:
    stolen, other = opened(pair.first), opened(pair.first)
    time.sleep(GRACE)
    renewed = post(pair.first, "refresh", refresh_token=stolen["refresh_token"]).json()
    # Another tab, within grace.
    again = post(pair.second, "refresh", refresh_token=stolen["refresh_token"]).json()
    assert generation_of(renewed["refresh_token"]) == generation_of(again["refresh_token"]) == 2
    time.sleep(GRACE)
    replay = post(pair.second, "refresh", refresh_token=stolen["refresh_token"])
    assert (replay.status_code, replay.json()["error"]) == (400, "invalid_grant")
    for tokens in (stolen, renewed, again):
        assert status(pair.second, tokens["access_token"]) == 401
        assert goes_on_for(pair.first, tokens["access_token"]) < SOON + BUSY
        for client in (pair.first, pair.second):
            response = post(client, "refresh", refresh_token=tokens["refresh_token"])
            assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")
    assert status(pair.first, other["access_token"]) == status(pair.second, other["access_token"]) == 200
    assert post(pair.second, "refresh", refresh_token=other["refresh_token"]).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_tabs_of_two_processes_get_one_successor(pair: Pair) -> None:
    async with (
        httpx2.AsyncClient(base_url=pair.first.base_url, timeout=20) as first,
        httpx2.AsyncClient(base_url=pair.second.base_url, timeout=20) as second,
    ):
        token = (await first.post("/auth/login", data=LOGIN)).json()["refresh_token"]
        for generation in (2, 3):
            await anyio.sleep(GRACE)
            answers: list[httpx2.Response] = []

            async def refresh(client: httpx2.AsyncClient, token: str, answers: list[httpx2.Response]) -> None:
                answers.append(await client.post("/auth/refresh", data={"refresh_token": token}))

            async with anyio.create_task_group() as together:
                for client in (first, second) * 8:
                    together.start_soon(refresh, client, token, answers)
            assert {answer.status_code for answer in answers} == {200}
            assert {generation_of(answer.json()["refresh_token"]) for answer in answers} == {generation}
            token = answers[0].json()["refresh_token"]


def test_nothing_that_opens_a_door_is_in_a_log_or_a_stolen_store(pair: Pair) -> None:
    for client in (pair.first, pair.second):
        # One is left open, for a thief of the store to find.
        live, ended, left = opened(client), opened(client), opened(client)
        post(client, "login", username="ada", password=f"not {PASSWORD}")
        time.sleep(GRACE)
        renewed = post(client, "refresh", refresh_token=live["refresh_token"]).json()
        post(client, "refresh", refresh_token=live["refresh_token"] + "x")
        post(client, "logout", token=ended["access_token"])
        status(client, ended["access_token"])
        post(client, "refresh", refresh_token=ended["refresh_token"])
        time.sleep(GRACE)
        post(client, "refresh", refresh_token=live["refresh_token"])
        tokens = [tokens[kind] for tokens in (live, ended, left, renewed) for kind in ("access_token", "refresh_token")]
        keys = TokenIssuer(SECRET, audience="orders").derived_keys("refresh+jwt")
        secrets = [SECRET.encode(), PASSWORD.encode(), *keys]
        # Any part of a token but its header, which all have.
        secrets += [part.encode() for token in tokens for part in token.split(".")[1:]]
        kept = b"".join(file.read_bytes() for file in pair.directory.iterdir() if file.is_file())
        assert b"theft" in kept
        if "://" in pair.where:
            stolen = dumped(pair.where)
            assert b"session:" in stolen
            kept += stolen
        assert [secret for secret in secrets if secret in kept] == []


def dumped(url: str) -> bytes:
    """All that is in a Redis."""
    with closing(redis.Redis.from_url(url)) as client:
        readers: dict[Any, Callable[[bytes], Any]] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        }
        return b"\n".join(key + b" " + repr(readers[client.type(key)](key)).encode() for key in client.scan_iter("*"))


# Many at once


ROUNDS = 15
CLIENTS = 32


def test_in_two_processes_each_token_has_one_successor(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        for where in (str(tmp_path / "sessions.db"), server.url):
            tokens = "\n".join(asyncio.run(aged(where)))
            processes = [
                subprocess.Popen(
                    [sys.executable, "-E", "-m", "tests.issuing.refreshing", where, str(CLIENTS)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for _ in range(2)
            ]
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(tokens)
                process.stdin.close()
                process.stdin = None
            for process in processes:
                output, errors = process.communicate(timeout=60)
                assert (output.split("\n"), errors) == (["[2]"] * ROUNDS + [""], "")


async def aged(where: str) -> list[str]:
    """A refresh token of each of some sessions, all of them older than grace."""
    sessions = refreshing.sessions(where)
    tokens = [(await sessions.open(f"user {number}")).refresh_token for number in range(ROUNDS)]
    await sessions.stop()
    if "://" in where:
        with closing(redis.Redis.from_url(where)) as client:
            for key in client.scan_iter("{jwt}:session:*"):
                row: Any = json.loads(client.get(key))  # type: ignore[arg-type]  # redis says it may be awaitable
                row[7] -= 3_600_000
                client.set(key, json.dumps(row), keepttl=True)
    else:
        with closing(sqlite3.connect(where)) as db, db:
            db.execute("UPDATE sessions SET rotated_at = rotated_at - 3600")
    return tokens


def test_in_one_process_each_generation_has_one_successor() -> None:
    now = 1000.0
    store = MemoryStore(clock=lambda: now)

    def done(step: Coroutine[Any, Any, Any]) -> Any:
        # It waits for nothing.
        with pytest.raises(StopIteration) as stopped:
            step.send(None)
        return stopped.value.value

    def refresh(generation: int) -> int:
        _, session = done(store.rotate(rotation("s", generation, grace=10)))
        return int(session.generation)

    done(store.open(opening("s", session_lifetime=1e6), max_sessions=1))
    with ThreadPoolExecutor(8) as pool:
        for generation in range(1, 201):
            now += 11
            assert list(pool.map(refresh, [generation] * 64)) == [generation + 1] * 64


# A Redis that is slow, away, or has forgotten


class Proxy:
    """Stands before a server; what passes waits ``delay`` seconds, in the ``direction`` that is named."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.delay = 0.0
        self.direction = "back"
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        for task in (
            asyncio.create_task(self._pass_on(reader, there_writer, "there")),
            asyncio.create_task(self._pass_on(there_reader, writer, "back")),
        ):
            self._tasks.add(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        try:
            while data := await reader.read(65536):
                if direction == self.direction and self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def client_of(app: JWTMiddleware) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app.example") as client:
        yield client
    await app.verifier.stop()


@asynccontextmanager
async def lag() -> AsyncIterator[list[float]]:
    """How late the event loop wakes whoever sleeps."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - began - 0.005)

    task = asyncio.create_task(watch())
    yield late
    task.cancel()


async def until_well(ask: Callable[[], Awaitable[httpx2.Response]]) -> float:
    """Seconds until ``ask`` is answered with 200."""
    began = time.monotonic()
    while (await ask()).status_code != 200:
        assert time.monotonic() - began < 10
        await anyio.sleep(0.02)
    return time.monotonic() - began


only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.mark.anyio
@only_asyncio
@pytest.mark.parametrize("fault", ["answers after 5 s", "stalls", "is away"])
async def test_while_redis_is_out_logout_says_so_at_once_and_plain_requests_go_on(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    port, stack, stalled = free_port(), ExitStack(), ExitStack()
    server = stack.enter_context(redis_server(tmp_path, port=port))
    async with Proxy(port).running() as proxy:
        app = service(RedisStore(f"redis://127.0.0.1:{proxy.port}/0"), revocations_max_stale=4, grace=60)
        async with client_of(app) as client:
            tokens = (await client.post("/auth/login", data=LOGIN)).json()

            async def ask() -> httpx2.Response:
                return await client.get("/", headers=bearer(tokens["access_token"]))

            async def refresh() -> httpx2.Response:
                return await client.post("/auth/refresh", data={"refresh_token": tokens["refresh_token"]})

            assert (await ask()).status_code == 200
            assert (await refresh()).status_code == 200
            taken: dict[str, list[float]] = {"refresh": [], "logout": [], "plain": []}
            if fault == "stalls":
                stalled.enter_context(server.stalled())
            if fault == "is away":
                server.kill()
            proxy.delay = 5.0 if fault == "answers after 5 s" else 0
            began = time.monotonic()

            async def timed(name: str, request: Callable[[], Awaitable[httpx2.Response]], expected: int) -> None:
                at = time.monotonic()
                response = await request()
                taken[name].append(time.monotonic() - at)
                assert response.status_code == expected, (name, response.text)

            async def log_out() -> httpx2.Response:
                return await client.post("/auth/logout", data={"token": tokens["refresh_token"]})

            async with lag() as late:
                for _ in range(2):
                    async with anyio.create_task_group() as together:
                        for _ in range(10):
                            together.start_soon(timed, "refresh", refresh, 503)
                            together.start_soon(timed, "logout", log_out, 503)
                        while time.monotonic() - began < 2.5 and len(taken["logout"]) < 20:
                            await timed("plain", ask, 200)
                            await anyio.sleep(0.02)
            assert max(taken["refresh"] + taken["logout"]) < 1.2 + 2 * BUSY
            assert max(late) < 2
            # The first one after a second waits for the read that is under way; the others wait for nothing.
            assert max(taken["plain"]) < 1 + BUSY
            await anyio.sleep(max(0, began + 4.2 - time.monotonic()))
            refused = await ask()
            assert (refused.status_code, refused.json()["code"]) == (503, "revocations_unavailable")
            assert refused.headers["retry-after"] == "1"
            proxy.delay = 0
            stalled.close()
            if fault == "is away":
                stack.enter_context(redis_server(tmp_path, port=port))
                assert await until_well(ask) < 2 + BUSY
                # Its sessions were in its memory only.
                response = await refresh()
                assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")
                tokens = (await client.post("/auth/login", data=LOGIN)).json()
                assert (await ask()).status_code == 200
            else:
                assert await until_well(refresh) < 2 + BUSY
                assert await until_well(ask) < 2 + BUSY
            assert (await log_out()).status_code == 200
            assert (await ask()).status_code == 401
    stack.close()
    assert any("the session store is unavailable" in said for _, said in logged(caplog))
    assert PASSWORD not in caplog.text
    assert not any(tokens[kind] in caplog.text for kind in ("access_token", "refresh_token"))


@pytest.mark.anyio
@only_asyncio
@pytest.mark.parametrize("fault", ["requests are late", "the server stalls"])
async def test_what_redis_would_do_too_late_is_not_done_and_no_theft_later(server: RedisServer, fault: str) -> None:
    heard = Heard()
    async with Proxy(server.port).running() as proxy:
        proxy.direction = "there"
        stalled = ExitStack()

        def reload_user(subject: str) -> bool:
            # Between the step that reads and the one that rotates.
            if is_bad and fault == "the server stalls":
                stalled.enter_context(server.stalled())
            proxy.delay = 1.5 if is_bad and fault == "requests are late" else 0
            return True

        is_bad = True
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", prefix=fault.replace(" ", "-"))
        tokens = TokenIssuer(SECRET, audience="orders")
        sessions = Sessions(store, tokens, grace=0.2, reload_user=reload_user, on_event=heard)
        grant = await sessions.open("ada")
        await anyio.sleep(0.3)
        with pytest.raises(StoreUnavailable):
            await sessions.refresh(grant.refresh_token)
        await anyio.sleep(0.7)
        stalled.close()
        proxy.delay = 0
        is_bad = False
        await anyio.sleep(1)
        renewed = await sessions.refresh(grant.refresh_token)
        assert generation_of(renewed.refresh_token) == 2
        assert heard.events == []
        await sessions.stop()


@pytest.mark.anyio
@only_asyncio
async def test_a_redis_that_lost_its_keys_renews_nothing(server: RedisServer) -> None:
    heard = Heard()
    sessions = Sessions(RedisStore(server.url, prefix="lost"), TokenIssuer(SECRET, audience="orders"), on_event=heard)
    grant = await sessions.open("ada")
    with closing(redis.Redis(port=server.port)) as admin:
        admin.flushall()
    with pytest.raises(InvalidGrant, match="session is over"):
        await sessions.refresh(grant.refresh_token)
    assert await sessions.logout(grant.refresh_token)
    assert heard.events == []
    await sessions.stop()


# A store that was put back


@pytest.mark.anyio
async def test_after_a_file_was_put_back_sessions_live_on_and_the_operator_hears_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, now = tmp_path / "sessions.db", time.time()
    heard = Heard()
    sessions = Sessions(
        SQLiteStore(path, clock=lambda: now), TokenIssuer(SECRET, audience="orders", clock=lambda: now), on_event=heard
    )
    grant, ended = await sessions.open("ada"), await sessions.open("ada")
    for _ in range(2):
        now += 60
        grant = await sessions.refresh(grant.refresh_token)
    await sessions.stop()
    shutil.copy(path, tmp_path / "copy")
    for _ in range(3):
        now += 60
        grant = await sessions.refresh(grant.refresh_token)
    await sessions.logout(ended.refresh_token)
    await sessions.stop()
    shutil.copy(tmp_path / "copy", path)
    now += 60
    tab_a, tab_b = await sessions.refresh(grant.refresh_token), await sessions.refresh(grant.refresh_token)
    assert generation_of(tab_a.refresh_token) == generation_of(tab_b.refresh_token) == 7
    assert heard.events == [("WritesLost", grant.session_id, "ada")]
    assert [level for level, said in logged(caplog) if "has lost writes" in said] == [logging.WARNING]
    # This process knows who has logged out, though the file does not any more.
    await sessions.catch_up()
    with pytest.raises(InvalidGrant, match="session is over"):
        await sessions.refresh(ended.refresh_token)
    now += 60
    with pytest.raises(InvalidGrant, match="used before"):
        await sessions.refresh(grant.refresh_token)
    assert heard.events[1:] == [("theft", grant.session_id, "ada")]
    await sessions.stop()


@pytest.mark.anyio
async def test_a_process_that_was_idle_refuses_what_was_ended_meanwhile(tmp_path: Path) -> None:
    tokens = TokenIssuer(SECRET, audience="orders")
    store = SQLiteStore(tmp_path / "sessions.db")
    elsewhere = Sessions(store, tokens)
    app = service(SQLiteStore(tmp_path / "sessions.db"))
    async with client_of(app) as client:
        grant = await elsewhere.open("ada")
        assert (await client.get("/", headers=bearer(grant.access_token))).status_code == 200
        # Its task sleeps as well, as that of a suspended process does.
        await app.verifier.stop()
        await elsewhere.logout(grant.refresh_token)
        await anyio.sleep(SOON)
        assert (await client.get("/", headers=bearer(grant.access_token))).status_code == 401
    await elsewhere.stop()


# What a run leaves to read


@pytest.mark.anyio
@only_asyncio
async def test_no_text_of_ours_holds_a_secret(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "jwt_middleware")
    texts: list[str] = []
    store = RedisStore(server.url, prefix="texts")
    tokens = TokenIssuer(SECRET, audience="orders")
    sessions = Sessions(store, tokens, grace=0, on_event=lambda event: texts.append(repr(event)))
    grant = await sessions.open("ada", device="phone")
    renewed = await sessions.refresh(grant.refresh_token)
    texts += map(repr, (grant, store, tokens, sessions, await sessions.list("ada")))
    for raw in (grant.refresh_token, renewed.refresh_token, renewed.access_token, renewed.refresh_token + "x"):
        with pytest.raises(InvalidGrant) as refused:
            await sessions.refresh(raw)
        texts += [repr(refused.value), str(refused.value)]
    with server.stalled():
        for work in (sessions.open("ada"), sessions.logout(grant.refresh_token)):
            with pytest.raises(StoreUnavailable) as unavailable:
                await work
            texts += [repr(unavailable.value), repr(unavailable.value.__cause__), str(unavailable.value)]
    await sessions.stop()
    kept = "\n".join([*texts, caplog.text])
    assert "theft" in kept
    secrets = [SECRET, PASSWORD]
    for one in (grant, renewed):
        secrets += [part for token in (one.access_token, one.refresh_token) for part in token.split(".")[1:]]
    assert [secret for secret in secrets if secret in kept] == []
