"""Which cookies does a request carry? Pure."""

import re
from collections.abc import Iterator

from ..errors import AmbiguousToken, TokenTooLarge
from .authorization import WHITE_SPACE, Headers


def read_cookie(headers: Headers, name: bytes, max_size: int) -> bytes | None:
    """Return the value of the cookie ``name``, or None if there is none or it is empty.

    Raises ``AmbiguousToken`` for two cookies of that name, because another host may have set one of them (RFC 6265
    8.6), and ``TokenTooLarge``.
    """
    values = cookie_values(headers, name)
    if len(values) > 1:
        raise AmbiguousToken(found=f"two cookies named {name.decode('ascii')}")
    if not values or not values[0]:
        return None
    if len(values[0]) > max_size:
        raise TokenTooLarge.measured(len(values[0]), max_size)
    return values[0]


def cookie_values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all cookies of that ``name``."""
    # HTTP/2 may split the header into several lines (RFC 9113 8.2.3).
    return [value for header, line in headers if header == b"cookie" for value in _values(line, name)]


def _values(line: bytes, name: bytes) -> Iterator[bytes]:
    """The values of the cookies ``name`` in one Cookie header, in time linear in its size.

    Nothing is done for the other pairs, of which a header can hold millions.
    """
    start = line.find(name)
    while start != -1:
        end = start + len(name)
        before = start
        while before and line[before - 1] in WHITE_SPACE:
            before -= 1
        if before == 0 or line[before - 1] == _SEMICOLON:
            rest = _AFTER_A_NAME.match(line, end)
            if rest is not None:
                yield (rest[1] or b"").rstrip(WHITE_SPACE)
        start = line.find(name, end)


_SEMICOLON = ord(";")
# The value of the cookie, or the end of a pair that has none.
_AFTER_A_NAME = re.compile(rb"=([^;]*+)|[ \t]*+(?:;|\Z)")
