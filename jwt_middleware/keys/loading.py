"""What key does this text hold? Secrets, PEM, DER, SSH, JWK and certificates, told apart before one is used. Pure.

A public key that is taken for an HMAC secret is a forger's key, so a text is a secret only when it is nothing else.
"""

import json
import re
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import unhexlify
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from ..errors import ConfigurationError, MalformedToken
from ..verifying.compact import base64url_decode, json_object

PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
JWK: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Material:
    """What a text turned out to hold: a secret, or a private or public key, and what its JWK said of it."""

    value: bytes | PrivateKey | PublicKey = field(repr=False)
    jwk: JWK = field(default_factory=dict, repr=False)

    @property
    def public(self) -> bytes | PublicKey:
        """What verifies: the secret itself, or the public half."""
        return self.value.public_key() if isinstance(self.value, PrivateKey) else self.value


class UnusableKey(ConfigurationError):
    """A JWK that is well-formed but made for something else, as they stand in key sets: skipped there, not fatal."""


def load(source: object) -> Material:
    """The one key that ``source`` holds.

    ``source`` is a secret (str or bytes), PEM, DER (raw or base64), an OpenSSH key, a certificate, a JWK (dict or JSON
    text) or a key object of ``cryptography``. Raises ``ConfigurationError`` for anything else; no message holds key
    material.
    """
    if isinstance(source, Mapping):
        return load_jwk(source)
    if isinstance(source, PrivateKey | PublicKey):
        return Material(source)
    if isinstance(source, str):
        source = _encoded(source)
    if isinstance(source, list | tuple):
        raise ConfigurationError(f"key: {type(source).__name__} is not a key; one key is needed here")
    if not isinstance(source, bytes):
        raise ConfigurationError(
            f"key: {type(source).__name__} is not a key; give a secret (str or bytes), a PEM or a JWK (dict)"
        )
    if not source.strip():
        raise ConfigurationError("key: the secret is empty")
    # Files and environments add things around a text: byte order marks, the NULs of UTF-16, quotes.
    text = source.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe").strip(b"\"' \t\r\n")
    for data in (text, source):
        for look in (_pem, _ssh, _json, _name, _der, _base64):
            if (found := look(data)) is not None:
                return found
    if _shows_key(source, layers=3):
        raise ConfigurationError("key: the text holds a key or a certificate in a form that cannot be read; give a PEM")
    return Material(source)


def load_jwk(jwk: JWK) -> Material:
    """The key of a JWK (RFC 7517 section 4).

    Raises ``UnusableKey`` where it is made for encryption or of an unknown kind, ``ConfigurationError`` where broken.
    """
    if "keys" in jwk and "kty" not in jwk:
        raise ConfigurationError("key: a JWK Set stands where one key is expected")
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
    if kty not in _JWK_MEMBERS:
        raise UnusableKey(f"key: JWKs of kty {_shown(kty)} are not known; oct, RSA, EC and OKP are")
    if jwk.get("use", "sig") != "sig":
        raise UnusableKey(f"key: the JWK's use is {_shown(jwk['use'])}, not 'sig'")
    if kty in ("EC", "OKP") and jwk.get("crv") in ("X25519", "X448"):
        raise UnusableKey(f"key: {jwk['crv']} keys are for key agreement, not for signatures")
    for name in _JWK_MEMBERS[kty]:
        if name in jwk or name == "k":
            _check_member(jwk, name)
    if kty == "oct":
        return Material(base64url_decode(jwk["k"].encode("ascii")), jwk)
    try:
        return Material(_FROM_JWK[kty](dict(jwk)), jwk)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, OverflowError) as error:
        raise ConfigurationError(f"key: the {kty} JWK cannot be loaded ({type(error).__name__})") from None


def public_jwk(key: PublicKey) -> dict[str, str]:
    """The members that make the key (RFC 7518 6, RFC 8037 2), ``kid``, ``alg`` and ``use`` not among them."""
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


_JWK_MEMBERS = {
    "oct": ("k",),
    "RSA": ("n", "e", "d", "p", "q", "dp", "dq", "qi"),
    "EC": ("x", "y", "d"),
    "OKP": ("x", "d"),
}
_FROM_JWK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


