"""Which rotations got no answer, and since when? The store may have done them all the same."""

import time
from collections.abc import Callable
from contextlib import suppress

MOST = 10_000
"""How many rotations are remembered."""


class Unanswered:
    """The latest rotations that were asked for and not answered.

    A client that asks again presents the same token. If the store has done the first rotation, that token has been
    replaced; so it stays good for as long as the answer is missing, and for ``grace`` after that.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[str, int], float] = {}

    def begin(self, session_id: str, generation: int) -> None:
        """Note that a rotation is asked for."""
        if len(self._since) >= MOST:
            # Another thread may have been faster.
            with suppress(KeyError, StopIteration, RuntimeError):
                del self._since[next(iter(self._since))]
        self._since.setdefault((session_id, generation), self._clock())

    def end(self, session_id: str, generation: int) -> None:
        """Note that the rotation was answered."""
        self._since.pop((session_id, generation), None)

    def seconds(self, session_id: str, generation: int) -> float:
        """How many seconds ago it was first asked for without an answer; 0 if it was not."""
        now = self._clock()
        return now - self._since.get((session_id, generation), now)
