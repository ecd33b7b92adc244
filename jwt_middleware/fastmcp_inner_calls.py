"""Does a token have the scopes for the calls that a tool of a FastMCP server makes?

A tool can call other tools, read resources and render prompts by names that no request states: FastMCP's search
transforms, ``ResourcesAsTools``, ``PromptsAsTools`` and code mode consist of tools that take a name as an argument.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from fastmcp.exceptions import InsufficientScopeError
from fastmcp.server.dependencies import get_http_request
from fastmcp.server.middleware import Middleware
from fastmcp.server.middleware.middleware import CallNext, MiddlewareContext
from fastmcp.server.providers.fastmcp_provider import FastMCPProvider

from .demand import Demand
from .mcp_calls import Call

KEY: Final = "jwt_middleware.calls"
"""Where the scope of a request holds its ``CheckedCalls``."""


@dataclass(frozen=True, slots=True)
class CheckedCalls:
    """What was checked before a request was passed on, and how its other calls are checked."""

    server: Any
    """The ``FastMCP`` that answers the request."""
    ways: Mapping[Call, frozenset[int]]
    """The calls that the request itself names, each with the ``id`` of the mounted servers that get it."""
    find_needed: Callable[[Any, Call], Awaitable[tuple[tuple[str, ...], frozenset[int]]]]
    """The scopes that a call needs on a server, and the ``id`` of the servers mounted in that which get it."""


def watch(server: Any) -> None:
    """Have ``server``, a ``FastMCP``, and all that are mounted in it check the calls that tools make."""
    waiting, seen = [server], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if not any(isinstance(middleware, _InnerCalls) for middleware in one.middleware):
            one.add_middleware(_InnerCalls())
        waiting += filter(None, map(_mounted_by, one.providers))


def _mounted_by(provider: Any) -> Any:
    """The server that ``provider`` mounts; None if it mounts none."""
    # A provider with transforms holds another one, to which only a private attribute leads.
    while hasattr(provider, "_inner"):
        provider = provider._inner
    return provider.server if isinstance(provider, FastMCPProvider) else None


class _InnerCalls(Middleware):
    """Refuses a call that a tool makes if the token of the request lacks a scope that the call needs.

    Without a request, as for a client in the same process, there is no token and nothing is checked.
    """

    async def on_call_tool(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        return await _pass_on(Call("tools", context.message.name), context, call_next)

    async def on_read_resource(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        return await _pass_on(Call("resources", str(context.message.uri)), context, call_next)

    async def on_get_prompt(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        return await _pass_on(Call("prompts", context.message.name), context, call_next)


async def _pass_on(call: Call, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
    assert context.fastmcp_context is not None
    reset = _way.set(await _check(call, context.fastmcp_context.fastmcp))
    try:
        return await call_next(context)
    finally:
        _way.reset(reset)


_way: ContextVar[frozenset[int]] = ContextVar("jwt_middleware_way", default=frozenset())
"""The mounted servers that will get the present call from the server around them, which has checked it.

If another server gets a call, or one of them gets a second one, a tool made it.
"""


async def _check(call: Call, server: Any) -> frozenset[int]:
    """The mounted servers that get ``call`` next. Raises ``InsufficientScopeError`` if the token lacks a scope."""
    try:
        scope = get_http_request().scope
    except RuntimeError:
        return frozenset()
    checked: CheckedCalls | None = scope.get(KEY)
    if checked is None:
        return frozenset()
    if server is checked.server and call in checked.ways:
        return checked.ways[call]
    way = _way.get()
    if id(server) in way:
        return way - {id(server)}
    needed, way = await checked.find_needed(server, call)
    refusal = Demand(needed).refusal(scope) if needed else None
    if refusal is not None:
        scope["auth"].refuser.tell(refusal, scope)
        raise InsufficientScopeError([*needed], message=f"{refusal.code}: {call.name} needs {' '.join(needed)}")
    return way
