"""Which claims make a token good at a given moment? Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from ..errors import (
    Expired,
    InvalidClaim,
    MissingClaim,
    NotYetValid,
    SenderConstrained,
    TooOld,
    WrongAudience,
    WrongType,
)
from .compact import Header
from .token import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """What a provider demands of its tokens. Durations are seconds."""

    provider: str
    audiences: frozenset[str] | None
    """None: any audience, or none at all."""
    leeway: float = 5.0
    """A float, as the clock returns one: numbers of one type compare at half the cost."""
    max_token_age: float | None = None
    types: frozenset[str] | None = None
    """As ``media_type`` gives them. None: any type."""
    required_claims: tuple[str, ...] = ()
    subject_claim: str = "sub"
    scope_claim: str | None = None
    """None: ``scope``, else ``scp``."""

    def check(self, header: Header, payload: bytes, claims: dict[str, Any], now: float) -> tuple[float, Facts]:
        """Check the claims of a token whose signature is good, at ``now`` (Unix time).

        Returns from when on the token is good, leeway included, and its facts, which say until when.

        1. Registered claims have the types of RFC 7519 section 4.1: ``InvalidClaim``.
        2. ``exp`` and every required claim are there: ``MissingClaim``.
        3. ``typ`` is an expected one (RFC 8725 3.11): ``WrongType``.
        4. ``aud`` names one of the audiences (RFC 7519 4.1.3): ``WrongAudience``.
        5. ``cnf`` is absent (RFC 7800, RFC 9449 7.1): ``SenderConstrained``.
        6. Subject and scopes can be read: ``MissingClaim``, ``InvalidClaim``.
        7. The time is right: ``Expired``, ``TooOld``, ``NotYetValid``.
        """
        get = claims.get
        # 1. Types. What nearly every token has is checked in place, because calls are a good part of the cost.
        exp, iat, nbf = get("exp"), get("iat"), None
        if type(exp) is not int or not _LOWEST < exp < _HIGHEST:
            exp = _numeric_date(claims, "exp")
        if "nbf" in claims:
            nbf = _numeric_date(claims, "nbf")
        if type(iat) is not int or not _LOWEST < iat < _HIGHEST:
            iat = _numeric_date(claims, "iat")
        issuer, subject, id = get("iss"), get("sub"), get("jti")
        if type(issuer) is not str:
            _check_text(claims, "iss")
        if type(subject) is not str:
            _check_text(claims, "sub")
        if type(id) is not str:
            _check_text(claims, "jti")
        audience = get("aud", [])
        audience = (audience,) if type(audience) is str else _several_audiences(audience)
        # 2. Required claims.
        if exp is None:
            raise MissingClaim(claim="exp")
        for name in self.required_claims:
            if get(name) is None:
                raise MissingClaim(claim=name)
        # 3. Type of the token.
        if self.types is not None and media_type(header.typ) not in self.types:
            raise WrongType(expected=_listed(self.types), found=header.typ or "no typ")
        # 4. Audience.
        if self.audiences is not None:
            if not audience:
                raise MissingClaim(claim="aud", expected=_listed(self.audiences))
            if self.audiences.isdisjoint(audience):
                raise WrongAudience(expected=_listed(self.audiences), found=_listed(audience))
        # 5. Confirmation.
        if "cnf" in claims:
            raise SenderConstrained if isinstance(claims["cnf"], dict) else InvalidClaim(claim="cnf")
        # 6. Subject and scopes.
        if self.subject_claim != "sub":
            subject = self._demanded_subject(claims)
        scopes = get("scope") if self.scope_claim is None else None
        if type(scopes) is not str:
            scopes = self._scopes(claims)
        # 7. Time. RFC 7519 section 2 allows fractions of a second; PyJWT cuts them off.
        exp = int(exp)
        good_from, good_until = self._good_times(exp, nbf, iat, now)
        session_id = get("sid")
        if type(session_id) is not str:
            session_id = None
        # In the order of ``Facts``.
        return good_from, (
            self.provider,
            header.json,
            payload,
            header.kid,
            subject,
            scopes,
            id,
            session_id,
            issuer,
            exp,
            good_until,
        )

    def _good_times(self, exp: int, nbf: float | None, iat: float | None, now: float) -> tuple[float, float]:
        """From when on and until when the token is good. Raises a ``Refusal`` if ``now`` lies outside."""
        leeway = self.leeway
        # RFC 7519 4.1.4: on or after `exp` the token MUST NOT be accepted.
        good_until = exp + leeway
        if now >= good_until:
            raise Expired(claim="exp", seconds_off=now - exp)
        good_from = -inf
        if nbf is not None:
            good_from = nbf - leeway
            if now < good_from:
                raise NotYetValid(claim="nbf", seconds_off=nbf - now)
        if iat is not None:
            issued_from = iat - leeway
            if now < issued_from:
                raise NotYetValid(claim="iat", seconds_off=iat - now)
            if good_from < issued_from:
                good_from = issued_from
        if self.max_token_age is not None:
            if iat is None:
                raise MissingClaim(claim="iat")
            good_until = min(good_until, iat + self.max_token_age + leeway)
            if now >= good_until:
                raise TooOld(claim="iat", seconds_off=now - iat - self.max_token_age)
        return good_from, good_until

    def login_age(self, claims: dict[str, Any], now: float) -> float | None:
        """Seconds since the login behind a token: the claim ``auth_time`` (OpenID Connect Core 1.0, section 2).

        None where it is missing, is no number, or lies in the future by more than the leeway.
        """
        auth_time: Any = claims.get("auth_time")
        if type(auth_time) not in (int, float) or not _LOWEST < auth_time < _HIGHEST:
            return None
        age: float = now - auth_time
        return age if age >= -self.leeway else None

    def subject(self, claims: dict[str, Any]) -> str | None:
        """Whom these claims speak of, if they say it in a way that can be read."""
        subject = _at(claims, self.subject_claim)
        # Outside RFC 7519's `sub`, the numbers of a database are common.
        if isinstance(subject, str) or (type(subject) is int and self.subject_claim != "sub"):
            return str(subject)
        return None

    def _demanded_subject(self, claims: dict[str, Any]) -> str:
        subject = self.subject(claims)
        if subject is None:
            missing = _at(claims, self.subject_claim) is None
            raise (MissingClaim if missing else InvalidClaim)(claim=self.subject_claim)
        return subject

    def _scopes(self, claims: dict[str, Any]) -> str | tuple[str, ...]:
        name = self.scope_claim or ("scope" if "scope" in claims else "scp")
        value = _at(claims, name) if "." in name else claims.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            # Only these two are lists of words (RFC 6749 3.3, RFC 8693 4.2). Elsewhere a space is part of a name, and
            # the role "admin read-only" must never become the role "admin".
            return value if name in _WORD_LISTS else tuple(filter(None, (value,)))
        if isinstance(value, list) and all(isinstance(scope, str) for scope in value):
            return tuple(value)
        raise InvalidClaim(claim=name)


def media_type(typ: str) -> str:
    """``typ`` in the one form that compares: RFC 7515 4.1.9 lets ``application/`` be left out, case does not count."""
    typ = typ.lower()
    return typ.removeprefix("application/") if typ.count("/") == 1 else typ


def _listed(values: Iterable[str]) -> str:
    several = sorted(values)
    return ", ".join(several[:_MAX_LISTED]) + (", ..." if len(several) > _MAX_LISTED else "")


_MAX_LISTED = 5
"""The number of values that a refusal tells the operator: more would only make the line longer."""


_WORD_LISTS = frozenset(("scope", "scp"))

# What clocks can say, and more than those who mean "never" write; within it, no arithmetic overflows.
_LOWEST, _HIGHEST = -(2**63), 2**63


def _numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    date: float | None = claims.get(name)
    # bool is an int to isinstance, and no date.
    if (type(date) is int or type(date) is float) and _LOWEST < date < _HIGHEST:
        return date
    if name in claims:
        raise InvalidClaim(claim=name)
    return None


def _check_text(claims: Mapping[str, Any], name: str) -> None:
    if not isinstance(claims.get(name, ""), str):
        raise InvalidClaim(claim=name)


def _several_audiences(audience: object) -> list[str]:
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
