"""Public keys as providers really write them: harmless odd spellings are read, and everything else is refused."""

from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.keys.jwk import load_jwk
from jwt_middleware.keys.key_set import load_keys
from jwt_middleware.keys.material import UnusableKey

from ..support.keys import ED25519, RSA, SECRET_64, SIGNERS, jwk

EC = jwk(SIGNERS["ES256"])
RSA_JWK = jwk(RSA)
N = RSA.public_key().public_numbers().n.to_bytes(256, "big")
OKP = jwk(ED25519)
X = ED25519.public_key().public_bytes_raw()


def coordinates(name: str) -> bytes:
    numbers = SIGNERS["ES256"].public_key().public_numbers()
    return int(getattr(numbers, name)).to_bytes(32, "big")


def url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize("absent", [None, "", [], {}], ids=["null", "empty text", "empty list", "empty object"])
@pytest.mark.parametrize(
    "member", ["kid", "use", "alg", "key_ops", "x5c", "d", "p", "q", "dp", "dq", "qi", "oth", "k", "crv", "x", "y"]
)
def test_a_null_or_empty_member_of_a_public_key_counts_as_absent(member: str, absent: object) -> None:
    material = load_jwk({**RSA_JWK, member: absent})
    assert material.public == RSA.public_key()
    assert member not in material.jwk
    (key,) = load_keys({**RSA_JWK, member: absent})
    assert (key.kid, key.algorithms[0]) == (None, "RS256")


@pytest.mark.parametrize("member", ["kid", "use", "alg", "key_ops"])
@pytest.mark.parametrize(
    "secret", [{"kty": "oct", "k": url(SECRET_64)}, jwk(RSA, private=True)], ids=["oct", "private"]
)
def test_a_secret_or_private_key_has_one_spelling(secret: dict[str, Any], member: str) -> None:
    with pytest.raises(ConfigurationError):
        load_keys({**secret, member: "" if member != "kid" else None})


@pytest.mark.parametrize(
    ("kid", "text"),
    [(7, "7"), (0, "0"), (-1, "-1"), (2**64 - 1, str(2**64 - 1)), ("7", "7")],
)
@pytest.mark.parametrize("key", [RSA_JWK, {"kty": "oct", "k": url(SECRET_64)}], ids=["public", "secret"])
def test_a_number_as_kid_is_its_decimal_text(key: dict[str, Any], kid: int, text: str) -> None:
    assert load_jwk({**key, "kid": kid}).jwk["kid"] == text


@pytest.mark.parametrize(
    "respelled",
    [
        pytest.param({**RSA_JWK, "n": urlsafe_b64encode(N).decode()}, id="RSA, padded"),
        pytest.param({**RSA_JWK, "n": b64encode(N).decode()}, id="RSA, standard base64"),
        pytest.param({**RSA_JWK, "n": b64encode(N).decode().rstrip("=")}, id="RSA, standard base64 without padding"),
        pytest.param({**RSA_JWK, "n": url(b"\0" + N)}, id="RSA, a leading zero"),
        pytest.param({**RSA_JWK, "n": url(b"\0" * 100 + N)}, id="RSA, many leading zeros"),
        pytest.param({**RSA_JWK, "e": "AAEAAQ=="}, id="RSA, a padded exponent with a leading zero"),
    ],
)
def test_an_rsa_key_is_read_in_every_base64(respelled: dict[str, Any]) -> None:
    assert load_jwk(respelled).public == RSA.public_key()


