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
from .asking import one_loop, refused, verify

pytestmark = pytest.mark.anyio


async def test_a_good_token_is_accepted_as_text_and_as_bytes() -> None:
    for raw in (token(), token().encode()):
        verified = await verify(raw)
        assert verified.claims == claims()
        assert verified.header == {"alg": "HS256", "typ": "JWT"}
        assert (verified.provider, verified.subject, verified.expires_at) == ("jwt", "ada", NOW + 900)


# Claims: the rules have tests of their own; here is that each of them is asked.


@one_loop
@pytest.mark.parametrize(
    ("changes", "options", "refusal", "claim"),
    [
        pytest.param({"exp": NOW - 5}, {}, Expired, "exp", id="expired"),
        pytest.param({"exp": NOW}, {"leeway": 0}, Expired, "exp", id="expired, without leeway"),
        pytest.param({"nbf": NOW + 6}, {}, NotYetValid, "nbf", id="not yet valid"),
        pytest.param({"iat": NOW + 6}, {}, NotYetValid, "iat", id="issued in the future"),
        pytest.param({"iat": NOW - 65}, {"max_token_age": 60}, TooOld, "iat", id="too old"),
        pytest.param({"aud": "stock"}, {}, WrongAudience, None, id="another audience"),
        pytest.param({}, {"token_type": "at+jwt"}, WrongType, None, id="another type"),
        pytest.param({}, {"required_claims": ["email"]}, MissingClaim, "email", id="a missing claim"),
        pytest.param({}, {"required_claims": "email"}, MissingClaim, "email", id="a missing claim, as a string"),
        pytest.param({}, {"subject_claim": "user_id"}, MissingClaim, "user_id", id="a missing subject"),
        pytest.param({"exp": str(NOW)}, {}, InvalidClaim, "exp", id="exp is a string"),
        pytest.param({"roles": 5}, {"scope_claim": "roles"}, InvalidClaim, "roles", id="scopes are a number"),
        pytest.param({"cnf": {"jkt": "a"}}, {}, SenderConstrained, None, id="bound to its sender"),
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
    assert (await refused(InvalidClaim, signed({"alg": "HS256"}, claims(sub=5)))).subject is None


@one_loop
@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
@pytest.mark.parametrize("token_type", ["at+jwt", "application/AT+JWT", ["jwt", "at+jwt"]])
async def test_types_are_compared_as_media_types_on_both_sides(typ: str, token_type: Any) -> None:
    assert await verify(token(header={"typ": typ}), token_type=token_type)


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
