"""From which address does a request come, as far as it can be believed? Pure."""

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from .._support.arguments import check_strings
from ..errors import ConfigurationError

UNIX = "unix"
"""As a trusted proxy: whoever connects through a Unix socket, and so has no address."""


class Proxies:
    """The proxies whose ``X-Forwarded-For`` is believed: addresses, networks, or ``unix``.

    Raises ``ConfigurationError`` for what is none of these, and for a network that holds every address.
    """

    def __init__(self, trusted: str | Collection[str] = ()) -> None:
        names = check_strings("trusted_proxies", trusted, at_least=0)
        self._unix = UNIX in names
        self._networks = tuple(_network(name) for name in names if name != UNIX)

    def client(self, scope: Mapping[str, Any]) -> str:
        """Who sent the request of ``scope``: an IPv4 address, the /64 network of an IPv6 address, or what the server
        calls its client where that is neither; empty where it has none.

        1. The server's own word, ``scope["client"]``, unless that is a trusted proxy.
        2. ``X-Forwarded-For``, all its lines as one list, from the right, where each proxy adds whom it saw: the first
           that is not a trusted proxy.
        3. Where the list ends, or goes on with what is no address: the last proxy.
        """
        # Some servers have no client, some an empty name, or a port that is a string.
        name = str((scope.get("client") or ("",))[0] or "")
        address = _address(name)
        if address is None and (name or not self._unix):
            return name
        if address is None or self._trusts(address):
            for entry in _forwarded_for(scope["headers"]):
                hop = _address(entry)
                if hop is None:
                    break
                address = hop
                if not self._trusts(hop):
                    break
        return "" if address is None else _counted(address)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _forwarded_for(headers: Collection[tuple[bytes, bytes]]) -> Iterator[str]:
    lines = [value.decode("latin-1") for name, value in headers if name.lower() == b"x-forwarded-for"]
    return reversed(",".join(lines).split(",")) if lines else iter(())


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in ``text``, with or without a port; an IPv4 address in IPv6 clothes is an IPv4 address."""
    found = _ADDRESS.fullmatch(text.strip(" \t"))
    if found is None:
        return None
    try:
        address = ip_address(found["v4"] or found["bracketed"] or found["v6"])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


# Not every proxy leaves the port away.
_ADDRESS = re.compile(
    r"(?P<v4>[0-9]{1,3}(?:\.[0-9]{1,3}){3})(?::[0-9]{1,5})?"
    r"|\[(?P<bracketed>[0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?"
    r"|(?P<v6>[0-9A-Fa-f:.]{2,45})(?:%[0-9A-Za-z_.-]{1,32})?"
)


def _counted(address: IPv4Address | IPv6Address) -> str:
    # Who has one IPv6 address has 2**64 of them (RFC 6177).
    return str(address) if isinstance(address, IPv4Address) else str(IPv6Network((address, 64), strict=False))


def _network(name: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(name)
    except ValueError as error:
        raise ConfigurationError(
            f"trusted_proxies: {name!r} must be an address, a network such as '10.0.0.0/8', or 'unix' ({error})"
        ) from None
    if network.prefixlen == 0:
        raise ConfigurationError(f"trusted_proxies: {name!r} is everybody; whoever can reach the app could lie")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ConfigurationError(f"trusted_proxies: {name!r} must be written as an IPv4 address or network")
    return network
