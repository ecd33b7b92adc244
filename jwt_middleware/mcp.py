"""How does a server of the Model Context Protocol stand behind the middleware? For the ``mcp`` SDK and FastMCP."""

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._support.arguments import check_strings
from .demand import Demand, middleware_of
from .errors import ConfigurationError
from .identity import JWTCredentials
from .mcp_calls import MAX_CALLS, Call, CallDemands, Kind, NamedScopes, TooManyCalls, find_calls
from .mcp_functions import remember_scopes, scopes_of_function
from .middleware import JWTMiddleware
from .resource import ProtectedResource

try:
    from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken
    from mcp.server.transport_security import TransportSecuritySettings
    from mcp.shared.exceptions import MCPError
    from pydantic import Field
except ImportError as error:
    raise ConfigurationError(
        "jwt_middleware.mcp needs the mcp SDK, version 2 or later; install asgi-jwt-middleware[mcp]"
    ) from error

Function = TypeVar("Function", bound=Callable[..., Any])
MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request's body that are read to find out what it calls."""


def protect(
    server: Any,
    resource: ProtectedResource | str,
    *,
    scopes: Mapping[str, str] | Collection[str] | None = None,
    tools: NamedScopes | None = None,
    resources: NamedScopes | None = None,
    prompts: NamedScopes | None = None,
    max_body: int = MAX_BODY,
    **options: Any,
) -> JWTMiddleware:
    """An ASGI app that serves ``server`` to clients with a good token, and tells others how to get one.

    ``server``
        An ``MCPServer`` of the SDK or a ``FastMCP``, which is served at the path of the resource, or an ASGI app that
        serves MCP, such as ``server.sse_app()``.
    ``resource``
        The URL of the server as its clients write it, for instance ``https://api.example/mcp``, or a
        ``ProtectedResource``. It is the audience of the tokens (RFC 8707) unless ``audience`` says otherwise.
    ``scopes``
        The scopes of the resource, if ``resource`` is a URL; see ``ProtectedResource``.
    ``tools``, ``resources``, ``prompts``
        The scopes that a call needs: ``{"delete": ["files:write"]}``. A resource is named by its URI, or by its
        template. ``*`` at the end of a name, and ``{name}`` in it, stand for any text. The scopes of
        ``require_scopes`` and of FastMCP's ``auth=require_scopes(...)`` are added.
    ``max_body``
        Bytes of a body that are read to find out what is called; a longer body is answered with 413. Default 4 MiB.
    ``options``
        Every other keyword of ``JWTMiddleware``.

    Scopes are checked before the call is dispatched, because its answer may be a stream that has already begun. The
    check reads the body, every message of a batch, and never believes a header about it. Subscribing to a resource, and
    completing the arguments of a prompt or a template, needs the scopes that the resource, prompt or template itself
    needs. Streams end with their token.

    A tool of a FastMCP server can make calls itself, as a search transform does. These inner calls need their own
    scopes: ``protect`` adds a middleware to the FastMCP server, which checks them, and does nothing if the server is
    used without ``protect``. An inner call on a mounted server needs every scope that ``tools``, ``resources`` or
    ``prompts`` names.

    An ``MCPServer`` or a ``FastMCP`` answers requests whose ``Host``, and ``Origin`` if there is one, are those of the
    resource or of loopback. If your proxy replaces ``Host``, or pages of other origins are clients, pass the ASGI app
    instead of the server: ``server.streamable_http_app(transport_security=...)``, ``server.http_app(...)``.

    Raises ``ConfigurationError``.
    """
    if isinstance(resource, str):
        resource = ProtectedResource(resource, scopes=scopes or ())
    elif scopes is not None:
        raise ConfigurationError("scopes: give them to the ProtectedResource")
    demands: dict[Kind, CallDemands] = {
        "tools": CallDemands("tools", tools),
        "resources": CallDemands("resources", resources),
        "prompts": CallDemands("prompts", prompts),
    }
    app = _served(server, resource.identifier)
    fastmcp = _fastmcp_of(server)
    if fastmcp is not None:
        from .fastmcp_inner_calls import watch

        watch(fastmcp)
    checked = _CallCheck(app, server, fastmcp, demands, max_body)
    with_user = _SDKUser(AuthContextMiddleware(checked), _user_class(fastmcp), resource.identifier)
    return JWTMiddleware(with_user, resource=resource, close_streams_on_expiry=True, **options)


