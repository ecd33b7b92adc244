"""Sessions over a store in memory, whose clock stands still until it is set."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import jwt
import pytest

from jwt_middleware import ConfigurationError, JWTMiddleware, Provider, Revocation, Token, Verifier
from jwt_middleware.errors import Refusal, Revoked, StoreUnavailable
from jwt_middleware.events import AnswerLost, Event, SessionEnded, SessionOpened, SessionRefreshed, WritesLost
from jwt_middleware.issuing import InvalidGrant, MemoryStore, Session, Sessions, TokenIssuer
from jwt_middleware.issuing.refresh_tokens import REFRESH_AUDIENCE, REFRESH_TYPE
from jwt_middleware.issuing.rotation import Outcome, Realm, Rotation
from jwt_middleware.issuing.store_calls import STORE_SECONDS
from jwt_middleware.issuing.unanswered import MOST, Unanswered
from jwt_middleware.issuing.users import ScopeNotGranted
from jwt_middleware.revocation.revoked import MARGIN, RETENTION

from ..support import NOW, SECRET, Clock, bearer, echo, http, logged, sent, signed, until
from ..support.keys import ED25519, RSA, SECRET_64, SIGNERS, jwk, pem, private_pem

pytestmark = pytest.mark.anyio
GRACE = 10
DAY = 24 * 3600
OTHER_SECRET = "another secret of thirty-two bytes"


@dataclass
class User:
    identity: Any = "ada"
    scopes: Any = None
    claims: Any = None


Make = Callable[..., Sessions]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(clock: Clock) -> AsyncIterator[Make]:
    """Makes ``Sessions`` with the options of both, over a store of its own if none is given."""
    made: list[Sessions] = []

    def make(
        key: Any = SECRET,
        *,
        store: Any = None,
        clock: Any = clock,
        issuer: dict[str, Any] | None = None,
        **options: Any,
    ) -> Sessions:
        tokens = TokenIssuer(key, **{"audience": "orders", "clock": clock, **(issuer or {})})
        made.append(Sessions(MemoryStore(clock=clock) if store is None else store, tokens, **options))
        return made[-1]

    yield make
    for sessions in made:
        await sessions.stop()


def read(raw: str) -> dict[str, Any]:
    """The claims of a token, as PyJWT reads them."""
    claims: dict[str, Any] = jwt.decode(raw, options={"verify_signature": False})
    return claims


def refresh_token_of(sessions: Sessions, claims: dict[str, Any]) -> str:
    """A refresh token of ``ada`` with ``claims``, signed as the sessions sign theirs."""
    tokens = sessions.tokens
    (key, *_), audiences = tokens.derived_keys(REFRESH_TYPE), [f"{REFRESH_AUDIENCE}:{one}" for one in tokens.audiences]
    issuer = TokenIssuer(key, audiences, tokens.issuer, token_type=REFRESH_TYPE, name=tokens.name, clock=tokens.clock)
    return issuer.mint("ada", claims=claims)


async def verified(sessions: Sessions, raw: str) -> Token:
    verifier = Verifier(sessions.tokens.provider(), revocations=sessions, clock=sessions.tokens.clock)
    return await verifier.verify(raw)


async def is_refused(sessions: Sessions, raw: str) -> bool:
    try:
        await verified(sessions, raw)
    except Revoked:
        return True
    return False


@dataclass
class Heard:
    """Hears of thefts, of evictions, and of writes and answers that were lost."""

    events: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, SessionEnded) and event.reason in ("theft", "evicted"):
            self.events.append((event.reason, event.session_id, event.subject))
        elif isinstance(event, WritesLost | AnswerLost):
            self.events.append((type(event).__name__, event.session_id, event.subject))


# A login


async def test_only_the_app_says_when_the_user_of_a_session_logged_in(make: Make, clock: Clock) -> None:
    sessions = make()
    assert "auth_time" not in read((await sessions.open("ada")).access_token)
    grant = await sessions.open("ada", claims={"auth_time": NOW - 60, "acr": "gold", "amr": ["hwk"]})
    clock.now += 60
    claims = read((await sessions.refresh(grant.refresh_token)).access_token)
    assert (claims["auth_time"], claims["acr"], claims["amr"]) == (NOW - 60, "gold", ["hwk"])


async def test_a_login_gives_both_tokens_of_a_session(make: Make) -> None:
    sessions = make()
    grant = await sessions.open("ada", scopes=["a", "b"], claims={"tenant": 7})
    token = await verified(sessions, grant.access_token)
    assert (token.subject, token.scopes, token.session_id) == ("ada", ("a", "b"), grant.session_id)
    assert (token.claims["tenant"], token.expires_at, grant.expires_in) == (7, NOW + 900, 900)
    assert grant.scopes == ("a", "b")
    refresh = read(grant.refresh_token)
    assert {name: refresh[name] for name in ("sub", "sid", "gen", "iat", "exp")} == {
        "sub": "ada",
        "sid": grant.session_id,
        "gen": 1,
        "iat": NOW,
        "exp": NOW + 90 * DAY,
    }
    assert jwt.get_unverified_header(grant.refresh_token)["typ"] == REFRESH_TYPE
    # The claims of an app are between it and its services.
    assert "tenant" not in refresh
    assert "scope" not in refresh


async def test_the_repr_of_a_grant_holds_no_token(make: Make) -> None:
    sessions = make()
    grant = await sessions.open("ada")
    shown = f"{grant!r} {grant} {sessions!r} {await sessions.list('ada')!r}"
    assert grant.access_token not in shown
    assert grant.refresh_token not in shown
    assert grant.session_id in shown


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"claims": {"sid": "mine"}}, ValueError, id="a session of their own"),
        pytest.param({"claims": {"exp": NOW * 2}}, ValueError, id="an expiry of their own"),
        pytest.param({"claims": {"n": float("nan")}}, ValueError, id="what is not JSON"),
        pytest.param({"claims": {"n": "x" * 20_000}}, ValueError, id="more than fits"),
        pytest.param({"scopes": ["a b"]}, ValueError, id="a scope with a space"),
        pytest.param({"scopes": "a"}, TypeError, id="scopes that are a text"),
        pytest.param({"subject": ""}, ValueError, id="an empty subject"),
        pytest.param({"subject": 5}, TypeError, id="a number for a subject"),
    ],
)
async def test_what_cannot_stand_in_a_token_opens_no_session(
    make: Make, arguments: dict[str, Any], error: type[Exception]
) -> None:
    sessions = make()
    with pytest.raises(error):
        await sessions.open(**{"subject": "ada", **arguments})
    assert repr(sessions) == "Sessions(MemoryStore(0 sessions))"


async def test_sessions_are_listed_with_what_tells_them_apart(make: Make, clock: Clock) -> None:
    sessions = make()
    first = await sessions.open("ada", device="x" * 300)
    clock.now += 60
    second = await sessions.open("ada", device="phone")
    await sessions.open("bob")
    clock.now += 60
    await sessions.refresh(first.refresh_token)
    listed = await sessions.list("ada")
    assert [(one.id, one.opened_at - NOW, one.used_at - NOW) for one in listed] == [
        (first.session_id, 0, 120),
        (second.session_id, 60, 60),
    ]
    assert [one.device for one in listed] == ["x" * 256, "phone"]
    assert await sessions.list("eve") == ()


async def test_a_subject_that_opens_too_many_loses_the_one_it_used_least(
    make: Make, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    heard = Heard()
    sessions = make(max_sessions=2, on_event=heard)
    grants = []
    for _ in range(3):
        clock.now += 60
        grants.append(await sessions.open("ada"))
    assert heard.events == [("evicted", grants[0].session_id, "ada")]
    assert [level for level, said in logged(caplog) if "evicted" in said] == [logging.INFO]
    assert [await is_refused(sessions, grant.access_token) for grant in grants] == [True, False, False]
    with pytest.raises(InvalidGrant):
        await sessions.refresh(grants[0].refresh_token)


# A refresh


async def test_a_refresh_gives_the_next_generation(make: Make, clock: Clock) -> None:
    sessions = make()
    grant = await sessions.open("ada", scopes=["a"], claims={"tenant": 7})
    for generation in (2, 3, 4):
        clock.now += GRACE
        grant = await sessions.refresh(grant.refresh_token)
        assert read(grant.refresh_token)["gen"] == generation
        token = await verified(sessions, grant.access_token)
        assert (token.subject, token.scopes, token.claims["tenant"]) == ("ada", ("a",), 7)
        assert (token.session_id, token.expires_at) == (grant.session_id, clock.now + 900)


async def test_within_grace_the_same_generation_is_given_again(make: Make, clock: Clock) -> None:
    sessions = make()
    first = await sessions.open("ada")
    clock.now += GRACE
    second = await sessions.refresh(first.refresh_token)
    clock.now += GRACE - 0.5
    for presented in (first, second, first):
        again = await sessions.refresh(presented.refresh_token)
        assert read(again.refresh_token)["gen"] == 2
        assert again.session_id == first.session_id


async def test_a_tab_may_refresh_three_times_while_another_still_holds_the_first_token(
    make: Make, clock: Clock
) -> None:
    sessions = make()
    tab_a = tab_b = await sessions.open("ada")
    clock.now += 60
    for _ in range(3):
        tab_a = await sessions.refresh(tab_a.refresh_token)
        clock.now += 3
    tab_b = await sessions.refresh(tab_b.refresh_token)
    assert read(tab_a.refresh_token)["gen"] == read(tab_b.refresh_token)["gen"] == 2


@pytest.mark.parametrize("kind", ["hearing", "raising"])
async def test_a_token_used_again_after_grace_is_theft(
    make: Make, clock: Clock, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    heard = Heard()

    def fail(event: Event) -> None:
        heard(event)
        raise OSError("the pager is out")

    sessions = make(on_event={"hearing": heard, "raising": fail}[kind])
    first, other, stranger = await sessions.open("ada"), await sessions.open("ada"), await sessions.open("bob")
    clock.now += 60
    second = await sessions.refresh(first.refresh_token)
    clock.now += GRACE
    with pytest.raises(InvalidGrant, match="refresh token was used before"):
        await sessions.refresh(first.refresh_token)
    assert heard.events == [("theft", first.session_id, "ada")]
    assert [level for level, said in logged(caplog) if "ended: theft" in said] == [logging.WARNING]
    assert ("the pager is out" in caplog.text) == (kind == "raising")
    for grant in (first, second):
        assert await is_refused(sessions, grant.access_token)
        with pytest.raises(InvalidGrant, match="session is over"):
            await sessions.refresh(grant.refresh_token)
    for grant in (other, stranger):
        assert not await is_refused(sessions, grant.access_token)
        await sessions.refresh(grant.refresh_token)
    assert len(heard.events) == 1


async def test_theft_that_a_store_says_nothing_of_ends_the_session_that_was_read(make: Make, clock: Clock) -> None:
    class Terse(MemoryStore):
        async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
            return (await super().rotate(rotation))[0], None

    sessions = make(store=Terse(clock=clock))
    grant = await sessions.open("ada")
    clock.now += 60
    token = refresh_token_of(sessions, {"sid": grant.session_id, "gen": 0})
    with pytest.raises(InvalidGrant, match="refresh token was used before"):
        await sessions.refresh(token)
    assert await is_refused(sessions, grant.access_token)


async def test_a_generation_that_the_store_has_lost_is_no_theft(make: Make, clock: Clock) -> None:
    heard = Heard()
    sessions = make(on_event=heard)
    grant = await sessions.open("ada")
    ahead = refresh_token_of(sessions, {"sid": grant.session_id, "gen": 4})
    renewed = await sessions.refresh(ahead)
    assert read(renewed.refresh_token)["gen"] == 5
    assert heard.events == [("WritesLost", grant.session_id, "ada")]


async def test_an_idle_session_is_over_and_no_theft(make: Make, clock: Clock) -> None:
    heard = Heard()
    sessions = make(idle_lifetime=3600, on_event=heard)
    grant = await sessions.open("ada")
    clock.now += 3599
    renewed = await sessions.refresh(grant.refresh_token)
    clock.now += 3600
    for old in (grant, renewed):
        with pytest.raises(InvalidGrant, match="session is over"):
            await sessions.refresh(old.refresh_token)
    assert heard.events == []


async def test_no_token_outlives_its_session(make: Make, clock: Clock) -> None:
    sessions = make(session_lifetime=2000)
    grant = await sessions.open("ada")
    clock.now += 1500
    grant = await sessions.refresh(grant.refresh_token)
    assert grant.expires_in == 500
    assert read(grant.access_token)["exp"] == read(grant.refresh_token)["exp"] == NOW + 2000
    clock.now += 499.5
    with pytest.raises(InvalidGrant, match="session is over"):
        await sessions.refresh(grant.refresh_token)


async def test_shorter_lives_hold_for_the_sessions_that_there_are(make: Make, clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    grant = await make(store=store).open("ada")
    shorter = make(store=store, session_lifetime=3600, idle_lifetime=1800)
    clock.now += 60
    grant = await shorter.refresh(grant.refresh_token)
    assert read(grant.refresh_token)["exp"] == clock.now + 3600
    clock.now += 1800
    with pytest.raises(InvalidGrant, match="session is over"):
        await shorter.refresh(grant.refresh_token)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param("", "malformed_token", id="nothing"),
        pytest.param("a.b.c", "malformed_token", id="no token"),
        pytest.param("\ud800é", "malformed_token", id="not even text"),
        pytest.param("x" * 20_000, "token_too_large", id="too much"),
    ],
)
async def test_what_is_no_refresh_token_is_refused_before_the_store_is_asked(make: Make, raw: str, reason: str) -> None:
    sessions = make(store=Broken())
    with pytest.raises(InvalidGrant) as refused:
        await sessions.refresh(raw)
    assert refused.value.reason == reason
    assert not await sessions.logout(raw)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"gen": None}, id="no generation"),
        pytest.param({"gen": True}, id="a generation that is true"),
        pytest.param({"gen": 1.0}, id="a generation with a point"),
        pytest.param({"gen": "1"}, id="a generation in quotes"),
        pytest.param({"sid": None}, id="no session"),
        pytest.param({"sid": 5}, id="a session that is a number"),
    ],
)
async def test_a_refresh_token_names_session_and_generation(make: Make, changes: dict[str, Any]) -> None:
    sessions = make(store=Broken())
    claims = {"sid": "s", "gen": 1, **changes}
    raw = refresh_token_of(sessions, {name: value for name, value in claims.items() if value is not None})
    with pytest.raises(InvalidGrant, match="invalid_claim"):
        await sessions.refresh(raw)


# What the app says of a user at a refresh


@pytest.mark.parametrize("found", [None, False], ids=repr)
async def test_a_user_that_is_not_any_more_ends_its_session(make: Make, clock: Clock, found: object) -> None:
    asked: list[str] = []

    def reload_user(subject: str) -> object:
        asked.append(subject)
        return found

    sessions = make(reload_user=reload_user)
    grant, other = await sessions.open("ada"), await sessions.open("ada")
    with pytest.raises(InvalidGrant, match="user is refused"):
        await sessions.refresh(grant.refresh_token)
    assert asked == ["ada"]
    assert await is_refused(sessions, grant.access_token)
    assert [session.id for session in await sessions.list("ada")] == [other.session_id]


@pytest.mark.parametrize(
    ("found", "scopes", "tenant"),
    [
        pytest.param(True, ("a", "b"), 7, id="yes"),
        pytest.param("ada", ("a", "b"), 7, id="a subject"),
        pytest.param(User(), ("a", "b"), 7, id="a user of whom nothing is said"),
        pytest.param(User(scopes=["b", "c"]), ("b",), 7, id="fewer scopes, and another one"),
        pytest.param(User(scopes=[]), (), 7, id="no scopes"),
        pytest.param(User(claims={"tenant": 8}), ("a", "b"), 8, id="other claims"),
        pytest.param(User(claims={}), ("a", "b"), None, id="no claims"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_user_is_reloaded_at_every_refresh(
    make: Make, clock: Clock, found: object, scopes: tuple[str, ...], tenant: int | None, is_async: bool
) -> None:
    async def reload_later(subject: str) -> object:
        return found

    sessions = make(reload_user=reload_later if is_async else lambda subject: found)
    grant = await sessions.open("ada", scopes=["a", "b"], claims={"tenant": 7})
    for _ in range(2):
        clock.now += 60
        grant = await sessions.refresh(grant.refresh_token)
        token = await verified(sessions, grant.access_token)
        assert (token.scopes, grant.scopes, token.claims.get("tenant")) == (scopes, scopes, tenant)


async def test_scopes_that_come_back_are_granted_again(make: Make, clock: Clock) -> None:
    user = User(scopes=["a"])
    sessions = make(reload_user=lambda subject: user)
    grant = await sessions.open("ada", scopes=["a", "b"])
    seen = []
    for scopes in (["a"], [], ["a", "b", "c"]):
        user.scopes = scopes
        clock.now += 60
        grant = await sessions.refresh(grant.refresh_token)
        seen.append(grant.scopes)
    assert seen == [("a",), (), ("a", "b")]


@pytest.mark.parametrize(
    ("found", "error"),
    [
        pytest.param(OSError("the database is out"), OSError, id="raises"),
        pytest.param("bob", TypeError, id="finds another user"),
        pytest.param(5, TypeError, id="finds a number"),
        pytest.param(User(claims={"sid": "mine"}), ValueError, id="gives a session of its own"),
        pytest.param(User(claims={"exp": 1}), ValueError, id="gives an expiry of its own"),
        pytest.param(User(scopes=["a b"], identity=None), TypeError, id="finds a user without an identity"),
    ],
)
async def test_where_the_apps_own_function_fails_nothing_is_lost(
    make: Make, clock: Clock, found: Any, error: type[Exception]
) -> None:
    fails = True

    def reload_user(subject: str) -> object:
        if fails and isinstance(found, Exception):
            raise found
        return found if fails else True

    sessions = make(reload_user=reload_user)
    grant = await sessions.open("ada")
    clock.now += 60
    with pytest.raises(error):
        await sessions.refresh(grant.refresh_token)
    fails = False
    assert read((await sessions.refresh(grant.refresh_token)).refresh_token)["gen"] == 2


async def test_a_client_may_ask_for_fewer_scopes_once(make: Make, clock: Clock) -> None:
    sessions = make()
    grant = await sessions.open("ada", scopes=["a", "b"])
    clock.now += 60
    fewer = await sessions.refresh(grant.refresh_token, scope="b c")
    assert fewer.scopes == ("b",)
    # RFC 6749 6: the refresh token that is given then has the scopes of the one presented.
    clock.now += 60
    assert (await sessions.refresh(fewer.refresh_token)).scopes == ("a", "b")


async def test_scopes_that_were_not_granted_cost_nothing(make: Make, clock: Clock) -> None:
    sessions = make()
    grant = await sessions.open("ada", scopes=["a"])
    clock.now += 60
    with pytest.raises(ScopeNotGranted):
        await sessions.refresh(grant.refresh_token, scope="b")
    assert read((await sessions.refresh(grant.refresh_token)).refresh_token)["gen"] == 2


# A store that does not answer, or too late


class Broken(MemoryStore):
    """Does nothing."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("open", "read", "rotate", "revoke", "revoke_subject", "sessions", "revocations"):

            async def fail(*arguments: Any, **options: Any) -> Any:
                raise StoreUnavailable("out")

            return fail
        return super().__getattribute__(name)


