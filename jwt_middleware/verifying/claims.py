"""Which claims make a token good at a given moment? Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from .._support.listing import list_names
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
from .compact import Header, json_again
from .scopes import ScopeRules, follow
from .token import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """What a provider demands of its tokens. Durations are seconds."""

    provider: str
    audiences: frozenset[str] | None
    """None accepts tokens for any audience, and tokens without one."""
    leeway: float = 5.0
    """A float, as the clock returns one: numbers of one type compare at half the cost."""
    max_token_age: float | None = None
    types: frozenset[str] | None = None
    """As ``media_type`` gives them. None allows any type."""
    required_claims: tuple[str, ...] = ()
    subject_claim: str | None = "sub"
    """None if these tokens have no subject."""
    audience_claim: str = "aud"
    scopes: ScopeRules = field(default_factory=ScopeRules)
    accept_cnf: frozenset[str] | None = frozenset()
    """The methods of confirmation that are accepted. None if a check decides about each request."""
    allow_id_tokens: bool = False

    def check(
        self, header: Header, payload: bytes, claims: dict[str, Any], now: float, confirms: frozenset[str] = frozenset()
    ) -> tuple[float, Facts]:
        """Check the claims of a token whose signature is good, at ``now`` (Unix time).

        Returns the time from which the token is good, leeway included, and its facts, which hold the time of its end.
        Both are remembered: a token that is seen again is held to these two times, and to no other claim.
        ``confirms`` are the methods of confirmation that the token's authentication scheme checks itself. Bearer checks
        none.

        1. Registered claims have the types of RFC 7519 section 4.1: ``InvalidClaim``. A claim that is null is absent,
           and an integer ``sub`` is its decimal text.
        2. ``exp`` and every required claim are there: ``MissingClaim``.
        3. ``typ`` is an expected one (RFC 8725 3.11), and this is not an ID token or a refresh token: ``WrongType``.
        4. ``aud`` names one of the audiences (RFC 7519 4.1.3), and so does ``audience_claim``: ``WrongAudience``.
        5. ``cnf`` is absent or accepted (RFC 7800, RFC 9449 7.1): ``SenderConstrained``.
        6. The subject is there, and the scopes can be read: ``MissingClaim``, ``InvalidClaim``.
        7. The time is right: ``Expired``, ``TooOld``, ``NotYetValid``.
        """
        as_written = claims
        if None in claims.values():
            claims = {name: value for name, value in claims.items() if value is not None}
        get = claims.get
        # 1. Types. The usual types are checked in place, because calls would be much of the cost. Comparing classes
        # narrows nothing for pyright.
        exp, iat = get("exp"), get("iat")
        if not (exp.__class__ is int and iat.__class__ is int and 0 <= iat <= exp < _HIGHEST):  # pyright: ignore
            exp, iat = _numeric_date(claims, "exp"), _numeric_date(claims, "iat")
        nbf = _numeric_date(claims, "nbf") if "nbf" in claims else None
        issuer, subject, id = get("iss"), get("sub"), get("jti")
        if issuer.__class__ is not str:
            _check_text(claims, "iss")
        if subject.__class__ is not str and subject is not None:
            subject = str(subject) if type(subject) is int and _LOWEST <= subject < 2 * _HIGHEST else None
            if subject is None:
                raise _wrong_type(claims["sub"], "sub", "a text")
        if id.__class__ is not str:
            _check_text(claims, "jti")
        audience = get("aud", [])
        audience = (audience,) if audience.__class__ is str else _audiences(audience, "aud")
        # 2. Required claims.
        if exp is None:
            raise MissingClaim(claim="exp")
        for name in self.required_claims:
            if get(name) is None:
                raise MissingClaim(claim=name)
        # 3. Type of the token.
        if self.types is not None and media_type(header.typ) not in self.types:
            raise WrongType(expected=list_names(self.types), found=header.typ or "no typ")
        if not (self.allow_id_tokens or _TELLTALES.isdisjoint(claims)):
            _check_not_for_clients(claims)
        # 4. Audience.
        if self.audiences is not None:
            if self.audience_claim != "aud":
                self._check_audience_claim(claims)
            elif not audience:
                raise MissingClaim(claim="aud", expected=list_names(self.audiences), found=_find_client(claims))
            if self.audiences.isdisjoint(audience) and (self.audience_claim == "aud" or "aud" in claims):
                raise self._wrong_audience("aud", audience, claims)
        # 5. Confirmation.
        confirmation = self._check_confirmation(claims["cnf"], confirms) if "cnf" in claims else ()
        # 6. Subject and scopes.
        if self.subject_claim != "sub":
            subject = self._demand_subject(claims)
        elif not subject:
            raise (MissingClaim if subject is None else InvalidClaim)(claim="sub")
        scopes = get("scope") if self.scopes.is_standard else None
        if scopes.__class__ is not str:
            scopes = self.scopes.read(as_written, partial(json_again, payload))
        # 7. Time. RFC 7519 section 2 allows fractions of a second; PyJWT cuts them off.
        exp = int(exp)
        good_from, good_until = self._good_times(exp, nbf, iat, now)
        session_id = get("sid")
        if session_id.__class__ is not str:
            session_id = None
        # In the order of ``Facts``.
        return good_from, (
            self.provider,
            header.json,
            payload,
            header.kid,
            subject,
            scopes,  # pyright: ignore[reportReturnType]  # Comparing a class narrows nothing.
            id,
            session_id,
            issuer,
            exp,
            good_until,
            confirmation,
        )

    def _check_audience_claim(self, claims: dict[str, Any]) -> None:
        """Check the claim that stands for ``aud``. A token that also has ``aud`` is still held to it."""
        assert self.audiences is not None
        named = follow(claims, self.audience_claim)
        if named is None:
            raise MissingClaim(claim=self.audience_claim, expected=list_names(self.audiences))
        audience = _audiences(named, self.audience_claim)
        if self.audiences.isdisjoint(audience):
            raise self._wrong_audience(self.audience_claim, audience, claims)

    def _wrong_audience(self, claim: str, audience: Iterable[str], claims: Mapping[str, Any]) -> WrongAudience:
        what = ", in what looks like an ID token" if looks_like_id_token(claims) else ""
        return WrongAudience(
            claim=claim, expected=list_names(self.audiences or ()), found=f"{list_names(audience)}{what}"
        )

    def _check_confirmation(self, cnf: object, confirms: frozenset[str]) -> tuple[str, ...]:
        """Return the methods by which the token is bound to its sender."""
        if not isinstance(cnf, dict):
            raise _wrong_type(cnf, "cnf", "an object")
        methods = tuple(cnf)
        if self.accept_cnf is not None:
            accepted = confirms | self.accept_cnf
            if not (methods and accepted.issuperset(methods)):
                raise SenderConstrained(
                    claim="cnf", expected=list_names(accepted) or "no cnf", found=list_names(methods)
                )
        return methods

    def _good_times(self, exp: int, nbf: float | None, iat: float | None, now: float) -> tuple[float, float]:
        """The times from which and until which the token is good. Raises a ``Refusal`` if ``now`` lies outside."""
        leeway = self.leeway
        # RFC 7519 4.1.4: on or after `exp` the token MUST NOT be accepted.
        good_until = exp + leeway
        if now >= good_until:
            raise Expired(claim="exp", seconds_off=now - exp)
        good_from = _ALWAYS
        if nbf is not None:
            good_from = nbf - leeway
            if now < good_from:
                raise _not_yet_valid("nbf", nbf, now)
        if iat is not None:
            issued_from = iat - leeway
            if now < issued_from:
                raise _not_yet_valid("iat", iat, now)
            if good_from < issued_from:
                good_from = issued_from
        if self.max_token_age is not None:
            if iat is None:
                raise MissingClaim(claim="iat", expected="iat for max_token_age")
            good_until = min(good_until, iat + self.max_token_age + leeway)
            if now >= good_until:
                raise TooOld(
                    claim="iat",
                    expected=f"{self.max_token_age:g} s at most",
                    found=f"{now - iat:.0f} s",
                    seconds_off=now - iat - self.max_token_age,
                )
        return good_from, good_until

    def login_age(self, claims: dict[str, Any], now: float) -> float | None:
        """Seconds since the login behind a token: the claim ``auth_time`` (OpenID Connect Core 1.0, section 2).

        None if it is missing, is not a number, or lies in the future by more than the leeway.
        """
        auth_time: Any = claims.get("auth_time")
        if type(auth_time) not in (int, float) or not _LOWEST < auth_time < _HIGHEST:
            return None
        age: float = now - auth_time
        return age if age >= -self.leeway else None

    def subject(self, claims: dict[str, Any]) -> str | None:
        """The subject of these claims, or None if they name none that can be read."""
        subject = None if self.subject_claim is None else follow(claims, self.subject_claim)
        # The databases of old issuers number their users. True and 4.0 are not such numbers.
        return str(subject) if isinstance(subject, str) or type(subject) is int else None

    def _demand_subject(self, claims: dict[str, Any]) -> str | None:
        """Return the text of the claim that stands for ``sub``. A token without a subject names no user."""
        if self.subject_claim is None:
            return None
        subject = self.subject(claims)
        if not subject:
            is_missing = follow(claims, self.subject_claim) is None
            raise (MissingClaim if is_missing else InvalidClaim)(claim=self.subject_claim)
        return subject


def media_type(typ: str) -> str:
    """``typ`` in the form for comparison: RFC 7515 4.1.9 lets ``application/`` be left out; case does not count."""
    typ = typ.lower()
    return typ.removeprefix("application/") if typ.count("/") == 1 else typ


def is_milliseconds(date: float) -> bool:
    """Whether ``date`` is too large for a number of seconds (RFC 7519 section 2), as JavaScript's ``Date.now()`` is."""
    return date > _YEAR_5138