def require_scopes(*scopes: str) -> Callable[[Function], Function]:
    """A decorator for the functions of tools, resources and prompts: each call needs all of ``scopes``.

    ``protect(server)`` answers a call without them with a 403 that clients understand. The function checks the
    scopes again: a call that reaches it in another way fails with an error that names them.

    Place it below ``@server.tool()``. If it stands above, the server calls the unguarded function. Then only
    ``protect`` checks, and only if it gets the server itself and not an app that serves it.
    """
    needed = check_strings("scopes", scopes)

    def decorate(function: Function) -> Function:
        def check() -> None:
            token = get_access_token()
            granted = () if token is None else token.scopes
            if not set(needed) <= set(granted):
                raise MCPError(_FORBIDDEN, f"insufficient_scope: this needs {' '.join(needed)}")

        if iscoroutinefunction(function):

            @wraps(function)
            async def guarded_async(*args: Any, **kwargs: Any) -> Any:
                check()
                return await function(*args, **kwargs)

            guarded: Any = guarded_async
        else:

            @wraps(function)
            def guarded_sync(*args: Any, **kwargs: Any) -> Any:
                check()
                return function(*args, **kwargs)

            guarded = guarded_sync
        # The SDK reads parameters from the signature, not through wrappers.
        guarded.__signature__ = signature(function)
        for one in (function, guarded):
            remember_scopes(one, needed)
        return cast(Function, guarded)

    return decorate


_FORBIDDEN: Final = -32001
"""An error code of the server's own (JSON-RPC 2.0 section 5.1)."""


def _served(server: Any, identifier: str) -> ASGIApp:
    """The ASGI app of ``server``, at the path of the resource ``identifier``."""
    # Clients write host names in lower case.
    parts = urlsplit(identifier)
    path, host = unquote(parts.path) or "/", parts.netloc.lower()
    origin = f"{parts.scheme}://{host}"
    # A page cannot forge Host or Origin, but it can have a name of its own lead to this server (DNS rebinding). So MCP
    # demands that servers check both. By itself the SDK accepts requests for loopback alone, and FastMCP checks
    # neither.
    if callable(getattr(server, "http_app", None)):
        hosts, origins = _fastmcp_settings()
        app = server.http_app(
            path=path,
            host_origin_protection="auto",
            allowed_hosts=[parts.hostname, *hosts],
            allowed_origins=[origin, *origins],
        )
        return cast(ASGIApp, app)
    if callable(getattr(server, "streamable_http_app", None)):
        security = TransportSecuritySettings(
            allowed_hosts=[host, f"{parts.hostname}:*", *(f"{local}:*" for local in _LOOPBACK)],
            allowed_origins=[origin, *(f"http://{local}:*" for local in _LOOPBACK)],
        )
        return cast(ASGIApp, server.streamable_http_app(streamable_http_path=path, transport_security=security))
    if not callable(server):
        raise ConfigurationError(f"server must be an MCPServer, a FastMCP or an ASGI app, not {type(server).__name__}")
    return cast(ASGIApp, server)


_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def _fastmcp_settings() -> tuple[list[str], list[str]]:
    """The hosts and origins that FastMCP's own settings allow."""
    from fastmcp import settings

    return settings.http_allowed_hosts or [], settings.http_allowed_origins or []


def _fastmcp_of(server: Any) -> Any:
    """The ``FastMCP`` that ``server`` is, or the only one behind it if it is an app; None if there is none."""
    found, waiting, seen = list[Any](), [server], list[Any]()
    while waiting:
        app = waiting.pop()
        if any(app is one for one in seen):
            continue
        seen.append(app)
        made_by = getattr(getattr(app, "state", None), "fastmcp_server", app)
        if hasattr(made_by, "http_app"):
            found.append(made_by)
            continue
        # A middleware and a Mount have an app, and an app has routes.
        routes = getattr(app, "routes", None)
        waiting += [getattr(app, "app", None), *(routes if isinstance(routes, list) else ())]
    return found[0] if found and all(one is found[0] for one in found) else None


def _user_class(fastmcp: Any) -> type[AccessToken]:
    base: type[AccessToken] = AccessToken
    if fastmcp is not None:
        from fastmcp.server.auth import AccessToken as FastMCPAccessToken

        base = FastMCPAccessToken

    class RedactedAccessToken(base):  # type: ignore[misc,valid-type]  # a class that is chosen at run time
        """The SDK's access token, whose representation does not hold the raw token."""

        token: str = Field(repr=False)

    return RedactedAccessToken


