"""What does a route get injected, and whom does it refuse? The security dependencies of an ``Auth``."""

import inspect
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..demand import lack_of_scopes
from ..errors import ConfigurationError, MissingToken, Refusal
from ..identity import JWTCredentials, JWTUser
from ..provider import Provider
from ..refuser import Refuser
from ..telling import Events
from ..verifying.token import Token
from .answers import answer_here

OPENED = "jwt_middleware.opened"
"""The scope has it if overrides replace every guard of the route, and the middleware let an anonymous request through.

It is the ``as_user`` in the place of ``auth``, or True. A guard that runs nevertheless refuses the request: its
override was removed meanwhile, or does not count.
"""


class Authority(Protocol):
    """What the files of this folder need of an ``Auth``; see there."""

    options: dict[str, Any]
    providers: tuple[Provider, ...]
    scopes: dict[str, str]
    cookies: tuple[str, ...]
    refuser: Refuser
    events: Events

    def credentials(self, scope: Scope) -> JWTCredentials:
        """The credentials of the caller."""
        ...


class Guard(SecurityBase):
    """A security dependency. FastAPI finds its scheme, and the scopes of all ``Security(...)`` above it.

    It reads what the middleware has put into the scope, and verifies nothing.
    """

    scheme_name = "JWT"
    model = HTTPBearer(bearerFormat="JWT")

    auth: "Authority"
    """Whose middleware has to stand in front of the route."""
    names: tuple[str, ...] = ()
    """The scopes one of which is needed, beside those that a route demands; none for most guards."""
    _one_of: frozenset[str] = frozenset()

    def refusal(self, scope: Scope, scopes: Iterable[str]) -> Refusal | None:
        """Why the request of ``scope`` is refused if ``scopes`` are demanded, or None."""
        return self._refusal(scope, self.auth.credentials(scope), scopes)

    def admit(self, scope: Scope, scopes: Iterable[str]) -> JWTCredentials:
        """The credentials of ``scope``; raises the ``Refusal`` of a request that is not let through."""
        credentials = self.auth.credentials(scope)
        # Here and not only in the app: a mounted app has exception handlers of its own.
        answer_here(scope)
        if scopes or self.names or credentials.token is None:
            refusal = self._refusal(scope, credentials, scopes)
            if refusal is not None:
                raise refusal
        return credentials

    def _refusal(self, scope: Scope, credentials: JWTCredentials, scopes: Iterable[str]) -> Refusal | None:
        token, any_of = credentials.token, self.names
        if token is None:
            return MissingToken()
        # `credentials.scopes` is a list that is made when it is read, which takes longer.
        held = token.scopes
        lacks = bool(any_of) and self._one_of.isdisjoint(held)
        for name in scopes:
            if name not in held:
                lacks = True
        return lack_of_scopes(tuple(scopes), any_of, held).about(token) if lacks else None


class TokenGuard(Guard):
    """``Depends(auth.token)``: the verified ``Token``."""

    def __init__(self, auth: "Authority") -> None:
        self.auth = auth

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> Token:
        """The token. A request without one is refused (401), and one whose token lacks a scope (403)."""
        token = self.admit(connection.scope, security_scopes.scopes).token
        assert token is not None, "a request without a token was admitted"
        return token


class OptionalGuard(Guard):
    """``Depends(auth.optional)``: the user, or None for an anonymous request.

    It opens no route: the middleware lets an anonymous request through only if ``public`` or ``allow_anonymous`` says
    so. If scopes are demanded, an anonymous request is refused because it has none.
    """

    def __init__(self, auth: "Authority") -> None:
        self.auth = auth

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> JWTUser | None:
        """The user, or None."""
        credentials = self.admit(connection.scope, security_scopes.scopes)
        user: JWTUser | None = None if credentials.token is None else connection.scope["user"]
        return user

    def _refusal(self, scope: Scope, credentials: JWTCredentials, scopes: Iterable[str]) -> Refusal | None:
        demanded = tuple(scopes)
        if not demanded and credentials.token is None and not scope.get(OPENED):
            return None
        return super()._refusal(scope, credentials, demanded)


class AnyOfGuard(Guard):
    """``Security(auth.any_of("admin", "auditor"))``: the user, who needs one of these scopes."""

    def __init__(self, auth: "Authority", names: tuple[str, ...]) -> None:
        self.auth = auth
        self.names = names
        self._one_of = frozenset(names)

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> JWTUser:
        """The user."""
        self.admit(connection.scope, security_scopes.scopes)
        user: JWTUser = connection.scope["user"]
        return user


def check_scopes(names: Iterable[Any]) -> tuple[str, ...]:
    """``names`` in order, each once. Raises ``ConfigurationError`` for what is not a scope, and if there are none."""
    several = tuple(names)
    for name in several:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"any_of() takes the names of scopes, not {type(name).__name__}")
    if not several:
        raise ConfigurationError("any_of() must name a scope: no request has one of none")
    return tuple(sorted(set(several)))


def unwrap(call: Any) -> Any:
    """``call`` without partials and without decorators that name what they wrap, as FastAPI looks at dependencies."""
    while isinstance(call, partial):
        call = call.func
    return inspect.unwrap(call)


def calls_in(dependant: Dependant) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The dependencies of ``dependant``, at any depth, each with the scopes demanded of it."""
    for child in dependant.dependencies:
        yield unwrap(child.call), demanded_scopes(child)
        yield from calls_in(child)


def demanded_scopes(dependant: Dependant) -> tuple[str, ...]:
    """The scopes of all ``Security(...)`` from the route down to ``dependant``."""
    return tuple(dict.fromkeys([*(dependant.parent_oauth_scopes or ()), *(dependant.own_oauth_scopes or ())]))
