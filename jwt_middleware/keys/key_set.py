"""Which key may verify this token? Judged when loaded, chosen by ``kid`` and ``alg``. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from .._support.arguments import show
from ..errors import AlgorithmNotAllowed, ConfigurationError, UnknownKey
from .loading import Material, PrivateKey, PublicKey, UnusableKey, load, load_jwk
from .signatures import ALGORITHMS, Verify, verifier

Name = TypeVar("Name")

MAX_TRIES = 8
"""Keys that are tried for one token when its ``kid`` does not tell them apart."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that verifies: its material, never shown, and the algorithms that it is for."""

    material: bytes | PublicKey = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str | None = None
    _prepared: dict[str, Verify] = field(default_factory=dict, init=False, repr=False, compare=False)

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's over ``signing_input`` by ``algorithm``, one of its own."""
        verify = self._prepared.get(algorithm)
        if verify is None:
            verify = self._prepared[algorithm] = verifier(algorithm, self.material)
        return verify(signing_input, signature)


_serials = count()


class KeySet:
    """Keys that are good at the same time, found by ``kid`` and ``alg`` at a cost that their number does not change."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        self.serial = next(_serials)
        """Tells this set from every other one of the process, those that are gone included."""
        self._kids = {key.kid for key in self.keys if key.kid is not None}
        # A token without a kid is likelier to be of a key without one.
        self._any = _first_ones(_by_algorithm(sorted(self.keys, key=lambda key: key.kid is not None)))
        self._without_kid = _first_ones(_by_algorithm(key for key in self.keys if key.kid is None))
        self._by_kid = _first_ones(_by_kid(self.keys, self._without_kid))

    def __repr__(self) -> str:
        return f"KeySet({self.keys!r})"

    def knows(self, kid: str | None) -> bool:
        """Whether a key bears this ``kid``, whatever it is for."""
        return kid in self._kids

    def find(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The keys that may have signed a token with this header, likeliest first; ``MAX_TRIES`` at most.

        A key without a ``kid`` fits every token; a token without one fits every key, those without one first. Raises
        ``AlgorithmNotAllowed`` where the algorithm is not what the keys are for, else ``UnknownKey``.
        """
        if kid is None:
            found = self._any.get(algorithm, ())
        else:
            found = self._by_kid.get((kid, algorithm)) or self._without_kid.get(algorithm, ())
        if found:
            return found
        if algorithm not in self._any or kid in self._kids:
            raise AlgorithmNotAllowed
        raise UnknownKey


def load_keys(
    source: object, *, algorithms: Collection[str] | None = None, allow_weak_keys: bool = False
) -> tuple[Key, ...]:
    """The verifying keys of ``source``: anything that ``loading.load`` takes, a JWK Set dict, or a list of them.

    ``algorithms`` narrows what they verify. Raises ``ConfigurationError`` where one of them cannot be used, or would
    never be tried; the keys of a JWK Set that are made for something else are passed over (RFC 7517 section 5).
    """
    keys: list[Key] = []
    for item in source if isinstance(source, list | tuple) else [source]:
        if isinstance(item, Mapping) and "keys" in item and "kty" not in item:
            keys += _load_jwk_set(item["keys"], algorithms, allow_weak_keys)
        else:
            keys.append(make_key(load(item), algorithms, allow_weak_keys))
    if not keys:
        raise ConfigurationError("key: the list is empty; at least one key is needed")
    _check_tries(keys)
    return tuple(keys)


