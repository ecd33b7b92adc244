import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio import to_thread
from redis import Redis

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.issuing import Throttle
from jwt_middleware.issuing.counts import MemoryCounts
from jwt_middleware.issuing.throttle import MAX_NAME, Attempt, LoginRefused

from ..support import Clock, logged
from ..support.processes import python
from ..support.redis_server import RedisServer, free_port, redis_server

NO_STORAGE = "Logins cannot be checked at the moment. Try again later."


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


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest) -> str | None:
    """Every test that takes it runs in memory and with Redis."""
    if request.param == "memory":
        return None
    server: RedisServer = request.getfixturevalue("server")
    return server.url


def request(address: str = "203.0.113.9", **headers: str) -> dict[str, Any]:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (address, 4711), "headers": lines}


async def fails(throttle: Throttle, username: str = "ada", address: str = "203.0.113.9") -> None:
    """A login with a wrong password that is tried."""
    await throttle.attempt(username, request(address))


async def succeeds(throttle: Throttle, username: str = "ada", address: str = "203.0.113.9") -> None:
    await throttle.forgive(await throttle.attempt(username, request(address)))


async def refused(throttle: Throttle, username: str = "ada", address: str = "203.0.113.9") -> LoginRefused:
    """Why a login is not tried."""
    with pytest.raises(LoginRefused) as info:
        await throttle.attempt(username, request(address))
    return info.value


@pytest.mark.anyio
async def test_ten_failed_logins_are_tried_and_no_more(storage: str | None) -> None:
    throttle = Throttle(storage=storage)
    for _ in range(10):
        await fails(throttle)
    refusal = await refused(throttle)
    assert (refusal.status, refusal.description) == (429, "There were too many failed logins. Try again later.")
    assert type(refusal.retry_after) is int
    assert 895 <= refusal.retry_after <= 901


@pytest.mark.anyio
async def test_an_account_is_refused_from_every_address(storage: str | None) -> None:
    throttle = Throttle(account_failures=3, storage=storage)
    for number in range(3):
        await fails(throttle, address=f"203.0.113.{number}")
    await refused(throttle, address="198.51.100.1")
    await fails(throttle, "bob", "203.0.113.0")


@pytest.mark.anyio
async def test_an_address_is_refused_for_every_account(storage: str | None) -> None:
    throttle = Throttle(address_failures=5, storage=storage)
    for number in range(5):
        await fails(throttle, f"user{number}")
    assert (await refused(throttle, "user9")).status == 429
    await fails(throttle, "user0", "198.51.100.1")


@pytest.mark.anyio
async def test_a_good_login_resets_its_account(storage: str | None) -> None:
    throttle = Throttle(account_failures=3, storage=storage)
    for _ in range(3):
        for _ in range(2):
            await fails(throttle)
        await succeeds(throttle)
    for _ in range(3):
        await fails(throttle)
    await refused(throttle)


@pytest.mark.anyio
async def test_a_good_login_takes_nothing_but_itself_off_its_address(storage: str | None) -> None:
    throttle = Throttle(address_failures=3, storage=storage)
    for _ in range(20):
        await succeeds(throttle, "mallory")
    for number in range(2):
        await fails(throttle, f"user{number}")
        await succeeds(throttle, "mallory")
    await fails(throttle, "user3")
    await refused(throttle, "user4")


@pytest.mark.anyio
async def test_good_logins_never_make_room_for_more_bad_ones(storage: str | None) -> None:
    throttle = Throttle(account_failures=2, address_failures=5, storage=storage)
    attempt = await throttle.attempt("mallory", request())
    for _ in range(50):
        await throttle.forgive(attempt)
    for number in range(5):
        await fails(throttle, f"user{number}")
    await refused(throttle, "user6")


@pytest.mark.anyio
async def test_who_goes_on_with_a_refused_account_locks_out_nobody_else(storage: str | None) -> None:
    throttle = Throttle(account_failures=1, address_failures=4, storage=storage)
    await fails(throttle)
    for _ in range(10):
        await refused(throttle)
    for number in range(3):
        await fails(throttle, f"user{number}")
    await refused(throttle, "user4")


