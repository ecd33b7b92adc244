"""Where may a token sit in a request? Pure."""

from collections.abc import Iterable

from .errors import AmbiguousToken, MalformedToken, TokenTooLarge

# RFC 9110 5.6.2: the characters of a scheme's name. "Bearerish x" is another scheme, "Bearer" and a tab is a bad token.
_SCHEME_GOES_ON = frozenset(
    bytes([c]) for c in b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)


def bearer_header(headers: Iterable[tuple[bytes, bytes]], max_size: int) -> bytes | None:
    """The token of the Authorization header (RFC 6750 2.1); None without one, or with another scheme.

    The scheme's case does not count (RFC 9110 11.1) and one or more spaces follow it. Raises ``AmbiguousToken`` for
    two Authorization lines, ``TokenTooLarge`` for more than ``max_size`` bytes, before any copy of them is made, and
    ``MalformedToken`` for a Bearer scheme with nothing that can be a token behind it.
    """
    authorization = None
    for name, value in headers:
        if name == b"authorization":
            if authorization is not None:
                raise AmbiguousToken
            authorization = value
    if authorization is None:
        return None
    if len(authorization) > max_size + len(b"Bearer "):
        if authorization[:6].lower() == b"bearer" and authorization[6:7] not in _SCHEME_GOES_ON:
            raise TokenTooLarge
        return None
    scheme, _, token = authorization.partition(b" ")
    if scheme == b"Bearer" or scheme.lower() == b"bearer":
        token = token.lstrip(b" ")
        if token:
            return token
        raise MalformedToken
    if scheme[:6].lower() == b"bearer" and scheme[6:7] not in _SCHEME_GOES_ON:
        raise MalformedToken
    return None
