"""Why was this token refused, and what would pass? For operators: it shows what the token says. Pure.

The verdict itself is the verifier's; this file only finds words for it. So it reads a token loosely, and never decides.
"""

import json
import re
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeGuard

from .errors import Refusal
from .keys.naming import doubt_secret
from .verifying.claims import CLIENT_CLAIMS, is_milliseconds, looks_like_id_token
from .verifying.misspelling import find_misspelling

STEPS: Final = (
    ("size", "the token is not too large"),
    ("form", "three segments of base64url that hold JSON"),
    ("provider", "a provider accepts its issuer"),
    ("key", "the provider has a key for it"),
    ("signature", "the key verifies the signature"),
    ("claims", "the claims are good now"),
    ("revocation", "it is not revoked"),
    ("validate", "the app's own validate() accepts it"),
    ("user", "load_user() gives a user"),
)
"""The decisions about a token in their order, each with what it asks for."""

_STEP_OF: Final = {
    "token_too_large": "size",
    "malformed_token": "form",
    "encrypted_token": "form",
    "unknown_issuer": "provider",
    "wrong_issuer": "provider",
    "unknown_key": "key",
    "algorithm_not_allowed": "key",
    "keys_unavailable": "key",
    "bad_signature": "signature",
    "revoked": "revocation",
    "revocations_unavailable": "revocation",
    "user_refused": "user",
    "missing_token": "presented",
    "ambiguous_token": "presented",
    "cross_site": "presented",
    "insufficient_scope": "endpoint",
    "insufficient_user_authentication": "endpoint",
}

Outcome: TypeAlias = Literal["passed", "stopped", "not reached", "not checked"]


class Rules(Protocol):
    """What this file reads of a provider's rules."""

    @property
    def audiences(self) -> Collection[str] | None: ...
    @property
    def leeway(self) -> float: ...
    @property
    def max_token_age(self) -> float | None: ...
    @property
    def types(self) -> Collection[str] | None: ...


