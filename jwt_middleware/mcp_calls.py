"""Which tools, resources and prompts does a JSON-RPC body call, and which scopes do these calls need? Pure.

The methods are those of the Model Context Protocol, in all of its revisions.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote

from ._support.arguments import check_strings
from .errors import ConfigurationError

Kind: TypeAlias = Literal["tools", "resources", "prompts"]
NamedScopes: TypeAlias = Mapping[str, Collection[str]]

MAX_CALLS = 100
"""Calls in one body. A batch has fewer: the protocol has had none since its revision 2025-06-18."""
MAX_NAMES = 64 * 1024
"""Characters in the names of all calls in one body, in total. Each name is compared in several spellings."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a message is about: a tool or a prompt by its name, a resource by its URI."""

    kind: Kind
    name: str


class TooManyCalls(ValueError):
    """The body has more than ``MAX_CALLS`` calls, or more than ``MAX_NAMES`` characters in their names."""


def find_calls(body: bytes) -> list[Call]:
    """The calls in ``body``, each once. A body without content has none.

    Raises ``ValueError`` or ``RecursionError`` if ``body`` is not JSON, or can be read in more than one way.
    """
    if not body.strip():
        return []
    # Integers are read as floats: another parser may read what Python refuses, such as a number of 5,000 digits.
    parsed = json.loads(body, object_pairs_hook=_check_names, parse_int=float)
    calls: dict[Call, None] = {}
    for message in parsed if isinstance(parsed, list) else [parsed]:
        if isinstance(message, dict):
            calls.update(dict.fromkeys(_calls_in(message)))
    if len(calls) > MAX_CALLS or sum(len(call.name) for call in calls) > MAX_NAMES:
        raise TooManyCalls
    return list(calls)


def _calls_in(message: dict[str, Any]) -> list[Call]:
    method, parameters = message.get("method"), message.get("params")
    if not isinstance(method, str) or not isinstance(parameters, dict):
        return []
    if method == "subscriptions/listen":
        wanted = parameters.get("notifications")
        return [*_subscriptions(wanted)] if isinstance(wanted, dict) else []
    if method == "completion/complete":
        # The answer reveals which arguments a prompt, or a resource of a template, takes.
        parameters = parameters.get("ref")
        if not isinstance(parameters, dict):
            return []
        method = str(parameters.get("type"))
    if method not in _NAMES:
        return []
    kind, parameter = _NAMES[method]
    name = parameters.get(parameter)
    return [Call(kind, name)] if isinstance(name, str) else []


def _subscriptions(wanted: dict[str, Any]) -> Iterator[Call]:
    # A server that parses with the SDK's model may also accept the name of the model's field.
    for name in ("resourceSubscriptions", "resource_subscriptions"):
        uris = wanted.get(name)
        for uri in uris if isinstance(uris, list) else ():
            if isinstance(uri, str):
                yield Call("resources", uri)


_NAMES: Final[dict[str, tuple[Kind, str]]] = {
    "tools/call": ("tools", "name"),
    "resources/read": ("resources", "uri"),
    "resources/subscribe": ("resources", "uri"),
    "prompts/get": ("prompts", "name"),
    "ref/prompt": ("prompts", "name"),
    "ref/resource": ("resources", "uri"),
}
"""What a method, or a reference, is about, and the parameter that names it."""


def _check_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


class CallDemands:
    """The scopes that calls of one kind need, by name or by pattern.

    In a pattern, ``*`` at the end and ``{name}`` anywhere stand for any text, ``/`` included. URIs are compared as they
    stand, and percent-decoded too, because a server decodes the values of a template. They are also compared without
    their query and fragment, because a server may ignore these when it looks for a template.

    Raises ``ConfigurationError`` if ``demands`` is not a dict from names to lists of scopes.
    """

    def __init__(self, kind: Kind, demands: NamedScopes | None) -> None:
        if not isinstance(demands, Mapping | None):
            raise ConfigurationError(
                f"{kind} must be a dict from names to lists of scopes, not {type(demands).__name__}"
            )
        self._kind = kind
        self._exact: dict[str, tuple[str, ...]] = {}
        self._patterns: list[tuple[list[str], tuple[str, ...]]] = []
        for name, scopes in (demands or {}).items():
            needed = check_strings(f"{kind}[{name!r}]", scopes, at_least=0)
            parts = _PLACEHOLDER.split(name)
            if len(parts) > 1:
                self._patterns.append(([unquote(part) for part in parts], needed))
            for spelling in {name, unquote(name)}:
                self._exact[spelling] = (*self._exact.get(spelling, ()), *needed)

    def all_scopes(self) -> Iterator[str]:
        """Every scope that any call of this kind needs; some may come twice."""
        for scopes in self._exact.values():
            yield from scopes

    def scopes_for(self, name: str) -> Iterator[str]:
        """The scopes that a call of ``name`` needs; some may come twice."""
        texts = dict.fromkeys(_readings(name) if self._kind == "resources" else (name,))
        for spelling in dict.fromkeys(spelling for text in texts for spelling in (text, unquote(text))):
            yield from self._exact.get(spelling, ())
            for parts, scopes in self._patterns:
                if _matches(parts, spelling):
                    yield from scopes


def _readings(uri: str) -> Iterator[str]:
    """What a server may take ``uri`` for: FastMCP matches templates without fragment, query and a line's end."""
    without_fragment = uri.partition("#")[0]
    for text in (uri, without_fragment, without_fragment.partition("?")[0]):
        yield text
        yield text.removesuffix("\n")


_PLACEHOLDER = re.compile(r"\{[^{}]*\}|\*$")


def _matches(parts: list[str], name: str) -> bool:
    """Whether ``name`` has all ``parts`` in their order, the first at its beginning and the last at its end."""
    first, *middle, last = parts
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
