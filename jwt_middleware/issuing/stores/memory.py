"""Sessions in the memory of one process, gone with it: for tests, and for apps that may forget their logins."""

import time
from collections.abc import Callable
from heapq import heappop, heappush
from secrets import token_hex
from threading import Lock
from typing import TypeAlias

from ..._support.arguments import check_callable
from ...revocation.log import RevocationPage
from ...revocation.revoked import Revocation
from ..rotation import Opening, Outcome, Realm, RevocationRequest, Rotation, Session, rotate
from ..session_store import SESSION_RETENTION
from ..steady import SteadyTime

SWEEP = 20
"""How many rows that are over are removed with each step that writes."""

HELD = 100_000
"""How many ids of sessions are remembered, to tell whether another process opened one."""

_Name: TypeAlias = tuple[str, str | None, str, str]


class MemoryStore:
    """A ``SessionStore`` in memory. ``clock`` gives Unix time, by default ``time.time``."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        check_callable("clock", clock)
        self._clock = clock
        self._lock = Lock()
        self._steady = SteadyTime()
        self._sessions: dict[str, Session] = {}
        self._ids: dict[str, set[str]] = {}
        self._sessions_end: list[tuple[float, str]] = []
        self._log: dict[int, Revocation] = {}
        self._numbers: dict[_Name, int] = {}
        self._revocations_end: list[tuple[float, int]] = []
        self._first = self._number = 0
        # A position of another store, or of an earlier process, must not be taken for one of ours.
        self._name = token_hex(8)
        # The ids of all sessions that were ever opened here. None if there were too many.
        self._held: set[str] | None = set()

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._sessions)} sessions)"

    async def open(self, opening: Opening, *, max_sessions: int) -> tuple[Session, tuple[Revocation, ...]]:
        """See ``SessionStore``."""
        with self._lock:
            now = self._begin()
            before = self._sessions.get(opening.id)
            if before is not None:
                return before, ()
            others = self._of(opening.subject, opening.realm, now)
            evicted = tuple(self._end(other) for other in others[max_sessions - 1 :])
            session = opening.begin(now, self._steady.time)
            self._sessions[session.id] = session
            self._ids.setdefault(session.subject, set()).add(session.id)
            heappush(self._sessions_end, (session.expires_at, session.id))
            self._hold(session.id)
            return session, evicted

    async def read(self, id: str, realm: Realm) -> tuple[Session | None, float]:
        """See ``SessionStore``."""
        now, session = self._clock(), self._sessions.get(id)
        return (session if session is not None and session.is_alive(realm, now) else None), now

    async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
        """See ``SessionStore``."""
        with self._lock:
            now = self._begin()
            outcome, session = rotate(self._sessions.get(rotation.id), rotation, now, self._steady.time)
            if outcome is Outcome.THEFT and session is not None:
                self._end(session)
            elif session is not None and outcome is not Outcome.LATE:
                self._sessions[session.id] = session
            return outcome, session

    async def revoke(self, request: RevocationRequest) -> Revocation:
        """See ``SessionStore``."""
        with self._lock:
            now = self._begin()
            revocation = request.begin(now)
            if request.claim == "jti":
                return self._write(revocation)
            session = self._sessions.get(request.value)
            if session is not None and session.realm == request.realm:
                return self._end(session)
            before = self._written(revocation)
            return self._write(revocation) if before is None or before.until <= now else before

    async def revoke_subject(self, subject: str, realm: Realm) -> tuple[Revocation, ...]:
        """See ``SessionStore``."""
        with self._lock:
            now = self._begin()
            return tuple(self._end(session) for session in self._of(subject, realm, now))

    async def sessions(self, subject: str, realm: Realm) -> tuple[Session, ...]:
        """See ``SessionStore``."""
        with self._lock:
            return tuple(self._of(subject, realm, self._clock()))

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        """See ``RevocationLog``."""
        name, _, number = after.partition(".")
        read = int(number) if name == self._name else 0
        with self._lock:
            now, last, found = self._clock(), self._number, []
            for number_ in range(max(read + 1, self._first), self._number + 1):
                revocation = self._log.get(number_)
                if revocation is not None:
                    found.append(revocation)
                    if len(found) == limit:
                        last = number_
                        break
        return RevocationPage(f"{self._name}.{last}", tuple(found), now)

    async def aclose(self) -> None:
        """Do nothing: nothing is open."""

    def has_held(self, id: str) -> bool:
        """Whether a session with this ``id`` was opened here, or may have been."""
        return self._held is None or id in self._held

    def _begin(self) -> float:
        now = self._clock()
        self._steady = self._steady.read(now)
        self._sweep(now)
        return now

    def _of(self, subject: str, realm: Realm, now: float) -> list[Session]:
        """The sessions of ``subject`` that have not ended, most recently used first."""
        sessions = [self._sessions[id] for id in self._ids.get(subject, ())]
        alive = [session for session in sessions if session.is_alive(realm, now)]
        return sorted(alive, key=lambda session: session.used_at, reverse=True)

    def _hold(self, id: str) -> None:
        if self._held is not None:
            self._held.add(id)
            if len(self._held) > HELD:
                self._held = None

    def _end(self, session: Session) -> Revocation:
        self._forget(session)
        return self._write(session.revoke())

    def _forget(self, session: Session) -> None:
        del self._sessions[session.id]
        ids = self._ids[session.subject]
        ids.remove(session.id)
        if not ids:
            del self._ids[session.subject]

    def _written(self, revocation: Revocation) -> Revocation | None:
        number = self._numbers.get(_name(revocation))
        return None if number is None else self._log[number]

    def _write(self, revocation: Revocation) -> Revocation:
        before = self._written(revocation)
        if before is not None:
            if before.until >= revocation.until:
                return before
            del self._log[self._numbers[_name(revocation)]]
        self._number += 1
        self._log[self._number] = revocation
        self._numbers[_name(revocation)] = self._number
        heappush(self._revocations_end, (revocation.until, self._number))
        return revocation

    def _sweep(self, now: float) -> None:
        for _ in range(SWEEP):
            if not self._sessions_end or self._sessions_end[0][0] + SESSION_RETENTION > now:
                break
            session = self._sessions.get(heappop(self._sessions_end)[1])
            if session is not None and session.expires_at + SESSION_RETENTION > now:
                heappush(self._sessions_end, (session.expires_at, session.id))
            elif session is not None:
                self._forget(session)
        for _ in range(SWEEP):
            if not self._revocations_end or self._revocations_end[0][0] > now:
                break
            revocation = self._log.pop(heappop(self._revocations_end)[1], None)
            if revocation is not None:
                del self._numbers[_name(revocation)]
        self._first = next(iter(self._log), self._number + 1)


def _name(revocation: Revocation) -> _Name:
    return revocation.provider, revocation.issuer, revocation.claim, revocation.value
