"""What rules must a store of sessions keep? A suite for authors of stores, and for the stores of this package."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from ..issuing.rotation import Opening, Outcome, Realm, RevocationRequest, Rotation, Session
from ..issuing.session_store import SessionStore
from ..revocation.revoked import RETENTION, Revocation

REALM = Realm("jwt", None)
LATER = 4_000_000_000
"""A deadline that never comes."""


def opening(id: str, subject: str = "ada", **changes: Any) -> Opening:
    """A request to open a session, with ``changes``."""
    lifetimes = {"idle_lifetime": 1000, "session_lifetime": 10_000, "access_lifetime": 300}
    return Opening(**{"id": id, "realm": REALM, "subject": subject, **lifetimes, **changes})


def rotation(id: str, generation: int, **changes: Any) -> Rotation:
    """A refresh token that is presented, with ``changes``."""
    usual = {"realm": REALM, "grace": 100, "idle_lifetime": 1000, "access_lifetime": 300, "deadline": LATER}
    return Rotation(**{"id": id, "generation": generation, **usual, **changes})


def revocation_request(value: str, **changes: Any) -> RevocationRequest:
    """A request to revoke a session, with ``changes``."""
    return RevocationRequest(**{"realm": REALM, "claim": "sid", "value": value, "lifetime": 300, **changes})


class StoreContract:
    """Tests of a ``SessionStore``. A subclass named ``Test...`` has a fixture ``store`` that gives an empty one.

    They are run by the pytest plugin of anyio, which comes with it, on the event loops that the fixture
    ``anyio_backend`` names: if a store needs asyncio, override it to return ``"asyncio"``. They take some seconds;
    if the store's clock can be set, override ``pass_time`` to save them.
    """

    pytestmark = pytest.mark.anyio

    async def pass_time(self, seconds: float) -> None:
        """Return when ``seconds`` have passed by the clock of the store."""
        await anyio.sleep(seconds)

    async def test_a_session_is_read_as_it_was_opened(self, store: SessionStore) -> None:
        granted = {
            "scopes": ("a", "b"),
            "claims": {"n": 1.5, "é": [None, {"x": True}]},
            "device": 'a "phone" | \U0001f600',
        }
        _, before = await store.read("s", REALM)
        session, ended = await store.open(opening("s", "ada é|\n", **granted), max_sessions=9)
        read, after = await store.read("s", REALM)
        assert read == session
        assert not ended
        assert before <= session.opened_at == session.used_at <= after
        assert session.expires_at == pytest.approx(session.opened_at + 1000, abs=0.01)
        assert session.ends_at == pytest.approx(session.opened_at + 10_000, abs=0.01)
        assert session.access_until == pytest.approx(session.opened_at + 300, abs=0.01)
        assert {name: getattr(session, name) for name in granted} == granted
        assert (session.subject, session.realm, session.generation) == ("ada é|\n", REALM, 1)
        assert (session.parent, session.is_used) == (None, False)

    async def test_a_session_that_nobody_opened_is_not_there(self, store: SessionStore) -> None:
        assert (await store.read("s", REALM))[0] is None
        assert list(await store.sessions("ada", REALM)) == []
        assert await store.rotate(rotation("s", 1)) == (Outcome.GONE, None)

    async def test_a_session_is_opened_once_however_often_that_is_asked(self, store: SessionStore) -> None:
        """A connection may break between a step and its answer, and a client may send the step again."""
        first, _ = await store.open(opening("s"), max_sessions=1)
        await self.pass_time(0.01)
        again, evicted = await store.open(opening("s"), max_sessions=1)
        assert (again, list(evicted)) == (first, [])
        assert (await store.read("s", REALM))[0] == first
        assert list((await store.revocations("", 9)).revocations) == []

    async def test_a_generation_is_followed_by_the_next(self, store: SessionStore) -> None:
        session = await self._opened(store, "s")
        for generation in (1, 2, 3):
            terms = {"grace": 0, "idle_lifetime": 2000, "access_lifetime": 300 + generation}
            outcome, moved = await store.rotate(rotation("s", generation, **terms))
            assert outcome is Outcome.NEXT
            assert moved is not None
            assert (moved.generation, moved.parent, moved.is_used) == (generation + 1, generation, False)
            assert moved.access_until == pytest.approx(moved.used_at + 300 + generation, abs=0.01)
            assert moved.used_at >= session.opened_at
            assert moved.expires_at == pytest.approx(moved.used_at + 2000, abs=0.01)
            assert (moved.opened_at, moved.ends_at) == (session.opened_at, session.ends_at)
            assert (await store.read("s", REALM))[0] == moved

    async def test_the_latest_expiry_of_the_access_tokens_is_kept(self, store: SessionStore) -> None:
        session = await self._opened(store, "s")
        _, moved = await store.rotate(rotation("s", 1, access_lifetime=1))
        assert moved is not None
        assert moved.access_until == session.access_until

    async def test_within_grace_a_generation_is_given_again(self, store: SessionStore) -> None:
        session = await self._opened(store, "s")
        await self.pass_time(0.01)
        outcome, moved = await store.rotate(rotation("s", 1))
        assert (outcome, moved and (moved.generation, moved.is_used)) == (Outcome.AGAIN, (1, True))
        assert moved is not None
        assert moved.used_at > session.used_at
        assert moved.rotated_at == session.rotated_at
        await store.rotate(rotation("s", 1, grace=0))
        for presented in (1, 2, 1):
            outcome, moved = await store.rotate(rotation("s", presented))
            assert (outcome, moved and moved.generation) == (Outcome.AGAIN, 2)

    async def test_grace_ends(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        await store.rotate(rotation("s", 1, grace=0))
        await self.pass_time(0.3)
        outcome, ended = await store.rotate(rotation("s", 1, grace=0.2))
        assert (outcome, ended and ended.id) == (Outcome.THEFT, "s")

    @pytest.mark.parametrize("presented", [0, 1, 2])
    async def test_an_older_generation_is_theft_and_ends_the_session(self, store: SessionStore, presented: int) -> None:
        session = await self._opened(store, "s", access_lifetime=900)
        await self._opened(store, "other")
        for generation in (1, 2, 3):
            await store.rotate(rotation("s", generation, grace=0))
        outcome, ended = await store.rotate(rotation("s", presented))
        assert (outcome, ended and ended.access_until) == (Outcome.THEFT, session.access_until)
        assert (await store.read("s", REALM))[0] is None
        assert await store.rotate(rotation("s", 4)) == (Outcome.GONE, None)
        assert (await store.read("other", REALM))[0] is not None
        assert [session.id for session in await store.sessions("ada", REALM)] == ["other"]
        revoked = (await store.revocations("", 9)).revocations
        assert list(revoked) == [session.revoke()]

    async def test_a_parent_is_reissued_until_its_successor_was_presented(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        terms = {"grace": 0, "reuse_until_used": True}
        await store.rotate(rotation("s", 1, **terms))
        for generation in (3, 4):
            outcome, moved = await store.rotate(rotation("s", 1, **terms))
            assert (outcome, moved and (moved.generation, moved.parent)) == (Outcome.REISSUED, (generation, 1))
        outcome, moved = await store.rotate(rotation("s", 4, **{**terms, "grace": 100}))
        assert (outcome, moved and moved.is_used) == (Outcome.AGAIN, True)
        assert (await store.rotate(rotation("s", 1, **terms)))[0] is Outcome.THEFT

    async def test_a_generation_that_nobody_presented_is_dead_once_it_was_replaced(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        terms = {"grace": 0, "reuse_until_used": True}
        for _ in range(2):
            await store.rotate(rotation("s", 1, **terms))
        assert (await store.rotate(rotation("s", 2, **terms)))[0] is Outcome.THEFT

    async def test_a_generation_that_the_store_has_lost_is_passed(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        outcome, moved = await store.rotate(rotation("s", 7))
        assert (outcome, moved and (moved.generation, moved.parent)) == (Outcome.AHEAD, (8, 7))
        for presented in (7, 8):
            outcome, moved = await store.rotate(rotation("s", presented))
            assert (outcome, moved and moved.generation) == (Outcome.AGAIN, 8)

    async def test_after_its_deadline_nothing_is_done(self, store: SessionStore) -> None:
        session = await self._opened(store, "s")
        _, now = await store.read("s", REALM)
        outcome, _ = await store.rotate(rotation("s", 1, grace=0, deadline=now - 0.1))
        assert outcome is Outcome.LATE
        assert (await store.read("s", REALM))[0] == session
        outcome, _ = await store.rotate(rotation("s", 1, grace=0, deadline=now + 60))
        assert outcome is Outcome.NEXT

    async def test_parallel_refreshes_make_one_generation(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        # Opens connections, which may take a while, before grace counts.
        async with anyio.create_task_group() as together:
            for _ in range(20):
                together.start_soon(store.read, "s", REALM)
        await self.pass_time(1.1)
        answers: list[tuple[Outcome, Session | None]] = []

        async def refresh() -> None:
            answers.append(await store.rotate(rotation("s", 1, grace=1)))

        async with anyio.create_task_group() as together:
            for _ in range(20):
                together.start_soon(refresh)
        assert [session and session.generation for _, session in answers] == [2] * 20
        assert sorted(outcome.value for outcome, _ in answers) == ["again"] * 19 + ["next"]

    async def test_an_idle_session_ends(self, store: SessionStore) -> None:
        # Long enough to open and rotate a session, even on a busy machine.
        await self._opened(store, "s", idle_lifetime=1)
        await self._opened(store, "t", idle_lifetime=1)
        await store.rotate(rotation("t", 1))
        await self.pass_time(1.1)
        assert (await store.read("s", REALM))[0] is None
        assert await store.rotate(rotation("s", 1)) == (Outcome.GONE, None)
        assert [session.id for session in await store.sessions("ada", REALM)] == ["t"]

    async def test_a_session_ends_however_often_it_is_refreshed(self, store: SessionStore) -> None:
        await self._opened(store, "s", session_lifetime=1)
        _, moved = await store.rotate(rotation("s", 1))
        assert moved is not None
        assert moved.expires_at == moved.ends_at
        await self.pass_time(1.1)
        assert await store.rotate(rotation("s", 1)) == (Outcome.GONE, None)

    async def test_the_sessions_of_a_subject_are_listed_the_last_used_first(self, store: SessionStore) -> None:
        for id in "abc":
            await self._opened(store, id)
            await self.pass_time(0.01)
        await self._opened(store, "d", "bob")
        await store.rotate(rotation("a", 1))
        listed = await store.sessions("ada", REALM)
        assert [session.id for session in listed] == ["a", "c", "b"]
        assert [(await store.read(session.id, REALM))[0] for session in listed] == list(listed)

    async def test_a_subject_has_no_more_sessions_than_it_may(self, store: SessionStore) -> None:
        opened = {}
        for id in "abc":
            opened[id] = await self._opened(store, id)
            await self.pass_time(0.01)
        await self._opened(store, "z", "bob")
        await store.rotate(rotation("a", 1))
        await self.pass_time(0.01)
        _, ended = await store.open(opening("d"), max_sessions=3)
        assert list(ended) == [opened["b"].revoke()]
        assert [session.id for session in await store.sessions("ada", REALM)] == ["d", "a", "c"]
        _, ended = await store.open(opening("e"), max_sessions=1)
        assert sorted(revocation.value for revocation in ended) == ["a", "c", "d"]
        assert [session.id for session in await store.sessions("ada", REALM)] == ["e"]
        revoked = (await store.revocations("", 9)).revocations
        assert sorted(revocation.value for revocation in revoked) == ["a", "b", "c", "d"]
        assert (await store.read("z", REALM))[0] is not None

    async def test_sessions_that_have_ended_do_not_count(self, store: SessionStore) -> None:
        for id in "ab":
            await self._opened(store, id, idle_lifetime=0.1)
        await self._opened(store, "c")
        await self.pass_time(0.2)
        _, ended = await store.open(opening("d"), max_sessions=2)
        assert list(ended) == []

    @pytest.mark.parametrize(
        "other", [Realm("partners"), Realm("jwt", "https://b.example")], ids=["provider", "issuer"]
    )
    async def test_another_realm_has_other_subjects_and_sessions(self, store: SessionStore, other: Realm) -> None:
        await self._opened(store, "s")
        await self._opened(store, "t", realm=other)
        assert [session.id for session in await store.sessions("ada", REALM)] == ["s"]
        assert [session.id for session in await store.sessions("ada", other)] == ["t"]
        assert (await store.read("t", REALM))[0] is None
        assert await store.rotate(rotation("t", 1)) == (Outcome.GONE, None)
        assert (await store.read("t", other))[0] is not None
        _, ended = await store.open(opening("u"), max_sessions=1)
        assert [revocation.value for revocation in ended] == ["s"]
        revoked = await store.revoke_subject("ada", other)
        assert [(one.provider, one.issuer, one.value) for one in revoked] == [(*other, "t")]
        assert [session.id for session in await store.sessions("ada", REALM)] == ["u"]
        # It names a session of another realm: the session lives on.
        await store.revoke(revocation_request("u", realm=other))
        assert (await store.read("u", REALM))[0] is not None

    async def test_a_session_is_revoked_for_as_long_as_its_tokens_live(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        _, moved = await store.rotate(rotation("s", 1, access_lifetime=700))
        assert moved is not None
        revoked = await store.revoke(revocation_request("s", lifetime=1))
        assert revoked == Revocation("jwt", "sid", "s", moved.access_until + RETENTION)
        assert (await store.read("s", REALM))[0] is None
        assert list(await store.sessions("ada", REALM)) == []
        assert await store.rotate(rotation("s", 1)) == (Outcome.GONE, None)
        assert list((await store.revocations("", 9)).revocations) == [revoked]

    async def test_a_session_that_the_store_has_lost_is_revoked_once(self, store: SessionStore) -> None:
        request = revocation_request('lost "é|')
        _, now = await store.read("s", REALM)
        revoked = await store.revoke(request)
        assert revoked.until == pytest.approx(now + 300 + RETENTION, abs=5)
        assert await store.revoke(replace(request, lifetime=900)) == revoked
        assert list((await store.revocations("", 9)).revocations) == [revoked]

    async def test_one_token_is_revoked_for_as_long_as_was_ever_asked(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        realm = Realm("other", "https://issuer.example/é")
        request = revocation_request("s", claim="jti", realm=realm)
        first, shorter, longer = [
            await store.revoke(replace(request, lifetime=lifetime)) for lifetime in (300, 200, 900)
        ]
        assert first == shorter == Revocation("other", "jti", "s", first.until, realm.issuer)
        assert longer.until > first.until + 500
        revoked = (await store.revocations("", 9)).revocations
        assert max(revoked, key=lambda found: found.until) == longer
        # The identifier of a token is not that of a session, whatever it looks like.
        assert (await store.read("s", REALM))[0] is not None

    async def test_a_subject_ends_with_all_its_sessions(self, store: SessionStore) -> None:
        opened = [await self._opened(store, id) for id in "abc"]
        await self._opened(store, "d", "bob")
        revoked = await store.revoke_subject("ada", REALM)
        assert sorted(revoked) == sorted(session.revoke() for session in opened)
        assert list(await store.sessions("ada", REALM)) == []
        assert (await store.read("d", REALM))[0] is not None
        assert list(await store.revoke_subject("ada", REALM)) == []
        # A later login is not affected.
        await self._opened(store, "e")
        assert [session.id for session in await store.sessions("ada", REALM)] == ["e"]

    async def test_the_log_is_read_on_from_where_it_was_read(self, store: SessionStore) -> None:
        page = await store.revocations("", 9)
        assert list(page.revocations) == []
        assert (await store.revocations(page.position, 9)).position == page.position
        written = [await store.revoke(revocation_request(id)) for id in "abc"]
        page = await store.revocations(page.position, 9)
        assert list(page.revocations) == written
        assert list((await store.revocations(page.position, 9)).revocations) == []
        written.append(await store.revoke(revocation_request("d", claim="jti")))
        assert list((await store.revocations(page.position, 9)).revocations) == written[3:]
        assert list((await store.revocations("", 9)).revocations) == written

    async def test_the_log_says_what_time_it_is(self, store: SessionStore) -> None:
        _, before = await store.read("s", REALM)
        page = await store.revocations("", 9)
        _, after = await store.read("s", REALM)
        assert before <= page.now <= after

    async def test_the_log_is_read_in_pages(self, store: SessionStore) -> None:
        written = [await store.revoke(revocation_request(f"{n}")) for n in range(5)]
        position = ""
        read: list[Revocation] = []
        for expected in (2, 2, 1, 0):
            page = await store.revocations(position, 2)
            assert len(page.revocations) == expected
            position = page.position
            read += page.revocations
        assert read == written

    @pytest.mark.parametrize("position", ["3.0123456789abcdef", "99.", "0.x"])
    async def test_a_position_that_the_log_does_not_know_is_its_beginning(
        self, store: SessionStore, position: str
    ) -> None:
        written = [await store.revoke(revocation_request(f"{n}")) for n in range(3)]
        page = await store.revocations(position, 9)
        assert list(page.revocations) == written
        assert list((await store.revocations(page.position, 9)).revocations) == []

    async def test_revocations_that_are_over_go_away(self, store: SessionStore) -> None:
        for n in range(50):
            await store.revoke(revocation_request(f"{n}", lifetime=0.2 - RETENTION))
        await self.pass_time(0.4)
        position = (await store.revocations("", 99)).position
        for n in range(5):
            await store.revoke(revocation_request(f"late {n}"))
        revoked = (await store.revocations("", 99)).revocations
        assert [revocation.value for revocation in revoked] == [f"late {n}" for n in range(5)]
        # A reader that was at the end before gets what is new, and perhaps more.
        revoked = (await store.revocations(position, 99)).revocations
        assert [revocation.value for revocation in revoked] == [f"late {n}" for n in range(5)]

    async def test_a_store_that_was_closed_opens_again(self, store: SessionStore) -> None:
        await store.aclose()
        await self._opened(store, "s")
        await store.aclose()
        await store.aclose()
        await store.read("s", REALM)

    @staticmethod
    async def _opened(store: SessionStore, id: str, subject: str = "ada", **changes: Any) -> Session:
        session, _ = await store.open(opening(id, subject, **changes), max_sessions=100)
        return session
