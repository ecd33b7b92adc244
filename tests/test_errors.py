from typing import Any

import pytest

from jwt_middleware import errors
from jwt_middleware.errors import (
    DETAILS,
    InsufficientScope,
    InsufficientUserAuthentication,
    KeysUnavailable,
    Refusal,
    Revoked,
    quoted,
)

from .support.refusals import ANSWERS

# Bases that name no answer of their own.
BASES = {"refused", "invalid_request", "invalid_token", "unavailable"}

CLASSES: dict[str, type[Refusal]] = {
    value.code: value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Refusal)
}


def made(code: str) -> Refusal:
    if code == "insufficient_scope":
        return InsufficientScope(["orders:write", "orders:admin"])
    if code == "insufficient_user_authentication":
        return InsufficientUserAuthentication(acr_values=["urn:example:gold"], max_age=300)
    return CLASSES[code]()


@pytest.mark.parametrize("code", ANSWERS)
def test_each_refusal_says_what_its_class_promises(code: str) -> None:
    refusal, answer = made(code), ANSWERS[code]
    assert (refusal.code, refusal.status) == (code, answer.status)
    assert refusal.body == {"error": answer.error, "error_description": answer.description, "code": code}
    assert dict(refusal.headers("api")) == answer.headers
    assert str(refusal) == f"{code}: {answer.description}"


def test_no_refusal_is_without_its_line_in_the_table() -> None:
    assert CLASSES.keys() == ANSWERS.keys() | BASES


@pytest.mark.parametrize("code", CLASSES)
def test_descriptions_hold_only_what_rfc_6750_3_allows_in_a_challenge(code: str) -> None:
    refusal = CLASSES[code]
    assert {*refusal.description, *(refusal.error or "")}.isdisjoint('"\\')
    assert (refusal.description + (refusal.error or "")).isascii()
    assert refusal.description.isprintable()


def test_what_the_operator_may_know_is_not_in_the_answer() -> None:
    refusal = Revoked(
        provider="staff", kid="key-1", subject="ada", claim="jti", expected="orders", found="billing", seconds_off=40.5
    )
    assert (refusal.provider, refusal.kid, refusal.subject, refusal.claim) == ("staff", "key-1", "ada", "jti")
    assert (refusal.expected, refusal.found, refusal.seconds_off) == ("orders", "billing", 40.5)
    said = repr([refusal.body, refusal.headers("api"), str(refusal), repr(refusal)])
    details = ("staff", "key-1", "ada", "jti", "orders", "billing", "40.5")
    assert not [detail for detail in details if detail in said]


def test_what_the_operator_may_know_is_none_until_someone_knows_it() -> None:
    for refusal in map(made, ANSWERS):
        assert {getattr(refusal, detail) for detail in DETAILS} == {None, 0}


def test_an_unknown_detail_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Revoked\(\) knows no argument email"):
        Revoked(email="ada@example.com")  # type: ignore[call-arg]  # no such argument


def test_a_refusal_is_about_a_verified_token() -> None:
    class Verified:
        provider, kid, subject = "staff", "key-1", "ada"

    refusal = Revoked(claim="jti").about(Verified())
    assert type(refusal) is Revoked
    assert (refusal.provider, refusal.kid, refusal.subject, refusal.claim) == ("staff", "key-1", "ada", "jti")


def test_a_challenge_names_its_scheme() -> None:
    class BadProof(Refusal):
        challenge_scheme = "DPoP"

    ((_, said),) = BadProof().headers("api")
    assert said.startswith('DPoP realm="api", error="invalid_token"')


def test_a_demand_for_another_login_names_only_what_it_asks_for() -> None:
    ((_, said),) = InsufficientUserAuthentication().headers("api")
    assert said.endswith('error_description="A different or more recent login is needed here."')


def test_one_scope_is_not_taken_for_a_list_of_letters() -> None:
    assert InsufficientScope("orders:write").scopes == ("orders:write",)
    assert InsufficientScope(scope for scope in ("a", "b")).scopes == ("a", "b")


def test_a_challenge_without_missing_scopes_names_none() -> None:
    ((_, said),) = InsufficientScope([]).headers("api")
    assert said.endswith('error_description="The access token lacks a scope that is needed here."')


def test_a_service_that_will_be_back_later_says_when() -> None:
    assert KeysUnavailable(retry_after=30).headers("api") == [("retry-after", "30")]


def test_refusals_of_the_app_answer_like_ours() -> None:
    class Suspended(Refusal):
        code = "suspended"
        status = 403
        description = 'Your account is "on hold".'

    refusal = Suspended()
    assert refusal.body == {"error": "invalid_token", "error_description": Suspended.description, "code": "suspended"}
    assert refusal.headers("api") == [
        (
            "www-authenticate",
            'Bearer realm="api", error="invalid_token", error_description="Your account is \\"on hold\\"."',
        )
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("orders", '"orders"', id="a word"),
        pytest.param("", '""', id="nothing"),
        pytest.param('a", error="none', r'"a\", error=\"none"', id="a quote"),
        pytest.param("a\\", r'"a\\"', id="a backslash at the end"),
        pytest.param('a\\", b="c', r'"a\\\", b=\"c"', id="a backslash before a quote"),
        pytest.param("a\r\nSet-Cookie: b=c", '"a??Set-Cookie: b=c"', id="a new line"),
        pytest.param("a\x00b\x7f", '"a?b?"', id="control characters"),
        pytest.param("a\tb", '"a?b"', id="a tab"),
        pytest.param("caf\u00e9 \U0001f600", '"caf? ?"', id="not ASCII"),
        pytest.param("\u2028\u0085", '"??"', id="new lines of Unicode"),
        pytest.param("\uff02", '"?"', id="a quote that some code page would make ASCII"),
    ],
)
def test_a_quoted_value_cannot_be_broken_out_of(value: str, expected: str) -> None:
    assert quoted(value) == expected


@pytest.mark.parametrize("refusal", [made(code) for code in ANSWERS], ids=str)
def test_realm_and_scopes_are_quoted(refusal: Any) -> None:
    refusal.scopes = ('a", error="none',)
    for name, value in refusal.headers('my "realm"\\'):
        if name == "www-authenticate":
            assert value.startswith(r'Bearer realm="my \"realm\"\\"')
            assert 'error="none"' not in value
