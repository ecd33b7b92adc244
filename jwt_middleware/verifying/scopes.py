"""Which scopes do the claims of a token grant? Pure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from .._support.arguments import check_plain_function, check_strings, show
from ..errors import ConfigurationError, InvalidClaim, Refusal

Claims: TypeAlias = Mapping[str, Any]
ClaimPath: TypeAlias = str | tuple[str, ...]
"""The name of a claim, or its dotted steps into nested objects; or a tuple of steps, whose names may hold dots."""

ScopeFunction: TypeAlias = Callable[[dict[str, Any]], Iterable[str]]
ScopeClaim: TypeAlias = ClaimPath | list[ClaimPath] | ScopeFunction

Tell: TypeAlias = Callable[[str, BaseException | None], None]
"""Tells an operator what is wrong with a scope claim, once for each text, with the exception behind it."""


class ScopeRules:
    """How the scopes of a provider's tokens are read. See ``Provider`` for the arguments.

    1. The claims of ``claim`` are read and united. What cannot be read grants nothing, and is reported to ``tell``.
    2. ``implies`` adds what each scope implies.
    3. ``may_grant`` keeps only what this provider may grant.

    Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        claim: ScopeClaim | None = None,
        separator: Mapping[ClaimPath, str] | None = None,
        implies: Mapping[str, Collection[str]] | None = None,
        may_grant: Collection[str] | None = None,
    ) -> None:
        if callable(claim):
            check_plain_function("scope_claim", claim, "claims")
        self.function = claim if callable(claim) else None
        self.paths: tuple[ClaimPath, ...] = () if claim is None or callable(claim) else _check_paths(claim)
        self._separators = _check_separators(separator, self.paths or _STANDARD)
        self._implied = close_hierarchy({} if implies is None else implies)
        self.may_grant = None if may_grant is None else frozenset(check_strings("may_grant", may_grant, at_least=0))
        self._is_plain = not self._implied and self.may_grant is None
        self.is_standard = self._is_plain and claim is None and not self._separators
        """Whether the scopes are just the words of a text in the claim ``scope``, as in most tokens."""
        self.tell: Tell = lambda text, error: None

    def implied_by(self, scope: str) -> tuple[str, ...]:
        """The scopes that ``scope`` implies, directly or not."""
        return self._implied.get(scope, ())

    def read(self, claims: Claims, copy: Callable[[], dict[str, Any]]) -> str | tuple[str, ...]:
        """Return the scopes: as one text with spaces if the token has them in that form, else as a tuple.

        ``copy`` returns a new copy of the claims, for a function of the app that may change them. Raises
        ``InvalidClaim`` if that function raises an exception, and ``TypeError`` if it returns anything other than
        texts.
        """
        if self.function is not None:
            scopes: tuple[str, ...] = self._call(self.function, copy())
        else:
            paths = self.paths or (("scope",) if claims.get("scope") is not None else ("scp",))
            scopes = tuple(scope for path in paths for scope in self._read_path(claims, path))
        if self._is_plain:
            return tuple(dict.fromkeys(scopes))
        return self.grant(scopes)

    def grant(self, scopes: Iterable[str]) -> tuple[str, ...]:
        """Return what ``scopes`` grant here: with what they imply, and without what this provider may not grant."""
        granted = dict.fromkeys(implied for scope in scopes for implied in (scope, *self._implied.get(scope, ())))
        return tuple(scope for scope in granted if self.may_grant is None or scope in self.may_grant)

    def _read_path(self, claims: Claims, path: ClaimPath) -> Iterator[str]:
        for value in _follow(claims, path):
            if isinstance(value, str):
                yield from self._split(value, path)
            elif isinstance(value, list):
                for entry in value:
                    yield from self._read_entry(entry, path)
            elif isinstance(value, dict):
                yield from _names(value)
            elif value is not None:
                self._complain(value, path)

    def _split(self, text: str, path: ClaimPath) -> Iterator[str]:
        separator = self._separators.get(path)
        if separator is not None:
            yield from filter(None, (part.strip() for part in text.split(separator)))
        elif path in _WORD_LISTS:
            # RFC 6749 3.3 and RFC 8693 4.2: delimited by spaces, and by nothing else.
            yield from filter(None, text.split(" "))
        elif text:
            # Elsewhere a space is part of a name: the role "admin read-only" must never become the role "admin".
            yield text

    def _read_entry(self, entry: object, path: ClaimPath) -> Iterator[str]:
        if isinstance(entry, str):
            if entry:
                yield entry
        elif type(entry) is int:
            yield str(entry)
        elif isinstance(entry, dict) and all(map(_is_filled, entry.values())):
            # Zitadel's older shape. For any other object, the path must say which member counts.
            yield from filter(None, entry)
        elif entry is not None:
            self._complain(entry, path)

    def _complain(self, value: object, path: ClaimPath) -> None:
        name = path if isinstance(path, str) else " / ".join(path)
        kind = "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"
        self.tell(f"scope_claim: the claim {name!r} of a token holds {kind}, which grants nothing (said once)", None)

    def _call(self, function: ScopeFunction, claims: dict[str, Any]) -> tuple[str, ...]:
        try:
            result = function(claims)
            scopes = tuple(result) if isinstance(result, Iterable) and not isinstance(result, str | bytes) else None
        except Refusal:
            raise
        except Exception as error:
            self.tell("scope_claim: the function raised an exception, and the token is refused (said once)", error)
            raise InvalidClaim from error
        if scopes is None:
            raise TypeError(f"scope_claim must return several texts, for instance a list, not {show(result)}")
        wrong = [scope for scope in scopes if not isinstance(scope, str)]
        if wrong:
            raise TypeError(f"scope_claim must return texts, not {show(wrong[0])}")
        return tuple(filter(None, scopes))


