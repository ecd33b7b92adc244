"""Which logins are refused after how many failed ones."""

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from redis import Redis

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.issuing import Throttle
from jwt_middleware.issuing.throttle import MAX_NAME, LoginRefused

from ..support import Clock
from ..support.redis_server import RedisServer, redis_server
from .throttling import fails, refused, request, succeeds, unanswered


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
async def test_repeated_attempts_at_a_refused_account_lock_out_no_other_account(storage: str | None) -> None:
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"account_failures": 0}, "account_failures must be a whole number, 1 or more", id="no failure"),
        pytest.param({"address_failures": 2.5}, "address_failures must be a whole number", id="half a failure"),
        pytest.param({"period": 0.5}, "period must be a number of seconds, 1 or more", id="half a second"),
        pytest.param({"period": 2**40}, "period must be a year", id="a long time"),
        pytest.param({"trusted_proxies": "proxy"}, "trusted_proxies: entry 1 must be an address", id="a proxy's name"),
        pytest.param({"account_of": "lower"}, "account_of must be callable as", id="no function"),
        pytest.param({"clock": 5}, "clock must be callable as", id="no clock"),
        pytest.param({"storage": "memcached://h"}, "must be None, or a text that starts with", id="another storage"),
        pytest.param({"storage": 5}, "must be None, or a text that starts with", id="a number for a storage"),
        pytest.param({"storage": "redis://127.0.0.1:port"}, r"storage: 'redis://.*' cannot be used", id="no port"),
        pytest.param({"storage": "redis://u:hunter2@h:x"}, r"storage: 'redis://h:x' cannot be used", id="a password"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as info:
        Throttle(**options)
    assert "hunter2" not in f"{info.value} {info.value.__cause__}"
