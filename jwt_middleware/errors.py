"""What can be wrong with a request, and how does RFC 6750 say it? A class per answer. Pure.

Each class carries a stable ``code`` for logs and clients, the HTTP ``status``, the ``error`` of RFC 6750 section 3.1
and a fixed ``description``. An instance also carries details for the operator.
"""

import re
from collections.abc import Iterable
from typing import ClassVar, Protocol, Self, TypedDict, Unpack

DETAILS = frozenset(("provider", "kid", "subject", "claim", "expected", "found", "seconds_off", "tried"))
"""The attributes of a refusal that are for the operator alone."""


class ConfigurationError(ValueError):
    """An argument cannot work. It is raised at construction, and the message says what would work."""


class StoreUnavailable(Exception):
    """A store did not answer. It may or may not have done what it was asked to do. The call may be repeated."""


class Subject(Protocol):
    """The verified ``Token`` that a refusal is about."""

    @property
    def provider(self) -> str: ...
    @property
    def kid(self) -> str | None: ...
    @property
    def subject(self) -> str | None: ...


class Details(TypedDict, total=False):
    """What a refusal tells the operator. The client sees none of it."""

    provider: str | None
    kid: str | None
    subject: str | None
    claim: str | None
    expected: str | None
    found: str | None
    seconds_off: float | None
    tried: int


class Refusal(Exception):
    """A request is refused. This is the base of every class below.

    ``validate`` and ``load_user`` may raise any subclass, including the app's own.

    These attributes are for the operator and are not sent to the client by default. Each is None if it is not known:
    ``provider`` (str), the name of the provider that was asked; ``kid`` (str), as the token says it, verified or not;
    ``subject`` (str), only after a good signature; ``claim`` (str), the claim at fault; ``expected`` (str), what would
    have passed; ``found`` (str), what the token says instead; ``seconds_off`` (float), by how many seconds the token
    came too late or too early, without leeway. ``tried`` (int) is the number of keys that did not verify its signature.
    """

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 401
    error: ClassVar[str | None] = "invalid_token"
    description: ClassVar[str] = "The request was refused."
    challenge_scheme: ClassVar[str] = "Bearer"
    """The authentication scheme that the challenge names. Bearer stands for every scheme of the ``sources``."""

    # Defaults of the class: most refusals say nothing here, and each attribute costs time.
    provider: str | None = None
    kid: str | None = None
    subject: str | None = None
    claim: str | None = None
    expected: str | None = None
    found: str | None = None
    seconds_off: float | None = None
    tried: int = 0

    def __init__(self, **details: Unpack[Details]) -> None:
        if not details.keys() <= DETAILS:
            raise TypeError(f"{type(self).__name__}() knows no argument {', '.join(sorted(details.keys() - DETAILS))}")
        self.__dict__.update(details)

    def about(self, token: Subject) -> Self:
        """Say that this refusal is about ``token``, which is verified; return the refusal itself."""
        self.provider, self.kid, self.subject = token.provider, token.kid, token.subject
        return self

    def __str__(self) -> str:
        return f"{self.code}: {self.description}"

    @property
    def body(self) -> dict[str, str]:
        """The default response body: ``error``, ``error_description`` and ``code``."""
        return {"error": self.error or self.code, "error_description": self.description, "code": self.code}

    def headers(self, realm: str) -> list[tuple[str, str]]:
        """The headers that this answer needs, whatever its body: the challenge of RFC 6750 section 3."""
        challenge = ", ".join([f"{self.challenge_scheme} realm={quoted(realm)}", *self._challenge_parameters()])
        return [("www-authenticate", challenge)]

    def _challenge_parameters(self) -> Iterable[str]:
        if self.error is not None:
            yield f"error={quoted(self.error)}"
            yield f"error_description={quoted(self.description)}"


class MissingToken(Refusal):
    """RFC 6750 3.1: without authentication information no error code SHOULD be included."""

    code = "missing_token"
    error = None
    description = "This resource needs an access token: Authorization: Bearer <token>."


class InvalidRequest(Refusal):
    """RFC 6750 3.1: the request uses more than one method for including a token, or is otherwise malformed."""

    code = "invalid_request"
    status = 400
    error = "invalid_request"
    description = "The request is malformed."


class AmbiguousToken(InvalidRequest):
    code = "ambiguous_token"
    description = "The request carries more than one credential."


class TokenTooLarge(InvalidRequest):
    code = "token_too_large"
    description = "The access token is too large."

    @classmethod
    def measured(cls, size: int, max_size: int) -> Self:
        """The refusal of ``size`` bytes where at most ``max_size`` are read."""
        return cls(expected=f"{max_size} bytes at most", found=f"{size} bytes")


class InvalidToken(Refusal):
    """RFC 6750 3.1: the token is expired, revoked, malformed, or invalid for other reasons."""

    code = "invalid_token"
    description = "The access token is not valid."


class MalformedToken(InvalidToken):
    code = "malformed_token"
    description = "The access token is not a well-formed JSON Web Token."


class EncryptedToken(InvalidToken):
    code = "encrypted_token"
    description = "The access token is encrypted; only signed tokens are accepted."


class UnknownIssuer(InvalidToken):
    code = "unknown_issuer"
    description = "The access token comes from an issuer that is not accepted here."


class UnknownKey(InvalidToken):
    code = "unknown_key"
    description = "The access token names a key that is not known here."


