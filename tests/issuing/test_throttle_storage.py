"""A throttle whose counts are in Redis, and what becomes of logins without it."""

import asyncio
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis import Redis

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.issuing import Throttle
from jwt_middleware.issuing.throttle import LoginRefused

from ..support import logged, until
from ..support.redis_server import RedisServer, redis_server
from .throttling import fails, refused, request, succeeds


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """A Redis with nothing in it."""
    with Redis(port=running.port) as redis:
        redis.flushall()
    return running


NO_STORAGE = "Logins cannot be checked at the moment. Try again later."


@pytest.mark.anyio
async def test_a_period_in_redis_ends_by_itself(server: RedisServer) -> None:
    throttle = Throttle(account_failures=1, period=60, storage=server.url)
    with Redis(port=server.port) as redis:
        await fails(throttle, "brief")
        await refused(throttle, "brief")
        assert all(59_000 < redis.pttl(name) <= 60_000 for name in redis.scan_iter())
        # As if a minute had passed.
        for name in list(redis.scan_iter()):
            redis.pexpire(name, 1)
        await until(lambda: not redis.dbsize())
    await fails(throttle, "brief")


@pytest.mark.anyio
@pytest.mark.parametrize("left", [300, 499, 501, 999, 1_001, 1_499, 1_501, 59_999])
async def test_the_wait_that_a_client_is_told_is_long_enough_and_no_second_too_long(
    server: RedisServer, left: int
) -> None:
    throttle = Throttle(account_failures=1, storage=server.url)
    await fails(throttle, "patient")
    with Redis(port=server.port) as redis:
        for name in list(redis.scan_iter()):
            redis.pexpire(name, left)
    # Redis tells whole seconds, and rounds them.
    assert left / 1000 - 0.3 <= (await refused(throttle, "patient")).retry_after <= left / 1000 + 2


@pytest.mark.anyio
async def test_an_address_that_is_refused_leaves_no_trace_of_made_up_accounts(server: RedisServer) -> None:
    with Redis(port=server.port) as redis:
        throttle = Throttle(address_failures=20, storage=server.url)
        for number in range(500):
            with suppress(LoginRefused):
                await fails(throttle, f"user{number}")
        assert redis.dbsize() == 21


@pytest.mark.anyio
async def test_no_name_password_or_address_is_stored_or_shown(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Redis(port=server.port) as redis:
        throttle = Throttle(account_failures=1, storage=server.url)
        attempt = await throttle.attempt("Lovelace!", request())
        refusal = await refused(throttle, "Lovelace!")
        stored = list(redis.scan_iter()) + [redis.get(key) for key in redis.scan_iter()]
        lifetimes = [redis.ttl(key) for key in redis.scan_iter()]
    assert len(stored) == 4
    assert all(0 < lifetime <= 900 for lifetime in lifetimes)
    shown = f"{stored} {attempt!r} {throttle!r} {refusal!r} {refusal} {caplog.text}".lower()
    assert "lovelace" not in shown
    assert all(key.startswith(b"jwt_middleware:login:") for key in stored[:2])


@pytest.mark.anyio
async def test_instances_behind_one_redis_count_together(server: RedisServer) -> None:
    one, other = (Throttle(account_failures=4, storage=server.url) for _ in range(2))
    for _ in range(2):
        await fails(one, "shared")
        await fails(other, "shared")
    await refused(one, "shared")
    await refused(other, "shared")


async def again(throttle: Throttle) -> None:
    """A login is tried, once the storage is asked again."""
    with anyio.fail_after(5):
        while True:
            try:
                return await fails(throttle, "afterwards")
            except LoginRefused as refusal:
                if refusal.status != 503:
                    raise
            await anyio.sleep(0.05)


async def timed_refusal(throttle: Throttle) -> float:
    start = time.monotonic()
    refusal = await refused(throttle)
    assert (refusal.status, refusal.description, refusal.retry_after) == (503, NO_STORAGE, 1)
    return time.monotonic() - start


@pytest.mark.anyio
async def test_without_its_redis_no_login_is_tried_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jwt_middleware")
    with redis_server(tmp_path) as server:
        throttle = Throttle(storage=server.url)
        await fails(throttle)
        server.kill()
        for _ in range(3):
            assert await timed_refusal(throttle) < 5
    with redis_server(tmp_path, port=server.port):
        await again(throttle)
        await fails(throttle)
    assert [message.partition(" with 503: ")[0] for _, message in logged(caplog)] == [
        "failed logins cannot be counted, so logins are answered",
        "failed logins are counted again",
    ]
    assert "ConnectionError" in logged(caplog)[0][1]


@pytest.mark.anyio
async def test_a_redis_that_stalls_holds_no_login_and_no_event_loop(server: RedisServer) -> None:
    throttle = Throttle(storage=server.url)
    await succeeds(throttle)
    waits: list[float] = []

    async def login() -> None:
        waits.append(await timed_refusal(throttle))

    with server.stalled():
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(login)
    assert len(waits) == 200
    # One after the other, or on the event loop, they would take minutes.
    assert max(waits) < 5
    # Of those who were told to come again, it counts some when it wakes up; not all of them.
    await again(throttle)


@pytest.mark.anyio
async def test_a_good_login_is_good_even_if_it_cannot_be_forgiven(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        throttle = Throttle(storage=server.url)
        attempt = await throttle.attempt("ada", request())
        server.kill()
        await throttle.forgive(attempt)


@contextmanager
def closing_server() -> Iterator[tuple[int, list[object]]]:
    """The port of a server that closes each connection at once, and the connections that it has seen."""
    seen: list[object] = []

    class Close(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            seen.append(self.client_address)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Close) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.anyio
async def test_a_storage_that_failed_is_asked_by_one_login_in_half_a_second() -> None:
    with closing_server() as (port, connections):
        throttle = Throttle(storage=f"redis://127.0.0.1:{port}")
        start = time.monotonic()
        for _ in range(50):
            await refused(throttle)
        spent = time.monotonic() - start
        # Each attempt asks once, or twice where a connection turns out to be dead.
        assert 1 <= len(connections) <= 2 * (2 + spent / 0.5)
        assert len(connections) < 25


@pytest.mark.asyncio
async def test_few_threads_are_left_behind(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    name_server_hangs = True
    hanging: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "localhost" and name_server_hangs:
            hanging.append(host)
            release.wait(30)
            raise OSError("no answer")
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    throttle = Throttle(address_failures=10**6, account_failures=10**6, storage=f"redis://localhost:{server.port}")
    try:
        for _ in range(3):
            name_server_hangs = True
            await asyncio.gather(*(throttle.attempt("ada", request()) for _ in range(100)), return_exceptions=True)
            # It answers in between, so that the storage is asked by all again.
            name_server_hangs = False
            with suppress(LoginRefused):
                await tried(throttle)
        assert 40 <= len(hanging) <= 80
    finally:
        release.set()


async def tried(throttle: Throttle) -> None:
    """Try a login until the storage is asked again, for two pauses at most."""
    for _ in range(10):
        with suppress(LoginRefused):
            await throttle.attempt("ada", request())
            return
        await asyncio.sleep(0.1)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "limits.storage", None)
    with pytest.raises(ConfigurationError, match=r"needs limits and redis; install asgi-jwt-middleware\[login\]"):
        Throttle(storage="redis://127.0.0.1")


def test_in_memory_it_needs_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("limits", "limits.storage", "redis"):
        monkeypatch.setitem(sys.modules, name, None)
    Throttle()
