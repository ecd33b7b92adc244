"""Tokens as an AWS Application Load Balancer makes them, and where its public key is."""

import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt

from .clock import NOW
from .keys import SIGNERS

SIGNER = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/shop/50dc6c495c0c9188"
KEYS = "https://public-keys.auth.elb.eu-central-1.amazonaws.com/"
ISSUER = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI"
CLIENT = "1h57kf5cpq17m0eml12EXAMPLE"
KEY = SIGNERS["ES256"]
KID = "c2f80c8b-c05c-4068-af14-17299f7896b1"


def made(key: Any = KEY, *, pad: str = "=", header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token with padding; ``header`` changes its header, ``changes`` its claims. None takes a member away."""
    claims = {"sub": "ada", "email": "ada@shop.example", "exp": NOW + 120, "iss": ISSUER, **changes}
    full: dict[str, Any] = {"typ": "JWT", "kid": KID, "alg": "ES256", "iss": ISSUER, "client": CLIENT, "signer": SIGNER}
    full |= {"exp": NOW + 120, **(header or {})}
    parts = [{name: value for name, value in part.items() if value is not None} for part in (full, claims)]
    signing_input = b".".join(_segment(_uneven(part), pad) for part in parts)
    signature = jwt.get_algorithm_by_name(full["alg"]).sign(signing_input, key)
    return b".".join((signing_input, _segment(signature, pad))).decode()


def _segment(data: bytes, pad: str) -> bytes:
    text = urlsafe_b64encode(data).decode()
    bare = text.rstrip("=")
    return f"{bare}{pad * (len(text) - len(bare))}".encode()


def _uneven(part: dict[str, Any]) -> bytes:
    """JSON of a length that needs padding."""
    text = json.dumps(part).encode()
    return text + b" " * ((1 - len(text)) % 3)