def looks_like_id_token(claims: Mapping[str, Any]) -> bool:
    """Whether this is likely to be an ID token. Use it for texts only: a decision needs certainty."""
    # Amazon Cognito writes `token_use`, Keycloak a claim `typ`.
    is_named = claims.get("token_use") == "id" or claims.get("typ") == "ID"
    return is_named or "at_hash" in claims or ("nonce" in claims and "scope" not in claims)


def looks_like_refresh_token(typ: object, claims: Mapping[str, Any]) -> bool:
    """Whether this is likely to be a refresh token. ``typ`` is the header's. Use it for texts only."""
    if typ == "refresh+jwt" or claims.get("typ") in ("Refresh", "Offline"):  # this package; Keycloak
        return True
    return "refresh" in (claims.get("token_use"), claims.get("type"), claims.get("token_type"))


CLIENT_CLAIMS = ("client_id", "azp")
"""Claims that name the client of a token."""

_YEAR_5138 = 100_000_000_000
_ALWAYS = -inf

# A range beyond any clock, and beyond what issuers write for "never". Within it, no arithmetic overflows.
_LOWEST, _HIGHEST = -(2**63), 2**63


def _numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    date: float | None = claims.get(name)
    # To isinstance, a bool is an int; but it is not a date.
    if (type(date) is int or type(date) is float) and _LOWEST < date < _HIGHEST:
        return date
    if name in claims:
        raise _wrong_type(date, name, "a number of seconds")
    return None


