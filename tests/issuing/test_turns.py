"""Password checks take turns. Nothing here waits: time is a number, and a check is its name."""

from collections import Counter
from collections.abc import Iterator
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jwt_middleware.issuing.turns import MAX_ADDRESSES, MAX_WAITING, MEMORY, Turns

HASH = 0.3
"""Seconds of a password hash."""


def turns(*, threads: int = 2, seconds: float = HASH) -> Turns[str]:
    return Turns(threads=threads, seconds=seconds)


def started(queue: Turns[str]) -> list[str]:
    """The jobs that start now."""
    return list(iter(queue.start, None))


def test_a_check_starts_at_once_where_a_thread_is_free() -> None:
    queue = turns()
    assert queue.start() is None
    assert queue.ask("a", "a1", 0) is None
    assert queue.ask("b", "b1", 0) is None
    assert started(queue) == ["a1", "b1"]
    assert queue.ask("c", "c1", 0) is None
    assert started(queue) == []
    queue.end(HASH)
    assert started(queue) == ["c1"]


@pytest.mark.parametrize(
    ("threads", "seconds", "capacity"),
    [
        pytest.param(2, 0.25, 8, id="two threads"),
        pytest.param(1, 0.25, 4, id="one thread"),
        pytest.param(2, 0.3, 6, id="no more than a second"),
        pytest.param(1, 5.0, 1, id="a slow hash: one waits, so that addresses can take turns"),
        pytest.param(40, 0.001, MAX_WAITING, id="a quick one"),
        pytest.param(40, 0.0, MAX_WAITING, id="an unknown one"),
    ],
)
def test_the_queue_holds_a_second_of_work(threads: int, seconds: float, capacity: int) -> None:
    queue = turns(threads=threads, seconds=seconds)
    assert queue.capacity == capacity
    for number in range(threads):
        assert queue.ask(f"running{number}", "running", 0) is None
    assert len(started(queue)) == threads
    for number in range(capacity):
        assert queue.ask(f"{number}", f"job{number}", 0) is None
    assert queue.ask("late", "late", 0) == "late"
    assert not queue.admits("late", 0)


def test_the_second_is_measured() -> None:
    queue = turns(threads=1, seconds=0.1)
    for _ in range(40):
        queue.ask("a", "a", 0)
        started(queue)
        queue.end(0.4)
    assert queue.capacity == 2
    for _ in range(60):
        queue.ask("a", "a", 0)
        started(queue)
        queue.end(0.01)
    assert queue.capacity > 90


def test_the_first_measurement_takes_the_place_of_a_guess() -> None:
    queue = turns(threads=1, seconds=0)
    queue.ask("a", "a", 0)
    started(queue)
    queue.end(0.4)
    assert queue.capacity == 2


def test_addresses_take_turns() -> None:
    queue = turns(threads=1, seconds=0.1)
    for job in ("a1", "a2", "a3", "b1", "b2", "c1"):
        assert queue.ask(job[0], job, 0) is None
    order = []
    while (started_job := queue.start()) is not None:
        order.append(started_job)
        queue.end(0.1)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_an_address_that_sends_much_gives_way_when_the_queue_is_full() -> None:
    queue = turns(threads=1, seconds=0.25)
    for number in range(5):
        assert queue.ask("a", f"a{number}", 0) is None
        started(queue)
    assert queue.ask("a", "a5", 0) == "a5"
    assert queue.ask("b", "b0", 0) == "a4"
    assert queue.ask("c", "c0", 0) == "a3"
    assert queue.ask("b", "b1", 0) == "a2"
    assert queue.ask("b", "b2", 0) == "b2"


def test_idle_time_is_not_held_against_an_address() -> None:
    # An office that has logged in all morning comes no later than an address that comes for the first time.
    queue = turns(threads=1)
    for _ in range(200):
        queue.ask("office", "office", 0)
        started(queue)
        queue.end(HASH)
    queue.ask("other", "other", 0)
    started(queue)
    assert queue.ask("new", "new", 0) is None
    assert queue.ask("office", "office", 0) is None
    queue.end(HASH)
    first = started(queue)
    queue.end(HASH)
    assert [*first, *started(queue)] == ["new", "office"]