class Hanging(MemoryStore):
    """Hangs from when it is told to, in the steps that are named."""

    hangs: tuple[str, ...] = ()

    def __getattribute__(self, name: str) -> Any:
        if name != "hangs" and name in self.hangs:

            async def hang(*arguments: Any, **options: Any) -> Any:
                await anyio.sleep_forever()

            return hang
        return super().__getattribute__(name)


@pytest.mark.parametrize("step", ["open", "read", "rotate", "revoke", "revoke_subject", "sessions"])
@pytest.mark.virtual_time
async def test_a_store_that_hangs_is_not_waited_for(make: Make, clock: Clock, step: str) -> None:
    store = Hanging(clock=clock)
    sessions = make(store=store)
    grant = await sessions.open("ada")
    clock.now += 60
    store.hangs = (step,)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "open": partial(sessions.open, "ada"),
        "revoke": partial(sessions.logout, grant.refresh_token),
        "revoke_subject": partial(sessions.revoke, subject="ada"),
        "sessions": partial(sessions.list, "ada"),
    }
    work = calls.get(step, partial(sessions.refresh, grant.refresh_token))
    began = anyio.current_time()
    with pytest.raises(StoreUnavailable, match="no answer within 1 s"):
        await work()
    assert anyio.current_time() - began < STORE_SECONDS + 1
    store.hangs = ()
    assert read((await sessions.refresh(grant.refresh_token)).refresh_token)["gen"] == 2


