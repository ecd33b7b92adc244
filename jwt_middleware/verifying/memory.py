"""Which tokens have been verified already? Bounded in entries and in bytes, safe between threads. Pure."""

from array import array
from random import random
from threading import Lock
from typing import Final, Generic, TypeAlias, TypeVar

from .compact import Compact, Header
from .token import GOOD_UNTIL, SCOPES, Facts

Value = TypeVar("Value")

Remembered: TypeAlias = tuple[bytes, float, float, int, int, Facts]
"""What is remembered of a token.

The key that the caller knows it by; the times from which and until which it is good; the index of its provider; the
serial of the key set that verified it; its facts. A plain tuple of plain values, which the garbage collector leaves
alone.
"""

_KEY: Final = 0

END: Final = 32
"""The bytes at the end of a key by which it is found, before it is compared whole: 192 bits of the token's signature.

Hashing the whole key would be a good part of what a request costs, and nearly all of it with a large token.
"""

BYTES_PER_ENTRY = 4096
"""The memory that a cache may take for each entry that it may hold: plenty for common tokens, not for the largest."""

MAX_HEADERS = 256
"""The number of headers that are remembered. Few exist: one for each key of each sensible signer."""

MAX_HEADER_SIZE = 1024
"""The most bytes of a header segment that is remembered."""


class TokenMemory:
    """Remembers verified tokens, ``size`` of them at most, and the headers of good tokens."""

    def __init__(self, size: int) -> None:
        self._tokens: TokenCache[Remembered] = TokenCache(size)
        self._put = self._tokens.put
        self.find = self._tokens.get
        """``find(key[-END:])``: what is remembered by the end of a key, or None. The caller compares the whole key."""
        self.taken = 0
        """The number of tokens remembered since the start, including those forgotten by now."""
        self.headers: dict[bytes, Header] = {}
        """Parsed headers by their segments. They come from tokens with good signatures only."""

    def remember(self, key: bytes, good_from: float, facts: Facts, index: int, serial: int, compact: Compact) -> None:
        """Remember a token by ``key``, and its header. Other tokens may make room for it.

        ``index`` is its provider's, ``serial`` that of the key set that verified it.
        """
        segment, header, payload = compact[:3]
        if segment not in self.headers and len(segment) <= MAX_HEADER_SIZE:
            if len(self.headers) >= MAX_HEADERS:
                self.headers.clear()
            self.headers[segment] = header
        self.taken += 1
        end = key[-END:]
        other = self.find(end)
        # Two good tokens with one signature: only the signer can make them, and only on purpose. The first one stays.
        if other is not None and other[_KEY] != key:
            return
        # The bytes of memory that it takes, or a little less. Texts from the payload are also held as strings, and one
        # wide character makes such a string four times as large. Four characters of the key spell three bytes.
        factor = 5 if payload.isascii() and header.json.isascii() and _BACKSLASH not in payload else 10
        weight = 1024 + len(key) * factor // 2
        scopes = facts[SCOPES]
        if scopes.__class__ is not str:
            weight += 64 * len(scopes)
        self._put(end, (key, good_from, facts[GOOD_UNTIL], index, serial, facts), weight)


class TokenCache(Generic[Value]):
    """Holds a value for each of ``size`` tokens at most, in ``size * BYTES_PER_ENTRY`` bytes of memory at most.

    If there is no room, a random entry is dropped. Unlike the least recently used one, it is found without bookkeeping
    on each hit, and a working set that is a little too large still mostly hits.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._max_bytes = size * BYTES_PER_ENTRY
        self._bytes_left = self._max_bytes
        self._values: dict[bytes, Value] = {}
        # The tokens in `_values`, to draw from, and the weight of each: plain numbers, no objects for the collector.
        self._slots: list[bytes] = []
        self._weights = array("Q")
        self._lock = Lock()
        self.get = self._values.get
        """``get(token)``: its value, or None. One look-up in C, which needs no lock."""

    def __len__(self) -> int:
        return len(self._values)

    def put(self, token: bytes, value: Value, weight: int) -> None:
        """Hold ``value`` for ``token``, which takes ``weight`` bytes of memory. Others may be dropped to make room."""
        with self._lock:
            if token not in self._values:
                if weight > self._bytes_left or len(self._slots) == self._size:
                    if weight > self._max_bytes:
                        return
                    self._make_room(weight)
                self._slots.append(token)
                self._weights.append(weight)
                self._bytes_left -= weight
            self._values[token] = value

    def _make_room(self, weight: int) -> None:
        while weight > self._bytes_left or len(self._slots) == self._size:
            # The last one fills the gap: constant time, however many there are.
            slot = int(random() * len(self._slots))
            token, self._slots[slot] = self._slots[slot], self._slots[-1]
            self._bytes_left += self._weights[slot]
            self._weights[slot] = self._weights[-1]
            self._slots.pop()
            self._weights.pop()
            del self._values[token]


# A number, because `in` first tries to read bytes as a number, which raises and catches an exception.
_BACKSLASH = ord("\\")
