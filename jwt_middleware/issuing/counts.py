"""How often did it happen lately? Counted in memory, or in a storage of the library limits."""

import time
from array import array
from collections.abc import Callable
from hashlib import blake2b
from secrets import token_bytes
from threading import Lock
from typing import Any, Protocol


class Counts(Protocol):
    """Counts of what happened since the first time, for a period from then."""

    def place(self, name: str, secret: bytes) -> bytes:
        """Where ``name`` is counted; only who has ``secret`` can tell whether it is that of a name."""
        ...

    def add(self, place: bytes, amount: int) -> int:
        """Add ``amount``, in one step with all others, and give the new count."""
        ...

    def clear(self, place: bytes) -> None:
        """Begin again at zero."""
        ...

    def left(self, place: bytes) -> float:
        """Seconds until it begins again by itself."""
        ...


class MemoryCounts:
    """``Counts`` of this process alone, in bounded memory: of more names than ``PLACES``, some share one."""

    def __init__(self, period: int, clock: Callable[[], float]) -> None:
        self._period = period
        self._clock = clock
        self._key = token_bytes(32)
        self._lock = Lock()
        # Of each place the count and when it ends; in pieces, since most apps need few of them.
        self._pieces: dict[int, array[int]] = {}
        self._start = clock()

    def place(self, name: str, secret: bytes) -> bytes:
        # A secret that nobody else has is the better one.
        return blake2b(name.encode("utf-8", "surrogatepass"), key=self._key, digest_size=8).digest()

    def add(self, place: bytes, amount: int) -> int:
        with self._lock:
            piece, index = self._find(place)
            now = self._clock() - self._start
            if piece[index] == 0 or piece[index + 1] <= now:
                piece[index] = 0
                piece[index + 1] = int(now + self._period)
            new: int = min(max(0, piece[index] + amount), _MOST)
            piece[index] = new
            return new

    def clear(self, place: bytes) -> None:
        with self._lock:
            piece, index = self._find(place)
            piece[index] = 0

    def left(self, place: bytes) -> float:
        with self._lock:
            piece, index = self._find(place)
            return piece[index + 1] - (self._clock() - self._start)

    def _find(self, place: bytes) -> "tuple[array[int], int]":
        number, index = divmod(int.from_bytes(place, "big") % PLACES, _PIECE)
        piece = self._pieces.get(number)
        if piece is None:
            piece = self._pieces[number] = array("I", bytes(_BYTES * _PIECE))
        return piece, 2 * index


PLACES = 2**20
"""Counts that memory holds at most, for accounts and for addresses each."""

_PIECE = 256
_BYTES = 2 * array("I").itemsize
_MOST = 256 ** array("I").itemsize - 1


class StoredCounts:
    """``Counts`` that several processes share, of one ``kind``, in a ``storage`` of the library limits."""

    def __init__(self, storage: Any, kind: str, period: int) -> None:
        self._storage = storage
        self._kind = kind
        self._period = period

    def place(self, name: str, secret: bytes) -> bytes:
        return blake2b(name.encode("utf-8", "surrogatepass"), key=secret, digest_size=16).digest()

    def add(self, place: bytes, amount: int) -> int:
        name = self._name(place)
        new: int = self._storage.incr(name, self._period, amount)
        if new < 0:
            # What was counted in a period that is over is not taken off this one.
            new = int(self._storage.incr(name, self._period, -amount))
        return new

    def clear(self, place: bytes) -> None:
        self._storage.clear(self._name(place))

    def left(self, place: bytes) -> float:
        left: float = self._storage.get_expiry(self._name(place)) - time.time()
        # Redis rounds to whole seconds, down as well.
        return left + 0.5

    def _name(self, place: bytes) -> str:
        return f"{self._kind}:{place.hex()}"
