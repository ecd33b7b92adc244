"""Who calls an app in its tests? ``as_user`` replaces the check of the caller; ``headers_for`` passes it. (FastAPI)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from secrets import token_bytes, token_urlsafe
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, Refusal, WrongIssuer
from ..events import LocalKeyMade
from ..keys.algorithms import ALGORITHMS
from ..keys.key_set import Key
from ..verifying import compact

if TYPE_CHECKING:
    from ..fastapi import Auth
    from ..fastapi.overrides import AsUser
    from ..provider import Provider

LIFETIME = 900
"""Seconds that the token of ``headers_for`` is good for."""


def as_user(
    subject: str, *, scopes: Iterable[str] = (), claims: Mapping[str, Any] | None = None, provider: str | None = None
) -> AsUser:
    """Return a replacement for an ``Auth``: every request comes from ``subject``, with or without a token.

    ::

        app.dependency_overrides[auth] = as_user("ada", scopes=["orders:write"])

    The scopes that a route demands are checked as ``auth`` checks them, with ``scope_implies`` and ``may_grant`` of the
    provider: a user without them gets 403. An override of ``auth`` also feeds ``auth.token``, ``auth.optional``,
    ``auth.any_of(...)`` and ``request.user``. Only routes of the app that depend on one of these are open to requests
    without a token. Each is logged once, as a warning, in production as well: an override works wherever it stands.

    The user is a ``JWTUser`` with a token, whatever ``load_user`` says: to fake a user of the app's own, override
    ``auth`` with a function that returns one, or use ``headers_for``. ``claims`` are further claims of the token;
    ``provider`` is the name of the provider that it comes from; default: the first. Raises ``ConfigurationError``, and
    ``RuntimeError`` at a request if there is no such provider.
    """
    from ..fastapi.overrides import AsUser

    names, claims = _check(subject, scopes, claims)
    return AsUser(subject, names, claims, provider)


def headers_for(
    auth: Auth,
    subject: str,
    *,
    scopes: Iterable[str] = (),
    claims: Mapping[str, Any] | None = None,
    provider: str | None = None,
) -> dict[str, str]:
    """The headers of a request from ``subject``, with a token that ``auth`` verifies like any other.

    ::

        client = TestClient(app, headers=headers_for(auth, "ada", scopes=["orders:write"]))

    The first call makes a random key, and logs a warning. The key is known to this ``auth`` in this process only: it
    is in no JWK Set, store, file or log, and a forked child does not have it. Every other check applies to the token,
    so the token can fail one: issuer, audience, expiry, revocation, ``validate`` or ``load_user``.

    ``claims`` are added to the usual claims, or replace them; one that is None is left out. ``provider`` names one of
    several; default: the first. The token is good for 15 minutes. Raises ``ConfigurationError`` if the provider's rules
    refuse such a token.
    """
    from ..fastapi import Auth

    if not isinstance(auth, Auth):
        raise ConfigurationError(
            f"headers_for() needs the Auth that is installed on the app, not {type(auth).__name__}"
        )
    names, claims = _check(subject, scopes, claims)
    chosen = _choose(auth, provider)
    now = auth.clock()
    key = _key_of(auth, chosen)
    minted = {
        **({"iss": chosen.issuers[0]} if chosen.issuers else {}),
        **({"aud": min(chosen.rules.audiences)} if chosen.rules.audiences else {}),
        "iat": int(now),
        "exp": int(now) + LIFETIME,
        "jti": token_urlsafe(16),
        chosen.rules.subject_claim or "sub": subject,
        **_scope_claims(chosen, names),
        **claims,
    }
    header = {"alg": "HS256", "kid": key.kid, "typ": min(chosen.rules.types or ("JWT",))}
    present = {name: value for name, value in minted.items() if value is not None}
    raw = compact.encode(header, present, lambda data: ALGORITHMS["HS256"].sign(data, key.material))
    _check_rules(chosen, raw, now)
    return auth.present(raw)


def _key_of(auth: Auth, provider: Provider) -> Key:
    from ..fastapi.local_keys import add_local_key

    new = Key(token_bytes(64), ("HS256",), token_urlsafe(16))
    key = add_local_key(provider, new)
    if key is new:
        auth.events.tell(LocalKeyMade(provider=provider.name))
    return key


def _check(
    subject: str, scopes: Iterable[str], claims: Mapping[str, Any] | None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    if not isinstance(subject, str) or not subject:
        raise ConfigurationError(f"subject must be a text that is not empty, not {type(subject).__name__}")
    if isinstance(scopes, str):
        raise ConfigurationError(f"scopes must be a list, for instance [{scopes!r}]")
    return tuple(scopes), dict(claims or {})


def _choose(auth: Auth, name: str | None) -> Provider:
    for provider in auth.providers:
        if name is None or provider.name == name:
            if provider.load_balancer is not None:
                raise ConfigurationError(
                    f"provider: {provider.name!r} accepts tokens of its load balancer alone, which headers_for() "
                    "cannot make; use as_user()"
                )
            return provider
    if name is None:
        raise ConfigurationError(f"headers_for() needs a configured provider, and {auth!r} has a resolver alone")
    known = ", ".join(repr(provider.name) for provider in auth.providers)
    raise ConfigurationError(f"provider: there is no {name!r}; {auth!r} has {known}")


def _scope_claims(provider: Provider, scopes: tuple[str, ...]) -> dict[str, Any]:
    """``scopes`` as the provider's own tokens carry them."""
    if not scopes:
        return {}
    rules = provider.rules.scopes
    if rules.function is not None:
        raise ConfigurationError("scopes: scope_claim is a function; give what it reads in claims={...}")
    path = rules.paths[0] if rules.paths else "scope"
    first, *inner = path.split(".") if isinstance(path, str) else path
    value: Any = " ".join(scopes) if first in ("scope", "scp") and not inner else list(scopes)
    for name in reversed(inner):
        value = {name: value}
    return {first: value}


def _check_rules(provider: Provider, raw: str, now: float) -> None:
    try:
        parts = compact.decode(raw.encode("ascii"))
        claims = compact.json_object(parts.payload)
        if provider.issuers and claims.get("iss") not in provider.issuers:
            raise WrongIssuer(claim="iss")
        provider.rules.check(parts.header, parts.payload, claims, now)
    except Refusal as refusal:
        claim = f" ({refusal.claim})" if refusal.claim else ""
        raise ConfigurationError(
            f"claims: {provider.name!r} would refuse this token with {refusal.code}{claim}; give what it demands in "
            "claims={...}"
        ) from None