@pytest.mark.anyio
async def test_good_logins_that_take_their_time_leave_no_failed_ones_behind(storage: str | None) -> None:
    throttle = Throttle(address_failures=3, storage=storage)
    slow = [await throttle.attempt(f"user{number}", request()) for number in range(3)]
    for _ in range(5):
        await refused(throttle, "eve")
    for attempt in slow:
        await throttle.forgive(attempt)
    for number in range(3):
        await fails(throttle, f"user{number}")
    await refused(throttle, "eve")


@pytest.mark.anyio
async def test_a_hundred_at_once_are_no_more_than_one_after_the_other(storage: str | None) -> None:
    throttle = Throttle(address_failures=1000, storage=storage)
    tried = []
    refusals: list[LoginRefused] = []

    async def login() -> None:
        try:
            tried.append(await throttle.attempt("ada", request()))
        except LoginRefused as refusal:
            refusals.append(refusal)

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(login)
    assert len(tried) <= 10 <= len(tried) + unanswered(refusals)


def unanswered(refusals: list[LoginRefused]) -> int:
    """How many were refused since Redis did not answer in time, as it may not on a busy machine: they are not tried."""
    return sum(refusal.status == 503 for refusal in refusals)


def test_a_hundred_threads_with_event_loops_of_their_own_are_no_more_either(storage: str | None) -> None:
    throttle = Throttle(address_failures=1000, storage=storage)
    tried = []
    refusals: list[LoginRefused] = []

    async def login() -> None:
        for _ in range(5):
            try:
                tried.append(await throttle.attempt("ada", request()))
            except LoginRefused as refusal:
                refusals.append(refusal)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=anyio.run, args=(login,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(tried) <= 10 <= len(tried) + unanswered(refusals)


@pytest.mark.anyio
async def test_failed_logins_are_forgotten_a_period_after_the_first() -> None:
    clock = Clock(1_000.25)
    throttle = Throttle(account_failures=2, period=60, clock=clock)
    await fails(throttle)
    clock.now += 50
    await fails(throttle)
    assert (await refused(throttle)).retry_after == 10
    clock.now += 9
    assert (await refused(throttle)).retry_after == 1
    clock.now += 1
    for _ in range(2):
        await fails(throttle)
    assert (await refused(throttle)).retry_after == 60


@pytest.mark.anyio
async def test_the_period_begins_with_a_failed_login_and_not_with_a_good_one() -> None:
    clock = Clock(1_000.25)
    throttle = Throttle(account_failures=1, address_failures=1, period=60, clock=clock)
    await succeeds(throttle)
    clock.now += 50
    await fails(throttle)
    assert (await refused(throttle, address="198.51.100.1")).retry_after == 60
    assert (await refused(throttle, "bob")).retry_after == 60


@pytest.mark.anyio
async def test_the_period_of_redis_ends_by_itself(server: RedisServer) -> None:
    throttle = Throttle(account_failures=1, period=1, storage=server.url)
    await fails(throttle, "brief")
    assert (await refused(throttle, "brief")).retry_after in (1, 2)
    await anyio.sleep(1.1)
    await fails(throttle, "brief")


@pytest.mark.anyio
async def test_the_wait_that_is_told_is_long_enough(server: RedisServer) -> None:
    throttle = Throttle(account_failures=1, period=2, storage=server.url)
    await fails(throttle, "patient")
    await anyio.sleep(0.7)
    await anyio.sleep((await refused(throttle, "patient")).retry_after)
    await fails(throttle, "patient")


@pytest.mark.anyio
async def test_a_good_login_starts_no_period_for_bad_ones(storage: str | None) -> None:
    throttle = Throttle(account_failures=1, period=100, storage=storage)
    await succeeds(throttle)
    await fails(throttle)
    assert (await refused(throttle)).retry_after in (99, 100, 101)


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param("ADA@example.org", id="capitals"),
        pytest.param(" ada@example.org\t", id="white space around it"),
        pytest.param("\uff41\uff44\uff41@example.org", id="full width"),
        pytest.param("\u24d0\u24d3\u24d0@example.org", id="circled"),
        pytest.param("\U0001d400da@example.org", id="bold capital"),
    ],
)
@pytest.mark.anyio
async def test_other_spellings_of_an_account_buy_no_attempt(spelling: str) -> None:
    throttle = Throttle(account_failures=1)
    await fails(throttle, "ada@example.org")
    await refused(throttle, spelling)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("stra\u00dfe", "STRASSE", id="sharp s"),
        pytest.param("zo\u00eb", "zoe\u0308", id="composed and not"),
        pytest.param("\u1e9e", "ss", id="capital sharp s"),
        pytest.param("\u0345\u03b1", "\u03b9\u03b1", id="an iota below that becomes one beside"),
    ],
)
@pytest.mark.anyio
async def test_spellings_are_compared_as_unicode_says(one: str, other: str) -> None:
    throttle = Throttle(account_failures=1)
    await fails(throttle, one)
    await refused(throttle, other)


