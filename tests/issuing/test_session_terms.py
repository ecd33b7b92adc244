"""On which terms does a session live? Lifetimes, lost answers, other providers, clocks, and floods."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from jwt_middleware import ConfigurationError
from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.events import AnswerLost, Event
from jwt_middleware.issuing import InvalidGrant, MemoryStore, Session, Sessions, TokenIssuer
from jwt_middleware.issuing.rotation import Outcome, Realm, Rotation
from jwt_middleware.issuing.slots import AT_ONCE, MOST_WAITING, PATIENCE, SessionSlots
from jwt_middleware.issuing.users import ScopeNotGranted
from jwt_middleware.testing.store_contract import opening

from ..support import SECRET
from ..support.clock import NOW, Clock
from ..support.logs import logged
from ..support.tokens import verified

pytestmark = pytest.mark.anyio
DAY = 24 * 3600
GRACE = 10


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sessions_of(clock: Clock, store: Any = None, issuer: dict[str, Any] | None = None, **options: Any) -> Sessions:
    tokens = TokenIssuer(SECRET, **{"audience": "orders", "clock": clock, **(issuer or {})})
    return Sessions(MemoryStore(clock=clock) if store is None else store, tokens, **options)


async def outcome_of(refresh: Awaitable[Any]) -> str:
    try:
        await refresh
    except InvalidGrant as refused:
        return refused.reason
    return "refreshed"


# A lifetime of its own


async def test_a_session_may_have_a_lifetime_of_its_own(clock: Clock) -> None:
    sessions = sessions_of(clock)
    grant = await sessions.open("ada", lifetime=DAY)
    assert (grant.expires_in, grant.refresh_expires_in) == (900, DAY)
    clock.now += DAY - 300
    grant = await sessions.refresh(grant.refresh_token)
    # No token outlives it.
    assert (grant.expires_in, grant.refresh_expires_in) == (300, 300)
    clock.now += 300
    assert await outcome_of(sessions.refresh(grant.refresh_token)) == "session is over"


async def test_a_session_keeps_its_lifetime_wherever_it_is_refreshed(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    short, long = sessions_of(clock, store), sessions_of(clock, store, idle_lifetime=90 * DAY)
    grant = await short.open("ada", lifetime=DAY)
    clock.now += 3600
    await long.refresh(grant.refresh_token)
    (session,) = await long.list("ada")
    assert session.expires_at == NOW + DAY


@pytest.mark.parametrize(
    "lifetime",
    [
        pytest.param(0, id="none"),
        pytest.param(-5, id="a negative one"),
        pytest.param(91 * DAY, id="more than session_lifetime"),
        pytest.param("1 day", id="a text"),
        pytest.param(True, id="yes"),
        pytest.param(float("inf"), id="for ever"),
    ],
)
async def test_a_lifetime_that_cannot_be_opens_no_session(clock: Clock, lifetime: Any) -> None:
    sessions = sessions_of(clock)
    with pytest.raises(ValueError, match="lifetime must be"):
        await sessions.open("ada", lifetime=lifetime)
    assert await sessions.list("ada") == ()


# A client that lost an answer


@pytest.mark.parametrize("wait", [60, 3600, 10 * DAY])
async def test_a_client_that_lost_an_answer_goes_on_with_the_token_that_it_has(clock: Clock, wait: float) -> None:
    heard: list[Event] = []
    sessions = sessions_of(clock, reuse="until_used", on_event=heard.append)
    grant = await sessions.open("ada")
    for number in range(1, 4):
        clock.now += wait
        await sessions.refresh(grant.refresh_token)
        assert sum(isinstance(event, AnswerLost) for event in heard) == number - 1
    clock.now += 60
    again = await sessions.refresh(grant.refresh_token)
    clock.now += 60
    assert await outcome_of(sessions.refresh(again.refresh_token)) == "refreshed"
    await sessions.stop()


async def test_without_that_setting_it_is_logged_out(clock: Clock) -> None:
    sessions = sessions_of(clock)
    grant = await sessions.open("ada")
    clock.now += 60
    await sessions.refresh(grant.refresh_token)
    clock.now += 60
    assert await outcome_of(sessions.refresh(grant.refresh_token)) == "refresh token was used before"


@pytest.mark.parametrize("first", ["owner", "thief"])
@pytest.mark.parametrize("wait", [GRACE / 2, 600], ids=["within grace", "later"])
async def test_two_holders_who_alternate_refresh_tokens_are_found_out(clock: Clock, first: str, wait: float) -> None:
    """Both hold one token, and each presents the newest that it was given."""
    sessions = sessions_of(clock, reuse="until_used", grace=GRACE)
    grant = await sessions.open("ada")
    clock.now += 600
    held = {"owner": grant.refresh_token, "thief": grant.refresh_token}
    order = ["owner", "thief"] if first == "owner" else ["thief", "owner"]

    async def take_turns() -> None:
        for turn in range(8):
            who = order[turn % 2]
            held[who] = (await sessions.refresh(held[who])).refresh_token
            # In the end both wait for longer than a grace.
            clock.now += wait if turn < 2 else 600

    with pytest.raises(InvalidGrant, match="refresh token was used before"):
        await take_turns()
    assert held["owner"] != grant.refresh_token or held["thief"] != grant.refresh_token
    assert await sessions.list("ada") == ()


async def test_a_successor_that_was_presented_within_grace_was_used(clock: Clock) -> None:
    sessions = sessions_of(clock, reuse="until_used")
    first = await sessions.open("ada")
    clock.now += 60
    second = await sessions.refresh(first.refresh_token)
    clock.now += 1
    await sessions.refresh(second.refresh_token)
    clock.now += 60
    assert await outcome_of(sessions.refresh(first.refresh_token)) == "refresh token was used before"


def test_how_long_a_token_may_be_used_again_is_one_of_two() -> None:
    with pytest.raises(ConfigurationError, match="reuse must be 'within_grace' or 'until_used'"):
        sessions_of(Clock(), reuse="always")


@pytest.mark.parametrize("scope", ["b", "b c"])
async def test_a_parallel_tab_may_ask_for_fewer_scopes(clock: Clock, scope: str) -> None:
    sessions = sessions_of(clock)
    first = await sessions.open("ada", scopes=["a", "b"])
    clock.now += 60
    second = await sessions.refresh(first.refresh_token)
    again = await sessions.refresh(first.refresh_token, scope=scope)
    assert again.scopes == ("b",)
    with pytest.raises(ScopeNotGranted):
        await sessions.refresh(first.refresh_token, scope="z")
    assert await outcome_of(sessions.refresh(second.refresh_token)) == "refreshed"


# Another provider, another issuer


OTHERS = [
    pytest.param({"provider": "partners"}, id="another provider"),
    pytest.param({"issuer": "https://b.example"}, id="another issuer"),
    pytest.param({"provider": "partners", "issuer": "https://b.example"}, id="both"),
]


async def test_a_token_stands_for_its_session_and_for_its_subject(clock: Clock) -> None:
    sessions = sessions_of(clock)
    grants = [await sessions.open("ada") for _ in range(3)]
    token = verified(session_id=grants[0].session_id)
    assert len(await sessions.list(token)) == 3
    assert await sessions.revoke(token) == 1
    assert {session.id for session in await sessions.list(token)} == {grant.session_id for grant in grants[1:]}
    assert await sessions.revoke(subject=token) == 2
    assert await sessions.list(token) == ()


async def test_a_token_without_a_session_stands_for_itself(clock: Clock) -> None:
    sessions = sessions_of(clock)
    token, other = verified(id="a"), verified(id="b")
    assert await sessions.revoke(token) == 1
    await sessions.catch_up()
    assert [sessions.is_revoked(one) for one in (token, other)] == [True, False]
    with pytest.raises(ValueError, match="neither sid nor jti"):
        await sessions.revoke(verified())
    with pytest.raises(ValueError, match="has no subject"):
        await sessions.list(verified(subject=None))
    await sessions.stop()


@pytest.mark.parametrize("other", OTHERS)
async def test_a_token_of_another_issuer_reaches_no_session_of_the_same_subject(
    clock: Clock, other: dict[str, Any]
) -> None:
    """``sub: "1"`` of partners is not user 1 of staff."""
    sessions = sessions_of(clock)
    grant = await sessions.open("1")
    token = verified(subject="1", session_id=grant.session_id, **other)
    steps: tuple[Callable[[], Awaitable[Any]], ...] = (
        partial(sessions.list, token),
        partial(sessions.revoke, token),
        partial(sessions.revoke, subject=token),
    )
    for step in steps:
        with pytest.raises(ValueError, match="the token is of provider"):
            await step()
    assert [session.id for session in await sessions.list("1")] == [grant.session_id]


@pytest.mark.parametrize(
    "other", [{"name": "partners"}, {"issuer": "https://b.example"}], ids=["another provider", "another issuer"]
)
async def test_two_services_in_one_store_do_not_meet(clock: Clock, other: dict[str, str]) -> None:
    store = MemoryStore(clock=clock)
    staff, partners = sessions_of(clock, store), sessions_of(clock, store, issuer=other)
    grant = await staff.open("1")
    await partners.open("1")
    assert len(await partners.list("1")) == 1
    assert await partners.revoke(subject="1") == 1
    assert await outcome_of(partners.refresh(grant.refresh_token)) != "refreshed"
    await partners.revoke(session=grant.session_id)
    assert len(await staff.list("1")) == 1
    assert await outcome_of(staff.refresh(grant.refresh_token)) == "refreshed"


async def test_a_token_of_one_issuer_of_several_is_revoked_alone(clock: Clock) -> None:
    sessions = sessions_of(clock)
    await sessions.revoke(jti="x", expires_at=NOW + 900, provider="entra", issuer="https://a.example")
    await sessions.catch_up()
    tokens = [verified(provider="entra", issuer=f"https://{name}.example", id="x") for name in "ab"]
    assert [sessions.is_revoked(token) for token in tokens] == [True, False]
    await sessions.revoke(jti="x", expires_at=NOW + 900, provider="entra")
    assert [sessions.is_revoked(token) for token in tokens] == [True, True]
    await sessions.stop()


# Clocks


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(0, None), (5, None), (3600, "3600 s ahead of"), (-3600, "3600 s behind")],
    ids=["right", "a little ahead", "an hour ahead", "an hour behind"],
)
async def test_clocks_that_differ_are_told_once(
    clock: Clock, caplog: pytest.LogCaptureFixture, ahead: float, said: str | None
) -> None:
    sessions = sessions_of(clock, MemoryStore(clock=lambda: clock.now + ahead))
    grant = await sessions.open("ada")
    await sessions.refresh(grant.refresh_token)
    lines = [text for _, text in logged(caplog)]
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


@pytest.mark.parametrize("ahead", [1500, 3600, DAY, -DAY])
async def test_a_logout_holds_wherever_the_clock_of_the_store_is(clock: Clock, ahead: float) -> None:
    store = MemoryStore(clock=lambda: clock.now + ahead)
    here, there = sessions_of(clock, store), sessions_of(clock, store)
    grant = await here.open("ada")
    await here.logout(grant.refresh_token)
    # Another step sweeps what is over.
    await here.open("bob")
    await there.catch_up()
    assert there.is_revoked(verified(session_id=grant.session_id)) is True
    await there.stop()


# A memory store of which there are two


async def test_a_session_of_another_process_is_told_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    here, there = sessions_of(clock), sessions_of(clock)
    before = await there.open("ada")
    clock.now += 60
    newer = sessions_of(clock)
    grant = await there.open("ada")
    clock.now += 60
    for raw in (before.refresh_token, grant.refresh_token, grant.refresh_token):
        assert await outcome_of(here.refresh(raw)) == "session is over"
    told = [said for _, said in logged(caplog) if "another process has opened it" in said]
    assert len(told) == 1
    caplog.clear()
    # It was signed before the process started: that process has forgotten it, as memories do.
    assert await outcome_of(newer.refresh(before.refresh_token)) == "session is over"
    assert logged(caplog) == []


async def test_a_session_that_has_ended_here_is_not_taken_for_another_processes(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = sessions_of(clock, idle_lifetime=1000)
    clock.now += 60
    grant = await sessions.open("ada")
    clock.now += 2 * DAY
    await sessions.open("bob")
    assert await outcome_of(sessions.refresh(grant.refresh_token)) == "session is over"
    assert logged(caplog) == []


async def test_a_memory_store_remembers_a_bounded_number_of_sessions(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jwt_middleware.issuing.stores.memory.HELD", 50)
    store = MemoryStore(clock=clock)
    for number in range(52):
        assert store.has_held("another") is (number > 50)
        await store.open(opening(f"{number}", f"{number}", idle_lifetime=1, session_lifetime=1), max_sessions=9)
    assert store.has_held("another")


# Health


async def test_sessions_say_how_their_store_is(clock: Clock) -> None:
    class Failing(MemoryStore):
        error: str | None = None
        problem: str | None = None

        async def sessions(self, subject: str, realm: Realm) -> tuple[Session, ...]:
            if self.error is not None:
                raise StoreUnavailable(self.error)
            return await super().sessions(subject, realm)

    store = Failing(clock=clock)
    sessions = sessions_of(clock, store)
    health = sessions.health()
    assert (health.store_error, health.revocations_error, health.revocations_age) == (None, None, float("inf"))
    store.error = "out"
    with pytest.raises(StoreUnavailable):
        await sessions.list("ada")
    assert sessions.health().store_error == "out"
    store.error = None
    await sessions.list("ada")
    assert sessions.health().store_error is None
    store.problem = "the file was replaced"
    assert sessions.health().store_error == "the file was replaced"
    await sessions.catch_up()
    assert sessions.health().revocations_age < 60
    await sessions.stop()


# A flood


@pytest.mark.virtual_time
async def test_one_session_has_few_steps_under_way_and_others_do_not_wait_for_it(clock: Clock) -> None:
    under_way = most = 0

    class Slow(MemoryStore):
        async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await anyio.sleep(0.1)
            under_way -= 1
            return await super().rotate(rotation)

    sessions = sessions_of(clock, Slow(clock=clock))
    grant, other = await sessions.open("mallory"), await sessions.open("ada")
    answers = {"refreshed": 0, "503": 0}

    async def flood() -> None:
        try:
            await sessions.refresh(grant.refresh_token)
            answers["refreshed"] += 1
        except StoreUnavailable:
            answers["503"] += 1

    async with anyio.create_task_group() as together:
        for _ in range(200):
            together.start_soon(flood)
        await anyio.sleep(0.05)
        began = anyio.current_time()
        await sessions.refresh(other.refresh_token)
        assert anyio.current_time() - began < 0.15
    # The other session's, too.
    assert most <= AT_ONCE + 1
    assert answers["refreshed"] >= AT_ONCE
    assert sum(answers.values()) == 200


@pytest.mark.virtual_time
async def test_a_step_waits_for_a_place_for_a_while_and_only_so_many_wait() -> None:
    slots = SessionSlots()
    refused: list[float] = []

    async def wait() -> None:
        try:
            await slots.run("s", partial(anyio.sleep, 60))
        except StoreUnavailable:
            refused.append(anyio.current_time())

    began = anyio.current_time()
    async with anyio.create_task_group() as together:
        for _ in range(AT_ONCE + MOST_WAITING + 1):
            together.start_soon(wait)
    assert len(refused) == MOST_WAITING + 1
    assert refused[0] - began < 0.01
    assert refused[1] - began == pytest.approx(PATIENCE, abs=0.1)
    # What was left is free again.
    await slots.run("s", partial(anyio.sleep, 0))


def test_places_belong_to_an_event_loop(clock: Clock) -> None:
    sessions = sessions_of(clock)

    async def use() -> None:
        grant = await sessions.open("ada")
        await asyncio.gather(*(sessions.refresh(grant.refresh_token) for _ in range(3 * AT_ONCE)))

    for _ in range(3):
        asyncio.run(use())