def test_a_refused_address_keeps_its_position_for_half_a_minute() -> None:
    for wait, is_admitted in ((MEMORY, True), (MEMORY + 1, False)):
        queue = turns(threads=1, seconds=0.5)
        for number in range(3):
            queue.ask(f"{number}", f"{number}", 0)
            started(queue)
        assert queue.ask("patient", "patient", 0) == "patient"
        # As many as are served meanwhile come in time to stand before it.
        for number in range(3, 6):
            queue.end(0.5)
            started(queue)
            queue.ask(f"{number}", f"{number}", wait)
        assert (queue.ask("patient", "patient", wait) != "patient") is is_admitted


def test_a_withdrawn_check_leaves_its_place() -> None:
    queue = turns(threads=1, seconds=0.4)
    queue.ask("a", "a", 0)
    started(queue)
    queue.ask("b", "b", 0)
    queue.ask("c", "c", 0)
    assert queue.ask("d", "d", 0) == "d"
    assert queue.withdraw("b", 0)
    assert not queue.withdraw("b", 0)
    assert not queue.withdraw("a", 0)
    assert queue.ask("e", "e", 0) is None
    queue.end(0.4)
    assert started(queue) == ["c"]


def attack(
    addresses: Iterator[str], *, rate: int, seconds: float = 20, hash: float = HASH, comes_at: float = 0.05
) -> float | None:
    """How long a patient client waits, beside ``rate`` requests from ``addresses`` in each hundredth of a second.

    The attackers come first, come back at once, and heed no ``Retry-After``. The client waits for a second each time
    that it is refused.
    """
    queue = turns(seconds=hash)
    running: list[float] = []
    asks_at, now = comes_at, 0.0
    while now < seconds:
        for end in [end for end in running if end <= now]:
            running.remove(end)
            queue.end(hash)
        for _ in range(rate):
            queue.ask(next(addresses), "attack", now)
        if asks_at <= now:
            refused = queue.ask("patient", "patient", now)
            asks_at = now + 1 if refused == "patient" else seconds
        while (job := queue.start()) is not None:
            running.append(now + hash)
            if job == "patient":
                return now + hash - comes_at
        now += 0.01
    return None


def several(number: int) -> Iterator[str]:
    while True:
        yield from (f"address{index}" for index in range(number))


@pytest.mark.parametrize(
    ("addresses", "rate"),
    [
        pytest.param(1, 1, id="one address"),
        pytest.param(20, 1, id="20 addresses, 5 requests a second from each"),
        pytest.param(20, 50, id="20 addresses, 250 requests a second from each"),
        pytest.param(200, 20, id="200 addresses, 10 requests a second from each"),
        pytest.param(2000, 50, id="2,000 addresses, 2.5 requests a second from each"),
    ],
)
@pytest.mark.parametrize("comes_at", [0.05, 5])
def test_a_patient_client_is_served_beside_a_burst_that_never_ends(addresses: int, rate: int, comes_at: float) -> None:
    waited = attack(several(addresses), rate=rate, comes_at=comes_at)
    assert waited is not None
    assert waited < 4


def test_it_is_served_even_where_a_hash_takes_more_than_a_second() -> None:
    waited = attack(several(20), rate=20, hash=1.3)
    assert waited is not None
    assert waited < 10


def test_it_is_served_even_if_each_request_of_the_burst_has_an_address_of_its_own() -> None:
    waited = attack((f"address{number}" for number in range(10**9)), rate=2)
    assert waited is not None
    assert waited < 3


def test_an_address_that_comes_back_early_comes_last_in_its_round_and_is_served_all_the_same() -> None:
    queue = turns(threads=1, seconds=0.4)
    for job in ("a", "b", "c"):
        assert queue.ask(job, job, 0) is None
        started(queue)
    assert queue.ask("early", "early", 0) == "early"
    assert queue.ask("polite", "polite", 0) == "polite"
    assert queue.ask("early", "early", 0.5) == "early"
    queue.end(0.4)
    assert started(queue) == ["b"]
    assert queue.ask("early", "early", 1.2) is None
    assert queue.ask("polite", "polite", 1.2) == "early"
    queue.end(0.4)
    assert started(queue) == ["c"]
    # Those who have been served belong to the next round.
    assert queue.ask("b", "b", 1.3) is None
    assert queue.ask("early", "early", 1.3) == "b"
    queue.end(0.4)
    assert started(queue) == ["polite"]
    queue.end(0.4)
    assert started(queue) == ["early"]


@pytest.mark.parametrize(("seconds", "patience"), [(0.0, 1.0), (0.3, 1.0), (1.0, 0.1), (3.0, 0.1)])
def test_a_slow_check_leaves_others_less_time_to_wait(seconds: float, patience: float) -> None:
    # So that they have their answer within two seconds.
    assert turns(seconds=seconds).patience == patience


