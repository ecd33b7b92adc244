import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jwt_middleware.errors import (
    Expired,
    InvalidClaim,
    MissingClaim,
    NotYetValid,
    Refusal,
    SenderConstrained,
    TooOld,
    WrongAudience,
    WrongType,
    is_scope,
)
from jwt_middleware.verifying.claims import ClaimRules, media_type
from jwt_middleware.verifying.compact import Header
from jwt_middleware.verifying.scopes import ScopeRules
from jwt_middleware.verifying.token import Facts, Token

from ..support import NOW, claims


def rules(scope_claim: Any = None, **options: Any) -> ClaimRules:
    scopes = ScopeRules(scope_claim)
    return ClaimRules(**{"provider": "jwt", "audiences": frozenset({"orders"}), "scopes": scopes, **options})


def checked(payload: dict[str, Any], now: float = NOW, *, typ: str = "", **options: Any) -> tuple[float, Facts]:
    header = Header(b'{"alg":"HS256","kid":"2026"}', "HS256", "2026", typ)
    return rules(**options).check(header, json.dumps(payload).encode(), payload, now)


def read(payload: dict[str, Any], now: float = NOW, **options: Any) -> Token:
    return Token(checked(payload, now, **options)[1])


def refused(refusal: type[Refusal], claim: str | None, payload: dict[str, Any], **options: Any) -> None:
    with pytest.raises(Refusal) as error:
        read(payload, **options)
    assert type(error.value) is refusal
    assert error.value.claim == claim


def test_a_token_says_what_its_claims_say() -> None:
    payload = claims(jti="1", sid="2", nbf=NOW - 1)
    token = read(payload, provider="staff")
    assert token.header == {"alg": "HS256", "kid": "2026"}
    assert token.claims == payload
    assert token.provider == "staff"
    assert token.kid == "2026"
    assert token.subject == "ada"
    assert token.scopes == ("orders:read", "orders:write")
    assert token.expires_at == NOW + 900
    assert (token.id, token.session_id) == ("1", "2")
    assert read(claims(iss="https://login.example")).issuer == "https://login.example"
    assert token.good_until == NOW + 905


def test_what_a_token_may_lack_is_none() -> None:
    token = read({"exp": NOW}, audiences=None, subject_claim=None)
    assert (token.subject, token.scopes, token.id, token.session_id, token.issuer) == (None, (), None, None, None)
    assert token.confirmation == ()


def test_what_one_request_changes_in_a_token_no_other_sees() -> None:
    _, shared = checked(claims(roles=["a"]))
    first, second = Token(shared), Token(shared)
    first.claims["roles"].append("admin")
    first.header["kid"] = "other"
    assert first.claims["roles"] == ["a", "admin"]
    assert first.header["kid"] == "other"
    assert second.claims["roles"] == ["a"]
    assert (second.header["kid"], second.kid) == ("2026", "2026")


@pytest.mark.parametrize("sid", [5, None, ["2"]])
def test_a_session_is_a_string(sid: object) -> None:
    assert read({**claims(), "sid": sid}).session_id is None


def test_a_repr_holds_no_claims() -> None:
    token = read(claims(email="ada@example.com"))
    assert repr(token) == f"Token(provider='jwt', subject='ada', expires_at={NOW + 900})"


NOT_DATES = [
    pytest.param("1900000900", id="a string"),
    pytest.param(True, id="true"),
    pytest.param(False, id="false"),
    pytest.param(float("nan"), id="NaN"),
    pytest.param(float("inf"), id="infinity"),
    pytest.param(-float("inf"), id="negative infinity"),
    pytest.param(10**400, id="more than a float holds"),
    pytest.param(-(10**400), id="less than a float holds"),
    pytest.param(2**63, id="more than any clock can say"),
    pytest.param(-(2**63), id="less than any clock can say"),
    pytest.param(1e300, id="a large float"),
    pytest.param([NOW + 900], id="a list"),
    pytest.param({"date": NOW}, id="an object"),
]


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("date", NOT_DATES)
def test_a_date_is_a_number(name: str, date: object) -> None:
    refused(InvalidClaim, name, {**claims(), name: date})


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        pytest.param(NOW, NOW, id="an integer"),
        pytest.param(NOW + 0.5, NOW, id="a fraction, which is cut off"),
        pytest.param(float(NOW), NOW, id="a float"),
        pytest.param(1.9e9, NOW, id="an exponent"),
        pytest.param(0, 0, id="zero"),
        pytest.param(-1, -1, id="before the epoch"),
        pytest.param(-0.5, 0, id="a fraction before the epoch"),
        pytest.param((2**63 - 1) // 1000, (2**63 - 1) // 1000, id="the last of Java's milliseconds"),
    ],
)
def test_an_expiry_is_a_whole_second(date: float, seconds: int) -> None:
    expires_at = read(claims(exp=date, iat=None), now=-1000).expires_at
    assert (expires_at, type(expires_at)) == (seconds, int)