@pytest.mark.parametrize("name", ["ES256", "ES384", "ES512", "ES256K"])
@pytest.mark.parametrize("zeros", [0, 1, 5])
def test_leading_zeros_of_a_coordinate_may_be_dropped_or_added(name: str, zeros: int) -> None:
    public = SIGNERS[name].public_key()
    numbers = public.public_numbers()
    size = (public.key_size + 7) // 8
    shortest = [value.to_bytes((value.bit_length() + 7) // 8, "big") for value in (numbers.x, numbers.y)]
    x, y = (b"\0" * zeros + data for data in shortest)
    assert load_jwk({**jwk(SIGNERS[name]), "x": b64encode(x).decode(), "y": url(y)}).public == public
    padded = [value.to_bytes(size + zeros, "big") for value in (numbers.x, numbers.y)]
    assert load_jwk({**jwk(SIGNERS[name]), "x": url(padded[0]), "y": url(padded[1])}).public == public


def test_an_okp_key_may_be_in_standard_base64_but_is_no_number() -> None:
    assert load_jwk({**OKP, "x": b64encode(X).decode()}).public == ED25519.public_key()
    for x in (b"\0" + X, X[1:], X + b"\0"):
        with pytest.raises(ConfigurationError, match="cannot be loaded"):
            load_jwk({**OKP, "x": url(x)})


@pytest.mark.parametrize(
    "n",
    [
        pytest.param("+_" + "A" * 340, id="two alphabets in one value"),
        pytest.param(url(N) + "=", id="too little padding"),
        pytest.param(url(N) + "====", id="too much padding"),
        pytest.param("=" + url(N), id="padding at the start"),
        pytest.param(url(N)[:-1] + chr(ord(url(N)[-1]) + 1), id="stray bits"),
        pytest.param(url(N) + "\n", id="a line's end"),
        pytest.param(url(N)[:50] + " " + url(N)[50:], id="a space"),
        pytest.param("\N{SNOWMAN}", id="not ASCII"),
    ],
)
def test_any_other_spelling_is_refused(n: str) -> None:
    with pytest.raises(ConfigurationError, match="'n' is not base64url text"):
        load_jwk({**RSA_JWK, "n": n})


@pytest.mark.parametrize("k", [b64encode(b"\xff" * 32).decode(), urlsafe_b64encode(b"\xff" * 32).decode()])
def test_a_secret_is_never_in_standard_base64_or_padded(k: str) -> None:
    with pytest.raises(ConfigurationError, match="'k' is not base64url text"):
        load_jwk({"kty": "oct", "k": k})


@pytest.mark.parametrize(
    ("key", "alg", "algorithm"),
    [
        (RSA_JWK, "RSA256", "RS256"),
        (RSA_JWK, "rs512", "RS512"),
        (RSA_JWK, "SHA256withRSA", "RS256"),
        (RSA_JWK, "sha384WithRSAEncryption", "RS384"),
        (RSA_JWK, "RSA-SHA256", "RS256"),
        (RSA_JWK, "RSASSA-PKCS1-v1_5-SHA-512", "RS512"),
        (RSA_JWK, "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", "RS256"),
        (RSA_JWK, "SHA256withRSAandMGF1", "PS256"),
        (RSA_JWK, "RSASSA-PSS-SHA-256", "PS256"),
        (EC, "SHA256withECDSA", "ES256"),
        (EC, "ecdsa-sha256", "ES256"),
        (OKP, "EDDSA", "EdDSA"),
        (OKP, "ed25519", "Ed25519"),
    ],
)
def test_an_algorithm_spelled_as_other_standards_do_is_understood(
    key: dict[str, Any], alg: str, algorithm: str
) -> None:
    (loaded,) = load_keys({**key, "alg": alg})
    assert loaded.algorithms == (algorithm,)


def test_an_unknown_algorithm_counts_as_absent_only_for_a_key_that_is_for_signatures() -> None:
    (key,) = load_keys({**RSA_JWK, "alg": "house-rules", "use": "sig"})
    assert "RS256" in key.algorithms
    for use in ({}, {"use": ""}, {"use": "sig", "alg": "RSA-OAEP-256"}, {"use": "sig", "alg": "none"}):
        with pytest.raises(UnusableKey, match="is not a signature algorithm"):
            load_keys({**RSA_JWK, "alg": "house-rules", **use})


@pytest.mark.parametrize(
    ("key", "alg"), [(RSA_JWK, "SHA256withECDSA"), (EC, "RSA256"), (EC, "ES384"), (RSA_JWK, "HS256")]
)
def test_an_algorithm_of_another_type_of_key_is_a_contradiction(key: dict[str, Any], alg: str) -> None:
    with pytest.raises(ConfigurationError, match="says alg"):
        load_keys({**key, "alg": alg})
