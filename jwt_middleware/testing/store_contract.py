"""What must a store of sessions keep to? A suite for those who write one, and for ours."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from ..issuing.rotation import Opening, Outcome, Rotation, Session
from ..issuing.sessions import SessionStore
from ..revocation.revoked import MARGIN, Revocation

PROVIDER = "jwt"
FAR = 4_000_000_000


def opening(id: str, subject: str = "ada", **changes: Any) -> Opening:
    """A session that is to be opened, with ``changes``."""
    usual = {"id": id, "subject": subject, "idle_lifetime": 1000, "session_lifetime": 10_000, "access_until": FAR}
    return Opening(**{**usual, **changes})


def rotation(id: str, generation: int, **changes: Any) -> Rotation:
    """A refresh token that is presented, with ``changes``."""
    usual = {"id": id, "generation": generation, "grace": 100, "idle_lifetime": 1000, "access_until": FAR}
    return Rotation(**{**usual, "deadline": FAR, **changes})


class StoreContract:
    """Tests of a ``SessionStore``. A subclass named ``Test...`` has a fixture ``store`` that gives an empty one.

    They are run by the pytest plugin of anyio, which comes with it, on the event loops that the fixture
    ``anyio_backend`` names: where a store needs asyncio, override it to return ``"asyncio"``. They take some seconds.
    """

    pytestmark = pytest.mark.anyio

    async def test_a_session_is_read_as_it_was_opened(self, store: SessionStore) -> None:
        granted = {
            "scopes": ("a", "b"),
            "claims": {"n": 1.5, "é": [None, {"x": True}]},
            "device": 'a "phone" | \U0001f600',
        }
        _, before = await store.read("s")
        session, ended = await store.open(opening("s", "ada é|\n", **granted), provider=PROVIDER, max_sessions=9)
        read, after = await store.read("s")
        assert read == session
        assert not ended
        assert before <= session.opened_at == session.rotated_at == session.used_at <= after
        assert session.expires_at == pytest.approx(session.opened_at + 1000, abs=0.01)
        assert session.ends_at == pytest.approx(session.opened_at + 10_000, abs=0.01)
        assert {name: getattr(session, name) for name in granted} == granted
        assert (session.subject, session.generation, session.access_until) == ("ada é|\n", 1, FAR)

    async def test_what_nobody_opened_is_not_there(self, store: SessionStore) -> None:
        assert (await store.read("s"))[0] is None
        assert list(await store.sessions("ada")) == []
        assert await store.rotate(rotation("s", 1), provider=PROVIDER) == (Outcome.GONE, None)

    async def test_a_generation_is_followed_by_the_next(self, store: SessionStore) -> None:
        session = await self._opened(store, "s")
        for generation in (1, 2, 3):
            outcome, rotated = await store.rotate(
                rotation("s", generation, grace=0, idle_lifetime=2000, access_until=FAR + generation), provider=PROVIDER
            )
            assert outcome is Outcome.NEXT
            assert rotated is not None
            assert rotated.generation == generation + 1
            assert rotated.access_until == FAR + generation
            assert rotated.used_at == rotated.rotated_at >= session.opened_at
            assert rotated.expires_at == pytest.approx(rotated.used_at + 2000, abs=0.01)
            assert (rotated.opened_at, rotated.ends_at) == (session.opened_at, session.ends_at)
            assert (await store.read("s"))[0] == rotated

    async def test_within_grace_a_generation_is_given_again(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        await anyio.sleep(0.01)
        outcome, rotated = await store.rotate(rotation("s", 1), provider=PROVIDER)
        assert (outcome, rotated and rotated.generation) == (Outcome.AGAIN, 1)
        assert rotated is not None
        assert rotated.used_at > rotated.rotated_at == rotated.opened_at
        await store.rotate(rotation("s", 1, grace=0), provider=PROVIDER)
        for presented in (1, 2, 1):
            outcome, rotated = await store.rotate(rotation("s", presented), provider=PROVIDER)
            assert (outcome, rotated and rotated.generation) == (Outcome.AGAIN, 2)

    async def test_grace_ends(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        await store.rotate(rotation("s", 1, grace=0), provider=PROVIDER)
        await anyio.sleep(0.3)
        outcome, ended = await store.rotate(rotation("s", 1, grace=0.2), provider=PROVIDER)
        assert (outcome, ended and ended.id) == (Outcome.THEFT, "s")

    @pytest.mark.parametrize("presented", [0, 1, 2])
    async def test_an_older_generation_is_theft_and_ends_the_session(self, store: SessionStore, presented: int) -> None:
        await self._opened(store, "s", access_until=FAR + 5)
        await self._opened(store, "other")
        for generation in (1, 2, 3):
            await store.rotate(rotation("s", generation, grace=0, access_until=FAR), provider=PROVIDER)
        outcome, ended = await store.rotate(rotation("s", presented), provider=PROVIDER)
        assert (outcome, ended and ended.access_until) == (Outcome.THEFT, FAR + 5)
        assert (await store.read("s"))[0] is None
        assert await store.rotate(rotation("s", 4), provider=PROVIDER) == (Outcome.GONE, None)
        assert (await store.read("other"))[0] is not None
        assert [session.id for session in await store.sessions("ada")] == ["other"]
        _, revoked = await store.revocations("", 9)
        assert list(revoked) == [Revocation(PROVIDER, "sid", "s", FAR + 5 + MARGIN)]

    async def test_a_generation_that_the_store_has_lost_is_passed(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        outcome, rotated = await store.rotate(rotation("s", 7), provider=PROVIDER)
        assert (outcome, rotated and rotated.generation) == (Outcome.AHEAD, 8)
        for presented in (7, 8):
            outcome, rotated = await store.rotate(rotation("s", presented), provider=PROVIDER)
            assert (outcome, rotated and rotated.generation) == (Outcome.AGAIN, 8)

    async def test_after_its_deadline_nothing_is_done(self, store: SessionStore) -> None:
        session = await self._opened(store, "s")
        _, now = await store.read("s")
        outcome, _ = await store.rotate(rotation("s", 1, grace=0, deadline=now - 0.1), provider=PROVIDER)
        assert outcome is Outcome.LATE
        assert (await store.read("s"))[0] == session
        outcome, _ = await store.rotate(rotation("s", 1, grace=0, deadline=now + 60), provider=PROVIDER)
        assert outcome is Outcome.NEXT

    async def test_parallel_refreshes_make_one_generation(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        # So that connections, which may take a while, are there before grace counts.
        async with anyio.create_task_group() as together:
            for _ in range(20):
                together.start_soon(store.read, "s")
        await anyio.sleep(2.1)
        answers: list[tuple[Outcome, Session | None]] = []

        async def refresh() -> None:
            answers.append(await store.rotate(rotation("s", 1, grace=2), provider=PROVIDER))

        async with anyio.create_task_group() as together:
            for _ in range(20):
                together.start_soon(refresh)
        assert [session and session.generation for _, session in answers] == [2] * 20
        assert sorted(outcome.value for outcome, _ in answers) == ["again"] * 19 + ["next"]

    async def test_an_idle_session_is_over(self, store: SessionStore) -> None:
        await self._opened(store, "s", idle_lifetime=0.2)
        await self._opened(store, "t", idle_lifetime=0.2)
        await store.rotate(rotation("t", 1), provider=PROVIDER)
        await anyio.sleep(0.3)
        assert (await store.read("s"))[0] is None
        assert await store.rotate(rotation("s", 1), provider=PROVIDER) == (Outcome.GONE, None)
        assert [session.id for session in await store.sessions("ada")] == ["t"]

    async def test_a_session_is_over_at_its_end_however_it_is_renewed(self, store: SessionStore) -> None:
        await self._opened(store, "s", session_lifetime=0.3)
        _, rotated = await store.rotate(rotation("s", 1), provider=PROVIDER)
        assert rotated is not None
        assert rotated.expires_at == rotated.ends_at
        await anyio.sleep(0.4)
        assert await store.rotate(rotation("s", 1), provider=PROVIDER) == (Outcome.GONE, None)

    async def test_the_sessions_of_a_subject_are_listed_the_last_used_first(self, store: SessionStore) -> None:
        for id in "abc":
            await self._opened(store, id)
            await anyio.sleep(0.01)
        await self._opened(store, "d", "bob")
        await store.rotate(rotation("a", 1), provider=PROVIDER)
        listed = await store.sessions("ada")
        assert [session.id for session in listed] == ["a", "c", "b"]
        assert [(await store.read(session.id))[0] for session in listed] == list(listed)

    async def test_a_subject_has_no_more_sessions_than_it_may(self, store: SessionStore) -> None:
        for id in "abc":
            await self._opened(store, id)
            await anyio.sleep(0.01)
        await self._opened(store, "z", "bob")
        await store.rotate(rotation("a", 1), provider=PROVIDER)
        await anyio.sleep(0.01)
        _, ended = await store.open(opening("d"), provider=PROVIDER, max_sessions=3)
        assert list(ended) == [Revocation(PROVIDER, "sid", "b", FAR + MARGIN)]
        assert [session.id for session in await store.sessions("ada")] == ["d", "a", "c"]
        _, ended = await store.open(opening("e"), provider=PROVIDER, max_sessions=1)
        assert sorted(revocation.value for revocation in ended) == ["a", "c", "d"]
        assert [session.id for session in await store.sessions("ada")] == ["e"]
        _, revoked = await store.revocations("", 9)
        assert sorted(revocation.value for revocation in revoked) == ["a", "b", "c", "d"]
        assert (await store.read("z"))[0] is not None

    async def test_sessions_that_are_over_do_not_count(self, store: SessionStore) -> None:
        for id in "ab":
            await self._opened(store, id, idle_lifetime=0.1)
        await self._opened(store, "c")
        await anyio.sleep(0.2)
        _, ended = await store.open(opening("d"), provider=PROVIDER, max_sessions=2)
        assert list(ended) == []

    async def test_a_session_is_revoked_for_as_long_as_its_tokens_live(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        await store.rotate(rotation("s", 1, access_until=FAR + 7), provider=PROVIDER)
        revoked = await store.revoke(Revocation(PROVIDER, "sid", "s", 1))
        assert revoked == Revocation(PROVIDER, "sid", "s", FAR + 7 + MARGIN)
        assert (await store.read("s"))[0] is None
        assert list(await store.sessions("ada")) == []
        assert await store.rotate(rotation("s", 1), provider=PROVIDER) == (Outcome.GONE, None)
        assert list((await store.revocations("", 9))[1]) == [revoked]

    async def test_a_session_that_the_store_has_lost_is_revoked_once(self, store: SessionStore) -> None:
        revocation = Revocation(PROVIDER, "sid", 'lost "é|', FAR)
        assert await store.revoke(revocation) == revocation
        assert await store.revoke(replace(revocation, until=FAR + 9)) == revocation
        assert list((await store.revocations("", 9))[1]) == [revocation]

    async def test_one_token_is_revoked_for_as_long_as_was_ever_asked(self, store: SessionStore) -> None:
        await self._opened(store, "s")
        revocation = Revocation("other", "jti", "s", FAR)
        for until, kept in ((FAR, FAR), (FAR - 9, FAR), (FAR + 9, FAR + 9)):
            assert await store.revoke(replace(revocation, until=until)) == replace(revocation, until=kept)
        _, revoked = await store.revocations("", 9)
        assert max(revoked, key=lambda found: found.until) == replace(revocation, until=FAR + 9)
        # A token's identifier is no session's, whatever it looks like.
        assert (await store.read("s"))[0] is not None

    async def test_a_subject_ends_with_all_its_sessions(self, store: SessionStore) -> None:
        for id in "abc":
            await self._opened(store, id)
        await self._opened(store, "d", "bob")
        revoked = await store.revoke_subject("ada", provider=PROVIDER)
        assert sorted(revocation.value for revocation in revoked) == ["a", "b", "c"]
        assert {replace(revocation, value="") for revocation in revoked} == {
            Revocation(PROVIDER, "sid", "", FAR + MARGIN)
        }
        assert list(await store.sessions("ada")) == []
        assert (await store.read("d"))[0] is not None
        assert list(await store.revoke_subject("ada", provider=PROVIDER)) == []
        # Whoever logs in then is not meant.
        await self._opened(store, "e")
        assert [session.id for session in await store.sessions("ada")] == ["e"]

    async def test_the_log_is_read_on_from_where_it_was_read(self, store: SessionStore) -> None:
        position, revoked = await store.revocations("", 9)
        assert list(revoked) == []
        assert await store.revocations(position, 9) == (position, revoked)
        written = [await store.revoke(Revocation(PROVIDER, "sid", id, FAR)) for id in "abc"]
        read, revoked = await store.revocations(position, 9)
        assert list(revoked) == written
        assert list((await store.revocations(read, 9))[1]) == []
        written.append(await store.revoke(Revocation(PROVIDER, "jti", "d", FAR)))
        assert list((await store.revocations(read, 9))[1]) == written[3:]
        assert list((await store.revocations("", 9))[1]) == written

    async def test_the_log_is_read_in_pieces(self, store: SessionStore) -> None:
        written = [await store.revoke(Revocation(PROVIDER, "sid", f"{n}", FAR)) for n in range(5)]
        position = ""
        read: list[Revocation] = []
        for expected in (2, 2, 1, 0):
            position, revoked = await store.revocations(position, 2)
            assert len(revoked) == expected
            read += revoked
        assert read == written

    @pytest.mark.parametrize("position", ["3.0123456789abcdef", "99.", "0.x"])
    async def test_a_position_that_the_log_does_not_know_is_its_beginning(
        self, store: SessionStore, position: str
    ) -> None:
        written = [await store.revoke(Revocation(PROVIDER, "sid", f"{n}", FAR)) for n in range(3)]
        read, revoked = await store.revocations(position, 9)
        assert list(revoked) == written
        assert list((await store.revocations(read, 9))[1]) == []

    async def test_revocations_that_are_over_go_away(self, store: SessionStore) -> None:
        _, now = await store.read("s")
        for n in range(50):
            await store.revoke(Revocation(PROVIDER, "sid", f"{n}", now + 0.2))
        await anyio.sleep(0.4)
        position, _ = await store.revocations("", 99)
        for n in range(5):
            await store.revoke(Revocation(PROVIDER, "sid", f"late {n}", FAR))
        _, revoked = await store.revocations("", 99)
        assert [revocation.value for revocation in revoked] == [f"late {n}" for n in range(5)]
        # Whoever had read to the end before reads what is new, and perhaps more.
        _, revoked_since = await store.revocations(position, 99)
        assert [revocation.value for revocation in revoked_since] == [f"late {n}" for n in range(5)]

    async def test_a_store_that_was_closed_opens_again(self, store: SessionStore) -> None:
        await store.aclose()
        await self._opened(store, "s")
        await store.aclose()
        await store.aclose()
        await store.read("s")

    @staticmethod
    async def _opened(store: SessionStore, id: str, subject: str = "ada", **changes: Any) -> Session:
        session, _ = await store.open(opening(id, subject, **changes), provider=PROVIDER, max_sessions=100)
        return session