@pytest.mark.parametrize("name", ["iss", "sub", "jti"])
@pytest.mark.parametrize("value", [True, False, 1.5, 4.0, [], ["ada"], {}, {"name": "ada"}])
def test_registered_names_are_strings(name: str, value: object) -> None:
    refused(InvalidClaim, name, {**claims(), name: value})


@pytest.mark.parametrize("name", ["iss", "jti"])
@pytest.mark.parametrize("value", [0, 5])
def test_a_number_is_neither_an_issuer_nor_an_id(name: str, value: int) -> None:
    refused(InvalidClaim, name, {**claims(), name: value})


@pytest.mark.parametrize(
    ("value", "subject"),
    [(4, "4"), (0, "0"), (-1, "-1"), (2**63, str(2**63)), (2**64 - 1, str(2**64 - 1)), (-(2**63), str(-(2**63)))],
)
def test_an_integer_subject_is_its_decimal_text(value: int, subject: str) -> None:
    assert read(claims(sub=value)).subject == subject


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_a_number_of_more_than_64_bits_is_no_subject(value: int) -> None:
    refused(InvalidClaim, "sub", claims(sub=value))


@pytest.mark.parametrize("name", ["iss", "jti", "nbf", "iat", "cnf", "sid", "scope", "x"])
def test_a_claim_that_is_null_is_absent(name: str) -> None:
    token = read({**claims(), name: None})
    assert token.subject == "ada"
    assert token.claims[name] is None


@pytest.mark.parametrize("name", ["exp", "aud", "sub", "email"])
def test_a_null_claim_that_must_be_there_is_missing(name: str) -> None:
    refused(MissingClaim, name, {**claims(email="ada@example.com"), name: None}, required_claims=("email",))


def test_a_null_iat_has_no_age() -> None:
    refused(MissingClaim, "iat", {**claims(), "iat": None}, max_token_age=600)


def test_a_token_without_a_subject_is_no_user() -> None:
    refused(MissingClaim, "sub", claims(sub=None))
    refused(InvalidClaim, "sub", claims(sub=""))


@pytest.mark.parametrize("sub", [None, "", "ada", 5])
def test_a_token_has_no_subject_where_the_configuration_says_so(sub: object) -> None:
    assert read({**claims(), "sub": sub}, subject_claim=None).subject is None


def test_the_type_of_sub_counts_where_there_is_no_subject() -> None:
    refused(InvalidClaim, "sub", claims(sub=["ada"]), subject_claim=None)


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        pytest.param({"token_use": "id"}, "an ID token", id="Cognito's ID token"),
        pytest.param({"nonce": "n", "at_hash": "h"}, "an ID token", id="an OpenID Connect ID token"),
        pytest.param({"type": "refresh"}, "a refresh token", id="flask-jwt-extended's refresh token"),
        pytest.param({"token_type": "refresh"}, "a refresh token", id="simplejwt's refresh token"),
    ],
)
def test_what_is_certainly_no_access_token_is_refused(payload: dict[str, Any], found: str) -> None:
    with pytest.raises(WrongType) as error:
        read({**claims(), **payload})
    assert (error.value.expected, error.value.found) == ("an access token", found)
    assert read({**claims(), **payload}, allow_id_tokens=True)


@pytest.mark.parametrize(
    "payload",
    [
        {"token_use": "access"},
        {"token_use": ["id"]},
        {"nonce": "n"},
        {"at_hash": "h"},
        {"nonce": None, "at_hash": "h"},
        {"type": "access"},
        {"token_type": "Bearer"},
        {"type": 5},
        {"type": ["refresh"]},
        {"refresh": True},
    ],
    ids=str,
)
def test_what_could_be_an_access_token_is_taken_for_one(payload: dict[str, Any]) -> None:
    assert read({**claims(), **payload})


