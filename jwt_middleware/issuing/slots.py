"""How much may one session have under way? A bound, so that a client's flood costs others nothing."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio import Semaphore

from .._support.loops import PerLoop
from ..errors import StoreUnavailable

Result = TypeVar("Result")

AT_ONCE = 4
"""How many steps of one session may be in the store at once."""

MOST_WAITING = 1000
"""How many steps of one session may wait for a place."""

PATIENCE = 1
"""Seconds that a step waits for a place."""


class SessionSlots:
    """Places for the steps of each session, on each event loop."""

    def __init__(self) -> None:
        self._loops: PerLoop[dict[str, _Slot]] = PerLoop(dict)

    async def run(self, session_id: str, step: Callable[[], Awaitable[Result]]) -> Result:
        """Do ``step()`` when there is a place. Raises ``StoreUnavailable`` if there is none in time."""
        slots = self._loops.get()
        slot = slots.setdefault(session_id, _Slot())
        if slot.users >= AT_ONCE + MOST_WAITING:
            raise StoreUnavailable("one session has too many requests under way")
        slot.users += 1
        try:
            with anyio.move_on_after(PATIENCE) as waiting:
                await slot.places.acquire()
            if waiting.cancelled_caught:
                raise StoreUnavailable("one session has too many requests under way")
            try:
                return await step()
            finally:
                slot.places.release()
        finally:
            slot.users -= 1
            if not slot.users:
                del slots[session_id]


class _Slot:
    def __init__(self) -> None:
        self.places = Semaphore(AT_ONCE)
        self.users = 0
