import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from jwt_middleware import ANY, ConfigurationError, Provider, Refusal, Token, Verifier
from jwt_middleware.errors import (
    AlgorithmNotAllowed,
    BadSignature,
    EncryptedToken,
    Expired,
    InvalidClaim,
    KeysUnavailable,
    MalformedToken,
    MissingClaim,
    NotYetValid,
    SenderConstrained,
    TokenTooLarge,
    TooOld,
    UnknownIssuer,
    UnknownKey,
    UserRefused,
    WrongAudience,
    WrongIssuer,
    WrongType,
)
from jwt_middleware.keys.key_set import KeySet, load_keys
from jwt_middleware.verifying.verifier import MAX_HEADERS, MAX_TOKEN_SIZE

from ..support import NOW, SECRET, b64, claims, signed, token
from ..support.keys import (
    ED25519,
    RSA,
    SECRET_64,
    SIGNERS,
    certificate,
    jwk,
    pem,
    private_forms,
    private_pem,
    public_forms,
    signature,
    token_by,
)

pytestmark = pytest.mark.anyio

# For the large tables: where nothing waits, one event loop tells as much as two.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def provider(**options: Any) -> Provider:
    return Provider(**{"key": SECRET, "audience": "orders", **options})


async def verify(raw: str | bytes, *providers: Provider, now: float = NOW, **options: Any) -> Token:
    return await Verifier(providers or provider(**options), clock=lambda: now).verify(raw)


async def refused(refusal: type[Refusal], raw: str | bytes, *providers: Provider, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as error:
        await verify(raw, *providers, **options)
    assert type(error.value) is refusal
    return error.value


def by(name: str, **options: Any) -> Provider:
    """A provider named ``name``, with a secret of its own unless another is given."""
    return provider(**{"name": name, "key": f"{SECRET} {name}", **options})


def token_of(name: str, **changes: Any) -> str:
    """A token signed with the secret of ``by(name)``."""
    return token(f"{SECRET} {name}", **changes)


async def test_a_good_token_is_accepted_as_text_and_as_bytes() -> None:
    for raw in (token(), token().encode()):
        verified = await verify(raw)
        assert verified.claims == claims()
        assert verified.header == {"alg": "HS256", "typ": "JWT"}
        assert (verified.provider, verified.subject, verified.expires_at) == ("jwt", "ada", NOW + 900)


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


# 1. Size.


@pytest.mark.parametrize(
    "raw", ["x" * (MAX_TOKEN_SIZE + 1), "\xe9" * (MAX_TOKEN_SIZE + 1), b"." * (MAX_TOKEN_SIZE + 1), b"\xff" * 1_000_000]
)
async def test_a_token_that_is_too_large_is_not_looked_at(raw: str | bytes) -> None:
    await refused(TokenTooLarge, raw)


async def test_the_largest_token_is_looked_at() -> None:
    raw = token(padding="x" * 12_000)
    size = len(raw)
    assert (await Verifier(provider(), clock=lambda: NOW, max_token_size=size).verify(raw)).subject == "ada"
    with pytest.raises(TokenTooLarge):
        await Verifier(provider(), clock=lambda: NOW, max_token_size=size - 1).verify(raw)


# 2. Form.


@one_loop
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("", id="nothing"),
        pytest.param("token", id="a word"),
        pytest.param("a.b.c", id="three characters"),
        pytest.param("\N{SNOWMAN}" + token(), id="a snowman"),
        pytest.param("\udc80" + token(), id="a surrogate"),
        pytest.param(token() + "\n", id="a line's end"),
        pytest.param(" " + token(), id="a space in front"),
        pytest.param("Bearer " + token(), id="the scheme"),
        pytest.param(token() + "=", id="padding"),
        pytest.param(token() + "==", id="more padding"),
        pytest.param(token()[:-1], id="a character less"),
        pytest.param(token() + ".", id="four segments"),
        pytest.param(f'"{token()}"', id="quotes"),
        pytest.param(json.dumps({"payload": "e30", "signatures": []}), id="the JSON serialisation"),
        pytest.param(token().encode() + b"\xff", id="a byte over 127"),
        pytest.param(token().encode("utf-16"), id="UTF-16"),
    ],
)
async def test_a_token_has_one_spelling(raw: str | bytes) -> None:
    await refused(MalformedToken, raw)


