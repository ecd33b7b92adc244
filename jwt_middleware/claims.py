"""Which claims make a token good at a given moment? Pure."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import (
    Expired,
    InvalidClaim,
    MissingClaim,
    NotYetValid,
    SenderConstrained,
    TooOld,
    WrongAudience,
    WrongType,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A verified token. The dicts are this request's own: changing them changes no other's."""

    header: dict[str, Any]
    claims: dict[str, Any]
    provider: str
    """The name of the provider whose keys verified it."""
    subject: str | None
    """Whom the token speaks of: the claim ``sub``, or the provider's ``subject_claim``."""
    scopes: tuple[str, ...]
    expires_at: int
    """Unix time, as the token says it: without leeway."""
    not_before: float | None
    issued_at: float | None

    @property
    def id(self) -> str | None:
        """The claim ``jti`` (RFC 7519 4.1.7)."""
        return self.claims.get("jti")

    @property
    def session(self) -> str | None:
        """The claim ``sid`` where it is a string: the login that the token belongs to."""
        sid = self.claims.get("sid")
        return sid if isinstance(sid, str) else None

    def __repr__(self) -> str:
        # The claims are the user's own affairs; a repr ends in logs.
        return f"Token(provider={self.provider!r}, subject={self.subject!r}, expires_at={self.expires_at!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """What a provider demands of its tokens. Durations are seconds."""

    provider: str
    audiences: frozenset[str] | None
    """None: any audience, or none at all."""
    leeway: float = 5
    max_token_age: float | None = None
    types: frozenset[str] | None = None
    """As ``media_type`` gives them. None: any type."""
    required_claims: tuple[str, ...] = ()
    subject_claim: str = "sub"
    scope_claim: str | None = None
    """None: ``scope``, else ``scp``."""

    def read(self, header: dict[str, Any], claims: dict[str, Any]) -> Token:
        """The token of a verified ``header`` and ``claims``, checked for all that time does not change.

        1. Registered claims are of the types that RFC 7519 section 4.1 gives them: ``InvalidClaim``.
        2. ``exp`` and what is required are there: ``MissingClaim``.
        3. ``typ`` is one that is expected (RFC 8725 3.11): ``WrongType``.
        4. ``aud`` names one of the audiences (RFC 7519 4.1.3): ``WrongAudience``.
        5. ``cnf`` is absent (RFC 7800, RFC 9449 7.1): ``SenderConstrained``.
        """
        for name in ("iss", "sub", "jti"):
            if not isinstance(claims.get(name, ""), str):
                raise InvalidClaim(claim=name)
        expires_at, not_before, issued_at = (_numeric_date(claims, name) for name in ("exp", "nbf", "iat"))
        audience = _audience(claims)
        if expires_at is None:
            raise MissingClaim(claim="exp")
        for name in self.required_claims:
            if claims.get(name) is None:
                raise MissingClaim(claim=name)
        if self.types is not None and media_type(header.get("typ", "")) not in self.types:
            raise WrongType
        if self.audiences is not None:
            if not audience:
                raise MissingClaim(claim="aud")
            if self.audiences.isdisjoint(audience):
                raise WrongAudience
        if "cnf" in claims:
            raise SenderConstrained if isinstance(claims["cnf"], dict) else InvalidClaim(claim="cnf")
        if self.max_token_age is not None and issued_at is None:
            raise MissingClaim(claim="iat")
        return Token(
            header=header,
            claims=claims,
            provider=self.provider,
            subject=self._subject(claims),
            scopes=self._scopes(claims),
            # A fraction of a second is cut off, as PyJWT does.
            expires_at=int(expires_at),
            not_before=not_before,
            issued_at=issued_at,
        )

    def check_time(self, token: Token, now: float) -> None:
        """Raise ``Expired``, ``NotYetValid`` or ``TooOld`` unless ``token`` is good at ``now`` (Unix time)."""
        # RFC 7519 4.1.4: on or after `exp` the token MUST NOT be accepted.
        if now >= token.expires_at + self.leeway:
            raise Expired(claim="exp")
        if token.not_before is not None and now < token.not_before - self.leeway:
            raise NotYetValid(claim="nbf")
        if token.issued_at is not None:
            if now < token.issued_at - self.leeway:
                raise NotYetValid(claim="iat")
            if self.max_token_age is not None and now >= token.issued_at + self.max_token_age + self.leeway:
                raise TooOld(claim="iat")

    def _subject(self, claims: dict[str, Any]) -> str | None:
        if self.subject_claim == "sub":
            return claims.get("sub")
        subject = _at(claims, self.subject_claim)
        if subject is None:
            raise MissingClaim(claim=self.subject_claim)
        # Outside RFC 7519's `sub`, the numbers of a database are common.
        if isinstance(subject, bool) or not isinstance(subject, str | int):
            raise InvalidClaim(claim=self.subject_claim)
        return str(subject)

    def _scopes(self, claims: dict[str, Any]) -> tuple[str, ...]:
        name = self.scope_claim or ("scope" if "scope" in claims else "scp")
        value = _at(claims, name)
        if value is None:
            return ()
        if isinstance(value, str):
            # RFC 6749 3.3: delimited by spaces, and by nothing else.
            return tuple(scope for scope in value.split(" ") if scope)
        if isinstance(value, list) and all(isinstance(scope, str) for scope in value):
            return tuple(value)
        raise InvalidClaim(claim=name)


def media_type(typ: str) -> str:
    """``typ`` in the one form that compares: RFC 7515 4.1.9 lets ``application/`` be left out, case does not count."""
    typ = typ.lower()
    return typ.removeprefix("application/") if typ.count("/") == 1 else typ


def is_scope(value: str) -> bool:
    """Whether ``value`` is one scope (RFC 6749 3.3): printable ASCII without spaces, quotes and backslashes."""
    return _SCOPE.fullmatch(value) is not None


_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")

# RFC 8259 section 6: the integers that every reader of JSON agrees on.
_LIMIT = 2**53


def _numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    # bool is an int to isinstance, and no date.
    if type(value) not in (int, float) or not -_LIMIT < value < _LIMIT:
        raise InvalidClaim(claim=name)
    date: float = value
    return date


def _audience(claims: Mapping[str, Any]) -> Collection[str]:
    audience = claims.get("aud", [])
    if isinstance(audience, str):
        return (audience,)
    if isinstance(audience, list) and all(isinstance(entry, str) for entry in audience):
        return audience
    raise InvalidClaim(claim="aud")


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim named ``path``, else what lies at the end of its dotted steps; None where nothing does."""
    if path in claims or "." not in path:
        return claims.get(path)
    value: Any = claims
    for step in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value
