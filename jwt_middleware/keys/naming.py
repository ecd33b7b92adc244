"""How is a key named to an operator? By its kind and its ``kid``, and never by its material. Pure."""

import re

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


def name_key(material: object, kid: str | None) -> str:
    """Return what a key is: ``the secret``, ``the RSA key 2024-05``."""
    named = "" if kid is None else f" {kid}"
    if isinstance(material, bytes):
        doubt = doubt_secret(material)
        return f"the secret{named}" + ("" if doubt is None else f", which {doubt}")
    kinds = {RSAPublicKey: "RSA", EllipticCurvePublicKey: "EC"}
    return f"the {next((name for kind, name in kinds.items() if isinstance(material, kind)), 'OKP')} key{named}"


def doubt_secret(secret: bytes) -> str | None:
    """Return what makes ``secret`` look misspelled, such as ``looks like base64``. None if nothing does."""
    if secret != secret.strip():
        return "begins or ends with white space"
    return "looks like base64" if len(secret) % 4 == 0 and _BASE64.fullmatch(secret) else None


_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
