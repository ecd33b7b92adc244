"""Does this signature verify? PyJWT and cryptography decide; keys are prepared once, not for each token. Pure."""

from collections.abc import Callable, Mapping
from hmac import compare_digest
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC
from jwt.algorithms import Algorithm

from .algorithms import ALGORITHMS
from .material import PublicKey

Verify: TypeAlias = Callable[[bytes, bytes], bool]
"""``verify(signing_input, signature)`` says whether ``signature`` is good."""


def prepare(algorithm: str, key: bytes | PublicKey) -> Verify:
    """A function that verifies signatures by ``key`` and ``algorithm``, which must be one that the key is for.

    PyJWT hashes a secret again with each token, and spends a fifteenth of an ES256 verification on spelling the
    signature as OpenSSL wants it. So these two go to cryptography directly; the others lose nothing through PyJWT.
    """
    hashes = _HASHES.get(algorithm)
    if isinstance(key, bytes) and hashes is not None:
        return _hmac(key, hashes)
    if isinstance(key, EllipticCurvePublicKey) and hashes is not None:
        return _ecdsa(key, hashes)
    pyjwt = ALGORITHMS[algorithm]
    if isinstance(key, RSAPublicKey):
        return _rsa(key, pyjwt)
    return lambda signing_input, signature: pyjwt.verify(signing_input, key, signature)


_HASHES: Mapping[str, HashAlgorithm] = {
    # RFC 7518 3.2.
    "HS256": SHA256(),
    "HS384": SHA384(),
    "HS512": SHA512(),
    # RFC 7518 3.4, RFC 8812 3.2.
    "ES256": SHA256(),
    "ES384": SHA384(),
    "ES512": SHA512(),
    "ES256K": SHA256(),
}


def _hmac(secret: bytes, hashes: HashAlgorithm) -> Verify:
    keyed = HMAC(secret, hashes)

    def verify(signing_input: bytes, signature: bytes) -> bool:
        mac = keyed.copy()
        mac.update(signing_input)
        # As PyJWT does; `mac.verify` would raise, and make a bad signature cost more than a good one.
        return compare_digest(mac.finalize(), signature)

    return verify


def _ecdsa(key: EllipticCurvePublicKey, hashes: HashAlgorithm) -> Verify:
    # RFC 7518 3.4: the signature is R and S, each of the length of the curve's order, and nothing else.
    half, scheme = (key.key_size + 7) // 8, ECDSA(hashes)

    def verify(signing_input: bytes, signature: bytes) -> bool:
        if len(signature) != 2 * half:
            return False
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        try:
            key.verify(encode_dss_signature(r, s), signing_input, scheme)
        except InvalidSignature:
            return False
        return True

    return verify


def _rsa(key: RSAPublicKey, pyjwt: Algorithm) -> Verify:
    # RFC 8017 8.1.2 and 8.2.2, step 1: as many octets as the modulus. OpenSSL also accepts a PS256 signature without
    # its leading zeros.
    size = (key.key_size + 7) // 8
    return lambda signing_input, signature: len(signature) == size and pyjwt.verify(signing_input, key, signature)