@pytest.mark.parametrize(
    ("payload", "refusal", "claim"),
    [
        pytest.param({"client_id": "orders"}, None, None, id="the claim"),
        pytest.param({"client_id": ["stock", "orders"]}, None, None, id="a list"),
        pytest.param({"client_id": "orders", "aud": "orders"}, None, None, id="both"),
        pytest.param({"client_id": "orders", "aud": None}, None, None, id="a null aud, which is absent"),
        pytest.param({"client_id": "billing"}, WrongAudience, "client_id", id="another"),
        pytest.param({"client_id": "orders", "aud": "billing"}, WrongAudience, "aud", id="the aud of another"),
        pytest.param({"client_id": "billing", "aud": "orders"}, WrongAudience, "client_id", id="the aud alone"),
        pytest.param({"client_id": "orders", "aud": []}, WrongAudience, "aud", id="an empty aud"),
        pytest.param({"client_id": []}, WrongAudience, "client_id", id="an empty list"),
        pytest.param({"aud": "orders"}, MissingClaim, "client_id", id="aud without the claim"),
        pytest.param({"client_id": None, "aud": "orders"}, MissingClaim, "client_id", id="a null claim"),
        pytest.param({"client_id": 5}, InvalidClaim, "client_id", id="a number"),
        pytest.param({"client_id": ["orders", 5]}, InvalidClaim, "client_id", id="a number in a list"),
        pytest.param({"client_id": "orders", "aud": 5}, InvalidClaim, "aud", id="an aud that is a number"),
    ],
)
def test_another_claim_can_name_the_audience(
    payload: dict[str, Any], refusal: type[Refusal] | None, claim: str | None
) -> None:
    payload = {**claims(aud=None), **payload}
    if refusal is None:
        assert read(payload, audience_claim="client_id")
    else:
        refused(refusal, claim, payload, audience_claim="client_id")


@pytest.mark.parametrize(
    ("cnf", "good"),
    [
        pytest.param({"x5t#S256": "thumbprint"}, True, id="the method"),
        pytest.param({"x5t#S256": "thumbprint", "kid": "a"}, True, id="both methods"),
        pytest.param({"x5t#S256": "thumbprint", "jkt": "thumbprint"}, False, id="another method beside it"),
        pytest.param({"jkt": "thumbprint"}, False, id="another method"),
        pytest.param({}, False, id="no method"),
    ],
)
def test_every_method_that_binds_a_token_must_be_accepted(cnf: dict[str, str], good: bool) -> None:
    options: dict[str, Any] = {"accept_cnf": frozenset({"x5t#S256", "kid"})}
    if good:
        assert read(claims(cnf=cnf), **options).confirmation == tuple(cnf)
    else:
        refused(SenderConstrained, "cnf", claims(cnf=cnf), **options)


@pytest.mark.parametrize("cnf", [{"jkt": "thumbprint"}, {}])
def test_where_a_check_decides_the_token_says_how_it_is_bound(cnf: dict[str, str]) -> None:
    assert read(claims(cnf=cnf), accept_cnf=None).confirmation == tuple(cnf)
    refused(InvalidClaim, "cnf", claims(cnf="jkt"), accept_cnf=None)


