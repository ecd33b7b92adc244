"""Which pages may send requests that a cookie authenticates? Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .._support.arguments import show
from .._support.listing import list_names
from ..errors import ConfigurationError, CrossSite

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Origins:
    """The origins (RFC 6454) that are trusted besides a request's own, such as ``https://app.example``.

    Raises ``ConfigurationError`` for an entry that no browser could send.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            raise ConfigurationError(
                f"origins must be a list, for instance ['https://app.example'], not {show(entries)}"
            )
        self._trusted = frozenset(_configured(position, entry) for position, entry in enumerate(entries, 1))

    def admit(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI ``scope`` may be authenticated by a cookie.

        A request with a safe method (RFC 9110 9.2.1) may: it changes nothing, and CORS keeps other pages from reading
        the answer. Any other request, and every WebSocket handshake, must be ``vouched_for``.
        """
        if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
            return True
        return self.vouched_for(scope)

    def vouched_for(self, scope: Mapping[str, Any]) -> bool:
        """Whether the browser says that the request comes from a trusted origin, or from the request's own.

        1. An ``Origin`` that is trusted is enough.
        2. ``Sec-Fetch-Site`` (W3C Fetch Metadata), if present, must be ``same-origin``. The browser also knows what a
           proxy hides from us, such as the scheme.
        3. Otherwise ``Origin`` must be the request's own: its scheme and its Host.

        With neither header the answer is no. A header that is sent twice counts as one from another site.
        """
        sites, origins, hosts = (_lines(scope, name) for name in (b"sec-fetch-site", b"origin", b"host"))
        if len(sites) > 1 or len(origins) > 1:
            return False
        origin = _normal(origins[0]) if origins else None
        if origin is not None and origin in self._trusted:
            return True
        if sites:
            return sites == ["same-origin"]
        own = _normal(f"{_scheme(scope)}://{hosts[0]}") if len(hosts) == 1 else None
        return origin is not None and origin == own

    def refusal(self, scope: Mapping[str, Any]) -> CrossSite:
        """The refusal of a request from elsewhere: the origins that are trusted, and what the request says instead."""
        sites, origins, hosts = (_lines(scope, name) for name in (b"sec-fetch-site", b"origin", b"host"))
        own = [f"{_scheme(scope)}://{host}" for host in hosts]
        found = [f"Origin {origin}" for origin in origins] + [f"Sec-Fetch-Site {site}" for site in sites]
        return CrossSite(expected=list_names({*self._trusted, *own}), found=", ".join(found) or "no Origin")

    def is_foreign(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request comes from a page of another origin, which is not trusted either.

        Programs other than browsers send no Origin, and are not foreign.
        """
        return bool(_lines(scope, b"origin")) and not self.vouched_for(scope)


def _configured(position: int, entry: object) -> str:
    origin = _normal(entry) if isinstance(entry, str) else None
    if origin is None:
        raise ConfigurationError(
            f"origins entry {position} must be a scheme, a host and, if it is not the default, a port, for instance "
            f"'https://app.example', without user, path or final slash; this {show(entry)} is not"
        )
    return origin


# RFC 6454 6.2, as browsers write it: hosts in ASCII, and "null" for a page without an origin.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def _normal(origin: str) -> str | None:
    """``origin`` in the form for comparison, or None if it is not an origin."""
    # Some characters outside ASCII become ASCII in lower case.
    match = _ORIGIN.fullmatch(origin.lower()) if origin.isascii() else None
    if match is None:
        return None
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def _lines(scope: Mapping[str, Any], name: bytes) -> list[str]:
    # RFC 9110 5.5: white space around the value is not part of it. Not every server strips it.
    return [value.strip(b" \t").decode("latin-1") for header, value in scope["headers"] if header == name]


def _scheme(scope: Mapping[str, Any]) -> str:
    if scope["type"] == "websocket":
        return "https" if scope.get("scheme") == "wss" else "http"
    return str(scope.get("scheme", "http"))
