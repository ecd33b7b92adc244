"""How are fields of a Strawberry schema guarded, and how does a subscription authenticate by ``connection_init``?"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from graphql import GraphQLError
from starlette.types import Scope
from strawberry.exceptions import ConnectionRejectionError
from strawberry.permission import BasePermission

from .demand import Demand
from .errors import Refusal
from .glue import check
from .live.renewal import renew


class DemandPermission(BasePermission):
    """A permission that ``requires`` makes."""

    def __init__(self, demand: Demand) -> None:
        self._demand = demand

    def has_permission(self, source: Any, info: Any, **kwargs: Any) -> bool:
        """True; raises a ``GraphQLError`` whose extensions hold our code, the status and the challenge."""
        answer = check(self._demand, scope_of(info.context))
        if answer is None:
            return True
        extensions = {"code": answer.code, "status": answer.status, "headers": answer.headers}
        raise GraphQLError(answer.content["error_description"], extensions=extensions)


def requires(
    *scopes: str,
    any_of: str | Iterable[str] | None = None,
    provider: str | Iterable[str] | None = None,
    acr: str | Iterable[str] | None = None,
    max_age: float | None = None,
) -> Any:
    """A permission for ``permission_classes=[requires("orders:read")]`` of a field.

    The arguments are those of ``jwt_middleware.requires``. GraphQL answers a refused field with 200 and an entry in
    ``errors``; its ``extensions`` say what HTTP would have said.
    """
    demand = Demand(scopes, any_of, provider, acr, max_age)
    make: Callable[[], BasePermission] = lambda: DemandPermission(demand)  # noqa: E731  # Strawberry calls it like a class
    return make


class ConnectionInitToken:
    """A base before Strawberry's view: a WebSocket authenticates by the payload of ``connection_init``.

    The payload has the token as ``token``, or as ``Authorization`` with the scheme Bearer. The handshake must get
    through without one, by ``public`` or ``allow_anonymous``. A token that is refused closes the connection with 4403.
    """

    async def on_ws_connect(self, context: Any) -> Any:
        """Attach the user of the token in the payload, if there is one."""
        params = context["connection_params"] if isinstance(context, Mapping) else context.connection_params
        token = _token(params)
        if token is not None:
            try:
                await renew(scope_of(context), token)
            except Refusal as refusal:
                raise ConnectionRejectionError({"code": refusal.code}) from None
        view: Any = super()
        result: Awaitable[Any] = view.on_ws_connect(context)
        return await result


def scope_of(context: Any) -> Scope:
    """The ASGI scope of a Strawberry context, a dict or an object, of any of its ASGI integrations."""
    for name in ("request", "ws", "websocket", "connection"):
        connection = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
        # Channels keeps it one level deeper.
        for holder in (connection, getattr(connection, "consumer", None)):
            scope: Scope | None = getattr(holder, "scope", None)
            if scope is not None:
                return scope
    raise RuntimeError("the context has no request with an ASGI scope: give it the request under the name `request`")


def _token(params: Any) -> Any:
    if not isinstance(params, Mapping):
        return None
    token = params.get("token")
    if token is not None:
        return token
    for name, value in params.items():
        if isinstance(name, str) and name.lower() == "authorization" and isinstance(value, str):
            scheme, _, credentials = value.partition(" ")
            return credentials.strip() if scheme.lower() == "bearer" else None
    return None