def close_hierarchy(implies: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Return everything that each scope implies, directly or not. Raises ``ConfigurationError`` for a cycle."""
    if not isinstance(implies, Mapping):
        raise ConfigurationError(
            f"scope_implies must be a dict, for instance {{'orders': ['orders:read']}}, not {show(implies)}"
        )
    direct = {scope: check_strings("scope_implies", several) for scope, several in implies.items()}
    if direct:
        check_strings("scope_implies", list(direct))
    closed: dict[str, tuple[str, ...]] = {}
    for scope in direct:
        found: dict[str, None] = {}
        waiting = [*direct[scope]]
        while waiting:
            implied = waiting.pop(0)
            if implied == scope:
                raise ConfigurationError(f"scope_implies: {scope!r} implies itself, directly or through others")
            if implied not in found:
                found[implied] = None
                waiting += direct.get(implied, ())
        closed[scope] = tuple(found)
    return closed


_STANDARD = ("scope", "scp")
_WORD_LISTS = frozenset[ClaimPath]((*_STANDARD, *((name,) for name in _STANDARD)))


def _check_paths(claim: object) -> tuple[ClaimPath, ...]:
    paths: tuple[Any, ...] = tuple(claim) if isinstance(claim, list) else (claim,)
    for path in paths:
        steps = path if isinstance(path, tuple) else (path,)
        if not steps or not all(isinstance(step, str) and step for step in steps):
            raise ConfigurationError(
                "scope_claim must be the name of a claim, a tuple of names that lead into nested objects, a list of "
                f"these, or a function, not {show(path)}"
            )
    if not paths:
        raise ConfigurationError("scope_claim must name at least one claim, not an empty list")
    return paths


def _check_separators(separators: object, paths: Collection[ClaimPath]) -> dict[ClaimPath, str]:
    if separators is None:
        return {}
    if not isinstance(separators, Mapping):
        raise ConfigurationError(
            f"scope_separator must be a dict, for instance {{'roles': ','}}, not {show(separators)}"
        )
    for path, separator in separators.items():
        if path not in paths:
            raise ConfigurationError("scope_separator names claims that scope_claim does not name; spell both alike")
        if not isinstance(separator, str) or not separator:
            raise ConfigurationError(f"scope_separator must have texts as its values, not {show(separator)}")
    return dict(separators)


def follow(claims: Claims, path: str) -> Any:
    """Return the claim named ``path``, else what lies at the end of its dotted steps, else None."""
    if path in claims or "." not in path:
        return claims.get(path)
    value: Any = claims
    for step in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _follow(claims: Claims, path: ClaimPath) -> Iterable[Any]:
    """The values at the end of ``path``. A step goes through a list into each of its objects."""
    if isinstance(path, str):
        if path in claims or "." not in path:
            return [claims.get(path)]
        path = tuple(path.split("."))
    values: list[Any] = [claims]
    for step in path:
        inner: list[Any] = []
        for value in values:
            inner += value if isinstance(value, list) else [value]
        values = [value.get(step) for value in inner if isinstance(value, dict)]
    return values


def _names(value: Mapping[str, Any]) -> Iterator[str]:
    # Zitadel writes roles as the names of an object. A value that is not a clear yes, such as false or an empty object,
    # must grant nothing.
    return (name for name, member in value.items() if name and (member is True or _is_filled(member)))


def _is_filled(value: object) -> bool:
    return isinstance(value, dict) and bool(value)
