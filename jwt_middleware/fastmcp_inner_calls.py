"""Does a token have the scopes for the calls that a tool of a FastMCP server makes?

A tool can call other tools, read resources and render prompts by names that no request states: FastMCP's search
transforms, ``ResourcesAsTools``, ``PromptsAsTools`` and code mode consist of tools that take a name as an argument.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from fastmcp.exceptions import InsufficientScopeError
from fastmcp.server.dependencies import get_http_request
from fastmcp.server.middleware import Middleware
from fastmcp.server.middleware.middleware import CallNext, MiddlewareContext

from .demand import Demand
from .mcp_calls import Call

KEY: Final = "jwt_middleware.calls"
"""Where the scope of a request holds its ``CheckedCalls``."""


@dataclass(frozen=True, slots=True)
class CheckedCalls:
    """What was checked before a request was passed on, and how its other calls are checked."""

    server: Any
    """The ``FastMCP`` that answers the request."""
    calls: frozenset[Call]
    """The calls that the request itself names."""
    find_needed: Callable[[Any, Call], Awaitable[tuple[str, ...]]]
    """The scopes that a call needs on a server: on ``server``, or on one that is mounted in it."""


def watch(server: Any) -> None:
    """Have ``server``, a ``FastMCP``, check the calls that its tools make."""
    if not any(isinstance(middleware, _InnerCalls) for middleware in server.middleware):
        server.add_middleware(_InnerCalls())


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
    server, busy = context.fastmcp_context.fastmcp, _busy.get()
    await _check(call, server, is_inner=id(server) in busy)
    reset = _busy.set(busy | {id(server)})
    try:
        return await call_next(context)
    finally:
        _busy.reset(reset)


_busy: ContextVar[frozenset[int]] = ContextVar("jwt_middleware_busy_servers", default=frozenset())
"""The servers that are answering a call. If one of them gets another call meanwhile, a tool made it.

If a mounted server is not among them, its call comes from the server around it, which has checked it.
"""


async def _check(call: Call, server: Any, *, is_inner: bool) -> None:
    try:
        scope = get_http_request().scope
    except RuntimeError:
        return
    checked: CheckedCalls | None = scope.get(KEY)
    if checked is None or (call in checked.calls if server is checked.server else not is_inner):
        return
    needed = await checked.find_needed(server, call)
    refusal = Demand(needed).refusal(scope) if needed else None
    if refusal is not None:
        scope["auth"].refuser.tell(refusal, scope)
        raise InsufficientScopeError([*needed], message=f"{refusal.code}: {call.name} needs {' '.join(needed)}")
