"""Which key may verify this token? Judged when loaded, chosen by ``kid`` and ``alg``. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from .._support.listing import list_names
from ..errors import AlgorithmNotAllowed, ConfigurationError, UnknownKey
from .algorithms import ALGORITHMS, jwk_algorithm
from .documents import NamedPEM
from .jwk import is_public, load_jwk
from .loading import load, load_pem
from .material import Material, PrivateKey, PublicKey, UnusableKey
from .naming import name_key
from .signatures import Verify, prepare

Name = TypeVar("Name")

MAX_TRIES = 8
"""How many keys are tried for one token when its ``kid`` does not tell them apart."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that verifies: its material, never shown, and the algorithms that it is for."""

    material: bytes | PublicKey = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str | None = None
    issuer: str | None = None
    """The only issuer whose tokens it verifies, perhaps with a placeholder. None if any issuer will do."""
    published_issuer: str | None = None
    """The issuer that its JWK names. It counts only if issuers share keys: see ``issuer``."""
    name: str = field(init=False, repr=False, compare=False)
    """How it is named to an operator, by its kind and its ``kid``."""
    _prepared: dict[str, Verify] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", name_key(self.material, self.kid))

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether this key made ``signature`` over ``signing_input`` by ``algorithm``, which must be one of its own."""
        verify = self._prepared.get(algorithm)
        if verify is None:
            verify = self._prepared[algorithm] = prepare(algorithm, self.material)
        return verify(signing_input, signature)


_serials = count()


class KeySet:
    """Keys that are in force at the same time. Finding one costs the same however many there are."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        self.serial = next(_serials)
        """Tells this set from every other one of the process, even from those that are gone."""
        self._kids = {key.kid for key in self.keys if key.kid is not None}
        # A token without a kid more likely comes from a key without one.
        self._any = _first_ones(_by_algorithm(sorted(self.keys, key=lambda key: key.kid is not None)))
        self._without_kid = _first_ones(_by_algorithm(key for key in self.keys if key.kid is None))
        self._by_kid = _first_ones(_by_kid(self.keys, self._without_kid))

    @classmethod
    def load(
        cls, source: object, *, algorithms: Collection[str] | None = None, allow_weak_keys: bool = False
    ) -> "KeySet":
        """The set of the keys in ``source``: what ``Provider`` takes as ``key``. Raises ``ConfigurationError``."""
        return cls(load_keys(source, algorithms=algorithms, allow_weak_keys=allow_weak_keys))

    def __repr__(self) -> str:
        return f"KeySet({self.keys!r})"

    def knows(self, kid: str | None) -> bool:
        """Whether a key bears this ``kid``, whatever it is for."""
        return kid in self._kids

    def holds_exactly(self, keys: Collection[Key]) -> bool:
        """Whether these are the same keys, in any order."""
        return all(key in self.keys for key in keys) and all(key in keys for key in self.keys)

    def find(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The keys that may have signed a token with this header, likeliest first; ``MAX_TRIES`` at most.

        A key without a ``kid`` fits every token; a token without one fits every key, those without one first. Raises
        ``AlgorithmNotAllowed`` if the keys are not for that algorithm, else ``UnknownKey``.
        """
        if kid is None:
            found = self._any.get(algorithm, ())
        else:
            found = self._by_kid.get((kid, algorithm)) or self._without_kid.get(algorithm, ())
        if found:
            return found
        # Without any keys, an algorithm is not ruled out if some key could have it.
        if (self.keys or algorithm not in ALGORITHMS) and (algorithm not in self._any or kid in self._kids):
            of_kid = {name for known, name in self._by_kid if known == kid}
            raise AlgorithmNotAllowed(expected=list_names(of_kid or self._any) or None)
        raise UnknownKey(expected=list_names(self._kids) or None)


class Skipped(NamedTuple):
    """A key of a set that is not used, and why."""

    reason: str
    """Which key it is, and what is wrong with it."""
    is_broken: bool
    """Whether it is broken or weak. Otherwise it is made for something else, such as encryption."""


def load_keys(
    source: object, *, algorithms: Collection[str] | None = None, allow_weak_keys: bool = False
) -> tuple[Key, ...]:
    """Like ``load_keys_and_skipped``, without the skipped keys."""
    return load_keys_and_skipped(source, algorithms=algorithms, allow_weak_keys=allow_weak_keys)[0]


def load_keys_and_skipped(
    source: object, *, algorithms: Collection[str] | None = None, allow_weak_keys: bool = False
) -> tuple[tuple[Key, ...], tuple[Skipped, ...]]:
    """The verifying keys of ``source``, and the keys of JWK Sets in it that are not used.

    ``source`` is anything that ``loading.load`` takes, a JWK Set (dict), a dict of key ids and PEM texts, or a list of
    them. ``algorithms`` narrows what the keys verify. A key of a set that cannot be used is skipped (RFC 7517
    section 5). Raises ``ConfigurationError`` for any other key that cannot be used, for a set without a usable key, and
    for keys that would never be tried.
    """
    keys: list[Key] = []
    skipped: list[Skipped] = []
    for item in source if isinstance(source, list | tuple) else [source]:
        entries = _entries_of(item)
        if entries is None:
            keys.append(make_key(load(item), algorithms, allow_weak_keys))
            continue
        found, unused = _load_entries(entries, algorithms, allow_weak_keys=allow_weak_keys, published=False)
        if not found:
            reasons = [one.reason for one in unused[:3]]
            raise ConfigurationError("; ".join(["key: the JWK Set holds no key that can verify", *reasons]))
        keys += found
        skipped += unused
    if not keys:
        raise ConfigurationError("key: the list is empty; at least one key is needed")
    _check_tries(keys)
    return tuple(keys), tuple(skipped)


def load_foreign_keys(
    entries: Iterable[object], *, allow_weak_keys: bool = False, published: bool = True
) -> tuple[tuple[Key, ...], tuple[Skipped, ...]]:
    """The verifying keys among ``entries``, keys of a set that others write, and those that are not used.

    Nothing is raised: one broken key does not stop the others (RFC 7517 section 5). In a set that everyone can read
    (``published``), secrets and private keys are broken: whoever reads them can sign.
    """
    keys, skipped = _load_entries(entries, None, allow_weak_keys=allow_weak_keys, published=published)
    return tuple(keys), tuple(skipped)


def make_key(material: Material, algorithms: Collection[str] | None, allow_weak_keys: bool) -> Key:
    """The verifying key of ``material``.

    Raises ``UnusableKey`` for a key that is made for something else, and ``ConfigurationError`` for one that is weak or
    contradicts itself.
    """
    operations = material.jwk.get("key_ops")
    # RFC 7517 4.3: we use the public half of a private key, which is itself for signing.
    needed = {"verify", "sign"} if isinstance(material.value, PrivateKey) else {"verify"}
    if operations is not None and not needed.intersection(operations):
        raise UnusableKey(f"key: the JWK's key_ops have no {' or '.join(sorted(needed))}")
    suited = suited_algorithms(material)
    allowed = tuple(name for name in suited if algorithms is None or name in algorithms)
    if not allowed:
        raise UnusableKey(f"key: it verifies {', '.join(suited)}, none of which algorithms= allows")
    kid, issuer = material.jwk.get("kid"), material.jwk.get("issuer")
    algorithms = _check_strength(material.public, allowed, allow_weak_keys)
    return Key(material.public, algorithms, kid, published_issuer=issuer if isinstance(issuer, str) else None)


def suited_algorithms(material: Material) -> tuple[str, ...]:
    """The algorithms that ``material`` is made for, the most common first; only the JWK's ``alg`` if it has one.

    Raises ``UnusableKey`` if ``alg`` is not that of a signature, ``ConfigurationError`` if it is for another type of
    key.
    """
    kind, suited = _kind_and_algorithms(material.public)
    alg = jwk_algorithm(material.jwk)
    if alg is None:
        return suited
    if alg not in suited:
        raise ConfigurationError(f"key: the JWK says alg {alg!r}, but {kind} keys are for {', '.join(suited)}")
    return (alg,)


_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_EC_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
# The minimum is that of RFC 7518 3.3. The one for old systems is out of reach for most attackers and has room for a
# SHA-512. The maximum is OpenSSL's for verifying (OPENSSL_RSA_MAX_MODULUS_BITS, OPENSSL_RSA_MAX_PUBEXP_BITS).
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


def _check_strength(key: bytes | PublicKey, algorithms: tuple[str, ...], allow_weak_keys: bool) -> tuple[str, ...]:
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


def _entries_of(item: object) -> Iterable[object] | None:
    """The keys of ``item``, a set of keys. None if it is a single key."""
    if not isinstance(item, Mapping) or "kty" in item:
        return None
    if "keys" in item:
        if not isinstance(item["keys"], list | tuple):
            raise ConfigurationError("key: the 'keys' of the JWK Set are not a list")
        return item["keys"]
    if item and all(isinstance(pem, str) and "-----BEGIN " in pem for pem in item.values()):
        return [NamedPEM(str(kid), pem) for kid, pem in item.items()]
    return None


def _load_entries(
    entries: Iterable[object], algorithms: Collection[str] | None, *, allow_weak_keys: bool, published: bool
) -> tuple[list[Key], list[Skipped]]:
    keys: list[Key] = []
    skipped: list[Skipped] = []
    for position, entry in enumerate(entries, 1):
        try:
            keys.append(make_key(_load_entry(entry, published), algorithms, allow_weak_keys))
        except ConfigurationError as error:
            reason = f"{_name_entry(position, entry)}: {str(error).removeprefix('key: ')}"
            skipped.append(Skipped(reason, is_broken=not isinstance(error, UnusableKey)))
    return keys, skipped


def _load_entry(entry: object, published: bool) -> Material:
    if isinstance(entry, NamedPEM):
        material = load_pem(entry.pem.encode("utf-8", "replace"))
        if published and isinstance(material.value, PrivateKey):
            raise ConfigurationError("it is a private key, and published")
        return Material(material.value, {} if entry.kid is None else {"kid": entry.kid})
    if not isinstance(entry, Mapping):
        raise ConfigurationError("it is not an object")
    if not is_public(entry):
        # Check before loading: to compute the primes of something that is no key can take seconds.
        if published:
            raise ConfigurationError("it is a secret or private key, and published")
        if entry.get("kty") == "RSA" and "d" in entry and not {"p", "q"} <= set(entry):
            raise ConfigurationError("it is a private key without its primes")
    return load_jwk(entry)


def _name_entry(position: int, entry: object) -> str:
    kid = entry.kid if isinstance(entry, NamedPEM) else entry.get("kid") if isinstance(entry, Mapping) else None
    return f"key {position} (kid {kid[:64]!r})" if isinstance(kid, str) else f"key {position}"


def _check_tries(keys: Sequence[Key]) -> None:
    # A set that others publish may hold too many keys, and is then tried in part. Each configured key must be tried.
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
