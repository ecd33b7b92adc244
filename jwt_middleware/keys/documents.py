"""What does a provider's document hold: a set of keys or metadata, and for how long is it good? Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

from .._support.redaction import redact_address
from ..errors import MalformedToken
from ..verifying.compact import json_object
from .addresses import Hosts

MAX_BODY = 512 * 1024
"""The most bytes of an answer that are read, after decompression. Real JWK Sets have a few thousand."""

MAX_KEYS = 100
"""The most keys in a set. A larger set is taken to be broken."""


class DocumentError(Exception):
    """A document is not what it should be. The message says why, for logs and health, and holds nothing secret."""


@dataclass(frozen=True, slots=True)
class NamedPEM:
    """A public key or certificate in PEM that a document publishes under this key id."""

    kid: str | None
    pem: str = field(repr=False)


def read_keys(document: bytes) -> list[object]:
    """The keys of ``document``, not yet examined.

    A document is a JWK Set (RFC 7517 section 5), a list of JWKs, one JWK, a JSON object of key ids and PEM texts as
    Google and Firebase publish it, or one PEM text. A key that ``json_object`` would refuse is None. Raises
    ``DocumentError``.
    """
    check_size(len(document))
    # Some servers put a byte order mark before their JSON; RFC 8259 8.1 allows us to ignore it.
    document = document.removeprefix(b"\xef\xbb\xbf")
    keys = _read_pem(document) or _read_json(document)
    if len(keys) > MAX_KEYS:
        raise DocumentError(f"the JWK Set has {len(keys)} keys, more than {MAX_KEYS}")
    return keys


def read_jwks_uri(document: bytes, *, address: str, issuer: str, hosts: Hosts) -> str:
    """The address of the JWK Set of ``issuer``, from its metadata at ``address``. Raises ``DocumentError``."""
    check_size(len(document))
    shown = redact_address(address)
    try:
        metadata = json_object(document.removeprefix(b"\xef\xbb\xbf"))
    except MalformedToken:
        raise DocumentError(f"{shown} is not a JSON object") from None
    found, jwks_uri = metadata.get("issuer"), metadata.get("jwks_uri")
    # RFC 8414 3.3: identical, or the data MUST NOT be used.
    if found != issuer:
        is_slash = isinstance(found, str) and found.rstrip("/") == issuer.rstrip("/")
        raise DocumentError(
            f"{shown} names the issuer {redact_address(str(found))!r}, not {issuer!r}"
            + ("; they differ by a trailing slash only: configure it as the provider spells it" if is_slash else "")
        )
    if not isinstance(jwks_uri, str):
        raise DocumentError(f"{shown} names no jwks_uri")
    if (fault := hosts.find_fault_of_foreign(jwks_uri)) is not None:
        raise DocumentError(f"{shown} names a jwks_uri that is not fetched: {fault}")
    return jwks_uri


def read_login_endpoints(document: bytes, *, hosts: Hosts) -> tuple[str, str] | None:
    """Where users log in: ``authorization_endpoint`` and ``token_endpoint`` of metadata that ``read_jwks_uri`` read.

    None if one is missing, or if no page should link to it.
    """
    metadata = json_object(document.removeprefix(b"\xef\xbb\xbf"))
    authorization, token = metadata.get("authorization_endpoint"), metadata.get("token_endpoint")
    for url in (authorization, token):
        if hosts.find_fault_of_foreign(url) is not None:
            return None
    return str(authorization), str(token)


def read_max_age(headers: Mapping[str, str]) -> float | None:
    """How many seconds an answer may be used (RFC 9111 4.2), less its age in caches. ``headers`` are in lower case."""
    directives = headers.get("cache-control", "").lower()
    if re.search(r"\bno-(store|cache)\b", directives):
        return 0
    found = re.search(r'(?:^|[\s,])max-age\s*=\s*"?([0-9]+)\b', directives)
    if found is None:
        return None
    age = headers.get("age", "")
    used = float(age) if re.fullmatch("[0-9]+", age) else 0
    return max(0, min(float(found[1]), _LONGEST_AGE) - used)


def check_size(size: int) -> None:
    """Raise ``DocumentError`` for a document of more than ``MAX_BODY`` bytes."""
    if size > MAX_BODY:
        raise DocumentError(f"it has more than {MAX_BODY // 1024} KiB")


def _read_pem(document: bytes) -> list[object] | None:
    text = document.strip()
    # A document that only begins like PEM is not JSON, either.
    return [NamedPEM(None, text.decode("utf-8", "replace"))] if text.startswith(b"-----BEGIN ") else None


def _read_json(document: bytes) -> list[object]:
    try:
        value = _TOLERANT_DECODER.decode(document.decode("utf-8"))
    except (ValueError, RecursionError):
        value = None
    # Some publish their keys without the object around them, or a single key.
    if isinstance(value, dict) and "kty" in value:
        value = [value]
    if isinstance(value, list):
        return [_check_entry(key) for key in value]
    if not isinstance(value, dict):
        raise DocumentError("it is not a JSON object")
    keys = value.get("keys")
    if isinstance(keys, list):
        return [_check_entry(key) for key in keys]
    if value and "keys" not in value and all(isinstance(pem, str) and "-----BEGIN " in pem for pem in value.values()):
        return [NamedPEM(kid, pem) for kid, pem in value.items()]
    if "jwks_uri" in value:
        raise DocumentError("it is no JWK Set but an issuer's metadata: give RemoteKeys its issuer= instead of jwks")
    raise DocumentError("it is no JWK Set: it has no list of keys")


def _check_entry(value: object) -> object:
    try:
        return json_object(json.dumps(value).encode("ascii"))
    except (MalformedToken, RecursionError):
        return None


def _object_or_nan(pairs: list[tuple[str, Any]]) -> object:
    value = dict(pairs)
    return value if len(value) == len(pairs) else nan


def _short_integer(text: str) -> float:
    # Python refuses to convert thousands of digits, and would refuse the whole document with them.
    return int(text) if len(text) <= _LONGEST_INTEGER else nan


_LONGEST_INTEGER = 100

# Whatever is not strict JSON becomes nan or infinity, and only the entry that has it is refused.
_TOLERANT_DECODER = json.JSONDecoder(object_pairs_hook=_object_or_nan, parse_int=_short_integer)

_LONGEST_AGE = 2**31
"""Seconds; a larger number counts as this one (RFC 9111 1.2.2)."""
