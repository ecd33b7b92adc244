"""Which addresses may be asked for keys? Pure.

The configuration may name any host. Metadata and resolvers come from elsewhere: an address from them must not lead to
private networks, where services answer anyone who can reach them (server-side request forgery).
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from .._support.redaction import redact_address
from ..errors import ConfigurationError

METADATA_NAMES = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server")
"""The paths of metadata. The issuer's own path may precede or follow them."""


class Hosts(NamedTuple):
    """The hosts that the configuration names."""

    named: frozenset[str] = frozenset()
    """Hosts that may lie anywhere, even in private networks."""
    http: frozenset[str] = frozenset()
    """Hosts that may be asked over plain http."""

    def find_fault(self, url: object) -> str | None:
        """What is wrong with ``url``, an address in the configuration. None if nothing is."""
        if not isinstance(url, str) or not re.fullmatch(r"[!-\[\]-~]+", url):
            return f"{redact_address(str(url))!r} is not an address in printable ASCII"
        shown = repr(redact_address(url))
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return f"{shown} is not an address"
        if "@" in parts.netloc:
            return "an address with a user in it is not fetched; give such an address to a fetcher of your own"
        if not host:
            return f"{shown} names no host"
        if "%" in host:
            return f"{shown} has a percent sign in its host"
        if parts.scheme == "https" or (parts.scheme == "http" and (is_loopback(host) or _plain(host) in self.http)):
            return None
        return (
            f"{shown} must start with https:// (http is for loopback, and for hosts that are named: "
            f'RemoteKeys(..., allow_http=["{_plain(host)}"]))'
        )

    def find_fault_of_foreign(self, url: object) -> str | None:
        """What is wrong with ``url``, an address that metadata or a resolver gives. None if nothing is."""
        fault = self.find_fault(url)
        if fault is not None:
            return fault
        host = host_of(str(url))
        if host in self.named or (is_loopback(host) and any(is_loopback(name) for name in self.named)):
            return None
        inside = describe_inside(host)
        if inside is None:
            return None
        return f"{redact_address(str(url))!r} leads to {inside}; if that is meant, allow_hosts=[{host!r}] permits it"

    def needs_check(self, host: str) -> bool:
        """Whether what ``host`` resolves to must be checked before it is asked."""
        return host not in self.named and not is_loopback(host)


def check_hosts(name: str, hosts: object) -> frozenset[str]:
    """``hosts``, a list of exact host names or IP addresses. Raises ``ConfigurationError`` for anything else."""
    if isinstance(hosts, str) or not isinstance(hosts, Collection):
        raise ConfigurationError(f'{name} must be a list of host names, for instance ["keycloak"]')
    for host in hosts:
        if not isinstance(host, str) or not re.fullmatch(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?", host):
            kind = "an address" if is_address(host) else f"a {type(host).__name__} that is no host name"
            raise ConfigurationError(
                f'{name} must hold exact host names without scheme, port and path, for instance "keycloak", not {kind}'
            )
    return frozenset(_plain(host.strip("[]")) for host in hosts)


def is_address(value: object) -> bool:
    """Whether ``value`` is meant as an address, not as the path of a file."""
    return isinstance(value, str) and re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*://", value) is not None


def host_of(url: str) -> str:
    """The host of a good address, in lower case and without a final dot."""
    return _plain(urlsplit(url).hostname or "")


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a good address (RFC 6454 section 4)."""
    parts = urlsplit(url)
    return parts.scheme, host_of(url), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def is_loopback(host: str) -> bool:
    """Whether ``host`` leads to this machine, in any notation."""
    host = _plain(host)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _ip(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def describe_inside(host: str) -> str | None:
    """Describe what ``host`` leads to, if outsiders cannot reach it. None if nothing of that kind shows."""
    if is_loopback(host):
        return "this machine"
    address = _ip(_plain(host))
    return None if address is None or is_public(address) else "a private network"


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether ``address`` is on the public internet: not private, loopback, link-local, unspecified or multicast."""
    address = _unwrap(address)
    if isinstance(address, IPv6Address) and (address.is_site_local or address in _NAT64_LOCAL):
        return False
    return address.is_global and not address.is_multicast


def well_known_addresses(issuer: str) -> tuple[str, ...]:
    """The addresses at which the metadata of ``issuer`` may be.

    OpenID Connect Discovery 1.0 4.1 appends to the path, RFC 8414 3.1 inserts before it.
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    addresses = (
        f"{origin}{path}/.well-known/openid-configuration",
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
    )
    return tuple(dict.fromkeys(addresses))


def check_not_metadata(argument: str, url: str) -> None:
    """Raise ``ConfigurationError``, which names the issuer, if ``url`` is the address of an issuer's metadata."""
    issuer = issuer_of_metadata(url)
    if issuer is not None:
        raise ConfigurationError(
            f"{argument}: {redact_address(url)!r} is the address of the metadata; give the issuer that it is about: "
            f"issuer={redact_address(issuer)!r}, perhaps with a slash at its end: copy it from the document at that "
            "address"
        )


def issuer_of_metadata(url: str) -> str | None:
    """The issuer whose metadata lies at ``url``. None if ``url`` is not an address of metadata."""
    found = re.fullmatch(
        r"(https?://[^/?#]+)(.*?)/\.well-known/(?:openid-configuration|oauth-authorization-server)((?:/[^/?#]+)*)/?",
        url,
    )
    return None if found is None else "".join(found.groups())


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return _unwrap(ip_address(host))
    except ValueError:
        return _read_short_ipv4(host)


def _read_short_ipv4(host: str) -> IPv4Address | None:
    """Read ``host`` as resolvers do: one to four numbers, decimal, octal or hexadecimal (127.1, 0x7f000001)."""
    try:
        *first, last = [_read_number(part) for part in host.split(".")]
        value = sum(number << (24 - 8 * index) for index, number in enumerate(first)) + last
    except ValueError:
        return None
    if len(first) > 3 or any(number > 255 for number in first) or last >= 1 << (32 - 8 * len(first)):
        return None
    return IPv4Address(value)


def _read_number(text: str) -> int:
    if re.fullmatch(r"0[0-7]+", text):
        return int(text, 8)
    if re.fullmatch(r"0x[0-9a-f]{1,8}", text):
        return int(text, 16)
    if re.fullmatch(r"[0-9]{1,10}", text):
        return int(text)
    raise ValueError("not a number")


def _unwrap(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv6 address, if a gateway or the system would extract it (RFC 4291, 6052)."""
    if isinstance(address, IPv4Address):
        return address
    inside = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
    if inside:
        return inside
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
