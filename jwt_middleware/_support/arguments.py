"""Can this argument work? Checks that constructors share. Pure."""

from collections.abc import Callable, Collection
from inspect import Parameter, isasyncgenfunction, isgeneratorfunction, signature
from typing import Any

from ..errors import ConfigurationError


def check_strings(name: str, value: object, *, at_least: int = 1) -> tuple[str, ...]:
    """``value``, a string or several, as a tuple; raises ``ConfigurationError`` for too few, or for an empty one."""
    several: tuple[Any, ...] = (value,) if isinstance(value, str) or not isinstance(value, Collection) else tuple(value)
    if len(several) < at_least or not all(isinstance(string, str) and string for string in several):
        raise ConfigurationError(f"{name} must be a string that is not empty, or several, not {value!r}")
    return several


def check_seconds(name: str, value: object, *, minimum: int = 0) -> float:
    """``value``, a number of seconds; raises ``ConfigurationError`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= _LONGEST:
        raise ConfigurationError(f"{name} must be a number of seconds, {minimum} or more, not {value!r}")
    return value


def check_count(name: str, value: object, *, minimum: int = 0) -> int:
    """``value``, a whole number; raises ``ConfigurationError`` for anything else."""
    if type(value) is not int or value < minimum:
        raise ConfigurationError(f"{name} must be a whole number, {minimum} or more, not {value!r}")
    return value


def check_callable(name: str, value: object, *arguments: str) -> None:
    """Raises ``ConfigurationError`` unless ``value`` can be called; ``arguments`` tell the reader with what."""
    if not callable(value):
        # A text may be an address with its password, or the secret itself, in the wrong place.
        shown = type(value).__name__ if isinstance(value, str | bytes) else repr(value)
        raise ConfigurationError(f"{name} must be callable as ({', '.join(arguments)}), not {shown}")


def check_callables(name: str, value: object, *arguments: str) -> tuple[Callable[..., Any], ...]:
    """``value``, a function or several, as a tuple; raises ``ConfigurationError`` as ``check_callable`` does."""
    several: tuple[Any, ...] = tuple(value) if isinstance(value, Collection) and not callable(value) else (value,)
    for one in several:
        check_callable(name, one, *arguments)
    return several


def check_token_hook(name: str, function: object) -> bool:
    """Check a hook that is called with a token; return whether it is called with the connection as well.

    It is, if it has a second positional parameter without a default. Raises ``ConfigurationError`` for what cannot be
    called like this, and for generator functions: they return an object that is true, whatever they yield.
    """
    check_callable(name, function, "token")
    if any(map(_is_generator_function, (function, type(function).__call__))):
        raise ConfigurationError(f"{name} must return its result; a generator function, with yield, cannot")
    try:
        parameters = signature(function).parameters.values()  # type: ignore[arg-type]  # it is callable
    except (TypeError, ValueError):
        # Some builtins do not say what they take.
        return False
    positional = [p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is Parameter.empty for p in positional)
    takes_any_number = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
    needs_a_keyword = any(p.kind is Parameter.KEYWORD_ONLY and p.default is Parameter.empty for p in parameters)
    if needs_a_keyword or required > 2 or not (positional or takes_any_number):
        raise ConfigurationError(
            f"{name} must be callable as (token), or as (token, connection), with no other argument that it needs"
        )
    return required == 2


def check_bool(name: str, value: object) -> None:
    """Raises ``ConfigurationError`` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")


# Added to a date, it still gives a number that is exact. The comparison keeps NaN and infinities out, too.
_LONGEST = 2**53


def _is_generator_function(function: object) -> bool:
    return isgeneratorfunction(function) or isasyncgenfunction(function)
