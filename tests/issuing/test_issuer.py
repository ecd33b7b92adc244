import json
import math
import traceback
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from jwt_middleware import ANY, ConfigurationError, Verifier
from jwt_middleware.errors import (
    AlgorithmNotAllowed,
    BadSignature,
    Expired,
    InvalidToken,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
    WrongType,
)
from jwt_middleware.issuing import TokenIssuer
from jwt_middleware.verifying.verifier import MAX_TOKEN_SIZE

from ..support import NOW, SECRET, b64, claims, signed, token
from ..support.keys import ED25519, RSA, SECRET_64, SIGNERS, certificate, jwk, pem, private_forms, private_pem

RSA_2 = rsa.generate_private_key(65537, 2048)
EC = SIGNERS["ES256"]


def issuer(key: Any = SECRET, *, now: float = NOW, **options: Any) -> TokenIssuer:
    return TokenIssuer(key, **{"audience": "orders", "clock": lambda: now, **options})


def verifier(issuer: TokenIssuer, now: float = NOW, **options: Any) -> Verifier:
    return Verifier(issuer.provider(**options), clock=lambda: now)


def parts(raw: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, as PyJWT reads them."""
    decoded = jwt.decode_complete(raw, options={"verify_signature": False})
    return decoded["header"], decoded["payload"]


@pytest.mark.anyio
@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_every_algorithm_makes_tokens_that_verify(algorithm: str) -> None:
    tokens = issuer(SIGNERS[algorithm], algorithm=algorithm)
    raw = tokens.mint("ada", scopes=["orders:read", "orders:write"])
    header, _ = parts(raw)
    assert (header["alg"], header["typ"]) == (algorithm, "JWT")
    verified = await verifier(tokens).verify(raw)
    assert (verified.subject, verified.scopes) == ("ada", ("orders:read", "orders:write"))
    head, _, signature = raw.rpartition(".")
    with pytest.raises(BadSignature):
        await verifier(tokens).verify(f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}")


@pytest.mark.parametrize("algorithm", sorted(set(SIGNERS) - {"HS256", "HS384", "HS512", "Ed25519", "Ed448"}))
def test_others_verify_with_the_jwk_set(algorithm: str) -> None:
    tokens = issuer(SIGNERS[algorithm], algorithm=algorithm, old_keys=[RSA_2], now=datetime.now(UTC).timestamp())
    raw = tokens.mint("ada")
    # What a neighbour does with PyJWT; it does not know the names of RFC 9864.
    published = jwt.PyJWKSet.from_json(json.dumps(tokens.jwks()))
    key = published[parts(raw)[0]["kid"]]
    assert jwt.decode(raw, key, algorithms=[algorithm], audience="orders")["sub"] == "ada"


@pytest.mark.parametrize("form", ["secret", *private_forms(RSA), *(f"EC {form}" for form in private_forms(EC))])
def test_every_form_of_a_private_key_signs(form: str) -> None:
    forms = {**private_forms(RSA), "secret": SECRET, **{f"EC {name}": key for name, key in private_forms(EC).items()}}
    assert issuer(forms[form]).algorithm == {"s": "HS256", "E": "ES256"}.get(form[0], "RS256")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        pytest.param(SECRET, "HS256", id="a secret"),
        pytest.param(SECRET_64, "HS256", id="a long secret"),
        pytest.param(RSA, "RS256", id="RSA"),
        pytest.param(SIGNERS["ES256"], "ES256", id="P-256"),
        pytest.param(SIGNERS["ES384"], "ES384", id="P-384"),
        pytest.param(SIGNERS["ES512"], "ES512", id="P-521"),
        pytest.param(SIGNERS["ES256K"], "ES256K", id="secp256k1"),
        pytest.param(SIGNERS["EdDSA"], "EdDSA", id="Ed25519"),
        pytest.param(SIGNERS["Ed448"], "EdDSA", id="Ed448"),
        pytest.param({**jwk(RSA, private=True), "alg": "PS384"}, "PS384", id="the JWK's own"),
    ],
)
def test_the_algorithm_follows_from_the_key(key: Any, algorithm: str) -> None:
    assert issuer(key).algorithm == algorithm


def test_the_kid_is_the_same_from_start_to_start_and_another_for_each_key() -> None:
    keys: list[Any] = [SECRET, SECRET_64, RSA, RSA_2, EC, ED25519]
    kids = [parts(issuer(key).mint("ada"))[0]["kid"] for key in keys]
    assert len(set(kids)) == len(keys)
    assert kids == [parts(issuer(key).mint("ada"))[0]["kid"] for key in keys]
    assert parts(issuer(private_pem(RSA)).mint("ada"))[0]["kid"] == kids[2]


def test_the_kid_of_a_secret_tells_less_than_the_secret() -> None:
    kid = parts(issuer(SECRET).mint("ada"))[0]["kid"]
    assert len(kid) == 16
    assert kid not in SECRET
    assert SECRET[:4] not in kid


def test_the_kid_of_a_jwk_is_its_own() -> None:
    tokens = issuer({**jwk(RSA, private=True), "kid": "2026-11"})
    assert parts(tokens.mint("ada"))[0]["kid"] == "2026-11"
    assert [key["kid"] for key in tokens.jwks()["keys"]] == ["2026-11"]


def test_a_token_has_the_claims_of_the_issuer_and_those_that_are_asked_for() -> None:
    tokens = issuer(issuer="https://login.example", now=NOW + 0.9)
    raw = tokens.mint("ada", scopes=["a", "b"], claims={"name": "Ada", "roles": ["admin"]})
    _, minted = parts(raw)
    assert len(minted.pop("jti")) == 22
    assert minted == {
        "iss": "https://login.example",
        "sub": "ada",
        "aud": "orders",
        "iat": NOW,
        "exp": NOW + 900,
        "scope": "a b",
        "name": "Ada",
        "roles": ["admin"],
    }


def test_the_moment_can_be_given() -> None:
    _, minted = parts(issuer(now=0).mint("ada", now=NOW + 0.9, lifetime=60))
    assert (minted["iat"], minted["exp"]) == (NOW, NOW + 60)


def test_a_token_has_no_claim_for_what_there_is_not() -> None:
    assert set(parts(issuer().mint("ada"))[1]) == {"sub", "aud", "iat", "exp", "jti"}


def test_every_token_has_its_own_id() -> None:
    tokens = issuer()
    assert len({parts(tokens.mint("ada"))[1]["jti"] for _ in range(100)}) == 100


@pytest.mark.parametrize("token_type", ["at+jwt", "AT+JWT", "application/at+jwt"])
@pytest.mark.anyio
async def test_rfc_9068_tokens_have_its_shape_and_others_are_refused(token_type: str) -> None:
    tokens = issuer(RSA, issuer="https://login.example", client_id="web", token_type=token_type)
    header, minted = parts(tokens.mint("ada", scopes=["a"]))
    assert header["typ"] == token_type
    assert set(minted) == {"iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope"}
    await verifier(tokens).verify(tokens.mint("ada"))
    with pytest.raises(WrongType):
        await verifier(tokens).verify(issuer(RSA, issuer="https://login.example").mint("ada"))


@pytest.mark.anyio
async def test_a_token_type_of_ones_own_is_demanded_and_jwt_is_not() -> None:
    tokens = issuer(token_type="orders+jwt")
    await verifier(tokens).verify(tokens.mint("ada"))
    with pytest.raises(WrongType):
        await verifier(tokens).verify(issuer().mint("ada"))
    await verifier(issuer()).verify(token(header={"typ": None}))


@pytest.mark.parametrize(
    ("subject", "error", "message"),
    [
        pytest.param(42, TypeError, r"not int; write str\(user.id\)", id="a number"),
        pytest.param(None, TypeError, "NoneType", id="none"),
        pytest.param(b"ada", TypeError, "bytes", id="bytes"),
        pytest.param("", ValueError, "must not be empty", id="empty"),
        pytest.param("\ud800", ValueError, "surrogates not allowed", id="an unpaired surrogate"),
    ],
)
def test_a_subject_that_would_not_verify_is_refused(subject: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        issuer().mint(subject)


def cycle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        *(
            pytest.param({name: value}, ValueError, f"{name} cannot be given", id=f"{name} of the caller's")
            for name, value in (
                ("iss", "https://evil.example"),
                ("sub", "bob"),
                ("aud", "orders"),
                ("iat", NOW),
                ("exp", NOW + 10**9),
                ("jti", "x"),
                ("scope", "admin"),
                ("client_id", "web"),
            )
        ),
        pytest.param({"sub": "bob", "exp": 1}, ValueError, "exp, sub cannot be given", id="all of them are named"),
        pytest.param({"nbf": NOW + 3600}, ValueError, r"not_yet_valid \(nbf\)", id="nbf in the future"),
        pytest.param({"nbf": "soon"}, ValueError, r"invalid_claim \(nbf\)", id="nbf is a string"),
        pytest.param({"nbf": True}, ValueError, r"invalid_claim \(nbf\)", id="nbf is a boolean"),
        pytest.param({"cnf": {"jkt": "x"}}, ValueError, "sender_constrained", id="cnf"),
        pytest.param({"cnf": "jkt"}, ValueError, r"invalid_claim \(cnf\)", id="cnf is a text"),
        pytest.param({"x": math.nan}, ValueError, "JSON compliant", id="NaN"),
        pytest.param({"x": [math.inf]}, ValueError, "JSON compliant", id="Infinity"),
        pytest.param({"x": datetime.now(UTC)}, TypeError, "datetime is not JSON", id="a date"),
        pytest.param({"x": b"bytes"}, TypeError, "bytes is not JSON", id="bytes"),
        pytest.param({"x": {1, 2}}, TypeError, "set is not JSON", id="a set"),
        pytest.param({("a", "b"): 1}, TypeError, "keys must be", id="a name that is a tuple"),
        pytest.param({1: "a", "1": "b"}, ValueError, "malformed_token", id="two names that JSON writes alike"),
        pytest.param({"x": "\udc00"}, ValueError, "surrogates not allowed", id="an unpaired surrogate"),
        pytest.param({"x": cycle()}, ValueError, "Circular", id="a cycle"),
        pytest.param({"x": nested(40)}, ValueError, "malformed_token", id="too deep for us"),
        pytest.param({"x": "x" * 16384}, ValueError, f"at most {MAX_TOKEN_SIZE}", id="too big"),
        pytest.param("name", ValueError, "dictionary", id="a string"),
        pytest.param(5, TypeError, "not iterable", id="a number"),
    ],
)
def test_claims_that_would_not_verify_are_refused(extra: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        issuer().mint("ada", claims=extra)


@pytest.mark.anyio
async def test_a_token_of_the_largest_size_verifies() -> None:
    tokens = issuer()

    def mint(size: int) -> str:
        return tokens.mint("ada", claims={"x": "x" * size})

    size = 12_000
    while len(mint(size + 1)) <= MAX_TOKEN_SIZE - 2:
        size += 1
    await verifier(tokens).verify(mint(size))
    with pytest.raises(ValueError, match=f"at most {MAX_TOKEN_SIZE}"):
        mint(size + 10)


def test_the_callers_claims_are_left_as_they_were() -> None:
    extra = {"name": "Ada"}
    issuer().mint("ada", claims=extra)
    assert extra == {"name": "Ada"}


@pytest.mark.parametrize(
    ("scopes", "error"),
    [
        pytest.param("orders:read", TypeError, id="a string"),
        pytest.param(["orders read"], ValueError, id="a space"),
        pytest.param([""], ValueError, id="empty"),
        pytest.param(['"'], ValueError, id="a quote"),
        pytest.param(["\\"], ValueError, id="a backslash"),
        pytest.param(["läsen"], ValueError, id="not ASCII"),
        pytest.param(["a\nb"], ValueError, id="a line's end"),
        pytest.param([1], ValueError, id="a number"),
        pytest.param(b"read", ValueError, id="bytes"),
        pytest.param(None, TypeError, id="none"),
    ],
)
def test_what_cannot_be_a_scope_is_refused(scopes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        issuer().mint("ada", scopes=scopes)


@pytest.mark.parametrize(
    ("lifetime", "exp"),
    [
        pytest.param(None, NOW + 900, id="none: access_lifetime"),
        pytest.param(1, NOW + 1, id="one second"),
        pytest.param(899.9, NOW + 899, id="a fraction is cut off"),
        pytest.param(900, NOW + 900, id="access_lifetime"),
    ],
)
def test_a_lifetime_may_be_shorter_than_access_lifetime(lifetime: float | None, exp: int) -> None:
    assert parts(issuer(now=NOW + 0.5).mint("ada", lifetime=lifetime))[1]["exp"] == exp


@pytest.mark.parametrize("lifetime", [0, -1, 0.5, 900.5, 901, math.nan, math.inf, -math.inf, 10**400, "60", True, [60]])
def test_a_lifetime_that_cannot_be_is_refused(lifetime: Any) -> None:
    with pytest.raises(ValueError, match="lifetime must be"):
        issuer().mint("ada", lifetime=lifetime)


@pytest.mark.anyio
async def test_a_token_ends_with_its_lifetime() -> None:
    tokens = issuer(access_lifetime=60)
    raw = tokens.mint("ada")
    assert (await verifier(tokens, NOW + 59, leeway=0).verify(raw)).expires_at == NOW + 60
    with pytest.raises(Expired):
        await verifier(tokens, NOW + 60, leeway=0).verify(raw)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(SECRET, "another secret of thirty-two bytes", id="secret to secret"),
        pytest.param(SECRET, RSA, id="secret to RSA"),
        pytest.param(RSA, SECRET, id="RSA to secret"),
        pytest.param(RSA, RSA_2, id="RSA to RSA"),
        pytest.param(RSA, EC, id="RSA to EC"),
        pytest.param({**jwk(RSA, private=True), "kid": "1"}, {**jwk(RSA_2, private=True), "kid": "1"}, id="same kid"),
        pytest.param({**jwk(RSA, private=True), "kid": "1"}, private_pem(RSA), id="the same key without its kid"),
    ],
)
async def test_old_tokens_verify_while_old_keys_has_their_key(old: Any, new: Any) -> None:
    raw = issuer(old).mint("ada")
    during, after = issuer(new, old_keys=[old]), issuer(new)
    assert (await verifier(during).verify(raw)).subject == "ada"
    assert (await verifier(during).verify(during.mint("bob"))).subject == "bob"
    assert (await verifier(after).verify(during.mint("bob"))).subject == "bob"
    assert parts(during.mint("bob"))[0]["alg"] == after.algorithm
    with pytest.raises(InvalidToken):
        await verifier(after).verify(raw)


@pytest.mark.anyio
@pytest.mark.parametrize("kid", ["of another library", None])
async def test_an_old_key_without_a_kid_verifies_tokens_with_any(kid: str | None) -> None:
    header = None if kid is None else {"kid": kid}
    raw = jwt.encode(claims(), private_pem(RSA), algorithm="RS256", headers=header)
    assert (await verifier(issuer(old_keys=pem(RSA))).verify(raw)).subject == "ada"
    with pytest.raises(InvalidToken):
        await verifier(issuer()).verify(raw)


@pytest.mark.anyio
async def test_an_old_key_with_a_kid_verifies_tokens_with_that_kid_alone() -> None:
    tokens = issuer(old_keys=[{**jwk(RSA), "kid": "1"}])
    for kid in ("1", "2"):
        raw = jwt.encode(claims(), private_pem(RSA), algorithm="RS256", headers={"kid": kid})
        if kid == "1":
            await verifier(tokens).verify(raw)
        else:
            with pytest.raises(UnknownKey):
                await verifier(tokens).verify(raw)


@pytest.mark.anyio
async def test_an_algorithm_is_changed_like_a_key() -> None:
    raw = issuer(RSA, algorithm="RS256").mint("ada")
    with pytest.raises(InvalidToken):
        await verifier(issuer(RSA, algorithm="PS256")).verify(raw)
    tokens = issuer(RSA, algorithm="PS256", old_keys=[RSA])
    await verifier(tokens).verify(raw)
    await verifier(tokens).verify(tokens.mint("ada"))


@pytest.mark.parametrize(
    ("old_keys", "count"),
    [
        pytest.param((), 1, id="none"),
        pytest.param([], 1, id="an empty list"),
        pytest.param(pem(RSA_2), 2, id="one"),
        pytest.param([pem(RSA_2)], 2, id="a list"),
        pytest.param(iter([pem(RSA_2), SECRET]), 2, id="an iterator; secrets are not shown"),
        pytest.param({"keys": [jwk(RSA_2), jwk(EC)]}, 3, id="a JWK Set"),
        pytest.param(RSA_2.public_key(), 2, id="a key object"),
        pytest.param([certificate(RSA_2)], 2, id="a certificate"),
    ],
)
def test_old_keys_are_taken_in_every_form(old_keys: Any, count: int) -> None:
    assert len(issuer(RSA, old_keys=old_keys).jwks()["keys"]) == count


def test_the_jwk_set_holds_public_members_only() -> None:
    keys: list[Any] = [SECRET, SECRET_64, RSA_2, SIGNERS["ES384"], ED25519, SIGNERS["Ed448"]]
    tokens = issuer({**jwk(RSA, private=True), "kid": "1", "use": "sig", "x": "y"}, old_keys=keys)
    published = tokens.jwks()
    assert [(key["kty"], key["use"]) for key in published["keys"]] == [
        ("RSA", "sig"),
        ("RSA", "sig"),
        ("EC", "sig"),
        ("OKP", "sig"),
        ("OKP", "sig"),
    ]
    for key in published["keys"]:
        assert set(key) <= {"kty", "kid", "use", "alg", "n", "e", "crv", "x", "y"}
        assert ("x" in key) == (key["kty"] != "RSA")
    # A copy: what the caller does to it changes nothing.
    published["keys"][0]["kid"] = "2"
    published["keys"].clear()
    assert tokens.jwks()["keys"][0]["kid"] == "1"


def test_a_secret_has_no_jwk_set() -> None:
    assert issuer(SECRET, old_keys=[SECRET_64]).jwks() == {"keys": []}


@pytest.mark.anyio
async def test_the_provider_accepts_these_tokens_alone() -> None:
    tokens = issuer(issuer="https://login.example")
    await verifier(tokens).verify(tokens.mint("ada"))
    with pytest.raises(WrongIssuer):
        await verifier(tokens).verify(issuer(issuer="https://login.example/").mint("ada"))
    other = issuer(issuer="https://login.example", audience="invoices")
    with pytest.raises(WrongAudience):
        await verifier(tokens).verify(other.mint("ada"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("audience", "aud"),
    [
        pytest.param("orders", "orders", id="one"),
        pytest.param(["orders", "invoices"], ["orders", "invoices"], id="several"),
        pytest.param(("orders",), ["orders"], id="a tuple"),
    ],
)
async def test_the_audience_is_one_or_several(audience: Any, aud: object) -> None:
    tokens = issuer(audience=audience)
    raw = tokens.mint("ada")
    assert parts(raw)[1]["aud"] == aud
    await verifier(tokens).verify(raw)
    await verifier(issuer()).verify(raw)


def test_the_provider_takes_the_other_keywords_of_a_provider() -> None:
    provider = issuer(name="own").provider(name="own", leeway=0, max_token_age=60)
    assert (provider.name, provider.rules.leeway, provider.rules.max_token_age) == ("own", 0, 60)


def test_the_provider_has_the_name_by_which_its_tokens_are_revoked() -> None:
    with pytest.raises(ConfigurationError, match=r"^name: give it to TokenIssuer"):
        issuer().provider(name="own")


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        pytest.param(pem(RSA), {}, "key: a public key cannot sign", id="public PEM"),
        pytest.param(certificate(RSA), {}, "key: a public key cannot sign", id="certificate"),
        pytest.param(jwk(RSA), {}, "key: a public key cannot sign", id="public JWK"),
        pytest.param(RSA.public_key(), {}, "key: a public key cannot sign", id="public key object"),
        pytest.param(b64encode(pem(RSA)), {}, "^key: ", id="public PEM in base64"),
        pytest.param({"keys": [jwk(RSA, private=True)]}, {}, "^key: a JWK Set", id="JWK Set"),
        pytest.param([SECRET], {}, "^key: list is not a key", id="a list"),
        pytest.param(None, {}, "^key: NoneType", id="None"),
        pytest.param("", {}, "^key: the secret is empty", id="empty"),
        pytest.param("too short", {}, "^key: the secret has 9 bytes, HS256 needs 32", id="weak secret"),
        pytest.param(SECRET, {"algorithm": "HS512"}, "HS512 needs 64", id="weak for the algorithm"),
        pytest.param(rsa.generate_private_key(65537, 1024), {}, "RSA key has 1024 bits", id="weak RSA"),
        pytest.param({**jwk(RSA, private=True), "use": "enc"}, {}, "'enc'", id="JWK for encryption"),
        pytest.param(
            {**jwk(RSA, private=True), "key_ops": ["verify"]}, {}, "have no 'sign'", id="JWK that may not sign"
        ),
        pytest.param(
            {"kty": "oct", "k": b64(SECRET_64).decode(), "key_ops": ["sign"]}, {}, "no verify", id="sign only"
        ),
        pytest.param({**jwk(RSA, private=True), "alg": "ES256"}, {}, "RSA keys are for", id="JWK of two minds"),
        pytest.param(ec.generate_private_key(ec.SECP224R1()), {}, "secp224r1", id="a curve without an algorithm"),
        pytest.param(SECRET, {"algorithm": "RS256"}, "^algorithm does not fit the key", id="algorithm of another key"),
        pytest.param(RSA, {"algorithm": "HS256"}, "^algorithm does not fit the key", id="RSA as an HMAC secret"),
        pytest.param(SECRET, {"algorithm": "none"}, "^algorithm does not fit the key", id="algorithm none"),
        pytest.param(SECRET, {"algorithm": ["HS256"]}, r"^algorithm does not fit the key", id="a list of algorithms"),
        pytest.param(SECRET, {"audience": None}, "^audience", id="audience None"),
        pytest.param(SECRET, {"audience": ""}, "^audience", id="audience empty"),
        pytest.param(SECRET, {"audience": []}, "^audience", id="no audience"),
        pytest.param(SECRET, {"audience": 5}, "^audience", id="audience a number"),
        pytest.param(SECRET, {"audience": ["orders", 5]}, "^audience", id="audience a list with a number"),
        pytest.param(SECRET, {"audience": ANY}, "^audience", id="audience ANY"),
        pytest.param(SECRET, {"issuer": ""}, "^issuer", id="issuer empty"),
        pytest.param(SECRET, {"issuer": ["https://a.example"]}, "^issuer", id="several issuers"),
        pytest.param(SECRET, {"client_id": 5}, "^client_id", id="client_id a number"),
        pytest.param(SECRET, {"token_type": None}, "^token_type", id="token_type None"),
        pytest.param(SECRET, {"token_type": ""}, "^token_type", id="token_type empty"),
        pytest.param(SECRET, {"token_type": "at+jwt"}, "RFC 9068 2.2", id="at+jwt without issuer"),
        pytest.param(SECRET, {"token_type": "at+jwt", "issuer": "i"}, "RFC 9068 2.2", id="at+jwt without client"),
        pytest.param(SECRET, {"access_lifetime": 0}, "^access_lifetime", id="no lifetime"),
        pytest.param(SECRET, {"access_lifetime": 0.9}, "^access_lifetime", id="less than a second"),
        pytest.param(SECRET, {"access_lifetime": math.inf}, "^access_lifetime", id="for ever"),
        pytest.param(SECRET, {"access_lifetime": "900"}, "^access_lifetime", id="lifetime a string"),
        pytest.param(SECRET, {"access_lifetime": True}, "^access_lifetime", id="lifetime a boolean"),
        pytest.param(SECRET, {"session_lifetime": 0}, "^session_lifetime", id="no session"),
        pytest.param(SECRET, {"session_lifetime": 899}, "^session_lifetime must not be shorter", id="a short session"),
        pytest.param(SECRET, {"allow_weak_keys": "yes"}, "^allow_weak_keys", id="allow_weak_keys a string"),
        pytest.param(SECRET, {"clock": NOW}, "^clock", id="clock a number"),
        pytest.param(SECRET, {"old_keys": None}, "^old_keys", id="old_keys None"),
        pytest.param(SECRET, {"old_keys": 5}, "^old_keys", id="old_keys a number"),
        pytest.param(SECRET, {"old_keys": [5]}, "^old_keys: int is not a key", id="an old key a number"),
        pytest.param(SECRET, {"old_keys": ""}, "^old_keys: the secret is empty", id="an old key empty"),
        pytest.param(SECRET, {"old_keys": ["too short"]}, "^old_keys: the secret has 9", id="an old key weak"),
        pytest.param(SECRET, {"old_keys": {"keys": []}}, "^old_keys: the JWK Set", id="an empty JWK Set"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(key: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        issuer(key, **options)


@pytest.mark.anyio
async def test_weak_keys_are_allowed_where_they_are_asked_for() -> None:
    tokens = issuer("SECRET", old_keys=["old"], allow_weak_keys=True)
    await verifier(tokens).verify(tokens.mint("ada"))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("my secret is short", id="short"),
        pytest.param(b"\xff not a PEM -----BEGIN PRIVATE KEY----- my secret", id="PEM-like"),
        pytest.param('{"kty": "oct", "k": "my secret!"}', id="JWK-like"),
        pytest.param("my secret \ud800", id="an unpaired surrogate"),
    ],
)
def test_no_error_shows_a_secret(key: Any) -> None:
    for options in ({"key": key}, {"key": SECRET, "old_keys": [key]}):
        with pytest.raises(ConfigurationError) as raised:
            issuer(**options)
        shown = "".join(traceback.format_exception(raised.value, chain=True)).split("ConfigurationError: ")[-1]
        assert "my secret" not in shown + repr(raised.value) + repr(raised.value.__context__)


def test_no_repr_shows_a_secret() -> None:
    tokens = issuer(SECRET, old_keys=[SECRET_64, RSA])
    shown = f"{tokens!r} {tokens} {tokens.provider()!r} {tokens.provider().keys!r}"
    for secret in (SECRET, SECRET_64.decode()):
        assert secret[:8] not in shown
        assert b64(secret.encode()).decode()[:10] not in shown
    assert repr(tokens).startswith("TokenIssuer(algorithm='HS256', kid='")


@pytest.mark.anyio
async def test_a_neighbour_cannot_sign_with_what_is_published() -> None:
    tokens = issuer(RSA)
    (published,) = tokens.jwks()["keys"]
    header = {"alg": "HS256", "kid": published["kid"]}
    for secret in (pem(RSA).decode(), json.dumps(published), published["n"]):
        with pytest.raises(AlgorithmNotAllowed):
            await verifier(tokens).verify(signed(header, claims(), secret))


def test_more_old_keys_than_a_token_is_tried_with_are_too_many() -> None:
    secrets = [f"an old secret, number {number}, long enough" for number in range(8)]
    TokenIssuer(SECRET, "orders", old_keys=secrets[:7])
    with pytest.raises(ConfigurationError, match="old_keys, with key, are too many: 9 keys verify HS256"):
        TokenIssuer(SECRET, "orders", old_keys=secrets)
