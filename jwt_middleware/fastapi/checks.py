"""Are the routes of an app guarded as their author meant? Checked before the first request."""

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Host, Mount

from ..events import Advice
from ..explaining.case import list_quoted
from ..requires import Requirement, is_bypassed, requires
from .dependencies import Authority, Guard, OptionalGuard, calls_in, unwrap
from .router import Endpoint


def check_routes(auth: Authority, app: FastAPI) -> None:
    """Raise ``RuntimeError`` if a guard guards nothing. Warn the operator of likely mistakes.

    It looks at the routes of ``app`` and at those of the apps that are mounted in it.
    """
    for path, endpoint, dependant in _endpoints(app.routes):
        if is_bypassed(endpoint):
            raise RuntimeError(
                f"{path}: the route calls {getattr(endpoint, '__qualname__', endpoint)!r} itself and not what "
                "@requires(...) made of it; place @requires(...) below the decorator of the route"
            )
        if dependant is not None:
            _check_guards(auth, path, dependant)
            if isinstance(endpoint, Endpoint) and endpoint.is_open:
                _check_login(auth, path, endpoint, dependant)


def _check_guards(auth: Authority, path: str, dependant: Dependant) -> None:
    """Raise ``RuntimeError`` for a guard that was not called. Warn of scopes that look like the letters of a string."""
    for child in dependant.dependencies:
        call = unwrap(child.call)
        owner = getattr(call, "__self__", None)
        # An app's own subclass may have methods that are good dependencies.
        is_ours = isinstance(owner, Guard) and call.__module__.startswith(__package__)
        if call is requires or is_ours:
            name = "requires" if owner is None else f"auth.{call.__name__}"
            cure = f'Depends({name}("admin"))' if name in ("requires", "auth.any_of") else "Depends(auth)"
            raise RuntimeError(
                f"{path}: Depends({name}) guards nothing, and FastAPI reads its arguments from the query; write {cure}"
            )
        scopes = child.own_oauth_scopes or ()
        if len(scopes) > 1 and all(len(scope) == 1 for scope in scopes):
            text = (
                f"{path}: a guard demands the scopes {list_quoted(scopes)}: give Security(scopes=) a list, because "
                "FastAPI reads a string as a list of its letters (said once)"
            )
            auth.events.tell(Advice(text=text), once=("letters", path))
        _check_guards(auth, path, child)


def _check_login(auth: Authority, path: str, endpoint: Endpoint, dependant: Dependant) -> None:
    """Warn of logins that will not work as their author expects."""
    name = endpoint.access_cookie
    if name not in (None, *auth.cookies):
        text = (
            f"{path}: a login puts the access token into the cookie {name}, and this Auth does not read it: "
            f"add cookie({name!r}) to its sources= (said once)"
        )
        auth.events.tell(Advice(text=text), once="cookie")
    guards = [call for call, _ in calls_in(dependant) if isinstance(call, Guard | Requirement)]
    if not all(isinstance(guard, OptionalGuard) for guard in guards):
        text = (
            f"{path}: a guard of the app or of a router refuses every login: remove it, because the middleware guards "
            "all other routes without it (said once)"
        )
        auth.events.tell(Advice(text=text), once="guarded login")


def _endpoints(
    routes: Iterable[BaseRoute], prefix: str = "", parents: tuple[BaseRoute, ...] = ()
) -> Iterator[tuple[str, Any, Dependant | None]]:
    """The path, the endpoint and, for FastAPI's own routes, the dependencies of each route, in mounted apps as well."""
    for context in iter_route_contexts(list(routes)):
        path, original = prefix + (context.path or ""), context.original_route
        if isinstance(original, Mount | Host):
            # An app may be mounted in itself.
            if original not in parents:
                yield from _endpoints(original.routes, path, (*parents, original))
        else:
            yield path, context.endpoint, getattr(context, "dependant", None)
