"""The keys that the tests share: one of each kind, every form in which it can be written, and tokens signed by it."""

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from jwt_middleware.keys.material import PrivateKey

from .tokens import b64, claims

SECRET_64 = b"a secret of sixty-four bytes is long enough for each of the HMAC"

RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()

SIGNERS: dict[str, Any] = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), SECRET_64),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "ES256K": ec.generate_private_key(ec.SECP256K1()),
    "EdDSA": ED25519,
    "Ed25519": ED25519,
    "Ed448": ED448,
}
"""A key that signs, by each algorithm."""


def signature(algorithm: str, signing_input: bytes, key: Any) -> bytes:
    """What PyJWT signs, so that we never verify only what we made ourselves."""
    # RFC 9864 2.2 names what is EdDSA to PyJWT.
    name = "EdDSA" if algorithm in ("Ed25519", "Ed448") else algorithm
    signed: bytes = jwt.get_algorithm_by_name(name).sign(signing_input, key)
    return signed


def token_by(algorithm: str, key: Any = None, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token with the claims of ``support.claims``, signed by ``key``, by default the one of SIGNERS."""
    parts = {"alg": algorithm, **(header or {})}, claims(**changes)
    signing_input = b".".join(b64(json.dumps(part).encode()) for part in parts)
    signed = signature(algorithm, signing_input, SIGNERS[algorithm] if key is None else key)
    return b".".join((signing_input, b64(signed))).decode()


def pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def der(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def jwk(key: PrivateKey, *, private: bool = False) -> dict[str, Any]:
    """The JWK as PyJWT writes it, without the ``key_ops`` that it adds."""
    material = key if private else key.public_key()
    writers: list[Any] = [RSAAlgorithm, ECAlgorithm, OKPAlgorithm]
    kinds = rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, object
    writer = next(writer for writer, kind in zip(writers, kinds, strict=True) if isinstance(key, kind))
    return {name: value for name, value in writer.to_jwk(material, as_dict=True).items() if name != "key_ops"}


def certificate(key: PrivateKey, encoding: Encoding = Encoding.PEM) -> bytes:
    """A certificate that ``key`` has signed for itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "login.example")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    )
    hashed = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else SHA256()
    return builder.sign(key, hashed).public_bytes(encoding)


def public_forms(key: PrivateKey) -> dict[str, Any]:
    """Every text and dict that shows the public half of ``key`` to the world."""
    forms: dict[str, Any] = {
        "PEM": pem(key),
        "PEM in one base64": b64encode(pem(key)),
        "PEM with a byte order mark": b"\xef\xbb\xbf" + pem(key),
        "PEM in UTF-16": pem(key).decode().encode("utf-16"),
        "DER": der(key),
        "DER with a line's end": der(key) + b"\n",
        "base64 DER": b64encode(der(key)),
        "base64 DER in lines": b"\r\n".join(pem(key).splitlines()[1:-1]),
        "base64 DER in quotes": b'"' + b64encode(der(key)) + b'"',
        "base64url DER": b64(der(key)),
        "certificate PEM": certificate(key),
        "certificate DER": certificate(key, Encoding.DER),
        "base64 certificate DER": b64encode(certificate(key, Encoding.DER)),
        "JWK": jwk(key),
        "JWK text": json.dumps(jwk(key)),
        "JWK text with a byte order mark": "\ufeff" + json.dumps(jwk(key)),
        "JWK text in UTF-16": json.dumps(jwk(key)).encode("utf-16"),
        "JWK text in base64": b64encode(json.dumps(jwk(key)).encode()),
    }
    if isinstance(key, rsa.RSAPrivateKey):
        forms["PKCS 1 PEM"] = key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
        forms["PKCS 1 DER"] = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    if has_openssh(key):
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        forms["OpenSSH"] = line
        forms["OpenSSH with a comment"] = line + b" ada@example\n"
        forms["OpenSSH with options"] = b'command="true" ' + line
        forms["OpenSSH with a tab"] = line.replace(b" ", b"\t")
        forms["OpenSSH, only the base64"] = line.split()[1]
    return forms