def load_foreign_keys(
    jwks: Iterable[object], *, allow_weak_keys: bool = False, published: bool = True
) -> tuple[tuple[Key, ...], tuple[str, ...]]:
    """The verifying keys among ``jwks``, the entries of a JWK Set that others write, and what is wrong with the rest.

    One broken key is no reason to do without the good ones (RFC 7517 section 5): nothing is raised. Keys that are made
    for something else are passed over without a word. Where everybody can read the set (``published``), secrets and
    private keys are broken ones: whoever reads them can sign.
    """
    keys: list[Key] = []
    broken: list[str] = []
    for position, jwk in enumerate(jwks, 1):
        try:
            if not isinstance(jwk, Mapping):
                raise ConfigurationError("it is not an object")
            # Before they are loaded: to compute the primes of what is not a key can take a process seconds.
            if published and not {"d", "k"}.isdisjoint(jwk):
                raise ConfigurationError("it is a secret or private key, and published")
            if "d" in jwk and jwk.get("kty") == "RSA" and not {"p", "q"} <= set(jwk):
                raise ConfigurationError("it is a private key without its primes")
            keys.append(make_key(load_jwk(jwk), None, allow_weak_keys))
        except UnusableKey:
            continue
        except ConfigurationError as reason:
            kid = jwk.get("kid") if isinstance(jwk, Mapping) else None
            name = f"key {position} (kid {kid[:64]!r})" if isinstance(kid, str) else f"key {position}"
            broken.append(f"{name}: {str(reason).removeprefix('key: ')}")
    return tuple(keys), tuple(broken)


def make_key(material: Material, algorithms: Collection[str] | None, allow_weak_keys: bool) -> Key:
    """The verifying key of ``material``.

    Raises ``UnusableKey`` where the key is not for this, ``ConfigurationError`` where it is weak or contradicts itself.
    """
    operations = material.jwk.get("key_ops")
    # RFC 7517 4.3: of a private key, which is for signing, we use the public half.
    needed = {"verify", "sign"} if isinstance(material.value, PrivateKey) else {"verify"}
    if operations is not None and not needed.intersection(operations):
        raise UnusableKey(f"key: the JWK's key_ops have no {' or '.join(sorted(needed))}")
    suited = suited_algorithms(material)
    allowed = tuple(name for name in suited if algorithms is None or name in algorithms)
    if not allowed:
        raise UnusableKey(f"key: it verifies {', '.join(suited)}, none of which algorithms= allows")
    kid = material.jwk.get("kid")
    return Key(material.public, _strong(material.public, allowed, allow_weak_keys), kid)


def suited_algorithms(material: Material) -> tuple[str, ...]:
    """The algorithms that ``material`` is made for, the commonest first; the one of its JWK's ``alg`` where it has one.

    Raises ``UnusableKey`` where ``alg`` is not a signature's, ``ConfigurationError`` where it is of another key type.
    """
    kind, suited = _kind_and_algorithms(material.public)
    alg = material.jwk.get("alg")
    if alg is None:
        return suited
    if alg not in ALGORITHMS:
        raise UnusableKey(f"key: the JWK's alg {alg[:32]!r} is not a signature algorithm that is known here")
    if alg not in suited:
        raise ConfigurationError(f"key: the JWK says alg {alg!r}, but {kind} keys are for {', '.join(suited)}")
    return (alg,)


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


_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_EC_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
# At least: what RFC 7518 3.3 asks for; for old systems, what is not everyone's yet and has room for a SHA-512. At most:
# what OpenSSL verifies with (OPENSSL_RSA_MAX_MODULUS_BITS, OPENSSL_RSA_MAX_PUBEXP_BITS).
_RSA_BITS = range(2048, 16384 + 1)
_WEAK_RSA_BITS = range(1024, 16384 + 1)
_RSA_EXPONENT_BITS = 64


def _kind_and_algorithms(key: bytes | PublicKey) -> tuple[str, tuple[str, ...]]:
    if isinstance(key, bytes):
        return "oct", tuple(_HMAC_BYTES)
    if isinstance(key, RSAPublicKey):
        return "RSA", ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    if isinstance(key, EllipticCurvePublicKey):
        if key.curve.name not in _EC_ALGORITHMS:
            raise UnusableKey(f"key: there is no algorithm for keys on the curve {key.curve.name}")
        return f"{key.curve.name}", (_EC_ALGORITHMS[key.curve.name],)
    if isinstance(key, Ed25519PublicKey):
        return "Ed25519", ("EdDSA", "Ed25519")
    return "Ed448", ("EdDSA", "Ed448")