@pytest.mark.anyio
async def test_the_app_can_say_which_spellings_are_one_account() -> None:
    throttle = Throttle(account_failures=1, account_of=lambda username: username.partition("+")[0])
    await fails(throttle, "ada+1")
    await refused(throttle, "ada+2")
    await fails(throttle, "Ada+1")


@pytest.mark.anyio
async def test_a_long_name_costs_no_more_than_its_beginning() -> None:
    seen = []

    def account_of(username: str) -> str:
        seen.append(username)
        return username

    throttle = Throttle(account_failures=1, account_of=account_of)
    await fails(throttle, "a" * 16_000)
    await refused(throttle, "a" * MAX_NAME + "b")
    assert seen == ["a" * MAX_NAME] * 2


@pytest.mark.anyio
async def test_padding_around_a_name_buys_no_attempt() -> None:
    throttle = Throttle(account_failures=3)
    for spaces in (0, MAX_NAME - 2, MAX_NAME + 40):
        await fails(throttle, " " * spaces + "ada" + " " * spaces)
    for spaces in (0, 1, MAX_NAME - 1):
        await refused(throttle, " " * spaces + "ada")
    await fails(throttle, "a")


@pytest.mark.anyio
async def test_made_up_forwarded_addresses_buy_no_attempt(storage: str | None) -> None:
    throttle = Throttle(address_failures=20, storage=storage)
    tried = 0
    for number in range(1_000):
        spoofed = request(x_forwarded_for=f"198.51.{number // 250}.{number % 250}")
        with suppress(LoginRefused):
            await throttle.attempt(f"user{number}", spoofed)
            tried += 1
    assert tried == 20


@pytest.mark.anyio
async def test_they_buy_none_behind_a_proxy_that_is_believed() -> None:
    throttle = Throttle(address_failures=20, trusted_proxies="10.0.0.0/8")

    def scope(made_up: str, seen: str) -> dict[str, Any]:
        return request("10.0.0.1", x_forwarded_for=f"{made_up}, {seen}")

    for number in range(20):
        await throttle.attempt(f"user{number}", scope(f"198.51.100.{number}", "203.0.113.9"))
    with pytest.raises(LoginRefused):
        await throttle.attempt("user", scope("198.51.100.200", "203.0.113.9"))
    await throttle.attempt("user", scope("198.51.100.200", "203.0.113.10"))


@pytest.mark.anyio
async def test_who_has_no_address_is_counted_all_the_same() -> None:
    throttle = Throttle(address_failures=1)
    await throttle.attempt("ada", {"type": "http", "client": None, "headers": []})
    with pytest.raises(LoginRefused):
        await throttle.attempt("bob", {"type": "http", "client": None, "headers": []})