def disguised_forms(key: PrivateKey) -> dict[str, str | bytes]:
    """Texts that show the public half of ``key``, spelled as no reader of keys reads them."""
    text, line, jwk_text = pem(key).decode(), b64encode(der(key)).decode(), json.dumps(jwk(key))
    rows = [line[start : start + 40] for start in range(0, len(line), 40)]
    forms: dict[str, str | bytes] = {
        "PEM without its first line": text.split("\n", 1)[1],
        "PEM lines joined by \\n": "\\n".join(rows),
        "PEM lines as a list in source code": " +\n".join(f"'{row}'" for row in rows),
        "PEM with four dashes": text.replace("-----", "----"),
        "PEM with dashes of a word processor": text.replace("-----", "\N{EM DASH}" * 2),
        "PEM in base64 twice": b64encode(b64encode(pem(key))),
        "PEM, every character percent-encoded": "".join(f"%{byte:02X}" for byte in pem(key)),
        "JWK text, every character percent-encoded": "".join(f"%{byte:02x}" for byte in jwk_text.encode()),
        "JWK text in base64 twice": b64encode(b64encode(jwk_text.encode())),
        "base64 of a variable": f"PUBLIC_KEY={line}",
        "base64 after a word": f"key {line}",
        "base64 in a JSON list": json.dumps([line]),
        "base64 with a comma": f"{line},",
        "base64 in base64": b64encode(line.encode()),
        "base64 as a data address": f"data:application/x-x509-ca-cert;base64,{line}",
        "base64 after a zero-width space": f"\N{ZERO WIDTH SPACE}{line}",
        "base64 before a no-break space": f"{line}\N{NO-BREAK SPACE}",
        "base64 in UTF-16 with a comma": f"{line},".encode("utf-16"),
        "base64, cut": line[:-4],
        "certificate base64 in a JSON list": json.dumps([b64encode(certificate(key, Encoding.DER)).decode()]),
        "hexadecimal": der(key).hex(),
        "hexadecimal after 0x": f"0x{der(key).hex()}",
        "hexadecimal with colons": der(key).hex(":").upper(),
        "hexadecimal as C has it": ", ".join(f"0x{byte:02x}" for byte in der(key)),
        "hexadecimal escapes": "".join(f"\\x{byte:02x}" for byte in der(key)),
        "DER after a zero": b"\0" + der(key),
        "DER, cut": der(key)[:-1],
    }
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        modulus = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
        colons = "00:" + modulus.hex(":")
        lines = ",\n".join(f"    {colons[start : start + 45]}" for start in range(0, len(colons), 45))
        xml = f"<RSAKeyValue><Modulus>{b64encode(modulus).decode()}</Modulus><Exponent>AQAB</Exponent></RSAKeyValue>"
        forms["XML of .NET"] = xml
        forms["XML of .NET in lines"] = xml.replace("><", ">\n  <")
        forms["XML of .NET in base64"] = b64encode(xml.encode())
        forms["XML Signature with a namespace"] = xml.replace("<", "<ds:").replace("<ds:/", "</ds:")
        forms["XML of .NET in UTF-16"] = xml.encode("utf-16")
        forms["openssl -modulus"] = f"Modulus={modulus.hex().upper()}\n"
        forms["openssl -text"] = (
            f"Public-Key: ({numbers.n.bit_length()} bit)\nModulus:\n{lines}\nExponent: 65537 (0x10001)\n"
        )
        forms["openssl -text as bytes"] = str(forms["openssl -text"]).encode()
        forms["openssl -text, in one line"] = " ".join(str(forms["openssl -text"]).split())
        forms["print of Java"] = f"Sun RSA public key, 2048 bits\n  modulus: {numbers.n}\n  public exponent: 65537"
        forms["print of Go"] = f"&{{N:+{numbers.n} E:65537}}"
        forms["print of Python"] = repr(numbers)
        pkcs1 = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        forms["PKCS 1 base64 with a comma"] = b64encode(pkcs1) + b","
        forms["PKCS 1 hexadecimal"] = pkcs1.hex()
    if has_openssh(key):
        openssh = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        forms["OpenSSH in base64"] = b64encode(openssh)
        forms["OpenSSH hexadecimal"] = b64decode(openssh.split()[1]).hex()
    return forms


def private_forms(key: PrivateKey) -> dict[str, Any]:
    """Every text and dict that holds ``key``."""
    forms: dict[str, Any] = {
        "private PEM": private_pem(key),
        "private DER": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "private JWK": jwk(key, private=True),
        "private JWK text": json.dumps(jwk(key, private=True)),
    }
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        forms["traditional PEM"] = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        forms["traditional DER"] = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    if has_openssh(key):
        forms["private OpenSSH"] = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return forms


def has_openssh(key: PrivateKey) -> bool:
    """OpenSSH has no keys on secp256k1, and none for Ed448."""
    return (
        not isinstance(key, ed448.Ed448PrivateKey) and getattr(getattr(key, "curve", None), "name", "") != "secp256k1"
    )
