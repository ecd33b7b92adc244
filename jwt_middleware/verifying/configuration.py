"""Can these providers and revocations work together? Checked when a verifier is made."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

from .._support.listing import list_names
from ..errors import ConfigurationError
from ..keys.key_set import MAX_TRIES
from ..keys.remote import RemoteKeys
from ..keys.source import StaticKeys
from ..provider import Provider, ProviderOptions
from ..resolver import ProviderResolver
from ..revocation.revoked import MARGIN, Revocations


def make_providers(
    providers: Provider | ProviderResolver | Iterable[Provider | ProviderResolver] | None,
    options: ProviderOptions,
    taker: Callable[..., object],
) -> Provider | ProviderResolver | Iterable[Provider | ProviderResolver]:
    """Return ``providers``, or the provider that ``options`` make. ``taker`` is the callable that was given both.

    Raises ``ConfigurationError`` if both are given, and for an option that ``Provider`` does not take.
    """
    check_names(options, ProviderOptions.__optional_keys__, taker)
    if providers is None:
        return Provider(**options)
    if options:
        raise ConfigurationError(
            f"{', '.join(options)} cannot be combined with providers=; give it to the Provider that it is meant for"
        )
    return providers


def check_names(options: Mapping[str, Any], known: Collection[str], taker: Callable[..., object]) -> None:
    """Raise ``ConfigurationError`` for the first of ``options`` that is not ``known`` to ``taker``."""
    for name in options:
        if name in known:
            continue
        from difflib import get_close_matches

        close = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else []
        close += get_close_matches(name, [*known, *signature(taker).parameters], 1)
        hint = f"; {close[0]} is" if close else ""
        if name in signature(RemoteKeys).parameters:
            hint = f"; it is an argument of RemoteKeys: jwks=RemoteKeys(..., {name}=...)"
        raise ConfigurationError(f"{name} is not an argument of {taker.__name__}{hint}")


_OTHER_NAMES = {"secret": "key", "secret_key": "key", "public_key": "key"}
"""What other packages call an argument."""


def split_providers(
    given: Provider | ProviderResolver | Iterable[Provider | ProviderResolver],
) -> tuple[tuple[Provider, ...], ProviderResolver | None]:
    """The providers of ``given``, and its resolver if there is one. Raises ``ConfigurationError``."""
    several = tuple(given) if isinstance(given, Iterable) else (given,)
    resolvers = [one for one in several if isinstance(one, ProviderResolver)]
    providers = tuple(one for one in several if not isinstance(one, ProviderResolver))
    for provider in providers:
        if not isinstance(provider, Provider):
            raise ConfigurationError(f"providers must be Provider objects, not {type(provider).__name__}")
    if len(resolvers) > 1:
        raise ConfigurationError("providers: one ProviderResolver is enough; it can ask several places itself")
    if not several:
        raise ConfigurationError("providers: at least one Provider is needed")
    return providers, next(iter(resolvers), None)


def index_issuers(providers: tuple[Provider, ...]) -> dict[str, int]:
    """The index of the provider of each configured issuer. Raises ``ConfigurationError`` if two providers clash."""
    names: set[str] = set()
    by_issuer: dict[str, int] = {}
    for index, provider in enumerate(providers):
        if provider.name in names:
            raise ConfigurationError(f"providers: the name {provider.name!r} is used twice; give each its own name=")
        names.add(provider.name)
        # A template stands for many issuers, and a load balancer is recognised by its signer.
        is_found_otherwise = provider.template is not None or provider.load_balancer is not None
        for issuer in () if is_found_otherwise else provider.issuers:
            if issuer in by_issuer:
                raise ConfigurationError(
                    f"providers: {providers[by_issuer[issuer]].name!r} and {provider.name!r} both have the issuer "
                    f"{issuer!r}; make one Provider of them, with all keys and audiences"
                )
            by_issuer[issuer] = index
    return by_issuer


def list_issuers(providers: Iterable[Provider], *, has_resolver: bool) -> str:
    """The accepted issuers in one line, for the operator."""
    issuers = list_names(issuer for provider in providers for issuer in provider.issuers)
    return issuers if not has_resolver else ", ".join(filter(None, (issuers, "or one that resolve knows")))


def index_signers(providers: tuple[Provider, ...]) -> dict[str, int]:
    """The index of the provider of each load balancer. Raises ``ConfigurationError`` if two providers clash."""
    by_signer: dict[str, int] = {}
    for index, provider in enumerate(providers):
        for signer in () if provider.load_balancer is None else provider.load_balancer.signers:
            if signer in by_signer:
                raise ConfigurationError(
                    f"providers: {providers[by_signer[signer]].name!r} and {provider.name!r} both have the signer "
                    f"{signer!r}; make one Provider of them"
                )
            by_signer[signer] = index
    return by_signer


def check_revocations(revocations: Revocations, providers: Sequence[Provider]) -> Revocations:
    """Return ``revocations`` if they can work with ``providers``. Raises ``ConfigurationError`` if not."""
    for name in ("is_revoked", "catch_up", "stop"):
        if not callable(getattr(revocations, name, None)):
            raise ConfigurationError(
                f"revocations must have a method {name}(); a {type(revocations).__name__} has none"
            )
    names = [provider.name for provider in providers]
    # Sessions say whose tokens they revoke. Under another name, nothing would be refused.
    ended = getattr(revocations, "provider", None)
    if isinstance(ended, str) and ended not in names:
        raise ConfigurationError(
            f"revocations: they are for the provider {ended!r}, but the providers are {', '.join(map(repr, names))}; "
            "give both the same name, with TokenIssuer(name=...)"
        )
    for provider in providers:
        check_leeway(provider)
    return revocations


def check_leeway(provider: Provider) -> None:
    """Raises ``ConfigurationError`` if tokens of ``provider`` outlive their revocations."""
    if provider.rules.leeway > MARGIN:
        # A revocation is forgotten that long after the last token that it revokes.
        raise ConfigurationError(
            f"leeway must be {MARGIN} or less together with revocations=, not {provider.rules.leeway!r}"
        )


def find_doubts(providers: Sequence[Provider], max_checks: int) -> Iterator[tuple[str, str]]:
    """Likely mistakes in ``providers``: for each, a name and what to do about it."""
    for text in _find_too_many_keys(providers, max_checks):
        yield "too many keys", text
    unlimited = [provider.name for provider in providers if provider.rules.scopes.may_grant is None]
    if len(providers) > 1 and unlimited:
        yield (
            "may_grant",
            f"tokens of {', '.join(map(repr, unlimited[:8]))} can grant any scope; where providers are not trusted "
            'alike, name the scopes that each can grant, for instance Provider(..., may_grant=["orders:read"])',
        )


def _find_too_many_keys(providers: Sequence[Provider], max_checks: int) -> Iterator[str]:
    # Only these: looking at keys that are fetched begins a fetch, which needs an event loop.
    static = [
        provider.keys.current
        for provider in providers
        if not provider.issuers and isinstance(provider.keys, StaticKeys)
    ]
    for algorithm in sorted({algorithm for keys in static for key in keys.keys for algorithm in key.algorithms}):
        tried = sum(min(MAX_TRIES, sum(algorithm in key.algorithms for key in keys.keys)) for keys in static)
        if tried > max_checks:
            yield (
                f"providers without issuer= have {tried} keys for {algorithm}, but a token is tried with {max_checks} "
                "at most; give each Provider its issuer="
            )
