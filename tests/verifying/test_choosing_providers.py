"""Which provider verifies a token, and whose refusal is reported."""

import pytest

from jwt_middleware import Provider, Refusal, Verifier
from jwt_middleware.errors import (
    AlgorithmNotAllowed,
    BadSignature,
    Expired,
    InvalidClaim,
    KeysUnavailable,
    MissingClaim,
    UnknownIssuer,
    WrongAudience,
    WrongIssuer,
)
from jwt_middleware.keys.key_set import KeySet, load_keys

from ..support import NOW, SECRET, b64, claims, provider, signed, token
from ..support.keys import RSA, token_by
from .asking import Rotating, Unreachable, by, named, one_loop, refused, token_of, verify

pytestmark = pytest.mark.anyio


async def test_the_issuer_chooses_the_provider() -> None:
    both = by("a", issuer="https://a.example"), by("b", issuer=["https://b.example", "https://c.example"])
    assert (await verify(token_of("a", iss="https://a.example"), *both)).provider == "a"
    assert (await verify(token_of("b", iss="https://b.example"), *both)).provider == "b"
    assert (await verify(token_of("b", iss="https://c.example"), *both)).provider == "b"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        pytest.param(token_of("b", iss="https://a.example"), "a", id="the issuer of A"),
        pytest.param(token_of("a", iss="https://b.example"), "b", id="the issuer of B"),
        pytest.param(token_of("none", iss="https://a.example"), "a", id="the key of one without an issuer"),
    ],
)
async def test_a_token_is_verified_with_the_keys_of_its_provider_alone(raw: str, name: str) -> None:
    providers = by("a", issuer="https://a.example"), by("b", issuer="https://b.example"), by("none")
    refusal = await refused(BadSignature, raw, *providers)
    assert (refusal.provider, refusal.subject) == (name, None)


@one_loop
@pytest.mark.parametrize(
    ("iss", "refusal"),
    [
        pytest.param("https://c.example", UnknownIssuer, id="another"),
        pytest.param("https://a.example/", UnknownIssuer, id="with a slash"),
        pytest.param("https://A.example", UnknownIssuer, id="with a capital"),
        pytest.param("https://a.example\n", UnknownIssuer, id="with a line's end"),
        pytest.param("", UnknownIssuer, id="empty"),
        pytest.param(None, MissingClaim, id="none"),
        pytest.param(5, InvalidClaim, id="a number"),
        pytest.param(["https://a.example"], InvalidClaim, id="a list"),
        pytest.param({"https://a.example": 1}, InvalidClaim, id="an object"),
        pytest.param(False, InvalidClaim, id="a boolean"),
    ],
)
async def test_issuers_are_compared_to_the_letter(iss: object, refusal: type[Refusal]) -> None:
    providers = by("a", issuer="https://a.example"), by("b", issuer="https://b.example")
    await refused(refusal, signed({"alg": "HS256"}, claims(iss=iss), f"{SECRET} a"), *providers)


async def test_of_a_single_provider_the_issuer_is_wrong_and_not_unknown() -> None:
    refusal = await refused(WrongIssuer, token(iss="https://b.example"), issuer="https://a.example")
    assert refusal.provider == "jwt"


async def test_an_iss_of_null_is_as_good_as_none() -> None:
    raw = signed({"alg": "HS256"}, {**claims(), "iss": None})
    assert (await verify(raw)).issuer is None
    assert (await refused(MissingClaim, raw, issuer="https://a.example")).claim == "iss"


async def test_without_issuers_the_providers_are_tried_in_their_order() -> None:
    providers = by("a"), by("b")
    assert (await verify(token_of("a"), *providers)).provider == "a"
    assert (await verify(token_of("b"), *providers)).provider == "b"
    assert (await verify(token_of("b", iss="https://unknown.example"), *providers)).provider == "b"
    assert (await verify(token_of("a"), by("a"), by("twin", key=f"{SECRET} a"))).provider == "a"


async def test_providers_without_an_issuer_are_for_tokens_that_no_other_is_for() -> None:
    providers = by("a", issuer="https://a.example"), by("none")
    assert (await verify(token_of("none"), *providers)).provider == "none"
    assert (await verify(token_of("none", iss="https://b.example"), *providers)).provider == "none"
    assert (await verify(token_of("a", iss="https://a.example"), *providers)).provider == "a"


async def test_providers_with_one_secret_are_told_apart_by_audience() -> None:
    providers = by("a", key=SECRET, audience="orders"), by("b", key=SECRET, audience="stock")
    assert (await verify(token(aud="orders"), *providers)).provider == "a"
    assert (await verify(token(aud="stock"), *providers)).provider == "b"
    await refused(WrongAudience, token(aud="billing"), *providers)


@pytest.mark.parametrize(
    ("raw", "refusal", "name"),
    [
        pytest.param(token_of("b", exp=NOW - 100), Expired, "b", id="a claim before a signature"),
        pytest.param(token_of("a", aud="stock"), WrongAudience, "a", id="a claim of the first"),
        pytest.param(token_of("c"), BadSignature, "a", id="a signature before an algorithm"),
        pytest.param(token_by("ES256"), AlgorithmNotAllowed, "a", id="nothing but algorithms"),
        pytest.param(token_of("c", header={"kid": "x"}), BadSignature, "a", id="a signature before a kid"),
    ],
)
async def test_of_several_refusals_the_one_that_got_furthest_is_reported(
    raw: str, refusal: type[Refusal], name: str
) -> None:
    kid = {"kty": "oct", "kid": "b", "k": b64(f"{SECRET} b".encode()).decode()}
    reported = await refused(refusal, raw, by("a"), by("b", key=[kid]), by("rsa", key=RSA))
    assert reported.provider == name


async def test_keys_that_cannot_be_had_are_reported_before_a_bad_signature_and_after_a_bad_claim() -> None:
    remote = by("remote")
    remote.keys = Unreachable()
    assert (await refused(KeysUnavailable, token_of("c"), by("a"), remote)).provider == "remote"
    for providers in ((by("a"), remote), (remote, by("a"))):
        assert (await refused(Expired, token_of("a", exp=NOW - 100), *providers)).provider == "a"


async def test_configured_keys_never_change_and_are_never_asked_for_again() -> None:
    configured = provider()
    assert await configured.keys.refreshed("new", "HS256") is configured.keys.current
    for names in (["remote"], ["remote", "other"]):
        others = [by(name) for name in names]
        sources = [Rotating(KeySet(load_keys(named("old"))), KeySet(load_keys(named("new")))) for _ in names]
        for other, source in zip(others, sources, strict=True):
            other.keys = source
        assert (await refused(BadSignature, token_of("c"), by("a"), *others)).provider == "a"
        assert [source.asked for source in sources] == [[(None, "HS256")]] * len(names)


async def test_a_provider_that_refused_for_a_passing_reason_is_asked_again() -> None:
    now = NOW
    strict = Provider(name="strict", key=SECRET, audience="orders", leeway=0)
    patient = Provider(name="patient", key=SECRET, audience="orders", leeway=60)
    verifier = Verifier([strict, patient], clock=lambda: now)
    raw = token(nbf=NOW + 10)
    assert (await verifier.verify(raw)).provider == "patient"
    now = NOW + 20
    assert (await verifier.verify(raw)).provider == "strict"
