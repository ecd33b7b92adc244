"""What does the app see? The user and the credentials in the ASGI scope."""

from functools import cached_property
from typing import Any

from starlette.authentication import AuthCredentials, BaseUser

from .refuser import Refuser
from .verifying.token import Token


class JWTUser(BaseUser):
    """``scope["user"]``: the user whom a token is about, or an anonymous one, if ``token`` is None.

    A plain object, to which the app can add its own attributes.
    """

    def __init__(self, token: Token | None) -> None:
        self.token = token

    def __repr__(self) -> str:
        return f"JWTUser({None if self.token is None else self.token.subject!r})"

    @property
    def is_authenticated(self) -> bool:
        """Whether this user has a verified token."""
        return self.token is not None

    @property
    def identity(self) -> str:
        """The token's subject, or an empty text for an anonymous user.

        Raises ``RuntimeError`` for a token without a subject (``subject_claim=None``): as an empty text, or as None, it
        could end up in a query and match somebody.
        """
        if self.token is None:
            return ""
        if self.token.subject is None:
            raise RuntimeError(
                f"the token of the provider {self.token.provider!r} has no subject, as subject_claim=None says: use "
                "user.token and its claims"
            )
        return self.token.subject

    @property
    def display_name(self) -> str:
        """The claim ``name``, else ``preferred_username`` (OpenID Connect Core 5.1), else the subject, else empty."""
        for claim in ("name", "preferred_username"):
            name = self.claims.get(claim)
            if isinstance(name, str) and name:
                return name
        return "" if self.token is None else self.token.subject or ""

    @property
    def claims(self) -> dict[str, Any]:
        """The token's claims. An anonymous user has none."""
        return {} if self.token is None else self.token.claims

    @property
    def scopes(self) -> tuple[str, ...]:
        """The token's scopes. An anonymous user has none."""
        return () if self.token is None else self.token.scopes


class JWTCredentials(AuthCredentials):
    """``scope["auth"]``: Starlette's credentials, which its ``@requires`` reads, with the token beside the scopes.

    ``token`` is None if the request has no good token. ``refuser`` answers in the middleware's name.
    """

    def __init__(self, token: Token | None, refuser: Refuser) -> None:
        self.token = token
        self.refuser = refuser

    def __repr__(self) -> str:
        return f"JWTCredentials({self.token!r})"

    @cached_property
    def scopes(self) -> list[str]:  # type: ignore[override]  # an attribute there; made when it is asked for here
        """The token's scopes."""
        return [] if self.token is None else list(self.token.scopes)