async def test_what_a_store_would_do_too_late_it_does_not(make: Make, clock: Clock) -> None:
    class Late(MemoryStore):
        is_late = True

        async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
            if self.is_late:
                clock.now += STORE_SECONDS + 0.1
            return await super().rotate(rotation)

    store = Late(clock=clock)
    sessions = make(store=store)
    grant = await sessions.open("ada")
    clock.now += 60
    with pytest.raises(StoreUnavailable, match="late"):
        await sessions.refresh(grant.refresh_token)
    store.is_late = False
    clock.now += 2 * GRACE
    assert read((await sessions.refresh(grant.refresh_token)).refresh_token)["gen"] == 2


@pytest.mark.parametrize("reads", ["before it waits", "after it waited"])
async def test_a_store_may_rotate_while_it_is_waited_for_and_not_later(make: Make, reads: str) -> None:
    left: list[float] = []

    class Slow(MemoryStore):
        async def read(self, id: str, realm: Realm) -> tuple[Session | None, float]:
            if reads == "before it waits":
                answer = await super().read(id, realm)
                await anyio.sleep(0.3)
                return answer
            await anyio.sleep(0.3)
            return await super().read(id, realm)

        async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
            left.append(rotation.deadline - time.time())
            return await super().rotate(rotation)

    async def reload_user(subject: str) -> bool:
        await anyio.sleep(0.3)
        return True

    sessions = make(store=Slow(), clock=time.time, reload_user=reload_user)
    await sessions.refresh((await sessions.open("ada")).refresh_token)
    assert STORE_SECONDS - 0.4 < left[0] <= STORE_SECONDS + 0.01