def _strong(key: bytes | PublicKey, algorithms: tuple[str, ...], allow_weak_keys: bool) -> tuple[str, ...]:
    # RFC 7518 3.2 and 3.3: a secret at least as long as the hash, RSA with 2048 bits or more.
    if isinstance(key, bytes) and not allow_weak_keys:
        strong = tuple(name for name in algorithms if len(key) >= _HMAC_BYTES[name])
        if not strong:
            name = algorithms[0]
            raise ConfigurationError(
                f"key: the secret has {len(key)} bytes, {name} needs {_HMAC_BYTES[name]} (RFC 7518 3.2); make one with "
                "secrets.token_urlsafe(64), or say allow_weak_keys=True for an old system"
            )
        return strong
    if isinstance(key, RSAPublicKey):
        if key.key_size not in _WEAK_RSA_BITS:
            raise ConfigurationError(f"key: the RSA key has {key.key_size} bits; from 2048 to 16384 can be used")
        if key.key_size not in _RSA_BITS and not allow_weak_keys:
            raise ConfigurationError(
                f"key: the RSA key has {key.key_size} bits, not 2048 or more (RFC 7518 3.3); make a new one, or say "
                "allow_weak_keys=True for an old system"
            )
        if key.public_numbers().e.bit_length() > _RSA_EXPONENT_BITS:
            raise ConfigurationError(f"key: the RSA key's exponent has more than {_RSA_EXPONENT_BITS} bits")
    return algorithms


def _load_jwk_set(jwks: object, algorithms: Collection[str] | None, allow_weak_keys: bool) -> list[Key]:
    if not isinstance(jwks, list | tuple):
        raise ConfigurationError("key: the 'keys' of the JWK Set are not a list")
    keys, skipped = [], []
    for jwk in jwks:
        if not isinstance(jwk, Mapping):
            raise ConfigurationError("key: an entry of the JWK Set is not a dict")
        try:
            keys.append(make_key(load_jwk(jwk), algorithms, allow_weak_keys))
        except UnusableKey as reason:
            skipped.append(str(reason))
    if not keys:
        raise ConfigurationError("; ".join(["key: the JWK Set holds no key that can verify", *skipped[:3]]))
    return keys


def _check_tries(keys: Sequence[Key]) -> None:
    # Keys that nobody configured can be too many, and are tried as far as it goes; of these, each must have its turn.
    without_kid = _by_algorithm(key for key in keys if key.kid is None)
    for algorithm, alike in without_kid.items():
        if len(alike) > MAX_TRIES:
            raise ConfigurationError(
                f"key: {len(alike)} keys without a kid verify {algorithm}, but a token is tried with {MAX_TRIES} at "
                "most; give them as JWKs, each with its kid"
            )
    for (kid, algorithm), alike in _by_kid(keys, without_kid).items():
        if len(alike) > MAX_TRIES:
            raise ConfigurationError(
                f"key: {len(alike)} keys verify {algorithm} with the kid {kid[:32]!r}, those without a kid among them, "
                f"but a token is tried with {MAX_TRIES} at most; give them as JWKs, each with a kid of its own"
            )


def _by_algorithm(keys: Iterable[Key]) -> dict[str, tuple[Key, ...]]:
    groups: dict[str, list[Key]] = {}
    for key in keys:
        for algorithm in key.algorithms:
            groups.setdefault(algorithm, []).append(key)
    return {algorithm: tuple(group) for algorithm, group in groups.items()}


def _by_kid(keys: Iterable[Key], without_kid: Mapping[str, tuple[Key, ...]]) -> dict[tuple[str, str], tuple[Key, ...]]:
    """By ``kid`` and algorithm: the keys of that ``kid``, the last one first, and then those without one."""
    groups: dict[tuple[str, str], tuple[Key, ...]] = {}
    for key in keys:
        if key.kid is not None:
            for algorithm in key.algorithms:
                earlier = groups.get((key.kid, algorithm), without_kid.get(algorithm, ()))
                groups[key.kid, algorithm] = (key, *earlier)
    return groups


def _first_ones(groups: Mapping[Name, tuple[Key, ...]]) -> dict[Name, tuple[Key, ...]]:
    return {name: group[:MAX_TRIES] for name, group in groups.items()}
