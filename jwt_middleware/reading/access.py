"""Which requests need no token? Public paths and CORS preflights. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ConfigurationError

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class PublicPaths:
    """Paths that need no token: ``/health``, ``/docs/*`` (all below ``/docs/``), ``GET /items/*``.

    An entry without a method is for all methods and for WebSockets. Requests with OPTIONS and HEAD count as GET. Raises
    ``ConfigurationError`` for an entry that could not match what its author meant.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            raise ConfigurationError(f"public must be a list of paths, for instance ['/health'], not {entries!r}")
        # Path or prefix to methods; None stands for all. So a look-up costs the same however many entries there are.
        self._exact: dict[str, frozenset[str] | None] = {}
        self._below: dict[str, frozenset[str] | None] = {}
        for entry in entries:
            method, path = _parsed(entry)
            table, path = (self._below, path[:-1]) if path.endswith("/*") else (self._exact, path)
            others = table.get(path, frozenset())
            table[path] = None if method is None or others is None else others | {method}

    def __len__(self) -> int:
        return len(self._exact) + len(self._below)

    def __contains__(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI ``scope`` (http or websocket) is for a public path."""
        if not _is_plain(scope["path"], scope.get("raw_path")):
            return False
        path, method = _route_path(scope), _method(scope)
        if _admits(self._exact, path, method):
            return True
        end = path.find("/") if self._below else -1
        while end != -1:
            if _admits(self._below, path[: end + 1], method):
                return True
            end = path.find("/", end + 1)
        return False


def is_preflight(scope: Mapping[str, Any]) -> bool:
    """Whether this is a CORS preflight as browsers send it (Fetch standard, "CORS-preflight fetch").

    OPTIONS, with one Origin, one method asked for, and no credentials.
    """
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    seen: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        seen.setdefault(name, []).append(value)
    origins, methods = seen.get(b"origin", []), seen.get(b"access-control-request-method", [])
    return (
        len(origins) == len(methods) == 1
        and origins[0] != b""
        and _METHOD.fullmatch(methods[0].decode("latin-1")) is not None
        and not {b"authorization", b"cookie"}.intersection(seen)
    )


def _parsed(entry: str) -> tuple[str | None, str]:
    if not isinstance(entry, str):
        raise ConfigurationError(f"public entry {entry!r} must be a string")
    method, space, path = entry.rpartition(" ")
    if not path.startswith("/"):
        raise ConfigurationError(f"public entry {entry!r} must start with '/', or with a method and '/'")
    if space and not (_METHOD.fullmatch(method) and method == method.upper()):
        raise ConfigurationError(f"public entry {entry!r} must be a method in capitals, one space and a path")
    if method in ("HEAD", "OPTIONS"):
        # "OPTIONS /*" is meant for preflights; counted as GET it would open every page.
        raise ConfigurationError(
            f"public entry {entry!r} cannot stand apart from GET; CORS preflights belong to a CORS middleware outside, "
            "or to allow_preflight=True"
        )
    if not {"*", "{", "}"}.isdisjoint(path.removesuffix("/*")):
        raise ConfigurationError(f"public entry {entry!r} can have '*' as its whole last segment, and no other pattern")
    if not _is_plain(path, None) or _ENCODED.search(path):
        raise ConfigurationError(
            f"public entry {entry!r} would never match: write it as the app sees it, decoded, without '//', '.', '..', "
            "backslash, query or fragment"
        )
    return method or None, path


def _route_path(scope: Mapping[str, Any]) -> str:
    # What routers see: `path` less `root_path`, where that is a prefix of whole segments.
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    rest = path.removeprefix(root_path)
    return rest if not rest or rest.startswith("/") else path


# What some router or proxy would read as another path than the one that is compared here.
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


def _admits(table: Mapping[str, frozenset[str] | None], path: str, method: str | None) -> bool:
    methods = table.get(path, frozenset())
    return methods is None or method in methods
