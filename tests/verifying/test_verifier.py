"""What is decided after the signature: every rule about claims is applied, then ``validate`` is called."""

from typing import Any

import pytest

from jwt_middleware import ANY, Provider, Refusal, Token, Verifier
from jwt_middleware.errors import (
    BadSignature,
    Expired,
    InvalidClaim,
    MissingClaim,
    NotYetValid,
    SenderConstrained,
    TooOld,
    UserRefused,
    WrongAudience,
    WrongType,
)

from ..support import NOW, SECRET, claims, provider, signed, token
from .asking import by, one_loop, refused, verify

pytestmark = pytest.mark.anyio


async def test_a_good_token_is_accepted_as_text_and_as_bytes() -> None:
    for raw in (token(), token().encode()):
        verified = await verify(raw)
        assert verified.claims == claims()
        assert verified.header == {"alg": "HS256", "typ": "JWT"}
        assert (verified.provider, verified.subject, verified.expires_at) == ("jwt", "ada", NOW + 900)


# Claims: the rules have tests of their own; here is that each of them is asked.


@one_loop
def fail_to_read(claims: dict[str, Any]) -> list[str]:
    raise KeyError("roles")


@pytest.mark.parametrize(
    ("changes", "options", "refusal", "claim"),
    [
        pytest.param({"exp": NOW - 5}, {}, Expired, "exp", id="expired"),
        pytest.param({"exp": NOW}, {"leeway": 0}, Expired, "exp", id="expired, without leeway"),
        pytest.param({"nbf": NOW + 6}, {}, NotYetValid, "nbf", id="not yet valid"),
        pytest.param({"iat": NOW + 6}, {}, NotYetValid, "iat", id="issued in the future"),
        pytest.param({"iat": NOW - 65}, {"max_token_age": 60}, TooOld, "iat", id="too old"),
        pytest.param({"aud": "stock"}, {}, WrongAudience, "aud", id="another audience"),
        pytest.param({}, {"token_type": "at+jwt"}, WrongType, None, id="another type"),
        pytest.param({}, {"required_claims": ["email"]}, MissingClaim, "email", id="a missing claim"),
        pytest.param({}, {"required_claims": "email"}, MissingClaim, "email", id="a missing claim, as a string"),
        pytest.param({}, {"subject_claim": "user_id"}, MissingClaim, "user_id", id="a missing subject"),
        pytest.param({"exp": str(NOW)}, {}, InvalidClaim, "exp", id="exp is a string"),
        pytest.param({}, {"scope_claim": fail_to_read}, InvalidClaim, None, id="scopes that a function cannot read"),
        pytest.param({"cnf": {"jkt": "a"}}, {}, SenderConstrained, "cnf", id="bound to its sender"),
    ],
)
async def test_claims_are_judged_after_the_signature(
    changes: dict[str, Any], options: dict[str, Any], refusal: type[Refusal], claim: str | None
) -> None:
    raw = signed({"alg": "HS256", "kid": "a"}, claims(**changes))
    reported = await refused(refusal, raw, **options)
    subject = None if claim == "user_id" else "ada"
    assert (reported.provider, reported.kid, reported.subject, reported.claim) == ("jwt", "a", subject, claim)
    await refused(BadSignature, signed({"alg": "HS256"}, claims(**changes), SECRET[::-1]), **options)


async def test_a_subject_that_is_no_string_is_not_reported() -> None:
    assert (await refused(InvalidClaim, signed({"alg": "HS256"}, claims(sub=["ada"])))).subject is None
    assert (await refused(Expired, signed({"alg": "HS256"}, claims(sub=5, exp=1)))).subject == "5"
    assert (await refused(Expired, token(exp=1), subject_claim=None)).subject is None


@one_loop
@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
@pytest.mark.parametrize("token_type", ["at+jwt", "application/AT+JWT", ["jwt", "at+jwt"]])
async def test_types_are_compared_as_media_types_on_both_sides(typ: str, token_type: Any) -> None:
    assert await verify(token(header={"typ": typ}), token_type=token_type)


async def test_scopes_that_cannot_be_read_grant_nothing_and_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    verifier = Verifier(provider(scope_claim="roles"), clock=lambda: NOW)
    for number in range(3):
        assert (await verifier.verify(token(roles=5, jti=str(number)))).scopes == ()
    (message,) = caplog.messages
    assert "the claim 'roles' of a token holds a value of type int, which grants nothing" in message


