"""Who logs in? The throttle is asked, and then the app."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from starlette.types import Scope

from .._support.hooks import Hook
from .oauth import OAuthError
from .throttle import LoginRefused, Throttle
from .users import ScopeNotGranted, User, granted, user_of

Authenticate: TypeAlias = Callable[[str, str], Any]


class Login:
    """What every login asks, whatever comes of it."""

    def __init__(self, authenticate: Authenticate, throttle: Throttle | None, secret: bytes) -> None:
        self._authenticate = Hook(authenticate)
        self._throttle = throttle
        self._secret = secret

    async def user(self, fields: Mapping[str, str], scope: Scope) -> User:
        """The user with the ``username`` and ``password`` of ``fields``; raises ``OAuthError``."""
        username, password = fields.get("username"), fields.get("password")
        if username is None or password is None:
            raise OAuthError("invalid_request", "The parameters username and password are needed.")
        if self._throttle is None:
            return await self._authenticated(username, password)
        try:
            attempt = await self._throttle.attempt(username, scope, self._secret)
        except LoginRefused as refused:
            raise OAuthError(
                # RFC 6749 5.2 has no word for it; 4.1.2.1 has.
                "temporarily_unavailable",
                refused.description,
                status=refused.status,
                retry_after=refused.retry_after,
            ) from None
        user = await self._authenticated(username, password)
        await self._throttle.forgive(attempt)
        return user

    async def _authenticated(self, username: str, password: str) -> User:
        user = user_of(await self._authenticate(username, password), "authenticate")
        if user is None:
            raise OAuthError("invalid_grant", "The username or the password is wrong.")
        return user


def grantable(fields: Mapping[str, str], user: User) -> tuple[str, ...]:
    """The scopes of ``user`` that the ``scope`` of ``fields`` asks for; raises ``OAuthError`` where that is none."""
    try:
        return granted(fields.get("scope", ""), user.scopes or ())
    except ScopeNotGranted:
        raise invalid_scope() from None


def invalid_scope() -> OAuthError:
    """RFC 6749 5.2: the requested scope exceeds what can be granted."""
    return OAuthError("invalid_scope", "None of the scopes asked for can be granted.")
