"""Where are revocations written? What verifying needs of a session store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .revoked import Revocation


@dataclass(frozen=True, slots=True)
class RevocationPage:
    """What one read of a log gives."""

    position: str
    """Where the next read goes on."""
    revocations: Sequence[Revocation]
    now: float
    """Unix time by the clock of the log, which all its ``until`` are of."""


class RevocationLog(Protocol):
    """Where revocations are written."""

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        """The next ``limit`` revocations behind the position ``after``.

        Positions belong to the log, which may spell them as it likes. The empty one stands before everything. A
        position that the log does not know, for instance because it lost its last writes, counts as the empty one.

        Whoever was told that a revocation is written can count on every read that begins later to find it. In SQL
        databases, numbers that are drawn before the commit do not keep that promise.

        Raises an ``Exception`` where the log cannot be read.
        """
        ...
