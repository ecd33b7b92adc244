"""Why was this request refused? The answer in the response itself, for developers on their own machine."""

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from .errors import Refusal
from .explaining.case import ProviderFacts
from .explaining.loose import read_loosely
from .explanation import explain
from .provider import Provider
from .reading.sources import Sources
from .verifying.verifier import Verifier

_OF_PROXIES = frozenset(
    {
        *(b"forwarded", b"x-forwarded", b"x-original-forwarded-for", b"x-real-ip", b"via", b"cdn-loop"),
        *(b"client-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"cf-connecting-ip"),
        *(b"fastly-client-ip", b"fly-client-ip", b"x-azure-clientip", b"x-envoy-external-address"),
        *(b"x-amzn-trace-id", b"proxy-connection"),
    }
)
"""Headers that proxies, load balancers and content delivery networks add, and browsers never send to an app."""


class ExplainedRefusals:
    """A ``refusal_response`` whose body also explains the refusal, but only to clients on this machine.

    Behind a proxy on this machine every client seems to be on it, too, so a request with a header that proxies add gets
    the plain body. The challenge stays as it is.
    """

    def __init__(self, verifier: Verifier, sources: Sources, clock: Callable[[], float]) -> None:
        self._verifier = verifier
        self._sources = sources
        self._clock = clock

    def __call__(self, connection: HTTPConnection, refusal: Refusal) -> Response:
        body: dict[str, object] = {**refusal.body}
        if is_local(connection):
            body["explanation"] = self._explain(connection, refusal)
        return JSONResponse(body, refusal.status)

    def _explain(self, connection: HTTPConnection, refusal: Refusal) -> dict[str, object]:
        verifier = self._verifier
        facts = [describe_provider(provider) for provider in verifier.providers]
        explanation = explain(
            read_loosely(self._read(connection)), refusal, facts, self._clock(), max_token_size=verifier.max_token_size
        )
        return {
            "cause": explanation.cause,
            "cure": explanation.cure,
            "expected": refusal.expected,
            "found": refusal.found,
        }

    def _read(self, connection: HTTPConnection) -> str:
        try:
            presented = self._sources.find(connection.scope, self._verifier.max_token_size)
        except Refusal:
            return ""
        return "" if presented is None else presented.raw.decode("latin-1")


def describe_provider(provider: Provider) -> ProviderFacts:
    """The facts about ``provider`` that an explanation needs."""
    return ProviderFacts(
        name=provider.name,
        issuers=provider.issuers,
        rules=provider.rules,
        keys=provider.keys.current.keys,
        error=provider.health.error,
    )


def is_local(connection: HTTPConnection) -> bool:
    """Whether the client is on this machine, and no header says that a proxy stands in between."""
    for name, _ in connection.scope["headers"]:
        # Some proxies write underscores.
        header = name.lower().replace(b"_", b"-")
        if header in _OF_PROXIES or header.startswith(b"x-forwarded-"):
            return False
    client = connection.client
    try:
        address = None if client is None else ip_address(client.host)
    except ValueError:
        return False
    # A socket for both versions shows an IPv4 client as ::ffff:127.0.0.1. Not every Python sees that it is loopback.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address is not None and (mapped or address).is_loopback
