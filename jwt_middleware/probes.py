"""Can this process verify tokens now? For readiness probes, and for people who want to know why not."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from starlette.authentication import AuthCredentials
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from ._support.arguments import check_strings
from .demand import middleware_of
from .keys.source import KeysHealth
from .resolver import ResolvedHealth
from .revocation.view import RevocationView


@dataclass(frozen=True, slots=True)
class RevocationsHealth:
    """The state of the view of the revocations."""

    usable: bool
    """Whether tokens can be judged. If not, they are answered with 503."""
    age: float | None
    """Seconds since the log was last read. None if it never was."""
    error: str | None
    """Why it cannot be read. None if it can."""


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """The state of the session store, as far as it is known without asking it."""

    reachable: bool
    """Whether it did its last step. If not, tokens are verified all the same, but logins may fail."""
    error: str | None
    """Why not, or what else is wrong with it. None if all is well."""
    clock_difference: float | None
    """Seconds by which its clock is ahead of this host's: more than a few are a fault. None if it is not known yet."""


@dataclass(frozen=True, slots=True)
class Health:
    """The state of everything that verifying depends on. Nothing in it comes from a token."""

    keys: Mapping[str, KeysHealth]
    """The keys of each provider, by its name: how many, their age, the last error, the next attempt, and which
    are not used and why."""
    revocations: RevocationsHealth | None
    """None if nothing is revoked here, or if your own ``Revocations`` say nothing about themselves."""
    resolved: ResolvedHealth | None
    """The keys of providers that a resolver has returned, in numbers, and some errors. None if there is no resolver."""
    store: StoreHealth | None
    """None without ``Sessions``."""

    @property
    def is_ready(self) -> bool:
        """Whether tokens can be verified: each configured provider has keys, and the revocations are usable.

        Resolved providers do not count: the outage of one tenant is not that of the process.
        """
        return all(one.is_usable for one in self.keys.values()) and (
            self.revocations is None or self.revocations.usable
        )

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {
            "ready": self.is_ready,
            "keys": {name: asdict(one) for name, one in self.keys.items()},
            "revocations": None if self.revocations is None else asdict(self.revocations),
            "resolved": None if self.resolved is None else asdict(self.resolved),
            "store": None if self.store is None else asdict(self.store),
        }


def health(scope: Scope) -> Health:
    """The health of the middleware that let the request of ``scope`` through, however it was added.

    It sends no request and waits for nothing. Raises ``RuntimeError`` if no ``JWTMiddleware`` is in front.
    """
    verifier = middleware_of(scope).verifier
    revocations, store = look_at_revocations(verifier.revocations)
    return Health(verifier.health(), revocations, verifier.resolved_health(), store)


def health_routes(*, details: str | None = None) -> list[Route]:
    """Routes for probes, for a ``Mount`` that you make public: ``public=["/health/*"]``.

    ``GET /live``
        200 as long as the process answers. A restart mends nothing else, so this depends on nothing else.
    ``GET /ready``
        200 if tokens can be verified, else 503; ``{"ready": true}``. A caller with the scope ``details`` gets the whole
        ``Health``. Default None: no caller does.

    Raises ``ConfigurationError`` if ``details`` is not a string.
    """
    if details is not None:
        check_strings("details", details)

    async def live(request: Request) -> Response:
        return _answer({"live": True}, 200)

    async def ready(request: Request) -> Response:
        found = health(request.scope)
        credentials: AuthCredentials = request.scope["auth"]
        shown = found.as_json() if details is not None and details in credentials.scopes else {"ready": found.is_ready}
        return _answer(shown, 200 if found.is_ready else 503)

    return [Route("/live", live, name="live"), Route("/ready", ready, name="ready")]


def look_at_revocations(revocations: object) -> tuple[RevocationsHealth | None, StoreHealth | None]:
    """The state of ``revocations``, and of the session store behind them, if they say so."""
    if isinstance(revocations, RevocationView):
        return _described(revocations.is_usable, revocations.age, revocations.error), None
    # Sessions belong to the issuing half, which is not imported here.
    ask = getattr(revocations, "health", None)
    if not callable(ask):
        return None, None
    found: Any = ask()
    described = _described(found.revocations_usable, found.revocations_age, found.revocations_error)
    return described, StoreHealth(found.store_reachable, found.store_error, found.clock_difference)


def _described(usable: bool, age: float, error: str | None) -> RevocationsHealth:
    return RevocationsHealth(usable, age if isfinite(age) else None, error)


def _answer(body: Mapping[str, Any], status: int) -> Response:
    return JSONResponse(body, status, headers={"cache-control": "no-store"})
