"""Can this argument work? Checks that constructors share. Pure."""

from collections.abc import Callable, Collection, Iterable
from inspect import Parameter, isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from typing import Any

from ..errors import ConfigurationError


def show(value: object) -> str:
    """How an error names a wrong value: numbers, booleans and None by themselves, anything else by its type.

    A text in the wrong place could be a secret, or an address with a password.
    """
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < _LARGE):
        return repr(value)
    if isinstance(value, str | bytes | Collection) and not value:
        return f"an empty {type(value).__name__}"
    return type(value).__name__


def check_strings(name: str, value: object, *, at_least: int = 1) -> tuple[str, ...]:
    """Return ``value``, one string or several, as a tuple.

    Raises ``ConfigurationError`` for fewer than ``at_least``, for an empty string, and for anything else.
    """
    several: tuple[Any, ...] = (value,) if isinstance(value, str) or not isinstance(value, Collection) else tuple(value)
    wrong = [string for string in several if not (isinstance(string, str) and string)]
    if wrong or len(several) < at_least:
        shown = show(wrong[0]) if wrong else show(value)
        raise ConfigurationError(f"{name} must be a string that is not empty, or a list of such strings, not {shown}")
    return several


def check_seconds(name: str, value: object, *, minimum: int = 0) -> float:
    """Return ``value``, a number of seconds. Raises ``ConfigurationError`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= _LONGEST:
        raise ConfigurationError(f"{name} must be a number of seconds, {minimum} or more, not {show(value)}")
    return value


def check_count(name: str, value: object, *, minimum: int = 0) -> int:
    """Return ``value``, a whole number. Raises ``ConfigurationError`` for anything else."""
    if type(value) is not int or value < minimum:
        raise ConfigurationError(f"{name} must be a whole number, {minimum} or more, not {show(value)}")
    return value


def check_takes(name: str, value: object, *arguments: str, also: Iterable[str] = ()) -> None:
    """Raise ``ConfigurationError`` unless ``value`` can be called with exactly these positional ``arguments``.

    ``also`` names the keyword arguments that it gets as well.
    """
    check_callable(name, value, *arguments)
    try:
        # Do not look at what it wraps: a decorator may supply an argument itself.
        taken = signature(value, follow_wrapped=False)  # type: ignore[arg-type]  # it is callable
    except (TypeError, ValueError):
        # Some builtins have no signature.
        return
    try:
        taken.bind(*arguments, **dict.fromkeys(also))
    except TypeError:
        raise ConfigurationError(
            f"{name} must be callable as ({', '.join(arguments)}), with no other required argument"
        ) from None


def check_callable(name: str, value: object, *arguments: str) -> None:
    """Raise ``ConfigurationError`` unless ``value`` can be called. The message names its ``arguments``."""
    if not callable(value):
        raise ConfigurationError(f"{name} must be callable as ({', '.join(arguments)}), not {show(value)}")


def check_plain_function(name: str, value: object, *arguments: str) -> None:
    """Raise ``ConfigurationError`` unless ``value`` can be called and returns its result without being awaited."""
    check_callable(name, value, *arguments)
    if is_async(value):
        raise ConfigurationError(f"{name} must be a plain function, not an async one, because nothing awaits it")


def is_async(function: object) -> bool:
    """Whether ``function``, or the ``__call__`` of an object, is a coroutine function."""
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


def check_callables(name: str, value: object, *arguments: str) -> tuple[Callable[..., Any], ...]:
    """Return ``value``, one function or several, as a tuple.

    Raises ``ConfigurationError`` as ``check_callable`` does.
    """
    several: tuple[Any, ...] = tuple(value) if isinstance(value, Collection) and not callable(value) else (value,)
    for one in several:
        check_callable(name, one, *arguments)
    return several


def check_token_hook(name: str, function: object) -> bool:
    """Check a hook that is called with a token; return whether it is called with the connection as well.

    It is, if it has a second positional parameter without a default. Raises ``ConfigurationError`` for an object that
    cannot be called like this, and for generator functions: they return an object that is truthy, whatever they yield.
    """
    check_callable(name, function, "token")
    if any(map(_is_generator_function, (function, type(function).__call__))):
        raise ConfigurationError(f"{name} must return its result; a generator function, with yield, cannot")
    try:
        parameters = signature(function).parameters.values()  # type: ignore[arg-type]  # it is callable
    except (TypeError, ValueError):
        # Some builtins have no signature.
        return False
    positional = [p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is Parameter.empty for p in positional)
    takes_any_number = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
    needs_a_keyword = any(p.kind is Parameter.KEYWORD_ONLY and p.default is Parameter.empty for p in parameters)
    if needs_a_keyword or required > 2 or not (positional or takes_any_number):
        raise ConfigurationError(
            f"{name} must be callable as (token), or as (token, connection), with no other required argument"
        )
    return required == 2


def check_bool(name: str, value: object) -> None:
    """Raise ``ConfigurationError`` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {show(value)}")


# Added to a date, it still gives an exact number. The comparison keeps out NaN and infinities, too.
_LONGEST = 2**53

# Python refuses to write numbers of thousands of digits.
_LARGE = 10**100


def _is_generator_function(function: object) -> bool:
    return isgeneratorfunction(function) or isasyncgenfunction(function)
