"""Which key does a JSON Web Key spell, and how is a key spelled as one? RFC 7517, 7518, 7638 and 8037. Pure.

Providers write public keys in odd but harmless ways: members that are null or empty, numbers as key ids, standard
base64, leading zeros. These are read. A secret or a private key has one spelling only.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from ..errors import ConfigurationError, MalformedToken
from ..verifying.compact import base64url_decode, base64url_encode
from .material import JWK, Material, PublicKey, UnusableKey, make_material


def load_jwk(jwk: JWK) -> Material:
    """The key of ``jwk`` (RFC 7517 section 4).

    Raises ``UnusableKey`` for a key that is made for encryption or is of an unknown kind, and ``ConfigurationError``
    for a broken one.
    """
    if "keys" in jwk and "kty" not in jwk:
        raise ConfigurationError("key: a JWK Set stands where one key is expected")
    jwk = _normalize(jwk)
    for name in ("kty", "use", "alg", "kid"):
        if name in jwk and not isinstance(jwk[name], str):
            raise ConfigurationError(f"key: the JWK's {name!r} is not a string")
    kty, operations = jwk.get("kty"), jwk.get("key_ops")
    if operations is not None and not (
        isinstance(operations, list | tuple) and all(isinstance(operation, str) for operation in operations)
    ):
        raise ConfigurationError("key: the JWK's 'key_ops' is not a list of strings")
    if kty is None:
        raise ConfigurationError("key: the JWK has no 'kty'; is it a JWK?")
    if kty not in _MEMBERS:
        raise UnusableKey(f"key: JWKs of kty {_cut(kty)} are not known; oct, RSA, EC and OKP are")
    if jwk.get("use", "sig") != "sig":
        raise UnusableKey(f"key: the JWK's use is {_cut(jwk['use'])}, not 'sig'")
    if kty in ("EC", "OKP") and jwk.get("crv") in ("X25519", "X448"):
        raise UnusableKey(f"key: {jwk['crv']} keys are for key agreement, not for signatures")
    for name in _MEMBERS[kty]:
        if name in jwk or name == "k":
            _check_member(jwk, name)
    if kty == "oct":
        return Material(base64url_decode(jwk["k"].encode("ascii")), jwk)
    try:
        key = _FROM_JWK[kty](dict(jwk))
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, OverflowError) as error:
        raise ConfigurationError(f"key: the {kty} JWK cannot be loaded ({type(error).__name__})") from None
    return make_material(key, jwk)


def is_public(jwk: JWK) -> bool:
    """Whether ``jwk`` is neither a secret nor a private key. Members that are null or empty count as absent."""
    return jwk.get("kty") != "oct" and all(_is_absent(jwk.get(name)) for name in _PRIVATE_MEMBERS)


def public_jwk(key: PublicKey) -> dict[str, str]:
    """The members that make up ``key`` (RFC 7518 section 6, RFC 8037 section 2), not ``kid``, ``alg`` and ``use``."""
    if isinstance(key, RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
    elif isinstance(key, EllipticCurvePublicKey):
        jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    return {name: jwk[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in jwk}


def thumbprint(key: PublicKey) -> str:
    """The JWK thumbprint (RFC 7638), in base64url."""
    canonical = json.dumps(public_jwk(key), sort_keys=True, separators=(",", ":")).encode("ascii")
    return urlsafe_b64encode(sha256(canonical).digest()).rstrip(b"=").decode("ascii")


_MEMBERS = {
    "oct": ("k",),
    "RSA": ("n", "e", "d", "p", "q", "dp", "dq", "qi"),
    "EC": ("x", "y", "d"),
    "OKP": ("x", "d"),
}
_PRIVATE_MEMBERS = ("k", "d", "p", "q", "dp", "dq", "qi", "oth")
_FROM_JWK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}

# Bytes of a coordinate (RFC 7518 6.2.1.2, RFC 8812 3.1).
_COORDINATES = {"P-256": 32, "P-384": 48, "P-521": 66, "secp256k1": 32}

# Base64url of the longest number that any usable key has: RSA with 16384 bits. Judging a longer one can take minutes.
_LONGEST_MEMBER = 2731

_LONGEST_KID = 64
"""Bits of a ``kid`` that is a number."""


def _normalize(jwk: JWK) -> JWK:
    """``jwk`` with a numeric kid turned into text and, if it is public, spelled as RFC 7518 demands."""
    normal: dict[str, Any] = dict(jwk)
    kid = normal.get("kid")
    if isinstance(kid, int) and not isinstance(kid, bool) and kid.bit_length() <= _LONGEST_KID:
        normal["kid"] = str(kid)
    if not is_public(jwk):
        return normal
    normal = {name: value for name, value in normal.items() if not _is_absent(value)}
    kty = normal.get("kty")
    if kty == "RSA":
        normal.update(_respell(normal, ("n", "e"), 0))
    elif kty == "EC":
        crv = normal.get("crv")
        normal.update(_respell(normal, ("x", "y"), _COORDINATES.get(crv, 0) if isinstance(crv, str) else 0))
    elif kty == "OKP":
        # RFC 8037 section 2: not a number but the bytes of an encoded point, of which each one counts.
        normal.update(_respell(normal, ("x",), None))
    return normal


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def _respell(jwk: JWK, names: tuple[str, ...], size: int | None) -> dict[str, str]:
    """The members ``names`` in base64url. Numbers get ``size`` bytes, or as few as they need if it is 0.

    ``size`` is None if they are not numbers.
    """
    found = {}
    for name in names:
        data = _decode(jwk.get(name))
        if data:
            if size is not None:
                data = data.lstrip(b"\0").rjust(size or 1, b"\0")
            found[name] = base64url_encode(data).decode("ascii")
    return found


def _decode(value: object) -> bytes | None:
    """The bytes of ``value`` in standard or URL-safe base64, padded correctly or not at all. None if it is neither."""
    if not isinstance(value, str) or not value.isascii():
        return None
    text = value.rstrip("=")
    if len(text) != len(value) and (len(value) % 4 or len(value) - len(text) > 2):
        return None
    if "+" in text or "/" in text:
        if "-" in text or "_" in text:
            return None
        text = text.replace("+", "-").replace("/", "_")
    try:
        return base64url_decode(text.encode("ascii"))
    except MalformedToken:
        return None


def _check_member(jwk: JWK, name: str) -> None:
    try:
        is_good = base64url_decode(jwk[name].encode("ascii")) != b""
    except (KeyError, AttributeError, UnicodeEncodeError, MalformedToken):
        is_good = False
    if not is_good:
        raise ConfigurationError(f"key: the JWK's {name!r} is not base64url text")
    if name != "k" and len(jwk[name]) > _LONGEST_MEMBER:
        raise ConfigurationError(f"key: the JWK's {name!r} is longer than that of any key that can be used")


def _cut(value: str) -> str:
    # Key sets come from elsewhere: what they say is quoted and cut.
    return repr(value[:32])
