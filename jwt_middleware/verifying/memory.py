"""Which tokens have been verified already? Bounded in entries and in bytes, safe between threads. Pure."""

from array import array
from random import random
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")

BYTES_PER_ENTRY = 4096
"""The memory that a cache may take for each entry that it may hold: plenty for common tokens, not for the largest."""


class TokenCache(Generic[Value]):
    """A value for each of ``size`` tokens at most, in ``size * BYTES_PER_ENTRY`` bytes of memory at most.

    Where there is no room an entry goes that chance picks. Unlike the least recently used one it is found without
    bookkeeping on each hit, and a working set that is a little too large still mostly hits.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._max_bytes = size * BYTES_PER_ENTRY
        self._bytes_left = self._max_bytes
        self._values: dict[bytes, Value] = {}
        # The tokens in `_values`, to draw from, and what each weighs: plain numbers, no objects for the collector.
        self._places: list[bytes] = []
        self._weights = array("Q")
        self._lock = Lock()
        self.get = self._values.get
        """``get(token)``: its value, or None. One look-up in C, which needs no lock."""

    def __len__(self) -> int:
        return len(self._values)

    def put(self, token: bytes, value: Value, weight: int) -> None:
        """Remember ``value`` for ``token``, which takes ``weight`` bytes of memory; others may be forgotten for it."""
        with self._lock:
            if token not in self._values:
                if weight > self._bytes_left or len(self._places) == self._size:
                    if weight > self._max_bytes:
                        return
                    self._make_room(weight)
                self._places.append(token)
                self._weights.append(weight)
                self._bytes_left -= weight
            self._values[token] = value

    def _make_room(self, weight: int) -> None:
        while weight > self._bytes_left or len(self._places) == self._size:
            # The last one fills the gap: constant time, however many there are.
            place = int(random() * len(self._places))
            token, self._places[place] = self._places[place], self._places[-1]
            self._bytes_left += self._weights[place]
            self._weights[place] = self._weights[-1]
            self._places.pop()
            self._weights.pop()
            del self._values[token]
