"""How does a Django app on ASGI see its user, and how are its views guarded?

``UserMiddleware`` in ``MIDDLEWARE`` sets ``request.user`` and ``request.auser``. ``requires`` guards views. A consumer
of Channels is an ASGI app: ``jwt_middleware.requires`` guards it, and its ``scope["user"]`` works as it is.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import wraps
from inspect import isclass
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import apps
from django.http import HttpRequest, HttpResponse
from django.views import View
from starlette.types import Scope

from .demand import Demand
from .glue import Answer, check

Guarded = TypeVar("Guarded", bound=Callable[..., Any])
GetResponse = Callable[[HttpRequest], Any]


class UserMiddleware:
    """Sets ``request.user`` and ``request.auser`` to the user of the token.

    An anonymous user is Django's ``AnonymousUser`` if ``django.contrib.auth`` is installed. In ``MIDDLEWARE`` this
    class stands in the place of Django's ``AuthenticationMiddleware``, or below it.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response
        self._anonymous: Callable[[], Any] | None = None
        if apps.is_installed("django.contrib.auth"):
            from django.contrib.auth.models import AnonymousUser

            self._anonymous = AnonymousUser
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        """Answer ``request``; the result is awaitable if the rest of Django's middleware is async."""
        scope = scope_of(request)
        user = scope["user"]
        if self._anonymous is not None and scope["auth"].token is None:
            user = self._anonymous()

        async def auser() -> Any:
            return user

        # As attributes that Django's own middleware sets, of types that only a project with its apps knows.
        vars(request).update(user=user, auser=auser)
        response: HttpResponse | Awaitable[HttpResponse] = self._get_response(request)
        return response


def requires(
    *scopes: str,
    any_of: str | Iterable[str] | None = None,
    provider: str | Iterable[str] | None = None,
    acr: str | Iterable[str] | None = None,
    max_age: float | None = None,
) -> Callable[[Guarded], Guarded]:
    """A decorator for views: functions, class-based views and their methods, sync or async.

    The arguments are those of ``jwt_middleware.requires``. A refusal is an ``HttpResponse`` with our status, challenge
    and JSON. Sync views stay sync. Views of Django REST framework are guarded in the same way.
    """
    demand = Demand(scopes, any_of, provider, acr, max_age)

    def decorate(view: Guarded) -> Guarded:
        if isclass(view) and issubclass(view, View):
            return cast(Guarded, _guarded_class(view, demand))
        call = cast(Callable[..., Any], view)
        if iscoroutinefunction(call):

            @wraps(call)
            async def guarded_async(*args: Any, **kwargs: Any) -> Any:
                return _refusal(demand, args, kwargs) or await call(*args, **kwargs)

            return cast(Guarded, guarded_async)

        @wraps(call)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            refusal = _refusal(demand, args, kwargs)
            if refusal is None:
                return call(*args, **kwargs)
            return _awaitable(refusal) if _is_awaited(call, args) else refusal

        return cast(Guarded, guarded)

    return decorate


def _guarded_class(view: type[View], demand: Demand) -> type[View]:
    def dispatch(self: View, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        refusal = _refusal(demand, (request,), kwargs)
        if refusal is None:
            return view.dispatch(self, request, *args, **kwargs)
        return _awaitable(refusal) if self.view_is_async else refusal

    names = ("__module__", "__qualname__", "__doc__")
    return type(view.__name__, (view,), {"dispatch": dispatch, **{name: getattr(view, name) for name in names}})


async def _awaitable(response: HttpResponse) -> HttpResponse:
    return response


def refuse(answer: Answer, request: HttpRequest) -> HttpResponse:
    """The response with which Django gives ``answer``."""
    return HttpResponse(answer.body, status=answer.status, content_type="application/json", headers=answer.headers)


def _refusal(demand: Demand, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> HttpResponse | None:
    """The response to a view with these arguments; None if the request meets ``demand``."""
    # If a method is guarded, the view itself comes first. An app's own code may pass the request by name.
    request: Any = next((one for one in args[:2] if not isinstance(one, View)), kwargs.get("request"))
    answer = check(demand, scope_of(request))
    return None if answer is None else refuse(answer, request)


def _is_awaited(call: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether ``call``, which is not async, is the ``dispatch`` of an async view, whose result Django awaits."""
    # method_decorator() makes a partial of the bound method.
    view = args[0] if args and isinstance(args[0], View) else getattr(getattr(call, "func", None), "__self__", None)
    return isinstance(view, View) and view.view_is_async and getattr(call, "__name__", "") == "dispatch"


def scope_of(request: Any) -> Scope:
    """The ASGI scope of a request of Django, or of Django REST framework; raises ``RuntimeError`` without one."""
    scope: Scope | None = getattr(request, "scope", None)
    if scope is None:
        raise RuntimeError("this request has no ASGI scope: put JWTMiddleware around get_asgi_application()")
    return scope
