"""Where may a token be in a request, and which authentication scheme does it use? Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from .._support.arguments import check_plain_function, show
from ..errors import AmbiguousToken, ConfigurationError, MalformedToken, Refusal, TokenTooLarge
from ..verifying.token import Token
from .authorization import BEARER, WHITE_SPACE, read_bearer
from .cookies import read_cookie

Custom: TypeAlias = Callable[[Any], str | bytes | None]


@runtime_checkable
class Scheme(Protocol):
    """An authentication scheme other than Bearer, such as DPoP (RFC 9449).

    It belongs in a file of its own in this folder, and is given to ``JWTMiddleware(sources=)``. Nothing else changes: a
    token that is bound to its sender by one of ``confirms`` is verified like any other, every challenge also names the
    scheme, and ``confirm`` has the last word.
    """

    @property
    def name(self) -> str:
        """The name that challenges give it: ``DPoP``."""
        ...

    @property
    def confirms(self) -> frozenset[str]:
        """The methods of confirmation (``cnf``, RFC 7800) that ``confirm`` checks: ``jkt``. Bearer refuses them."""
        ...

    @property
    def challenge(self) -> Mapping[str, str]:
        """Parameters of its challenges beside those of RFC 6750: ``algs``."""
        ...

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        """Return the token of the request of ``scope``, or None if it has none of this scheme.

        Raises ``AmbiguousToken``, ``MalformedToken`` and, for more than ``max_size`` bytes, ``TokenTooLarge``.
        """
        ...

    async def confirm(self, token: Token, scope: Mapping[str, Any]) -> None:
        """Raise a ``Refusal`` if the sender of this request may not use ``token``, which is verified.

        It runs for each request, even if the token is remembered, and for each token that is passed to ``renew``. Then
        ``scope`` is that of the handshake, so its headers have no proof for the new token: the app puts that into the
        scope, under its own key, before it calls ``renew``.
        """
        ...


class _BearerHeader(NamedTuple):
    place: str = "the Authorization header"

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        return read_bearer(scope["headers"], max_size)


class _Cookie(NamedTuple):
    place: str
    name: bytes

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        return read_cookie(scope["headers"], self.name, max_size)


class _ProxyHeader(NamedTuple):
    place: str
    name: bytes

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        values = [value.strip(WHITE_SPACE) for name, value in scope["headers"] if name == self.name]
        if len(values) > 1:
            raise AmbiguousToken(found=f"{len(values)} headers {self.name.decode('ascii')}")
        return _limited(values[0], max_size) if values and values[0] else None


class _Subprotocol(NamedTuple):
    place: str
    name: str

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


class _Custom(NamedTuple):
    place: str
    function: Custom

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        raw = self.function(scope)
        if raw is None:
            return None
        if not isinstance(raw, str | bytes):
            raise TypeError(f"a source must return str, bytes or None, not {type(raw).__name__}")
        # It is probably the value of a header, and not every server strips white space around that.
        return _limited(_bytes(raw).strip(WHITE_SPACE), max_size)


class _OfScheme(NamedTuple):
    place: str
    scheme: Scheme

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        return self.scheme.find(scope, max_size)


Source: TypeAlias = _BearerHeader | _Cookie | _ProxyHeader | _Subprotocol | _Custom | _OfScheme

# Browsers send cookies by themselves, whichever page makes them send the request. A proxy knows its users by a cookie.
_Ambient: TypeAlias = _Cookie | _ProxyHeader


class Presented:
    """A token as a request presents it: any bytes, not verified."""

    def __init__(self, raw: bytes, source: Source) -> None:
        self.raw = raw
        self.scheme = source.scheme if isinstance(source, _OfScheme) else None
        """None for Bearer, which is also the scheme of tokens in other places than the Authorization header."""
        self.is_ambient = isinstance(source, _Ambient)
        """Whether a browser or proxy adds the token by itself, whichever page causes the request."""
        self.key = key_of(raw, self.scheme)
        """The key to remember the token by."""


def key_of(raw: bytes, scheme: Scheme | None) -> bytes:
    """The key to remember the token ``raw`` by. A token that one scheme accepts is not remembered for another."""
    return (BEARER if scheme is None else f"{scheme.name} ".encode()) + raw


def bearer_header() -> Source:
    """The Authorization header with the scheme Bearer (RFC 6750 2.1)."""
    return _BearerHeader()


def cookie(name: str) -> Source:
    """The cookie ``name`` (RFC 6265). A name with the prefix ``__Host-`` is best, because no other host can set it.

    Any other source beats it. Because browsers send cookies whichever page asks them to, a request with an unsafe
    method and a WebSocket handshake must come from the same origin, or from one of ``origins``: ``cross_site``.
    """
    return _Cookie(f"the cookie {name}", _token("name in cookie()", name).encode("ascii"))


def proxy_header(name: str) -> Source:
    """The header ``name``, in which a proxy that logs users in hands over a token, such as ``x-amzn-oidc-data``.

    The proxy knows its users by a cookie, so it adds the token to whatever request a page makes their browsers send.
    The same rule protects it as a ``cookie``: requests with unsafe methods and WebSocket handshakes must come from the
    same origin, or from one of ``origins``. Any explicit source beats it.
    """
    header = _token("name in proxy_header()", name).lower()
    if header in ("authorization", "cookie"):
        raise ConfigurationError(f"proxy_header: for {header}, use bearer_header() or cookie(name)")
    return _ProxyHeader(f"the header {header}", header.encode("ascii"))


def subprotocol(name: str) -> Source:
    """The WebSocket subprotocol that follows ``name``: browsers send it with ``new WebSocket(url, ["bearer", token])``.

    The app sees neither of the two. The handshake is answered with ``name``, unless the app chooses another subprotocol
    of the client's.
    """
    return _Subprotocol(f"the subprotocols after {name}", _token("name in subprotocol()", name))


def cookie_names(sources: Iterable[object]) -> tuple[str, ...]:
    """The names of the cookies among ``sources``."""
    return tuple(source.name.decode("ascii") for source in sources if isinstance(source, _Cookie))


class Sources:
    """Where the token of a request may be: in any of the sources above, or wherever functions find it.

    A function takes the ASGI scope and returns a token (str or bytes) or None. It must not wait. It must not read what
    browsers send by themselves, because it lacks the protection of ``cookie()``.

    Raises ``ConfigurationError``.
    """

    def __init__(self, sources: Iterable[Source | Scheme | Custom]) -> None:
        if isinstance(sources, str | Source) or not isinstance(sources, Iterable):
            raise ConfigurationError(f"sources must be a list, for instance [bearer_header()], not {show(sources)}")
        several = tuple(map(_source, sources))
        if not several:
            raise ConfigurationError("sources must name at least one source, for instance [bearer_header()]")
        for source in several:
            if several.count(source) > 1:
                raise ConfigurationError("sources: the same source is listed twice")
        self._explicit = tuple(source for source in several if not isinstance(source, _Ambient))
        self._ambient = tuple(source for source in several if isinstance(source, _Ambient))
        self._subprotocols = frozenset(source.name for source in several if isinstance(source, _Subprotocol))
        self.header_only = several == (_BearerHeader(),)
        # In the words of RFC 6750 section 2, as RFC 9728 lists them: cookies and subprotocols have none.
        self.bearer_methods = ("header",) if _BearerHeader() in several else ()
        others = [source.scheme for source in several if isinstance(source, _OfScheme)]
        _check_names(others)
        self.schemes: Mapping[str, Mapping[str, str]] = {
            **({} if len(others) == len(several) else {"Bearer": {}}),
            **{scheme.name: scheme.challenge for scheme in others},
        }
        """The authentication schemes of the sources, each with the parameters of its challenges."""
        self._usual_scheme = others[0] if len(others) == len(several) else None
        self._has_other_schemes = bool(others)

    def find(self, scope: Mapping[str, Any], max_size: int) -> Presented | None:
        """Return the token of the request of ``scope``, or None.

        1. Only one of header, subprotocol, other schemes and functions may have a token: ``AmbiguousToken``.
        2. If none has, the cookies and the headers of proxies are read in their order.

        A single source can also raise ``AmbiguousToken``, ``MalformedToken`` and ``TokenTooLarge``.
        """
        found: list[tuple[bytes, Source]] = []
        for source in self._explicit:
            raw = source.find(scope, max_size)
            if raw is not None:
                found.append((raw, source))
        if len(found) > 1:
            places = " and ".join(source.place for _, source in found[:2])
            raise AmbiguousToken(found=f"tokens in {places}")
        if found:
            return Presented(*found[0])
        for ambient in self._ambient:
            raw = ambient.find(scope, max_size)
            if raw is not None:
                return Presented(raw, ambient)
        return None

    def scheme_of(self, scope: Mapping[str, Any], max_size: int) -> Scheme | None:
        """The scheme that verifies a new token on the open connection of ``scope``; None if it is Bearer.

        It is the scheme with which the connection began, so that no connection goes on with a token that is bound to
        no sender. If the connection began without a token, it is Bearer if a source takes such tokens, else the first
        scheme.
        """
        if not self._has_other_schemes:
            return None
        try:
            presented = self.find(scope, max_size)
        except Refusal:
            # The refusal was ignored on a public path.
            presented = None
        return self._usual_scheme if presented is None else presented.scheme

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


def _check_names(schemes: Iterable[Scheme]) -> None:
    # Tokens are remembered by the name of their scheme, and recalling one asks no other scheme.
    names: set[str] = set()
    for scheme in schemes:
        name = scheme.name.lower()
        if name == "bearer":
            raise ConfigurationError("name of a scheme: Bearer is the scheme of bearer_header(); choose another name")
        if name in names:
            raise ConfigurationError(f"name of a scheme: {scheme.name!r} is used twice; give each its own name")
        names.add(name)


def _source(source: object) -> Source:
    if isinstance(source, Source):
        return source
    if source in (bearer_header, cookie, proxy_header, subprotocol):
        raise ConfigurationError(f"sources: {getattr(source, '__name__', source)} must be called")
    if isinstance(source, Scheme):
        return _OfScheme(f"the scheme {_token('name of a scheme', source.name)}", source)
    check_plain_function("sources: each", source, "scope")
    custom: Any = source
    return _Custom("the result of a function", custom)


# RFC 9110 5.6.2, of which cookie names (RFC 6265 4.1.1), subprotocols (RFC 6455 4.1) and schemes are made.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _token(argument: str, name: object) -> str:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigurationError(
            f"{argument} must hold only letters, digits and !#$%&'*+-.^_`|~, and this {show(name)} does not"
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
