"""Does a text show a key to the world, in whatever form? Pure.

Whoever knows the text of an HMAC secret can make tokens. A public key, certificate or JWK that is taken for a secret
because it is spelled in an unusual way would let everyone do so.
"""

import re
from base64 import b64decode
from binascii import unhexlify
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes


def shows_key(data: bytes, layers: int = 3) -> bool:
    """Whether a key stands in ``data``, or in base64 or hexadecimal in it, ``layers`` deep, wherever that starts."""
    # White space and line ends may come as escapes, and any other character outside ASCII is a dash or a space from a
    # word processor.
    text = re.sub(rb"\\+[nrtx]?", b"", unquote_to_bytes(data)).translate(None, _NOT_PRINTABLE)
    if _KEY_MARK.search(data) or _KEY_MARK.search(text) or _KEY_NAME.search(text):
        return True
    return layers > 0 and any(shows_key(decoded, layers - 1) for decoded in _decode_runs(text))


# Marks that show that bytes are, or hold, a key. At least 46 bits of each are fixed, so no random secret has it.
_KEY_MARK = re.compile(
    rb"""
      # Names in DER: RSA, DSA, EC and DH; those of NIST, ML-DSA among them; those of RFC 8410, Ed25519 and its kin.
      \x06[\x06-\x0b]\x2a\x86\x48(?:\x86\xf7\x0d\x01|\xce[\x38\x3d\x3e])
    | \x06[\x08-\x0b]\x60\x86\x48\x01\x65\x03\x04
    | \x30\x05\x06\x03\x2b\x65[\x6e-\x71]
      # PKCS 1, which has no name: a SEQUENCE with a number of 1024 bits, or 2048 and more, which almost fills it.
    | \x30(?:\x81[\x86-\x8f]\x02\x81\x81|\x82([\x01-\x08]).\x02\x82\1.)\x00[\x80-\xff]
      # An SSH key starts with its type (RFC 4253 6.6).
    | \0\0\0[\x07-\x30](?:sk-)?(?:ssh-|ecdsa-sha2-)
    | "kty":
    """,
    re.DOTALL | re.VERBOSE,
)

# How programs print the parts of a public key; white space is gone by now.
_KEY_NAME = re.compile(
    rb"""
      # XML Signature (.NET), also within a namespace.
      <(?:\w+:)?(?:RSA|DSA|EC|ECDSA)KeyValue | <(?:\w+:)?Modulus>
      # openssl -text and -modulus, Java, Go.
    | public-?key:\( | modulus["']?[=:(] | public-?exponent["']?[=:] | asn1oid: | nistcurve: | \bpub:(?:[0-9a-f]{2}:){8}
    | \{n:\+?[0-9]{100}
      # cryptography, PuTTY, PGP.
    | (?:RSA|EllipticCurve|DSA)PublicNumbers\( | public-lines: | beginpgp
    """,
    re.IGNORECASE | re.VERBOSE,
)

_NOT_PRINTABLE = bytes({*range(256)} - {*range(0x21, 0x7F)})


def _decode_runs(text: bytes) -> Iterator[bytes]:
    for run in re.findall(rb"[A-Za-z0-9+/]{32,}", text.translate(bytes.maketrans(b"-_", b"+/"))):
        # A word may stand directly before the base64, so it starts at any of four characters.
        for start in range(4):
            yield b64decode(run[start : len(run) - (len(run) - start) % 4])
    for run in re.findall(rb"[A-Fa-f0-9]{32,}", re.sub(rb"0x|[:,;.-]", b"", text)):
        for start in range(2):
            yield unhexlify(run[start : len(run) - (len(run) - start) % 2])
