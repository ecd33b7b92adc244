"""Whose password is checked next, and who must come back later? Pure."""

from bisect import insort
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

Job = TypeVar("Job")

Position: TypeAlias = tuple[int, bool, int]
"""A round, whether its address came back too early, and the number of the request that first asked. Lowest first."""

RETRY_AFTER = 1
"""Seconds after which a client that is refused may come back."""

MAX_WAIT = 1.0
"""Seconds of work that the queue holds, and that a check waits in it, at most."""

MAX_ANSWER = 1.5
"""Seconds after which a check should have ended: half a second of two is left for the rest of a login.

If a check takes long itself, others wait less for it.
"""

MAX_WAITING = 1024
"""Checks that wait at most, however quick they are."""

MEMORY = 30.0
"""Seconds for which an address keeps its position after its last request."""

MAX_ADDRESSES = 4096
"""Addresses that are remembered. The one that asked least recently is forgotten first."""


class Turns(Generic[Job]):
    """A short queue of password checks that is fair to client addresses.

    ``threads`` checks run at once, and one takes ``seconds``, as far as is known at the start. Only ``now`` tells the
    time, in seconds of any clock that never jumps.

    The order is that of start-time fair queueing (Goyal, Vin and Cheng, 1996), in rounds:

    1. The first check of an address belongs to the current round, its second to the next round, and so on. So an
       address that sends many requests competes with itself, not with others.
    2. Checks start round by round. Within a round, addresses that were refused and came back before ``RETRY_AFTER``
       come last. Otherwise, the address that asked first comes first.
    3. The queue holds a second of work, as measured, or less if checks are slow. If it is full, the check that would
       start last is refused. That may be the new one. A check that has waited too long for an answer within
       ``MAX_ANSWER`` is refused when its turn comes.
    4. An address that was refused keeps its position. A client that comes back as told is served before all who have
       been served in the meantime, and before all who came later.
    """

    def __init__(self, *, threads: int, seconds: float) -> None:
        self._threads = threads
        self.seconds = seconds
        """Seconds that a check takes: a mean that follows the latest checks."""
        # The slowest of the latest checks. It fades, so that one that was held up by chance does not count for long.
        self._slowest = seconds
        self._running = 0
        self._round = 0
        self._asked = 0
        self._waiting: list[_Waiting[Job]] = []
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    @property
    def patience(self) -> float:
        """Seconds that a check may wait."""
        return max(_LEAST_WAIT, min(MAX_WAIT, MAX_ANSWER - max(_MARGIN * self.seconds, self._slowest)))

    @property
    def capacity(self) -> int:
        """How many checks may wait. There is always room for one, so that addresses can take turns."""
        work = self._threads * self.patience
        return MAX_WAITING if self.seconds * MAX_WAITING <= work else max(1, int(work / self.seconds))

    def admits(self, address: str, now: float) -> bool:
        """Whether a check for ``address`` would be queued now. If not, the address keeps its position."""
        position = self._position(address, now)
        if len(self._waiting) < self.capacity or position < self._waiting[-1].position:
            return True
        self._remember(address, _Address(position, True, now))
        return False

    def ask(self, address: str, job: Job, now: float) -> Job | None:
        """Queue ``job``. Returns the job that is refused for it: None, another one, or ``job`` itself."""
        if not self.admits(address, now):
            return job
        position = self._position(address, now)
        insort(self._waiting, _Waiting(position, address, job, now), key=_position_of)
        self._remember(address, _Address((position[0] + 1, False, 0), False, now))
        if len(self._waiting) <= self.capacity:
            return None
        last = self._waiting.pop()
        self._remember(last.address, _Address(last.position, True, now))
        return last.job

    def withdraw(self, job: Job, now: float) -> bool:
        """Take ``job`` out of the queue. Returns False if it is not there: it has started, or was refused."""
        for index, waiting in enumerate(self._waiting):
            if waiting.job is job:
                del self._waiting[index]
                self._remember(waiting.address, _Address(waiting.position, True, now))
                return True
        return False

    def expire(self, now: float) -> list[Job]:
        """Take out the jobs that would start next, but have waited too long for an answer in time, and return them."""
        late = []
        while self._waiting and now > self._waiting[0].came_at + self.patience:
            waiting = self._waiting.pop(0)
            self._remember(waiting.address, _Address(waiting.position, True, now))
            late.append(waiting.job)
        return late

    def start(self) -> Job | None:
        """The job to start now. None if no thread is free or no job waits."""
        if self._running == self._threads or not self._waiting:
            return None
        first = self._waiting.pop(0)
        self._running += 1
        self._round = max(self._round, first.position[0])
        return first.job

    def end(self, seconds: float) -> None:
        """A job that was started has ended, after ``seconds``."""
        self._running -= 1
        self.seconds = seconds if self.seconds == 0 else self.seconds + _WEIGHT * (seconds - self.seconds)
        self._slowest = max(seconds, self._slowest * _FADES)

    def _position(self, address: str, now: float) -> Position:
        known = self._addresses.get(address)
        if known is None or known.asked_at + MEMORY < now:
            return self._round, False, self._asked + 1
        turn, was_early, number = known.position
        if known.was_refused:
            return turn, was_early or now < known.asked_at + _EARLIEST, number
        return max(self._round, turn), False, self._asked + 1

    def _remember(self, address: str, known: "_Address") -> None:
        self._asked += 1
        self._addresses[address] = known
        self._addresses.move_to_end(address)
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)


_WEIGHT = 0.2
"""How much the latest check counts in the mean."""

_MARGIN = 1.5
"""By how much a check may take longer than the mean."""

_FADES = 0.95
"""The share of the slowest check that counts on after the next check."""

_LEAST_WAIT = 0.1

_EARLIEST = 0.9 * RETRY_AFTER
"""Clients' clocks are not exact."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Job]):
    position: Position
    address: str
    job: Job
    came_at: float


@dataclass(frozen=True, slots=True)
class _Address:
    position: Position
    """The position of its next check. If its last one was not refused, only the round counts."""
    was_refused: bool
    asked_at: float


def _position_of(waiting: "_Waiting[Job]") -> Position:
    return waiting.position