async def test_a_session_that_ends_while_it_is_renewed_is_over(make: Make, clock: Clock) -> None:
    async def reload_user(subject: str) -> bool:
        await sessions.revoke(subject=subject)
        return True

    sessions = make(reload_user=reload_user)
    grant = await sessions.open("ada")
    with pytest.raises(InvalidGrant, match="session is over"):
        await sessions.refresh(grant.refresh_token)


async def test_a_session_that_is_known_to_be_ended_is_not_renewed_where_the_store_lost_that(
    make: Make, clock: Clock
) -> None:
    class Failover(MemoryStore):
        """Reads a session as it was before the failover."""

        lost: Session | None = None

        async def read(self, id: str, realm: Realm) -> tuple[Session | None, float]:
            session, now = await super().read(id, realm)
            return session or self.lost, now

    store = Failover(clock=clock)
    sessions = make(store=store)
    grant = await sessions.open("ada")
    (row,) = await sessions.list("ada")
    await sessions.logout(grant.access_token)
    store.lost = row
    with pytest.raises(InvalidGrant, match="session is over"):
        await sessions.refresh(grant.refresh_token)
    assert await is_refused(sessions, grant.access_token)


# Logout


async def test_a_session_ends_with_each_of_its_tokens_whatever_their_age(make: Make, clock: Clock) -> None:
    sessions = make()
    for choose in ("refresh_token", "access_token"):
        for is_old in (False, True):
            first = await sessions.open("ada")
            clock.now += 1000
            second = await sessions.refresh(first.refresh_token)
            assert await sessions.logout(getattr(first if is_old else second, choose))
            assert await is_refused(sessions, second.access_token)
            with pytest.raises(InvalidGrant, match="session is over"):
                await sessions.refresh(second.refresh_token)
            # Again, and it is as ended as before.
            assert await sessions.logout(second.refresh_token)
    assert await sessions.list("ada") == ()


