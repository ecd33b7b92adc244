"""What came instead of a Bearer token? It tells an operator which mistake a client makes. Pure."""

from collections.abc import Iterable

_KNOWN = {
    name.lower(): name for name in ("Basic", "Token", "JWT", "Digest", "Negotiate", "DPoP", "ApiKey", "Key", "Bot")
}
"""Schemes that may be named. Any other first word may be the token itself, so it is never shown."""


def describe_credentials(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, bool]:
    """The scheme of the Authorization header if it is a known one, and whether something like a JWT is in it."""
    for name, value in headers:
        if name == b"authorization":
            scheme = value[:16].strip(b" \t").partition(b" ")[0].decode("latin-1").lower()
            # RFC 7515: a header in base64url begins with {" and two segments follow.
            return _KNOWN.get(scheme), b"eyJ" in value[:64] and value.count(b".") >= 2
    return None, False
