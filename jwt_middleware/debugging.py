"""Why was this request refused? The answer in the response itself, for developers on their own machine."""

from collections.abc import Callable
from ipaddress import ip_address

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from .errors import Refusal
from .explanation import ProviderFacts, explain, read_loosely
from .provider import Provider
from .verifying.verifier import Verifier

_FORWARDING = (b"forwarded", b"x-real-ip")


class ExplainedRefusals:
    """A ``refusal_response`` whose body also explains the refusal, but only to clients on this machine.

    Behind a proxy on this machine every client seems to be on it, too, so a request with a forwarding header gets the
    plain body. The challenge stays as it is.
    """

    def __init__(self, verifier: Verifier, clock: Callable[[], float]) -> None:
        self._verifier = verifier
        self._clock = clock

    def __call__(self, connection: HTTPConnection, refusal: Refusal) -> Response:
        body: dict[str, object] = {**refusal.body}
        if is_local(connection):
            body["explanation"] = self._explain(connection, refusal)
        return JSONResponse(body, refusal.status)

    def _explain(self, connection: HTTPConnection, refusal: Refusal) -> dict[str, object]:
        raw = connection.headers.get("authorization", "")
        verifier = self._verifier
        facts = [describe_provider(provider) for provider in verifier.providers]
        explanation = explain(
            read_loosely(raw.partition(" ")[2]), refusal, facts, self._clock(), max_token_size=verifier.max_token_size
        )
        return {
            "cause": explanation.cause,
            "cure": explanation.cure,
            "expected": refusal.expected,
            "found": refusal.found,
        }


def describe_provider(provider: Provider) -> ProviderFacts:
    """What an explanation needs of ``provider``."""
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
        if name in _FORWARDING or name.startswith(b"x-forwarded-"):
            return False
    client = connection.client
    try:
        return client is not None and ip_address(client.host).is_loopback
    except ValueError:
        return False
