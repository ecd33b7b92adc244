from collections.abc import Collection
from functools import partial, wraps
from typing import Any

import pytest

from jwt_middleware._support.arguments import (
    check_bool,
    check_callable,
    check_count,
    check_seconds,
    check_strings,
    check_takes,
    check_token_hook,
    show,
)
from jwt_middleware.errors import ConfigurationError


@pytest.mark.parametrize(
    ("value", "several"),
    [
        pytest.param("orders", ("orders",), id="a string"),
        pytest.param(["orders", "stock"], ("orders", "stock"), id="a list"),
        pytest.param(("orders",), ("orders",), id="a tuple"),
        pytest.param({"orders"}, ("orders",), id="a set"),
    ],
)
def test_one_string_and_several_are_the_same_to_the_reader(value: Collection[str], several: tuple[str, ...]) -> None:
    assert check_strings("audience", value) == several


@pytest.mark.parametrize("value", ["", [], [""], ["orders", ""], ["orders", 1], None, 1, b"orders", [["orders"]]])
def test_what_is_no_string_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^audience must be a string"):
        check_strings("audience", value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        (True, "True"),
        (-1, "-1"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        pytest.param(10**5000, "int", id="a number of 5,000 digits"),
        ("", "an empty str"),
        (b"", "an empty bytes"),
        ([], "an empty list"),
        ("hunter2", "str"),
        (b"hunter2", "bytes"),
        (["hunter2"], "list"),
        ({"password": "hunter2"}, "dict"),
    ],
)
def test_an_error_shows_no_value_that_could_be_a_secret(value: object, shown: str) -> None:
    assert show(value) == shown


@pytest.mark.parametrize("value", [0, 5, 0.5, 2**53])
def test_seconds_are_a_number(value: float) -> None:
    assert check_seconds("leeway", value) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(-1, id="negative"),
        pytest.param(-0.001, id="a little negative"),
        pytest.param(True, id="a boolean"),
        pytest.param("5", id="a string"),
        pytest.param(None, id="None"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param(float("inf"), id="infinity"),
        pytest.param(10**400, id="more than a float holds"),
        pytest.param(10**5000, id="more than Python writes"),
        pytest.param(1j, id="a complex number"),
    ],
)
def test_what_is_no_number_of_seconds_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^leeway must be a number of seconds, 0 or more, not "):
        check_seconds("leeway", value)


def test_a_minimum_is_named() -> None:
    with pytest.raises(ConfigurationError, match="1 or more, not 0"):
        check_seconds("access_lifetime", 0, minimum=1)


@pytest.mark.parametrize("value", [0, 1, 10**100])
def test_a_count_is_a_whole_number(value: int) -> None:
    assert check_count("cache_size", value) == value


@pytest.mark.parametrize("value", [-1, True, 1.0, "1", None])
def test_what_is_no_count_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^cache_size must be a whole number, 0 or more, not "):
        check_count("cache_size", value)


def test_a_function_can_be_called() -> None:
    check_callable("validate", print, "token")


@pytest.mark.parametrize("value", [None, "print", 1])
def test_what_cannot_be_called_is_refused_with_how_it_would_be(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^authenticate must be callable as \(username, password\), not "):
        check_callable("authenticate", value, "username", "password")


def peppered(name: str, password: str, pepper: str) -> None: ...


@wraps(peppered)
def with_pepper(name: str, password: str) -> None:
    peppered(name, password, "")


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda name, password: None, id="two arguments"),
        pytest.param(lambda name, password, pepper="": None, id="a third with a default"),
        pytest.param(lambda *arguments: None, id="any number"),
        pytest.param(max, id="a builtin that does not say what it takes"),
        pytest.param(with_pepper, id="a decorator that gives the third"),
    ],
)
def test_a_function_takes_what_it_is_called_with(function: Any) -> None:
    check_takes("authenticate", function, "name", "password")


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda name: None, id="one argument"),
        pytest.param(lambda name, password, pepper: None, id="a third without a default"),
        pytest.param(lambda name, password, *, pepper: None, id="a keyword without a default"),
    ],
)
def test_a_function_that_takes_anything_else_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"authenticate must be callable as \(name, password\), with no other"):
        check_takes("authenticate", function, "name", "password")


@pytest.mark.parametrize("value", [True, False])
def test_a_switch_is_on_or_off(value: bool) -> None:
    check_bool("allow_weak_keys", value)


@pytest.mark.parametrize("value", [None, 0, 1, "True", []])
def test_a_switch_is_nothing_else(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^allow_weak_keys must be True or False, not "):
        check_bool("allow_weak_keys", value)


async def load(token: object, strict: bool = True) -> bool:
    return strict


class Loads:
    async def __call__(self, token: object) -> bool:
        return True


class User:
    def __init__(self, token: object) -> None:
        self.token = token

    def method(self, token: object, connection: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("function", "wants_connection"),
    [
        pytest.param(lambda token: True, False, id="one parameter"),
        pytest.param(lambda anything: True, False, id="of any name"),
        pytest.param(lambda *arguments: True, False, id="any number"),
        pytest.param(lambda *arguments, **others: True, False, id="anything"),
        pytest.param(lambda token, strict=True: True, False, id="a second one with a default"),
        pytest.param(lambda token, *, strict=True: True, False, id="a keyword with a default"),
        pytest.param(lambda token=None: True, False, id="one with a default"),
        pytest.param(lambda token, connection: True, True, id="two parameters"),
        pytest.param(lambda token, scope, /: True, True, id="two that are positional only"),
        pytest.param(lambda token, connection, strict=True: True, True, id="two, and a default"),
        pytest.param(User(None).method, True, id="a method"),
        pytest.param(User, False, id="a class"),
        pytest.param(partial(lambda name, token: True, "x"), False, id="a partial"),
        pytest.param(load, False, id="an async function"),
        pytest.param(Loads(), False, id="an object with an async call"),
        pytest.param(max, False, id="a builtin that does not say what it takes"),
    ],
)
def test_a_hook_gets_the_connection_if_it_needs_a_second_argument(function: Any, wants_connection: bool) -> None:
    assert check_token_hook("validate", function) is wants_connection


async def async_generator(token: object) -> Any:
    yield True


def generator(token: object) -> Any:
    yield True


class Generates:
    def __call__(self, token: object) -> Any:
        yield True


class GeneratesAsync:
    async def __call__(self, token: object) -> Any:
        yield True

    async def method(self, token: object) -> Any:
        yield True


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(None, r"callable as \(token\)", id="None"),
        pytest.param("load", r"callable as \(token\)", id="a name"),
        pytest.param(lambda: True, r"callable as \(token\), or as \(token, connection\)", id="no parameter"),
        pytest.param(lambda a, b, c: True, r"callable as \(token\), or as", id="three parameters"),
        pytest.param(lambda token, *, strict: True, r"callable as \(token\), or as", id="a keyword that it needs"),
        pytest.param(lambda **others: True, r"callable as \(token\), or as", id="keywords only"),
        pytest.param(generator, "generator function", id="a generator function"),
        pytest.param(async_generator, "generator function", id="an async generator function"),
        pytest.param(partial(async_generator), "generator function", id="a partial of one"),
        pytest.param(Generates(), "generator function", id="an object that generates"),
        pytest.param(GeneratesAsync(), "generator function", id="an object that generates asynchronously"),
        pytest.param(GeneratesAsync().method, "generator function", id="a method that does"),
    ],
)
def test_a_hook_that_cannot_work_is_refused_at_construction(function: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^validate must.*{message}"):
        check_token_hook("validate", function)