@pytest.mark.anyio
async def test_an_address_that_is_refused_leaves_no_trace_of_made_up_accounts(server: RedisServer) -> None:
    with Redis(port=server.port) as redis:
        throttle = Throttle(address_failures=20, storage=server.url)
        for number in range(500):
            with suppress(LoginRefused):
                await fails(throttle, f"user{number}")
        assert redis.dbsize() == 21


@pytest.mark.anyio
async def test_whatever_comes_memory_is_bounded() -> None:
    throttle = Throttle()
    await fails(throttle)
    assert held(throttle) < 10_000
    for number in range(40_000):
        await fails(throttle, f"user{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert held(throttle) < 19_000_000


def held(throttle: Throttle) -> int:
    """Bytes that the counts of ``throttle`` take."""
    return sum(
        sys.getsizeof(counts._pieces) + sum(map(sys.getsizeof, counts._pieces.values()))
        for counts in (throttle._accounts, throttle._addresses)
        if isinstance(counts, MemoryCounts)
    )


@pytest.mark.anyio
async def test_nobody_can_work_out_who_shares_a_place() -> None:
    one, other = Throttle(), Throttle()
    assert (await one.attempt("ada", request())).account != (await other.attempt("ada", request())).account


@pytest.mark.anyio
async def test_a_count_has_an_end() -> None:
    throttle = Throttle(account_failures=1)
    attempt = await throttle.attempt("ada", request())
    throttle._accounts.add(attempt.account, 2**32 - 3)
    for _ in range(3):
        assert throttle._accounts.add(attempt.account, 1) == 2**32 - 1


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
async def test_the_log_says_which_address_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jwt_middleware")
    throttle = Throttle(account_failures=1, address_failures=2)
    await fails(throttle)
    await refused(throttle)
    await fails(throttle, "bob")
    await refused(throttle, "eve")
    assert [record.getMessage() for record in caplog.records] == [
        "login refused: too many failed logins (by=account address='203.0.113.9')",
        "login refused: too many failed logins (by=address address='203.0.113.9')",
    ]


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
        "login throttle: its storage cannot be asked, logins are answered",
        "login throttle: its storage is there again",
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
async def test_a_good_login_is_good_though_it_cannot_be_forgiven(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        throttle = Throttle(storage=server.url)
        attempt = await throttle.attempt("ada", request())
        server.kill()
        await throttle.forgive(attempt)


@pytest.mark.anyio
async def test_a_storage_that_failed_is_asked_by_one_login_in_half_a_second() -> None:
    throttle = Throttle(storage=f"redis://127.0.0.1:{free_port()}")
    asked = []
    count = throttle._count

    def counting(attempt: Attempt) -> tuple[str, int] | None:
        asked.append(attempt)
        return count(attempt)

    throttle._count = counting  # type: ignore[method-assign]  # to be seen
    start = time.monotonic()
    for _ in range(50):
        await refused(throttle)
    assert 2 <= len(asked) <= 2 + (time.monotonic() - start) / 0.5


@pytest.mark.asyncio
async def test_threads_that_nobody_waits_for_any_more_are_few() -> None:
    throttle = Throttle(storage="redis://127.0.0.1:1")
    release = threading.Event()
    started = []

    def hang(attempt: Attempt) -> None:
        started.append(attempt)
        release.wait(20)

    throttle._count = hang  # type: ignore[method-assign]  # a name server that never answers
    try:
        for _ in range(3):
            # Each time as if it had answered in between.
            throttle._worker._is_well = True  # type: ignore[union-attr]  # the worker of a storage in Redis
            await asyncio.gather(*(refused(throttle) for _ in range(100)))
        assert len(started) == 80
    finally:
        release.set()
        await to_thread.run_sync(time.sleep, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"account_failures": 0}, "account_failures must be a whole number, 1 or more", id="no failure"),
        pytest.param({"address_failures": 2.5}, "address_failures must be a whole number", id="half a failure"),
        pytest.param({"period": 0.5}, "period must be a number of seconds, 1 or more", id="half a second"),
        pytest.param({"period": 2**40}, "period must be a year", id="a long time"),
        pytest.param({"trusted_proxies": "proxy"}, "trusted_proxies: 'proxy' must be an address", id="a proxy's name"),
        pytest.param({"account_of": "lower"}, "account_of must be callable as", id="no function"),
        pytest.param({"clock": 5}, "clock must be callable as", id="no clock"),
        pytest.param({"storage": "memcached://h"}, "must be None, or start with redis://", id="another storage"),
        pytest.param({"storage": 5}, "must be None, or start with redis://", id="a number for a storage"),
        pytest.param({"storage": "redis://127.0.0.1:port"}, r"storage: 'redis://.*' cannot be used", id="no port"),
        pytest.param({"storage": "redis://u:hunter2@h:x"}, r"storage: 'redis://h:x' cannot be used", id="a password"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as info:
        Throttle(**options)
    assert "hunter2" not in f"{info.value} {info.value.__cause__}"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "limits.storage", None)
    with pytest.raises(ConfigurationError, match=r"needs limits and redis; install asgi-jwt-middleware\[login\]"):
        Throttle(storage="redis://127.0.0.1")


def test_in_memory_it_needs_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("limits", "limits.storage", "redis"):
        monkeypatch.setitem(sys.modules, name, None)
    Throttle()


@contextmanager
def uvicorn(directory: Path, *arguments: str) -> Iterator[httpx2.Client]:
    """A client of uvicorn with ``arguments``."""
    port = free_port()
    with (
        python("-m", "uvicorn", *arguments, "--port", str(port), log=directory / "log", ready=is_ready),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield client


def is_ready(output: str) -> bool:
    return "Uvicorn running" in output


def tried(client: httpx2.Client, number: int, forwarded_for: str) -> bool:
    """Whether a wrong password is tried, for an account that has no other failed login."""
    response = client.post(
        "/login",
        data={"username": f"user{number}", "password": "hunter2"},
        headers={"x-forwarded-for": forwarded_for},
    )
    assert response.status_code in (400, 429)
    return response.status_code == 400


def test_a_thousand_made_up_addresses_buy_no_attempt_through_a_server(tmp_path: Path) -> None:
    with uvicorn(tmp_path, "tests.issuing.throttled:facing", "--no-proxy-headers") as client:
        answers = [tried(client, number, f"198.51.{number // 250}.{number % 250}") for number in range(1_000)]
    assert answers == [True] * 100 + [False] * 900
    log = (tmp_path / "log").read_text()
    assert "hunter2" not in log
    assert "user99" not in log


def test_a_hundred_at_once_are_no_more_through_a_server(tmp_path: Path) -> None:
    with uvicorn(tmp_path, "tests.issuing.throttled:facing") as client, ThreadPoolExecutor(20) as pool:
        wrong = {"username": "ada", "password": "hunter2"}
        answers = pool.map(lambda _: client.post("/login", data=wrong).status_code, range(100))
        assert sorted(answers) == [400] * 10 + [429] * 90
        assert client.post("/login", data={**wrong, "username": "bob"}).status_code == 400


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["tests.issuing.throttled:behind", "--no-proxy-headers"], id="trusted_proxies"),
        pytest.param(["tests.issuing.throttled:facing"], id="uvicorn's own"),
        pytest.param(["tests.issuing.throttled:behind"], id="both"),
    ],
)
def test_behind_a_proxy_clients_are_told_apart_and_made_up_addresses_buy_nothing(
    tmp_path: Path, arguments: list[str]
) -> None:
    with uvicorn(tmp_path, *arguments) as proxy:
        answers = [tried(proxy, number, f"198.51.100.{number}, 203.0.113.9") for number in range(110)]
        assert answers == [True] * 100 + [False] * 10
        assert tried(proxy, 200, "203.0.113.9, 203.0.113.10")
        assert not tried(proxy, 201, "203.0.113.9")