async def test_an_exception_of_a_scope_function_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    verifier = Verifier(provider(scope_claim=fail_to_read), clock=lambda: NOW)
    for number in range(3):
        with pytest.raises(InvalidClaim):
            await verifier.verify(token(jti=str(number)))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


async def test_a_scope_function_runs_once_for_a_remembered_token() -> None:
    asked: list[Any] = []

    def scopes(claims: dict[str, Any]) -> list[str]:
        asked.append(claims["sub"])
        return ["a"]

    verifier = Verifier(provider(scope_claim=scopes), clock=lambda: NOW)
    for _ in range(3):
        assert (await verifier.verify(token())).scopes == ("a",)
    assert asked == ["ada"]


async def test_scopes_imply_others_and_a_provider_grants_only_what_it_may() -> None:
    options: dict[str, Any] = {"scope_implies": {"admin": ["orders"]}, "may_grant": ["orders"]}
    assert (await verify(token(scope="admin"), **options)).scopes == ("orders",)


def test_providers_that_may_grant_any_scope_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    Verifier([by("staff"), by("partners", may_grant=["orders:read"])])
    assert "tokens of 'staff' can grant any scope" in caplog.text
    caplog.clear()
    Verifier([by("staff", may_grant=["admin"]), by("partners", may_grant=["orders:read"])])
    Verifier(by("alone"))
    assert not caplog.messages


BOUND: dict[str, Any] = {"cnf": {"x5t#S256": "thumbprint"}}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_check_decides_about_each_request_with_a_token_that_is_bound(is_async: bool) -> None:
    asked: list[tuple[Any, Any]] = []
    answers: list[Any] = [True, True, False]

    def check(token: Token, connection: Any) -> Any:
        asked.append((token.confirmation, connection))
        return answers.pop(0)

    async def check_later(token: Token, connection: Any) -> Any:
        return check(token, connection)

    verifier = Verifier(provider(accept_cnf=check_later if is_async else check), clock=lambda: NOW)
    assert await verifier.verify(token(**BOUND), connection="first")
    assert await verifier.verify(token(**BOUND), connection="second")
    with pytest.raises(SenderConstrained) as error:
        await verifier.verify(token(**BOUND))
    assert (error.value.provider, error.value.subject) == ("jwt", "ada")
    assert asked == [(("x5t#S256",), "first"), (("x5t#S256",), "second"), (("x5t#S256",), None)]
    assert await verifier.verify(token())
    assert len(asked) == 3


@pytest.mark.parametrize(
    "result", [False, None, 1, "yes", (True, "yes"), pytest.param(object(), id="an object")], ids=repr
)
async def test_a_check_of_a_bound_token_accepts_with_true_alone(result: Any) -> None:
    await refused(SenderConstrained, token(**BOUND), accept_cnf=lambda token: result)
    await refused(SenderConstrained, token(**BOUND), accept_cnf=lambda token: result, validate=lambda token: True)


async def test_methods_that_something_in_front_has_checked_are_accepted_by_name() -> None:
    assert await verify(token(**BOUND), accept_cnf=["x5t#S256"])
    await refused(SenderConstrained, token(cnf={"x5t#S256": "a", "jkt": "b"}), accept_cnf=["x5t#S256"])


async def test_validate_sees_the_connection_if_it_has_a_second_parameter() -> None:
    seen: list[Any] = []

    def check(token: Token, connection: Any) -> bool:
        seen.append(connection)
        return True

    verifier = Verifier(provider(validate=[lambda token: True, check]), clock=lambda: NOW)
    assert verifier.sees_connection
    await verifier.verify(token(), connection="here")
    await verifier.verify(token())
    assert seen == ["here", None]
    assert not Verifier(provider(validate=lambda token: True)).sees_connection


async def test_any_audience_must_be_asked_for_by_name() -> None:
    for changed in (claims(aud="stock"), claims(aud=None), claims(aud=[])):
        assert await verify(signed({"alg": "HS256"}, changed), audience=ANY)
    await refused(InvalidClaim, token(aud=[5]), audience=ANY)


async def test_several_audiences_can_be_accepted() -> None:
    assert await verify(token(aud=["x", "stock"]), audience=["orders", "stock"])


# validate.


