"""What is a key made of, and is it a key at all? Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import gcd, isqrt, prod
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from ..errors import ConfigurationError

PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
JWK: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Material:
    """A secret, or a private or public key, and what its JWK says about it."""

    value: bytes | PrivateKey | PublicKey = field(repr=False)
    jwk: JWK = field(default_factory=dict, repr=False)

    @property
    def public(self) -> bytes | PublicKey:
        """The part that verifies: the secret itself, or the public half."""
        return self.value.public_key() if isinstance(self.value, PrivateKey) else self.value


class UnusableKey(ConfigurationError):
    """A key that is well formed but made for something other than signatures. In a set it is skipped."""


def make_material(key: object, jwk: JWK | None = None) -> Material:
    """The material of ``key``, an object of ``cryptography``.

    Raises ``ConfigurationError`` for a kind of key that signs no tokens, and for a degenerate key: anyone can forge its
    signatures.
    """
    if not isinstance(key, PrivateKey | PublicKey):
        raise ConfigurationError(f"key: keys of type {type(key).__name__} do not sign JSON Web Tokens")
    fault = _find_degeneracy(key)
    if fault is not None:
        raise ConfigurationError(f"key: {fault}; anybody can forge its signatures")
    return Material(key, {} if jwk is None else jwk)


def _find_degeneracy(key: PrivateKey | PublicKey) -> str | None:
    if isinstance(key, RSAPublicKey):
        return _find_rsa_degeneracy(key.public_numbers().n)
    if isinstance(key, Ed25519PublicKey):
        is_small = _coordinate(key.public_bytes_raw(), _ED25519_PRIME) in _ED25519_SMALL_ORDER
        return "the Ed25519 key is a point of small order" if is_small else None
    if isinstance(key, Ed448PublicKey):
        is_small = _coordinate(key.public_bytes_raw(), _ED448_PRIME) in _ED448_SMALL_ORDER
        return "the Ed448 key is a point of small order" if is_small else None
    return None


def _find_rsa_degeneracy(modulus: int) -> str | None:
    if modulus % 2 == 0:
        return "the modulus of the RSA key is even"
    if gcd(modulus, _small_primes()) != 1:
        return "the modulus of the RSA key has a small factor"
    if isqrt(modulus) ** 2 == modulus:
        return "the modulus of the RSA key is a square"
    return None


@cache
def _small_primes() -> int:
    """The product of the odd primes below 4000. A common divisor with it is a small factor; random keys have none."""
    return prod(n for n in range(3, 4000) if all(n % divisor for divisor in range(2, isqrt(n) + 1)))


def _coordinate(encoded: bytes, prime: int) -> int:
    """The y coordinate of an encoded point (RFC 8032 5.1.2 and 5.2.2), reduced: it may not be encoded canonically."""
    sign = 1 << (8 * len(encoded) - 1)
    return (int.from_bytes(encoded, "little") & ~sign) % prime


_ED25519_PRIME = 2**255 - 19
# The points of order 8 have this coordinate or its negative; those of order 1, 2 and 4 have 1, -1 and 0.
_ED25519_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_ED25519_SMALL_ORDER = frozenset({0, 1, _ED25519_PRIME - 1, _ED25519_ORDER_8, _ED25519_PRIME - _ED25519_ORDER_8})

_ED448_PRIME = 2**448 - 2**224 - 1
_ED448_SMALL_ORDER = frozenset({0, 1, _ED448_PRIME - 1})