@pytest.mark.parametrize(
    ("payload", "now", "options", "details"),
    [
        pytest.param({"exp": NOW - 40}, NOW, {}, {"seconds_off": 40}, id="expired"),
        pytest.param({"nbf": NOW + 40}, NOW, {}, {"seconds_off": 40}, id="not yet valid"),
        pytest.param({"iat": NOW + 40}, NOW, {}, {"seconds_off": 40}, id="issued in the future"),
        pytest.param(
            {"iat": NOW - 100},
            NOW,
            {"max_token_age": 60},
            {"seconds_off": 40, "expected": "60 s at most", "found": "100 s"},
            id="too old",
        ),
        pytest.param({"aud": "billing"}, NOW, {}, {"expected": "orders", "found": "billing"}, id="another audience"),
        pytest.param(
            {"aud": list("hgfedcba")},
            NOW,
            {"audiences": frozenset({"y", "x"})},
            {"expected": "x, y", "found": "a, b, c, d, e, ..."},
            id="many audiences",
        ),
        pytest.param({"aud": None}, NOW, {}, {"expected": "orders"}, id="no audience"),
        pytest.param(
            {}, NOW, {"types": frozenset({"at+jwt"}), "typ": "JWT"}, {"expected": "at+jwt", "found": "JWT"}, id="type"
        ),
        pytest.param(
            {}, NOW, {"types": frozenset({"at+jwt"})}, {"expected": "at+jwt", "found": "no typ"}, id="no type"
        ),
        pytest.param({"cnf": {"jkt": "t"}}, NOW, {}, {"expected": "no cnf", "found": "jkt"}, id="bound"),
        pytest.param(
            {"exp": str(NOW)}, NOW, {}, {"expected": "a number of seconds", "found": "a text"}, id="exp in quotes"
        ),
        pytest.param(
            {"iat": 1e300}, NOW, {}, {"expected": "a number of seconds", "found": "another number"}, id="iat too large"
        ),
        pytest.param({"sub": True}, NOW, {}, {"expected": "a text", "found": "a boolean"}, id="sub is true"),
        pytest.param({"jti": ["a"]}, NOW, {}, {"expected": "a text", "found": "a list"}, id="jti is a list"),
        pytest.param({"cnf": "jkt"}, NOW, {}, {"expected": "an object", "found": "a text"}, id="cnf is a text"),
        pytest.param(
            {"aud": {"orders": 1}},
            NOW,
            {},
            {"expected": "a text or a list of texts", "found": "an object"},
            id="aud is an object",
        ),
    ],
)
def test_a_refusal_tells_the_operator_what_was_expected_and_found(
    payload: dict[str, Any], now: float, options: dict[str, Any], details: dict[str, Any]
) -> None:
    with pytest.raises(Refusal) as error:
        read({**claims(), **payload}, now, **options)
    assert {name: getattr(error.value, name) for name in ("expected", "found", "seconds_off")} == {
        "expected": None,
        "found": None,
        "seconds_off": None,
        **details,
    }


@pytest.mark.parametrize("aud", ["orders", ["orders"], ["stock", "orders"], ["orders", "orders"], ["", "orders"]])
def test_an_audience_is_one_of_several(aud: object) -> None:
    assert read({**claims(), "aud": aud}).claims["aud"] == aud


def test_a_token_for_any_of_several_audiences_is_good() -> None:
    for aud in ("orders", "stock"):
        assert read(claims(aud=aud), audiences=frozenset({"orders", "stock"})).claims["aud"] == aud


@pytest.mark.parametrize(
    ("aud", "refusal"),
    [
        pytest.param("stock", WrongAudience, id="another"),
        pytest.param(["stock", "billing"], WrongAudience, id="others"),
        pytest.param("Orders", WrongAudience, id="in capitals"),
        pytest.param("orders ", WrongAudience, id="with a space"),
        pytest.param("orders stock", WrongAudience, id="two in one string"),
        pytest.param("", WrongAudience, id="an empty string"),
        pytest.param([""], WrongAudience, id="an empty string in a list"),
        pytest.param([], MissingClaim, id="an empty list"),
        pytest.param(None, MissingClaim, id="null"),
        pytest.param(5, InvalidClaim, id="a number"),
        pytest.param(True, InvalidClaim, id="a boolean"),
        pytest.param({"orders": 1}, InvalidClaim, id="an object"),
        pytest.param(["orders", 5], InvalidClaim, id="a number in the list"),
        pytest.param(["orders", None], InvalidClaim, id="null in the list"),
        pytest.param([["orders"]], InvalidClaim, id="a list in the list"),
        pytest.param([{"aud": "orders"}], InvalidClaim, id="an object in the list"),
    ],
)
def test_other_audiences_are_refused(aud: object, refusal: type[Refusal]) -> None:
    refused(refusal, "aud", {**claims(), "aud": aud})


def test_a_token_without_an_audience_is_refused() -> None:
    refused(MissingClaim, "aud", claims(aud=None))


@pytest.mark.parametrize("aud", ["stock", [], "", ["stock"]])
def test_where_any_audience_is_good_it_still_is_of_its_type(aud: object) -> None:
    assert read({**claims(), "aud": aud}, audiences=None).claims["aud"] == aud
    refused(InvalidClaim, "aud", {**claims(), "aud": [5]}, audiences=None)


def test_a_token_that_never_expires_is_refused() -> None:
    refused(MissingClaim, "exp", claims(exp=None))