async def test_a_token_that_is_older_than_its_session_ends_nothing_else(make: Make, clock: Clock) -> None:
    sessions = make(session_lifetime=3600)
    old = await sessions.open("ada")
    clock.now += 100 * DAY
    new = await sessions.open("ada")
    assert await sessions.logout(old.refresh_token)
    assert not await is_refused(sessions, new.access_token)


async def test_a_token_without_a_session_is_ended_by_itself(make: Make, clock: Clock) -> None:
    sessions = make()
    ended, other = sessions.tokens.mint("ada"), sessions.tokens.mint("ada")
    assert await sessions.logout(ended)
    assert await is_refused(sessions, ended)
    assert not await is_refused(sessions, other)


async def test_a_token_that_nothing_names_cannot_be_ended(make: Make) -> None:
    sessions = make()
    nameless = signed({"alg": "HS256", "typ": "JWT"}, {"sub": "ada", "aud": "orders", "exp": NOW + 900})
    assert not await sessions.logout(nameless)
    assert not await is_refused(sessions, nameless)


async def test_a_token_of_another_issuer_ends_nothing(make: Make) -> None:
    sessions, other = make(), make(OTHER_SECRET)
    grant = await sessions.open("ada")
    forged = other.tokens.mint("ada", claims={"sid": grant.session_id})
    assert not await sessions.logout(forged)
    refresh = refresh_token_of(other, {"sid": grant.session_id, "gen": 1})
    assert not await sessions.logout(refresh)
    with pytest.raises(InvalidGrant, match="unknown_key"):
        await sessions.refresh(refresh)
    assert not await is_refused(sessions, grant.access_token)


# Revocation


async def test_all_sessions_of_a_subject_end_together(make: Make, clock: Clock) -> None:
    sessions = make()
    grants = [await sessions.open("ada") for _ in range(3)]
    bob = await sessions.open("bob")
    assert await sessions.revoke(subject="ada") == 3
    # In the very second.
    back = await sessions.open("ada")
    assert [await is_refused(sessions, grant.access_token) for grant in (*grants, bob, back)] == [True] * 3 + [
        False
    ] * 2
    assert await sessions.revoke(subject="ada") == 1
    assert await sessions.revoke(subject="ada") == 0


