"""What does an explanation look at? The token, the refusal, and the providers that were asked. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard

from ..errors import Refusal
from .loose import LooseToken


class Rules(Protocol):
    """What this file reads of a provider's rules."""

    @property
    def audiences(self) -> Collection[str] | None: ...
    @property
    def leeway(self) -> float: ...
    @property
    def max_token_age(self) -> float | None: ...
    @property
    def types(self) -> Collection[str] | None: ...
    @property
    def scopes(self) -> "Scopes": ...


class Scopes(Protocol):
    """What this file reads of the rules for scopes."""

    @property
    def may_grant(self) -> Collection[str] | None: ...


class Key(Protocol):
    """What this file reads of a key."""

    @property
    def kid(self) -> str | None: ...
    @property
    def algorithms(self) -> tuple[str, ...]: ...
    @property
    def material(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """A provider as far as an explanation needs it."""

    name: str
    issuers: tuple[str, ...]
    rules: Rules
    keys: tuple[Key, ...]
    error: str | None = None
    """Why its keys could not be fetched."""


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    token: LooseToken
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    refusal: Refusal
    asked: Sequence[ProviderFacts]
    """The provider that the refusal names, else all."""
    providers: Sequence[ProviderFacts]
    now: float
    max_token_size: int

    @property
    def rules(self) -> Rules:
        return self.asked[0].rules

    @property
    def keys(self) -> list[Key]:
        return [key for provider in self.asked for key in provider.keys]

    @property
    def algorithms(self) -> list[str]:
        return sorted({name for key in self.keys for name in key.algorithms})


Words: TypeAlias = tuple[str, str]


def list_quoted(names: Iterable[str]) -> str:
    several = [repr(name) for name in names]
    return ", ".join(several[:8]) + (", ..." if len(several) > 8 else "") if several else "none"


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
