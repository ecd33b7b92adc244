"""Which open connections of one event loop are over now, by their time or because their token is revoked?"""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from .._support.background import Background
from ..errors import Expired, MissingToken, Refusal, Revoked
from ..events import UnexpectedError
from ..revocation.revoked import Revocations
from ..telling import Events
from ..verifying.token import Token
from ..verifying.verifier import Clock

TICK = 0.25
"""Seconds between two checks. A revocation takes half a second to reach this process and must count within a second."""

CLOSED_AT_ONCE = 10
"""How many connections are closed before other tasks on the event loop have their turn."""

CHECKED_AT_ONCE = 500
"""How many connections are checked for revocation before other tasks on the event loop have their turn."""


class Watched(Protocol):
    """A connection as the timer sees it."""

    token: Token | None
    """None if the client of this connection has not authenticated yet."""
    good_until: float
    """Unix time at which the connection is over."""

    def block(self, refusal: Refusal) -> None:
        """Let nothing pass from now on, for the reason of ``refusal``."""

    def close(self) -> object:
        """Tell app and client that the connection is over, without waiting for either."""


class Timer:
    """Watches the open connections of one event loop. It runs only while there are any."""

    def __init__(
        self, background: Background, revocations: Revocations | None, clock: Clock, events: Events | None = None
    ) -> None:
        self._background = background
        self._revocations = revocations
        self._clock = clock
        self._events = Events() if events is None else events
        self._watched: dict[int, Watched] = {}
        self._numbers = count()
        # A heap of times and numbers. An entry whose connection is gone, or has another time by now, is skipped.
        self._ends: list[tuple[float, int]] = []
        self._running: set[anyio.CancelScope] = set()

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, connection: Watched) -> int:
        """Close ``connection`` when it is over. Returns the number by which the timer knows it."""
        number = next(self._numbers)
        self._watched[number] = connection
        self.reschedule(number)
        if not self._running:
            self._start(self._close_expired)
            if self._revocations is not None:
                self._start(partial(self._close_revoked, self._revocations))
        return number

    def reschedule(self, number: int) -> None:
        """Read ``good_until`` of connection ``number`` again, because it has changed."""
        heappush(self._ends, (self._watched[number].good_until, number))
        self._tidy()

    def forget(self, number: int) -> None:
        """Watch connection ``number`` no longer."""
        del self._watched[number]
        self._tidy()
        if not self._watched:
            self._stop()

    def _tidy(self) -> None:
        # Every watched connection has one entry that counts. The others only cost memory.
        if len(self._ends) > 2 * len(self._watched) + 64 or not self._watched:
            self._ends = [(connection.good_until, number) for number, connection in self._watched.items()]
            heapify(self._ends)

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        running = anyio.CancelScope()

        async def run() -> None:
            with running:
                await work()

        def ended() -> None:
            if running in self._running:
                # Its event loop has ended, or it failed. The next connection starts both tasks anew.
                self._stop()

        self._running.add(running)
        self._background.start(run, ended=ended)

    def _stop(self) -> None:
        running, self._running = self._running, set()
        for scope in running:
            scope.cancel()

    async def _close_expired(self) -> None:
        while True:
            over = []
            while self._ends and self._ends[0][0] <= self._clock():
                good_until, number = heappop(self._ends)
                connection = self._watched.get(number)
                if connection is not None and connection.good_until == good_until:
                    connection.block(_expiry(connection))
                    over.append(connection)
            await _close(over)
            await anyio.sleep(min(TICK, max(0, self._ends[0][0] - self._clock())) if self._ends else TICK)

    async def _close_revoked(self, revocations: Revocations) -> None:
        while True:
            try:
                undecided = await self._close_those_revoked(tuple(self._watched.values()), revocations)
                if undecided:
                    await revocations.catch_up()
                    await self._close_those_revoked(undecided, revocations)
            except Refusal:
                # Revocations are unavailable, so nothing is known against the connections that are still open.
                pass
            except Exception as error:  # noqa: BLE001  # the app may have written these revocations
                self._tell(error)
            await anyio.sleep(TICK)

    async def _close_those_revoked(self, connections: Iterable[Watched], revocations: Revocations) -> list[Watched]:
        """Close the revoked connections. Returns those for which ``is_revoked`` cannot tell."""
        over, undecided = [], []
        for number, connection in enumerate(connections, 1):
            token = connection.token
            if token is None:
                continue
            try:
                is_revoked = revocations.is_revoked(token)
            except Exception as error:  # noqa: BLE001  # an error about one connection must not keep the others open
                self._tell(error)
                continue
            if is_revoked is None:
                undecided.append(connection)
            elif is_revoked:
                connection.block(Revoked().about(token))
                over.append(connection)
            if number % CHECKED_AT_ONCE == 0:
                await checkpoint()
        await _close(over)
        return undecided

    def _tell(self, error: Exception) -> None:
        event = UnexpectedError(where="looking up revocations of open connections", error=type(error).__name__)
        self._events.tell(event, once=("open connections", type(error)), exc_info=error)


async def _close(connections: Iterable[Watched]) -> None:
    """Close each connection, and let other tasks have their turn now and then."""
    for number, connection in enumerate(connections, 1):
        connection.close()
        if number % CLOSED_AT_ONCE == 0:
            await checkpoint()


def _expiry(connection: Watched) -> Refusal:
    """The refusal with which a connection ends when its time has come."""
    return MissingToken() if connection.token is None else Expired(claim="exp").about(connection.token)
