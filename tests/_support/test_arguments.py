from collections.abc import Collection
from typing import Any

import pytest

from jwt_middleware._support.arguments import check_bool, check_callable, check_count, check_seconds, check_strings
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


@pytest.mark.parametrize("value", [True, False])
def test_a_switch_is_on_or_off(value: bool) -> None:
    check_bool("allow_weak_keys", value)


@pytest.mark.parametrize("value", [None, 0, 1, "True", []])
def test_a_switch_is_nothing_else(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^allow_weak_keys must be True or False, not "):
        check_bool("allow_weak_keys", value)
