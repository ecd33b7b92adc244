"""Which attempts to fetch keys may run now, of all in this process? (I/O)

A service with hundreds of tenants has hundreds of addresses to ask. They share a number of places, so that neither
connections nor memory grow with the tenants.
"""

import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from threading import Lock

import anyio
from anyio.lowlevel import current_token

from .._support.background import Signal
from .._support.loops import call_on
from .http import FetchError

PLACES = 64
"""How many attempts run at once in a process."""

PATIENCE = 1.5
"""Seconds after which a host that has not answered counts as silent. Silent hosts hold half of the places at most."""

MAX_SILENT = 10_000
"""How many hosts are remembered to be silent."""


class Claim:
    """A claim of one attempt to a place."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.granted = Signal()
        self.is_urgent = False
        self.is_silent = False
        self.is_over = False
        self.held_since: float | None = None
        self.is_queued = False
        self.give_up: Callable[[], object]
        """Ends the attempt, from any thread. It is set as soon as the claim is in a queue."""


class Places:
    """The places of one process. Any thread and any event loop may claim one.

    1. An attempt that a request waits for goes before those that no request waits for.
    2. A host counts as silent if it did not answer the last time, or if it has not answered for ``patience`` seconds
       while others wait for a place. Silent hosts hold at most half of the places; attempts beyond that are given up.
       An event loop that is late itself has more patience: it may not have read an answer yet.

    ``clock`` gives monotonic seconds.
    """

    def __init__(
        self, number: int = PLACES, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._number = number
        self._patience = patience
        self._clock = clock
        self._lock = Lock()
        self._held: dict[Claim, None] = {}
        self._held_by_silent = 0
        # The claims that hold a place and those that wait for one.
        self._claims = 0
        # The most seconds by which the event loop has been late recently.
        self._lag = 0.0
        self._silent: dict[str, None] = {}
        # By whether the host is silent, and then by whether a request waits. A claim that has become urgent stands in
        # both of its queues; it is passed over if it has been granted or is over.
        self._queues: dict[tuple[bool, bool], deque[Claim]] = {
            (is_silent, is_urgent): deque() for is_silent in (False, True) for is_urgent in (True, False)
        }

    @asynccontextmanager
    async def hold(
        self, claim: Claim, still_waiting: Callable[[], None], *, at_least_every: float
    ) -> AsyncIterator[None]:
        """Wait for a place and hold it for the block. ``still_waiting()`` is called now and then while it waits.

        That is twice a second, or less often if many claims wait, but at least every ``at_least_every`` seconds.

        Raises ``FetchError`` if the attempt is given up because silent hosts hold half of the places.
        """
        scope = anyio.CancelScope()
        claim.give_up = partial(call_on, current_token().native_token, scope.cancel)
        with self._lock:
            claim.is_silent = claim.host in self._silent
            claim.is_queued = True
            self._queues[claim.is_silent, claim.is_urgent].append(claim)
            self._claims += 1
        try:
            with scope:
                self._grant()
                while claim.held_since is None:
                    # Together, they look a hundred times a second. Without that, thousands would keep the loop busy.
                    waiting = self._claims - len(self._held)
                    seconds = min(at_least_every, waiting / _LOOKS_A_SECOND)
                    due = self._clock() + max(_SECONDS_BETWEEN_LOOKS, seconds)
                    with anyio.move_on_after(due - self._clock()) as pause:
                        await claim.granted.wait()
                    if pause.cancelled_caught:
                        self._lag = max(self._clock() - due, self._lag * _LAG_FADES)
                    still_waiting()
                    self._grant()
                yield
            if scope.cancelled_caught:
                raise FetchError("no answer yet, and too many other hosts do not answer either")
        finally:
            with self._lock:
                claim.is_over = True
                self._claims -= 1
                if claim in self._held:
                    del self._held[claim]
                    self._held_by_silent -= claim.is_silent
            self._grant()

    def hurry(self, claim: Claim) -> None:
        """A request waits for the attempt now."""
        with self._lock:
            if not claim.is_urgent:
                claim.is_urgent = True
                # A claim that has not reached `hold` yet joins this queue there.
                if claim.is_queued:
                    self._queues[claim.is_silent, True].append(claim)

    def heard(self, host: str) -> None:
        """The host has answered."""
        with self._lock:
            self._silent.pop(host, None)

    def heard_nothing(self, host: str) -> None:
        """The host has not answered in time."""
        with self._lock:
            if len(self._silent) >= MAX_SILENT:
                del self._silent[next(iter(self._silent))]
            self._silent[host] = None

    def _grant(self) -> None:
        granted: list[Claim] = []
        given_up: list[Claim] = []
        with self._lock:
            while (claim := self._next()) is not None:
                if len(self._held) >= self._number:
                    # Back to the head of its queue.
                    self._queues[claim.is_silent, claim.is_urgent].appendleft(claim)
                    given_up = self._find_silent()
                    break
                claim.held_since = self._clock()
                self._held[claim] = None
                self._held_by_silent += claim.is_silent
                granted.append(claim)
        for claim in granted:
            claim.granted.set()
        for claim in given_up:
            # The loop may have ended; then the attempt has, too.
            with suppress(RuntimeError):
                claim.give_up()

    def _next(self) -> Claim | None:
        for is_urgent in (True, False):
            for is_silent in (False, True):
                if is_silent and self._held_by_silent >= self._number // 2:
                    continue
                queue = self._queues[is_silent, is_urgent]
                while queue:
                    claim = queue.popleft()
                    if claim.held_since is None and not claim.is_over:
                        return claim
        return None

    def _find_silent(self) -> list[Claim]:
        """Count hosts as silent that have held a place for too long, and return the attempts that are too many."""
        patience = self._patience + _TURNS_OF_AN_ATTEMPT * self._lag
        now, too_many = self._clock(), []
        for claim in self._held:
            if claim.is_silent or claim.held_since is None or now < claim.held_since + patience:
                continue
            if self._held_by_silent < self._number // 2:
                claim.is_silent = True
                self._held_by_silent += 1
            else:
                too_many.append(claim)
        return too_many


_SECONDS_BETWEEN_LOOKS = 0.5
_LOOKS_A_SECOND = 100
_LAG_FADES = 0.95

_TURNS_OF_AN_ATTEMPT = 20
"""How often an attempt waits for the event loop: to connect, to ask, to read, for metadata and then for keys."""

_of_process: dict[int, Places] = {}


def places() -> Places:
    """The places of this process. A forked child has its own: its parent's attempts do not run in it."""
    pid = os.getpid()
    return _of_process.get(pid) or _of_process.setdefault(pid, Places())
