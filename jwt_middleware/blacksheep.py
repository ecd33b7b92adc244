"""How does a BlackSheep app see its user, and how are its handlers guarded?"""

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, isclass, iscoroutinefunction, signature
from typing import Any, TypeVar, cast, get_type_hints

from blacksheep import Content, Request, Response, WebSocket
from guardpost import AuthenticationHandler, Identity

from .demand import Demand
from .frameworks import check_is_no_class, check_is_not_routed
from .glue import Answer, check
from .identity import JWTCredentials

Handler = TypeVar("Handler", bound=Callable[..., Any])


class JWTIdentity(Identity):
    """``request.user`` of a request with a good token: its claims, and the user that ``load_user`` returned."""

    def __init__(self, claims: dict[str, Any], user: Any) -> None:
        super().__init__(claims, "JWT")
        self.user = user
        """``scope["user"]``."""


class JWTAuthentication(AuthenticationHandler):
    """Sets ``request.user``: ``app.use_authentication().add(JWTAuthentication())``."""

    def authenticate(self, context: Any) -> Identity | None:
        """The identity of the request ``context``; None without a token."""
        auth = context.scope["auth"]
        token = auth.token if isinstance(auth, JWTCredentials) else None
        context.user = None if token is None else JWTIdentity(token.claims, context.scope["user"])
        identity: Identity | None = context.user
        return identity


def requires(
    *scopes: str,
    any_of: str | Iterable[str] | None = None,
    provider: str | Iterable[str] | None = None,
    acr: str | Iterable[str] | None = None,
    max_age: float | None = None,
) -> Callable[[Handler], Handler]:
    """A decorator for handlers of requests and WebSockets, below the router's own decorator.

    The arguments are those of ``jwt_middleware.requires``. A refusal is a response with our status, challenge and JSON.
    A WebSocket is closed with our close code.
    """
    demand = Demand(scopes, any_of, provider, acr, max_age)

    def decorate(handler: Handler) -> Handler:
        # BlackSheep has found the handlers of a controller before its class is decorated.
        check_is_no_class(handler)
        check_is_not_routed(handler)
        signed, hints = signature(handler), get_type_hints(handler)
        parameters = list(signed.parameters.values())
        known = [n for n, p in enumerate(parameters) if _is_connection(p.name, hints.get(p.name, p.annotation))]
        is_added = not known
        # BlackSheep passes what the signature asks for, by position.
        place = len(parameters) if is_added else known[0]
        if is_added:
            parameters.append(Parameter(_ADDED, Parameter.POSITIONAL_OR_KEYWORD, annotation=Request))

        @wraps(handler)
        async def guarded(*args: Any) -> Any:
            connection = args[place]
            answer = check(demand, connection.scope)
            if answer is None:
                result = handler(*(args[:-1] if is_added else args))
                return await result if iscoroutinefunction(handler) else result
            return await refuse(answer, connection)

        attached: Any = guarded
        attached.__signature__ = signed.replace(parameters=parameters)
        attached.__annotations__ = {**hints, _ADDED: Request} if is_added else hints
        return cast(Handler, guarded)

    return decorate


async def refuse(answer: Answer, connection: Request | WebSocket) -> Response | None:
    """The response with which BlackSheep gives ``answer``; a WebSocket is closed."""
    if isinstance(connection, WebSocket):
        await connection.close(answer.close_code, answer.code)
        return None
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    return Response(answer.status, headers, Content(b"application/json", answer.body))


_ADDED = "jwt_middleware_request"


def _is_connection(name: str, annotation: Any) -> bool:
    if isclass(annotation) and issubclass(annotation, Request | WebSocket):
        return annotation is not Parameter.empty
    return annotation is Parameter.empty and name == "request"
