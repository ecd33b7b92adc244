"""Degenerate keys are refused in every form: anybody can forge their signatures."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.keys.jwk import public_jwk
from jwt_middleware.keys.key_set import load_foreign_keys, load_keys
from jwt_middleware.keys.material import PublicKey

from ..support import b64
from ..support.keys import ED448, ED25519, RSA, jwk, pem

# The encodings of the eight points of small order on edwards25519, with both signs, and those that are not canonical.
ED25519_POINTS = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]
ED448_PRIME = 2**448 - 2**224 - 1
ED448_POINTS = [
    (y % 2**448).to_bytes(56, "little") + sign for y in (0, 1, ED448_PRIME - 1) for sign in (b"\0", b"\x80")
]

DEGENERATE: dict[str, PublicKey] = {
    **{
        f"Ed25519 {point[:6]}..{point[-2:]}": Ed25519PublicKey.from_public_bytes(bytes.fromhex(point))
        for point in ED25519_POINTS
    },
    **{
        f"Ed448 {point.hex()[:6]}..{point.hex()[-2:]}": Ed448PublicKey.from_public_bytes(point)
        for point in ED448_POINTS
    },
}
N = RSA.public_key().public_numbers().n
MODULI = {
    "even": N - 1,
    "two to the 2048th minus one": 2**2048 - 1,
    "a small factor": (N >> 12 | 1) * 3989,
    "a square": ((1 << 1024) - 105) ** 2,
}


def rsa_jwk(n: int) -> dict[str, Any]:
    data = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return {"kty": "RSA", "n": b64(data).decode(), "e": "AQAB"}


@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in DEGENERATE.items()])
def test_a_point_of_small_order_is_refused_in_every_form(key: PublicKey) -> None:
    encoded = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for form in (key, encoded, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), public_jwk(key)):
        with pytest.raises(ConfigurationError, match="point of small order; anybody can forge its signatures"):
            load_keys(form)


def test_a_forgery_under_a_point_of_small_order_is_good_to_pyjwt() -> None:
    # Why it matters: the signature is the neutral element and zero, whoever makes it.
    identity = bytes.fromhex(ED25519_POINTS[2])
    algorithm = jwt.get_algorithm_by_name("EdDSA")
    assert algorithm.verify(b"anything", Ed25519PublicKey.from_public_bytes(identity), identity + bytes(32))


@pytest.mark.parametrize("n", [pytest.param(n, id=name) for name, n in MODULI.items()])
def test_an_rsa_modulus_that_anybody_can_factor_is_refused(n: int) -> None:
    with pytest.raises(ConfigurationError, match=r"the modulus of the RSA key .*; anybody can forge|cannot be loaded"):
        load_keys(rsa_jwk(n))
    if n % 2:
        key = RSAPublicNumbers(65537, n).public_key()
        with pytest.raises(ConfigurationError, match="anybody can forge"):
            load_keys(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_honest_keys_are_not_degenerate() -> None:
    for key in (RSA, ED25519, ED448):
        assert load_keys(key)
        assert load_keys(pem(key))


def test_a_degenerate_key_does_not_stop_the_good_one_beside_it() -> None:
    bad = {**public_jwk(next(iter(DEGENERATE.values()))), "kid": "bad"}
    keys, skipped = load_foreign_keys([bad, rsa_jwk(MODULI["two to the 2048th minus one"]), jwk(ED25519)])
    assert len(keys) == 1
    assert [one.reason for one in skipped] == [
        "key 1 (kid 'bad'): the Ed25519 key is a point of small order; anybody can forge its signatures",
        "key 2: the modulus of the RSA key has a small factor; anybody can forge its signatures",
    ]
    assert all(one.is_broken for one in skipped)
    assert len(load_keys({"keys": [bad, jwk(ED25519)]})) == 1
