"""The schedule of fetches as a table: it is pure, so every moment is a number."""

from typing import Any

import pytest

from jwt_middleware.keys.schedule import Rules, Schedule, Step

HOUR, DAY = 3600, 24 * 3600
RULES = Rules(cooldown=30, refresh_after=600, refresh_limits=(60, HOUR), max_stale=DAY, timeout=5)
EMPTY = Schedule(RULES)


def fetched(at: float = 1000, *, max_age: float | None = None, chance: float = 1, rules: Rules = RULES) -> Schedule:
    """The schedule after a first fetch that began and succeeded ``at`` this time."""
    return Schedule(rules).begin(at).ask(at).succeed(at, max_age, chance)


@pytest.mark.parametrize(
    ("schedule", "now", "step"),
    [
        pytest.param(EMPTY, 0, Step.FETCH, id="there are no keys"),
        pytest.param(EMPTY.begin(0), 1, Step.NOTHING, id="the first attempt is under way"),
        pytest.param(EMPTY.begin(0).ask(0), 5.9, Step.NOTHING, id="it takes its time"),
        pytest.param(EMPTY.begin(0).ask(0), 6, Step.FETCH, id="its event loop must have left it"),
        pytest.param(EMPTY.begin(0).ask(0).fail(0.5, 1), 0.9, Step.NOTHING, id="it failed within the second"),
        pytest.param(EMPTY.begin(0).ask(0).fail(0.5, 1), 1, Step.FETCH, id="a second has passed"),
        pytest.param(EMPTY.begin(0).cut_short(), 0, Step.FETCH, id="it asked nothing"),
        pytest.param(EMPTY.begin(0).ask(0).cut_short(), 0.9, Step.NOTHING, id="it asked and was cut short"),
        pytest.param(fetched(), 1569, Step.NOTHING, id="the keys are fresh"),
        pytest.param(fetched(), 1570, Step.FETCH, id="95 % of ten minutes have passed"),
        pytest.param(fetched(chance=0), 1450, Step.FETCH, id="75 % of ten minutes have passed"),
        pytest.param(fetched(max_age=100), 1095, Step.FETCH, id="the answer said 100 s"),
        pytest.param(fetched(max_age=1), 1057, Step.FETCH, id="the answer said too little"),
        pytest.param(fetched(max_age=DAY), 1000 + 0.95 * HOUR, Step.FETCH, id="the answer said too much"),
        pytest.param(fetched().begin(1600).ask(1600).fail(1600, 1), 1637, Step.NOTHING, id="a refresh failed"),
        pytest.param(
            fetched().begin(1600).ask(1600).fail(1600, 1), 1637.5, Step.FETCH, id="cooldown and chance have passed"
        ),
        pytest.param(fetched().begin(1600).ask(1600).cut_short(), 1629, Step.NOTHING, id="a refresh was cut short"),
        pytest.param(fetched().begin(1600).ask(1600).cut_short(), 1630, Step.FETCH, id="the cooldown has passed"),
        pytest.param(fetched().begin(1600).cut_short(), 1600, Step.FETCH, id="a refresh was cut short, unasked"),
        pytest.param(fetched(), 1000 + HOUR, Step.WITHHOLD, id="no attempt ended for an hour"),
        pytest.param(
            fetched().begin(1000 + HOUR - 1).ask(1000 + HOUR - 1).cut_short(),
            1000 + HOUR,
            Step.WITHHOLD,
            id="all were cut short",
        ),
        pytest.param(fetched().begin(4000).ask(4000).fail(4000, 0), 4001, Step.NOTHING, id="one ended, but failed"),
        pytest.param(fetched().begin(4000).ask(4000).fail(4000, 0), 4000 + HOUR, Step.WITHHOLD, id="an hour ago"),
        pytest.param(fetched().withhold(), 1001, Step.NOTHING, id="withheld"),
        pytest.param(fetched().withhold().release(5000), 5000 + HOUR - 1, Step.FETCH, id="one has waited"),
        pytest.param(fetched().withhold(), 1000 + DAY, Step.DISCARD, id="withheld until they are too old"),
        pytest.param(fetched(), 1000 + DAY, Step.DISCARD, id="too old"),
        pytest.param(fetched().discard(1000 + DAY), 1001 + DAY, Step.FETCH, id="discarded"),
        pytest.param(EMPTY.begin(0).ask(0).inherit(), 0, Step.FETCH, id="forked during an attempt"),
        pytest.param(fetched().inherit(), 1569, Step.NOTHING, id="forked after a fetch"),
    ],
)
def test_the_next_step_follows_from_what_has_happened(schedule: Schedule, now: float, step: Step) -> None:
    assert schedule.next_step(now) is step


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(EMPTY, id="no keys"),
        pytest.param(EMPTY.begin(0).ask(0), id="an attempt under way"),
        pytest.param(fetched(), id="keys"),
        pytest.param(fetched().begin(1600).ask(1600), id="a refresh under way"),
        pytest.param(fetched().begin(1600).ask(1600).fail(1601, 0.5), id="a failed refresh"),
        pytest.param(fetched().withhold(), id="withheld"),
        pytest.param(fetched().withhold().begin(9000).ask(9000), id="withheld, with an attempt under way"),
    ],
)
def test_before_it_is_due_there_is_nothing_to_do(schedule: Schedule) -> None:
    moments = [moment * 7.0 for moment in range(-10, 13_000)]
    assert all(schedule.next_step(now) is Step.NOTHING for now in moments if now < schedule.due)
    assert all(schedule.next_step(now) is not Step.NOTHING for now in moments if now >= schedule.due)