class _SDKUser:
    """Puts the SDK's own user into the scope, which ``get_access_token()`` reads."""

    def __init__(self, app: ASGIApp, access_token: type[AccessToken], resource: str) -> None:
        self._app = app
        self._access_token = access_token
        self._resource = resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        credentials = scope.get("auth")
        if isinstance(credentials, JWTCredentials) and credentials.token is not None:
            scope["user"] = AuthenticatedUser(self._made(scope, credentials))
        await self._app(scope, receive, send)

    def _made(self, scope: Scope, credentials: JWTCredentials) -> AccessToken:
        token = credentials.token
        assert token is not None
        claims = token.claims
        presented = middleware_of(scope).presented(scope)
        named = (claims.get(name) for name in ("client_id", "azp"))
        client = next((name for name in named if isinstance(name, str)), token.subject or "")
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience or []
        return self._access_token(
            token="" if presented is None else presented.raw.decode("ascii", "replace"),
            client_id=client,
            scopes=list(credentials.scopes),
            expires_at=token.expires_at,
            resource=self._resource if self._resource in audiences else None,
            subject=token.subject,
            claims=claims,
        )


class _CallCheck:
    """Refuses calls whose scopes the token does not have, before they are dispatched."""

    def __init__(
        self, app: ASGIApp, server: Any, fastmcp: Any, demands: Mapping[Kind, CallDemands], max_body: int
    ) -> None:
        self._app = app
        self._server = server
        self._fastmcp = fastmcp
        self._demands = demands
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or _is_form(scope):
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(receive)
            if body is None:
                await JSONResponse(_rpc_error(-32600, "The request is too large."), 413)(scope, receive, send)
                return
            calls = find_calls(body)
        except TooManyCalls:
            text = f"The request calls more than {MAX_CALLS} tools, resources and prompts, or their names are too long."
            await JSONResponse(_rpc_error(-32600, text), 400)(scope, receive, send)
            return
        except (ValueError, RecursionError):
            await JSONResponse(_rpc_error(-32700, "The request is not JSON."), 400)(scope, receive, send)
            return
        needed: dict[str, None] = {}
        ways: dict[Call, frozenset[int]] = {}
        for call in calls:
            scopes, ways[call] = await self._find_needed(call)
            needed.update(dict.fromkeys(scopes))
        refusal = Demand(tuple(needed)).refusal(scope) if needed else None
        if refusal is not None:
            await scope["auth"].refuser(refusal, scope, receive, send)
            return
        if self._fastmcp is not None:
            from .fastmcp_inner_calls import KEY, CheckedCalls

            scope[KEY] = CheckedCalls(self._fastmcp, ways, self._find_needed_inside)
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if it is too large. Raises ``ValueError`` if the client disconnects before its end."""
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise ValueError("the body has no end")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                return None
            chunks.append(chunk)
            more = message.get("more_body", False)
        return b"".join(chunks)

    async def _find_needed(self, call: Call) -> tuple[list[str], frozenset[int]]:
        """The scopes that ``call`` needs, of which some may come twice, and the mounted servers that get it."""
        demands = self._demands[call.kind]
        needed = [*demands.scopes_for(call.name)]
        if self._fastmcp is not None:
            from .fastmcp_demands import find_demands

            reached = await find_demands(self._fastmcp, call)
            by_listed = () if reached.listed is None else demands.scopes_for(reached.listed)
            return [*needed, *by_listed, *reached.scopes], reached.way
        return [*needed, *scopes_of_function(self._server, call)], frozenset()

    async def _find_needed_inside(self, server: Any, call: Call) -> tuple[tuple[str, ...], frozenset[int]]:
        """The same if a tool makes ``call`` on the FastMCP ``server``; each scope once."""
        if server is self._fastmcp:
            needed, way = await self._find_needed(call)
        else:
            # A mounted server does not know the names by which clients call its components. So the call needs the
            # scopes of every name.
            from .fastmcp_demands import find_demands

            reached = await find_demands(server, call)
            needed, way = [*self._demands[call.kind].all_scopes(), *reached.scopes], reached.way
        return tuple(dict.fromkeys(needed)), way


def _is_form(scope: Scope) -> bool:
    # The SDK answers a form with 415, but the app's own routes may take it.
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    return len(types) == 1 and types[0].partition(b";")[0].strip().lower() in _FORMS


_FORMS: Final = frozenset({b"application/x-www-form-urlencoded", b"multipart/form-data"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body``, and then what ``receive`` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _rpc_error(code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": None}