async def test_an_encrypted_token_is_said_to_be_one() -> None:
    await refused(EncryptedToken, token() + ".aXY.dGFn")


async def test_the_last_character_cannot_be_exchanged_for_its_neighbour() -> None:
    # The last of 43 characters carries four bits: three neighbours decode to the same bytes.
    good = token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(good[-1])
    assert last % 4 == 0
    for neighbour in alphabet[last + 1 : last + 4]:
        await refused(MalformedToken, good[:-1] + neighbour)


HEADERS = [
    pytest.param(b'{"alg":"HS256","alg":"HS256"}', id="alg twice"),
    pytest.param(b'{"alg":"HS256","x":{"a":1,"a":1}}', id="a nested name twice"),
    pytest.param(b'{"alg":"HS256","crit":["exp"]}', id="crit"),
    pytest.param(b'{"alg":"HS256","b64":false,"crit":["b64"]}', id="b64"),
    pytest.param(b'{"alg":"HS256","b64":true}', id="b64 that is true"),
    pytest.param(b'{"alg":"HS256","kid":5}', id="a kid that is a number"),
    pytest.param(b'{"alg":"HS256","kid":null}', id="a kid that is null"),
    pytest.param(b'{"alg":"HS256","typ":null}', id="a typ that is null"),
    pytest.param(b'{"alg":"HS256","x":NaN}', id="NaN"),
    pytest.param(b'{"alg":"HS256","x":1e999}', id="1e999"),
    pytest.param(b'{"alg":"HS256"} {}', id="trailing JSON"),
    pytest.param(b'{"alg":"HS256",}', id="a trailing comma"),
    pytest.param(b'{"alg":"HS256","x":"\\ud800"}', id="an unpaired surrogate"),
    pytest.param(b'{"alg":"HS256","x":' + b"[" * 32 + b"]" * 32 + b"}", id="33 levels"),
    pytest.param(b'\xef\xbb\xbf{"alg":"HS256"}', id="a byte order mark"),
    pytest.param('{"alg":"HS256"}'.encode("utf-16"), id="UTF-16"),
    pytest.param('{"alg":"HS256"}'.encode("utf-32-le"), id="UTF-32"),
    pytest.param(b'["HS256"]', id="a list"),
    pytest.param(b"{}", id="no alg"),
    pytest.param(b'{"alg":["HS256"]}', id="alg in a list"),
]


@one_loop
@pytest.mark.parametrize("header", HEADERS)
async def test_a_header_that_is_not_plain_is_refused_whatever_its_signature(header: bytes) -> None:
    await refused(MalformedToken, signed(header, claims()))


GOOD = json.dumps(claims()).encode()


@one_loop
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(GOOD.replace(b"ada", b"\xe9"), id="Latin-1"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, id="a byte order mark"),
        pytest.param(GOOD.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(GOOD.decode().encode("utf-16-be"), id="UTF-16 without a mark"),
        pytest.param(GOOD.decode().encode("utf-32"), id="UTF-32"),
        pytest.param(GOOD[:-1] + b',"sub":"ada"}', id="sub twice"),
        pytest.param(GOOD[:-1] + b',"o":[{"a":1,"a":1}]}', id="a nested name twice"),
        pytest.param(GOOD[:-1] + b',"x":NaN}', id="NaN"),
        pytest.param(GOOD[:-1] + b',"x":-Infinity}', id="-Infinity"),
        pytest.param(GOOD[:-1] + b',"x":1e999}', id="1e999"),
        pytest.param(GOOD[:-1] + b',"x":' + b"1" * 5000 + b"}", id="5,000 digits"),
        pytest.param(GOOD[:-1] + b',"x":"\\udc00"}', id="an unpaired surrogate"),
        pytest.param(GOOD[:-1] + b',"x":' + b"[" * 32 + b"]" * 32 + b"}", id="33 levels"),
        pytest.param(GOOD[:-1] + b',"x":"\0"}', id="NUL in a string"),
        pytest.param(GOOD[:-1] + b",}", id="a trailing comma"),
        pytest.param(GOOD + b"x", id="trailing text"),
        pytest.param(GOOD[:-1], id="an open object"),
        pytest.param(b"[" + GOOD + b"]", id="a list"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b"5", id="a number"),
        pytest.param(b"null", id="null"),
    ],
)
async def test_a_payload_that_is_not_plain_json_is_refused_whatever_its_signature(payload: bytes) -> None:
    await refused(MalformedToken, signed({"alg": "HS256"}, payload))
    forged = b".".join((b64(b'{"alg":"HS256"}'), b64(payload), b64(bytes(32))))
    await refused(MalformedToken, forged)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b" \t\r\n" + GOOD + b"\n", id="white space"),
        pytest.param(GOOD[:-1] + b',"x":' + b"[" * 31 + b"]" * 31 + b"}", id="32 levels"),
        pytest.param(GOOD[:-1] + b',"x":"\\ud83d\\ude00"}', id="a surrogate pair"),
    ],
)
async def test_json_of_other_spelling_is_accepted(payload: bytes) -> None:
    assert (await verify(signed({"alg": "HS256"}, payload))).claims == json.loads(payload)


