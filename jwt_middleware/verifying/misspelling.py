"""How does this text differ from a well-formed token? For the operator: nothing of the text is shown. Pure."""

from typing import NamedTuple

from ..errors import MalformedToken
from .compact import MAX_DEPTH, base64url_decode, decode_header, json_object


class Misspelling(NamedTuple):
    """The first mistake in the spelling of a token."""

    found: str
    """What stands there, such as ``quotation marks around it``."""
    cure: str
    """What to do about it."""


def find_misspelling(raw: bytes) -> Misspelling:
    """Return what is wrong with ``raw``, which ``compact`` has refused, in time linear in its size.

    The likeliest mistakes come first: those of the client that sends the token, and then those of its issuer.
    """
    if not raw:
        return EMPTY
    if not raw.isascii():
        return NOT_ASCII
    if raw != raw.strip(b"\"'"):
        return Misspelling("quotation marks around it", "Send it without them.")
    if raw[:7].lower() == b"bearer ":
        return Misspelling("the scheme twice, Bearer Bearer", "Send the scheme only once.")
    if raw.split() != [raw]:
        return Misspelling("white space inside it, perhaps a copied line break", "Remove it.")
    if b"%" in raw:
        return Misspelling("percent-encoding", "Decode it before it is sent in a header.")
    segments = raw.split(b".")
    if len(segments) == 1:
        return Misspelling(
            "an opaque text, which only the provider that issued it can read",
            "Ask the provider for an access token for this API: at Auth0 with its audience, at Okta from a custom "
            "authorization server.",
        )
    if len(segments) != _SEGMENTS:
        return Misspelling(f"{len(segments)} segments instead of three", _SEND_EXACTLY)
    if b"=" in raw:
        return PADDING
    if b"+" in raw or b"/" in raw:
        return Misspelling("standard base64", "RFC 7515 section 2 asks for base64url, with '-' and '_'.")
    return _find_in_segments(*segments)


def encode_ascii(raw: str) -> bytes:
    """Return the bytes of ``raw``. Raises ``MalformedToken`` if it is not ASCII, which every token is."""
    if not raw.isascii():
        raise MalformedToken(found=NOT_ASCII.found)
    return raw.encode("ascii")


EMPTY = Misspelling("an empty text", "Send the token after the scheme: Authorization: Bearer <token>.")
NOT_ASCII = Misspelling("characters that are not ASCII", "Send the token exactly as the provider returned it.")

PADDING = Misspelling(
    "padding",
    "RFC 7515 section 2 leaves padding out; the issuer must do so. An AWS load balancer needs "
    "jwks=LoadBalancerKeys(...).",
)

_SEGMENTS = 3

_SEND_EXACTLY = "Send the token exactly as the provider returned it; it may have been cut or changed."

_BE_STRICT = (
    f"{_SEND_EXACTLY} If it was not: only canonical base64url, UTF-8, and JSON with each name once and at most "
    f"{MAX_DEPTH} levels is read here."
)


def _find_in_segments(header: bytes, payload: bytes, signature: bytes) -> Misspelling:
    try:
        parameters = json_object(base64url_decode(header))
    except MalformedToken:
        return Misspelling("a header that is not a JSON object in strict base64url", _BE_STRICT)
    for name in ("crit", "b64"):
        if name in parameters:
            return Misspelling(
                f"an extension in the header that is not understood here, {name}",
                "Have the issuer leave it out (RFC 7515 4.1.11).",
            )
    if not isinstance(parameters.get("alg"), str):
        return Misspelling("no alg in the header", "Have the issuer set it (RFC 7515 4.1.1).")
    try:
        decode_header(header)
    except MalformedToken:
        return Misspelling("a kid or a typ in the header that is not a text", "Have the issuer write it as a text.")
    try:
        json_object(base64url_decode(payload))
    except MalformedToken:
        return Misspelling("a payload that is not a JSON object in strict base64url", _BE_STRICT)
    return Misspelling("a signature that is not strict base64url", _BE_STRICT)
