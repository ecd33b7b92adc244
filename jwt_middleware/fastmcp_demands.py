"""Which scopes does a FastMCP server itself demand of a call?

Those in ``auth=`` of its components and of its middleware, and those of ``require_scopes`` of ``jwt_middleware.mcp``.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from fastmcp.server.context import Context, reset_transport, set_transport
from fastmcp.server.providers.addressing import parse_hashed_backend_name

from .fastmcp_inner_calls import watch
from .mcp_calls import Call
from .mcp_functions import find_scopes


@dataclass(frozen=True, slots=True)
class Reached:
    """What a call reaches on a FastMCP server."""

    listed: str | None
    """The name, URI or template by which the server lists it, which is not always the one that is called.

    None if there is no such thing.
    """
    scopes: list[str]
    """The scopes that FastMCP demands for it."""
    way: frozenset[int]
    """The ``id`` of each mounted server that gets the call from the server around it."""


async def find_demands(server: Any, call: Call) -> Reached:
    """What ``call`` reaches on the FastMCP ``server``.

    Every server on the way, and all that are mounted in it, check inner calls from now on.
    """
    listed, scopes, way = None, list[str](), set[int]()
    while server is not None:
        watch(server)
        found = await _find(server, call)
        if found is None:
            break
        listed = _listed(found) if listed is None else listed
        scopes += [*_demanded(found, found.auth), *find_scopes(getattr(_original(found), "fn", None))]
        for middleware in server.middleware:
            scopes += _demanded(found, getattr(middleware, "auth", None))
        server, call = _mounted(found, call)
        if server is not None:
            way.add(id(server))
    return Reached(listed, scopes, frozenset(way))


async def _find(server: Any, call: Call) -> Any:
    """The tool, resource, template or prompt, whether the token at hand may call it or not."""
    async with Context(fastmcp=server):
        found = await _look_up(server, call)
        if found is None:
            # FastMCP hides what a token may not call, and the client is to learn what it lacks. For the one transport
            # that has no tokens, FastMCP checks nothing.
            reset = set_transport("stdio")
            try:
                found = await _look_up(server, call)
            finally:
                reset_transport(reset)
    return found


async def _look_up(server: Any, call: Call) -> Any:
    async for found in _candidates(server, call):
        if found is not None:
            return found
    return None


async def _candidates(server: Any, call: Call) -> AsyncIterator[Any]:
    if call.kind == "tools":
        yield await server.get_tool(call.name)
        # An app's own tools have a second name, which no list shows.
        hashed = parse_hashed_backend_name(call.name)
        if hashed is not None:
            yield await server.get_tool_by_hash(*hashed)
    elif call.kind == "prompts":
        yield await server.get_prompt(call.name)
    else:
        yield await server.get_resource(call.name)
        yield await server.get_resource_template(call.name)


def _listed(found: Any) -> str:
    return str(getattr(found, "uri_template", None) or getattr(found, "uri", None) or found.name)


def _mounted(found: Any, call: Call) -> tuple[Any, Call]:
    """The mounted server that ``found`` comes from, and the call as it sees it; None if ``found`` is the server's own.

    A component of a mounted server, as FastMCP shows it, has lost its ``auth``, and only private attributes say where
    it comes from.
    """
    found = _original(found)
    named = (getattr(found, name, None) for name in ("_original_name", "_original_uri", "_original_uri_template"))
    name = next((value for value in named if isinstance(value, str)), call.name)
    if call.kind == "resources":
        # FastMCP looks for a template without the query of a URI.
        name = _QUERY.sub("", name)
    return getattr(found, "_server", None), replace(call, name=name)


_QUERY = re.compile(r"\{\?[^{}]*\}")


def _original(found: Any) -> Any:
    """The component behind one that a transform made."""
    while hasattr(found, "parent_tool"):
        found = found.parent_tool
    return found


def _demanded(component: Any, checks: Any) -> list[str]:
    """The scopes that ``checks`` demand of ``component``."""
    several = checks if isinstance(checks, list) else [] if checks is None else [checks]
    # A check of another kind may refuse for a reason that no scope cures. Then no scope is named.
    if not all(hasattr(check, "required_scopes") for check in several):
        return []
    tagged = [check for check in several if getattr(check, "tag", None) is None or check.tag in component.tags]
    return [scope for check in tagged for scope in sorted(check.required_scopes)]
