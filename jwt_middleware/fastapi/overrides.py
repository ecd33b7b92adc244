"""Does an override in ``dependency_overrides`` take the place of a route's guard? And what does ``as_user`` put there?

An app that overrides a dependency replaces the check of the caller, or it injects something else. Only the first may
let an anonymous request reach a route, and only this route. The rules are those of ``opens``.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..demand import lack_of_scopes
from ..errors import Refusal
from ..identity import JWTCredentials, JWTUser
from ..middleware import SCOPE_KEY, JWTMiddleware
from ..provider import Provider
from ..verifying.token import Token, make_facts
from .answers import answer_here
from .dependencies import AnyOfGuard, Authority, Guard, OptionalGuard, TokenGuard, demanded_scopes, unwrap

Overrides: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]

LIFETIME = 900
"""Seconds from now to the ``exp`` of a fake token."""

MAX_DEPTH = 64
"""The depth to which dependencies are looked at. A route with deeper ones, or with a cycle, stays closed."""


class AsUser:
    """A dependency that always names the same caller: what ``testing.as_user`` makes."""

    def __init__(self, subject: str, scopes: tuple[str, ...], claims: Mapping[str, Any], provider: str | None) -> None:
        self._subject = subject
        self._scopes = scopes
        self._provider = provider
        self._claims = {**({"scope": " ".join(scopes)} if scopes else {}), **claims}

    def __repr__(self) -> str:
        return f"as_user({self._subject!r}, scopes={list(self._scopes)!r})"

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> Token | JWTUser:
        """The ``Token`` in the place of ``auth.token``, else the user; raises ``InsufficientScope``."""
        replaced = _replaced_guard(self, connection.scope["app"].dependency_overrides)
        token, user = self.enter(connection.scope).token, connection.scope["user"]
        answer_here(connection.scope)
        refusal = self._refusal(connection.scope, replaced, security_scopes.scopes)
        if refusal is not None:
            raise refusal
        assert token is not None
        assert isinstance(user, JWTUser)
        return token if isinstance(replaced, TokenGuard) else user

    def refusal(self, scope: Scope, scopes: Sequence[str]) -> Refusal | None:
        """Why this user is refused where ``scopes`` are demanded, or None: what ``Guard.refusal`` is for a guard."""
        try:
            return self._refusal(scope, _replaced_guard(self, scope["app"].dependency_overrides), scopes)
        except RuntimeError:
            # The dependency itself will say so. Raised while FastAPI reads the body, it would become a 400.
            return None

    def _refusal(self, scope: Scope, replaced: Guard | None, scopes: Sequence[str]) -> Refusal | None:
        credentials = self.enter(scope)
        token, held = credentials.token, credentials.scopes
        assert token is not None
        any_of = () if replaced is None else replaced.names
        missing = [name for name in scopes if name not in held]
        if missing or (any_of and not any(map(held.__contains__, any_of))):
            return lack_of_scopes(tuple(scopes), any_of, held).about(token)
        return None

    def enter(self, scope: Scope) -> JWTCredentials:
        """Make this user the caller of the request of ``scope``; once for each request."""
        caller, credentials = scope.get(_CALLER, (None, None))
        if caller is self:
            found: JWTCredentials = credentials
            return found
        before, middleware = scope.get("auth"), scope.get(SCOPE_KEY)
        if not isinstance(before, JWTCredentials) or not isinstance(middleware, JWTMiddleware):
            raise RuntimeError(f"{self!r} found no credentials to replace: call auth.install(app)")
        token = self._make_token(middleware.verifier.providers)
        credentials = JWTCredentials(token, before.refuser)
        scope["auth"], scope["user"] = credentials, JWTUser(token)
        scope[_CALLER] = (self, credentials)
        return credentials

    def _make_token(self, providers: Sequence[Provider]) -> Token:
        # There is none beside a resolver, which may know any name.
        chosen = next((one for one in providers if self._provider in (None, one.name)), None)
        if chosen is None and providers:
            known = ", ".join(repr(one.name) for one in providers)
            raise RuntimeError(f"{self!r}: there is no provider {self._provider!r}; there is {known}")
        now = int(time.time())
        claims = {"iat": now, "exp": now + LIFETIME, "sub": self._subject}
        scopes = self._scopes
        if chosen is not None:
            claims[chosen.rules.subject_claim or "sub"] = self._subject
            scopes = chosen.rules.scopes.grant(scopes)
        facts = make_facts(
            provider=self._provider or "jwt" if chosen is None else chosen.name,
            payload=json.dumps({**claims, **self._claims}).encode(),
            subject=self._subject,
            scopes=scopes,
            expires_at=now + LIFETIME,
        )
        return Token(facts)


_CALLER = "jwt_middleware.as_user"


def opens(auth: Authority, dependant: Dependant, overrides: Overrides) -> bool:
    """Whether ``overrides`` let an anonymous request reach the route of ``dependant``, which ``auth`` guards.

    1. A dependency of the route that checks who is calling is overridden: it is ``auth``, ``auth.token`` or
       ``auth.any_of(...)``, or depends on one of them. One that only depends on ``auth.optional`` counts if an
       ``as_user`` replaces it.
    2. With all overrides applied, at any depth, every guard that is left gets a user. An ``as_user`` in the place of
       ``auth`` also gives one to the other guards of ``auth``.

    So a replacement that itself depends on ``auth.token`` opens nothing, and neither does the replacement of an
    unrelated dependency.
    """
    overridden: Mapping[Any, Any] = overrides
    is_fed = isinstance(overridden.get(auth), AsUser)
    return _is_replaced(auth, dependant, overrides, is_fed, 0) and _is_clear(auth, dependant, overrides, is_fed, 0)


def _is_replaced(auth: Authority, dependant: Dependant, overrides: Overrides, is_fed: bool, depth: int) -> bool:
    """Whether one of the dependencies that the route declares, and that runs unless overridden, is a replaced check."""
    if depth > MAX_DEPTH:
        return False
    for child in dependant.dependencies:
        replacement = _replacement(child, overrides)
        if replacement is not None:
            if _checks(auth, child, optional_counts=isinstance(replacement, AsUser)):
                return True
        elif (is_fed and _is_guard_of(auth, child)) or _is_replaced(auth, child, overrides, is_fed, depth + 1):
            return True
    return False


def _checks(auth: Authority, dependant: Dependant, *, optional_counts: bool) -> bool:
    if _is_guard_of(auth, dependant) and (optional_counts or not isinstance(unwrap(dependant.call), OptionalGuard)):
        return True
    return any(_checks(auth, child, optional_counts=optional_counts) for child in dependant.dependencies)


def _is_clear(auth: Authority, dependant: Dependant, overrides: Overrides, is_fed: bool, depth: int) -> bool:
    """Whether no guard is left that would refuse an anonymous request, or that belongs to another ``Auth``."""
    if depth > MAX_DEPTH:
        return False
    for child in dependant.dependencies:
        replacement = _replacement(child, overrides)
        if replacement is not None:
            if isinstance(replacement, AsUser):
                continue
            # As FastAPI does with each request; what the replacement depends on can be overridden in turn.
            child = get_dependant(
                path=child.path or "", call=replacement, parent_oauth_scopes=list(demanded_scopes(child))
            )
        if isinstance(unwrap(child.call), Guard) and not (is_fed and _is_guard_of(auth, child)):
            return False
        if not _is_clear(auth, child, overrides, is_fed, depth + 1):
            return False
    return True


def _replacement(dependant: Dependant, overrides: Overrides) -> Callable[..., Any] | None:
    call = dependant.call
    replacement = None if call is None else overrides.get(call)
    return None if replacement is call else replacement


def _is_guard_of(auth: Authority, dependant: Dependant) -> bool:
    guard = unwrap(dependant.call)
    return isinstance(guard, Guard) and guard.auth is auth


def _replaced_guard(replacement: AsUser, overrides: Overrides) -> Guard | None:
    """The guard in whose place ``replacement`` stands, if it is one whose answer differs from that of ``auth``."""
    places = [unwrap(call) for call, other in overrides.items() if other is replacement]
    special = [place for place in places if isinstance(place, TokenGuard | AnyOfGuard)]
    if special and len(places) > 1:
        raise RuntimeError(
            f"{replacement!r} stands in the place of several dependencies that give different things; override `auth` "
            "alone, which feeds the others, or give each an as_user(...) of its own"
        )
    return special[0] if special else None