# Base64url of the longest number that any usable key has, RSA with 16384 bits. What is longer costs minutes to judge.
_LONGEST_MEMBER = 2731


def _check_member(jwk: JWK, name: str) -> None:
    try:
        good = base64url_decode(jwk[name].encode("ascii")) != b""
    except (KeyError, AttributeError, UnicodeEncodeError, MalformedToken):
        good = False
    if not good:
        raise ConfigurationError(f"key: the JWK's {name!r} is not base64url text")
    if name != "k" and len(jwk[name]) > _LONGEST_MEMBER:
        raise ConfigurationError(f"key: the JWK's {name!r} is longer than that of any key that can be used")


def _encoded(text: str) -> bytes:
    # The error is raised outside of the handler: in its context a UnicodeEncodeError would carry the whole secret.
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        pass
    raise ConfigurationError("key: the secret is not text that UTF-8 can encode")


def _shown(value: str) -> str:
    # Key sets come from elsewhere: their words are quoted, and cut.
    return repr(value[:32])


def _pem(data: bytes) -> Material | None:
    if b"-----BEGIN" not in data:
        return None
    labels = [label for label in re.findall(rb"-----BEGIN ([A-Z0-9 ]+)-----", data) if label != b"EC PARAMETERS"]
    if len(labels) > 1:
        raise ConfigurationError(
            f"key: the PEM text holds {len(labels)} blocks; give a list with one key each (of a certificate chain, the "
            "first certificate alone)"
        )
    label = labels[0] if labels else b""
    if b"ENCRYPTED" in label or b"Proc-Type: 4,ENCRYPTED" in data:
        raise ConfigurationError("key: the private key is encrypted; decrypt it before you pass it")
    try:
        if label == b"CERTIFICATE":
            return _usable(load_pem_x509_certificate(data).public_key())
        if label == b"OPENSSH PRIVATE KEY":
            return _usable(load_ssh_private_key(data, password=None))
        if label.endswith(b"PUBLIC KEY"):
            return _usable(load_pem_public_key(data))
        if label.endswith(b"PRIVATE KEY"):
            return _usable(load_pem_private_key(data, password=None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if isinstance(error, ConfigurationError):
            raise
    hint = "; it holds the two characters '\\n' where its lines should end" if b"\\n" in data else ""
    raise ConfigurationError(f"key: the PEM text cannot be loaded{hint}")


_SSH_START = re.compile(rb"\s*(ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)\S+\s")
_SSH_BLOB = re.compile(rb"AAAA[A-Za-z0-9+/]{12,}={0,2}")


def _ssh(data: bytes) -> Material | None:
    blob = next(filter(_ssh_type, _SSH_BLOB.findall(data)), b"")
    if not blob and not _SSH_START.match(data):
        return None
    try:
        return _usable(load_ssh_public_key(_ssh_type(blob) + b" " + blob))
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("key: the OpenSSH public key cannot be loaded") from None


def _ssh_type(blob: bytes) -> bytes:
    """The type that the base64 of an SSH public key names (RFC 4253 6.6: its length, then itself); else empty."""
    start = b64decode(blob[: len(blob) // 4 * 4])
    name = start[4 : 4 + int.from_bytes(start[:4], "big")]
    return name if name.startswith((b"ssh-", b"ecdsa-sha2-", b"sk-")) else b""


# As JSON spells it, within a JSON string, and as Python's repr, YAML and others do.
_KTY = re.compile(rb"""\bkty\b[\\"']*\s*:\s*[\\"']*(?:RSA|EC|OKP|oct|AKP)\b""")


def _json(data: bytes) -> Material | None:
    try:
        value = json_object(data)
    except MalformedToken:
        value = None
    if value is None:
        if _KTY.search(data):
            raise ConfigurationError("key: the JWK text is not a JSON object that can be read")
        return None
    if "keys" in value and "kty" not in value:
        raise ConfigurationError("key: this is the text of a JWK Set; give it as a dict: json.loads(text)")
    return load_jwk(value)


def _name(data: bytes) -> Material | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*://", text) or "/.well-known/" in text:
        raise ConfigurationError("key: this is an address, not a key; give a JWK Set's address as jwks=")
    if len(text) < 1024 and re.search(r"\.(pem|key|crt|cer|der|pub|json|jwks?)\s*$", text, re.IGNORECASE):
        raise ConfigurationError(
            "key: this is a file's name, not a key; give the file's content, or a JWK Set's path as jwks="
        )
    return None


def _der(data: bytes) -> Material | None:
    if len(data) < 16 or data[0] != 0x30:
        return None
    start, length = 2, data[1]
    if length >= 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    whole = data[: start + length]
    # A SEQUENCE that fills the data, but for the line's end of an editor, and starts with a SEQUENCE or an INTEGER, as
    # every key and certificate does.
    if len(whole) < start + length or data[len(whole) :].strip() or whole[start : start + 1] not in (b"\x30", b"\x02"):
        return None
    for read in (
        load_der_public_key,
        lambda der: load_der_private_key(der, password=None),
        lambda der: load_der_x509_certificate(der).public_key(),
    ):
        try:
            return _usable(read(whole))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if isinstance(error, ConfigurationError):
                raise
    return None


def _base64(data: bytes) -> Material | None:
    text = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        decoded = b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except Base64Error:
        return None
    # Environment variables hold PEM and JWK in base64, for the sake of their line ends and quotes.
    return _pem(decoded) or _der(decoded) or (_json(decoded) if _KTY.search(decoded) else None)


# What shows that bytes are, or hold, a key. Each has 46 bits or more that are fixed, so that no random secret has it.
_KEY_MARK = re.compile(
    rb"""
      # Names in DER: RSA, DSA, EC and DH; those of NIST, ML-DSA among them; those of RFC 8410, Ed25519 and its kin.
      \x06[\x06-\x0b]\x2a\x86\x48(?:\x86\xf7\x0d\x01|\xce[\x38\x3d\x3e])
    | \x06[\x08-\x0b]\x60\x86\x48\x01\x65\x03\x04
    | \x30\x05\x06\x03\x2b\x65[\x6e-\x71]
      # PKCS 1, which has no name: a SEQUENCE with a number of 1024 bits, or 2048 and more, which almost fills it.
    | \x30(?:\x81[\x86-\x8f]\x02\x81\x81|\x82([\x01-\x08]).\x02\x82\1.)\x00[\x80-\xff]
      # An SSH key starts with its type (RFC 4253 6.6).
    | \0\0\0[\x07-\x30](?:sk-)?(?:ssh-|ecdsa-sha2-)
    | "kty":"
    """,
    re.DOTALL | re.VERBOSE,
)
_NOT_PRINTABLE = bytes({*range(256)} - {*range(0x21, 0x7F)})


def _shows_key(data: bytes, layers: int) -> bool:
    """Whether a key stands in ``data``, or in base64 or hexadecimal in it, ``layers`` deep, wherever that starts."""
    # White space and line ends may come as escapes, and what is not ASCII is a dash or a space of a word processor.
    text = re.sub(rb"\\+[nrtx]?", b"", unquote_to_bytes(data)).translate(None, _NOT_PRINTABLE)
    if _KEY_MARK.search(data) or _KEY_MARK.search(text):
        return True
    return layers > 0 and any(_shows_key(decoded, layers - 1) for decoded in _decodings(text))


def _decodings(text: bytes) -> Iterator[bytes]:
    for run in re.findall(rb"[A-Za-z0-9+/]{32,}", text.translate(bytes.maketrans(b"-_", b"+/"))):
        # A word may stand directly before the base64, so it starts at any of four characters.
        for start in range(4):
            yield b64decode(run[start : len(run) - (len(run) - start) % 4])
    for run in re.findall(rb"[A-Fa-f0-9]{32,}", re.sub(rb"0x|[:,;.-]", b"", text)):
        for start in range(2):
            yield unhexlify(run[start : len(run) - (len(run) - start) % 2])


def _usable(key: object) -> Material:
    if not isinstance(key, PrivateKey | PublicKey):
        raise ConfigurationError(f"key: keys of type {type(key).__name__} do not sign JSON Web Tokens")
    return Material(key)