@pytest.mark.parametrize(
    ("payload", "missing"),
    [
        pytest.param({"email": "ada@example.com", "auth_time": 0}, None, id="there"),
        pytest.param({"email": "", "auth_time": False}, None, id="there, and empty"),
        pytest.param({"email": "ada@example.com"}, "auth_time", id="missing"),
        pytest.param({"email": None, "auth_time": 0}, "email", id="null"),
    ],
)
def test_required_claims_are_there_and_not_null(payload: dict[str, Any], missing: str | None) -> None:
    options: dict[str, Any] = {"required_claims": ("email", "auth_time")}
    if missing is None:
        assert read({**claims(), **payload}, **options)
    else:
        refused(MissingClaim, missing, {**claims(), **payload}, **options)


@pytest.mark.parametrize(
    ("typ", "good"),
    [
        pytest.param("at+jwt", True, id="as it is"),
        pytest.param("AT+JWT", True, id="in capitals"),
        pytest.param("application/at+jwt", True, id="the whole media type"),
        pytest.param("Application/AT+jwt", True, id="the whole media type in capitals"),
        pytest.param("JWT", False, id="another"),
        pytest.param("", False, id="empty, or missing"),
        pytest.param("at+jwt ", False, id="with a space"),
        pytest.param("text/at+jwt", False, id="of another kind"),
        pytest.param("application/application/at+jwt", False, id="twice"),
        pytest.param("application/at+jwt/", False, id="with a slash behind"),
        pytest.param("at+jwt; charset=utf-8", False, id="with a parameter"),
    ],
)
def test_a_type_is_compared_as_a_media_type(typ: str, good: bool) -> None:
    options: dict[str, Any] = {"typ": typ, "types": frozenset({"at+jwt"})}
    if good:
        assert read(claims(), **options)
    else:
        refused(WrongType, None, claims(), **options)


@pytest.mark.parametrize(
    ("typ", "same"),
    [("JWT", "jwt"), ("application/jwt", "jwt"), ("text/jwt", "text/jwt"), ("application/a/b", "application/a/b")],
)
def test_a_media_type_has_one_form(typ: str, same: str) -> None:
    assert media_type(typ) == same


@pytest.mark.parametrize("typ", ["JWT", "", "anything/at/all"])
def test_where_no_type_is_demanded_any_will_do(typ: str) -> None:
    assert read(claims(), typ=typ)


@pytest.mark.parametrize(
    ("cnf", "refusal"),
    [
        pytest.param({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}, SenderConstrained, id="DPoP"),
        pytest.param({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}, SenderConstrained, id="mutual TLS"),
        pytest.param({"jwk": {"kty": "EC"}}, SenderConstrained, id="RFC 7800"),
        pytest.param({"new": 1}, SenderConstrained, id="another method"),
        pytest.param({}, SenderConstrained, id="no method"),
        pytest.param("jkt", InvalidClaim, id="a string"),
        pytest.param([{"jkt": "a"}], InvalidClaim, id="a list"),
    ],
)
def test_a_token_bound_to_its_sender_is_no_bearer_token(cnf: object, refusal: type[Refusal]) -> None:
    refused(refusal, "cnf", {**claims(), "cnf": cnf})


@pytest.mark.parametrize(
    ("value", "subject"),
    [
        pytest.param("9221ffc9", "9221ffc9", id="a string"),
        pytest.param(5, "5", id="a number"),
        pytest.param(0, "0", id="zero"),
        pytest.param(-1, "-1", id="a negative number"),
        pytest.param(10**30, "1" + "0" * 30, id="a long number"),
    ],
)
def test_another_subject_claim_may_be_a_number(value: object, subject: str) -> None:
    assert read(claims(user_id=value), subject_claim="user_id").subject == subject


@pytest.mark.parametrize("value", [True, False, 1.5, [], ["5"], {}, {"id": 5}])
def test_another_subject_claim_may_be_nothing_else(value: object) -> None:
    refused(InvalidClaim, "user_id", claims(user_id=value), subject_claim="user_id")


@pytest.mark.parametrize("payload", [{}, {"user_id": None}])
def test_another_subject_claim_must_be_there(payload: dict[str, Any]) -> None:
    refused(MissingClaim, "user_id", {**claims(), **payload}, subject_claim="user_id")


def test_another_subject_claim_may_be_nested() -> None:
    assert read(claims(user={"id": 5}), subject_claim="user.id").subject == "5"


@pytest.mark.parametrize("user", ["ada", None, {"name": "ada"}, [{"id": "ada"}]])
def test_a_nested_subject_claim_must_be_there(user: object) -> None:
    refused(MissingClaim, "user.id", {**claims(), "user": user}, subject_claim="user.id")


