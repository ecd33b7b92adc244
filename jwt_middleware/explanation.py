"""Why was this token refused, and what would pass? For operators: it shows what the token says. Pure.

The verdict itself is the verifier's. The files in ``explaining/`` only find words for it, by code: see
``explaining/words.py``. They read loosely and never decide.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from .errors import Refusal
from .explaining.case import Case, ProviderFacts
from .explaining.loose import LooseToken, list_facts
from .explaining.words import find_words
from .verifying.token import Token

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

ENDPOINT: Final = ("endpoint", "the endpoint's requirements are met")
"""The decision after these, which is not about the token alone."""

Outcome: TypeAlias = Literal["passed", "stopped", "not reached", "not checked"]


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
    """A sentence or two about what is wrong."""
    cure: str
    """What would pass. Empty for a good token."""
    verified: Token | None
    """The token, if the verifier accepted it, whatever an endpoint says of it."""
    facts: tuple[tuple[str, str], ...]
    """What the token says, verified or not: names and values."""

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        verified = self.verified
        return {
            "code": self.code,
            "cause": self.cause,
            "cure": self.cure,
            "verified": None if verified is None else {name: getattr(verified, name) for name in _SEEN},
            "steps": [{"name": step.name, "outcome": step.outcome} for step in self.steps],
            "token": dict(self.facts),
        }


def explain(
    token: LooseToken,
    refusal: Refusal | None,
    providers: Sequence[ProviderFacts],
    now: float,
    *,
    max_token_size: int,
    unchecked: Collection[str] = (),
    verified: Token | None = None,
) -> Explanation:
    """Explain the verdict on ``token``: ``refusal``, or None if it was accepted.

    ``now`` is the Unix time of the verdict, ``unchecked`` names the steps that were left out. ``verified`` is the token
    that the verifier accepted, if it did: an endpoint may still refuse it.
    """
    facts = tuple(list_facts(token, now))
    if refusal is None:
        return Explanation("accepted", _steps(None, unchecked), "The token is good.", "", verified, facts)
    at = _STEP_OF.get(refusal.code, "claims")
    if at == "claims" and refusal.code in ("missing_claim", "invalid_claim") and refusal.claim == "iss":
        at = "provider"
    if refusal.code == "invalid_claim" and refusal.claim is None:
        at = "validate"
    asked = [provider for provider in providers if provider.name == refusal.provider] or list(providers)
    case = Case(token, token.header or {}, token.claims or {}, refusal, asked, list(providers), now, max_token_size)
    cause, cure = find_words(case)
    return Explanation(refusal.code, _steps(at, unchecked), cause, cure, verified, facts)


def _steps(stopped_at: str | None, unchecked: Collection[str]) -> tuple[Step, ...]:
    # The list has no steps for what happens before the token is looked at.
    is_over = stopped_at == "presented"
    steps: list[Step] = []
    for name, asks in STEPS if stopped_at != ENDPOINT[0] else (*STEPS, ENDPOINT):
        outcome: Outcome = "not reached" if is_over else "not checked" if name in unchecked else "passed"
        if name == stopped_at:
            outcome, is_over = "stopped", True
        steps.append(Step(name, asks, outcome))
    return tuple(steps)


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

_SEEN: Final = ("provider", "subject", "scopes")
