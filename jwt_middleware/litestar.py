"""How is a Litestar handler guarded? ``guards=[requires("orders:write")]`` on an app, a router or a handler.

``request.user`` and ``request.auth`` work as they are: Litestar reads them from the ASGI scope.
"""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeAlias

from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, WebSocketException
from litestar.handlers import BaseRouteHandler

from .demand import Demand
from .glue import Answer, check

Guard: TypeAlias = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], None]


def requires(
    *scopes: str,
    any_of: str | Iterable[str] | None = None,
    provider: str | Iterable[str] | None = None,
    acr: str | Iterable[str] | None = None,
    max_age: float | None = None,
) -> Guard:
    """A guard for Litestar. The arguments are those of ``jwt_middleware.requires``.

    A refusal is an ``HTTPException`` with our status and challenge, which Litestar answers in its own form; our code is
    in its ``extra``. A WebSocket is closed with our close code.
    """
    demand = Demand(scopes, any_of, provider, acr, max_age)

    def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        scope: Any = connection.scope
        answer = check(demand, scope)
        if answer is not None:
            refuse(answer, connection)

    return guard


def refuse(answer: Answer, connection: ASGIConnection[Any, Any, Any, Any]) -> NoReturn:
    """Raise the exception with which Litestar gives ``answer``."""
    scope: Any = connection.scope
    if scope["type"] == "websocket":
        raise WebSocketException(detail=answer.code, code=answer.close_code)
    raise HTTPException(
        detail=answer.content["error_description"],
        status_code=answer.status,
        headers=answer.headers,
        extra={"error": answer.content["error"], "code": answer.code},
    )
