"""How does a server of the Model Context Protocol stand behind the middleware? For the ``mcp`` SDK and FastMCP."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, Final, TypeAlias, TypeVar, cast

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._support.arguments import check_strings
from .errors import ConfigurationError, InsufficientScope, MissingToken
from .identity import JWTCredentials
from .middleware import JWTMiddleware
from .reading.sources import authorization_line
from .resource import ProtectedResource

try:
    from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken
    from mcp.shared.exceptions import MCPError
    from pydantic import Field
except ImportError as error:
    raise ConfigurationError(
        "jwt_middleware.mcp needs the mcp SDK, version 2 or later; install asgi-jwt-middleware[mcp]"
    ) from error

Function = TypeVar("Function", bound=Callable[..., Any])
Demands: TypeAlias = Mapping[str, Collection[str]]

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request's body that are read to find out what it calls."""


def protect(
    server: Any,
    resource: ProtectedResource | str,
    *,
    scopes: Mapping[str, str] | Collection[str] | None = None,
    tools: Demands | None = None,
    resources: Demands | None = None,
    prompts: Demands | None = None,
    max_body: int = MAX_BODY,
    **options: Any,
) -> JWTMiddleware:
    """An ASGI app that serves ``server`` to clients with a good token, and tells others how to get one.

    ``server``
        An ``MCPServer`` of the SDK, a ``FastMCP``, or an ASGI app that serves MCP.
    ``resource``
        The URL of the server as its clients write it, for instance ``https://api.example/mcp``, or a
        ``ProtectedResource``. It is the audience of the tokens (RFC 8707) unless ``audience`` says otherwise.
    ``scopes``
        The scopes of the resource, if ``resource`` is a URL; see ``ProtectedResource``.
    ``tools``, ``resources``, ``prompts``
        The scopes that a call needs: ``{"delete": ["files:write"]}``. A resource is named by its URI. A name that ends
        with ``*`` stands for all names that begin with what precedes it. What FastMCP's ``auth=require_scopes(...)``
        demands is added.
    ``max_body``
        Bytes of a body that are read to find out what is called; a longer body is answered with 413. Default 4 MiB.
    ``options``
        Every other keyword of ``JWTMiddleware``.

    Scopes are checked before the call is dispatched, because its answer may be a stream that has already begun. The
    check reads the body, every message of a batch, and never believes a header about it. Streams end with their token.
    Raises ``ConfigurationError``.
    """
    if isinstance(resource, str):
        resource = ProtectedResource(resource, scopes=scopes or ())
    elif scopes is not None:
        raise ConfigurationError("scopes: give them to the ProtectedResource")
    demands = {
        "tools/call": _checked("tools", tools),
        "resources/read": _checked("resources", resources),
        "resources/subscribe": _checked("resources", resources),
        "prompts/get": _checked("prompts", prompts),
    }
    user = _user_class(server)
    app = _CallCheck(_served(server), server, demands, max_body)
    with_user = _SDKUser(AuthContextMiddleware(app), user, resource.identifier)
    return JWTMiddleware(with_user, resource=resource, close_streams_on_expiry=True, **options)


def require_scopes(*scopes: str) -> Callable[[Function], Function]:
    """A decorator for the functions of tools, resources and prompts: each call needs all of ``scopes``.

    It stands below ``@server.tool()``. A call without them fails with an error that names the scopes. By then the
    response may have begun: name them in ``protect(tools=...)`` as well, which answers a 403 that clients understand.
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
        return cast(Function, guarded)

    return decorate


_FORBIDDEN: Final = -32001
"""An error code of the server's own (JSON-RPC 2.0 section 5.1)."""


def _served(server: Any) -> ASGIApp:
    """The ASGI app of ``server``."""
    for name in ("http_app", "streamable_http_app"):
        make = getattr(server, name, None)
        if callable(make):
            return cast(ASGIApp, make())
    if not callable(server):
        raise ConfigurationError(f"server must be an MCPServer, a FastMCP or an ASGI app, not {type(server).__name__}")
    return cast(ASGIApp, server)


def _checked(name: str, demands: Demands | None) -> dict[str, tuple[str, ...]]:
    if demands is None:
        return {}
    if not isinstance(demands, Mapping):
        raise ConfigurationError(f"{name} must be a dict from names to lists of scopes, not {type(demands).__name__}")
    return {called: check_strings(f"{name}[{called!r}]", scopes, at_least=0) for called, scopes in demands.items()}


