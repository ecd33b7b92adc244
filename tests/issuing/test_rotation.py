"""By which rule a generation moves: as a table, and as what holds whatever clients do."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jwt_middleware.issuing import Session
from jwt_middleware.issuing.rotation import Outcome, Realm, Rotation, rotate
from jwt_middleware.issuing.steady import SteadyTime
from jwt_middleware.testing.store_contract import opening, rotation

from ..support import NOW

GRACE = 10
CURRENT = 5


def begun(now: float = NOW, **changes: Any) -> Session:
    return opening("s", **changes).begin(now, now)


def presented(generation: int, **changes: Any) -> Rotation:
    return rotation("s", generation, **{"grace": GRACE, **changes})


def rotated(session: Session | None, rotation: Rotation, now: float) -> tuple[Outcome, Session | None]:
    """``rotate`` by a clock that never jumps."""
    return rotate(session, rotation, now, now)


@pytest.mark.parametrize(
    ("generation", "after", "outcome", "becomes"),
    [
        pytest.param(CURRENT, GRACE, Outcome.NEXT, CURRENT + 1, id="the current one, when grace is over"),
        pytest.param(CURRENT, GRACE - 0.001, Outcome.AGAIN, CURRENT, id="the current one, within grace"),
        pytest.param(CURRENT, 0, Outcome.AGAIN, CURRENT, id="the current one, at once"),
        pytest.param(CURRENT, -30, Outcome.NEXT, CURRENT + 1, id="the current one, where the store lost its time"),
        pytest.param(CURRENT - 1, -30, Outcome.THEFT, CURRENT, id="the one before, where the store lost its time"),
        pytest.param(CURRENT - 1, GRACE - 0.001, Outcome.AGAIN, CURRENT, id="the one before, within grace"),
        pytest.param(CURRENT - 1, GRACE, Outcome.THEFT, CURRENT, id="the one before, when grace is over"),
        pytest.param(CURRENT - 2, 0, Outcome.THEFT, CURRENT, id="an older one, within grace"),
        pytest.param(0, 500, Outcome.THEFT, CURRENT, id="one that never was"),
        pytest.param(-1, 0, Outcome.THEFT, CURRENT, id="a negative one"),
        pytest.param(CURRENT + 1, 0, Outcome.AHEAD, CURRENT + 2, id="one that the store has lost"),
        pytest.param(CURRENT + 9, 500, Outcome.AHEAD, CURRENT + 10, id="the last of many that the store has lost"),
        pytest.param(CURRENT, 1000, Outcome.GONE, None, id="the current one of an idle session"),
        pytest.param(0, 1000, Outcome.GONE, None, id="an older one of an idle session"),
        pytest.param(CURRENT + 1, 10_000, Outcome.GONE, None, id="a higher one of a session that is over"),
    ],
)
def test_what_becomes_of_a_generation(generation: int, after: float, outcome: Outcome, becomes: int | None) -> None:
    session = replace(begun(), generation=CURRENT, parent=CURRENT - 1)
    found, moved = rotated(session, presented(generation, grace=GRACE), NOW + after)
    assert (found, moved and moved.generation) == (outcome, becomes)
    if outcome is Outcome.THEFT:
        assert moved is session
    elif moved is not None:
        assert moved.used_at == NOW + after
        assert moved.rotated_at == (NOW if outcome is Outcome.AGAIN else NOW + after)
        assert moved.expires_at == NOW + after + 1000


def test_without_a_session_there_is_no_theft() -> None:
    assert rotated(None, presented(1), NOW) == (Outcome.GONE, None)


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_after_the_deadline_nothing_happens(generation: int) -> None:
    session = begun()
    late = presented(generation, deadline=NOW + 50)
    assert rotated(session, late, NOW + 50.001) == (Outcome.LATE, session)
    assert rotated(None, late, NOW + 50.001) == (Outcome.LATE, None)
    assert rotated(session, late, NOW + 50)[0] is not Outcome.LATE


def test_a_session_is_renewed_until_its_end_at_most() -> None:
    session = begun(session_lifetime=1500)
    _, moved = rotated(session, presented(1), NOW + 900)
    assert moved is not None
    assert moved.expires_at == moved.ends_at == NOW + 1500


def test_the_latest_expiry_of_its_access_tokens_is_kept() -> None:
    session = begun(access_lifetime=900)
    for lifetime, kept in ((800, NOW + 900), (1000, NOW + 1000)):
        _, moved = rotated(session, presented(1, access_lifetime=lifetime), NOW)
        assert moved is not None
        assert moved.access_until == kept


def test_what_was_granted_does_not_move() -> None:
    granted: dict[str, Any] = {"scopes": ("a",), "claims": {"n": 1}, "device": "phone"}
    session = begun(session_lifetime=9000, **granted)
    _, moved = rotated(session, presented(1), NOW + 60)
    assert moved is not None
    assert {name: getattr(moved, name) for name in granted} == granted
    assert (moved.id, moved.subject, moved.opened_at, moved.ends_at) == ("s", "ada", NOW, NOW + 9000)


waits = st.floats(0, 3 * GRACE)


@given(steps=st.lists(st.tuples(waits, st.integers(0, 1000)), max_size=60))
def test_there_are_never_two_live_generations(steps: list[tuple[float, int]]) -> None:
    """Whatever comes, of what was ever given: one is current, it moves by one, and once in a grace."""
    session: Session | None = begun()
    now, given_out, moved_at = float(NOW), [1], float(NOW)
    for wait, choice in steps:
        now += wait
        generation = given_out[choice % len(given_out)]
        before = session
        outcome, session = rotated(before, presented(generation), now)
        assert outcome in (Outcome.NEXT, Outcome.AGAIN, Outcome.THEFT, Outcome.GONE)
        if before is None:
            assert outcome is Outcome.GONE
        elif outcome is Outcome.NEXT:
            assert session is not None
            assert session.generation == before.generation + 1
            assert now - moved_at >= GRACE
            moved_at = now
            given_out.append(session.generation)
        elif outcome is Outcome.AGAIN:
            assert session is not None
            assert session.generation == before.generation == max(given_out)
        elif outcome is Outcome.THEFT:
            assert session is before
            assert generation < before.generation
            session = None


tabs_and_losses = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 1)), min_size=1, max_size=12)


@given(bursts=st.lists(st.tuples(waits, tabs_and_losses), max_size=12), lost=st.integers(0, 3))
def test_tabs_and_lost_answers_within_grace_are_never_theft(
    bursts: list[tuple[float, list[tuple[int, bool, float]]]], lost: int
) -> None:
    """Four tabs refresh in bursts shorter than grace, as often as they like; an answer may be lost, if one comes later.

    Meanwhile the store forgets some generations: a failover.
    """
    session: Session | None = begun()
    now, tabs = float(NOW), [1] * 4

    def refresh(tab: int, *, keep: bool) -> None:
        nonlocal session
        outcome, session = rotated(session, presented(tabs[tab]), now)
        assert session is not None, outcome
        if keep:
            tabs[tab] = session.generation

    for wait, steps in bursts:
        now += wait
        assert session is not None
        generation = max(1, session.generation - lost)
        session = replace(session, generation=generation, parent=generation - 1 or None, rotated_at=now - GRACE)
        for tab, is_lost, part in steps:
            now += part * 0.9 * GRACE / len(steps)
            refresh(tab, keep=not is_lost)
        for tab in range(4):
            refresh(tab, keep=True)
        assert len(set(tabs)) == 1


@given(thief_first=st.booleans(), wait=st.floats(GRACE, 900), gap=st.floats(GRACE, 900 - GRACE))
def test_of_two_who_hold_one_token_the_second_is_found_out(thief_first: bool, wait: float, gap: float) -> None:
    """Outside grace it is unknown which of the two parties is the thief, so the session ends for both."""
    outcome, session = rotated(begun(), presented(1), NOW + wait)
    assert outcome is Outcome.NEXT
    outcome, _ = rotated(session, presented(1), NOW + wait + gap)
    assert outcome is Outcome.THEFT


# A client that lost an answer, where a parent is good until its successor was presented


def reusing(generation: int) -> Rotation:
    return presented(generation, reuse_until_used=True, idle_lifetime=1e6)


def test_a_parent_gets_another_successor_however_late_it_comes() -> None:
    session = replace(begun(idle_lifetime=1e6, session_lifetime=1e6), generation=2, parent=1)
    for generation, after in ((3, 3600), (4, 7200)):
        outcome, again = rotated(session, reusing(1), NOW + after)
        assert (outcome, again and (again.generation, again.parent)) == (Outcome.REISSUED, (generation, 1))
        assert again is not None
        session = again
        # A parallel tab, within grace of that.
        assert rotated(session, reusing(1), NOW + after + GRACE - 1)[0] is Outcome.AGAIN
    assert rotated(session, presented(1), NOW + 9000)[0] is Outcome.THEFT


@pytest.mark.parametrize("after", [1, GRACE], ids=["within grace", "later"])
def test_once_its_successor_was_presented_a_parent_is_theft(after: float) -> None:
    session: Session | None = replace(begun(), generation=2, parent=1)
    _, session = rotated(session, reusing(2), NOW + after)
    assert rotated(session, reusing(1), NOW + 100)[0] is Outcome.THEFT


def test_a_successor_that_was_replaced_unused_is_theft() -> None:
    _, session = rotated(replace(begun(), generation=2, parent=1), reusing(1), NOW + 60)
    assert rotated(session, reusing(2), NOW + 61)[0] is Outcome.THEFT


@given(
    turns=st.lists(st.tuples(st.booleans(), st.floats(GRACE, 900)), min_size=4, max_size=30),
)
def test_two_holders_who_take_turns_are_found_out_when_both_have_used_what_they_got(
    turns: list[tuple[bool, float]],
) -> None:
    """Both hold the same token; each presents the newest that it has, in any order. None of them stays unnoticed."""
    session: Session | None = begun(idle_lifetime=1e6, session_lifetime=1e6)
    now, held, used = float(NOW), [1, 1], [0, 0]
    for is_thief, wait in turns:
        now += wait
        outcome, session = rotated(session, reusing(held[is_thief]), now)
        if outcome is Outcome.THEFT:
            return
        assert session is not None
        held[is_thief] = session.generation
        used[is_thief] += 1
        # Whoever has presented a successor of its own has made the other's token one that is neither.
        assert min(used) < 2


# A clock that is set


@pytest.mark.parametrize("back", [60, 3595, 3600, 24 * 3600])
def test_a_token_that_was_replaced_an_hour_ago_is_theft_wherever_the_clock_jumps_back_to(back: float) -> None:
    steady = SteadyTime().read(NOW)
    _, session = rotate(begun(), presented(1), NOW + 60, (steady := steady.read(NOW + 60)).time)
    steady = steady.read(NOW + 60 + 3600)
    now = NOW + 60 + 3600 - back + 5
    assert session is not None
    session = replace(session, expires_at=NOW + 1e6)
    assert rotate(session, presented(1), now, steady.read(now).time)[0] is Outcome.THEFT


@given(readings=st.lists(st.floats(-90_000, 90_000), min_size=2, max_size=20))
def test_steady_time_never_goes_back_and_never_loses_time_that_the_clock_saw(readings: list[float]) -> None:
    state = SteadyTime().read(NOW)
    now = float(NOW)
    for step in readings:
        now += step
        before, state = state, state.read(now)
        assert state.time >= before.time - 1e-3
        assert state.time - before.time >= step - 1e-3


def test_a_later_reading_of_this_process_counts_as_well() -> None:
    state = SteadyTime().read(NOW).read(NOW + 2, latest=NOW + 50)
    assert state.time > NOW + 50 + GRACE


def test_a_clock_that_is_a_little_behind_was_not_set() -> None:
    """The host that takes over after a failover, or the nudge of a time server."""
    assert SteadyTime().read(NOW).read(NOW - 0.5).time == NOW


def test_a_session_of_another_realm_is_gone() -> None:
    assert rotated(begun(), presented(1, realm=Realm("other")), NOW) == (Outcome.GONE, None)


def test_a_session_that_begins_has_no_parent() -> None:
    assert rotated(begun(), presented(0), NOW)[0] is Outcome.THEFT
