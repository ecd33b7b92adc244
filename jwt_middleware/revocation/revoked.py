"""Which tokens are revoked? The revocations that are in force. Pure."""

from collections.abc import Iterable
from heapq import heappop, heappush
from math import ceil
from threading import Lock
from typing import Literal, NamedTuple, Protocol, TypeAlias

from ..verifying.token import Token

MARGIN = 600
"""Seconds of leeway, at most, that a verifier may allow beside revocations."""

RETENTION = 24 * 3600 + MARGIN
"""Seconds for which a revocation is kept after the latest ``exp`` of the tokens that it revokes.

A day more than any leeway, so that no clock that jumps by up to a day makes a revoked token good again.
"""

SWEEP = 2000
"""Values that are forgotten in one step, at most: more would hold up the event loop."""

Claim: TypeAlias = Literal["sid", "jti"]


class Revocations(Protocol):
    """Says whether a verified token is revoked: ``Sessions``, a ``RevocationView``, or an object of your own."""

    def is_revoked(self, token: Token) -> bool | None:
        """Whether ``token`` is revoked. None if only ``catch_up``, which waits, can tell.

        It is called for every request and must not wait.
        """
        ...

    async def catch_up(self) -> None:
        """Make ``is_revoked`` able to tell, and keep it so. Raises ``RevocationsUnavailable`` if that fails."""
        ...

    async def stop(self) -> None:
        """End what ``catch_up`` began on this event loop."""
        ...


class Revocation(NamedTuple):
    """The revocation of all tokens of one session, or of a single token."""

    provider: str
    """The provider whose tokens these are: another one may use the same identifiers."""
    claim: Claim
    """The claim that names what is revoked: ``sid`` for a session, ``jti`` for one token (RFC 7519 4.1.7)."""
    value: str
    """The value of that claim."""
    until: float
    """Unix time, by the store's clock, until which the revocation is kept."""
    issuer: str | None = None
    """The ``iss`` of the tokens. None for any issuer of the provider."""


class RevokedTokens:
    """The revocations that a process knows. Any thread may add to them.

    There may be hundreds of thousands. So each of them is a value and a number, without an object that the garbage
    collector would have to visit: visiting them all would hold up the event loop.
    """

    def __init__(self) -> None:
        # Keyed by value: hardly any token has a value that is in here, and this look-up costs least.
        self._known: dict[str, _Entry | tuple[_Entry, ...]] = {}
        # Values by the second in which their revocations are over. The heap says which second comes first.
        self._due: dict[int, list[str]] = {}
        self._seconds: list[int] = []
        # The kinds of revocations, by their numbers. There are only about as many as issuers.
        self._kinds: list[_Kind] = []
        self._numbers: dict[_Kind, int] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, token: Token) -> bool:
        session_id, id, known = token.session_id, token.id, self._known
        return (session_id in known and self._has("sid", session_id, token)) or (
            id in known and self._has("jti", id, token)
        )

    def add(self, revocations: Iterable[Revocation], now: float, *, shift: float = 0, at_least: float = 0) -> None:
        """Add ``revocations``, and forget some of those that are over at ``now``.

        ``shift`` is added to each ``until`` to get to the clock of ``now``. Each revocation is known for ``at_least``
        seconds, whatever it says.
        """
        known, due, numbers = self._known, self._due, self._numbers
        earliest = now + at_least
        with self._lock:
            for provider, claim, value, until, issuer in revocations:
                until += shift
                if until < earliest:
                    until = earliest
                if until <= now:
                    continue
                number = numbers.get((provider, claim, issuer))
                if number is None:
                    number = self._number((provider, claim, issuer))
                second = ceil(until)
                entry = second << _BITS | number
                others = known.get(value)
                if others is None:
                    known[value] = entry
                elif (kept := _united(_as_tuple(others), entry)) is not None:
                    known[value] = kept
                else:
                    continue
                values = due.get(second)
                if values is None:
                    due[second] = [value]
                    heappush(self._seconds, second)
                else:
                    values.append(value)
            self._sweep(now)

    def _number(self, kind: "_Kind") -> int:
        # In this order, because another thread may look while we add.
        self._kinds.append(kind)
        number = self._numbers[kind] = len(self._kinds) - 1
        return number

    def _has(self, claim: Claim, value: str, token: Token) -> bool:
        # Another thread may have forgotten it just now.
        for entry in _as_tuple(self._known.get(value, ())):
            provider, its_claim, issuer = self._kinds[entry & _NUMBER]
            if provider == token.provider and its_claim == claim and (issuer is None or issuer == token.issuer):
                return True
        return False

    def _sweep(self, now: float) -> None:
        left = SWEEP
        while self._seconds and self._seconds[0] <= now and left:
            values = self._due[self._seconds[0]]
            while values and left:
                left -= 1
                value = values.pop()
                kept = tuple(entry for entry in _as_tuple(self._known.get(value, ())) if entry >> _BITS > now)
                if kept:
                    self._known[value] = kept
                else:
                    self._known.pop(value, None)
            if not values:
                del self._due[heappop(self._seconds)]


_Kind: TypeAlias = tuple[str, Claim, str | None]
"""Provider, claim and issuer."""

_Entry: TypeAlias = int
"""The second in which a revocation is over, and then the number of its kind in ``_BITS`` bits."""

_BITS = 32
_NUMBER = (1 << _BITS) - 1


def _as_tuple(entries: _Entry | tuple[_Entry, ...]) -> tuple[_Entry, ...]:
    return (entries,) if isinstance(entries, int) else entries


def _united(others: tuple[_Entry, ...], entry: _Entry) -> tuple[_Entry, ...] | None:
    """``others`` with ``entry`` added. None if they already cover it."""
    for other in others:
        if other & _NUMBER == entry & _NUMBER:
            if other >= entry:
                return None
            return (*(one for one in others if one is not other), entry)
    return (*others, entry)
