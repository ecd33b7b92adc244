"""Which route does FastAPI select for a request, and which app owns it?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute, RouteContext, iter_route_contexts
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import BaseRoute, Host, Match, Mount, Route
from starlette.types import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """The route that answers a request."""

    app: FastAPI
    """The app that owns it: the one that was asked, or one that is mounted there."""
    endpoint: Callable[..., Any] | None
    path: str
    """As it was declared, with the paths of mounts and included routers before it."""
    dependant: Dependant | None
    """None for a plain Starlette route."""
    overrides: Mapping[Callable[..., Any], Callable[..., Any]]
    """The ``dependency_overrides`` that FastAPI applies to it."""


def select(app: FastAPI, scope: Scope) -> Selected | None:
    """The route of ``app``, or of an app mounted in it, that answers the request of ``scope``, with its method.

    None if there is none, or if that is not certain:

    - only another method would match;
    - the route is inside an app that is not FastAPI's;
    - a router, a mount or a mounted app has methods of its own, which may select another route;
    - a mounted app, or the router of an app, has a middleware that may change the path;
    - a convertor of a path parameter fails.

    The ``matches`` of a route is trusted to say the same when FastAPI asks it. ``scope`` is what the router of ``app``
    will see; it stays as it is.
    """
    seen = {**scope, "fastapi": dict(scope.get("fastapi") or ())}
    try:
        return _select(app, seen, "")
    except Exception:  # noqa: BLE001  # a convertor may raise anything, `int` for 5,000 digits does
        return None


def _select(app: FastAPI, scope: Scope, prefix: str) -> Selected | None:
    router = app.router
    if not _has_methods_of(APIRouter, router, "__call__", "app") or not _leads_to(router.app, router.middleware_stack):
        return None
    for route in router.routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return _select_in(app, route, scope, prefix)
    return None


def _select_in(app: FastAPI, route: BaseRoute, scope: Scope, prefix: str) -> Selected | None:
    # `iter_route_contexts` replaces an included router by its routes, in the order in which FastAPI asks them, unless
    # one of the routers decides for itself.
    if not _are_plain_routers(route):
        return None
    for context in iter_route_contexts([route]):
        original = context.original_route
        if original is not route and isinstance(original, APIRoute) and type(original).matches is not APIRoute.matches:
            # Only FastAPI can ask it.
            return None
        match, child_scope = context.matches(scope)
        if match is not Match.FULL:
            continue
        if isinstance(original, Mount | Host):
            return _select_mounted(context, scope, child_scope, prefix)
        if isinstance(original, APIRoute):
            provider = context.dependency_overrides_provider
        elif isinstance(original, APIWebSocketRoute):
            # The route keeps no reference to its provider. Without one, the dependencies themselves refuse.
            provider = app
        elif isinstance(original, Route):
            provider = None
        else:
            return None
        return Selected(
            app=app,
            endpoint=context.endpoint,
            path=prefix + (context.path_format or ""),
            dependant=getattr(context, "dependant", None),
            overrides=app.dependency_overrides if provider is app else {},
        )
    return None


def _select_mounted(context: RouteContext, scope: Scope, child_scope: Scope, prefix: str) -> Selected | None:
    mounted, mount = context.app, context.original_route
    kind = Mount if isinstance(mount, Mount) else Host
    if not isinstance(mounted, FastAPI) or not _has_methods_of(kind, mount, "matches", "handle"):
        return None
    if not _has_methods_of(FastAPI, mounted, "__call__", "build_middleware_stack"):
        return None
    if mounted.middleware_stack is not None and not _leads_to(mounted.router, mounted.middleware_stack):
        return None
    if not all(_name(entry.cls) in _HARMLESS for entry in mounted.user_middleware):
        return None
    scope = {**scope, **{name: value for name, value in child_scope.items() if name != "fastapi"}}
    if mounted.root_path:
        # As FastAPI does when it is called.
        scope["root_path"] = mounted.root_path
    return _select(mounted, scope, prefix + (context.path or ""))


def _are_plain_routers(route: BaseRoute) -> bool:
    """Whether ``route`` is no included router, or one that FastAPI asks as usual, like all that it includes."""
    router = getattr(route, "original_router", None)
    if router is None:
        return True
    return _has_methods_of(APIRouter, router, "matches", "handle") and all(map(_are_plain_routers, router.routes))


def _has_methods_of(kind: type, thing: Any, *names: str) -> bool:
    """Whether ``thing`` has the methods ``names`` of ``kind``, neither overridden nor replaced."""
    return all(getattr(getattr(thing, name), "__func__", None) is getattr(kind, name) for name in names)


def _leads_to(inner: Any, stack: Any) -> bool:
    """Whether ``stack`` is ``inner`` behind nothing but middleware of Starlette and FastAPI that passes requests on.

    A stack can be wrapped after it was built, also between its parts.
    """
    while stack != inner:
        if _package(type(stack)) not in ("fastapi", "starlette") or isinstance(stack, BaseHTTPMiddleware):
            return False
        stack = getattr(stack, "app", None)
    return True


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


# They stand in front of the router of a mounted app, and do not change the path or the method.
_HARMLESS = frozenset(
    {
        "starlette.middleware.cors.CORSMiddleware",
        "starlette.middleware.gzip.GZipMiddleware",
        "starlette.middleware.httpsredirect.HTTPSRedirectMiddleware",
        "starlette.middleware.sessions.SessionMiddleware",
        "starlette.middleware.trustedhost.TrustedHostMiddleware",
    }
)


def _name(kind: Any) -> str:
    # By name, because some of them need packages that an app may not have.
    return f"{getattr(kind, '__module__', None)}.{getattr(kind, '__qualname__', None)}"
