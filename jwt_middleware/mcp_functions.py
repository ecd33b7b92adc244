"""Which scopes do the functions of an MCP server demand? Those that ``require_scopes`` names."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from inspect import ismethod
from typing import Any, Final
from weakref import WeakKeyDictionary

from .mcp_calls import Kind

_demanded: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()
"""The scopes of each function that was guarded, and of the one that guards it."""


def remember_scopes(function: Callable[..., Any], scopes: tuple[str, ...]) -> None:
    """Remember that each call of ``function`` needs ``scopes``."""
    with suppress(TypeError):
        # An object that cannot be weakly referenced cannot be the function of a tool.
        _demanded[function] = (*_demanded.get(function, ()), *scopes)


def find_scopes(function: Any) -> Iterator[str]:
    """The scopes that a call of ``function`` needs; some may come twice.

    Decorators below others count if those above set ``__wrapped__``. A decorator also counts if it was applied after
    the server had registered the function: the server calls the unguarded function, and nothing else checks the scopes.
    """
    while function is not None:
        with suppress(TypeError):
            yield from _demanded.get(function, ())
        function = function.__func__ if ismethod(function) else getattr(function, "__wrapped__", None)


def scopes_of_functions(server: Any, kind: Kind) -> dict[str, list[str]]:
    """The scopes that the functions of ``server``, an ``MCPServer``, demand, by name, URI or template."""
    demanded: dict[str, list[str]] = {}
    for manager, method, name in _LISTINGS[kind]:
        # The SDK has no public way from a name to its function.
        for one in getattr(getattr(server, manager, None), method, list)():
            if scopes := [*find_scopes(getattr(one, "fn", None))]:
                demanded[str(getattr(one, name))] = scopes
    return demanded


_LISTINGS: Final[dict[Kind, list[tuple[str, str, str]]]] = {
    "tools": [("_tool_manager", "list_tools", "name")],
    "resources": [
        ("_resource_manager", "list_resources", "uri"),
        ("_resource_manager", "list_templates", "uri_template"),
    ],
    "prompts": [("_prompt_manager", "list_prompts", "name")],
}
"""Where an ``MCPServer`` keeps what it lists: its attribute, the attribute's method, and the name that clients use."""
