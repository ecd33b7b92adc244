"""How much time has passed in a store whose clock may be set? Pure."""

from dataclasses import dataclass

SET_BACK = 5
"""Seconds by which a clock may go back without having been set: two hosts after a failover, a time server's nudge."""

UNKNOWN = 24 * 3600
"""Seconds that may have passed, at worst, when a clock was set back."""


@dataclass(frozen=True, slots=True)
class SteadyTime:
    """A time in seconds that never goes back. When the clock of the store is set back, this time jumps ahead instead.

    ``grace`` is measured by it. Measured by the clock, a refresh token that was replaced an hour ago would be good once
    more after the clock was set back by an hour. When a clock is set, it is unknown how much time has really passed, so
    this time jumps ahead whichever way the clock is set: a grace may end early, and never comes again. Each store keeps
    the two numbers.
    """

    seen: float = 0
    """The last reading of the clock."""
    offset: float = 0
    """Seconds that are added to the clock."""

    @property
    def time(self) -> float:
        """The steady time at the last reading."""
        return self.seen + self.offset

    def read(self, now: float, *, latest: float = 0) -> "SteadyTime":
        """The state after a reading of ``now``; ``latest`` is a later reading than ``seen``, if there was one."""
        back = max(0.0, self.seen - now, latest - now)
        return SteadyTime(now, self.offset + back + (UNKNOWN if back > SET_BACK else 0))