async def test_hosts_whose_clocks_differ_agree_on_what_is_ended(make: Make, clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    fast, slow = (
        make(store=store, clock=lambda: clock.now + 30, issuer={"access_lifetime": 60}),
        make(store=store, clock=lambda: clock.now - 30, issuer={"access_lifetime": 60}),
    )
    for subject, here, there in (("ada", fast, slow), ("bob", slow, fast)):
        old = await here.open(subject)
        seen = await verified(here, old.access_token)
        assert await there.revoke(subject=subject) == 1
        new = await here.open(subject)
        for sessions in (fast, slow):
            await sessions.catch_up()
            await until(partial(sessions.is_revoked, seen))
        for _ in range(14):
            # Until the token has run out by the slowest clock, with any leeway that is allowed.
            clock.now += 50
            for sessions in (fast, slow):
                verifier = Verifier(
                    sessions.tokens.provider(leeway=MARGIN - 60), revocations=sessions, clock=sessions.tokens.clock
                )
                with pytest.raises(Refusal):
                    await verifier.verify(old.access_token)
        with pytest.raises(InvalidGrant):
            await there.refresh(old.refresh_token)
        await there.refresh(new.refresh_token)


async def test_one_token_of_another_issuer_is_ended_under_its_own_name(make: Make) -> None:
    sessions = make()
    tokens = TokenIssuer(
        OTHER_SECRET, audience="orders", issuer="https://other.example", name="other", clock=lambda: NOW
    )
    verifier = Verifier([sessions.tokens.provider(), tokens.provider()], revocations=sessions, clock=lambda: NOW)
    ours, theirs = sessions.tokens.mint("ada"), tokens.mint("ada")
    jti = read(theirs)["jti"]
    assert await sessions.revoke(jti=jti, expires_at=NOW + 900, provider="other") == 1
    with pytest.raises(Revoked):
        await verifier.verify(theirs)
    await verifier.verify(ours)
    await sessions.revoke(jti=read(ours)["jti"], expires_at=NOW + 900)
    with pytest.raises(Revoked):
        await verifier.verify(ours)


async def test_what_another_issuer_calls_alike_is_not_ended(make: Make) -> None:
    sessions = make()
    grant = await sessions.open("ada")
    tokens = TokenIssuer(
        OTHER_SECRET, audience="orders", issuer="https://other.example", name="other", clock=lambda: NOW
    )
    theirs = tokens.mint("ada", claims={"sid": grant.session_id})
    verifier = Verifier([sessions.tokens.provider(), tokens.provider()], revocations=sessions, clock=lambda: NOW)
    await sessions.revoke(subject="ada")
    await sessions.revoke(session=grant.session_id)
    with pytest.raises(Revoked):
        await verifier.verify(grant.access_token)
    assert (await verifier.verify(theirs)).session_id == grant.session_id


async def test_a_session_that_the_store_has_lost_can_be_ended(make: Make, clock: Clock) -> None:
    before = make()
    grant = await before.open("ada")
    store = MemoryStore(clock=clock)
    after = make(store=store)
    assert await after.revoke(session=grant.session_id) == 1
    assert await is_refused(after, grant.access_token)
    (revocation,) = (await store.revocations("", 9)).revocations
    assert revocation == Revocation("jwt", "sid", grant.session_id, NOW + 900 + RETENTION)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"session": "s", "subject": "ada"}, id="two things"),
        pytest.param({"jti": "j"}, id="a jti without its expiry"),
        pytest.param({"session": "s", "expires_at": NOW}, id="a session with an expiry"),
        pytest.param({"expires_at": NOW}, id="an expiry alone"),
        pytest.param({"session": "s", "provider": "other"}, id="a session of another"),
        pytest.param({"subject": "ada", "provider": "other"}, id="a subject of another"),
    ],
)
async def test_one_thing_is_ended_at_once(make: Make, arguments: dict[str, Any]) -> None:
    sessions = make(store=Broken())
    with pytest.raises(TypeError, match=r"revoke\(\)"):
        await sessions.revoke(**arguments)


# Keys


