"""Which words explain a refusal? Those of its code. Pure."""

from collections.abc import Callable
from typing import Final

from ..verifying.claims import looks_like_refresh_token
from .about_claims import (
    explain_audience,
    explain_expired,
    explain_invalid_claim,
    explain_missing_claim,
    explain_not_yet_valid,
    explain_refresh_token,
    explain_sender_constrained,
    explain_too_old,
    explain_type,
)
from .about_keys import (
    explain_algorithm,
    explain_encrypted,
    explain_issuer,
    explain_malformed,
    explain_signature,
    explain_too_large,
    explain_unavailable,
    explain_unknown_key,
)
from .case import Case, Words, list_quoted


def find_words(case: Case) -> Words:
    """Return cause and cure of the refusal of ``case``."""
    # A refresh token has other keys and another audience, so several codes can be its own.
    if case.refusal.code in _OF_REFRESH_TOKENS and looks_like_refresh_token(case.header.get("typ"), case.claims):
        return explain_refresh_token(case)
    return _WORDS.get(case.refusal.code, _other)(case)


def _revoked(case: Case) -> Words:
    return "The token, or the session that it belongs to, was revoked.", "Log in again."


def _revocations(case: Case) -> Words:
    return (
        "The session store is unavailable, so it is unknown whether the token is revoked.",
        "Check the session store; tokens are accepted again when it can be read.",
    )


def _user(case: Case) -> Words:
    return "load_user() gave no user for this token.", "Look for the user in the app's own database."


def _missing(case: Case) -> Words:
    return "The request carries no token where one is looked for.", "Send it as Authorization: Bearer <token>."


def _ambiguous(case: Case) -> Words:
    return "The request carries more than one token.", "Send one Authorization header, and no other token beside it."


def _cross_site(case: Case) -> Words:
    return "The token came in a cookie, and the request from a page of another origin.", (
        "Name the page's origin in origins=, or send the token in the Authorization header."
    )


def _scope(case: Case) -> Words:
    cause = f"The endpoint needs {case.refusal.expected}; the token grants {case.refusal.found or 'nothing'}."
    allowed, needed = case.rules.scopes.may_grant, (case.refusal.expected or "").split(" ")
    forbidden = [name for name in needed if allowed is not None and name not in allowed]
    if forbidden:
        return cause, (
            f"Add {list_quoted(forbidden)} to may_grant of the provider {case.asked[0].name!r} if its tokens may grant "
            "that."
        )
    return cause, "Ask the provider for these scopes; if the token has them in another claim, set scope_claim=."


def _login(case: Case) -> Words:
    return "The login behind the token is too weak, or too long ago (RFC 9470).", "Log in again as the challenge says."


def _other(case: Case) -> Words:
    return case.refusal.description, "The app's own code refused it: look there."


_WORDS: Final[dict[str, Callable[[Case], Words]]] = {
    "token_too_large": explain_too_large,
    "malformed_token": explain_malformed,
    "encrypted_token": explain_encrypted,
    "unknown_issuer": explain_issuer,
    "wrong_issuer": explain_issuer,
    "unknown_key": explain_unknown_key,
    "algorithm_not_allowed": explain_algorithm,
    "keys_unavailable": explain_unavailable,
    "bad_signature": explain_signature,
    "expired": explain_expired,
    "not_yet_valid": explain_not_yet_valid,
    "too_old": explain_too_old,
    "wrong_audience": explain_audience,
    "wrong_type": explain_type,
    "missing_claim": explain_missing_claim,
    "invalid_claim": explain_invalid_claim,
    "sender_constrained": explain_sender_constrained,
    "revoked": _revoked,
    "revocations_unavailable": _revocations,
    "user_refused": _user,
    "missing_token": _missing,
    "ambiguous_token": _ambiguous,
    "cross_site": _cross_site,
    "insufficient_scope": _scope,
    "insufficient_user_authentication": _login,
}

_OF_REFRESH_TOKENS: Final = frozenset(
    {"unknown_key", "algorithm_not_allowed", "bad_signature", "wrong_audience", "wrong_type", "missing_claim"}
)
