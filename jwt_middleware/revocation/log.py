"""Where are revocations written? The part of a session store that verifying needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .revoked import Revocation


@dataclass(frozen=True, slots=True)
class RevocationPage:
    """The result of one read of a log."""

    position: str
    """The position from which the next read goes on."""
    revocations: Sequence[Revocation]
    now: float
    """Unix time by the clock of the log. Every ``until`` is by that clock."""


class RevocationLog(Protocol):
    """Where revocations are written."""

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        """The next ``limit`` revocations behind the position ``after``.

        Positions belong to the log, which may spell them as it likes. The empty position comes before everything. A
        position that the log does not know, for instance because it lost its last writes, counts as the empty one.

        Once a caller has been told that a revocation is written, every read that begins later must find it. In SQL
        databases, numbers that are drawn before the commit do not keep that promise.

        Raises an ``Exception`` if the log cannot be read.
        """
        ...
