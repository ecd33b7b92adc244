"""Which claims make a token good at a given moment? Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

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


class Facts(NamedTuple):
    """What is the same for every request with one token."""

    provider: str
    header: bytes
    payload: bytes
    kid: str | None
    subject: str | None
    scopes: str | tuple[str, ...]
    """As one string with spaces, where the token has them so: most requests never ask."""
    id: str | None
    session_id: str | None
    expires_at: int


# The places in a plain tuple of the same: a named one is what the garbage collector never leaves alone.
_PROVIDER, _HEADER, _PAYLOAD, _KID, _SUBJECT, _SCOPES, _ID, _SESSION_ID, _EXPIRES_AT = range(len(Facts._fields))


class Token:
    """A verified token, as one request sees it."""

    # Defaults of the class, not set for each request: most never ask.
    _claims: dict[str, Any] | None = None
    _header: dict[str, Any] | None = None

    def __init__(self, facts: tuple[Any, ...]) -> None:
        self._facts = facts

    def __repr__(self) -> str:
        # The claims are the user's own affairs; a repr ends in logs.
        return f"Token(provider={self.provider!r}, subject={self.subject!r}, expires_at={self.expires_at!r})"

    @property
    def claims(self) -> dict[str, Any]:
        """All claims. The dict is this request's own: changing it changes no other's."""
        if self._claims is None:
            self._claims = json_again(self._facts[_PAYLOAD])
        return self._claims

    @property
    def header(self) -> dict[str, Any]:
        """The JOSE header, this request's own as well."""
        if self._header is None:
            self._header = json_again(self._facts[_HEADER])
        return self._header

    @property
    def provider(self) -> str:
        """The name of the provider whose keys verified it."""
        provider: str = self._facts[_PROVIDER]
        return provider

    @property
    def kid(self) -> str | None:
        """The header's ``kid`` (RFC 7515 4.1.4)."""
        kid: str | None = self._facts[_KID]
        return kid

    @property
    def subject(self) -> str | None:
        """Whom the token speaks of: the claim ``sub``, or the provider's ``subject_claim``."""
        subject: str | None = self._facts[_SUBJECT]
        return subject

    @property
    def scopes(self) -> tuple[str, ...]:
        """What the token allows: the claim ``scope``, or ``scp``, or the provider's ``scope_claim``."""
        scopes: str | tuple[str, ...] = self._facts[_SCOPES]
        # RFC 6749 3.3: delimited by spaces, and by nothing else.
        return tuple(filter(None, scopes.split(" "))) if isinstance(scopes, str) else scopes

    @property
    def id(self) -> str | None:
        """The claim ``jti`` (RFC 7519 4.1.7)."""
        id: str | None = self._facts[_ID]
        return id

    @property
    def session_id(self) -> str | None:
        """The claim ``sid`` where it is a string: the login that the token belongs to."""
        session_id: str | None = self._facts[_SESSION_ID]
        return session_id

    @property
    def expires_at(self) -> int:
        """The claim ``exp``, Unix time, without leeway; a fraction of a second is cut off, as PyJWT does."""
        expires_at: int = self._facts[_EXPIRES_AT]
        return expires_at


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

    def read(self, header: Header, payload: bytes, claims: dict[str, Any], now: float) -> tuple[Facts, float, float]:
        """As ``read_plainly``, with names."""
        facts, good_from, good_until = self.read_plainly(header, payload, claims, now)
        return Facts._make(facts), good_from, good_until

    def read_plainly(
        self, header: Header, payload: bytes, claims: dict[str, Any], now: float
    ) -> tuple[tuple[Any, ...], float, float]:
        """The facts of a token whose signature is good, if its claims are, at ``now`` (Unix time).

        Beside them stand two moments: from the first on, and before the second, the token is good; leeway is in both.

        1. Registered claims are of the types that RFC 7519 section 4.1 gives them: ``InvalidClaim``.
        2. ``exp`` and what is required are there: ``MissingClaim``.
        3. ``typ`` is one that is expected (RFC 8725 3.11): ``WrongType``.
        4. ``aud`` names one of the audiences (RFC 7519 4.1.3): ``WrongAudience``.
        5. ``cnf`` is absent (RFC 7800, RFC 9449 7.1): ``SenderConstrained``.
        6. Subject and scopes can be read: ``MissingClaim``, ``InvalidClaim``.
        7. The moment is right: ``Expired``, ``TooOld``, ``NotYetValid``.
        """
        get = claims.get
        # What nearly all tokens have is looked at in place, and whatever else by the functions below: calls are a good
        # part of what all of this costs.
        exp, iat, nbf = get("exp"), get("iat"), None
        if type(exp) is not int or not _LOWEST < exp < _HIGHEST:
            exp = _numeric_date(claims, "exp")
        if "nbf" in claims:
            nbf = _numeric_date(claims, "nbf")
        if type(iat) is not int or not _LOWEST < iat < _HIGHEST:
            iat = _numeric_date(claims, "iat")
        subject, id = get("sub"), get("jti")
        if type(get("iss")) is not str:
            _check_text(claims, "iss")
        if type(subject) is not str:
            _check_text(claims, "sub")
        if type(id) is not str:
            _check_text(claims, "jti")
        audience = get("aud", [])
        audience = (audience,) if type(audience) is str else _several_audiences(audience)
        if exp is None:
            raise MissingClaim(claim="exp")
        for name in self.required_claims:
            if get(name) is None:
                raise MissingClaim(claim=name)
        if self.types is not None and media_type(header.typ) not in self.types:
            raise WrongType
        if self.audiences is not None:
            if not audience:
                raise MissingClaim(claim="aud")
            if self.audiences.isdisjoint(audience):
                raise WrongAudience
        if "cnf" in claims:
            raise SenderConstrained if isinstance(claims["cnf"], dict) else InvalidClaim(claim="cnf")
        if self.subject_claim != "sub":
            subject = self._demanded_subject(claims)
        scopes = get("scope") if self.scope_claim is None else None
        if type(scopes) is not str:
            scopes = self._scopes(claims)
        good_from, good_until = self._good_times(int(exp), nbf, iat, now)
        session = get("sid")
        if not isinstance(session, str):
            session = None
        # In the order of ``Facts``.
        facts = (self.provider, header.json, payload, header.kid, subject, scopes, id, session, int(exp))
        return facts, good_from, good_until

    def _good_times(self, exp: int, nbf: float | None, iat: float | None, now: float) -> tuple[float, float]:
        """From when on, and before when, the token is good; raises a ``Refusal`` where ``now`` lies outside."""
        leeway = self.leeway
        # RFC 7519 4.1.4: on or after `exp` the token MUST NOT be accepted.
        good_until = exp + leeway
        if now >= good_until:
            raise Expired(claim="exp")
        good_from = -inf
        if nbf is not None:
            good_from = nbf - leeway
            if now < good_from:
                raise NotYetValid(claim="nbf")
        if iat is not None:
            issued_from = iat - leeway
            if now < issued_from:
                raise NotYetValid(claim="iat")
            if good_from < issued_from:
                good_from = issued_from
        if self.max_token_age is not None:
            if iat is None:
                raise MissingClaim(claim="iat")
            good_until = min(good_until, iat + self.max_token_age + leeway)
            if now >= good_until:
                raise TooOld(claim="iat")
        return good_from, good_until

    def good_until(self, exp: int, iat: float | None) -> float:
        """Before when a token with these claims is good, leeway included."""
        if self.max_token_age is None or iat is None:
            return exp + self.leeway
        return min(exp, iat + self.max_token_age) + self.leeway

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
