"""Does a request meet what an endpoint demands?"""

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.authentication import AuthCredentials
from starlette.types import Scope

from ._support.arguments import check_seconds, check_strings
from ._support.listing import list_names
from .errors import (
    ConfigurationError,
    InsufficientScope,
    InsufficientUserAuthentication,
    MissingToken,
    Refusal,
    WrongIssuer,
    is_scope,
)
from .identity import JWTCredentials
from .middleware import SCOPE_KEY, JWTMiddleware
from .verifying.token import Token


class Demand:
    """What an endpoint demands of a request, in the arguments of ``requires``; see there.

    Raises ``TypeError`` or ``ConfigurationError`` for a demand that cannot be met.
    """

    def __init__(
        self,
        scopes: tuple[str, ...],
        any_of: str | Iterable[str] | None = None,
        provider: str | Iterable[str] | None = None,
        acr: str | Iterable[str] | None = None,
        max_age: float | None = None,
    ) -> None:
        self.scopes = scopes
        """All of these are needed."""
        several: Any = any_of if isinstance(any_of, Iterable) and not isinstance(any_of, str) else [any_of]
        self.any_of = () if any_of is None else tuple(several)
        """One of these is needed, unless it is empty."""
        if any_of is not None and not self.any_of:
            raise ConfigurationError("any_of must name at least one scope")
        for scope in (*self.scopes, *self.any_of):
            if not isinstance(scope, str):
                raise TypeError(f"requires() takes scopes, not {scope!r}; without any, write @requires()")
            if not scope:
                raise ConfigurationError("a scope must be a text that is not empty")
        self._providers = None if provider is None else check_strings("provider", provider)
        self._acr = () if acr is None else check_strings("acr", acr)
        self._max_age = None if max_age is None else check_seconds("max_age", max_age, minimum=1)
        self._is_about_token = provider is not None or acr is not None or max_age is not None

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why the request of ``scope`` is refused, or None. The decisions, in their order:

        1. The request is anonymous: ``missing_token``.
        2. The demand is about a token, and the middleware has verified none, as with API keys: ``missing_token``.
        3. The token is another provider's: ``wrong_issuer``. What its scopes mean is not known here.
        4. A scope is missing: ``insufficient_scope``.
        5. The login behind the token is too weak, or too long ago: ``insufficient_user_authentication`` (RFC 9470).

        Raises ``RuntimeError`` if no ``JWTMiddleware`` is in front.
        """
        middleware, credentials = middleware_of(scope), scope.get("auth")
        if not isinstance(credentials, AuthCredentials):
            raise RuntimeError(_NOT_IN_FRONT)
        token = credentials.token if isinstance(credentials, JWTCredentials) else None
        if not _is_authenticated(scope.get("user"), token):
            return MissingToken()
        if token is None and self._is_about_token:
            return MissingToken()
        if token is not None and self._providers is not None and token.provider not in self._providers:
            return WrongIssuer(
                claim="iss", expected=f"provider {list_names(self._providers)}", found=f"provider {token.provider}"
            ).about(token)
        missing = [name for name in self.scopes if name not in credentials.scopes]
        held = [name for name in self.any_of if name in credentials.scopes]
        if missing or (self.any_of and not held):
            refusal = lack_of_scopes(self.scopes, self.any_of, credentials.scopes)
            return refusal if token is None else refusal.about(token)
        if token is not None and not self._is_login_good(token, middleware):
            max_age = None if self._max_age is None else int(self._max_age)
            expected, found = self._describe_login(token, middleware)
            needed = dict.fromkeys((*self.scopes, *held[:1]))
            return InsufficientUserAuthentication(
                acr_values=self._acr, max_age=max_age, scopes=needed, expected=expected, found=found
            ).about(token)
        return None

    def _describe_login(self, token: Token, middleware: JWTMiddleware) -> tuple[str, str]:
        expected, found = [], []
        if self._acr:
            expected.append(f"acr {' or '.join(self._acr)}")
            found.append(f"acr {token.claims.get('acr')}")
        if self._max_age is not None:
            age = middleware.verifier.login_age(token)
            expected.append(f"a login {self._max_age:g} s ago at most")
            found.append("no auth_time" if age is None else f"a login {age:.0f} s ago")
        return ", ".join(expected), ", ".join(found)

    def _is_login_good(self, token: Token, middleware: JWTMiddleware) -> bool:
        if self._acr and token.claims.get("acr") not in self._acr:
            return False
        if self._max_age is None:
            return True
        age = middleware.verifier.login_age(token)
        return age is not None and age <= self._max_age


def lack_of_scopes(scopes: Sequence[str], any_of: Sequence[str], held: Iterable[str]) -> InsufficientScope:
    """The refusal of a request that has the scopes ``held``, and needs all of ``scopes`` and one of ``any_of``."""
    # Clients ask for all that the challenge names, and for nothing else. It cannot spell every text.
    having = tuple(held)
    alternatives = sorted(any_of, key=lambda scope: (scope not in having, not is_scope(scope)))
    return InsufficientScope(
        dict.fromkeys((*scopes, *alternatives[:1])),
        expected=" ".join((*scopes, *any_of)),
        found=" ".join(map(str, having)),
    )


def middleware_of(scope: Scope) -> JWTMiddleware:
    """The middleware that let the request of ``scope`` through; raises ``RuntimeError`` if there is none."""
    middleware = scope.get(SCOPE_KEY)
    if not isinstance(middleware, JWTMiddleware):
        raise RuntimeError(_NOT_IN_FRONT)
    return middleware


_NOT_IN_FRONT = "requires() found no credentials: wrap the app in JWTMiddleware"


def _is_authenticated(user: object, token: Token | None) -> bool:
    """Whether ``user`` is authenticated.

    ``load_user`` may return any object. One without ``is_authenticated`` counts as authenticated because of the token.
    """
    if user is None:
        return False
    affirmed = getattr(user, "is_authenticated", token is not None)
    # Only True counts: a method of that name, which some user classes have, would always be truthy.
    return affirmed is True
