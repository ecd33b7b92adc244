"""How is a token spelled? The compact serialisation of RFC 7515, one spelling only. Pure."""

import json
import re
from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from ..errors import EncryptedToken, MalformedToken

MAX_DEPTH = 32
"""Levels of nesting that a header or a payload may have. Real tokens have two or three."""


@dataclass(slots=True, eq=False)
class Header:
    """A JOSE header (RFC 7515 section 4): its JSON, and the parameters that decisions need."""

    json: bytes = field(repr=False)
    algorithm: str
    kid: str | None
    typ: str


class Compact(NamedTuple):
    """A token taken apart. None of it is verified yet. Its repr shows none of it."""

    header_segment: bytes
    header: Header
    payload: bytes
    signing_input: bytes
    signature: bytes

    def __repr__(self) -> str:
        return "Compact(...)"


def decode(raw: bytes, known_headers: Mapping[bytes, Header] = MappingProxyType({})) -> Compact:
    """Take apart ``raw``, a JWS in compact serialisation (RFC 7515 7.1).

    Header segments found in ``known_headers`` are not parsed again. Raises ``EncryptedToken`` for the five segments of
    a JWE, ``MalformedToken`` for everything else that is not exactly three segments of canonical base64url.
    """
    segments = raw.split(b".", 5)
    if len(segments) != 3:
        raise EncryptedToken(found="five segments") if _JWE.fullmatch(raw) else MalformedToken
    header_segment, payload_segment, signature_segment = segments
    header = known_headers.get(header_segment) or decode_header(header_segment)
    payload = base64url_decode(payload_segment)
    signing_input = raw[: -1 - len(signature_segment)]
    return Compact(header_segment, header, payload, signing_input, base64url_decode(signature_segment))


class PaddedCompact(Compact):
    """A token with padding, taken apart. Only AWS load balancers make such tokens."""

    __slots__ = ()


def decode_padded(raw: bytes, known_headers: Mapping[bytes, Header] = MappingProxyType({})) -> Compact:
    """Like ``decode``, but each segment may be padded correctly (RFC 4648 section 4).

    The signing input is what was received, with its padding: AWS signs that. Such a token is a ``PaddedCompact``, for
    the caller to accept from load balancers alone.
    """
    if b"=" not in raw:
        return decode(raw, known_headers)
    segments = raw.split(b".", 3)
    if len(segments) != 3:
        raise MalformedToken
    header_segment, payload_segment, signature_segment = segments
    header = known_headers.get(header_segment) or decode_header(_remove_padding(header_segment))
    payload, signature = map(base64url_decode, map(_remove_padding, (payload_segment, signature_segment)))
    signing_input = raw[: len(header_segment) + 1 + len(payload_segment)]
    return PaddedCompact(header_segment, header, payload, signing_input, signature)


def decode_header(segment: bytes) -> Header:
    """The JOSE header that ``segment`` spells; raises ``MalformedToken``.

    Key material in it (``jku``, ``jwk``, ``x5u``, ``x5c``) is never looked at.
    """
    data = base64url_decode(segment)
    parameters = json_object(data)
    # RFC 7515 4.1.11: a token whose critical extensions are not understood is invalid; we understand none. RFC 7797 7:
    # `b64` without `crit` would make the same bytes mean two things.
    if "crit" in parameters or "b64" in parameters:
        raise MalformedToken
    algorithm, kid, typ = parameters.get("alg"), parameters.get("kid"), parameters.get("typ")
    # Old issuers number their keys. True and 7.0 are not such numbers.
    if type(kid) is int and _LOWEST <= kid < _ABOVE_64_BITS:
        kid = str(kid)
    # Null means absent here. Elsewhere in the header it is malformed.
    if not (isinstance(algorithm, str) and isinstance(kid, str | None) and isinstance(typ, str | None)):
        raise MalformedToken
    return Header(data, algorithm, kid, typ or "")


