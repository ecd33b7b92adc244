"""How is a session store asked? Few questions at once, and each must be answered within a second."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from ..errors import StoreUnavailable
from ..events import Advice
from ..telling import Events
from .slots import SessionSlots

STORE_SECONDS = 1
"""Seconds within which a store must answer."""

CLOCKS_DIFFER = 5
"""Seconds by which the clock of the store may differ from ours: the usual leeway."""

Result = TypeVar("Result")


class StoreCalls:
    """Asks one store. Raises ``StoreUnavailable`` if it gives no answer: what it did is then unknown."""

    def __init__(self, events: Events) -> None:
        self.error: str | None = None
        """Why the store could not do its last step. None if it could."""
        self._events = events
        self._slots = SessionSlots()

    async def run(self, session_id: str, step: Callable[[], Awaitable[Result]]) -> Result:
        """Do one step for a session. A limited number of steps is under way at once."""
        return await self._slots.run(session_id, lambda: self.ask(step()))

    async def ask(self, answer: Awaitable[Result]) -> Result:
        """Await ``answer`` for ``STORE_SECONDS`` at most."""
        try:
            with anyio.fail_after(STORE_SECONDS):
                result = await answer
        except TimeoutError:
            self.error = f"no answer within {STORE_SECONDS} s"
            raise StoreUnavailable(self.error) from None
        except StoreUnavailable as error:
            self.error = str(error)
            raise
        self.error = None
        return result

    def compare_clocks(self, store_now: float, now: float) -> None:
        """Tell the operator, once, if the clock of the store differs too much from ours."""
        ahead = store_now - now
        if abs(ahead) > CLOCKS_DIFFER + STORE_SECONDS:
            text = (
                f"the clock of the session store is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this "
                "host's: sessions end by the one, tokens by the other; let both follow one time server (said once)"
            )
            self._events.tell(Advice(text=text), once="clocks")
