"""How is an endpoint guarded? ``requires`` decorates functions, classes and ASGI apps, and is a FastAPI dependency."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import suppress
from functools import partial, wraps
from inspect import (
    Parameter,
    Signature,
    isasyncgenfunction,
    isclass,
    iscoroutinefunction,
    isfunction,
    isgeneratorfunction,
    ismethod,
    signature,
)
from typing import Any, TypeGuard, TypeVar, overload
from weakref import WeakKeyDictionary, WeakSet

from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from .demand import Demand, middleware_of
from .frameworks import (
    call_in_framework,
    check_is_no_class,
    check_is_not_routed,
    find_foreign_request,
    refuse_in_framework,
    takes_foreign_request,
)
from .glue import check

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def requires(
    *scopes: str,
    any_of: str | Iterable[str] | None = None,
    provider: str | Iterable[str] | None = None,
    acr: str | Iterable[str] | None = None,
    max_age: float | None = None,
) -> "Requirement":
    """A decorator for endpoints that demand a user with all of ``scopes``. All other arguments are keywords.

    ``scopes``
        Any texts, for instance ``orders:write`` or ``Site Manager``. Without any, every user gets in.
    ``any_of``
        One scope or several, of which the user needs one.
    ``provider``
        The name of the provider, or names of several, whose tokens get in.
    ``acr``
        The authentication context class, or several, with one of which the user must have logged in: the claim ``acr``
        (OpenID Connect Core 1.0, section 2).
    ``max_age``
        Seconds since the login, by the claim ``auth_time``. A token without this claim, or with one that is not a
        number or lies in the future by more than the provider's leeway, counts as too old.

    An anonymous request is refused with ``missing_token`` (401). A user is anonymous if
    ``scope["user"].is_authenticated`` is anything but True. A user who lacks a scope is refused with
    ``insufficient_scope`` (403); the challenge names every scope that the endpoint demands and that RFC 6749 section
    3.3 can spell. A login that is too weak or too old is refused with ``insufficient_user_authentication`` (401, RFC
    9470), and another provider's token with ``wrong_issuer`` (401).

    Scopes count, whoever granted them: any Starlette ``AuthCredentials`` in ``scope["auth"]``, such as those of a
    middleware for API keys that stands inside ``JWTMiddleware``. ``provider``, ``acr`` and ``max_age`` are about a
    token, and refuse a request without one.

    The answer is the middleware's own: its realm, its ``refusal_response``, on WebSockets its denial or close.

    Endpoints are functions (Starlette's, and FastAPI's whatever their parameters), methods of class endpoints,
    Starlette's ``HTTPEndpoint`` and ``WebSocketEndpoint`` classes, and ASGI apps, for instance in a ``Mount``. Place
    the decorator nearest the function: above ``@app.get``, it guards a function that the router never calls.

    A function that the router does not call itself, such as a FastAPI dependency, a helper, or a function inside
    another decorator, raises the refusal as an ``HTTPException`` or ``WebSocketException`` with the same status,
    challenge or close code, but without ``refusal_response``. So does ``Depends(requires(...))``, which returns
    ``scope["user"]``; it guards a FastAPI route, or a router, before the dependencies that stand behind it. In a
    middleware nothing handles these exceptions, and the answer is a 500.

    FastAPI runs the dependencies of an endpoint before the endpoint and its decorators. A refused FastAPI endpoint has
    returned a response: its dependencies with ``yield`` finish as after any other, and its background tasks run.

    Sync functions run in Starlette's thread pool, and are async once guarded: a caller, for instance with
    ``super().get()``, must await them, or nothing is checked.

    Raises ``ConfigurationError`` or ``TypeError`` for a demand that cannot be met, ``TypeError`` for an object that is
    no endpoint, and, at a request, ``RuntimeError`` if no ``JWTMiddleware`` is in front.
    """
    return Requirement(Demand(scopes, any_of, provider, acr, max_age))


class Requirement:
    """What ``requires`` returns: a decorator, and a dependency for FastAPI."""

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        """The demand that an endpoint or a request has to meet."""

    # FastAPI reads it, and passes the connection.
    __signature__ = Signature([Parameter("endpoint", Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)])

    @overload
    def __call__(self, endpoint: HTTPConnection) -> Any: ...
    @overload
    def __call__(self, endpoint: Endpoint) -> Endpoint: ...
    def __call__(self, endpoint: Any) -> Any:
        """Guard ``endpoint``. As a dependency, return the user of a connection, or raise the refusal."""
        if isinstance(endpoint, HTTPConnection):
            refusal = self.demand.refusal(endpoint.scope)
            if refusal is not None:
                raise middleware_of(endpoint.scope).refuser.exception(refusal, endpoint.scope)
            return endpoint.scope["user"]
        guarded: Any
        if isclass(endpoint) and issubclass(endpoint, HTTPEndpoint | WebSocketEndpoint):
            guarded = _guarded_class(endpoint, self.demand)
        elif isfunction(_unwrapped(endpoint)):
            guarded = _guarded_function(endpoint, self.demand)
        elif _is_app(endpoint):
            guarded = _GuardedApp(endpoint, self.demand)
        else:
            check_is_no_class(endpoint)
            raise TypeError(f"requires(...) decorates endpoints, and {endpoint!r} is not one")
        with suppress(TypeError):
            _guarded.add(_unwrapped(endpoint))
        _count()
        return guarded


def is_bypassed(endpoint: object) -> bool:
    """Whether a route that calls ``endpoint`` calls the unguarded function instead of the guarded one.

    That happens if ``@requires(...)`` stands above the decorator of the route. The attributes of an endpoint do not
    count, because decorators copy them.
    """
    try:
        return _unwrapped(endpoint) in _guarded
    except TypeError:
        return False


def count_guarded() -> int:
    """A number that changes whenever ``requires`` decorates something."""
    return _decorations


def _count() -> None:
    global _decorations
    _decorations += 1


_decorations = 0


def demands_of(endpoint: object) -> Iterator[Demand]:
    """The demands of every ``requires`` among the decorators of a function, if the decorators name what they wrap."""
    while isfunction(endpoint := _unwrapped(endpoint)):
        if endpoint in _demands:
            yield _demands[endpoint]
        endpoint = getattr(endpoint, "__wrapped__", None)


_demands: WeakKeyDictionary[Any, Demand] = WeakKeyDictionary()
"""What each guarded function demands, by the function that ``requires`` made."""

_guarded: WeakSet[Any] = WeakSet()
"""What was guarded. An object that cannot be weakly referenced is not a function for a route."""


def _guarded_class(endpoint: type[HTTPEndpoint] | type[WebSocketEndpoint], demand: Demand) -> type[Any]:
    async def dispatch(self: HTTPEndpoint | WebSocketEndpoint) -> None:
        refusal = demand.refusal(self.scope)
        if refusal is None:
            await endpoint.dispatch(self)  # type: ignore[arg-type]  # an instance of a subclass of just this one
        else:
            await middleware_of(self.scope).refuser(refusal, self.scope, self.receive, self.send)

    names = ("__module__", "__qualname__", "__doc__")
    return type(endpoint.__name__, (endpoint,), {"dispatch": dispatch, **{n: getattr(endpoint, n) for n in names}})


def _guarded_function(function: Callable[..., Any], demand: Demand) -> Callable[..., Any]:
    original = _unwrapped(function)
    if isgeneratorfunction(original) or isasyncgenfunction(original):
        raise TypeError("requires(...) cannot answer for a generator; return a StreamingResponse, or guard its router")
    check_is_not_routed(original)
    is_async = iscoroutinefunction(original)

    @wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop(_CONNECTION, None) if injected else None
        if len(args) == 3 and isinstance(args[0], MutableMapping) and callable(args[1]) and callable(args[2]):
            return await _GuardedApp(function, demand)(*args)
        connection = next((arg for arg in (given, *args, *kwargs.values()) if isinstance(arg, HTTPConnection)), None)
        if connection is None:
            request = find_foreign_request((*args, *kwargs.values()))
            if request is None:
                raise RuntimeError("requires() found no request among the endpoint's arguments")
            answer = check(demand, request.scope)
            if answer is not None:
                return await refuse_in_framework(answer, request)
            return await (function if is_async else call_in_framework(function, request))(*args, **kwargs)
        refusal = demand.refusal(connection.scope)
        if refusal is None:
            return await function(*args, **kwargs) if is_async else await run_in_threadpool(function, *args, **kwargs)
        refuser = middleware_of(connection.scope).refuser
        if not _is_called_by_router(guarded, args, connection):
            raise refuser.exception(refusal, connection.scope)
        if not isinstance(connection, WebSocket):
            return await refuser.response(refusal, connection.scope)
        if connection.application_state is WebSocketState.CONNECTING:
            return await refuser(refusal, connection.scope, connection.receive, connection.send)
        if connection.application_state is WebSocketState.CONNECTED:
            await refuser.close(refusal, connection.scope, connection.send)
        return None

    signed = signature(function)
    injected = not any(_is_connection(parameter, original) for parameter in signed.parameters.values())
    injected = injected and not takes_foreign_request(original)
    if injected:
        guarded.__signature__ = _with_connection(signed)  # type: ignore[attr-defined]  # inspect reads it
    _demands[guarded] = demand
    return guarded


class _GuardedApp:
    def __init__(self, app: ASGIApp, demand: Demand) -> None:
        self._app = app
        self._demand = demand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket", "lifespan"):
            raise RuntimeError(f"requires() knows no credentials for the scope type {scope['type']!r}")
        refusal = self._demand.refusal(scope) if scope["type"] != "lifespan" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await middleware_of(scope).refuser(refusal, scope, receive, send)


def _is_app(endpoint: Any) -> TypeGuard[ASGIApp]:
    if not callable(endpoint) or isclass(endpoint):
        return False
    try:
        kinds = [parameter.kind for parameter in signature(endpoint).parameters.values()]
    except ValueError:
        return False
    return len(kinds) == 3 and set(kinds) <= {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}


def _unwrapped(endpoint: Any) -> Any:
    """The function that partials and bound methods call; unlike other decorators, they do nothing else."""
    while isinstance(endpoint, partial) or ismethod(endpoint):
        endpoint = endpoint.__func__ if ismethod(endpoint) else endpoint.func
    return endpoint


def _is_called_by_router(guarded: Callable[..., Any], args: tuple[Any, ...], connection: HTTPConnection) -> bool:
    # A refusal that is returned is a value like any other: only the router is sure to send it. Any other caller, such
    # as a decorator around the endpoint, may drop it and go on.
    called = connection.scope.get("endpoint")
    if args and type(args[0]) is called:
        called = _handler(args[0], connection)
    return _unwrapped(called) is guarded


def _handler(endpoint: Any, connection: HTTPConnection) -> Any:
    """The method of a class endpoint that Starlette's dispatch calls and whose answer it takes, or None."""
    dispatch = getattr(type(endpoint), "dispatch", None)
    if isinstance(connection, WebSocket):
        connecting = connection.application_state is WebSocketState.CONNECTING
        return endpoint.on_connect if connecting and dispatch is WebSocketEndpoint.dispatch else None
    method = connection.scope.get("method", "")
    if dispatch is not HTTPEndpoint.dispatch or method not in _METHODS:
        return None
    return getattr(endpoint, "get" if method == "HEAD" and not hasattr(endpoint, "head") else method.lower(), None)


# Starlette calls method_not_allowed() for any other, though the class may have a method of that name.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# FastAPI passes what the signature asks for: so an endpoint that has no request gets one, and never sees it.
_CONNECTION = "jwt_middleware_connection"


def _is_connection(parameter: Parameter, function: Any) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        # FastAPI itself complains of a name that only type checkers know.
        annotation = getattr(function, "__globals__", {}).get(annotation)
    return isclass(annotation) and issubclass(annotation, HTTPConnection)


def _with_connection(signed: Signature) -> Signature:
    parameters = list(signed.parameters.values())
    end = len(parameters) - (bool(parameters) and parameters[-1].kind is Parameter.VAR_KEYWORD)
    parameters.insert(end, Parameter(_CONNECTION, Parameter.KEYWORD_ONLY, annotation=HTTPConnection))
    return signed.replace(parameters=parameters)
