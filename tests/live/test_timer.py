"""Each connection ends in its own time."""

import tracemalloc
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from jwt_middleware import Token
from jwt_middleware._support.background import Background
from jwt_middleware.errors import Refusal
from jwt_middleware.live.timer import TICK, Timer

from ..support import NOW, Clock, until
from ..support.tokens import verified
from .connecting import Revoking

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def bare_timer(clock: Clock, revocations: Any = None) -> Timer:
    return Timer(Background("test"), revocations, clock)


class Bare:
    """A connection that only notes how it was closed."""

    def __init__(self, timer: Timer, good_until: float) -> None:
        self.good_until = good_until
        self.token: Token | None = verified()
        self.refusal: Refusal | None = None
        self.is_closed = False
        self.timer = timer
        self.number = timer.watch(self)

    def block(self, refusal: Refusal) -> None:
        self.refusal = refusal

    def close(self) -> None:
        assert self.refusal is not None
        assert not self.is_closed
        self.timer.forget(self.number)
        self.is_closed = True


async def test_renewals_and_departures_do_not_pile_up() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    stays = Bare(timer, NOW + 1000)

    def come_and_go(times: int) -> None:
        for number in range(times):
            passing = Bare(timer, NOW + 100_000 + number)
            timer.forget(passing.number)
            stays.good_until += 1
            timer.reschedule(stays.number)

    come_and_go(1000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        come_and_go(9000)
        # An entry that stayed would be a tuple of more than 50 bytes.
        assert tracemalloc.get_traced_memory()[0] - before < 50 * 1000
    finally:
        tracemalloc.stop()
    clock.now = NOW + 10_999.5
    await anyio.sleep(2 * TICK)
    assert not stays.is_closed
    clock.now = NOW + 11_000
    await anyio.sleep(2 * TICK)
    assert stays.is_closed


async def test_each_connection_ends_in_its_own_time_whatever_their_order() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    connections = {seconds: Bare(timer, NOW + seconds) for seconds in (5, 1, 4, 2, 3)}
    for now in range(1, 6):
        clock.now = NOW + now
        await anyio.sleep(1.5 * TICK)
        assert sorted(seconds for seconds, one in connections.items() if one.is_closed) == list(range(1, now + 1))


async def test_many_that_end_at_once_let_others_have_their_turn() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    connections = [Bare(timer, NOW + 1) for _ in range(500)]
    clock.now = NOW + 1
    turns: list[int] = []
    with anyio.fail_after(5):
        while len(timer):
            turns.append(sum(one.is_closed for one in connections))
            await anyio.lowlevel.checkpoint()
    assert max(after - before for before, after in pairwise(turns)) <= 100


async def test_a_timer_starts_again_after_it_had_nothing_to_do() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    for _ in range(3):
        connection = Bare(timer, clock.now + 1)
        timer.forget(connection.number)
        connection = Bare(timer, clock.now + 1)
        clock.now += 2
        await anyio.sleep(1.5 * TICK)
        assert connection.is_closed


async def test_a_timer_whose_clock_fails_starts_again_with_the_next_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Clock):
        def __call__(self) -> float:
            if self.now == 0:
                raise LookupError("no time")
            return self.now

    clock = Broken()
    timer = bare_timer(clock)
    first = Bare(timer, NOW + 1)
    clock.now = 0
    await anyio.sleep(1.5 * TICK)
    assert "failed: LookupError" in caplog.text
    clock.now = NOW + 2
    Bare(timer, NOW + 1000)
    await anyio.sleep(1.5 * TICK)
    assert first.is_closed


async def test_the_look_at_many_revocations_lets_others_have_their_turn() -> None:
    class Slow(Revoking):
        def is_revoked(self, token: Token) -> bool:
            self.looked += 1
            return self.looked % 10 == 0

    revocations = Slow()
    timer = bare_timer(Clock(), revocations)
    connections = [Bare(timer, NOW + 1000) for _ in range(2000)]
    turns = [0]
    with anyio.fail_after(5):
        while revocations.looked < 2000:
            turns.append(revocations.looked)
            await anyio.lowlevel.checkpoint()
    assert max(after - before for before, after in pairwise(turns)) <= 1000
    await until(lambda: sum(one.is_closed for one in connections) >= 200)
