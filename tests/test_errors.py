from typing import Any, NamedTuple

import pytest

from jwt_middleware import errors
from jwt_middleware.errors import InsufficientScope, KeysUnavailable, Refusal, Revoked, quoted


class Answer(NamedTuple):
    """What a client gets, to the letter."""

    status: int
    error: str
    description: str
    headers: dict[str, str]


def challenge(status: int, error: str, description: str, more: str = "") -> Answer:
    said = f'Bearer realm="api", error="{error}", error_description="{description}"{more}'
    return Answer(status, error, description, {"www-authenticate": said})


def invalid_token(description: str) -> Answer:
    return challenge(401, "invalid_token", description)


ANSWERS = {
    "missing_token": Answer(
        401,
        "missing_token",
        "This resource needs an access token: Authorization: Bearer <token>.",
        {"www-authenticate": 'Bearer realm="api"'},
    ),
    "ambiguous_token": challenge(400, "invalid_request", "The request carries more than one credential."),
    "token_too_large": challenge(400, "invalid_request", "The access token is too large."),
    "malformed_token": invalid_token("The access token is not a well-formed JSON Web Token."),
    "encrypted_token": invalid_token("The access token is encrypted; only signed tokens are accepted."),
    "unknown_issuer": invalid_token("The access token comes from an issuer that is not accepted here."),
    "unknown_key": invalid_token("The access token names a key that is not known here."),
    "algorithm_not_allowed": invalid_token("The access token is signed with an algorithm that is not accepted here."),
    "bad_signature": invalid_token("The signature of the access token does not verify."),
    "expired": invalid_token("The access token has expired."),
    "not_yet_valid": invalid_token("The access token is not valid yet."),
    "too_old": invalid_token("The access token was issued too long ago."),
    "wrong_issuer": invalid_token("The access token comes from another issuer."),
    "wrong_audience": invalid_token("The access token is meant for another audience."),
    "wrong_type": invalid_token("The token is of another type than an access token."),
    "missing_claim": invalid_token("The access token lacks a claim that is needed here."),
    "invalid_claim": invalid_token("The access token has a claim that is not acceptable."),
    "sender_constrained": invalid_token(
        "The access token is bound to its sender and cannot be used as a Bearer token."
    ),
    "revoked": invalid_token("The access token has been revoked."),
    "user_refused": invalid_token("The user of the access token is not accepted."),
    "insufficient_scope": challenge(
        403,
        "insufficient_scope",
        "The access token lacks a scope that is needed here.",
        ', scope="orders:write orders:admin"',
    ),
    "cross_site": Answer(403, "cross_site", "The request comes from another site.", {}),
    "keys_unavailable": Answer(
        503,
        "keys_unavailable",
        "The keys that verify the access token cannot be had at the moment.",
        {"retry-after": "5"},
    ),
    "revocations_unavailable": Answer(
        503,
        "revocations_unavailable",
        "Whether the access token is revoked cannot be told at the moment.",
        {"retry-after": "5"},
    ),
}

# Bases that name no answer of their own.
BASES = {"refused", "invalid_request", "invalid_token", "unavailable"}

CLASSES: dict[str, type[Refusal]] = {
    value.code: value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Refusal)
}


def made(code: str) -> Refusal:
    return InsufficientScope(["orders:write", "orders:admin"]) if code == "insufficient_scope" else CLASSES[code]()


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
    refusal = Revoked(provider="staff", kid="key-1", subject="ada", claim="jti")
    assert (refusal.provider, refusal.kid, refusal.subject, refusal.claim) == ("staff", "key-1", "ada", "jti")
    said = repr([refusal.body, refusal.headers("api"), str(refusal)])
    assert not [secret for secret in ("staff", "key-1", "ada", "jti") if secret in said]


def test_what_the_operator_may_know_is_none_until_someone_knows_it() -> None:
    for refusal in map(made, ANSWERS):
        assert [refusal.provider, refusal.kid, refusal.subject, refusal.claim] == [None] * 4


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