def test_another_subject_claim_may_not_be_empty() -> None:
    refused(InvalidClaim, "user_id", claims(user_id=""), subject_claim="user_id")


def test_the_type_of_sub_counts_where_another_claim_is_the_subject() -> None:
    refused(InvalidClaim, "sub", claims(sub=["ada"], user_id=5), subject_claim="user_id")


NESTED = {"realm_access": {"roles": ["a", "b"], "none": None, "name": "a b"}}


@pytest.mark.parametrize(
    ("payload", "scope_claim", "scopes"),
    [
        pytest.param({}, None, (), id="none"),
        pytest.param({"scope": ""}, None, (), id="an empty string"),
        pytest.param({"scope": "a"}, None, ("a",), id="one"),
        pytest.param({"scope": "a b"}, None, ("a", "b"), id="two"),
        pytest.param({"scope": "  a   b "}, None, ("a", "b"), id="too many spaces"),
        pytest.param({"scope": "a\tb\nc"}, None, ("a\tb\nc",), id="white space that is not a space"),
        pytest.param({"scope": ["a", "b"]}, None, ("a", "b"), id="a list"),
        pytest.param({"scope": ["a b"]}, None, ("a b",), id="a list with a space, which is not two"),
        pytest.param({"scope": []}, None, (), id="an empty list"),
        pytest.param({"scope": None}, None, (), id="null"),
        pytest.param({"scp": "a b"}, None, ("a", "b"), id="scp"),
        pytest.param({"scp": ["a", "b"]}, None, ("a", "b"), id="scp as a list"),
        pytest.param({"scope": "a", "scp": "b"}, None, ("a",), id="scope before scp"),
        pytest.param({"scope": "", "scp": "b"}, None, (), id="an empty scope before scp"),
        pytest.param({"roles": ["a"], "scope": "b"}, "roles", ("a",), id="another claim, and only that"),
        pytest.param({"scope": "b"}, "roles", (), id="another claim, missing"),
        pytest.param(NESTED, "realm_access.roles", ("a", "b"), id="a path to a list"),
        pytest.param(NESTED, "realm_access.name", ("a b",), id="a path to a string, which is one role"),
        pytest.param({"roles": "admin read-only"}, "roles", ("admin read-only",), id="a role whose name has a space"),
        pytest.param({"roles": ""}, "roles", (), id="a role without a name"),
        pytest.param({"scope": "a b"}, "scope", ("a", "b"), id="scope by its name"),
        pytest.param({"scp": "a b"}, "scp", ("a", "b"), id="scp by its name"),
        pytest.param({"a": {"scope": "a b"}}, "a.scope", ("a b",), id="a path that ends in scope is another claim"),
        pytest.param(NESTED, "realm_access.none", (), id="a path to null"),
        pytest.param(NESTED, "realm_access.missing", (), id="a path to nothing"),
        pytest.param(NESTED, "missing.roles", (), id="a path from nothing"),
        pytest.param(NESTED, "realm_access.roles.0", (), id="a path through a list"),
        pytest.param(NESTED, "realm_access.name.a", (), id="a path through a string"),
        pytest.param({"https://example.com/roles": ["a"]}, "https://example.com/roles", ("a",), id="a name with dots"),
        pytest.param({"a.b": "x", "a": {"b": "y"}}, "a.b", ("x",), id="a name with dots before a path"),
        pytest.param({"a.b": None, "a": {"b": "y"}}, "a.b", (), id="a name with dots that is null, too"),
        pytest.param({"": {"": "x"}}, ".", ("x",), id="empty names"),
    ],
)
def test_scopes_are_found_in_every_shape(
    payload: dict[str, Any], scope_claim: str | None, scopes: tuple[str, ...]
) -> None:
    assert read({**claims(scope=None), **payload}, scope_claim=scope_claim).scopes == scopes


