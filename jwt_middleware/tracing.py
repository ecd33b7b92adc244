"""What does the span of a request say about its user? Attributes for OpenTelemetry (extra ``otel``), on request."""

from collections.abc import Iterable
from hashlib import sha256
from hmac import digest
from typing import Final

from starlette.types import Scope

from ._support.arguments import check_strings, show
from .accepted import hear_accepted
from .errors import ConfigurationError
from .events import Event, RequestRefused
from .middleware import JWTMiddleware
from .verifying.token import Token

try:
    from opentelemetry.trace import get_current_span
except ImportError as error:
    raise ConfigurationError(
        "jwt_middleware.tracing needs opentelemetry-api; install asgi-jwt-middleware[otel]"
    ) from error

NAMES: Final = ("enduser.id", "enduser.pseudo.id", "error.type")

MIN_KEY = 32
"""The fewest bytes of a key of pseudonyms: a shorter one could be guessed, and with it the users."""


class SpanAttributes:
    """Sets attributes of the span that surrounds a request: ``on_event=[SpanAttributes("enduser.id")]``.

    The span is somebody else's: the middleware that makes it stands outside ``JWTMiddleware``.

    ``names``
        ``enduser.id``: the token's subject. ``enduser.pseudo.id``: a pseudonym of it. ``error.type``: the code of a
        refusal. The first two are personal data, so nothing is set that is not named.
    ``pseudonym_key``
        The secret that pseudonyms are made with, 32 bytes or more. Without it, nobody can tell whose they are.
        Processes that share it make the same ones.

    Raises ``ConfigurationError`` for another name, and for a key that is missing or too short.
    """

    def __init__(self, names: str | Iterable[str], *, pseudonym_key: str | bytes | None = None) -> None:
        self._names = check_strings("names", names)
        for name in self._names:
            if name not in NAMES:
                raise ConfigurationError(f"names: {name!r} is no attribute that is set here; {', '.join(NAMES)} are")
        key = pseudonym_key.encode() if isinstance(pseudonym_key, str) else pseudonym_key
        if "enduser.pseudo.id" in self._names and not (isinstance(key, bytes) and len(key) >= MIN_KEY):
            raise ConfigurationError(
                f"pseudonym_key must be a secret of {MIN_KEY} bytes or more for enduser.pseudo.id, not {show(key)}"
            )
        self._key = key or b""

    def __call__(self, event: Event) -> None:
        """Set ``error.type`` if ``event`` is a refusal."""
        if isinstance(event, RequestRefused) and not event.ignored and "error.type" in self._names:
            get_current_span().set_attribute("error.type", event.code)

    def watch(self, middleware: JWTMiddleware) -> None:
        """From now on, set the user of each request that ``middleware`` accepts. A middleware calls this itself."""
        if any(name.startswith("enduser.") for name in self._names):
            middleware.app = hear_accepted(middleware.app, self._set_user)

    def pseudonym(self, provider: str, issuer: str | None, subject: str) -> str:
        """The pseudonym of a user, to find one whom you know among the traces."""
        text = "\0".join((provider, issuer or "", subject))
        return digest(self._key, text.encode("utf-8", "surrogatepass"), sha256).hex()[:32]

    def _set_user(self, token: Token, scope: Scope) -> None:
        if token.subject is None:
            return
        span = get_current_span()
        if "enduser.id" in self._names:
            span.set_attribute("enduser.id", token.subject)
        if "enduser.pseudo.id" in self._names:
            span.set_attribute("enduser.pseudo.id", self.pseudonym(token.provider, token.issuer, token.subject))
