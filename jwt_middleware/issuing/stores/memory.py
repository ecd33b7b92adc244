"""Sessions in the memory of one process, gone with it: for tests, and for apps that may forget who was logged in."""

import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import takewhile
from secrets import token_hex
from threading import Lock
from typing import TypeAlias

from ..._support.arguments import check_callable
from ...revocation.revoked import MARGIN, Revocation
from ..rotation import Opening, Outcome, Rotation, Session, rotated

_Named: TypeAlias = tuple[str, str, str]

SWEEP = 20
"""Rows that are over and go away with each step that writes."""


class MemoryStore:
    """A ``SessionStore`` in memory. ``clock`` gives Unix time, by default ``time.time``."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        check_callable("clock", clock)
        self._clock = clock
        self._lock = Lock()
        self._sessions: dict[str, Session] = {}
        self._ids: dict[str, set[str]] = {}
        self._sessions_end: list[tuple[float, str]] = []
        # In the order of their numbers, the newest last.
        self._log: dict[int, Revocation] = {}
        self._numbers: dict[_Named, int] = {}
        self._revocations_end: list[tuple[float, int]] = []
        self._number = 0
        # A position of another store, or of an earlier process, is not taken for one of ours.
        self._name = token_hex(8)

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._sessions)} sessions)"

    async def open(
        self, opening: Opening, *, provider: str, max_sessions: int
    ) -> tuple[Session, tuple[Revocation, ...]]:
        """See ``SessionStore``."""
        with self._lock:
            now = self._clock()
            self._sweep(now)
            others = self._of(opening.subject, now)
            evicted = tuple(self._end(other, provider) for other in others[max_sessions - 1 :])
            session = opening.begun(now)
            self._sessions[session.id] = session
            self._ids.setdefault(session.subject, set()).add(session.id)
            heappush(self._sessions_end, (session.expires_at, session.id))
            return session, evicted

    async def read(self, id: str) -> tuple[Session | None, float]:
        """See ``SessionStore``."""
        now = self._clock()
        session = self._sessions.get(id)
        return (None if session is None or now >= session.expires_at else session), now

    async def rotate(self, rotation: Rotation, *, provider: str) -> tuple[Outcome, Session | None]:
        """See ``SessionStore``."""
        with self._lock:
            now = self._clock()
            self._sweep(now)
            session = self._sessions.get(rotation.id)
            outcome, moved = rotated(session, rotation, now)
            if outcome is Outcome.THEFT and session is not None:
                self._end(session, provider)
                return outcome, session
            if moved is not None and outcome is not Outcome.LATE:
                self._sessions[moved.id] = moved
            return outcome, moved

    async def revoke(self, revocation: Revocation) -> Revocation:
        """See ``SessionStore``."""
        with self._lock:
            now = self._clock()
            self._sweep(now)
            if revocation.ends == "jti":
                return self._write(revocation)
            session = self._sessions.get(revocation.value)
            if session is not None:
                return self._end(session, revocation.provider)
            before = self._written(revocation)
            return self._write(revocation) if before is None or before.until <= now else before

    async def revoke_subject(self, subject: str, *, provider: str) -> tuple[Revocation, ...]:
        """See ``SessionStore``."""
        with self._lock:
            now = self._clock()
            self._sweep(now)
            return tuple(self._end(session, provider) for session in self._of(subject, now))

    async def sessions(self, subject: str) -> tuple[Session, ...]:
        """See ``SessionStore``."""
        with self._lock:
            return tuple(self._of(subject, self._clock()))

    async def revocations(self, after: str, limit: int) -> tuple[str, tuple[Revocation, ...]]:
        """See ``RevocationLog``."""
        name, _, number = after.partition(".")
        read = int(number) if name == self._name else 0
        with self._lock:
            if read == self._number:
                return after, ()
            # From the end, since hardly ever much is new.
            found = list(takewhile(lambda entry: entry[0] > read, reversed(self._log.items())))
        batch = found[::-1][:limit]
        last = self._number if len(batch) < limit else batch[-1][0]
        return f"{self._name}.{last}", tuple(revocation for _, revocation in batch)

    async def aclose(self) -> None:
        """Nothing is open."""

    def _of(self, subject: str, now: float) -> list[Session]:
        """The sessions of ``subject`` that are not over, the last used first."""
        sessions = [self._sessions[id] for id in self._ids.get(subject, ()) if now < self._sessions[id].expires_at]
        return sorted(sessions, key=lambda session: session.used_at, reverse=True)

    def _end(self, session: Session, provider: str) -> Revocation:
        self._forget(session)
        return self._write(Revocation(provider, "sid", session.id, session.access_until + MARGIN))

    def _forget(self, session: Session) -> None:
        del self._sessions[session.id]
        ids = self._ids[session.subject]
        ids.remove(session.id)
        if not ids:
            del self._ids[session.subject]

    def _written(self, revocation: Revocation) -> Revocation | None:
        number = self._numbers.get((revocation.provider, revocation.ends, revocation.value))
        return None if number is None else self._log[number]

    def _write(self, revocation: Revocation) -> Revocation:
        before = self._written(revocation)
        named = (revocation.provider, revocation.ends, revocation.value)
        if before is not None:
            if before.until >= revocation.until:
                return before
            del self._log[self._numbers[named]]
        self._number += 1
        self._log[self._number] = revocation
        self._numbers[named] = self._number
        heappush(self._revocations_end, (revocation.until, self._number))
        return revocation

    def _sweep(self, now: float) -> None:
        for _ in range(SWEEP):
            if not self._sessions_end or self._sessions_end[0][0] > now:
                break
            session = self._sessions.get(heappop(self._sessions_end)[1])
            if session is not None and session.expires_at > now:
                heappush(self._sessions_end, (session.expires_at, session.id))
            elif session is not None:
                self._forget(session)
        for _ in range(SWEEP):
            if not self._revocations_end or self._revocations_end[0][0] > now:
                break
            revocation = self._log.pop(heappop(self._revocations_end)[1], None)
            if revocation is not None:
                del self._numbers[revocation.provider, revocation.ends, revocation.value]
