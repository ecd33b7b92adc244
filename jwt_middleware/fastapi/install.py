"""How does the middleware get in front of an app's routes, and which of them does it leave open?"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias, cast

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import ConfigurationError, Refusal
from ..events import GuardReplaced
from ..middleware import JWTMiddleware
from ..reading.access import PublicPaths, PublicRequests, ask
from ..requires import Requirement, count_guarded
from .answers import EarlyRefusal, answer, answer_here
from .checks import check_routes
from .dependencies import OPENED, Authority, Guard, demanded_scopes, unwrap
from .openapi import document
from .overrides import AsUser, Overrides, opens
from .router import is_open
from .selection import Selected, select


def install(auth: Authority, app: FastAPI, *, public: Iterable[str], docs: bool, docs_client_id: str | None) -> None:
    """See ``Auth.install``."""
    if not isinstance(app, FastAPI):
        raise ConfigurationError(f"app must be a FastAPI app, not {type(app).__name__}")
    if app.middleware_stack is not None:
        raise ConfigurationError("the app has started: call auth.install(app) before its first request")
    if any(_is_ours(entry) for entry in app.user_middleware):
        raise ConfigurationError("an Auth is installed on this app already; one app takes one, with several providers")
    gate = _Gate(auth, app, PublicPaths(public), docs)
    # The last one is the innermost: CORSMiddleware stands outside, whether it is added before or after.
    app.user_middleware.append(Middleware(cast(Any, _Installed), gate=gate))
    app.exception_handlers.setdefault(Refusal, cast(Any, answer))
    app.exception_handlers.setdefault(EarlyRefusal, cast(Any, answer))
    document(auth, app, gate.is_public, docs_client_id)


class _Installed(JWTMiddleware):
    def __init__(self, app: ASGIApp, *, gate: "_Gate") -> None:
        options: dict[str, Any] = {
            **gate.auth.options,
            "public": gate.is_public,
            "allow_anonymous": gate.allow_anonymous,
        }
        super().__init__(_Inside(app, gate), **options)
        # All apps of this Auth share one, so that its dependencies also know the credentials of another app.
        self.refuser = gate.auth.refuser
        self.check_routes = gate.check_routes
        """For the command ``check``, which looks for mistakes before an app starts."""
        self._named = gate.named

    @property
    def public_entries(self) -> tuple[str, ...]:
        return self._named


def _is_ours(entry: Middleware) -> bool:
    kind: Any = entry.cls
    return kind is _Installed


class _Gate:
    """Which requests of an app need no token?"""

    def __init__(self, auth: Authority, app: FastAPI, public: PublicPaths, docs: bool) -> None:
        self.auth = auth
        self.app = app
        also: Any = auth.options.get("public", ())
        more = PublicRequests(also) if callable(also) else PublicPaths(also)  # pyright: ignore[reportArgumentType]
        self._public = (public, more)
        self.named = (*public.entries, *(more.entries if isinstance(more, PublicPaths) else ()))
        """The public paths, without those that a function decides about."""
        self._docs = docs
        self._anonymous = auth.options.get("allow_anonymous", False)
        # By path, method and endpoint: two routes can have the same path. An endpoint need not be hashable.
        self._told: dict[tuple[str, str | None, int], object] = {}
        self.allow_anonymous: bool | Callable[[Scope], bool] = self._anonymous is True or self._may_be_anonymous

    def is_public(self, scope: Scope) -> bool:
        """Whether a path that was named, an ``auth_router`` or the documentation answers the request of ``scope``."""
        if any(scope in public for public in self._public):
            return True
        selected = select(self.app, scope)
        return selected is not None and (is_open(selected.endpoint) or (self._docs and self._is_docs(selected)))

    def check_routes(self) -> None:
        """Raise ``RuntimeError`` if a route is not guarded as its author meant it to be."""
        if not _is_ours(self.app.user_middleware[-1]):
            raise RuntimeError("a middleware was put behind that of auth.install(app); use app.add_middleware(...)")
        check_routes(self.auth, self.app)

    def _is_docs(self, selected: Selected) -> bool:
        app = self.app
        places = (app.openapi_url, app.docs_url, app.swagger_ui_oauth2_redirect_url, app.redoc_url)
        # Only FastAPI's own routes count, not another route with the same path.
        is_fastapis = getattr(selected.endpoint, "__module__", None) == FastAPI.__module__
        return selected.app is app and selected.path in places and is_fastapis

    def _may_be_anonymous(self, scope: Scope) -> bool:
        if self._anonymous and ask("allow_anonymous", cast(Any, self._anonymous), scope):
            return True
        selected = select(self.app, scope)
        if selected is None or selected.dependant is None or not selected.overrides:
            return False
        if not opens(self.auth, selected.dependant, selected.overrides):
            return False
        path, method, endpoint = selected.path, scope.get("method"), selected.endpoint
        if (path, method, id(endpoint)) not in self._told:
            self._told[path, method, id(endpoint)] = endpoint
            self.auth.events.tell(GuardReplaced(path=path, method=method))
        replacement: Any = selected.overrides.get(cast(Any, self.auth))
        scope[OPENED] = replacement if isinstance(replacement, AsUser) else True
        return True


class _Inside:
    """Stands between the middleware and the app, and looks at the routes before the first request gets there.

    It looks again if routes have been added since, or if ``requires`` has decorated something.
    """

    def __init__(self, app: ASGIApp, gate: _Gate) -> None:
        self._app = app
        self._gate = gate
        self._checked: tuple[int, int] | None = None
        self._guards = _Guards()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if OPENED in scope and isinstance(scope[OPENED], AsUser):
            # Before any dependency, so that `request.user` and `requires` know the user.
            scope[OPENED].enter(scope)
        if kind == "lifespan":
            await self._check_at_startup(receive, send)
        else:
            found = (len(self._gate.app.router.routes), count_guarded())
            if found != self._checked:
                self._gate.check_routes()
                self._checked = found
        if kind == "http" and scope["method"] not in _WITHOUT_BODY:
            refusal = self._refusal_of_upload(scope)
            if refusal is not None:
                await self._gate.auth.refuser(refusal, scope, receive, send)
                return
            receive = _BodyGuard(scope, receive, self._guards)
        await self._app(scope, receive, send)

    def _refusal_of_upload(self, scope: Scope) -> Refusal | None:
        # FastAPI answers some of these with 400 before it has received anything, so they are refused even earlier.
        # Selecting a route twice would be too slow for all requests, but costs an upload little.
        if not any(name == b"content-type" and value[:9].lower() == b"multipart" for name, value in scope["headers"]):
            return None
        selected = select(self._gate.app, scope)
        if selected is None or selected.dependant is None:
            return None
        there = {**scope, "app": selected.app}
        return _refusal(there, self._guards.of(selected.dependant, selected.overrides))

    async def _check_at_startup(self, receive: Receive, send: Send) -> None:
        try:
            self._gate.check_routes()
        except RuntimeError as error:
            await receive()
            # Raised alone, it would tell the server that the app knows no lifespan.
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise


# FastAPI reads the body of a GET, too, if the route declares one.
_WITHOUT_BODY = frozenset({"HEAD", "OPTIONS"})


class _BodyGuard:
    """A ``receive`` that checks the scopes of the selected route before FastAPI reads the first part of a body.

    FastAPI reads and parses it before any dependency runs. Whatever is checked here is checked again there: this
    decides only which error comes first.
    """

    __slots__ = ("_guards", "_is_checked", "_receive", "_scope")

    def __init__(self, scope: Scope, receive: Receive, guards: "_Guards") -> None:
        self._scope = scope
        self._receive = receive
        self._guards = guards
        self._is_checked = False

    async def __call__(self) -> Any:
        if not self._is_checked:
            self._is_checked = True
            refusal = _refusal(self._scope, self._guards.of_route(self._scope))
            if refusal is not None:
                answer_here(self._scope)
                raise EarlyRefusal(refusal)
        return await self._receive()


_Check: TypeAlias = Callable[[Scope], Refusal | None]
_Checks: TypeAlias = tuple[_Check, ...]


def _refusal(scope: Scope, checks: _Checks) -> Refusal | None:
    for check in checks:
        refusal = check(scope)
        if refusal is not None:
            return refusal
    return None


class _Guards:
    """The checks of each route's guards, remembered because finding them takes longer than asking them."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Dependant, _Checks]] = {}

    def of_route(self, scope: Scope) -> _Checks:
        """The checks of the guards that will run for the route that was selected for ``scope``."""
        # Of an included router, FastAPI notes what the route is there; its own `dependant` lacks what the router adds.
        route = scope.get("route")
        context = (scope.get("fastapi") or {}).get("effective_route_context")
        # That of a mount stays there while a route of the mounted app runs.
        if context is not None and context.original_route is route:
            route = context
        dependant = getattr(route, "dependant", None)
        return () if dependant is None else self.of(dependant, getattr(scope.get("app"), "dependency_overrides", {}))

    def of(self, dependant: Dependant, overrides: Overrides) -> _Checks:
        """The checks of the guards that run for the route of ``dependant``."""
        if overrides:
            return tuple(_checks_that_run(dependant, overrides))
        # Kept together with its object: otherwise another object could get the same id.
        known = self._known.get(id(dependant))
        if known is None:
            if len(self._known) >= MAX_ROUTES:
                self._known.clear()
            known = self._known[id(dependant)] = (dependant, tuple(_checks_that_run(dependant, {})))
        return known[1]


MAX_ROUTES = 4096
"""Routes whose guards are remembered."""


def _checks_that_run(dependant: Dependant, overrides: Overrides) -> Iterator[_Check]:
    for child in dependant.dependencies:
        call = child.call
        if overrides and call is not None and call in overrides:
            replacement = overrides[call]
            if isinstance(replacement, AsUser):
                yield partial(replacement.refusal, scopes=demanded_scopes(child))
            continue
        guard = unwrap(call)
        if isinstance(guard, Guard):
            yield partial(guard.refusal, scopes=demanded_scopes(child))
        elif isinstance(guard, Requirement):
            yield guard.demand.refusal
        yield from _checks_that_run(child, overrides)
