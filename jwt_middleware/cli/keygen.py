"""``keygen``: a new secret or key pair."""

import json
from argparse import Namespace
from secrets import token_urlsafe

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import get_default_algorithms

from ..keys.jwk import public_jwk, thumbprint
from ..keys.material import PrivateKey
from .output import show, show_json

KINDS = ("secret", "RSA", "EC", "Ed25519")

_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "Ed25519": "EdDSA"}


def run(arguments: Namespace) -> int:
    """Print a new key."""
    if arguments.kind == "secret":
        secret = token_urlsafe(64)
        if arguments.json:
            show_json({"secret": secret})
        else:
            show(secret)
        return 0
    key = _new_key(arguments.kind)
    public = {**public_jwk(key.public_key()), "alg": _ALGORITHMS[arguments.kind]}
    kid = thumbprint(key.public_key())
    if arguments.jwk or arguments.json:
        private = {**_private_jwk(key, _ALGORITHMS[arguments.kind]), "alg": public["alg"], "kid": kid}
        show_json({"private": private, "public": {**public, "kid": kid, "use": "sig"}})
        return 0
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
    public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    show(*pem.splitlines(), "", *public_pem.splitlines())
    return 0


def _new_key(kind: str) -> PrivateKey:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    if kind == "EC":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def _private_jwk(key: PrivateKey, algorithm: str) -> dict[str, str]:
    made = get_default_algorithms()[algorithm].to_jwk(key)
    members: dict[str, str] = json.loads(made) if isinstance(made, str) else made
    return {name: value for name, value in members.items() if name != "key_ops"}
