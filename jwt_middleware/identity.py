"""What does the app see? The user and the credentials in the ASGI scope."""

from typing import Any

from starlette.authentication import AuthCredentials, BaseUser

from .claims import Token
from .refuser import Refuser


class JWTUser(BaseUser):
    """``scope["user"]``: the user that a token speaks of, or nobody, where ``token`` is None.

    A plain object with room for attributes of the app's own.
    """

    def __init__(self, token: Token | None) -> None:
        self.claims: dict[str, Any] = {} if token is None else token.claims
        self.scopes: tuple[str, ...] = () if token is None else token.scopes
        self._identity = None if token is None else token.subject or ""

    def __repr__(self) -> str:
        return f"JWTUser({self._identity!r})"

    @property
    def is_authenticated(self) -> bool:
        """Whether a verified token stands behind this user."""
        return self._identity is not None

    @property
    def identity(self) -> str:
        """The token's subject; empty where there is none."""
        return self._identity or ""

    @property
    def display_name(self) -> str:
        """The claim ``name``, else ``preferred_username`` (OpenID Connect Core 5.1), else the subject."""
        for claim in ("name", "preferred_username"):
            name = self.claims.get(claim)
            if isinstance(name, str) and name:
                return name
        return self.identity


class JWTCredentials(AuthCredentials):
    """``scope["auth"]``: Starlette's credentials, so that its ``@requires`` works, with the token beside the scopes.

    ``token`` is None where the request brought no good one. ``refuser`` answers in the middleware's name.
    """

    def __init__(self, token: Token | None, refuser: Refuser) -> None:
        super().__init__(() if token is None else token.scopes)
        self.token = token
        self.refuser = refuser

    def __repr__(self) -> str:
        return f"JWTCredentials({self.token!r})"
