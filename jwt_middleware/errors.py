"""What can be wrong with a request, and how RFC 6750 says it. Pure.

A class per answer. Each carries a stable ``code`` for logs and clients, the HTTP ``status``, the ``error`` of
RFC 6750 section 3.1 and a fixed ``description``; what only the operator may know travels beside them.
"""

from collections.abc import Iterable
from typing import ClassVar


class ConfigurationError(ValueError):
    """An argument that cannot work, found at construction; the message says what would."""


class StoreUnavailable(Exception):
    """A store gave no answer: whether it did what it was asked for is not known, and it can be asked again."""


class Refusal(Exception):
    """A request is refused; the base of every class below.

    ``validate`` and ``load_user`` may raise any subclass, the app's own included.

    Attributes for the operator, never sent to the client by default: ``provider`` (str or None), the name of the
    provider that was asked; ``kid`` (str or None), as the token says it, verified or not; ``subject`` (str or None),
    only after a good signature; ``claim`` (str or None), the claim at fault.
    """

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 401
    error: ClassVar[str | None] = "invalid_token"
    description: ClassVar[str] = "The request was refused."

    # Most say nothing here: an attribute of each refusal's own is what it costs to make one.
    provider: str | None = None
    kid: str | None = None
    subject: str | None = None
    claim: str | None = None

    def __init__(
        self,
        *,
        provider: str | None = None,
        kid: str | None = None,
        subject: str | None = None,
        claim: str | None = None,
    ) -> None:
        if provider is not None:
            self.provider = provider
        if kid is not None:
            self.kid = kid
        if subject is not None:
            self.subject = subject
        if claim is not None:
            self.claim = claim

    def __str__(self) -> str:
        return f"{self.code}: {self.description}"

    @property
    def body(self) -> dict[str, str]:
        """The default response body: ``error``, ``error_description`` and ``code``."""
        return {"error": self.error or self.code, "error_description": self.description, "code": self.code}

    def headers(self, realm: str) -> list[tuple[str, str]]:
        """The headers that belong to this answer whatever its body: the challenge of RFC 6750 section 3."""
        return [("www-authenticate", ", ".join([f"Bearer realm={quoted(realm)}", *self._challenge_parameters()]))]

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
    """RFC 9449 7.1, RFC 8705 3: a token bound to its sender is no plain Bearer token."""

    code = "sender_constrained"
    description = "The access token is bound to its sender and cannot be used as a Bearer token."


class Revoked(InvalidToken):
    code = "revoked"
    description = "The access token has been revoked."


class UserRefused(InvalidToken):
    code = "user_refused"
    description = "The user of the access token is not accepted."


class InsufficientScope(Refusal):
    """RFC 6750 3.1: the request requires higher privileges than the token provides; ``scopes`` are those missing."""

    code = "insufficient_scope"
    status = 403
    error = "insufficient_scope"
    description = "The access token lacks a scope that is needed here."

    def __init__(
        self,
        scopes: str | Iterable[str],
        *,
        provider: str | None = None,
        kid: str | None = None,
        subject: str | None = None,
    ) -> None:
        super().__init__(provider=provider, kid=kid, subject=subject)
        self.scopes = (scopes,) if isinstance(scopes, str) else tuple(scopes)

    def _challenge_parameters(self) -> Iterable[str]:
        yield from super()._challenge_parameters()
        if self.scopes:
            yield f"scope={quoted(' '.join(self.scopes))}"


class CrossSite(Refusal):
    """A request that a cookie would authenticate comes from another site."""

    code = "cross_site"
    status = 403
    error = None
    description = "The request comes from another site."

    def headers(self, realm: str) -> list[tuple[str, str]]:
        """None: no other token would help."""
        return []


class Unavailable(Refusal):
    """RFC 9110 15.6.4: nothing is known against the token; a 401 would make clients throw a good one away."""

    code = "unavailable"
    status = 503
    error = None
    description = "The access token cannot be checked at the moment."

    def __init__(
        self,
        *,
        retry_after: int = 5,
        provider: str | None = None,
        kid: str | None = None,
        subject: str | None = None,
    ) -> None:
        super().__init__(provider=provider, kid=kid, subject=subject)
        self.retry_after = retry_after

    def headers(self, realm: str) -> list[tuple[str, str]]:
        """``Retry-After``, in seconds (RFC 9110 10.2.3)."""
        return [("retry-after", str(self.retry_after))]


class KeysUnavailable(Unavailable):
    code = "keys_unavailable"
    description = "The keys that verify the access token cannot be had at the moment."


class RevocationsUnavailable(Unavailable):
    code = "revocations_unavailable"
    description = "Whether the access token is revoked cannot be told at the moment."


def quoted(value: str) -> str:
    """A quoted-string (RFC 9110 5.6.4) that nothing can break out of: what is not printable ASCII becomes ``?``."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in value)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
