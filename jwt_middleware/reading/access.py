"""Which requests need no token? Public paths and CORS preflights. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

from .._support.arguments import check_plain_function, show
from ..errors import ConfigurationError

ScopeTest: TypeAlias = Callable[[MutableMapping[str, Any]], bool]
"""A plain function of the ASGI scope. Its answer is True or False; anything else is a ``TypeError``."""

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class PublicPaths:
    """Paths that need no token: ``/health``, ``GET /items/{id}``, ``/docs/*``.

    ``{name}`` stands for one segment that is not empty, ``/*`` at the end for everything below. An entry without a
    method is for all methods and for WebSockets. HEAD and OPTIONS count as GET. Raises ``ConfigurationError`` for an
    entry that could not match what its author meant.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            raise ConfigurationError(f"public must be a list of paths, for instance ['/health'], not {show(entries)}")
        self.entries = tuple(entries)
        self._root = _Node()
        self._entries: list[tuple[str, list[str], bool]] = []
        # No entry has more segments than this, so no look-up goes deeper.
        self._depth = 0
        for position, entry in enumerate(self.entries, 1):
            method, path = _parse(position, entry)
            below = path.endswith("/*")
            segments = path.removesuffix("/*").split("/")[1:]
            node = self._root
            for segment in segments:
                node = node.add(segment)
            if below:
                node.below = _allow(node.below, method)
            else:
                node.here = _allow(node.here, method)
            self._entries.append((entry, segments, below))
            self._depth = max(self._depth, len(segments))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI ``scope`` (http or websocket) is for a public path.

        The time is linear in the path, however many slashes it has.
        """
        if not _is_plain(scope["path"], scope.get("raw_path")):
            return False
        path, method = _route_path(scope), _method(scope)
        # One segment more than the deepest entry has: the rest of the path, slashes included.
        segments = path.split("/", self._depth + 1)
        # What stands before the first slash. A path that does not begin with one matches nothing.
        if segments.pop(0) or not segments:
            return False
        nodes = [self._root]
        for segment in segments:
            if any(_is_allowed(node.below, method) for node in nodes):
                return True
            nodes = [child for node in nodes for child in node.match(segment)]
        return any(_is_allowed(node.here, method) for node in nodes)

    def entries_in(self, root_path: str) -> list[str]:
        """The entries that match a path below ``root_path``, which an app with that root path serves without it.

        ``/*`` is not among them: it says that it opens everything.
        """
        root = root_path.strip("/").split("/")
        return [
            entry
            for entry, segments, below in self._entries
            if segments
            and (below or len(segments) > len(root))
            and all(mine in (theirs, "{") for mine, theirs in zip(map(_first_brace, segments), root, strict=False))
        ]

    def misses_only_by_root_path(self, scope: Mapping[str, Any]) -> bool:
        """Whether the path of ``scope`` would be public if it were compared with its ``root_path``."""
        return bool(scope.get("root_path")) and scope not in self and {**scope, "root_path": ""} in self


def _first_brace(segment: str) -> str:
    """``{`` for a placeholder, else the segment."""
    return "{" if segment.startswith("{") else segment


class _Node:
    """The methods that are allowed by the entries that begin with the same segments."""

    __slots__ = ("below", "here", "literal", "placeholder")

    def __init__(self) -> None:
        self.here: frozenset[str] | None = frozenset()
        """The methods of the path itself. None stands for all methods and for WebSockets."""
        self.below: frozenset[str] | None = frozenset()
        """The methods of every path below."""
        self.literal: dict[str, _Node] = {}
        self.placeholder: _Node | None = None
        """The node for a segment ``{name}``."""

    def add(self, segment: str) -> "_Node":
        if not segment.startswith("{"):
            return self.literal.setdefault(segment, _Node())
        if self.placeholder is None:
            self.placeholder = _Node()
        return self.placeholder

    def match(self, segment: str) -> "Iterator[_Node]":
        literal = self.literal.get(segment)
        if literal is not None:
            yield literal
        if self.placeholder is not None and segment:
            yield self.placeholder


class PublicRequests:
    """Requests that need no token because ``test(scope)`` is True.

    It is not asked about paths that a router or proxy could read in another way: those are never public. Raises
    ``ConfigurationError`` for a coroutine function.
    """

    def __init__(self, test: ScopeTest) -> None:
        self._test = check_scope_test("public", test)

    def __contains__(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether the request of this ASGI ``scope`` is public. Raises ``TypeError`` if the answer is not a bool."""
        return _is_plain(scope["path"], scope.get("raw_path")) and ask("public", self._test, scope)


def find_root_path(app: Any) -> str:
    """The ``root_path`` that ``app``, or an app that it wraps, sets by itself, as FastAPI does."""
    for _ in range(_MAX_WRAPPERS):
        root_path = getattr(app, "root_path", None)
        if isinstance(root_path, str) and root_path:
            return root_path
        app = getattr(app, "app", None)
    return ""


_MAX_WRAPPERS = 32


def check_scope_test(name: str, test: ScopeTest) -> ScopeTest:
    """Return ``test``. Raises ``ConfigurationError`` if its answer would have to be awaited."""
    check_plain_function(name, test, "scope")
    return test


def ask(name: str, test: ScopeTest, scope: MutableMapping[str, Any]) -> bool:
    """The answer of ``test`` for ``scope``. Raises ``TypeError`` for anything but True and False."""
    answer = test(scope)
    if answer is not True and answer is not False:
        # A coroutine and a match object are truthy: an answer that means no would open the path.
        raise TypeError(f"{name}(scope) must return True or False, not {type(answer).__name__}")
    return answer


def is_preflight(scope: Mapping[str, Any]) -> bool:
    """Whether this is a CORS preflight as browsers send it (Fetch standard, "CORS-preflight fetch").

    OPTIONS, with one Origin, one method asked for, and no credentials.
    """
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    seen: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        seen.setdefault(name, []).append(value.strip(b" \t"))
    origins, methods = seen.get(b"origin", []), seen.get(b"access-control-request-method", [])
    return (
        len(origins) == len(methods) == 1
        and origins[0] != b""
        and _METHOD.fullmatch(methods[0].decode("latin-1")) is not None
        and not {b"authorization", b"cookie"}.intersection(seen)
    )


def _parse(position: int, entry: object) -> tuple[str | None, str]:
    """The method and the path of a public entry. ``position`` names it if its text could be a secret."""
    if not isinstance(entry, str):
        raise ConfigurationError(f"public entry {position} must be a string, not {show(entry)}")
    method, space, path = entry.rpartition(" ")
    if not path.startswith("/"):
        raise ConfigurationError(f"public entry {position} must start with '/', or with a method, a space and '/'")
    if space and not (_METHOD.fullmatch(method) and method == method.upper()):
        raise ConfigurationError(f"public entry {position} must be a method in capitals, one space and a path")
    if method in ("HEAD", "OPTIONS"):
        # "OPTIONS /*" is meant for preflights. Counted as GET it would open every page.
        raise ConfigurationError(
            f"public entry {entry!r} cannot differ from GET; leave CORS preflights to a CORS middleware outside this "
            "one, or set allow_preflight=True"
        )
    for segment in path.removesuffix("/*").split("/"):
        if not {"*", "{", "}"}.isdisjoint(segment) and not _PLACEHOLDER.fullmatch(segment):
            raise ConfigurationError(
                f"public entry {entry!r} can have '{{name}}' as a whole segment and '*' as the whole last segment, and "
                "no other pattern"
            )
    if not _is_plain(path, None) or _ENCODED.search(path):
        raise ConfigurationError(
            f"public entry {entry!r} would never match: write it as the app sees it, decoded, without '//', '.', '..', "
            "backslash, query or fragment"
        )
    return method or None, path


_PLACEHOLDER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


def _route_path(scope: Mapping[str, Any]) -> str:
    # What routers see: `path` without `root_path`, if that is a prefix of whole segments.
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    rest = path.removeprefix(root_path)
    return rest if not rest or rest.startswith("/") else path


# What a router or proxy could read as a path other than the one that is compared here.
_NOT_PLAIN = re.compile(r"//|\\|/\.\.?(?:[/;]|$)|%(?:2e|2f|5c)|[?#\x00-\x1f\x7f]", re.IGNORECASE)
_ENCODED = re.compile(r"%[0-9a-f]{2}", re.IGNORECASE)
_ENCODED_SLASH = re.compile(rb"%(?:2f|5c)", re.IGNORECASE)


def _is_plain(path: str, raw_path: bytes | None) -> bool:
    return not _NOT_PLAIN.search(path) and not (raw_path and _ENCODED_SLASH.search(raw_path))


def _method(scope: Mapping[str, Any]) -> str | None:
    if scope["type"] == "websocket":
        return None
    method: str = scope["method"]
    return "GET" if method in ("HEAD", "OPTIONS") else method


def _allow(methods: frozenset[str] | None, method: str | None) -> frozenset[str] | None:
    return None if method is None or methods is None else methods | {method}


def _is_allowed(methods: frozenset[str] | None, method: str | None) -> bool:
    return methods is None or method in methods
