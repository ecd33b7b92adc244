"""What is revoked? A session, a subject or a token of ours, as the request that a store understands."""

from .._support.arguments import check_seconds
from ..errors import ConfigurationError
from ..verifying.token import Token
from .issuer import TokenIssuer
from .rotation import Realm, RevocationRequest

LATEST = 2.0**42
"""Unix time in seconds; a token that expires later is revoked until then. Its milliseconds are exact in any store."""


class RevocationRequests:
    """Makes the requests that revoke tokens of one issuer. ``tokens`` is that issuer."""

    def __init__(self, tokens: TokenIssuer) -> None:
        self._tokens = tokens
        self._realm = Realm(tokens.name, tokens.issuer)

    def for_token(self, token: Token) -> RevocationRequest:
        """The request that revokes the session of a token of ours, or the token alone if it has no session."""
        if token.session_id is not None:
            return self.for_session(token.session_id)
        if token.id is None:
            raise ValueError("the token has neither sid nor jti: nothing can name it")
        return self.for_jti(self._realm, token.id, token.expires_at)

    def for_session(self, session_id: str) -> RevocationRequest:
        """The request that revokes a session. Raises ``TypeError`` or ``ValueError`` for an id that is no text."""
        check_text("session", session_id)
        # If the store has lost the session, its last token was minted now at the latest.
        lifetime = self._tokens.access_lifetime
        return RevocationRequest(realm=self._realm, claim="sid", value=session_id, lifetime=lifetime)

    def for_jti(self, realm: Realm, jti: str | None, expires_at: float) -> RevocationRequest:
        """The request that revokes one token of ``realm``. ``expires_at`` is Unix time."""
        # Another issuer with the same key may have written an `exp` in a million years.
        lifetime = max(0, min(expires_at, LATEST) - self._tokens.clock())
        return RevocationRequest(realm=realm, claim="jti", value=check_text("jti", jti), lifetime=lifetime)

    def read_subject(self, subject: str | Token) -> str:
        """The subject that is meant: that of a token of ours, or ``subject`` itself."""
        if isinstance(subject, Token):
            self.check_ours(subject)
            if subject.subject is None:
                raise ValueError("the token has no subject")
            return subject.subject
        return check_text("subject", subject)

    def check_ours(self, token: Token) -> None:
        """Refuse a token of another realm: there, the same identifiers may be somebody else's."""
        realm = Realm(token.provider, token.issuer)
        if realm != self._realm:
            raise ValueError(
                f"the token is of provider {realm.provider!r} and issuer {realm.issuer!r}, the sessions are of "
                f"{self._realm.provider!r} and {self._realm.issuer!r}"
            )


def check_text(name: str, value: object) -> str:
    """Return ``value`` if it is a text that any store can hold. ``name`` names it in errors."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}; say str({name})")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds a character that UTF-8 cannot encode") from None
    return value


def check_moment(value: object) -> float:
    """Return ``value`` if it is a Unix time. Raises ``ValueError``."""
    try:
        return check_seconds("expires_at", value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