def _not_yet_valid(claim: str, date: float, now: float) -> NotYetValid:
    found = "milliseconds instead of seconds" if is_milliseconds(date) else None
    return NotYetValid(claim=claim, found=found, seconds_off=date - now)


def _find_client(claims: Mapping[str, Any]) -> str | None:
    """The claim that names the client of a token without an audience, as Amazon Cognito and Clerk write it."""
    return next((f"{name}={claims[name]}" for name in CLIENT_CLAIMS if isinstance(claims.get(name), str)), None)


def _check_text(claims: Mapping[str, Any], name: str) -> None:
    value = claims.get(name, "")
    if not isinstance(value, str):
        raise _wrong_type(value, name, "a text")


def _audiences(audience: object, claim: str) -> list[str]:
    several = [audience] if isinstance(audience, str) else audience
    if isinstance(several, list) and all(isinstance(entry, str) for entry in several):
        return several
    raise _wrong_type(audience, claim, "a text or a list of texts")


def _wrong_type(value: object, claim: str, expected: str) -> InvalidClaim:
    """The refusal of a claim whose type or range is wrong. It tells the operator which claim, but not its value."""
    return InvalidClaim(claim=claim, expected=expected, found=_TYPES.get(type(value), "another number"))


_TYPES: Mapping[type, str] = {str: "a text", bool: "a boolean", list: "a list", dict: "an object"}


_TELLTALES = frozenset(("token_use", "type", "token_type", "at_hash"))


def _check_not_for_clients(claims: Mapping[str, Any]) -> None:
    """Refuse a token that is certainly an ID token, or another library's refresh token: neither is for an API."""
    # Amazon Cognito writes `token_use`, flask-jwt-extended `type`, djangorestframework-simplejwt `token_type`. OpenID
    # Connect Core (2, 3.1.3.6): `nonce` is about the login, `at_hash` about the access token beside an ID token.
    if claims.get("token_use") == "id" or ("nonce" in claims and "at_hash" in claims):
        raise WrongType(expected="an access token", found="an ID token")
    if "refresh" in (claims.get("type"), claims.get("token_type")):
        raise WrongType(expected="an access token", found="a refresh token")
