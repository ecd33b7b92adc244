"""Where may a token sit in a request? Pure."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import Any, ClassVar, TypeAlias

from .._support.arguments import check_callable, show
from ..errors import AmbiguousToken, ConfigurationError, MalformedToken, TokenTooLarge

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
Custom: TypeAlias = Callable[[Any], str | bytes | None]


@dataclass(frozen=True, slots=True)
class _BearerHeader:
    is_ambient: ClassVar[bool] = False

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        return read_bearer(scope["headers"], max_size)


@dataclass(frozen=True, slots=True)
class _Cookie:
    name: bytes
    # Browsers send it by themselves, whichever page makes them send the request.
    is_ambient: ClassVar[bool] = True

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        return read_cookie(scope["headers"], self.name, max_size)


@dataclass(frozen=True, slots=True)
class _ProxyHeader:
    name: bytes
    # The proxy knows the user by a cookie, which browsers send by themselves, and then adds the header.
    is_ambient: ClassVar[bool] = True

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        values = [value.strip(WHITE_SPACE) for name, value in scope["headers"] if name == self.name]
        if len(values) > 1:
            raise AmbiguousToken
        return _limited(values[0], max_size) if values and values[0] else None


@dataclass(frozen=True, slots=True)
class _Subprotocol:
    name: str
    is_ambient: ClassVar[bool] = False

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        offered = list(scope.get("subprotocols") or ()) if scope["type"] == "websocket" else []
        if self.name not in offered:
            return None
        if offered.count(self.name) > 1:
            raise AmbiguousToken(found=f"the subprotocol {self.name} twice")
        following = offered[offered.index(self.name) + 1 :]
        if not following:
            raise MalformedToken(found=f"no token after the subprotocol {self.name}")
        return _limited(_bytes(following[0]), max_size)


@dataclass(frozen=True, slots=True)
class _Custom:
    function: Custom
    is_ambient: ClassVar[bool] = False

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        raw = self.function(scope)
        if raw is None:
            return None
        if not isinstance(raw, str | bytes):
            raise TypeError(f"a source must return str, bytes or None, not {type(raw).__name__}")
        # It is probably the value of a header, whose white space not every server strips.
        return _limited(_bytes(raw).strip(WHITE_SPACE), max_size)


Source: TypeAlias = _BearerHeader | _Cookie | _ProxyHeader | _Subprotocol | _Custom


@dataclass(frozen=True, slots=True)
class Presented:
    """A token as a request presents it: any bytes, not verified."""

    raw: bytes = field(repr=False)
    source: Source

    @property
    def key(self) -> bytes:
        """The key to remember the token by: an Authorization header of the usual spelling."""
        return BEARER + self.raw


def bearer_header() -> Source:
    """The Authorization header with the scheme Bearer (RFC 6750 2.1)."""
    return _BearerHeader()


def cookie(name: str) -> Source:
    """The cookie ``name`` (RFC 6265). A name with the prefix ``__Host-`` is best, because no other host can set it.

    Any other source beats it. Because browsers send cookies whichever page asks them to, a request with an unsafe
    method and a WebSocket handshake must come from the same origin, or from one of ``origins``: ``cross_site``.
    """
    return _Cookie(_token("cookie", name).encode("ascii"))


def proxy_header(name: str) -> Source:
    """The header ``name``, in which a proxy that logs users in hands over a token, such as ``x-amzn-oidc-data``.

    The proxy knows its users by a cookie, so it adds the token to whatever request a page makes their browsers send.
    The same rule protects it as a ``cookie``: requests with unsafe methods and WebSocket handshakes must come from the
    same origin, or from one of ``origins``. Any explicit source beats it.
    """
    header = _token("proxy_header", name).lower()
    if header in ("authorization", "cookie"):
        raise ConfigurationError(f"proxy_header: for {header}, use bearer_header() or cookie(name)")
    return _ProxyHeader(header.encode("ascii"))


def subprotocol(name: str) -> Source:
    """The WebSocket subprotocol that follows ``name``: browsers send it with ``new WebSocket(url, ["bearer", token])``.

    The app sees neither of the two. The handshake is answered with ``name``, unless the app chooses another subprotocol
    of the client's.
    """
    return _Subprotocol(_token("subprotocol", name))


class Sources:
    """Where the token of a request may be: in any of the sources above, or wherever functions find it.

    A function takes the ASGI scope and returns a token (str or bytes) or None. It must not wait. It must not read what
    browsers send by themselves, because it lacks the protection of ``cookie()``.

    Raises ``ConfigurationError``.
    """

    def __init__(self, sources: Iterable[Source | Custom]) -> None:
        if isinstance(sources, str) or not isinstance(sources, Iterable):
            raise ConfigurationError(f"sources must be a list, for instance [bearer_header()], not {show(sources)}")
        several = tuple(map(_source, sources))
        if not several:
            raise ConfigurationError("sources must name at least one source, for instance [bearer_header()]")
        for source in several:
            if several.count(source) > 1:
                raise ConfigurationError("sources: the same source is listed twice")
        self._explicit = tuple(source for source in several if not source.is_ambient)
        self._ambient = tuple(source for source in several if source.is_ambient)
        self._subprotocols = frozenset(source.name for source in several if isinstance(source, _Subprotocol))
        self.header_only = several == (_BearerHeader(),)
        # In the words of RFC 6750 section 2, as RFC 9728 lists them: cookies and subprotocols have none.
        self.bearer_methods = ("header",) if _BearerHeader() in several else ()

    def find(self, scope: Mapping[str, Any], max_size: int) -> Presented | None:
        """Return the token of the request of ``scope``, or None.

        1. Only one of header, subprotocol and functions may have a token: ``AmbiguousToken``.
        2. If none has, the cookies and the headers of proxies are read in their order.

        A single source can also raise ``AmbiguousToken``, ``MalformedToken`` and ``TokenTooLarge``.
        """
        presented = None
        for source in self._explicit:
            raw = source.find(scope, max_size)
            if raw is not None:
                if presented is not None:
                    raise AmbiguousToken(found="tokens in two places")
                presented = Presented(raw, source)
        if presented is not None:
            return presented
        for source in self._ambient:
            raw = source.find(scope, max_size)
            if raw is not None:
                return Presented(raw, source)
        return None

    def subprotocol(self, scope: Mapping[str, Any]) -> str | None:
        """The subprotocol to accept a refused handshake with: the one before a token, else the first."""
        offered: list[str] = list(scope.get("subprotocols") or ())
        return next(
            (protocol for protocol in offered if protocol in self._subprotocols), offered[0] if offered else None
        )

    def take_out(self, scope: MutableMapping[str, Any]) -> str | None:
        """Take the token out of the subprotocols of a WebSocket handshake; return the one to answer with, or None.

        The app sees the rest, in the scope and in the header.
        """
        offered: list[str] = list(scope.get("subprotocols") or ()) if self._subprotocols else []
        answer = next((protocol for protocol in offered if protocol in self._subprotocols), None)
        if answer is None:
            return None
        rest = [
            protocol
            for before, protocol in zip([None, *offered], offered, strict=False)
            if protocol not in self._subprotocols and before not in self._subprotocols
        ]
        headers = [(name, value) for name, value in scope["headers"] if name != b"sec-websocket-protocol"]
        if rest:
            headers.append((b"sec-websocket-protocol", ", ".join(rest).encode("latin-1", "replace")))
        scope["subprotocols"], scope["headers"] = rest, headers
        return answer


WHITE_SPACE = b" \t"
"""What may surround the value of a header without being part of it (RFC 9110 5.5). Not every server strips it."""

BEARER = b"Bearer "
"""What precedes the token in an Authorization header of the usual spelling (RFC 6750 2.1)."""

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
        if raw and raw.strip(WHITE_SPACE) is raw:
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
        raise MalformedToken(found="another character than a space after the scheme")
    return None


def read_cookie(headers: Headers, name: bytes, max_size: int) -> bytes | None:
    """Return the value of the cookie ``name``, or None if there is none or it is empty.

    Raises ``AmbiguousToken`` for two cookies of that name, because another host may have set one of them (RFC 6265
    8.6), and ``TokenTooLarge``.
    """
    values = cookie_values(headers, name)
    if len(values) > 1:
        raise AmbiguousToken(found=f"two cookies of the name {name.decode('ascii')}")
    return _limited(values[0], max_size) if values and values[0] else None


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


def _source(source: object) -> Source:
    if isinstance(source, Source):
        return source
    if source in (bearer_header, cookie, proxy_header, subprotocol):
        raise ConfigurationError(f"sources: {getattr(source, '__name__', source)} must be called")
    check_callable("sources: each", source, "scope")
    if iscoroutinefunction(source):
        raise ConfigurationError("sources: a function that reads a request must not be async, because it must not wait")
    custom: Any = source
    return _Custom(custom)


# RFC 9110 5.6.2, of which cookie names (RFC 6265 4.1.1) and subprotocols (RFC 6455 4.1) are made.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _token(argument: str, name: object) -> str:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigurationError(
            f"{argument}() needs a name of letters, digits and !#$%&'*+-.^_`|~; this {show(name)} is no such name"
        )
    return name


def _bytes(raw: str | bytes) -> bytes:
    if isinstance(raw, bytes):
        return raw
    try:
        return raw.encode("ascii")
    except UnicodeEncodeError:
        raise MalformedToken(found="characters that are not ASCII") from None


def _limited(raw: bytes, max_size: int) -> bytes:
    if len(raw) > max_size:
        raise TokenTooLarge.measured(len(raw), max_size)
    return raw
