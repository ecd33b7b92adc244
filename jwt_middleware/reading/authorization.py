"""What does the Authorization header say? Every spelling of a Bearer token (RFC 6750 2.1). Pure."""

from collections.abc import Iterable
from typing import TypeAlias

from ..errors import AmbiguousToken, MalformedToken, TokenTooLarge

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

WHITE_SPACE = b" \t"
"""Characters around the value of a header that are not part of it (RFC 9110 5.5). Not every server strips them."""

BEARER = b"Bearer "
"""The text before the token in an Authorization header of the usual spelling (RFC 6750 2.1)."""

# RFC 9110 5.6.2: the characters of a scheme's name. "Bearerish x" is another scheme; "Bearer" and a tab is a bad token.
_SCHEME_GOES_ON = frozenset(
    bytes([c]) for c in b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)


def read_bearer(headers: Headers, max_size: int) -> bytes | None:
    """Return the token of the Authorization header (RFC 6750 2.1), or None if there is none or its scheme is another.

    The case of the scheme does not count (RFC 9110 11.1), and one or more spaces follow it. Raises ``AmbiguousToken``
    for two Authorization lines, ``TokenTooLarge`` for more than ``max_size`` bytes, before any copy of them is made,
    and ``MalformedToken`` for a Bearer scheme that is not followed by a possible token.
    """
    authorization = authorization_line(headers)
    return None if authorization is None else bearer_token(authorization, max_size)


def authorization_line(headers: Headers) -> bytes | None:
    """Return the value of the Authorization header, or None. Raises ``AmbiguousToken`` for two of them."""
    authorization = None
    for name, value in headers:
        if name == b"authorization":
            if authorization is not None:
                raise AmbiguousToken(found="two Authorization headers")
            authorization = value
    return authorization


_AFTER_BEARER = len(BEARER)


def read_line(authorization: bytes, max_size: int) -> tuple[bytes, bytes] | None:
    """Return the token in the value of an Authorization header, and the key to remember it by, or None.

    The key is the usual spelling of the header: ``authorization`` itself, if it is spelled so.
    """
    if authorization.startswith(BEARER) and len(authorization) <= max_size + _AFTER_BEARER:
        raw = authorization[_AFTER_BEARER:]
        # The parser refuses an empty token.
        if raw.strip(WHITE_SPACE) is raw:
            return raw, authorization
    other = bearer_token(authorization, max_size)
    return None if other is None else (other, BEARER + other)


def bearer_token(authorization: bytes, max_size: int) -> bytes | None:
    """Return the token in the value of an Authorization header, as ``read_bearer`` does."""
    authorization = authorization.strip(WHITE_SPACE)
    if len(authorization) > max_size + len(BEARER):
        if authorization[:6].lower() == b"bearer" and authorization[6:7] not in _SCHEME_GOES_ON:
            raise TokenTooLarge.measured(len(authorization) - len(BEARER), max_size)
        return None
    scheme, _, token = authorization.partition(b" ")
    if scheme == b"Bearer" or scheme.lower() == b"bearer":
        token = token.lstrip(b" ")
        if token:
            return token
        raise MalformedToken(found="an empty text")
    if scheme[:6].lower() == b"bearer" and scheme[6:7] not in _SCHEME_GOES_ON:
        raise MalformedToken(found="a character other than a space after the scheme")
    return None
