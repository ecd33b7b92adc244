"""Which scopes do the functions of an MCP server demand? Those that ``require_scopes`` names."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from inspect import ismethod
from typing import Any, Final
from weakref import WeakKeyDictionary

from .mcp_calls import Call, CallDemands

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


def scopes_of_function(server: Any, call: Call) -> Iterator[str]:
    """The scopes that the function of ``server``, an ``MCPServer``, that answers ``call`` demands; some may come twice.

    A tool and a prompt are looked up by their name. A URI can match several templates, so all resources are compared.
    """
    # The SDK has no public way from a name to its function.
    if call.kind != "resources":
        manager, method = _LOOKUPS[call.kind]
        look_up = getattr(getattr(server, manager, None), method, None)
        if look_up is not None:
            yield from find_scopes(getattr(look_up(call.name), "fn", None))
        return
    demanded: dict[str, list[str]] = {}
    for method, name in (("list_resources", "uri"), ("list_templates", "uri_template")):
        for one in getattr(getattr(server, "_resource_manager", None), method, list)():
            if scopes := [*find_scopes(getattr(one, "fn", None))]:
                demanded[str(getattr(one, name))] = scopes
    yield from CallDemands("resources", demanded).scopes_for(call.name)


_LOOKUPS: Final = {"tools": ("_tool_manager", "get_tool"), "prompts": ("_prompt_manager", "get_prompt")}
"""Where an ``MCPServer`` looks up what a client calls: its attribute, and the method of that."""
