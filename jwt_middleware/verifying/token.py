"""What does a verified token say? Pure."""

from typing import Any, Final, TypeAlias

from .compact import json_again

Facts: TypeAlias = tuple[
    str,
    bytes,
    bytes,
    str | None,
    str | None,
    str | tuple[str, ...],
    str | None,
    str | None,
    str | None,
    int,
    float,
    tuple[str, ...],
]
"""The facts that are the same for every request with one token.

It is a plain tuple of plain values because the garbage collector leaves only these alone, and memory holds thousands.
"""

PROVIDER: Final = 0
HEADER: Final = 1
PAYLOAD: Final = 2
KID: Final = 3
SUBJECT: Final = 4
SCOPES: Final = 5
"""One string with spaces if the token has them in that form: most requests never ask for scopes."""
ID: Final = 6
SESSION_ID: Final = 7
ISSUER: Final = 8
EXPIRES_AT: Final = 9
GOOD_UNTIL: Final = 10
CONFIRMATION: Final = 11


def make_facts(
    *,
    provider: str,
    expires_at: int,
    header: bytes = b"{}",
    payload: bytes = b"{}",
    kid: str | None = None,
    subject: str | None = None,
    scopes: str | tuple[str, ...] = (),
    id: str | None = None,
    session_id: str | None = None,
    issuer: str | None = None,
) -> Facts:
    """Put facts into their order, for a token that is not verified but made up."""
    return provider, header, payload, kid, subject, scopes, id, session_id, issuer, expires_at, float(expires_at), ()


class Token:
    """A verified token, as one request sees it."""

    # Defaults of the class: most requests never ask, and each attribute costs time.
    _claims: dict[str, Any] | None = None
    _header: dict[str, Any] | None = None

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def __repr__(self) -> str:
        # Without the claims: they are private to the user, and a repr ends up in logs.
        return f"Token(provider={self.provider!r}, subject={self.subject!r}, expires_at={self.expires_at!r})"

    @property
    def claims(self) -> dict[str, Any]:
        """All claims. The dict belongs to this request: changing it changes no other request's."""
        if self._claims is None:
            self._claims = json_again(self._facts[PAYLOAD])
        return self._claims

    @property
    def header(self) -> dict[str, Any]:
        """The JOSE header. The dict belongs to this request, too."""
        if self._header is None:
            self._header = json_again(self._facts[HEADER])
        return self._header

    @property
    def provider(self) -> str:
        """The name of the provider whose keys verified the token."""
        return self._facts[PROVIDER]

    @property
    def issuer(self) -> str | None:
        """The claim ``iss`` (RFC 7519 4.1.1)."""
        return self._facts[ISSUER]

    @property
    def kid(self) -> str | None:
        """The header's ``kid`` (RFC 7515 4.1.4)."""
        return self._facts[KID]

    @property
    def subject(self) -> str | Any:
        """The subject of the token: the claim ``sub``, or the provider's ``subject_claim``.

        None only if the provider has ``subject_claim=None``. The type leaves None out, to spare all other apps a check.
        """
        return self._facts[SUBJECT]

    @property
    def scopes(self) -> tuple[str, ...]:
        """What the token allows: the claim ``scope`` or ``scp``, or the provider's ``scope_claim``."""
        scopes = self._facts[SCOPES]
        # RFC 6749 3.3: scopes are delimited by spaces, and by nothing else.
        return tuple(filter(None, scopes.split(" "))) if isinstance(scopes, str) else scopes

    @property
    def id(self) -> str | None:
        """The claim ``jti`` (RFC 7519 4.1.7)."""
        return self._facts[ID]

    @property
    def session_id(self) -> str | None:
        """The claim ``sid`` if it is a string: the login that the token belongs to."""
        return self._facts[SESSION_ID]

    @property
    def expires_at(self) -> int:
        """The claim ``exp`` in Unix time, without leeway. A fraction of a second is cut off, as PyJWT does."""
        return self._facts[EXPIRES_AT]

    @property
    def good_until(self) -> float:
        """The Unix time from which the token is refused for its age. It includes ``max_token_age`` and ``leeway``."""
        return self._facts[GOOD_UNTIL]

    @property
    def confirmation(self) -> tuple[str, ...]:
        """The methods that bind the token to its sender (RFC 7800), such as ``x5t#S256``. A plain token has none."""
        return self._facts[CONFIRMATION]
