"""How does a view of Django REST framework see its user?

By ``JWTAuthentication`` in ``DEFAULT_AUTHENTICATION_CLASSES``. ``requires`` of ``jwt_middleware.django`` guards views.
"""

from typing import Any

from rest_framework.authentication import BaseAuthentication

from .django import scope_of
from .errors import MissingToken
from .verifying.token import Token


class JWTAuthentication(BaseAuthentication):  # type: ignore[misc]  # it has no types
    """Sets ``request.user`` to the user of the token, and ``request.auth`` to the token.

    If a permission such as ``IsAuthenticated`` refuses an anonymous request, the answer is a 401 with our challenge.
    """

    def authenticate(self, request: Any) -> tuple[Any, Token] | None:
        """The user and the token of ``request``; None for an anonymous request."""
        scope = scope_of(request)
        token: Token | None = scope["auth"].token
        return None if token is None else (scope["user"], token)

    def authenticate_header(self, request: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The challenge for an anonymous request, which is refused."""
        scope = scope_of(request)
        _, headers, _ = scope["auth"].refuser.plain(MissingToken(), scope)
        challenge: str = headers["www-authenticate"]
        return challenge