KEYS: dict[str, Any] = {
    "a secret": SECRET,
    "HS512": SECRET_64,
    "RSA": private_pem(RSA),
    "EC": private_pem(SIGNERS["ES256"]),
    "Ed25519": private_pem(ED25519),
    "Ed448": private_pem(SIGNERS["Ed448"]),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
async def test_a_refresh_token_verifies_with_no_key_of_an_access_token(make: Make, key: Any) -> None:
    sessions = make(key)
    grant = await sessions.open("ada", scopes=["a"])
    published: list[Any] = [jwt.PyJWK(one) for one in sessions.tokens.jwks()["keys"]]
    keys = published or [key]
    tokens = sessions.tokens
    # The access token shows that these are the right ones.
    options: Any = {"verify_exp": False, "verify_iat": False, "verify_aud": False}
    for one in keys:
        read_by_pyjwt = partial(jwt.decode, key=one, algorithms=[tokens.algorithm, "HS256"], options=options)
        assert read_by_pyjwt(grant.access_token)["sub"] == "ada"
        with pytest.raises(jwt.InvalidTokenError):
            read_by_pyjwt(grant.refresh_token)
    app = JWTMiddleware(echo, providers=tokens.provider(), clock=lambda: NOW)
    start, _ = await sent(app, http("/", bearer(grant.refresh_token)["authorization"].encode()))
    assert start["status"] == 401
    start, _ = await sent(app, http("/", bearer(grant.access_token)["authorization"].encode()))
    assert start["status"] == 200
    with pytest.raises(InvalidGrant):
        await sessions.refresh(grant.access_token)


async def test_who_shares_the_secret_cannot_make_a_refresh_token_of_an_access_token(make: Make) -> None:
    sessions = make()
    grant = await sessions.open("ada")
    claims = {**read(grant.refresh_token), "gen": 1}
    header = jwt.get_unverified_header(grant.refresh_token)
    for kid in (header["kid"], sessions.tokens.provider().keys.current.keys[0].kid, None):
        forged = jwt.encode(claims, SECRET, headers={**header, "kid": kid} if kid else {"typ": header["typ"]})
        with pytest.raises(InvalidGrant):
            await sessions.refresh(forged)


async def test_after_a_change_of_keys_old_refresh_tokens_are_good_while_the_old_key_is(
    make: Make, clock: Clock
) -> None:
    store = MemoryStore(clock=clock)
    old = await make(SECRET, store=store).open("ada")
    changed = make(private_pem(RSA), store=store, issuer={"old_keys": [SECRET, pem(SIGNERS["ES256"])]})
    clock.now += 60
    renewed = await changed.refresh(old.refresh_token)
    assert renewed.session_id == old.session_id
    dropped = make(private_pem(RSA), store=store)
    clock.now += 60
    with pytest.raises(InvalidGrant, match="unknown_key"):
        await dropped.refresh(old.refresh_token)
    assert (await dropped.refresh(renewed.refresh_token)).session_id == old.session_id


async def test_old_keys_may_stand_in_a_jwk_set(make: Make, clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    private = jwk(RSA, private=True)
    old = await make(private, store=store).open("ada")
    changed = make(SECRET, store=store, issuer={"old_keys": {"keys": [private, {"kty": "unknown"}]}})
    assert (await changed.refresh(old.refresh_token)).session_id == old.session_id


async def test_a_refresh_token_is_good_for_the_audience_of_its_login_alone(make: Make, clock: Clock) -> None:
    """Two services may share a secret, and, not knowing better, a store."""
    store = MemoryStore(clock=clock)
    orders, payments = make(store=store), make(store=store, issuer={"audience": "payments"})
    both = make(store=store, issuer={"audience": ["payments", "orders"]})
    grant = await orders.open("ada", scopes=["admin"])
    with pytest.raises(InvalidGrant, match="wrong_audience"):
        await payments.refresh(grant.refresh_token)
    assert not await payments.logout(grant.refresh_token)
    # Adding an audience logs no one out.
    grant = await both.refresh(grant.refresh_token)
    await orders.refresh(grant.refresh_token)


# Configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"store": object()}, "store must be a SessionStore", id="no store"),
        pytest.param({"store": "sessions.db"}, "store must be a SessionStore", id="a path for a store"),
        pytest.param({"tokens": SECRET}, "tokens must be a TokenIssuer", id="a secret for an issuer"),
        pytest.param({"grace": -1}, "grace must be a number of seconds", id="a negative grace"),
        pytest.param({"grace": True}, "grace must be a number of seconds", id="a true grace"),
        pytest.param({"max_sessions": 0}, "max_sessions must be a whole number, 1 or more", id="no sessions"),
        pytest.param(
            {"idle_lifetime": 899}, "idle_lifetime must not be shorter than access_lifetime", id="short idling"
        ),
        pytest.param({"session_lifetime": 899}, "session_lifetime must not be shorter than", id="short sessions"),
        pytest.param({"session_lifetime": "long"}, "session_lifetime must be a number of seconds", id="a word"),
        pytest.param({"idle_lifetime": float("inf")}, "idle_lifetime must be a number of seconds", id="for ever"),
        pytest.param({"reload_user": "ada"}, "reload_user must be callable", id="a user for a function"),
        pytest.param({"on_event": 5}, "on_event must be callable", id="a number for a function"),
        pytest.param({"on_event": anyio.sleep}, "on_event must be a plain function", id="a coroutine function"),
        pytest.param({"revocations_max_stale": 0}, "max_stale", id="no time to read"),
        pytest.param({"revocations_unavailable": "panic"}, "'refuse' or 'pass'", id="another word"),
    ],
)
def test_what_cannot_work_is_said_at_construction(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"store": MemoryStore(), "tokens": TokenIssuer(SECRET, audience="orders"), **options}
    with pytest.raises(ConfigurationError, match=message) as refused:
        Sessions(given.pop("store"), given.pop("tokens"), **given)
    assert SECRET not in str(refused.value)


def test_an_issuer_that_renews_by_itself_has_no_sessions() -> None:
    tokens = TokenIssuer(SECRET, audience="orders", session_lifetime=DAY)
    with pytest.raises(ConfigurationError, match="give it to Sessions"):
        Sessions(MemoryStore(), tokens)


def test_beside_sessions_a_leeway_is_bounded() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    with pytest.raises(ConfigurationError, match="leeway"):
        JWTMiddleware(echo, providers=sessions.tokens.provider(leeway=MARGIN + 1), revocations=sessions)
    JWTMiddleware(echo, providers=Provider(key=SECRET, audience="orders", leeway=MARGIN), revocations=sessions)


