"""Each connection ends in its own time."""

from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from jwt_middleware import Token
from jwt_middleware._support.background import Background
from jwt_middleware.errors import (
    Refusal,
)
from jwt_middleware.live.connections import TICK, Connection, Timer

from ..support import NOW, Clock, until
from .connecting import Revoking

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def bare_timer(clock: Clock, revocations: Any = None) -> Timer:
    return Timer(Background("test"), revocations, clock)


class Bare(Connection):
    """A connection that only keeps when it was ended."""

    def __init__(self, timer: Timer, good_until: float) -> None:
        self.good_until = good_until
        self.token = Token(("jwt", b"", b"", None, "ada", (), None, None, 0))
        self.ended: list[Refusal] = []
        self.timer = timer
        self.place = timer.add(self)

    def condemn(self, refusal: Refusal) -> None:
        self.refusal = refusal

    def end(self) -> Any:
        self.timer.discard(self.place)
        self.ended.append(self.refusal)

    _say = _disconnect = _received = _sent = None  # type: ignore[assignment]  # never asked


async def test_renewals_and_departures_do_not_pile_up() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    stays = Bare(timer, NOW + 1000)
    for number in range(10_000):
        Bare.__init__(passing := object.__new__(Bare), timer, NOW + 10_000 + number)
        timer.discard(passing.place)
        stays.good_until += 1
        timer.move(stays.place)
        assert len(timer._ends) <= 70
    clock.now = NOW + 10_999.5
    await anyio.sleep(2 * TICK)
    assert not stays.ended
    clock.now = NOW + 11_000
    await anyio.sleep(2 * TICK)
    assert len(stays.ended) == 1


async def test_each_connection_ends_in_its_own_time_whatever_their_order() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    connections = {seconds: Bare(timer, NOW + seconds) for seconds in (5, 1, 4, 2, 3)}
    for now in range(1, 6):
        clock.now = NOW + now
        await anyio.sleep(1.5 * TICK)
        assert sorted(seconds for seconds, one in connections.items() if one.ended) == list(range(1, now + 1))


async def test_many_that_end_at_once_let_others_have_their_turn() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    connections = [Bare(timer, NOW + 1) for _ in range(500)]
    clock.now = NOW + 1
    turns: list[int] = []
    with anyio.fail_after(5):
        while len(timer):
            turns.append(sum(len(one.ended) for one in connections))
            await anyio.lowlevel.checkpoint()
    assert max(after - before for before, after in pairwise(turns)) <= 100


async def test_a_timer_starts_again_after_it_had_nothing_to_do() -> None:
    clock = Clock()
    timer = bare_timer(clock)
    for _ in range(3):
        connection = Bare(timer, clock.now + 1)
        timer.discard(connection.place)
        connection = Bare(timer, clock.now + 1)
        clock.now += 2
        await anyio.sleep(1.5 * TICK)
        assert len(connection.ended) == 1


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
    assert len(first.ended) == 1


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
    await until(lambda: sum(len(one.ended) for one in connections) >= 200)
