"""requires(): which scopes does an endpoint demand? For functions, classes and ASGI apps, HTTP and WebSocket."""

from collections.abc import Callable, Iterable, MutableMapping
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
from typing import Any, TypeGuard, TypeVar, cast
from weakref import WeakSet

from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from .errors import ConfigurationError, InsufficientScope, MissingToken, Refusal
from .identity import JWTCredentials
from .verifying.claims import is_scope

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def requires(*scopes: str, any_of: str | Iterable[str] | None = None) -> Callable[[Endpoint], Endpoint]:
    """A decorator for endpoints that need a user with all of ``scopes`` and, where given, one of ``any_of``.

    Nobody is refused with ``missing_token`` (401), a user with ``insufficient_scope`` (403) and the scopes that are
    missing, as the middleware answers: its realm, its ``refusal_response``, on WebSockets its denial or close. Without
    scopes, any user will do.

    Endpoints are functions (Starlette's, and FastAPI's whatever their parameters), methods of class endpoints,
    Starlette's ``HTTPEndpoint`` and ``WebSocketEndpoint`` classes, and ASGI apps, for instance in a ``Mount``. Place it
    nearest the function: below ``@app.get``, which else registers the unguarded one.

    A function that the router does not itself call, such as a FastAPI dependency, a helper, or one inside another
    decorator, raises the refusal as an ``HTTPException`` or ``WebSocketException`` with the same status, challenge or
    close code, but without ``refusal_response``. In a middleware nobody handles these: the answer is a 500.

    Sync functions run in Starlette's thread pool, and are async once guarded: who calls one, say as ``super().get()``,
    must await it, or nothing is checked. A refused FastAPI endpoint has returned a response: its dependencies with
    ``yield`` finish as after any other (those that commit, commit), and its background tasks run.

    FastAPI also takes it as a dependency: ``Depends(requires("orders:read"))`` gives ``scope["user"]``, or raises the
    refusal as above.

    Only ``scope["auth"]`` is read; without ``JWTMiddleware`` in front it is a ``RuntimeError``. Raises
    ``ConfigurationError`` for what cannot be a scope (RFC 6749 3.3), ``TypeError`` for what is no endpoint.
    """
    demand = _Demand(scopes, any_of)

    def decorate(endpoint: Any = None, **injected: Any) -> Any:
        if endpoint is None and _CONNECTION in injected:
            return _admit(injected[_CONNECTION], demand)
        guarded: Any
        if isclass(endpoint) and issubclass(endpoint, HTTPEndpoint | WebSocketEndpoint):
            guarded = _guarded_class(endpoint, demand)
        elif isfunction(_unwrapped(endpoint)):
            guarded = _guarded_function(endpoint, demand)
        elif _is_app(endpoint):
            guarded = _GuardedApp(endpoint, demand)
        else:
            raise TypeError(f"requires(...) decorates endpoints, and {endpoint!r} is none; is it used as a dependency?")
        with suppress(TypeError):
            _guarded.add(_unwrapped(endpoint))
        return guarded

    # What FastAPI passes to a dependency. It would take the name `endpoint` for a parameter of the query.
    decorate.__signature__ = Signature(  # type: ignore[attr-defined]  # inspect reads it
        [Parameter(_CONNECTION, Parameter.KEYWORD_ONLY, annotation=HTTPConnection)]
    )
    return cast(Callable[[Endpoint], Endpoint], decorate)


def is_bypassed(endpoint: object) -> bool:
    """Whether a route that calls ``endpoint`` calls the function that ``requires()`` guards, and not the guarded one.

    That happens where ``@requires(...)`` stands above the decorator of the route. The names of an endpoint's
    attributes are not looked at, since decorators copy them.
    """
    try:
        return _unwrapped(endpoint) in _guarded
    except TypeError:
        return False


_guarded: WeakSet[Any] = WeakSet()
"""What was guarded. What cannot be referred to weakly is no function that a route could be declared with."""


def _admit(connection: HTTPConnection, demand: "_Demand") -> Any:
    refusal = demand.refusal(connection.scope)
    if refusal is not None:
        raise _credentials(connection.scope).refuser.exception(refusal, connection.scope)
    return connection.scope["user"]


