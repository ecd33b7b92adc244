"""``explain``: why is this token refused, and what would pass?"""

import re
import time
from argparse import Namespace
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import anyio

from ..debugging import describe_provider
from ..demand import lack_of_scopes
from ..errors import ConfigurationError, Refusal
from ..explaining.loose import read_loosely
from ..explanation import Explanation, explain
from ..provider import ANY, Provider
from ..resolver import ProviderResolver
from ..revocation.revoked import Revocations
from ..verifying.token import Token
from ..verifying.verifier import MAX_TOKEN_SIZE, Verifier
from .apps import find_middleware, import_app, run_app_code
from .inputs import UsageError, read_key, read_text
from .output import paint, show, show_json, show_table, warn

_MARKS = {
    "passed": ("ok", "green"),
    "stopped": ("STOP", "red"),
    "not reached": ("-", "dim"),
    "not checked": ("?", "yellow"),
}

_NO_ENDPOINTS = (
    "If an endpoint answers insufficient_scope, its challenge and its log line name the scopes that it needs. "
    "--scope checks for one."
)

_HEADER = re.compile(r"(authorization:\s*)?bearer\s+", re.IGNORECASE)


def run(arguments: Namespace) -> int:
    """Explain the token. Return 0 for a good one, 1 for a refused one."""
    settings = _read_settings(arguments)
    # People paste what they find in a request: the header, or its value.
    token = _HEADER.sub("", read_text(arguments.token, "token").strip(), count=1)
    now = time.time() if arguments.at is None else arguments.at
    if arguments.app is None:
        explanation = anyio.run(_explain, token, settings, now)
    else:
        explanation = run_app_code("judging the token", anyio.run, _explain, token, settings, now)
    if arguments.json:
        show_json(explanation.as_json())
    else:
        _show(explanation, asked=bool(settings.scopes))
    return 0 if explanation.code == "accepted" else 1


@dataclass(frozen=True)
class _Settings:
    """What a token is checked against."""

    providers: Sequence[Provider]
    resolver: ProviderResolver | None = None
    revocations: Revocations | None = None
    max_token_size: int = MAX_TOKEN_SIZE
    scopes: tuple[str, ...] = ()
    """Those that an endpoint needs."""


async def _explain(token: str, settings: _Settings, now: float) -> Explanation:
    providers = list(settings.providers)
    several: list[Provider | ProviderResolver] = list(providers)
    if settings.resolver is not None:
        several.append(_recording(settings.resolver, providers))
    verifier = Verifier(
        several,
        max_token_size=settings.max_token_size,
        cache_size=0,
        revocations=settings.revocations,
        clock=lambda: now,
    )
    # Only the app itself should ask its own database, and only its own process knows sessions in its memory.
    unchecked = {"user"}
    if settings.revocations is None or getattr(settings.revocations, "is_in_memory", False):
        unchecked.add("revocation")
    refusal: Refusal | None = None
    verified: Token | None = None
    try:
        await verifier.start()
        verified = await verifier.verify(token)
    except Refusal as raised:
        refusal = raised
    except Exception:
        if not any(provider.sees_connection for provider in providers):
            raise
        # A validate() that looks at the request finds none here. What is before it has passed.
        unchecked |= {"revocation", "validate"}
        several = [_without_validate(provider) for provider in providers]
        verified = await Verifier(several, cache_size=0, clock=lambda: now).verify(token)
    finally:
        await verifier.stop()
    if verified is not None and not set(settings.scopes) <= set(verified.scopes):
        refusal = lack_of_scopes(settings.scopes, (), verified.scopes).about(verified)
    facts = [describe_provider(provider) for provider in providers]
    size = verifier.max_token_size
    return explain(
        read_loosely(token), refusal, facts, now, max_token_size=size, unchecked=unchecked, verified=verified
    )


def _recording(resolver: ProviderResolver, providers: list[Provider]) -> ProviderResolver:
    """``resolver``, which also adds what it finds to ``providers``."""

    async def resolve(issuer: str) -> Provider | None:
        provider: Provider | None = await resolver.resolve(issuer)
        if isinstance(provider, Provider):
            providers.append(provider)
        return provider

    return ProviderResolver(resolve, allow_hosts=resolver.hosts)


def _without_validate(provider: Provider) -> Provider:
    found = copy(provider)
    found.validators = ()
    return found


def _read_settings(arguments: Namespace) -> _Settings:
    scopes = tuple(arguments.scope)
    if arguments.app is not None:
        if arguments.issuer or arguments.audience or arguments.key or arguments.jwks:
            raise UsageError("--app brings its own settings; leave --issuer, --audience, --key and --jwks out")
        middlewares = find_middleware(import_app(arguments.app), arguments.app)
        if len(middlewares) > 1:
            warn(
                f"{arguments.app} has {len(middlewares)} JWTMiddleware: the settings of the outermost, or first, are "
                "used; for another one, name its app with --app"
            )
        verifier = middlewares[0].verifier
        return _Settings(verifier.providers, verifier.resolver, verifier.revocations, verifier.max_token_size, scopes)
    if not (arguments.issuer or arguments.key or arguments.jwks):
        raise UsageError("say what the token is checked against: --app main:app, or --issuer, --key or --jwks")
    try:
        provider = Provider(
            issuer=arguments.issuer or None,
            audience=arguments.audience or ANY,
            key=None if arguments.key is None else read_key(arguments.key),
            jwks=arguments.jwks,
        )
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    return _Settings([provider], scopes=scopes)


def _show(explanation: Explanation, *, asked: bool) -> None:
    good = explanation.code == "accepted"
    show(paint(explanation.code, "green" if good else "red"), "")
    for step in explanation.steps:
        mark, colour = _MARKS[step.outcome]
        show(f"  {paint(f'{mark:>4}', colour)}  {step.name:<10}  {step.asks}")
    show("", explanation.cause)
    if explanation.cure:
        show(explanation.cure)
    token = explanation.verified
    if token is not None:
        show("", "The app sees:")
        seen = {"provider": token.provider, "subject": token.subject, "scopes": ", ".join(token.scopes)}
        show_table((name, value or "none") for name, value in seen.items())
        if not asked:
            show("", _NO_ENDPOINTS)
    if explanation.facts:
        show("", "The token says" + (":" if good else ", verified or not:"))
        show_table(explanation.facts)
