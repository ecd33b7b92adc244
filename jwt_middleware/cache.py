"""Which tokens have been verified already? Bounded in entries and in bytes, safe between threads. Pure."""

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
        self._bytes = 0
        self._values: dict[bytes, Value] = {}
        self._tokens: list[bytes] = []  # those in `_values`, in places that can be drawn
        self._lock = Lock()
        self.get = self._values.get
        """``get(token)``: its value, or None. One look-up in C, which needs no lock."""

    def __len__(self) -> int:
        return len(self._values)

    def put(self, token: bytes, value: Value) -> None:
        """Remember ``value`` for ``token``; others may be forgotten for it."""
        weight = _weight(token)
        if weight > self._max_bytes:
            return
        with self._lock:
            if token not in self._values:
                while len(self._tokens) >= self._size or self._bytes + weight > self._max_bytes:
                    self._forget_one()
                self._tokens.append(token)
                self._bytes += weight
            self._values[token] = value

    def _forget_one(self) -> None:
        # The last token fills the gap: constant time, however many there are.
        place = int(random() * len(self._tokens))
        token, self._tokens[place] = self._tokens[place], self._tokens[-1]
        self._tokens.pop()
        self._bytes -= _weight(token)
        del self._values[token]


def _weight(token: bytes) -> int:
    # What is kept of a token is itself, its payload (three quarters of it) and less than a kilobyte of objects.
    return 1024 + 2 * len(token)