# 3. Keys in the header.


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"jwk": {"kty": "oct", "k": b64(SECRET_64).decode()}}, id="a secret"),
        pytest.param({"jwk": jwk(ED25519)}, id="a public key"),
        pytest.param({"jku": "https://evil.example/jwks.json"}, id="an address of keys"),
        pytest.param({"x5u": "https://evil.example/certificate.pem"}, id="an address of a certificate"),
        pytest.param({"x5c": [b64encode(certificate(RSA)).decode()]}, id="a certificate"),
        pytest.param({"jwk": 5, "jku": None, "x5u": [], "x5c": {}, "x5t": 1, "cty": None}, id="wrong types"),
    ],
)
async def test_a_key_that_the_token_brings_is_not_used_and_not_in_the_way(members: dict[str, Any]) -> None:
    assert (await verify(token(header=members))).header["alg"] == "HS256"
    await refused(BadSignature, token(SECRET_64, header=members))
    await refused(AlgorithmNotAllowed, token_by("EdDSA", header=members))


# 4. Provider.


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


async def test_an_iss_of_null_is_refused_with_and_without_issuers() -> None:
    raw = signed({"alg": "HS256"}, {**claims(), "iss": None})
    await refused(InvalidClaim, raw)
    await refused(InvalidClaim, raw, issuer="https://a.example")


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


class Unreachable:
    """Keys that cannot be had."""

    current = KeySet(())

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        raise KeysUnavailable


class Rotating:
    """Keys that are new once they were asked for."""

    def __init__(self, before: KeySet, after: KeySet) -> None:
        self.current = before
        self.after = after
        self.asked: list[tuple[str | None, str]] = []

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        self.asked.append((kid, algorithm))
        self.current = self.after
        return self.after


async def test_keys_that_cannot_be_had_are_reported_before_a_bad_signature_and_after_a_bad_claim() -> None:
    remote = by("remote")
    remote.keys = Unreachable()
    assert (await refused(KeysUnavailable, token_of("c"), by("a"), remote)).provider == "remote"
    for providers in ((by("a"), remote), (remote, by("a"))):
        assert (await refused(Expired, token_of("a", exp=NOW - 100), *providers)).provider == "a"


def named(kid: str, secret: str = SECRET) -> dict[str, str]:
    return {"kty": "oct", "kid": kid, "k": b64(secret.encode()).decode()}


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


# 5. Key.

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


# 6. Signature.


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


# 7. Claims: the rules have tests of their own; here is that each of them is asked.


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


async def returns_none(token: Token) -> Any:
    return None


@pytest.mark.parametrize(
    "validate",
    [
        pytest.param(lambda token: False, id="False"),
        pytest.param(lambda token: None, id="None"),
        pytest.param(lambda token: 0, id="zero"),
        pytest.param(lambda token: token.claims.get("admin"), id="a missing claim"),
        pytest.param(returns_none, id="an async function"),
        pytest.param(AsyncCall(), id="an object with an async __call__"),
        pytest.param([lambda token: True, lambda token: False], id="the second of two"),
    ],
)
async def test_what_validate_finds_not_true_is_refused(validate: Any) -> None:
    refusal = await refused(InvalidClaim, token(header={"kid": "a"}), validate=validate)
    assert (refusal.provider, refusal.kid, refusal.subject, refusal.claim) == ("jwt", "a", "ada", None)


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


