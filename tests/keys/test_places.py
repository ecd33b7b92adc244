"""Who may fetch keys now: requests first, and silent hosts hold half of the places at most."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from threading import Thread

import anyio
import pytest

from jwt_middleware.keys.http import FetchError
from jwt_middleware.keys.places import MAX_SILENT, Claim, Places, places

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Attempts:
    """Attempts that hold a place until their host answers."""

    def __init__(self, number: int = 4, patience: float = 1.5) -> None:
        self.places = Places(number, patience, clock=anyio.current_time)
        self.holding: list[str] = []
        self.order: list[str] = []
        self.given_up: list[str] = []
        self.claims: dict[str, Claim] = {}
        self.answers: dict[str, anyio.Event] = {}

    async def run(self, host: str, *, urgent: bool = False, seconds: float | None = None) -> None:
        claim = self.claims[host] = Claim(host)
        self.answers[host] = anyio.Event()
        if urgent:
            self.places.hurry(claim)
        try:
            async with self.places.hold(claim, lambda: None, at_least_every=2):
                self.order.append(host)
                self.holding.append(host)
                try:
                    with anyio.move_on_after(seconds):
                        await self.answers[host].wait()
                finally:
                    self.holding.remove(host)
        except FetchError:
            self.given_up.append(host)

    @asynccontextmanager
    async def running(self, *hosts: str) -> AsyncIterator[anyio.abc.TaskGroup]:
        async with anyio.create_task_group() as group:
            for host in hosts:
                # One after the other: trio starts tasks in any order.
                group.start_soon(self.run, host)
                await anyio.sleep(0.01)
            yield group
            group.cancel_scope.cancel()


async def test_attempts_at_hosts_that_answer_may_take_every_place() -> None:
    attempts = Attempts()
    async with attempts.running("a", "b", "c", "d", "e"):
        assert attempts.holding == ["a", "b", "c", "d"]
        attempts.answers["b"].set()
        await anyio.sleep(0.01)
        assert attempts.holding == ["a", "c", "d", "e"]
    assert attempts.holding == attempts.given_up == []


async def test_an_attempt_that_a_request_waits_for_goes_first() -> None:
    attempts = Attempts(number=2)
    async with attempts.running("a", "b", "c", "d", "e") as group:
        group.start_soon(lambda: attempts.run("urgent", urgent=True))
        await anyio.sleep(0.01)
        # A request begins to wait for one that stands in the queue.
        attempts.places.hurry(attempts.claims["e"])
        attempts.places.hurry(attempts.claims["e"])
        for host in ("a", "b", "urgent", "e"):
            attempts.answers[host].set()
            await anyio.sleep(0.01)
        assert attempts.order == ["a", "b", "urgent", "e", "c", "d"]


async def test_hosts_that_do_not_answer_hold_half_of_the_places() -> None:
    attempts = Attempts(number=4)
    async with attempts.running("a", "b", "c", "d"):
        await anyio.sleep(10)
        # No other fetch wants their places.
        assert attempts.holding == ["a", "b", "c", "d"]
        async with attempts.running("good"):
            await anyio.sleep(0.6)
            assert attempts.holding == ["a", "b", "good"]
            # Both are given up at the same moment, and trio runs their tasks in any order.
            assert sorted(attempts.given_up) == ["c", "d"]


async def test_a_good_host_waits_for_silent_ones_no_longer_than_the_patience() -> None:
    attempts = Attempts(number=4)
    async with attempts.running("a", "b", "c", "d", "good"):
        await anyio.sleep(1.4)
        assert "good" not in attempts.holding
        await anyio.sleep(0.7)
        assert "good" in attempts.holding


async def test_a_host_that_was_silent_the_last_time_has_half_of_the_places_from_the_start() -> None:
    attempts = Attempts(number=4)
    for host in "abc":
        attempts.places.heard_nothing(host)
    async with attempts.running("a", "b", "c", "d"):
        assert attempts.holding == ["a", "b", "d"]
        attempts.places.heard("c")
        async with attempts.running("c"):
            assert attempts.holding == ["a", "b", "d", "c"]


async def test_a_claim_that_is_cancelled_in_the_queue_is_passed_over() -> None:
    attempts = Attempts(number=1)
    async with attempts.running("a"):
        async with attempts.running("b"):
            pass
        async with attempts.running("c"):
            attempts.answers["a"].set()
            await anyio.sleep(0.01)
            assert attempts.holding == ["c"]


async def test_a_claim_says_that_it_still_waits() -> None:
    attempts, said = Attempts(number=1), []
    async with attempts.running("a") as group:

        async def wait() -> None:
            async with attempts.places.hold(Claim("b"), lambda: said.append(anyio.current_time()), at_least_every=2):
                pass

        group.start_soon(wait)
        await anyio.sleep(2.2)
        assert len(said) == 4


async def test_hundreds_that_wait_do_not_keep_the_event_loop_busy() -> None:
    attempts, said = Attempts(number=1, patience=60), 0

    def say() -> None:
        nonlocal said
        said += 1

    async def wait() -> None:
        async with attempts.places.hold(Claim("b"), say, at_least_every=2):
            pass

    async with attempts.running("a") as group:
        for _ in range(100):
            group.start_soon(wait)
        await anyio.sleep(3.2)
        # Each of them, once a second.
        assert 200 <= said <= 350


async def test_a_process_that_is_too_busy_to_read_answers_gives_up_no_host_for_that() -> None:
    """By its clock, each half second lasts a tenth longer."""
    for slower, given_up in ((1.0, ["c", "d"]), (1.2, [])):
        attempts = Attempts()
        attempts.places = Places(4, 1.5, clock=partial(_slow_time, slower))
        async with attempts.running("a", "b", "c", "d", "e"):
            await anyio.sleep(2.1)
            assert sorted(attempts.given_up) == given_up


def _slow_time(slower: float) -> float:
    return anyio.current_time() * slower


async def test_what_the_block_raises_is_raised() -> None:
    with pytest.raises(LookupError, match="its own"):
        async with Attempts().places.hold(Claim("a"), lambda: None, at_least_every=2):
            raise LookupError("its own")


async def test_the_hosts_that_are_remembered_to_be_silent_are_bounded() -> None:
    attempts = Attempts(number=2)
    for number in range(MAX_SILENT + 1):
        attempts.places.heard_nothing(str(number))
    async with attempts.running("0", "1", "2"):
        # The first one is forgotten.
        assert attempts.holding == ["0", "1"]


def test_a_process_has_its_places_for_all_threads() -> None:
    found: list[Places] = []
    thread = Thread(target=lambda: found.append(places()))
    thread.start()
    thread.join()
    assert found == [places()]