class _Demand:
    def __init__(self, scopes: tuple[str, ...], any_of: str | Iterable[str] | None) -> None:
        self._all = scopes
        several: Any = any_of if isinstance(any_of, Iterable) and not isinstance(any_of, str) else [any_of]
        self._any_of = () if any_of is None else tuple(several)
        if any_of is not None and not self._any_of:
            raise ConfigurationError("any_of must name a scope: nobody has one of none")
        for scope in (*self._all, *self._any_of):
            if not isinstance(scope, str):
                raise TypeError(f"requires() takes scopes, not {scope!r}; without any, write @requires()")
            if not is_scope(scope):
                raise ConfigurationError(f"{scope!r} cannot be a scope: one word of printable ASCII without quotes")

    def refusal(self, scope: Scope) -> Refusal | None:
        """What stands against the request of ``scope``, or None."""
        credentials = _credentials(scope)
        token = credentials.token
        if token is None:
            return MissingToken()
        missing = [name for name in self._all if name not in credentials.scopes]
        if self._any_of and not any(name in credentials.scopes for name in self._any_of):
            missing += self._any_of
        if not missing:
            return None
        return InsufficientScope(dict.fromkeys(missing)).about(token)


def _credentials(scope: Scope) -> JWTCredentials:
    credentials = scope.get("auth")
    if not isinstance(credentials, JWTCredentials):
        raise RuntimeError("requires() found no credentials: wrap the app in JWTMiddleware")
    return credentials


def _guarded_class(endpoint: type[HTTPEndpoint] | type[WebSocketEndpoint], demand: _Demand) -> type[Any]:
    async def dispatch(self: HTTPEndpoint | WebSocketEndpoint) -> None:
        refusal = demand.refusal(self.scope)
        if refusal is None:
            await endpoint.dispatch(self)  # type: ignore[arg-type]  # an instance of a subclass of just this one
        else:
            await _credentials(self.scope).refuser(refusal, self.scope, self.receive, self.send)

    names = ("__module__", "__qualname__", "__doc__")
    return type(endpoint.__name__, (endpoint,), {"dispatch": dispatch, **{n: getattr(endpoint, n) for n in names}})


def _guarded_function(function: Callable[..., Any], demand: _Demand) -> Callable[..., Any]:
    original = _unwrapped(function)
    if isgeneratorfunction(original) or isasyncgenfunction(original):
        raise TypeError("requires(...) cannot answer for a generator; return a StreamingResponse, or guard its router")
    is_async = iscoroutinefunction(original)

    @wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop(_CONNECTION, None) if injected else None
        if len(args) == 3 and isinstance(args[0], MutableMapping) and callable(args[1]) and callable(args[2]):
            return await _GuardedApp(function, demand)(*args)
        connection = next((arg for arg in (given, *args, *kwargs.values()) if isinstance(arg, HTTPConnection)), None)
        if connection is None:
            raise RuntimeError("requires() found no request among the endpoint's arguments")
        refusal = demand.refusal(connection.scope)
        if refusal is None:
            return await function(*args, **kwargs) if is_async else await run_in_threadpool(function, *args, **kwargs)
        refuser = _credentials(connection.scope).refuser
        if not _is_called_by_router(guarded, args, connection):
            raise refuser.exception(refusal, connection.scope)
        if not isinstance(connection, WebSocket):
            return await refuser.response(refusal, connection.scope)
        if connection.application_state is WebSocketState.CONNECTING:
            return await refuser(refusal, connection.scope, connection.receive, connection.send)
        if connection.application_state is WebSocketState.CONNECTED:
            await refuser.close(refusal, connection.send)
        return None

    signed = signature(function)
    injected = not any(_is_connection(parameter, original) for parameter in signed.parameters.values())
    if injected:
        guarded.__signature__ = _with_connection(signed)  # type: ignore[attr-defined]  # inspect reads it
    return guarded


class _GuardedApp:
    def __init__(self, app: ASGIApp, demand: _Demand) -> None:
        self._app = app
        self._demand = demand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket", "lifespan"):
            raise RuntimeError(f"requires() knows no credentials for the scope type {scope['type']!r}")
        refusal = self._demand.refusal(scope) if scope["type"] != "lifespan" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await _credentials(scope).refuser(refusal, scope, receive, send)


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
    # A refusal that is returned is a value like any other: only the router is sure to send it. Any other caller, be it
    # a decorator around the endpoint, may drop it and go on.
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


# Starlette asks method_not_allowed() for any other, though the class may have a method of that name.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# FastAPI passes what the signature asks for: so an endpoint that has no request gets one, and never sees it.
_CONNECTION = "jwt_middleware_connection"


def _is_connection(parameter: Parameter, function: Any) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        # A name that only type checkers know is FastAPI's to complain of.
        annotation = getattr(function, "__globals__", {}).get(annotation)
    return isclass(annotation) and issubclass(annotation, HTTPConnection)


def _with_connection(signed: Signature) -> Signature:
    parameters = list(signed.parameters.values())
    end = len(parameters) - (bool(parameters) and parameters[-1].kind is Parameter.VAR_KEYWORD)
    parameters.insert(end, Parameter(_CONNECTION, Parameter.KEYWORD_ONLY, annotation=HTTPConnection))
    return signed.replace(parameters=parameters)