# What is remembered.


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("cache_size", [0, 1, 16])
async def test_a_token_seen_again_is_judged_by_the_time_it_is_then(cache_size: int) -> None:
    clock = Clock()
    verifier = Verifier(provider(max_token_age=600), clock=clock, cache_size=cache_size)
    raw = token(nbf=NOW, exp=NOW + 300)
    moments: list[tuple[float, type[Refusal] | None]] = [
        (NOW, None),
        (NOW + 304.9, None),
        (NOW + 305, Expired),
        (NOW - 5, None),
        (NOW - 5.1, NotYetValid),
        (NOW + 100, None),
        (NOW + 10_000, Expired),
    ]
    for now, refusal in moments:
        clock.now = now
        if refusal is None:
            assert (await verifier.verify(raw)).subject == "ada"
            continue
        with pytest.raises(refusal) as error:
            await verifier.verify(raw)
        assert (error.value.provider, error.value.subject) == ("jwt", "ada")


async def test_keys_of_the_configuration_are_never_other_ones_and_nobody_asks() -> None:
    configured = provider()
    assert await configured.keys.refreshed("new", "HS256") is configured.keys.current
    for names in (["remote"], ["remote", "other"]):
        others = [by(name) for name in names]
        sources = [Rotating(KeySet(load_keys(named("old"))), KeySet(load_keys(named("new")))) for _ in names]
        for other, source in zip(others, sources, strict=True):
            other.keys = source
        assert (await refused(BadSignature, token_of("c"), by("a"), *others)).provider == "a"
        assert [source.asked for source in sources] == [[(None, "HS256")]] * len(names)


async def test_a_token_that_was_good_once_is_refused_when_its_key_is_gone() -> None:
    rotated = provider()
    keys = KeySet(load_keys(named("a")))
    rotated.keys = source = Rotating(keys, keys)
    verifier = Verifier(rotated, clock=lambda: NOW)
    raw = token(header={"kid": "a"})
    assert await verifier.verify(raw)
    source.current = source.after = KeySet(load_keys(named("b")))
    assert verifier._recalled(b"Bearer " + raw.encode()) is None
    with pytest.raises(UnknownKey):
        await verifier.verify(raw)


async def test_bad_tokens_are_not_remembered() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW)
    for raw in (token(SECRET[::-1]), token(exp=NOW - 100), token(aud="stock")):
        with pytest.raises(Refusal):
            await verifier.verify(raw)
        assert verifier._recalled(b"Bearer " + raw.encode()) is None


async def test_a_good_token_is_remembered_until_it_is_not_good() -> None:
    clock = Clock()
    verifier = Verifier(provider(), clock=clock)
    raw = token().encode()
    assert verifier._recalled(b"Bearer " + raw) is None
    await verifier.verify(raw)
    remembered = verifier._recalled(b"Bearer " + raw)
    assert remembered is not None
    assert remembered.subject == "ada"
    clock.now = NOW + 905
    assert verifier._recalled(b"Bearer " + raw) is None


async def test_where_validate_is_to_be_asked_memory_does_not_have_the_last_word() -> None:
    asked: list[str | None] = []

    def only_once(token: Token) -> bool:
        asked.append(token.subject)
        return len(asked) == 1

    verifier = Verifier(provider(validate=only_once), clock=Clock())
    assert await verifier.verify(token())
    for judged in (verifier.judge(token().encode()), verifier.judge_header(b"Bearer " + token().encode())):
        assert judged is not None
        assert not isinstance(judged, Token)
        with pytest.raises(InvalidClaim):
            await judged
    assert asked == ["ada"] * 3


async def test_a_header_that_was_seen_lets_no_other_payload_pass() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW)
    assert await verifier.verify(token())
    header, _, good = token().split(".")
    for payload in (b'{"sub":"eve"}', b"\xff", b"[]"):
        with pytest.raises((BadSignature, MalformedToken)):
            await verifier.verify(f"{header}.{b64(payload).decode()}.{good}")


async def test_a_remembered_token_is_recognized_in_the_line_of_its_usual_spelling_only() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW)
    raw = token().encode()
    await verifier.verify(raw)
    assert verifier._recalled(b"Bearer " + raw) is not None
    for line in (
        b"bearer " + raw,
        b"Bearer  " + raw,
        b"Basic " + raw,
        b"Beare" + raw,
        raw,
        raw[-32:],
        b"Bearer " + raw[1:],
    ):
        assert verifier._recalled(line) is None


