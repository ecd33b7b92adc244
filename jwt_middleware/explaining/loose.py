"""What can be read of a text that should be a token? Nothing is verified, and nothing decided. Pure."""

import json
import re
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any


@dataclass(frozen=True, slots=True, repr=False)
class LooseToken:
    """What can be read of a text that should be a token. It has no repr, because that would show the text."""

    text: str = field(repr=False)
    """Without the white space around it."""
    header: dict[str, Any] | None
    claims: dict[str, Any] | None


def read_loosely(text: str) -> LooseToken:
    """What can be read of ``text``, however badly it is spelled; nothing is verified."""
    text = text.strip()
    segments = re.sub(r"\s", "", text.removeprefix("Bearer ").strip("\"'")).split(".")
    header = _object(segments[0])
    claims = _object(segments[1]) if len(segments) > 1 else None
    return LooseToken(text, header, claims)


def list_facts(token: LooseToken, now: float) -> Iterable[tuple[str, str]]:
    for name in ("alg", "kid", "typ"):
        if token.header is not None and name in token.header:
            yield name, show_value(token.header[name])
    for name, value in (token.claims or {}).items():
        if name in ("iss", "sub", "aud", "azp", "client_id", "scope", "scp", "token_use", "jti"):
            yield name, show_value(value)
        elif name in ("exp", "nbf", "iat", "auth_time"):
            yield name, moment_in_words(value, now)


def in_words(seconds: float) -> str:
    """A duration as people say it: ``40 s``, ``12 min``, ``3 h``, ``5 days``."""
    seconds = abs(seconds)
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def moment_in_words(value: object, now: float) -> str:
    """A NumericDate (RFC 7519 section 2) as people read it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{value!r}, which is not a number"
    try:
        moment = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{value}, which is no date"
    return f"{moment} ({in_words(value - now)} {'from now' if value >= now else 'ago'})"


def show_value(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _object(segment: str) -> dict[str, Any] | None:
    padded = segment.rstrip("=") + "=" * (-len(segment.rstrip("=")) % 4)
    decode = b64decode if "+" in segment or "/" in segment else urlsafe_b64decode
    try:
        # NaN and 1e999 are no JSON numbers: they stay texts.
        value = json.loads(decode(padded), parse_float=_number, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(text: str) -> float | str:
    number = float(text)
    return number if isfinite(number) else text