class AlgorithmNotAllowed(InvalidToken):
    code = "algorithm_not_allowed"
    description = "The access token is signed with an algorithm that is not accepted here."


class BadSignature(InvalidToken):
    code = "bad_signature"
    description = "The signature of the access token does not verify."


class Expired(InvalidToken):
    code = "expired"
    description = "The access token has expired."


class NotYetValid(InvalidToken):
    code = "not_yet_valid"
    description = "The access token is not valid yet."


class TooOld(InvalidToken):
    code = "too_old"
    description = "The access token was issued too long ago."


class WrongIssuer(InvalidToken):
    code = "wrong_issuer"
    description = "The access token comes from another issuer."


class WrongAudience(InvalidToken):
    code = "wrong_audience"
    description = "The access token is meant for another audience."


class WrongType(InvalidToken):
    code = "wrong_type"
    description = "The token is of another type than an access token."


class MissingClaim(InvalidToken):
    code = "missing_claim"
    description = "The access token lacks a claim that is needed here."


class InvalidClaim(InvalidToken):
    code = "invalid_claim"
    description = "The access token has a claim that is not acceptable."


class SenderConstrained(InvalidToken):
    """RFC 9449 7.1, RFC 8705 3: a token that is bound to its sender must not be accepted as a plain Bearer token."""

    code = "sender_constrained"
    description = "The access token is bound to its sender and cannot be used as a Bearer token."


class Revoked(InvalidToken):
    code = "revoked"
    description = "The access token has been revoked."


class UserRefused(InvalidToken):
    code = "user_refused"
    description = "The user of the access token is not accepted."


class InsufficientScope(Refusal):
    """RFC 6750 3.1: the request requires higher privileges than the token provides.

    ``scopes`` are all that the request needs, because clients ask only for the scopes that are named. The challenge
    names those that it can spell.
    """

    code = "insufficient_scope"
    status = 403
    error = "insufficient_scope"
    description = "The access token lacks a scope that is needed here."

    def __init__(self, scopes: str | Iterable[str], **details: Unpack[Details]) -> None:
        super().__init__(**details)
        self.scopes = (scopes,) if isinstance(scopes, str) else tuple(scopes)

    def _challenge_parameters(self) -> Iterable[str]:
        yield from super()._challenge_parameters()
        yield from _scope_parameter(self.scopes)


class InsufficientUserAuthentication(Refusal):
    """RFC 9470 section 3: the login behind the token is too weak (``acr_values``) or too long ago (``max_age``).

    ``scopes`` are all that the request needs: a client that logs in again may ask for no others.
    """

    code = "insufficient_user_authentication"
    error = "insufficient_user_authentication"
    description = "A different or more recent login is needed here."

    def __init__(
        self,
        *,
        acr_values: Iterable[str] = (),
        max_age: int | None = None,
        scopes: Iterable[str] = (),
        **details: Unpack[Details],
    ) -> None:
        super().__init__(**details)
        self.scopes = tuple(scopes)
        self.acr_values = tuple(acr_values)
        self.max_age = max_age

    def _challenge_parameters(self) -> Iterable[str]:
        yield from super()._challenge_parameters()
        if self.acr_values:
            yield f"acr_values={quoted(' '.join(self.acr_values))}"
        if self.max_age is not None:
            yield f"max_age={quoted(str(self.max_age))}"
        yield from _scope_parameter(self.scopes)


OFFLINE_ACCESS = "offline_access"
"""The scope that asks for a refresh token (OpenID Connect Core 11). No resource needs it, so no challenge names it."""


def _scope_parameter(scopes: Iterable[str]) -> Iterable[str]:
    """The parameter that names those of ``scopes`` that a challenge can spell (RFC 6750 section 3)."""
    spelled = " ".join(scope for scope in scopes if is_scope(scope) and scope != OFFLINE_ACCESS)
    if spelled:
        yield f"scope={quoted(spelled)}"


class CrossSite(Refusal):
    """A request that a cookie would authenticate comes from another site."""

    code = "cross_site"
    status = 403
    error = None
    description = "The request comes from another site."

    def headers(self, realm: str) -> list[tuple[str, str]]:
        """No header: another token would not help."""
        return []


class Unavailable(Refusal):
    """RFC 9110 15.6.4: nothing is known against the token. A 401 would make clients throw away a good token."""

    code = "unavailable"
    status = 503
    error = None
    description = "The access token cannot be checked at the moment."

    def __init__(self, *, retry_after: int = 5, **details: Unpack[Details]) -> None:
        super().__init__(**details)
        self.retry_after = retry_after

    def headers(self, realm: str) -> list[tuple[str, str]]:
        """``Retry-After``, in seconds (RFC 9110 10.2.3)."""
        return [("retry-after", str(self.retry_after))]


class KeysUnavailable(Unavailable):
    code = "keys_unavailable"
    description = "The keys for this access token are temporarily unavailable."


class RevocationsUnavailable(Unavailable):
    code = "revocations_unavailable"
    description = "Revocations of access tokens are temporarily unavailable."


def is_scope(value: str) -> bool:
    """Whether ``value`` is one scope (RFC 6749 3.3): printable ASCII without spaces, quotes and backslashes."""
    return _SCOPE.fullmatch(value) is not None


_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


def quoted(value: str) -> str:
    """A quoted-string (RFC 9110 5.6.4) that nothing can break out of. Anything but printable ASCII becomes ``?``."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in value)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