async def test_the_claims_of_one_request_are_no_other_requests() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW)
    first = await verifier.verify(token(roles=["a"]))
    first.claims["roles"].append("admin")
    first.claims["sub"] = "eve"
    second = await verifier.verify(token(roles=["a"]))
    assert (second.claims["roles"], second.claims["sub"], second.subject) == (["a"], "ada", "ada")


@pytest.mark.parametrize("order", [pytest.param([0, 1, 0, 1], id="first"), pytest.param([1, 0, 1, 0], id="second")])
async def test_two_good_tokens_with_one_signature_are_not_taken_for_each_other(order: list[int]) -> None:
    raws, key = twins("ada", "eve")
    verifier = Verifier(provider(key=key), clock=lambda: NOW)
    assert raws[0].rpartition(".")[2] == raws[1].rpartition(".")[2]
    assert raws[0] != raws[1]
    for number in order:
        assert (await verifier.verify(raws[number])).subject == ("ada", "eve")[number]
        for remembered in map(verifier._recalled, [b"Bearer " + raw.encode() for raw in raws]):
            assert remembered is None or remembered.subject == ("ada", "eve")[order[0]]


def twins(*subjects: str) -> tuple[list[str], bytes]:
    """Two tokens with the very same ES256 signature, and the key that verifies both: made by who may choose the key."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    header = b64(b'{"alg":"ES256"}')
    inputs = [header + b"." + b64(json.dumps(claims(sub=subject)).encode()) for subject in subjects]
    first, second = (int.from_bytes(sha256(each).digest()) for each in inputs)
    # With the nonces k and -k, r is the same; s is so too for one private key.
    r = ec.derive_private_key(2**200 + 1, ec.SECP256R1()).public_key().public_numbers().x % order
    private = -(first + second) * pow(2 * r, -1, order) % order
    s = (first + r * private) * pow(2**200 + 1, -1, order) % order
    signature = b64(r.to_bytes(32) + s.to_bytes(32))
    return [(each + b"." + signature).decode() for each in inputs], pem(ec.derive_private_key(private, ec.SECP256R1()))


@one_loop
async def test_any_number_of_headers_can_be_seen_and_a_bounded_one_is_remembered() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW, cache_size=0)
    for number in range(MAX_HEADERS + 2):
        assert (await verifier.verify(token(header={"kid": str(number)}))).kid == str(number)
    assert len(verifier._headers) <= MAX_HEADERS


# Configuration.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"key": None}, "key is required: a secret, a PEM, a JWK", id="no key"),
        pytest.param({"audience": None}, "audience is required: .* audience=ANY", id="no audience"),
        pytest.param({"audience": ""}, "audience must be a string", id="an empty audience"),
        pytest.param({"audience": []}, "audience must be a string", id="no audiences"),
        pytest.param({"audience": [5]}, "audience must be a string", id="a number in the audiences"),
        pytest.param({"issuer": ""}, "issuer must be a string", id="an empty issuer"),
        pytest.param({"issuer": 5}, "issuer must be a string", id="an issuer that is a number"),
        pytest.param({"name": ""}, "name must be a string", id="an empty name"),
        pytest.param({"name": 5}, "name must be a string", id="a name that is a number"),
        pytest.param({"algorithms": "HS256"}, "algorithms must be a list", id="algorithms as a string"),
        pytest.param({"algorithms": []}, "algorithms must be a list", id="no algorithms"),
        pytest.param({"algorithms": 5}, "algorithms must be a list", id="algorithms as a number"),
        pytest.param({"algorithms": ["none"]}, "algorithms: 'none' is not known", id="none"),
        pytest.param({"algorithms": ["RS256"]}, "none of which algorithms= allows", id="the algorithm of another key"),
        pytest.param({"allow_weak_keys": 1}, "allow_weak_keys must be True or False", id="a switch that is none"),
        pytest.param({"leeway": -1}, "leeway must be a number of seconds", id="a negative leeway"),
        pytest.param({"leeway": "5"}, "leeway must be a number of seconds", id="a leeway that is a string"),
        pytest.param({"leeway": float("nan")}, "leeway must be a number of seconds", id="a leeway of NaN"),
        pytest.param({"leeway": 10**400}, "leeway must be a number of seconds", id="an endless leeway"),
        pytest.param({"max_token_age": -1}, "max_token_age must be a number of seconds", id="a negative age"),
        pytest.param({"token_type": ""}, "token_type must be a string", id="an empty type"),
        pytest.param({"required_claims": [""]}, "required_claims must be a string", id="an empty claim"),
        pytest.param({"required_claims": 5}, "required_claims must be a string", id="a number of claims"),
        pytest.param({"subject_claim": ""}, "subject_claim must be the name of a claim", id="an empty subject claim"),
        pytest.param({"subject_claim": None}, "subject_claim must be the name of a claim", id="no subject claim"),
        pytest.param({"scope_claim": 5}, "scope_claim must be the name of a claim", id="a scope claim of 5"),
        pytest.param({"required_claims": 0}, "required_claims must be a string", id="no number of claims"),
        pytest.param({"scope_claim": ""}, "scope_claim must be the name of a claim", id="an empty scope claim"),
        pytest.param({"validate": 5}, r"validate must be callable as \(token\)", id="a validator that is a number"),
        pytest.param({"validate": None}, r"validate must be callable as \(token\)", id="no validator"),
        pytest.param({"validate": ["no"]}, r"validate must be callable as \(token\)", id="a validator that is none"),
    ],
)
def test_a_wrong_argument_of_a_provider_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        provider(**options)


@pytest.mark.parametrize(
    ("providers", "options", "message"),
    [
        pytest.param([], {}, "at least one Provider is needed", id="no providers"),
        pytest.param([SECRET], {}, "must be Provider objects, not str", id="a secret"),
        pytest.param([by("a"), None], {}, "must be Provider objects, not NoneType", id="None"),
        pytest.param([by("a"), by("a")], {}, "the name 'a' stands twice", id="one name twice"),
        pytest.param([provider(), provider()], {}, "the name 'jwt' stands twice", id="no names"),
        pytest.param(
            [by("a", issuer=["x", "y"]), by("b", issuer="y")],
            {},
            "'a' and 'b' both have the issuer 'y'",
            id="one issuer",
        ),
        pytest.param(provider(), {"max_token_size": 0}, "max_token_size must be a whole number", id="no size"),
        pytest.param(
            provider(), {"max_token_size": True}, "max_token_size must be a whole number", id="a boolean size"
        ),
        pytest.param(
            provider(), {"max_token_size": 1.5}, "max_token_size must be a whole number", id="a fraction of a byte"
        ),
        pytest.param(provider(), {"cache_size": -1}, "cache_size must be a whole number", id="a negative cache"),
        pytest.param(provider(), {"clock": NOW}, r"clock must be callable as \(\)", id="a clock that stands still"),
    ],
)
def test_a_wrong_argument_of_a_verifier_is_named(providers: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Verifier(providers, **options)


HIDDEN = "hunter2-hunter2-hunter2-hunter2-hunter2"


def shown(error: BaseException) -> Iterator[str]:
    seen: BaseException | None = error
    while seen is not None:
        yield f"{seen} {seen!r} {vars(seen)} {getattr(seen, 'doc', '')} {getattr(seen, 'object', '')!r}"
        seen = seen.__cause__ or seen.__context__


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"key": "hunter2"}, id="a short secret"),
        pytest.param({"key": HIDDEN + "\udc80"}, id="a secret that is not text"),
        pytest.param({"key": [HIDDEN, None]}, id="a good secret beside a bad one"),
        pytest.param({"key": [HIDDEN + str(n) for n in range(9)]}, id="too many secrets"),
        pytest.param({"key": [[HIDDEN]]}, id="a secret in a list in a list"),
        pytest.param({"key": {"kty": "oct", "k": HIDDEN + "!"}}, id="a JWK that is not base64url"),
        pytest.param({"key": {"kty": "oct", "k": "hunter2w"}}, id="a short JWK"),
        pytest.param({"key": {"keys": [{"kty": "oct", "k": "hunter2w"}]}}, id="a short JWK in a set"),
        pytest.param({"key": {"k": HIDDEN}}, id="a JWK without a type"),
        pytest.param({"key": f'{{"kty":"oct","k":"{HIDDEN}",}}'}, id="JWK text that cannot be read"),
        pytest.param({"key": f"-----BEGIN PRIVATE KEY-----\n{HIDDEN}"}, id="a PEM that cannot be read"),
        pytest.param({"key": HIDDEN, "algorithms": ["RS256"]}, id="an algorithm of another key"),
        pytest.param({"key": HIDDEN, "algorithms": ["HS512"]}, id="an algorithm of a longer secret"),
        pytest.param({"key": HIDDEN, "leeway": -1}, id="another argument"),
        pytest.param({"key": {HIDDEN}}, id="a set"),
    ],
)
def test_no_configuration_error_holds_a_secret(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as error:
        provider(**options)
    for text in shown(error.value):
        assert "hunter2" not in text


async def test_no_repr_holds_a_secret_or_a_token() -> None:
    hiding = provider(key=[HIDDEN, named("a", HIDDEN)])
    verifier = Verifier(hiding, clock=lambda: NOW)
    raw = signed({"alg": "HS256"}, claims(email="ada@example.com"), HIDDEN)
    verified = await verifier.verify(raw)
    for object_ in (hiding, verifier, hiding.keys, hiding.keys.current, hiding.rules, verified):
        assert not {"hunter2", b64(HIDDEN.encode()).decode(), "ada@example.com", raw} & set(repr(object_).split("'"))
        assert "hunter2" not in repr(object_)
        assert "example.com" not in repr(object_)


async def test_no_refusal_holds_a_token() -> None:
    raw = signed({"alg": "HS256"}, claims(email="ada@example.com", exp=NOW - 100))
    for bad in (raw, raw[:-3] + "AAA", raw + "."):
        with pytest.raises(Refusal) as error:
            await verify(bad)
        assert "example.com" not in f"{error.value} {error.value!r} {vars(error.value)} {error.value.body}"


async def test_a_signature_is_that_of_the_bytes_and_not_of_their_meaning() -> None:
    # The same claims in another order, with the signature of the first.
    first = signed({"alg": "HS256"}, claims())
    second = b".".join((b64(b'{"alg":"HS256"}'), b64(json.dumps(dict(reversed(claims().items()))).encode())))
    await refused(BadSignature, second + b"." + first.rpartition(".")[2].encode())
    assert await verify(second + b"." + b64(signature("HS256", second, SECRET.encode())))


async def test_a_public_pem_and_its_key_accept_the_same_tokens() -> None:
    assert await verify(token_by("RS256"), key=pem(RSA).decode())
    await refused(AlgorithmNotAllowed, token_by("HS256", pem(RSA)), key=pem(RSA).decode())


@pytest.mark.parametrize("providers", [5, None, "jwt", [SECRET]])
def test_providers_are_provider_objects(providers: Any) -> None:
    with pytest.raises(ConfigurationError, match="providers must be Provider objects"):
        Verifier(providers)


@pytest.mark.parametrize("raw", [None, 5, [b"a.b.c"], bytearray(b"a.b.c"), memoryview(b"a.b.c")])
@pytest.mark.anyio
async def test_what_is_neither_text_nor_bytes_is_the_callers_error(raw: Any) -> None:
    with pytest.raises(TypeError, match="a token is str or bytes"):
        await Verifier(Provider(key=SECRET, audience="orders")).verify(raw)


@pytest.mark.parametrize("clock", [lambda: None, lambda: "now", datetime.now])
def test_a_clock_gives_numbers(clock: Any) -> None:
    with pytest.raises(ConfigurationError, match="clock"):
        Verifier(Provider(key=SECRET, audience="orders"), clock=clock)


@pytest.mark.anyio
async def test_a_provider_that_refused_for_a_passing_reason_is_asked_again() -> None:
    now = NOW
    strict = Provider(name="strict", key=SECRET, audience="orders", leeway=0)
    patient = Provider(name="patient", key=SECRET, audience="orders", leeway=60)
    verifier = Verifier([strict, patient], clock=lambda: now)
    raw = token(nbf=NOW + 10)
    assert (await verifier.verify(raw)).provider == "patient"
    now = NOW + 20
    assert (await verifier.verify(raw)).provider == "strict"


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        pytest.param({"sub": "someone else", "user_id": "ada"}, "ada", id="a string"),
        pytest.param({"user_id": 17}, "17", id="a number"),
        pytest.param({"user_id": True}, None, id="no name"),
    ],
)
@pytest.mark.anyio
async def test_a_refusal_names_the_user_as_the_token_would(changes: dict[str, Any], subject: str | None) -> None:
    verifier = Verifier(Provider(key=SECRET, audience="orders", subject_claim="user_id"), clock=lambda: NOW)
    with pytest.raises(Refusal) as refused:
        await verifier.verify(token(exp=1, **changes))
    assert refused.value.subject == subject