@pytest.mark.parametrize("scope", ["a", "orders:read", "https://example.com/a.b", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"])
def test_a_scope_is_a_word_of_printable_ascii(scope: str) -> None:
    assert is_scope(scope)


@pytest.mark.parametrize("scope", ["", " ", "a b", 'a"', "a\\", "a\n", "\x7f", "\0", "Å"])
def test_other_words_are_no_scopes(scope: str) -> None:
    assert not is_scope(scope)


@pytest.mark.parametrize(
    ("payload", "options", "now", "refusal"),
    [
        pytest.param({"exp": 100}, {}, 104.999, None, id="exp: within the leeway"),
        pytest.param({"exp": 100}, {}, 105, Expired, id="exp: at the end of the leeway"),
        pytest.param({"exp": 100}, {"leeway": 0}, 99.999, None, id="exp: before"),
        pytest.param({"exp": 100}, {"leeway": 0}, 100, Expired, id="exp: on the second"),
        pytest.param({"exp": 100.9}, {"leeway": 0}, 100, Expired, id="exp: a fraction counts for nothing"),
        pytest.param({"exp": 100}, {"leeway": 0.5}, 100.4, None, id="exp: a fraction of leeway"),
        pytest.param({"exp": 100}, {"leeway": 0.5}, 100.5, Expired, id="exp: after a fraction of leeway"),
        pytest.param({"exp": 0}, {}, 6, Expired, id="exp: zero"),
        pytest.param({"exp": -1}, {}, 4, Expired, id="exp: negative"),
        pytest.param({"nbf": 100}, {}, 95, None, id="nbf: within the leeway"),
        pytest.param({"nbf": 100}, {}, 94.999, NotYetValid, id="nbf: before the leeway"),
        pytest.param({"nbf": 100.5}, {"leeway": 0}, 100.5, None, id="nbf: on the fraction"),
        pytest.param({"nbf": 100.5}, {"leeway": 0}, 100.4, NotYetValid, id="nbf: before the fraction"),
        pytest.param({"nbf": 0}, {}, 100, None, id="nbf: zero"),
        pytest.param({"iat": 100}, {}, 95, None, id="iat: within the leeway"),
        pytest.param({"iat": 100}, {}, 94.999, NotYetValid, id="iat: in the future"),
        pytest.param({"iat": 100}, {}, 100_000, None, id="iat: long ago"),
        pytest.param({"iat": 100}, {"max_token_age": 60}, 164.999, None, id="age: within the leeway"),
        pytest.param({"iat": 100}, {"max_token_age": 60}, 165, TooOld, id="age: at the end of the leeway"),
        pytest.param({"iat": 100}, {"max_token_age": 0, "leeway": 0}, 100, TooOld, id="age: none is allowed"),
        pytest.param({"iat": 100, "exp": 100}, {"max_token_age": 60}, 165, Expired, id="exp before age"),
        pytest.param({"nbf": 0, "iat": 0}, {}, 1e12, Expired, id="the far future"),
        pytest.param({"exp": 2**53 - 1}, {"leeway": 2**53}, 1e15, None, id="the largest of all"),
    ],
)
def test_a_token_is_good_in_its_time(
    payload: dict[str, Any], options: dict[str, Any], now: float, refusal: type[Refusal] | None
) -> None:
    payload = {"sub": "ada", "exp": 10**6, **payload}
    if refusal is None:
        checked(payload, now, audiences=None, **options)
        return
    with pytest.raises(Refusal) as error:
        checked(payload, now, audiences=None, **options)
    assert type(error.value) is refusal
    faults: dict[type[Refusal], str] = {Expired: "exp", TooOld: "iat"}
    assert error.value.claim == faults.get(refusal, "nbf" if "nbf" in payload else "iat")


dates = st.integers(0, 200)


@given(
    st.fixed_dictionaries(
        {"exp": dates}, optional={"nbf": dates | st.floats(0, 200), "iat": dates | st.floats(0, 200)}
    ),
    st.none() | dates,
    st.integers(0, 20) | st.floats(0, 20),
    st.lists(dates | st.floats(0, 200), min_size=2, max_size=20),
)
def test_the_times_that_are_remembered_say_what_reading_again_would(
    payload: dict[str, Any], max_token_age: float | None, leeway: float, moments: list[float]
) -> None:
    read_at: dict[float, tuple[float, Facts] | None] = {}
    for now in moments:
        try:
            read_at[now] = checked(
                {"sub": "ada", **payload}, now, audiences=None, max_token_age=max_token_age, leeway=leeway
            )
        except Refusal:
            read_at[now] = None
    for good_from, facts in filter(None, read_at.values()):
        good_until = Token(facts).good_until
        for now, again in read_at.items():
            assert (good_from <= now < good_until) == (again is not None)


def test_a_token_without_iat_has_no_age() -> None:
    refused(MissingClaim, "iat", claims(iat=None), max_token_age=60)
    assert read(claims(iat=None))
