"""Which tokens are ended before their time? The revocations in force. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from threading import Lock
from typing import Literal, Protocol, TypeAlias

from ..verifying.token import Token

MARGIN = 600
"""Seconds for which a revocation outlives the last token that it ends: for the clocks and the leeway of others."""

Ends: TypeAlias = Literal["sid", "jti"]


class Revocations(Protocol):
    """What tells whether a verified token is ended: ``Sessions``, a ``RevocationView``, or your own."""

    def is_revoked(self, token: Token) -> bool | None:
        """Whether ``token`` is ended. None: that cannot be told without waiting; ``catch_up`` waits.

        It is asked with each request and does not wait.
        """
        ...

    async def catch_up(self) -> None:
        """Make ``is_revoked`` able to tell, and keep it so; raises ``RevocationsUnavailable`` where that fails."""
        ...

    async def stop(self) -> None:
        """End what ``catch_up`` began on this event loop."""
        ...


@dataclass(frozen=True, slots=True)
class Revocation:
    """All tokens of one session, or one token by itself, are ended."""

    provider: str
    """Whose tokens these are: another provider may use the same identifiers."""
    ends: Ends
    """The claim that names what is ended: a session (``sid``) or one token (``jti``, RFC 7519 4.1.7)."""
    value: str
    until: float
    """Unix time at which the last of these tokens has run out, with ``MARGIN``."""


class RevokedTokens:
    """The revocations that a process knows, until they are over. They are added by any thread."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, Ends, str], float] = {}
        # How many of them have this value. Hardly any request's token has one, and these look-ups cost least.
        self._values: Counter[str] = Counter()
        self._ends: list[tuple[float, tuple[str, Ends, str]]] = []
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, token: Token) -> bool:
        session, id, values = token.session_id, token.id, self._values
        return (session in values and (token.provider, "sid", session) in self._until) or (
            id in values and (token.provider, "jti", id) in self._until
        )

    def add(self, revocations: Iterable[Revocation], now: float) -> None:
        """Know ``revocations`` too, and forget what is over at ``now``, by the clock that their ``until`` is of."""
        with self._lock:
            for revocation in revocations:
                key = (revocation.provider, revocation.ends, revocation.value)
                if revocation.until > max(now, self._until.get(key, 0)):
                    if key not in self._until:
                        self._values[revocation.value] += 1
                    self._until[key] = revocation.until
                    heappush(self._ends, (revocation.until, key))
            while self._ends and self._ends[0][0] <= now:
                until, key = heappop(self._ends)
                # It may have been prolonged since.
                if self._until.get(key) == until:
                    del self._until[key]
                    self._values[key[-1]] -= 1
                    if not self._values[key[-1]]:
                        del self._values[key[-1]]
