"""Which keys are tried, by which algorithm, and what no signature gets past."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from jwt_middleware import ConfigurationError, Provider, Refusal, Verifier
from jwt_middleware.errors import AlgorithmNotAllowed, BadSignature, MalformedToken, UnknownKey
from jwt_middleware.keys.key_set import Key, KeySet, load_keys
from jwt_middleware.verifying.verifier import MAX_CHECKS

from ..support import NOW, SECRET, b64, claims, provider, signed, token
from ..support.keys import (
    ED25519,
    RSA,
    SECRET_64,
    SIGNERS,
    jwk,
    pem,
    private_forms,
    private_pem,
    public_forms,
    signature,
    token_by,
)
from .asking import GOOD, Rotating, by, named, one_loop, refused, verify

pytestmark = pytest.mark.anyio


def forms(algorithm: str) -> dict[str, Any]:
    """Every form of the key of ``algorithm``; of RSA, which has six algorithms, for one of them."""
    key = SIGNERS[algorithm]
    if isinstance(key, bytes):
        return {"secret": key, "text": key.decode(), "JWK": {"kty": "oct", "k": b64(key).decode()}}
    return {**public_forms(key), **private_forms(key)} if key is not RSA or algorithm == "RS256" else {"PEM": pem(key)}


@one_loop
@pytest.mark.parametrize(
    ("algorithm", "form"),
    [
        pytest.param(algorithm, form, id=f"{algorithm} {kind}")
        for algorithm in SIGNERS
        for kind, form in forms(algorithm).items()
    ],
)
async def test_every_algorithm_verifies_with_every_form_of_its_key(algorithm: str, form: Any) -> None:
    assert (await verify(token_by(algorithm), key=form)).subject == "ada"
    forged = token_by(algorithm)
    forged = forged[:-10] + ("A" if forged[-10] != "A" else "B") + forged[-9:]
    await refused(BadSignature, forged, key=form)


def another(key: Any) -> Any:
    """Another key of the same kind as ``key``."""
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, 2048)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ec.generate_private_key(key.curve)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return ed25519.Ed25519PrivateKey.generate()
    return ed448.Ed448PrivateKey.generate() if isinstance(key, ed448.Ed448PrivateKey) else key[::-1]


@one_loop
@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_another_key_of_the_same_kind_does_not_verify(algorithm: str) -> None:
    await refused(BadSignature, token_by(algorithm), key=another(SIGNERS[algorithm]))


async def test_keys_are_asked_for_again_where_none_is_found() -> None:
    rotated = provider()
    source = rotated.keys = Rotating(KeySet(load_keys(named("old"))), KeySet(load_keys(named("new"))))
    verifier = Verifier(rotated, clock=lambda: NOW)
    assert (await verifier.verify(token(header={"kid": "old"}))).kid == "old"
    assert source.asked == []
    assert (await verifier.verify(token(header={"kid": "new"}))).kid == "new"
    assert source.asked == [("new", "HS256")]
    with pytest.raises(UnknownKey):
        await verifier.verify(token(header={"kid": "old"}))


# Key.

NONE = ["none", "None", "NONE", "nOnE", "", " none", "none ", "none\0", "\N{FULLWIDTH LATIN SMALL LETTER N}one", "null"]


@one_loop
@pytest.mark.parametrize("algorithm", NONE)
@pytest.mark.parametrize("signed_by", ["", "AA", b64(bytes(32)).decode()])
async def test_none_is_no_algorithm(algorithm: str, signed_by: str) -> None:
    header = b64(json.dumps({"alg": algorithm}).encode()).decode()
    raw = f"{header}.{b64(GOOD).decode()}.{signed_by}"
    await refused(AlgorithmNotAllowed, raw)
    await refused(AlgorithmNotAllowed, raw, key=RSA)
    await refused(AlgorithmNotAllowed, raw, key=[SECRET, RSA, named("a")])


@one_loop
@pytest.mark.parametrize(
    "algorithm", ["hs256", "Hs256", "HS256 ", "HS-256", "ES521", "HS1", "A256GCM", "dir", "RSA1_5"]
)
async def test_other_names_are_no_algorithms(algorithm: str) -> None:
    await refused(AlgorithmNotAllowed, signed({"alg": algorithm}, GOOD))


@one_loop
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, id=f"{name} {kind}")
        for name, key in {"RSA": RSA, "P-256": SIGNERS["ES256"], "Ed25519": ED25519}.items()
        for kind, form in {**public_forms(key), "private PEM": private_pem(key)}.items()
    ],
)
async def test_the_text_of_a_key_is_never_a_secret(form: Any) -> None:
    text = json.dumps(form) if isinstance(form, dict) else form
    known: bytes = text.encode() if isinstance(text, str) else text
    alone, beside = provider(key=form, allow_weak_keys=True), provider(key=[form, SECRET_64])
    for algorithm in ("HS256", "HS384", "HS512"):
        for forged in (token_by(algorithm, forger) for forger in {known, known.strip(), known + b"\n"}):
            await refused(AlgorithmNotAllowed, forged, alone)
            # Beside a real secret, the forgery is one more bad signature.
            await refused(BadSignature, forged, beside)


@one_loop
@pytest.mark.parametrize(
    ("header", "keys", "refusal"),
    [
        pytest.param({"kid": "b"}, named("a"), UnknownKey, id="another kid"),
        pytest.param({"kid": ""}, named("a"), UnknownKey, id="an empty kid"),
        pytest.param({"kid": "a\0"}, named("a"), UnknownKey, id="a kid with NUL"),
        pytest.param({"kid": "a" * 10_000}, named("a"), UnknownKey, id="a long kid"),
        pytest.param({"kid": "../a"}, named("a"), UnknownKey, id="a path"),
        pytest.param({"kid": "b"}, [named("a"), named("b", SECRET[::-1])], BadSignature, id="the kid of another key"),
        pytest.param(
            {"kid": "a"}, [{**named("a", SECRET_64.decode()), "alg": "HS384"}], AlgorithmNotAllowed, id="another alg"
        ),
        pytest.param({"kid": "a"}, [{**jwk(RSA), "kid": "a"}], AlgorithmNotAllowed, id="another kind"),
        pytest.param({"kid": "a"}, [{**jwk(RSA), "kid": "a"}, named("b")], AlgorithmNotAllowed, id="the kid of RSA"),
        pytest.param({}, [{**jwk(RSA), "kid": "a"}], AlgorithmNotAllowed, id="no kid, another kind"),
    ],
)
async def test_a_kid_narrows_the_keys(header: dict[str, Any], keys: Any, refusal: type[Refusal]) -> None:
    refusal_ = await refused(refusal, token(header=header), key=keys)
    assert (refusal_.kid, refusal_.provider) == (header.get("kid"), "jwt")


@pytest.mark.parametrize(
    ("header", "keys"),
    [
        pytest.param({"kid": "a"}, named("a"), id="its kid"),
        pytest.param({}, named("a"), id="no kid"),
        pytest.param({"kid": "anything"}, SECRET, id="a key without a kid"),
        pytest.param({"kid": ""}, SECRET, id="a key without a kid and an empty one"),
        pytest.param({"kid": "a"}, [named("a", SECRET[::-1]), named("a")], id="one kid twice"),
        pytest.param({"kid": "a"}, [named("a", SECRET[::-1]), SECRET], id="a key without one beside its kid"),
        pytest.param({}, [SECRET[::-1], RSA, SECRET], id="no kid and several keys"),
    ],
)
async def test_the_keys_that_fit_are_tried(header: dict[str, Any], keys: Any) -> None:
    assert (await verify(token(header=header), key=keys)).subject == "ada"


async def test_algorithms_narrow_what_is_accepted() -> None:
    assert await verify(token_by("PS256"), key=RSA, algorithms=["PS256", "PS512"])
    await refused(AlgorithmNotAllowed, token_by("RS256"), key=RSA, algorithms=["PS256", "PS512"])
    await refused(AlgorithmNotAllowed, token_by("HS512"), key=SECRET_64, algorithms=["HS256"])


@pytest.mark.parametrize(
    ("members", "algorithm"),
    [
        pytest.param({"alg": "PS256"}, "RS256", id="alg"),
        pytest.param({"alg": "RS256"}, "RS384", id="another hash"),
        pytest.param({"alg": "RS256", "key_ops": ["verify"]}, "RS512", id="key_ops do not widen it"),
    ],
)
async def test_the_alg_of_a_jwk_is_the_one_it_verifies(members: dict[str, Any], algorithm: str) -> None:
    assert await verify(token_by(members["alg"]), key={**jwk(RSA), **members})
    await refused(AlgorithmNotAllowed, token_by(algorithm), key={**jwk(RSA), **members})


async def test_a_weak_key_verifies_where_it_is_allowed() -> None:
    with pytest.raises(ConfigurationError, match="the secret has 6 bytes"):
        provider(key="SECRET")
    raw = signed({"alg": "HS256"}, claims(), "SECRET")
    assert (await verify(raw, key="SECRET", allow_weak_keys=True)).subject == "ada"


async def test_the_rsa_key_of_old_systems_refuses_any_signature_without_an_exception() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
        signing_input = b".".join((b64(json.dumps({"alg": algorithm}).encode()), b64(GOOD)))
        await refused(BadSignature, signing_input + b"." + b64(b"\1" * 128), key=weak, allow_weak_keys=True)
    assert await verify(token_by("RS256", weak), key=weak, allow_weak_keys=True)


# Signature.


@one_loop
async def test_no_bit_of_a_token_can_be_changed() -> None:
    good = token()
    for place in range(0, len(good), 3):
        if good[place] == ".":
            continue
        other = "A" if good[place] != "A" else "B"
        with pytest.raises(Refusal) as error:
            await verify(good[:place] + other + good[place + 1 :])
        assert type(error.value) in (BadSignature, MalformedToken, AlgorithmNotAllowed)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(token().rpartition(".")[0] + ".", id="no signature"),
        pytest.param(token().rpartition(".")[0] + ".AAAA", id="a shorter signature"),
        pytest.param(token() + "AAAA", id="a longer signature"),
        pytest.param(token().rpartition(".")[0] + "." + token(sub="eve").rpartition(".")[2], id="of another token"),
        pytest.param(token(SECRET + "\n"), id="of the secret with a line's end"),
        pytest.param(token(SECRET.upper()), id="of the secret in capitals"),
    ],
)
async def test_another_signature_is_refused(raw: str) -> None:
    refusal = await refused(BadSignature, raw)
    assert (refusal.provider, refusal.subject, refusal.claim) == ("jwt", None, None)


async def test_a_signature_is_that_of_the_bytes_and_not_of_their_meaning() -> None:
    # The same claims in another order, with the signature of the first.
    first = signed({"alg": "HS256"}, claims())
    second = b".".join((b64(b'{"alg":"HS256"}'), b64(json.dumps(dict(reversed(claims().items()))).encode())))
    await refused(BadSignature, second + b"." + first.rpartition(".")[2].encode())
    assert await verify(second + b"." + b64(signature("HS256", second, SECRET.encode())))


async def test_a_public_pem_and_its_key_accept_the_same_tokens() -> None:
    assert await verify(token_by("RS256"), key=pem(RSA).decode())
    await refused(AlgorithmNotAllowed, token_by("HS256", pem(RSA)), key=pem(RSA).decode())


async def count_checks(verifier: Verifier, raw: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of signature checks that a token causes."""
    checks = 0
    verifies = Key.verifies

    def count(self: Key, *arguments: Any) -> bool:
        nonlocal checks
        checks += 1
        return verifies(self, *arguments)

    monkeypatch.setattr(Key, "verifies", count)
    try:
        await verifier.verify(raw)
    except BadSignature:
        return checks
    finally:
        monkeypatch.undo()
    raise AssertionError("the token was good")