class Key(Protocol):
    """What this file reads of a key."""

    @property
    def kid(self) -> str | None: ...
    @property
    def algorithms(self) -> tuple[str, ...]: ...
    @property
    def material(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """A provider as far as an explanation needs it."""

    name: str
    issuers: tuple[str, ...]
    rules: Rules
    keys: tuple[Key, ...]
    error: str | None = None
    """Why its keys could not be fetched."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision about the token."""

    name: str
    asks: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the verifier stopped, why, and what would pass."""

    code: str
    """The refusal's code; ``accepted`` for a good token."""
    steps: tuple[Step, ...]
    cause: str
    """What is wrong, in a sentence or two."""
    cure: str
    """What would pass. Empty for a good token."""
    facts: tuple[tuple[str, str], ...]
    """What the token says, verified or not: names and values."""

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {
            "code": self.code,
            "cause": self.cause,
            "cure": self.cure,
            "steps": [{"name": step.name, "outcome": step.outcome} for step in self.steps],
            "token": dict(self.facts),
        }


@dataclass(frozen=True, slots=True, repr=False)
class LooseToken:
    """What can be read of a text that should be a token. It has no repr, because that would show the text."""

    text: str = field(repr=False)
    """Without the white space around it."""
    header: dict[str, Any] | None
    claims: dict[str, Any] | None


def read_loosely(text: str) -> LooseToken:
    """What can be read of ``text``, however badly it is spelled; nothing is verified."""
    text = text.strip()
    segments = re.sub(r"\s", "", text.removeprefix("Bearer ").strip("\"'")).split(".")
    header = _object(segments[0])
    claims = _object(segments[1]) if len(segments) > 1 else None
    return LooseToken(text, header, claims)


def explain(
    token: LooseToken,
    refusal: Refusal | None,
    providers: Sequence[ProviderFacts],
    now: float,
    *,
    max_token_size: int,
    unchecked: Collection[str] = (),
) -> Explanation:
    """Words for what the verifier said of ``token``: ``refusal``, or None if it accepted the token.

    ``now`` is the Unix time of the verdict, ``unchecked`` names the steps that were left out.
    """
    facts = tuple(_facts(token, now))
    if refusal is None:
        steps = tuple(Step(name, asks, "not checked" if name in unchecked else "passed") for name, asks in STEPS)
        return Explanation("accepted", steps, "The token is good.", "", facts)
    at = _STEP_OF.get(refusal.code, "claims")
    if at == "claims" and refusal.code in ("missing_claim", "invalid_claim") and refusal.claim == "iss":
        at = "provider"
    if refusal.code == "invalid_claim" and refusal.claim is None:
        at = "validate"
    asked = [provider for provider in providers if provider.name == refusal.provider] or list(providers)
    case = _Case(token, token.header or {}, token.claims or {}, refusal, asked, list(providers), now, max_token_size)
    cause, cure = _WORDS.get(refusal.code, _other)(case)
    return Explanation(refusal.code, _steps(at), cause, cure, facts)


def in_words(seconds: float) -> str:
    """A duration as people say it: ``40 s``, ``12 min``, ``3 h``, ``5 days``."""
    seconds = abs(seconds)
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def moment_in_words(value: object, now: float) -> str:
    """A NumericDate (RFC 7519 section 2) as people read it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{value!r}, which is not a number"
    try:
        moment = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{value}, which is no date"
    return f"{moment} ({in_words(value - now)} {'from now' if value >= now else 'ago'})"


def _steps(stopped_at: str) -> tuple[Step, ...]:
    # The list has no steps for what happens before the token is looked at, nor for what comes after.
    if stopped_at == "endpoint":
        return tuple(Step(name, asks, "passed") for name, asks in STEPS)
    steps, outcome = [], "not reached" if stopped_at == "presented" else "passed"
    for name, asks in STEPS:
        if name == stopped_at:
            steps.append(Step(name, asks, "stopped"))
            outcome = "not reached"
        else:
            steps.append(Step(name, asks, "passed" if outcome == "passed" else "not reached"))
    return tuple(steps)


def _facts(token: LooseToken, now: float) -> Iterable[tuple[str, str]]:
    for name in ("alg", "kid", "typ"):
        if token.header is not None and name in token.header:
            yield name, _shown(token.header[name])
    for name, value in (token.claims or {}).items():
        if name in ("iss", "sub", "aud", "azp", "client_id", "scope", "scp", "token_use", "jti"):
            yield name, _shown(value)
        elif name in ("exp", "nbf", "iat", "auth_time"):
            yield name, moment_in_words(value, now)


@dataclass(frozen=True, slots=True, repr=False)
class _Case:
    token: LooseToken
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    refusal: Refusal
    asked: Sequence[ProviderFacts]
    """The provider that the refusal names, else all."""
    providers: Sequence[ProviderFacts]
    now: float
    max_token_size: int

    @property
    def rules(self) -> Rules:
        return self.asked[0].rules

    @property
    def keys(self) -> list[Key]:
        return [key for provider in self.asked for key in provider.keys]

    @property
    def algorithms(self) -> list[str]:
        return sorted({name for key in self.keys for name in key.algorithms})


_Words: TypeAlias = tuple[str, str]


def _too_large(case: _Case) -> _Words:
    size = len(case.token.text.encode("utf-8", "replace"))
    return (
        f"The token has {size} bytes; at most {case.max_token_size} are read.",
        f"Ask the provider for a smaller token (fewer groups or roles), or set max_token_size={size}.",
    )


def _malformed(case: _Case) -> _Words:
    misspelling = find_misspelling(case.token.text.encode("utf-8", "replace"))
    return f"This is no well-formed JSON Web Token: {misspelling.found}.", misspelling.cure


def _encrypted(case: _Case) -> _Words:
    return "The token is encrypted (five segments, RFC 7516).", "Turn encryption of access tokens off at the provider."


def _issuer(case: _Case) -> _Words:
    if case.refusal.code == "wrong_issuer" and str(case.refusal.expected).startswith("arn:"):
        return (
            f"The token's signer is {_shown(case.header.get('signer'))}; accepted here: {case.refusal.expected}.",
            "Set signer= to the ARN of the load balancer in front of this app. Another one's tokens are not for it.",
        )
    iss = case.claims.get("iss")
    known = [issuer for provider in case.providers for issuer in provider.issuers]
    cause = f"The token's issuer is {_shown(iss)}; accepted here: {_listed(known)}."
    if not isinstance(iss, str):
        return cause, "Ask the provider that is configured for a token, or leave issuer= out for tokens without one."
    for issuer in known:
        if issuer.rstrip("/") == iss.rstrip("/"):
            return f"{cause} They differ by a trailing slash.", f"Set issuer={iss!r}."
        if issuer.split("://")[-1] == iss.split("://")[-1]:
            return f"{cause} They differ by the scheme, http or https.", f"Set issuer={iss!r} if that is right."
        if issuer.removesuffix("/.well-known/openid-configuration").rstrip("/") == iss.rstrip("/"):
            return f"{cause} The setting is the address of its metadata.", f"Set issuer={iss!r}."
        if issuer.lower() == iss.lower():
            return f"{cause} They differ by case.", f"Set issuer={iss!r}."
    if iss.startswith("https://sts.windows.net/") and any("login.microsoftonline.com" in issuer for issuer in known):
        return (
            f"{cause} This is a version 1 token of Microsoft Entra ID.",
            "Set requestedAccessTokenVersion to 2 in the manifest of the API's app registration, or accept this "
            "issuer, too.",
        )
    if "{" in "".join(known):
        return cause, "Replace the placeholder in issuer= with the tenant's own id."
    if iss in ("accounts.google.com", "https://accounts.google.com"):
        return cause, 'Google uses two spellings: issuer=["https://accounts.google.com", "accounts.google.com"].'
    return cause, "Ask the provider that is configured for a token; or, if this one is to be accepted, add its issuer."


def _unknown_key(case: _Case) -> _Words:
    kid = case.header.get("kid")
    kids = sorted({key.kid for key in case.keys if key.kid is not None})
    return (
        f"No key has the token's kid {_shown(kid)}; there are {_listed(kids)}.",
        "The token may come from another environment or tenant, or from before a key was removed: get a new one. If "
        "the key is new, it is accepted once it is in the provider's JWK Set.",
    )


def _algorithm(case: _Case) -> _Words:
    algorithm, known = case.header.get("alg"), case.algorithms
    cause = f"The token is signed with {_shown(algorithm)}; the keys here verify {_listed(known)}."
    if str(algorithm).lower() == "none":
        return f"{cause} It has no signature at all.", "Only signed tokens are accepted."
    if str(algorithm).startswith("HS"):
        return cause, (
            "A secret signs this token, and the keys here are public: configure that secret as key=, or ask the "
            "provider to sign with its private key."
        )
    if known and all(name.startswith("HS") for name in known):
        return cause, (
            "A private key signs this token, and key= is a secret: configure the provider's public keys instead, with "
            "issuer= or jwks=."
        )
    return cause, "Have the issuer sign with one of these, or add the key that this token is signed with."


def _unavailable(case: _Case) -> _Words:
    errors = [f"{provider.name}: {provider.error}" for provider in case.asked if provider.error]
    return (
        f"There are no keys for this token at the moment. {'; '.join(errors) or 'They were not fetched yet.'}",
        "Check that this machine reaches the provider; tokens are accepted again when its keys are fetched.",
    )


def _signature(case: _Case) -> _Words:
    algorithm = str(case.header.get("alg"))
    cause = f"No key here verifies the {algorithm} signature."
    if case.token.text.endswith("."):
        return "The signature is missing: the token ends with a dot.", "Only signed tokens are accepted."
    if "nonce" in case.header and _is_microsoft(case.claims.get("iss")):
        return (
            f"{cause} A nonce in the header marks a token for Microsoft Graph: only Graph can verify it.",
            "Ask Entra ID for a token with a scope of your own API, such as api://CLIENT_ID/access.",
        )
    if algorithm.startswith("HS"):
        return cause, _secret_advice(case.keys)
    return cause, (
        "The token was changed, cut, or signed by another key: compare the configured key with the issuer's, and get "
        "a new token."
    )


def _secret_advice(keys: Sequence[Key]) -> str:
    doubts = [doubt_secret(key.material) for key in keys if isinstance(key.material, bytes)]
    doubt = next(filter(None, doubts), None)
    if doubt is None:
        return "The issuer uses another secret than the one configured, or the token was changed."
    if "white space" in doubt:
        return f"The configured secret {doubt}: did a file or a variable add it?"
    return (
        f"The configured secret {doubt}: did you mean its bytes? Then key=base64.b64decode(...). Otherwise the issuer "
        "uses another secret."
    )


def _expired(case: _Case) -> _Words:
    exp, leeway = case.claims.get("exp"), case.rules.leeway
    if not _is_number(exp):
        return "The token has expired.", "Get a new one."
    return (
        f"The token expired {in_words(case.now - exp)} ago; the leeway is {leeway:g} s.",
        "Get a new token. If it is new, compare the clocks of the issuer and of this machine.",
    )


def _not_yet_valid(case: _Case) -> _Words:
    claim = case.refusal.claim or "nbf"
    value, leeway = case.claims.get(claim), case.rules.leeway
    if not _is_number(value):
        return "The token is not valid yet.", "Compare the clocks of the issuer and of this machine."
    if is_milliseconds(value):
        return f"{claim!r} is {value}: these are milliseconds.", "The issuer must write seconds (RFC 7519 section 2)."
    return (
        f"{claim!r} lies {in_words(value - case.now)} in the future; the leeway is {leeway:g} s.",
        "Compare the clocks of the issuer and of this machine; a few seconds can be allowed with leeway=.",
    )


def _too_old(case: _Case) -> _Words:
    iat = case.claims.get("iat")
    age = f"{in_words(case.now - iat)} ago" if _is_number(iat) else "too long ago"
    return (
        f"The token was issued {age}; max_token_age is {case.rules.max_token_age or 0:g} s.",
        "Get a new token, or raise max_token_age.",
    )


def _audience(case: _Case) -> _Words:
    if "aud" not in case.claims and "signer" in case.header:
        client = _shown(case.header.get("client"))
        return (
            f"The load balancer's client is {client}; accepted here: {case.refusal.expected}.",
            "Set client= to the client id of the listener's rule for this app.",
        )
    found, expected = case.claims.get("aud"), sorted(case.rules.audiences or ())
    cause = f"The token is for the audience {_shown(found)}; accepted here: {_listed(expected)}."
    if looks_like_id_token(case.claims):
        return f"{cause} It looks like an ID token, which is for the client that logged the user in.", _ASK_FOR_ACCESS
    names = [found] if isinstance(found, str) else [name for name in found or () if isinstance(name, str)]
    for name in names:
        for audience in expected:
            if name.rstrip("/") == audience.rstrip("/"):
                return f"{cause} They differ by a trailing slash.", f"Set audience={name!r}."
            if name.removeprefix("api://") == audience.removeprefix("api://"):
                return f"{cause} They differ by 'api://'.", f"Set audience=[{audience!r}, {name!r}]."
    if "account" in names:
        return cause, "Keycloak writes 'account' unless told otherwise: add an audience mapper to the client scope."
    if "00000003-0000-0000-c000-000000000000" in names or "https://graph.microsoft.com" in names:
        return f"{cause} That is Microsoft Graph.", "Ask Entra ID for a token with a scope of your own API."
    return cause, (
        f"Ask the provider for a token for {_listed(expected)}; or, if this one is meant for this service, set "
        f"audience={names[0] if names else '...'!r}."
    )


_ASK_FOR_ACCESS = "Send the access token instead; ask the provider for one with this API's audience or scope."


def _type(case: _Case) -> _Words:
    types = case.rules.types
    if looks_like_id_token(case.claims):
        return "This is an ID token, which tells a client who logged in; it is no access token.", _ASK_FOR_ACCESS
    if case.claims.get("token_use") == "refresh" or "refresh" in (
        case.claims.get("type"),
        case.claims.get("token_type"),
    ):
        return "This is a refresh token.", "Send the access token instead."
    return (
        f"The header's typ is {_shown(case.header.get('typ'))}; accepted here: {_listed(sorted(types or ()))}.",
        "Send an access token, or change token_type= to what this provider writes.",
    )


def _missing_claim(case: _Case) -> _Words:
    claim = case.refusal.claim
    if claim == "iss":
        return _issuer(case)
    if claim == "aud":
        other = next((name for name in CLIENT_CLAIMS if isinstance(case.claims.get(name), str)), None)
        expected = _listed(sorted(case.rules.audiences or ()))
        if other is not None:
            return (
                f"The token has no aud; it names its client in {other!r}: {_shown(case.claims[other])}.",
                f"Amazon Cognito and Clerk do so: set audience_claim={other!r} and audience= to the client's id.",
            )
        return f"The token has no aud; accepted here: {expected}.", (
            "Have the provider set the audience; or audience=ANY, only where its keys sign for nothing else."
        )
    if claim == "exp":
        return "The token never expires: it has no exp.", "Have the issuer set it; tokens without it are refused."
    if claim == "sub":
        return "The token names no subject.", (
            "Have the issuer set sub, name another claim with subject_claim=, or say subject_claim=None for tokens "
            "without a user."
        )
    if claim == "iat":
        return "The token has no iat, which max_token_age needs.", "Have the issuer set it, or drop max_token_age."
    return f"The claim {claim!r} is missing.", "Have the issuer set it, or remove it from the settings."


def _invalid_claim(case: _Case) -> _Words:
    claim = case.refusal.claim
    if claim is None:
        return "The provider's validate() did not return True.", "Look at what it checks."
    if claim == "iss":
        return _issuer(case)
    value = case.claims.get(claim)
    if claim in ("exp", "nbf", "iat"):
        return f"{claim!r} is {_shown(value)}, not a number of seconds.", "The issuer must write a JSON number."
    if claim == "sub" and value == "":
        return "The token's subject is empty.", "Have the issuer set sub."
    return f"The claim {claim!r} cannot be read: {_shown(value)}.", "Have the issuer write it as RFC 7519 4.1 says."


def _sender_constrained(case: _Case) -> _Words:
    cnf = case.claims.get("cnf")
    names = sorted(cnf) if isinstance(cnf, dict) else []
    return (
        f"The token is bound to its sender (cnf: {_listed(names)}) and is no plain Bearer token.",
        "Turn the binding off at the provider; or accept_cnf=, where something in front of this service checks it.",
    )


def _revoked(case: _Case) -> _Words:
    return "The token, or the session that it belongs to, was revoked.", "Log in again."


def _revocations(case: _Case) -> _Words:
    return (
        "Whether the token is revoked cannot be told: the store is unavailable.",
        "Check the session store; tokens are accepted again when it can be read.",
    )


def _user(case: _Case) -> _Words:
    return "load_user() gave no user for this token.", "Look for the user in the app's own database."


def _missing(case: _Case) -> _Words:
    return "The request carries no token where one is looked for.", "Send it as Authorization: Bearer <token>."


def _ambiguous(case: _Case) -> _Words:
    return "The request carries more than one token.", "Send one Authorization header, and no other token beside it."


def _cross_site(case: _Case) -> _Words:
    return "The token came in a cookie, and the request from a page of another origin.", (
        "Name the page's origin in origins=, or send the token in the Authorization header."
    )


def _scope(case: _Case) -> _Words:
    return (
        f"The endpoint needs {case.refusal.expected}; the token grants {case.refusal.found or 'nothing'}.",
        "Ask the provider for these scopes; if the token has them under another name, set scope_claim=.",
    )


def _login(case: _Case) -> _Words:
    return "The login behind the token is too weak, or too long ago (RFC 9470).", "Log in again as the challenge says."


def _other(case: _Case) -> _Words:
    return case.refusal.description, "The app's own code refused it: look there."


_WORDS: Final[dict[str, Callable[[_Case], _Words]]] = {
    "token_too_large": _too_large,
    "malformed_token": _malformed,
    "encrypted_token": _encrypted,
    "unknown_issuer": _issuer,
    "wrong_issuer": _issuer,
    "unknown_key": _unknown_key,
    "algorithm_not_allowed": _algorithm,
    "keys_unavailable": _unavailable,
    "bad_signature": _signature,
    "expired": _expired,
    "not_yet_valid": _not_yet_valid,
    "too_old": _too_old,
    "wrong_audience": _audience,
    "wrong_type": _type,
    "missing_claim": _missing_claim,
    "invalid_claim": _invalid_claim,
    "sender_constrained": _sender_constrained,
    "revoked": _revoked,
    "revocations_unavailable": _revocations,
    "user_refused": _user,
    "missing_token": _missing,
    "ambiguous_token": _ambiguous,
    "cross_site": _cross_site,
    "insufficient_scope": _scope,
    "insufficient_user_authentication": _login,
}


def _is_microsoft(iss: object) -> bool:
    return isinstance(iss, str) and ("sts.windows.net" in iss or "login.microsoftonline.com" in iss)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _listed(names: Iterable[str]) -> str:
    several = [repr(name) for name in names]
    return ", ".join(several[:8]) + (", ..." if len(several) > 8 else "") if several else "none"


def _object(segment: str) -> dict[str, Any] | None:
    padded = segment.rstrip("=") + "=" * (-len(segment.rstrip("=")) % 4)
    decode = b64decode if "+" in segment or "/" in segment else urlsafe_b64decode
    try:
        value = json.loads(decode(padded))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
