"""Which client does a request come from, as far as that can be believed? Pure."""

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from .._support.arguments import check_strings
from ..errors import ConfigurationError

UNIX = "unix"
"""Stands for any trusted proxy that connects through a Unix socket, and so has no address."""


class Proxies:
    """The proxies whose ``X-Forwarded-For`` is believed: addresses, networks, or ``unix``.

    Raises ``ConfigurationError`` for an entry that is none of these, and for a network that holds every address.
    """

    def __init__(self, trusted: str | Collection[str] = ()) -> None:
        names = check_strings("trusted_proxies", trusted, at_least=0)
        self._has_unix = UNIX in names
        self._networks = tuple(_read_network(number, name) for number, name in enumerate(names, 1) if name != UNIX)

    def find_client(self, scope: Mapping[str, Any]) -> str:
        """The client that sent the request of ``scope``.

        This is an IPv4 address, the /64 network of an IPv6 address, the server's own name for its client if that is
        neither, or an empty string if the server has none.

        1. The server's word, ``scope["client"]``, unless that is a trusted proxy.
        2. ``X-Forwarded-For``, all lines as one list. It is read from the right, where each proxy appends the address
           it saw: the first entry that is not a trusted proxy.
        3. The last proxy before the end of the list, or before an entry that is not an address.
        """
        # Some servers have no client, an empty name, or a port that is a string.
        name = str((scope.get("client") or ("",))[0] or "")
        address = _read_address(name)
        if address is None and (name or not self._has_unix):
            return name
        if address is None or self._trusts(address):
            for entry in _forwarded_for(scope["headers"]):
                hop = _read_address(entry)
                if hop is None:
                    break
                address = hop
                if not self._trusts(hop):
                    break
        return "" if address is None else _widen(address)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _forwarded_for(headers: Collection[tuple[bytes, bytes]]) -> Iterator[str]:
    lines = [value.decode("latin-1") for name, value in headers if name.lower() == b"x-forwarded-for"]
    return reversed(",".join(lines).split(",")) if lines else iter(())


def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in ``text``, with or without a port. An IPv4 address mapped into IPv6 is an IPv4 address."""
    found = _ADDRESS.fullmatch(text.strip(" \t"))
    if found is None:
        return None
    try:
        address = ip_address(found["v4"] or found["bracketed"] or found["v6"])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


# Some proxies append the port.
_ADDRESS = re.compile(
    r"(?P<v4>[0-9]{1,3}(?:\.[0-9]{1,3}){3})(?::[0-9]{1,5})?"
    r"|\[(?P<bracketed>[0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?"
    r"|(?P<v6>[0-9A-Fa-f:.]{2,45})(?:%[0-9A-Za-z_.-]{1,32})?"
)


def _widen(address: IPv4Address | IPv6Address) -> str:
    # A client that has one IPv6 address usually has 2**64 of them (RFC 6177).
    return str(address) if isinstance(address, IPv4Address) else str(IPv6Network((address, 64), strict=False))


def _read_network(number: int, name: str) -> IPv4Network | IPv6Network:
    entry = f"trusted_proxies: entry {number}"
    try:
        network = ip_network(name)
    except ValueError:
        # The text may be anything, even a secret in the wrong place.
        raise ConfigurationError(
            f"{entry} must be an address such as '10.0.0.1', a network such as '10.0.0.0/8' (no bits set behind the "
            "prefix), or 'unix'"
        ) from None
    if network.prefixlen == 0:
        raise ConfigurationError(
            f"{entry} holds every address, so any client could claim any address; list the networks of your proxies"
        )
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ConfigurationError(f"{entry} is an IPv4 address mapped into IPv6; write the IPv4 address or network")
    return network
