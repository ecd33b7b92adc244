"""How much time has passed in a store whose clock may be set? Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SteadyTime:
    """A time in seconds that never goes back: where the clock of the store is set back, it goes on from where it was.

    ``grace`` is measured by it. By the clock itself, a refresh token that was replaced an hour ago would be good once
    more, for the time after the clock was set back by an hour. Where the clock jumps ahead, so does this time: a grace
    may end early, and never comes again. Each store keeps the two numbers.
    """

    seen: float = 0
    """The last reading of the clock."""
    offset: float = 0
    """The seconds by which the clock was set back, all together."""

    @property
    def time(self) -> float:
        """The steady time at the last reading."""
        return self.seen + self.offset

    def read(self, now: float, *, latest: float = 0) -> "SteadyTime":
        """The state after a reading of ``now``; ``latest`` is a later reading than ``seen``, where there was one."""
        return SteadyTime(now, self.offset + max(0.0, self.seen - now, latest - now))