def _user_class(server: Any) -> type[AccessToken]:
    base: type[AccessToken] = AccessToken
    if hasattr(server, "http_app"):
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
        line = authorization_line(scope["headers"]) or b""
        named = (claims.get(name) for name in ("client_id", "azp"))
        client = next((name for name in named if isinstance(name, str)), token.subject or "")
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience or []
        return self._access_token(
            token=line.partition(b" ")[2].strip().decode("ascii", "replace"),
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
        self, app: ASGIApp, server: Any, demands: Mapping[str, Mapping[str, tuple[str, ...]]], max_body: int
    ) -> None:
        self._app = app
        self._server = server
        self._demands = demands
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or _is_form(scope):
            await self._app(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            await JSONResponse(_rpc_error(-32600, "The request is too large."), 413)(scope, receive, send)
            return
        try:
            called = _calls(body)
        except (ValueError, RecursionError):
            await JSONResponse(_rpc_error(-32700, "The request is not JSON."), 400)(scope, receive, send)
            return
        needed: dict[str, None] = {}
        for method, name in called:
            needed.update(dict.fromkeys(await self._needed(method, name)))
        credentials: JWTCredentials = scope["auth"]
        if not set(needed) <= set(credentials.scopes):
            token = credentials.token
            refusal = MissingToken() if token is None else InsufficientScope(needed).about(token)
            await credentials.refuser(refusal, scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if it is too large."""
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                break
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                return None
            chunks.append(chunk)
            more = message.get("more_body", False)
        return b"".join(chunks)

    async def _needed(self, method: str, name: str) -> Iterable[str]:
        demands = self._demands[method]
        found = [*demands.get(name, ())]
        for pattern, scopes in demands.items():
            if pattern.endswith("*") and name.startswith(pattern[:-1]):
                found += scopes
        find = _FINDERS[method]
        for provider in getattr(self._server, "providers", ()):
            component = await getattr(provider, find)(name)
            if component is not None:
                found += _demanded(component, component.auth)
                for middleware in self._server.middleware:
                    found += _demanded(component, getattr(middleware, "auth", None))
        return found


_FINDERS: Final = {
    "tools/call": "get_tool",
    "resources/read": "get_resource",
    "resources/subscribe": "get_resource",
    "prompts/get": "get_prompt",
}
"""FastMCP's way to find what a call is for."""

_NAMES: Final = {"tools/call": "name", "resources/read": "uri", "resources/subscribe": "uri", "prompts/get": "name"}
"""The parameter that names what is called."""


def _calls(body: bytes) -> list[tuple[str, str]]:
    """Method and name of every call in ``body``; raises ``ValueError`` if it can be read in more than one way."""
    # As floats: what Python refuses to read, such as a number of 5,000 digits, another parser may read.
    parsed = json.loads(body, object_pairs_hook=_once, parse_int=float)
    calls = []
    for message in parsed if isinstance(parsed, list) else [parsed]:
        method = message.get("method") if isinstance(message, dict) else None
        if isinstance(method, str) and method in _NAMES:
            parameters = message.get("params")
            name = parameters.get(_NAMES[method]) if isinstance(parameters, dict) else None
            if isinstance(name, str):
                calls.append((method, name))
    return calls


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _demanded(component: Any, checks: Any) -> list[str]:
    """The scopes that FastMCP's ``checks`` demand of ``component``."""
    several = checks if isinstance(checks, list) else [] if checks is None else [checks]
    # A check of another kind may refuse for a reason that no scope cures. Then no scope is named.
    if not all(hasattr(check, "required_scopes") for check in several):
        return []
    tagged = [check for check in several if getattr(check, "tag", None) is None or check.tag in component.tags]
    return [scope for check in tagged for scope in sorted(check.required_scopes)]


def _is_form(scope: Scope) -> bool:
    # What the SDK answers with 415; routes of the app's own may take it.
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    return len(types) == 1 and types[0].lower().startswith(
        (b"application/x-www-form-urlencoded", b"multipart/form-data")
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body``, and then what ``receive`` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _rpc_error(code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": None}
