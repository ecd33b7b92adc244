"""How does a Quart app see its user, and how are its views guarded?"""

from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec

from quart import Response, current_app, has_websocket_context, request, websocket
from starlette.types import Scope
from werkzeug.local import LocalProxy

from .demand import Demand
from .frameworks import check_is_no_class, check_is_not_routed
from .glue import check

Parameters = ParamSpec("Parameters")


def _scope() -> Scope:
    connection: Any = websocket if has_websocket_context() else request
    scope: Scope = connection.scope
    return scope


current_user: Any = LocalProxy(lambda: _scope()["user"])
"""The user of the request, or of the WebSocket, that is being served."""


def requires(
    *scopes: str,
    any_of: str | Iterable[str] | None = None,
    provider: str | Iterable[str] | None = None,
    acr: str | Iterable[str] | None = None,
    max_age: float | None = None,
) -> Callable[[Callable[Parameters, Any]], Callable[Parameters, Awaitable[Any]]]:
    """A decorator for views and WebSocket handlers, below ``@app.route`` or ``@app.websocket``.

    The arguments are those of ``jwt_middleware.requires``. A refusal is a response with our status, challenge and JSON;
    a WebSocket is denied with it, or closed with our close code if the server cannot deny.
    """
    demand = Demand(scopes, any_of, provider, acr, max_age)

    def decorate(view: Callable[Parameters, Any]) -> Callable[Parameters, Awaitable[Any]]:
        check_is_no_class(view)
        check_is_not_routed(view)

        @wraps(view)
        async def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
            scope = _scope()
            answer = check(demand, scope)
            if answer is None:
                return await current_app.ensure_async(view)(*args, **kwargs)
            if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or ()):
                return await websocket.close(answer.close_code, answer.code)
            return Response(answer.body, answer.status, answer.headers, content_type="application/json")

        return guarded

    return decorate
