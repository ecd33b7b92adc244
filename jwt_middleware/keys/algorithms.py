"""Which signature algorithms are there, and which one does a JWK name? Pure."""

import re
from collections.abc import Iterable, Mapping

from jwt.algorithms import Algorithm, get_default_algorithms

from .._support.arguments import show
from ..errors import ConfigurationError
from .jwk import is_public
from .material import JWK, UnusableKey


def _known_algorithms() -> dict[str, Algorithm]:
    known = get_default_algorithms()
    # "none" is not a signature, and ES521 is PyJWT's own name. RFC 9864 2.2 gives each curve of EdDSA a name.
    return {name: known[name] for name in known if name not in ("none", "ES521")} | {
        "Ed25519": known["EdDSA"],
        "Ed448": known["EdDSA"],
    }


ALGORITHMS: Mapping[str, Algorithm] = _known_algorithms()
"""Every signature algorithm, by its name in the JOSE header."""


def jwk_algorithm(jwk: JWK) -> str | None:
    """The signature algorithm that ``jwk`` names. None if it leaves that open.

    Some providers spell the algorithm of a public key as other standards do (``SHA256withRSA``, ``RSA256``). An
    unknown name counts as absent if the JWK says ``"use": "sig"``. Raises ``UnusableKey`` for any other name.
    """
    alg = jwk.get("alg")
    if alg is None or alg in ALGORITHMS:
        return alg
    if is_public(jwk):
        foreign = _read_foreign_name(alg)
        if foreign is not None:
            return foreign
        if jwk.get("use") == "sig" and not _OTHER_USE.fullmatch(alg):
            return None
    raise UnusableKey(f"key: the JWK's alg {alg[:32]!r} is not a signature algorithm that is known here")


def check_algorithms(algorithms: Iterable[str]) -> frozenset[str]:
    """``algorithms`` as a set of known names; raises ``ConfigurationError`` for any other."""
    names = list(algorithms) if isinstance(algorithms, Iterable) and not isinstance(algorithms, str) else []
    if not names:
        raise ConfigurationError("algorithms must be a list of names, for instance ['RS256']")
    for name in names:
        if not isinstance(name, str) or name not in ALGORITHMS:
            # A short text is a misspelled name. A longer one could be a secret.
            shown = repr(name) if isinstance(name, str) and len(name) <= 8 else show(name)
            raise ConfigurationError(f"algorithms: {shown} is not known; these are: {', '.join(ALGORITHMS)}")
    return frozenset(names)


def _read_foreign_name(alg: str) -> str | None:
    # XML Signature names algorithms by addresses: http://www.w3.org/2001/04/xmldsig-more#rsa-sha256.
    name = re.sub(r"[^a-z0-9]", "", alg[:100].rpartition("#")[2].lower())
    if name in _NAMES_OF_EDDSA:
        return _NAMES_OF_EDDSA[name]
    for family, pattern in _FOREIGN_NAMES.items():
        found = pattern.fullmatch(name)
        if found is not None:
            bits = next(filter(None, found.groups()), "")
            return f"{family}{bits}"
    return None


_NAMES_OF_EDDSA = {"eddsa": "EdDSA", "ed25519": "Ed25519", "ed448": "Ed448"}

_BITS = "(256|384|512)"

# Without punctuation and capitals.
_FOREIGN_NAMES = {
    "RS": re.compile(
        rf"rs{_BITS}|rsa{_BITS}|rsasha{_BITS}|sha{_BITS}(?:with)?rsa(?:encryption)?|rsassapkcs1v15(?:with)?sha{_BITS}"
    ),
    "PS": re.compile(
        rf"ps{_BITS}|(?:rsa|rsassa|rsasa)pss(?:with)?sha{_BITS}|sha{_BITS}(?:with)?rsa(?:and|ssa)?(?:mgf1|pss)"
    ),
    "ES": re.compile(rf"es{_BITS}|ecdsa{_BITS}|ecdsa(?:with)?sha{_BITS}|sha{_BITS}(?:with)?ecdsa"),
}

# Names of RFC 7518 4.1 and its successors for encryption and key agreement, and "none".
_OTHER_USE = re.compile(r"none|dir|RSA1_5|RSA-OAEP.*|ECDH-.*|A[0-9]{3}.*|PBES2-.*|HPKE.*", re.IGNORECASE)