async def test_a_store_in_memory_forgets_what_is_over_in_small_steps_and_a_day_late(make: Make, clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    sessions = make(store=store, idle_lifetime=3600)
    grants = [await sessions.open(f"user {number}") for number in range(30)]
    for number in range(30):
        await sessions.revoke(jti=f"token {number}", expires_at=NOW + 900)
    await sessions.revoke(jti="token 0", expires_at=NOW + 9000)
    for grant in grants[:3]:
        await sessions.logout(grant.refresh_token)
    clock.now += 1800
    for grant in grants[3:6]:
        await sessions.refresh(grant.refresh_token)
    clock.now = NOW + 3600 + DAY
    assert repr(store) == "MemoryStore(27 sessions)"
    assert len(await sessions.list("user 7")) == 0
    left = []
    for _ in range(3):
        await sessions.revoke(subject="nobody")
        left.append((repr(store), len((await store.revocations("", 99)).revocations)))
    # Those that were refreshed are kept for longer, and so is what is revoked for longer.
    assert left[0][0] not in ("MemoryStore(27 sessions)", "MemoryStore(3 sessions)")
    assert 1 < left[0][1] < 34
    assert left[1:] == [("MemoryStore(3 sessions)", 1)] * 2


def test_a_store_in_memory_needs_a_clock() -> None:
    with pytest.raises(ConfigurationError, match="clock must be callable"):
        MemoryStore(clock=5)  # type: ignore[arg-type]  # not a function


# Answers that are lost


class Losing(MemoryStore):
    """Does what it is asked for, and loses the answer to some rotations."""

    lost = 0

    async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
        answer = await super().rotate(rotation)
        if self.lost:
            self.lost -= 1
            raise StoreUnavailable("the answer was lost")
        return answer


async def test_who_was_not_answered_may_ask_again_however_long_that_takes(make: Make) -> None:
    store = Losing()
    sessions = make(store=store, clock=time.time, grace=0.1)
    grant = await sessions.open("ada")
    await anyio.sleep(0.15)
    for lost in (2, 1):
        store.lost = lost
        with pytest.raises(StoreUnavailable):
            await sessions.refresh(grant.refresh_token)
        await anyio.sleep(0.15)
    renewed = await sessions.refresh(grant.refresh_token)
    assert read(renewed.refresh_token)["gen"] == 2
    # Once it was answered, it is like any other.
    await anyio.sleep(0.15)
    with pytest.raises(InvalidGrant, match="used before"):
        await sessions.refresh(grant.refresh_token)


async def test_whoever_has_moved_on_since_is_not_forgotten(make: Make) -> None:
    store = Losing()
    sessions = make(store=store, clock=time.time, grace=0.05)
    first = await sessions.open("ada")
    await anyio.sleep(0.1)
    store.lost = 1
    with pytest.raises(StoreUnavailable):
        await sessions.refresh(first.refresh_token)
    await anyio.sleep(0.1)
    # Whoever has it got the answer all the same, or stole it; two generations later there are two.
    stolen = refresh_token_of(sessions, {"sid": first.session_id, "gen": 2})
    await sessions.refresh(stolen)
    with pytest.raises(InvalidGrant, match="used before"):
        await sessions.refresh(first.refresh_token)


def test_of_rotations_without_an_answer_the_latest_are_remembered() -> None:
    clock = Clock()
    unanswered = Unanswered(clock)
    for generation in range(MOST + 5):
        unanswered.begin("s", generation)
    clock.now += 7
    assert [unanswered.seconds("s", generation) for generation in (0, 4, 5, MOST + 4)] == [0, 0, 7, 7]


async def test_a_handler_gets_every_event_about_sessions(make: Make, clock: Clock) -> None:
    heard: list[Event] = []
    sessions = make(on_event=[heard.append])
    await sessions.catch_up()
    grant = await sessions.open("ada")
    clock.now += 60
    await sessions.refresh(grant.refresh_token)
    await sessions.logout(grant.refresh_token)
    assert heard == [
        SessionOpened(session_id=grant.session_id, subject="ada"),
        SessionRefreshed(session_id=grant.session_id, subject="ada", generation=2),
        SessionEnded(session_id=grant.session_id, subject=None, reason="logout"),
    ]


# Mistakes that would turn revocation off


async def test_sessions_of_a_provider_that_there_is_not_are_said_at_construction(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="for the provider 'jwt', but the providers are 'main'"):
        Verifier(Provider(name="main", key=SECRET, audience="orders"), revocations=make())
    Verifier(Provider(name="main", key=SECRET, audience="orders"), revocations=make(issuer={"name": "main"}))


async def test_a_revocation_that_no_middleware_reads_is_logged_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = make()
    grant = await sessions.open("ada")
    for _ in range(2):
        await sessions.logout(grant.access_token)
    assert [said.partition(":")[2][:38] for _, said in logged(caplog)] == [
        " nothing here asks which tokens are rev"[:38]
    ]
    caplog.clear()
    asked = make()
    grant = await asked.open("ada")
    await verified(asked, grant.access_token)
    await asked.logout(grant.access_token)
    assert logged(caplog) == []


# Arguments that are none


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"subject": 42}, TypeError, id="a number for a subject"),
        pytest.param({"session": b"s"}, TypeError, id="bytes for a session"),
        pytest.param({"subject": "\ud800"}, ValueError, id="a subject that UTF-8 cannot hold"),
        pytest.param({"jti": "a", "expires_at": float("inf")}, ValueError, id="a token that never ends"),
        pytest.param({"jti": "a", "expires_at": float("nan")}, ValueError, id="a token that ends at no time"),
        pytest.param({"jti": "a", "expires_at": "soon"}, ValueError, id="a text for a time"),
    ],
)
async def test_what_cannot_be_ended_is_an_error(make: Make, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await make().revoke(**arguments)


async def test_sessions_are_listed_for_a_text_only(make: Make) -> None:
    with pytest.raises(TypeError, match="subject must be a string, not int; say str"):
        await make().list(42)  # type: ignore[arg-type]  # no str


async def test_a_device_of_which_nothing_is_known_is_an_empty_one(make: Make) -> None:
    sessions = make()
    await sessions.open("ada", device=None)  # type: ignore[arg-type]  # no str
    assert [session.device for session in await sessions.list("ada")] == [""]


async def test_a_thief_does_not_stay_unnoticed_by_asking_for_scopes_that_there_are_not(
    make: Make, clock: Clock
) -> None:
    sessions = make()
    first = await sessions.open("ada", scopes=["a"])
    clock.now += 60
    second = await sessions.refresh(first.refresh_token)
    with pytest.raises(ScopeNotGranted):
        await sessions.refresh(second.refresh_token, scope="z")
    clock.now += 60
    with pytest.raises(InvalidGrant, match="used before"):
        await sessions.refresh(first.refresh_token, scope="z")