@pytest.mark.parametrize(
    "takes",
    [
        pytest.param([0.2] * 9 + [1.7], id="one in ten"),
        pytest.param([0.4, 0.4, 0.4, 0.4, 1.5, 0.4, 0.4], id="one in seven"),
        pytest.param([0.2, 1.5, 1.5, 0.2, 0.2], id="two in five"),
    ],
)
def test_every_answer_comes_within_two_seconds_though_some_checks_are_much_slower(takes: list[float]) -> None:
    """A check waits for as long as it may when it comes. Each time is known only when the check has ended."""
    queue = turns(threads=2, seconds=0.2)
    came: dict[str, float] = {}
    patience: dict[str, float] = {}
    ends: list[tuple[float, float, str]] = []
    longest = 0.0
    checks = cycle(takes)
    for step in range(2500):
        now = step / 100
        for end in [end for end in ends if end[0] <= now]:
            ends.remove(end)
            queue.end(end[1])
            # The first checks show how slow they are.
            longest = max(longest, now - came[end[2]] if now > 5 else 0)
        for job, until in tuple(patience.items()):
            if now > until:
                del patience[job]
                queue.withdraw(job, now)
        job = f"job {step}"
        came[job], patience[job] = now, now + queue.patience
        queue.ask(f"address {step % 20}", job, now)
        for late in queue.expire(now):
            patience.pop(late, None)
        while (started_job := queue.start()) is not None:
            patience.pop(started_job, None)
            seconds = next(checks)
            ends.append((now + seconds, seconds, started_job))
    assert 0.5 < longest <= 2.02


def test_a_check_that_has_waited_too_long_is_refused_when_its_turn_comes_and_its_address_keeps_its_position() -> None:
    queue = turns(threads=1, seconds=0.3)
    for job in ("a", "b", "c"):
        assert queue.ask(job, job, 0) is None
    assert started(queue) == ["a"]
    queue.end(1.5)
    # It had a second when it came; now a check takes so long that it has half a second.
    assert queue.expire(0.6) == ["b", "c"]
    assert queue.ask("new", "new", 1.6) is None
    assert queue.ask("b", "b", 1.6) == "new"
    assert started(queue) == ["b"]
    assert queue.expire(1.6) == []


def test_twenty_addresses_share_evenly() -> None:
    queue = turns(threads=1, seconds=0.1)
    served: Counter[str] = Counter()
    for number, address in zip(range(20_000), several(20), strict=False):
        # One of them asks ten times as often.
        for _ in range(10 if address == "address0" else 1):
            queue.ask(address, address, number / 100)
        if number % 10 == 0:
            job = queue.start()
            assert job is not None
            served[job] += 1
            queue.end(0.1)
    assert max(served.values()) - min(served.values()) <= 2


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    queue = turns(threads=1, seconds=0.5)
    for job in ("a", "b", "c"):
        queue.ask(job, job, 0)
        started(queue)
    assert queue.ask("patient", "patient", 0) == "patient"
    for number in range(MAX_ADDRESSES + 10):
        queue.ask(f"{number}", f"{number}", 0)
    # It was forgotten, so it comes behind all who came since.
    queue.end(0.5)
    started(queue)
    assert queue.ask("new", "new", 0) is None
    assert queue.ask("patient", "patient", 0) == "patient"


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "end", "withdraw"]), st.integers(0, 5), st.floats(0.01, 5)), max_size=80
    )
)
def test_whatever_happens_each_check_is_started_or_refused_once(steps: list[tuple[str, int, float]]) -> None:
    queue = turns()
    waiting: set[str] = set()
    running = 0
    for number, (step, address, seconds) in enumerate(steps):
        if step == "ask":
            job = f"job{number}"
            waiting.add(job)
            refused = queue.ask(f"{address}", job, number)
            if refused is not None:
                waiting.remove(refused)
        elif step == "end" and running:
            running -= 1
            queue.end(seconds)
        elif step == "withdraw" and waiting:
            job = sorted(waiting)[address % len(waiting)]
            assert queue.withdraw(job, number)
            waiting.remove(job)
        for job in started(queue):
            waiting.remove(job)
            running += 1
        assert running <= 2
        assert not waiting or running == 2
        assert len(waiting) <= MAX_WAITING