def encode(header: Mapping[str, Any], claims: Mapping[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """The token of ``header`` and ``claims``, signed by ``sign(signing_input)``.

    Raises ``ValueError`` or ``TypeError`` for what JSON cannot hold.
    """
    signing_input = b".".join(base64url_encode(_json_bytes(part)) for part in (header, claims))
    return b".".join((signing_input, base64url_encode(sign(signing_input)))).decode("ascii")


def base64url_decode(segment: bytes) -> bytes:
    """The bytes that ``segment`` spells; raises ``MalformedToken`` unless it is their only spelling.

    No padding, no white space, no other alphabet, no stray bits (RFC 7515 section 2, RFC 4648 3.5): two spellings of
    one token would be two keys in a cache and two entries in a deny list.
    """
    rest = len(segment) % 4
    # The decoder's strict mode does not see bits set beyond the last byte.
    if segment[-1:] not in _LAST_CHARACTERS[rest]:
        raise MalformedToken
    try:
        return a2b_base64(segment.translate(_TO_STANDARD_ALPHABET) + _PADDING[rest], strict_mode=True)
    except Base64Error:
        raise MalformedToken from None


def base64url_encode(data: bytes) -> bytes:
    """The base64url spelling of ``data``, without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object that ``data`` holds; raises ``MalformedToken`` for anything else.

    UTF-8 without a byte order mark (RFC 8259 8.1), no name twice (RFC 7519 section 4), no NaN or Infinity, at most
    ``MAX_DEPTH`` levels, no unpaired surrogates and no numbers that floats cannot hold (encoding them later would
    fail).
    """
    try:
        text = data.decode()
        # The cheap test also counts brackets in strings, so only a text that fails it is measured.
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check_depth(text)
        value = _decoded(text, _STRICT_DECODER)
        # Searching for one character costs a thirtieth of searching for two.
        if "\\" in text and "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError:  # bad JSON, bad UTF-8, numbers of more digits than Python converts
        raise MalformedToken from None
    if value.__class__ is not dict:
        raise MalformedToken
    return value


def json_again(data: bytes) -> dict[str, Any]:
    """A new copy of the object in ``data``, which ``json_object`` has read before: nothing is checked twice."""
    value: dict[str, Any] = _decoded(data.decode(), _PLAIN_DECODER)
    return value


def _remove_padding(segment: bytes) -> bytes:
    text = segment.rstrip(b"=")
    padding = len(segment) - len(text)
    if padding > 2 or (padding and len(segment) % 4):
        raise MalformedToken
    return text


_LOWEST, _ABOVE_64_BITS = -(2**63), 2**64


def _characters(alphabet: bytes) -> list[bytes]:
    return [alphabet[position : position + 1] for position in range(len(alphabet))]


_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# RFC 7516 7.1: five segments of base64url.
_JWE = re.compile(rb"[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){4}")

# "!" is in neither alphabet: whatever is not base64url stays an error for the decoder.
_TO_STANDARD_ALPHABET = bytes(
    {ord("-"): ord("+"), ord("_"): ord("/")}.get(c, c if c in _ALPHABET else ord("!")) for c in range(256)
)

# By the number of characters in the last group, modulo 4. One character is too few for a byte.
_PADDING = (b"", b"", b"==", b"=")

# Likewise. Two characters carry 8 bits and 4 that must be zero, three carry 16 and 2.
_LAST_CHARACTERS = (
    frozenset({b"", *_characters(_ALPHABET)}),
    frozenset[bytes](),
    frozenset(_characters(_ALPHABET[::16])),
    frozenset(_characters(_ALPHABET[::4])),
)


def _object_without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite_number(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number is too large")
    return number


_STRICT_DECODER = json.JSONDecoder(
    object_pairs_hook=_object_without_doubles, parse_constant=_refuse_constant, parse_float=_finite_number
)
_PLAIN_DECODER = json.JSONDecoder()


def _decoded(text: str, decoder: json.JSONDecoder) -> Any:
    # `decode` looks for white space around the value with two regular expressions; tokens hardly ever have any.
    if text[:1] == "{":
        value, end = decoder.raw_decode(text)
        if end == len(text):
            return value
    return decoder.decode(text)


# The closing quote is optional, so that an unclosed string is consumed once and not tried again from each quote in it.
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def _check_depth(text: str) -> None:
    # Before parsing: how deep the parser can go differs between Python versions and between callers' stacks.
    depth = 0
    for character in _STRINGS.sub("", text):
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
        elif character in "]}":
            depth -= 1


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
