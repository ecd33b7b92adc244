"""Event loops whose time is a number: whoever sleeps wakes as soon as nobody else has anything to do.

For tests in which nothing takes time but sleeping, so without threads and sockets: those a sleeper would overtake. How
busy the machine is makes no difference to them.
"""

import asyncio
import selectors
from typing import Any

from trio.testing import MockClock


class _Selector(selectors.DefaultSelector):
    """Lets ``now`` pass instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(timeout and 0)
        if timeout is not None and not events:
            self.now += max(0, timeout)
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._passing = _Selector()
        super().__init__(self._passing)

    def time(self) -> float:
        return self._passing.now


def virtual_time(backend: str) -> tuple[str, dict[str, Any]]:
    """``backend`` with such a loop, as the fixture ``anyio_backend`` names it to a test that is marked so."""
    return backend, {"loop_factory": _Loop} if backend == "asyncio" else {"clock": MockClock(autojump_threshold=0)}
