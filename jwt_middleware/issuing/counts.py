"""How often did something happen lately? Counted in memory, or in a storage of the library limits."""

import time
from array import array
from collections.abc import Callable
from hashlib import blake2b
from secrets import token_bytes
from threading import Lock
from typing import Any, Protocol


class Counts(Protocol):
    """One count per slot. A count starts again at zero a fixed period after its first event."""

    def find_slot(self, name: str, secret: bytes) -> bytes:
        """The slot of ``name``. Without ``secret``, nobody can tell which name a slot belongs to."""
        ...

    def add(self, slot: bytes, amount: int) -> int:
        """Add ``amount``, which may be negative, in one atomic step. Returns the new count, never below zero."""
        ...

    def clear(self, slot: bytes) -> None:
        """Set the count to zero."""
        ...

    def seconds_left(self, slot: bytes) -> float:
        """Seconds until the count starts again by itself."""
        ...


class MemoryCounts:
    """``Counts`` of this process, in bounded memory. There are ``SLOTS`` of them, so a few names share a slot.

    ``period`` is in seconds, as is what ``clock`` returns.
    """

    def __init__(self, period: int, clock: Callable[[], float]) -> None:
        self._period = period
        self._clock = clock
        self._key = token_bytes(32)
        self._lock = Lock()
        # For each slot, the count and its end. Most apps need few slots, so memory is taken in pieces.
        self._pieces: dict[int, array[int]] = {}
        self._start = clock()

    def find_slot(self, name: str, secret: bytes) -> bytes:
        # The key of this process is a better secret than one that others know.
        return blake2b(name.encode("utf-8", "surrogatepass"), key=self._key, digest_size=8).digest()

    def add(self, slot: bytes, amount: int) -> int:
        with self._lock:
            piece, index = self._find(slot)
            now = self._clock() - self._start
            if piece[index] == 0 or piece[index + 1] <= now:
                piece[index] = 0
                piece[index + 1] = int(now + self._period)
            new: int = min(max(0, piece[index] + amount), MAX_COUNT)
            piece[index] = new
            return new

    def clear(self, slot: bytes) -> None:
        with self._lock:
            piece, index = self._find(slot)
            piece[index] = 0

    def seconds_left(self, slot: bytes) -> float:
        with self._lock:
            piece, index = self._find(slot)
            return piece[index + 1] - (self._clock() - self._start)

    def _find(self, slot: bytes) -> "tuple[array[int], int]":
        number, index = divmod(int.from_bytes(slot, "big") % SLOTS, _SLOTS_PER_PIECE)
        piece = self._pieces.get(number)
        if piece is None:
            piece = self._pieces[number] = array("I", bytes(_BYTES_PER_SLOT * _SLOTS_PER_PIECE))
        return piece, 2 * index


SLOTS = 2**20
"""The most counts that ``MemoryCounts`` holds."""

MAX_COUNT = 256 ** array("I").itemsize - 1
"""The highest count in memory. A count stays there however many events follow."""

_SLOTS_PER_PIECE = 256
_BYTES_PER_SLOT = 2 * array("I").itemsize


class StoredCounts:
    """``Counts`` that several processes share, in a ``storage`` of the library limits. ``kind`` keeps them apart."""

    def __init__(self, storage: Any, kind: str, period: int) -> None:
        self._storage = storage
        self._kind = kind
        self._period = period

    def find_slot(self, name: str, secret: bytes) -> bytes:
        return blake2b(name.encode("utf-8", "surrogatepass"), key=secret, digest_size=16).digest()

    def add(self, slot: bytes, amount: int) -> int:
        name = self._name(slot)
        new: int = self._storage.incr(name, self._period, amount)
        if new < 0:
            # The event that is taken back was counted in an earlier period.
            new = int(self._storage.incr(name, self._period, -amount))
        return new

    def clear(self, slot: bytes) -> None:
        self._storage.clear(self._name(slot))

    def seconds_left(self, slot: bytes) -> float:
        left: float = self._storage.get_expiry(self._name(slot)) - time.time()
        # Redis rounds to whole seconds, and may round down.
        return left + 0.5

    def _name(self, slot: bytes) -> str:
        return f"{self._kind}:{slot.hex()}"
