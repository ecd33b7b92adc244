"""Which framework calls a function that ``requires`` guards, and what can a guard do there?"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from importlib import import_module
from inspect import Parameter, isawaitable, ismodule, signature
from types import FunctionType, MethodType
from typing import Any, get_origin

from starlette.concurrency import run_in_threadpool

from .glue import Answer

_PASSING = frozenset({"blacksheep", "django", "litestar"})
"""Frameworks that pass a request with the ASGI scope. For each there is a module of ours with ``refuse``."""

_INSTEAD = {
    "ariadne": 'check info.context["request"].auth.scopes in it',
    "blacksheep": "let it take the request, or use requires of jwt_middleware.blacksheep",
    "falcon": 'check request.scope["auth"].scopes in it',
    "fastmcp": "write auth=require_scopes(...) with require_scopes of fastmcp.server.auth",
    "litestar": "let it take the request, or write guards=[requires(...)] with requires of jwt_middleware.litestar",
    "mcp": "use require_scopes of jwt_middleware.mcp",
    "quart": "use requires of jwt_middleware.quart",
    "sanic": 'check request.transport.scope["auth"].scopes in it',
    "socketio": 'check (await server.get_session(sid))["user"].scopes in it',
    "strawberry": "write permission_classes=[requires(...)] with requires of jwt_middleware.strawberry",
}
"""The code to write instead if a framework passes a function nothing that has the ASGI scope."""

_INSTEAD_OF_CLASS = {
    "blacksheep": "guard its handlers with requires of jwt_middleware.blacksheep",
    "channels": "guard what its as_asgi() returns",
    "django": "use requires of jwt_middleware.django",
    "litestar": "write guards = [requires(...)] in it, with requires of jwt_middleware.litestar",
    "quart": "write decorators = [requires(...)] in it, with requires of jwt_middleware.quart",
    "rest_framework": "use requires of jwt_middleware.django",
}
"""What to write instead of a decorator above a class of a framework."""


def check_is_no_class(endpoint: object) -> None:
    """Raise ``TypeError``, which says what to write instead, for a class that ``requires`` cannot guard."""
    if isinstance(endpoint, type):
        packages = map(_package, endpoint.__mro__)
        instead = next((_INSTEAD_OF_CLASS[package] for package in packages if package in _INSTEAD_OF_CLASS), None)
        if instead is not None:
            raise TypeError(f"requires(...) cannot guard the class {endpoint.__name__}: {instead}")
        raise TypeError(f"requires(...) decorates endpoints, and {endpoint!r} is not one")


def check_is_not_routed(function: Callable[..., Any]) -> None:
    """Raise ``TypeError`` if a router has registered ``function``: a guard around it would guard nothing.

    The routers of BlackSheep mark the functions that they register. An app of Quart is found among the names of the
    function's module.
    """
    is_taken = getattr(function, "route_handler", None) is True
    for value in list(getattr(function, "__globals__", {}).values()):
        if any(_package(kind) == "quart" for kind in type(value).__mro__):
            views = getattr(value, "view_functions", {}).values()
            is_taken = is_taken or any(view is function for view in views)
    if is_taken:
        raise TypeError(
            "requires(...) above the decorator of a router guards nothing, because the router calls the unguarded "
            f"{getattr(function, '__qualname__', function)!r}; place it below that decorator"
        )


def takes_foreign_request(function: Callable[..., Any]) -> bool:
    """Whether ``function`` asks a framework other than Starlette for its request.

    Raises ``TypeError``, which says what to write instead, if its framework will pass nothing with an ASGI scope.
    The framework shows in the annotations of the parameters. If no parameter can be a request, it shows in the names
    that the function's module has imported.
    """
    names = getattr(function, "__globals__", {})
    parameters = list(signature(function).parameters.values())
    annotated = {_package(_resolve(parameter.annotation, names)) for parameter in parameters}
    if annotated & _PASSING:
        return True
    around = {_package(value) for value in list(names.values())}
    if around & {"fastapi", "starlette"}:
        around = set()
    # Sync views of Django REST framework cannot await the guard, nor can the result of method_decorator(), which first
    # applies a decorator to a dummy.
    if "rest_framework" in annotated | around or function.__module__ == "django.utils.decorators":
        raise TypeError("requires(...) cannot guard this view of Django: use requires of jwt_middleware.django")
    if any(map(_may_be_request, parameters)):
        if around & _PASSING:
            return True
        # An endpoint of Starlette takes nothing but its request; an ASGI app begins with its scope.
        if sum(map(_may_be_request, parameters)) == 1 or parameters[0].name == "scope":
            return False
    for framework, instead in _INSTEAD.items():
        if framework in annotated | around:
            raise TypeError(f"requires(...) finds no request in this function of {framework}: {instead}")
    return False


def find_foreign_request(arguments: Iterable[Any]) -> Any:
    """The first of ``arguments`` that is a request of such a framework, or None."""
    for argument in arguments:
        if _package(argument) in _PASSING and isinstance(getattr(argument, "scope", None), MutableMapping):
            return argument
    return None


def call_in_framework(function: Callable[..., Any], request: Any) -> Callable[..., Awaitable[Any]]:
    """A sync ``function`` as the framework of ``request`` calls one from a coroutine."""
    if _package(request) == "django":
        from asgiref.sync import sync_to_async

        # Django keeps one database connection per thread, and closes only that of its own thread.
        called: Callable[..., Awaitable[Any]] = sync_to_async(function, thread_sensitive=True)
        return called
    return partial(run_in_threadpool, function)


async def refuse_in_framework(answer: Answer, request: Any) -> Any:
    """Give ``answer`` as the framework of ``request`` does: the response to return, or an exception."""
    refused = import_module(f"jwt_middleware.{_package(request)}").refuse(answer, request)
    return await refused if isawaitable(refused) else refused


def _may_be_request(parameter: Parameter) -> bool:
    """Whether a framework may pass its request here without being asked by an annotation."""
    return parameter.annotation is Parameter.empty and parameter.name not in _NO_REQUESTS


_NO_REQUESTS = frozenset({"self", "root", "sid"})


def _resolve(annotation: Any, names: dict[str, Any]) -> Any:
    if isinstance(annotation, str):
        annotation = names.get(annotation.partition("[")[0])
    return get_origin(annotation) or annotation


def _package(value: Any) -> str:
    """The package that a module, a class, a function or an object comes from."""
    # Only these are asked directly: a proxy may raise an exception, whatever it is asked.
    if isinstance(value, MethodType):
        value = value.__func__
    if ismodule(value):
        name: Any = value.__name__
    else:
        name = value.__module__ if isinstance(value, type | FunctionType) else type(value).__module__
    return name.partition(".")[0] if isinstance(name, str) else ""
