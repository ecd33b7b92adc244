"""What do the requests look like? Keys, tokens and ASGI scopes, as a server and its users make them."""

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.types import Scope

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
AUDIENCE = "orders"
ISSUER = "https://login.example"
SECRET = "a secret of thirty-two bytes, yes"
NOW = int(time.time())
MANY_CLAIMS = {f"claim_{number:03}": "a value" for number in range(200)}
"""They make a token of 6 KB."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of tokens: its algorithm, its key, and what others verify with."""

    algorithm: str
    signing_key: Any
    verifying_key: Any
    """What PyJWT and cryptography verify with: bytes, or a public key object."""
    text: str
    """The same as people configure it: the secret, or a PEM."""
    header: bytes

    def token(self, number: int, **changes: Any) -> bytes:
        """The token of user ``number``: always the same one, good for an hour from the start of the program."""
        claims = {
            "iss": ISSUER,
            "sub": subject(number),
            "aud": AUDIENCE,
            "iat": NOW,
            "exp": NOW + 3600,
            "jti": f"{number:032x}",
            "scope": "orders:read orders:write",
            "name": "Ada Lovelace",
            **changes,
        }
        signing_input = self.header + b"." + b64(json.dumps(claims, separators=(",", ":")).encode())
        return signing_input + b"." + b64(self.sign(signing_input))

    def sign(self, data: bytes) -> bytes:
        return jwt.get_algorithm_by_name(self.algorithm).sign(data, self.signing_key)

    def new_tokens(self, first: int = 1_000_000) -> Iterator[bytes]:
        """Tokens that have not been presented yet."""
        return (self.token(number) for number in count(first))


def subject(number: int) -> str:
    return str(UUID(int=number))


def issuer(algorithm: str, **header: str) -> Issuer:
    segment = b64(json.dumps({"alg": algorithm, "typ": "JWT", **header}, separators=(",", ":")).encode())
    if algorithm == "HS256":
        return Issuer(algorithm, SECRET.encode(), SECRET.encode(), SECRET, segment)
    private: Any = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[algorithm]()
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return Issuer(algorithm, private, private.public_key(), pem, segment)


def forged(token: bytes) -> bytes:
    """``token`` with another signature of the same length."""
    signing_input, _, signature = token.rpartition(b".")
    return signing_input + b"." + (b"A" if signature[:1] != b"A" else b"B") + signature[1:]


def http_scope(token: bytes | None) -> Scope:
    """A request's scope as uvicorn builds it: every dict, list and byte string in it is new."""
    headers = [tuple(line.split(b": ", 1)) for line in _HEAD.split(b"\r\n")]
    if token is not None:
        headers.append((bytes(bytearray(b"authorization")), b"Bearer " + token))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 54321),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": headers,
        "state": {},
    }


_HEAD = b"""\
host: orders.example:8000
user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
accept: application/json
accept-language: en-GB,en;q=0.5
accept-encoding: gzip, deflate, br, zstd
referer: https://shop.example/
connection: keep-alive""".replace(b"\n", b"\r\n")


def b64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