async def test_validate_sees_the_token_and_lets_it_pass() -> None:
    seen: list[Token] = []

    def sync(token: Token) -> bool:
        seen.append(token)
        return True

    async def asynchronous(token: Token) -> bool:
        return sync(token)

    verified = await verify(token(), validate=[sync, asynchronous])
    assert seen == [verified, verified]
    assert await verify(token(), validate=sync)
    assert await verify(token(), validate=asynchronous)


class AsyncCall:
    """Async, and not a coroutine function."""

    async def __call__(self, token: Token) -> bool:
        return token.subject != "ada"


async def returns_false(token: Token) -> bool:
    return False


async def returns_none(token: Token) -> Any:
    return None


async def generates(token: Token) -> Any:
    yield False


@pytest.mark.parametrize(
    "validate",
    [
        pytest.param(lambda token: False, id="False"),
        pytest.param(returns_false, id="an async function"),
        pytest.param(AsyncCall(), id="an object with an async __call__"),
        pytest.param([lambda token: True, lambda token: False], id="the second of two"),
    ],
)
async def test_a_token_for_which_validate_returns_false_is_refused(validate: Any) -> None:
    refusal = await refused(InvalidClaim, token(header={"kid": "a"}), validate=validate)
    assert (refusal.provider, refusal.kid, refusal.subject, refusal.claim) == ("jwt", "a", "ada", None)


@pytest.mark.parametrize(
    "validate",
    [
        pytest.param(lambda token: None, id="None"),
        pytest.param(lambda token: 0, id="zero"),
        pytest.param(lambda token: 1, id="one"),
        pytest.param(lambda token: token.claims.get("admin"), id="a missing claim"),
        pytest.param(lambda token: (False, "no"), id="a tuple"),
        pytest.param(lambda token: "not an admin", id="an error text"),
        pytest.param(lambda token: UserRefused, id="a class"),
        pytest.param(lambda token: generates(token), id="an async generator"),
        pytest.param(lambda token: returns_none, id="a function"),
        pytest.param(returns_none, id="an async function that returns None"),
        pytest.param([lambda token: True, lambda token: "ada"], id="the second of two"),
    ],
)
async def test_validate_returns_a_bool_and_nothing_else(validate: Any) -> None:
    with pytest.raises(TypeError, match="validate must return True or False, not "):
        await verify(token(), validate=validate)


async def test_validate_may_refuse_in_its_own_words() -> None:
    class Blocked(UserRefused):
        code = "blocked"

    def block(token: Token) -> bool:
        raise Blocked(claim="sub")

    refusal = await refused(Blocked, token(), validate=block)
    assert (refusal.provider, refusal.subject, refusal.claim) == ("jwt", "ada", "sub")


async def test_what_else_validate_raises_gets_through() -> None:
    def broken(token: Token) -> bool:
        raise LookupError("the database is away")

    with pytest.raises(LookupError, match="the database is away"):
        await verify(token(), validate=broken)


async def test_validate_is_not_asked_about_a_bad_token() -> None:
    def asked(token: Token) -> bool:
        raise AssertionError("validate was asked")

    await refused(BadSignature, token(SECRET[::-1]), validate=asked)
    await refused(Expired, token(exp=NOW - 100), validate=asked)


async def test_validate_is_asked_each_time() -> None:
    answers = [True, True, False]
    verifier = Verifier(provider(validate=lambda token: answers.pop(0)), clock=lambda: NOW)
    for _ in range(2):
        assert await verifier.verify(token())
    with pytest.raises(InvalidClaim):
        await verifier.verify(token())


async def test_no_refusal_holds_a_token() -> None:
    raw = signed({"alg": "HS256"}, claims(email="ada@example.com", exp=NOW - 100))
    for bad in (raw, raw[:-3] + "AAA", raw + "."):
        with pytest.raises(Refusal) as error:
            await verify(bad)
        assert "example.com" not in f"{error.value} {error.value!r} {vars(error.value)} {error.value.body}"


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        pytest.param({"sub": "someone else", "user_id": "ada"}, "ada", id="a string"),
        pytest.param({"user_id": 17}, "17", id="a number"),
        pytest.param({"user_id": True}, None, id="no name"),
    ],
)
async def test_a_refusal_names_the_user_as_the_token_would(changes: dict[str, Any], subject: str | None) -> None:
    verifier = Verifier(Provider(key=SECRET, audience="orders", subject_claim="user_id"), clock=lambda: NOW)
    with pytest.raises(Refusal) as refused:
        await verifier.verify(token(exp=1, **changes))
    assert refused.value.subject == subject