@pytest.mark.parametrize(
    ("schedule", "now", "allowed"),
    [
        pytest.param(fetched(), 1029, False, id="the first fetch starts a whole cooldown"),
        pytest.param(fetched(), 1030, True, id="it has passed"),
        pytest.param(fetched().begin(2000).ask(2000).fail(2001, 0), 2029, False, id="so does a failed one"),
        pytest.param(fetched().begin(2000).cut_short(), 2000, True, id="one that asked nothing starts none"),
        pytest.param(fetched().withhold().begin(9000).ask(9000).cut_short(), 9001, True, id="withheld keys have none"),
        pytest.param(fetched().discard(1000), 1000, False, id="discarded keys have a second"),
        pytest.param(fetched().discard(1000), 1001, True, id="it has passed, too"),
        pytest.param(fetched().inherit(), 1000, True, id="a forked process has none from its parent"),
    ],
)
def test_a_fetch_is_allowed_after_the_cooldown(schedule: Schedule, now: float, allowed: bool) -> None:
    assert schedule.may_begin(now) is allowed


def test_an_attempt_is_given_up_a_second_after_its_time() -> None:
    schedule = fetched().begin(2000)
    assert schedule.is_under_way(2005.9)
    assert not schedule.is_under_way(2006)
    assert not schedule.cut_short().is_under_way(2000)


@pytest.mark.parametrize(
    ("changes", "wait"),
    [
        ({}, HOUR),
        ({"refresh_limits": (60, 2 * HOUR)}, 2 * HOUR),
        ({"refresh_after": 3 * HOUR}, 3 * HOUR),
        ({"refresh_limits": (1, 2)}, HOUR),
    ],
)
def test_keys_are_withheld_after_an_hour_or_after_a_longer_refresh(changes: dict[str, Any], wait: float) -> None:
    settings = {"cooldown": 30, "refresh_after": 600, "refresh_limits": (60, HOUR), "max_stale": DAY, "timeout": 5}
    schedule = fetched(0, rules=Rules(**{**settings, **changes}))
    assert schedule.next_step(wait - 1) is not Step.WITHHOLD
    assert schedule.next_step(wait) is Step.WITHHOLD


def test_keys_are_refreshed_before_half_of_their_longest_life_has_passed() -> None:
    rules = Rules(cooldown=10, refresh_after=600, refresh_limits=(60, HOUR), max_stale=100, timeout=5)
    assert fetched(0, rules=rules).next_step(47.5) is Step.FETCH
