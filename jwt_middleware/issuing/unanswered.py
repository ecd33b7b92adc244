"""Which rotations got no answer, and since when? The store may have done them all the same."""

import time
from collections.abc import Callable
from contextlib import suppress

MOST = 10_000
"""Rotations that are remembered."""


class Unanswered:
    """The rotations that were asked for and not answered: the latest ones.

    A client that asks again presents the token of before. If the store has done the first rotation, that token has been
    replaced; so it stays good for as long as the answer is missing, and for ``grace`` after that.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[str, int], float] = {}

    def begin(self, session_id: str, generation: int) -> None:
        """A rotation is asked for."""
        if len(self._since) >= MOST:
            # Another thread may have been faster.
            with suppress(KeyError, StopIteration, RuntimeError):
                del self._since[next(iter(self._since))]
        self._since.setdefault((session_id, generation), self._clock())

    def end(self, session_id: str, generation: int) -> None:
        """It was answered."""
        self._since.pop((session_id, generation), None)

    def seconds(self, session_id: str, generation: int) -> float:
        """How long ago it was first asked for without an answer; 0 where it was not."""
        now = self._clock()
        return now - self._since.get((session_id, generation), now)
