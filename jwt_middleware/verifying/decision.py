"""Is a new token good, by one provider's keys and rules? And which refusal counts when several refuse? Pure."""

from collections.abc import Iterable
from typing import Any

from ..errors import AlgorithmNotAllowed, BadSignature, NotYetValid, Refusal, Unavailable, UnknownKey
from ..issuers import fits_issuer
from ..keys.key_set import KeySet
from .claims import ClaimRules, looks_like_refresh_token
from .compact import Compact, Header
from .token import Facts

MAX_NAMED = 3
"""The number of keys that a refusal names to the operator."""


def decide(
    compact: Compact,
    claims: dict[str, Any],
    keys: KeySet,
    rules: ClaimRules,
    now: float,
    max_checks: int,
    confirms: frozenset[str] = frozenset(),
) -> tuple[float, Facts]:
    """Return the time from which the token is good, and its facts, if ``keys`` verify it and ``rules`` accept it.

    ``now`` is Unix time. At most ``max_checks`` keys are tried. ``confirms`` is as for ``ClaimRules.check``. Raises
    ``BadSignature``, which says how many were tried, and what ``KeySet.find`` and ``ClaimRules.check`` raise.
    """
    header, payload, signing_input, signature = compact[1:]
    algorithm = header.algorithm
    found = keys.find(header.kid, algorithm)[:max_checks]
    for key in found:
        if key.issuer is not None and not fits_issuer(key.issuer, claims):
            continue
        if key.verifies(algorithm, signing_input, signature):
            return rules.check(header, payload, claims, now, confirms)
    # If earlier providers have used up the checks, no key was tried.
    names = " or ".join([key.name for key in found[:MAX_NAMED]])
    raise BadSignature(
        tried=len(found),
        expected=f"a signature by {names}" if names else None,
        found=_describe_signature(header, signature),
    )


def describe(refusal: Refusal, rules: ClaimRules, header: Header, claims: dict[str, Any]) -> Refusal:
    """Record provider and ``kid`` on ``refusal``, and the subject if the signature was good; return it."""
    refusal.provider, refusal.kid = rules.provider, header.kid
    if isinstance(refusal, AlgorithmNotAllowed):
        refusal.found = header.algorithm
    if isinstance(refusal, _BY_KEYS) and looks_like_refresh_token(header.typ, claims):
        found = "what looks like a refresh token"
        refusal.found = found if refusal.found is None else f"{refusal.found}, in {found}"
    if not isinstance(refusal, _UNVERIFIED):
        refusal.subject = rules.subject(claims)
    return refusal


def depends_on_keys(refusal: Refusal) -> bool:
    """Whether newer keys of the same provider could accept the token."""
    return isinstance(refusal, _BY_KEYS)


def is_temporary(refusal: Refusal) -> bool:
    """Whether the same provider could accept the same token a little later."""
    return isinstance(refusal, _TEMPORARY)


def last_word(refusals: Iterable[Refusal]) -> Refusal:
    """The refusal of the provider that got furthest, because its keys may have been the right ones."""
    return max(refusals, key=_progress)


def _describe_signature(header: Header, signature: bytes) -> str:
    if not signature:
        return "no signature"
    # A token for Microsoft Graph has a nonce in its header, and only Graph can verify it.
    nonce = ", and a nonce in the header" if b'"nonce"' in header.json else ""
    return f"another {header.algorithm} signature{nonce}"


_BY_KEYS = (UnknownKey, AlgorithmNotAllowed, BadSignature)

# The signature was not verified, so the claims may be forged: no subject is reported.
_UNVERIFIED = (*_BY_KEYS, Unavailable)

_TEMPORARY = (NotYetValid, Unavailable)


def _progress(refusal: Refusal) -> int:
    if isinstance(refusal, UnknownKey | AlgorithmNotAllowed):
        return 0
    if isinstance(refusal, BadSignature):
        return 1
    # Without the keys, the token may still be good. A bad claim under a good signature is conclusive.
    return 2 if isinstance(refusal, Unavailable) else 3
