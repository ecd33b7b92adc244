"""Which key does a text hold: a secret, PEM, DER, SSH, a JWK or a certificate? Pure.

A public key that is taken for an HMAC secret is a forger's key, so a text is a secret only if it is nothing else.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate

from ..errors import ConfigurationError, MalformedToken
from ..verifying.compact import json_object
from .jwk import load_jwk
from .material import Material, PrivateKey, PublicKey, make_material


def load(source: object) -> Material:
    """The one key that ``source`` holds.

    ``source`` is a secret (str or bytes), PEM, DER (raw or base64), an OpenSSH key, a certificate, a JWK (dict or JSON
    text) or a key object of ``cryptography``. A secret of several lines must be bytes. Raises ``ConfigurationError``
    for anything else; no message holds key material.
    """
    if isinstance(source, Mapping):
        return load_jwk(source)
    if isinstance(source, PrivateKey | PublicKey):
        return make_material(source)
    has_lines = isinstance(source, str) and len(source.strip().splitlines()) > 1
    if isinstance(source, str):
        source = _encode(source)
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
    from .disguises import shows_key

    if shows_key(source):
        raise ConfigurationError("key: the text holds a key or a certificate in a form that cannot be read; give a PEM")
    if has_lines:
        raise ConfigurationError(
            "key: a text of several lines is no secret, but perhaps a key in a form that cannot be read; give a PEM. "
            "If it is a secret, give it as bytes: key=text.encode()"
        )
    return Material(source)


def load_pem(text: bytes) -> Material:
    """The key of ``text``, which must be PEM. Raises ``ConfigurationError``."""
    found = _pem(text)
    if found is None:
        raise ConfigurationError("key: the text is no PEM")
    return found


def _encode(text: str) -> bytes:
    # Raise the error outside of the handler: otherwise its context, a UnicodeEncodeError, would carry the whole secret.
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        pass
    raise ConfigurationError("key: the secret is not text that UTF-8 can encode")


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
            return make_material(load_pem_x509_certificate(data).public_key())
        if label == b"OPENSSH PRIVATE KEY":
            return make_material(load_ssh_private_key(data, password=None))
        if label.endswith(b"PUBLIC KEY"):
            return make_material(load_pem_public_key(data))
        if label.endswith(b"PRIVATE KEY"):
            return make_material(load_pem_private_key(data, password=None))
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
        return make_material(load_ssh_public_key(_ssh_type(blob) + b" " + blob))
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
    # A SEQUENCE that fills the data, except for a line end from an editor, and starts with a SEQUENCE or an INTEGER, as
    # every key and certificate does.
    if len(whole) < start + length or data[len(whole) :].strip() or whole[start : start + 1] not in (b"\x30", b"\x02"):
        return None
    for read in (
        load_der_public_key,
        lambda der: load_der_private_key(der, password=None),
        lambda der: load_der_x509_certificate(der).public_key(),
    ):
        try:
            return make_material(read(whole))
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
    # Environment variables hold PEM and JWK in base64, because of their line ends and quotes.
    return _pem(decoded) or _der(decoded) or (_json(decoded) if _KTY.search(decoded) else None)