@pytest.mark.parametrize(
    ("providers", "keys", "checks"),
    [
        pytest.param(1, 8, 8, id="one provider with many keys"),
        pytest.param(3, 4, 12, id="a few providers"),
        pytest.param(100, 8, MAX_CHECKS, id="many providers with many keys"),
        pytest.param(100, 1, MAX_CHECKS, id="many providers with one key"),
        pytest.param(3, 7, MAX_CHECKS, id="a provider whose last keys are too many"),
    ],
)
@one_loop
async def test_the_signature_checks_for_one_token_have_a_fixed_number(
    providers: int, keys: int, checks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = [by(str(n), key=[f"{SECRET} {n} {k}" for k in range(keys)]) for n in range(providers)]
    assert await count_checks(Verifier(several, clock=lambda: NOW), token(), monkeypatch) == checks


@one_loop
async def test_newer_keys_are_tried_though_the_older_ones_were_many() -> None:
    def rotating(name: str, after: str) -> Provider:
        rotated = by(name)
        before = KeySet(load_keys([f"{SECRET} {name} {k}" for k in range(8)]))
        rotated.keys = Rotating(before, KeySet(load_keys(after)))
        return rotated

    providers = [rotating("a", SECRET[::-1]), rotating("b", SECRET[::-1]), rotating("c", SECRET)]
    assert (await Verifier(providers, clock=lambda: NOW).verify(token())).provider == "c"


@pytest.mark.parametrize(
    ("providers", "said"),
    [
        pytest.param([by("a", key=[SECRET] * 8), by("b", key=[SECRET] * 8)], False, id="as many keys as are tried"),
        pytest.param([by("a", key=[SECRET] * 8), by("b", key=[SECRET] * 8), by("c")], True, id="one more"),
        pytest.param(
            [by("a", key=[SECRET] * 8, issuer="a"), by("b", key=[SECRET] * 8), by("c")], False, id="one has an issuer"
        ),
        pytest.param(
            [by("a", key=[SECRET] * 8), by("b", key=[SECRET] * 8), by("c", key=pem(RSA))], False, id="one is for RSA"
        ),
    ],
)
def test_more_keys_than_are_tried_are_mentioned_at_construction(
    providers: list[Provider], said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    Verifier(providers)
    assert ("17 keys for HS256, but a token is tried with 16" in caplog.text) is said
