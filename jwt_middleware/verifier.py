"""Is this token good now? Providers, each with its keys and rules, and the decision over all of them."""

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from enum import Enum
from inspect import isawaitable
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict

from . import compact
from .arguments import count, function, functions, seconds, strings, switch
from .cache import TokenCache
from .claims import ClaimRules, Facts, Token, media_type
from .errors import (
    AlgorithmNotAllowed,
    BadSignature,
    ConfigurationError,
    InvalidClaim,
    MalformedToken,
    MissingClaim,
    NotYetValid,
    Refusal,
    TokenTooLarge,
    Unavailable,
    UnknownIssuer,
    UnknownKey,
    WrongIssuer,
)
from .keys import Key, KeySet, check_algorithms, load_keys
from .loading import PrivateKey, PublicKey

CACHE_SIZE = 16 * 1024
"""Tokens that are remembered, unless told otherwise."""

MAX_HEADERS = 256
"""Headers that are remembered. Few exist: one for each key of each signer, where signers are sensible."""

MAX_HEADER_SIZE = 1024
"""Bytes of a header segment that is remembered."""

MAX_TOKEN_SIZE = 16 * 1024
"""Bytes of a token that are looked at, unless told otherwise."""


class Audience(Enum):
    """What ``audience`` may be instead of names."""

    ANY = "any"


ANY: Final = Audience.ANY
"""``audience=ANY``: tokens for any audience, or for none, are good. Only where the keys sign for nobody else."""

KeyText: TypeAlias = str | bytes | Mapping[str, Any] | PrivateKey | PublicKey
Clock: TypeAlias = Callable[[], float]
Validate: TypeAlias = Callable[[Token], bool | Awaitable[bool]]


class KeySource(Protocol):
    """Where a provider's keys come from."""

    @property
    def current(self) -> KeySet:
        """The keys that are good now; replaced whole when they change, never changed, and had without waiting."""
        ...

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """The keys to look in once more, after ``current`` had none; raises ``KeysUnavailable``."""
        ...


class StaticKeys:
    """Keys that the configuration gives, for good."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.current = KeySet(keys)

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """``current``: there is nowhere else to look."""
        return self.current


class ProviderOptions(TypedDict, total=False):
    """The keywords of ``Provider``, for those who pass them on."""

    key: KeyText | list[KeyText] | tuple[KeyText, ...]
    audience: str | Collection[str] | Literal[Audience.ANY]
    issuer: str | Collection[str] | None
    name: str
    algorithms: Collection[str] | None
    allow_weak_keys: bool
    leeway: float
    max_token_age: float | None
    token_type: str | Collection[str] | None
    required_claims: Collection[str]
    subject_claim: str
    scope_claim: str | None
    validate: Validate | Collection[Validate]


class Provider:
    """Whose tokens are accepted, with which keys and by which rules. All arguments are keywords.

    ``key``
        What verifies: a secret (str or bytes), a PEM (public key, private key, X.509 certificate), a JWK or JWK Set
        (dict), or a list of them while keys are rotated: all verify.
    ``audience``
        The ``aud`` that a token must name (RFC 7519 4.1.3), one or several: a token for any of them is good. ``ANY``
        says that none is checked. Required.
    ``issuer``
        The ``iss`` that a token must carry (RFC 7519 4.1.1), one or several, compared to the letter. None: not checked.
    ``name``
        Unique among providers; credentials, refusals and logs say it. Default ``jwt``.
    ``algorithms``
        Names from RFC 7518 3.1 and RFC 9864 2.2 that narrow what the keys verify. Default: all that the keys are for.
    ``allow_weak_keys``
        Accept secrets shorter than their hash and RSA keys under 2048 bits, for old systems. Default False.
    ``leeway``
        Seconds of clock skew allowed in ``exp``, ``nbf`` and ``iat``. Default 5.
    ``max_token_age``
        Seconds since ``iat`` that a token is good for, whatever its ``exp``. Default None: not checked.
    ``token_type``
        The header's ``typ``, one or several, for instance ``at+jwt`` (RFC 9068 4): case does not count, and
        ``application/`` may be left out. Default None: not checked.
    ``required_claims``
        Names of claims that must be there and not be null. ``exp`` is always required.
    ``subject_claim``
        The claim that names the user. Default ``sub``; another one is required to be there, and may be a number.
    ``scope_claim``
        The claim that lists the scopes, as a string with spaces or as a list; a dotted path leads into nested objects
        (``realm_access.roles``). Default None: ``scope``, else ``scp``.
    ``validate``
        One or several ``validate(token)``, sync or async, run after every other check, when it is settled that the
        token is this provider's. Anything but a true result refuses with ``invalid_claim``; a raised ``Refusal``
        refuses as it says.

    Raises ``ConfigurationError`` where an argument cannot work.
    """

    def __init__(
        self,
        *,
        key: KeyText | list[KeyText] | tuple[KeyText, ...] | None = None,
        audience: str | Collection[str] | Literal[Audience.ANY] | None = None,
        issuer: str | Collection[str] | None = None,
        name: str = "jwt",
        algorithms: Collection[str] | None = None,
        allow_weak_keys: bool = False,
        leeway: float = 5,
        max_token_age: float | None = None,
        token_type: str | Collection[str] | None = None,
        required_claims: Collection[str] = (),
        subject_claim: str = "sub",
        scope_claim: str | None = None,
        validate: Validate | Collection[Validate] = (),
    ) -> None:
        if key is None:
            raise ConfigurationError("key is required: a secret, a PEM, a JWK or JWK Set dict, or a list of them")
        if audience is None:
            raise ConfigurationError(
                "audience is required: the name that tokens for this service carry in `aud`, or audience=ANY to accept "
                "tokens that were made for any service"
            )
        switch("allow_weak_keys", allow_weak_keys)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name must be a string that is not empty, not {name!r}")
        for option, claim in (
            ("subject_claim", subject_claim),
            ("scope_claim", "scope" if scope_claim is None else scope_claim),
        ):
            if not isinstance(claim, str) or not claim:
                raise ConfigurationError(f"{option} must be the name of a claim, not {claim!r}")
        self.name = name
        self.issuers = () if issuer is None else strings("issuer", issuer)
        self.keys: KeySource = StaticKeys(
            load_keys(
                key,
                algorithms=None if algorithms is None else check_algorithms(algorithms),
                allow_weak_keys=allow_weak_keys,
            )
        )
        self.rules = ClaimRules(
            provider=name,
            audiences=None if audience is ANY else frozenset(strings("audience", audience)),
            leeway=seconds("leeway", leeway),
            max_token_age=None if max_token_age is None else seconds("max_token_age", max_token_age),
            types=None
            if token_type is None
            else frozenset(media_type(typ) for typ in strings("token_type", token_type)),
            required_claims=strings("required_claims", required_claims, at_least=0),
            subject_claim=subject_claim,
            scope_claim=scope_claim,
        )
        self.validators = functions("validate", validate, "token")

    def __repr__(self) -> str:
        return f"Provider(name={self.name!r}, issuer={self.issuers!r})"


# What is remembered of a token: from when on it is good, and before when; its provider's place, the serial of the key
# set that verified it, and its facts. All plain values in plain tuples, which the garbage collector leaves alone.
_Remembered: TypeAlias = tuple[float, float, int, int, tuple[Any, ...]]


class Verifier:
    """Verifies tokens of one or several providers, without ASGI. The decisions, in their order:

    1. Size: more than ``max_token_size`` bytes are ``token_too_large``, before anything is parsed.
    2. Form: three segments of canonical base64url, JSON objects: ``malformed_token``, ``encrypted_token``.
    3. Provider: the one that has the token's ``iss``; those without an issuer are tried in their order for tokens
       whose ``iss`` no other has: ``unknown_issuer`` (``wrong_issuer`` where there is only one to choose from).
    4. Key: by ``kid``, then by what the key is for: ``unknown_key``, ``algorithm_not_allowed``.
    5. Signature: ``bad_signature``.
    6. Claims: see ``ClaimRules.read``; then the provider's ``validate``.

    What was found good is remembered, for ``cache_size`` tokens (0: none). Seen again, a token is checked for what may
    have changed: the time, and whether its provider still has the key set that verified it; and ``validate`` runs.

    ``providers`` is a ``Provider`` or several; ``clock`` gives Unix time. Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        providers: Provider | Iterable[Provider],
        *,
        max_token_size: int = MAX_TOKEN_SIZE,
        cache_size: int = CACHE_SIZE,
        clock: Clock = time.time,
    ) -> None:
        self.providers: tuple[Provider, ...] = tuple(providers) if isinstance(providers, Iterable) else (providers,)
        self.max_token_size = count("max_token_size", max_token_size, minimum=1)
        # Providers by their places.
        self._by_issuer = _by_issuer(self.providers)
        self._without_issuer = tuple(place for place, provider in enumerate(self.providers) if not provider.issuers)
        self._validators = {provider.name: provider.validators for provider in self.providers if provider.validators}
        function("clock", clock)
        seconds("clock()", clock())
        self._clock = clock
        self._verified: TokenCache[_Remembered] = TokenCache(count("cache_size", cache_size))
        # Of tokens with good signatures only.
        self._headers: dict[bytes, compact.Header] = {}

    async def verify(self, raw: str | bytes) -> Token:
        """The token that ``raw`` spells, if it is good now; raises a ``Refusal`` that says why not.

        Any ``raw`` ends in one or the other; only what ``validate`` itself raises gets through.
        """
        if not isinstance(raw, str | bytes):
            raise TypeError(f"a token is str or bytes, not {type(raw).__name__}")
        if len(raw) > self.max_token_size:
            raise TokenTooLarge
        if isinstance(raw, str):
            try:
                raw = raw.encode("ascii")
            except UnicodeEncodeError:
                raise MalformedToken from None
        token = self._recalled(raw) or Token(await self._verify(raw))
        if self._validators:
            await self._validate(token)
        return token

    def remembered(self, raw: bytes) -> Token | None:
        """The token that ``raw`` spells, where that can be said without waiting: it is in memory, and still good.

        None says nothing about the token; ``verify`` does.
        """
        return None if self._validators else self._recalled(raw)

    def _recalled(self, raw: bytes) -> Token | None:
        verified = self._verified.get(raw)
        if verified is None:
            return None
        good_from, good_until, place, serial, facts = verified
        # A token is as good as the keys that verified it: gone or replaced, they take it with them.
        if good_from <= self._clock() < good_until and serial == self.providers[place].keys.current.serial:
            return Token(facts)
        return None

    async def _verify(self, raw: bytes) -> Facts:
        parts = compact.decode(raw, self._headers)
        header = parts.header
        claims = compact.json_object(parts.payload)
        refusals: list[Refusal] = []
        for place in self._candidates(claims):
            provider, signed = self.providers[place], False
            try:
                keys = provider.keys.current
                try:
                    candidates = keys.find(header.kid, header.algorithm)
                except (UnknownKey, AlgorithmNotAllowed):
                    keys = await provider.keys.refreshed(header.kid, header.algorithm)
                    candidates = keys.find(header.kid, header.algorithm)
                for key in candidates:
                    if key.verifies(header.algorithm, parts.signing_input, parts.signature):
                        signed = True
                        break
                else:
                    raise BadSignature
                facts, good_from, good_until = provider.rules.read(header, parts.payload, claims, self._clock())
            except Refusal as refusal:
                refusal.provider, refusal.kid = provider.name, header.kid
                refusal.subject = provider.rules.subject(claims) if signed else None
                refusals.append(refusal)
            else:
                # Where a provider before this one refused for a reason that may pass, the next request asks it again.
                if not any(isinstance(refusal, NotYetValid | Unavailable) for refusal in refusals):
                    self._remember(raw, (good_from, good_until, place, keys.serial, tuple(facts)), parts)
                return facts
        # Of several providers the one that got furthest knows best: its keys may have been the right ones.
        raise max(refusals, key=_progress)

    async def _validate(self, token: Token) -> None:
        try:
            for validate in self._validators.get(token.provider, ()):
                good = validate(token)
                if not (await good if isawaitable(good) else good):
                    raise InvalidClaim
        except Refusal as refusal:
            refusal.provider, refusal.kid, refusal.subject = token.provider, token.kid, token.subject
            raise

    def _candidates(self, claims: Mapping[str, Any]) -> tuple[int, ...]:
        iss = claims.get("iss")
        if isinstance(iss, str) and iss in self._by_issuer:
            return (self._by_issuer[iss],)
        if self._without_issuer:
            return self._without_issuer
        if "iss" not in claims:
            raise MissingClaim(claim="iss")
        if not isinstance(iss, str):
            raise InvalidClaim(claim="iss")
        if len(self.providers) == 1:
            raise WrongIssuer(provider=self.providers[0].name)
        raise UnknownIssuer

    def _remember(self, raw: bytes, remembered: _Remembered, parts: compact.Compact) -> None:
        facts, segment = remembered[-1], parts.header_segment
        self._verified.put(raw, remembered, _weight(raw, parts, len(facts[_SCOPES])))
        if segment not in self._headers and len(segment) <= MAX_HEADER_SIZE:
            if len(self._headers) >= MAX_HEADERS:
                self._headers.clear()
            self._headers[segment] = parts.header


def _weight(raw: bytes, parts: compact.Compact, scopes: int) -> int:
    """Bytes of memory, or a little less, that it takes to remember a token."""
    texts = len(parts.payload) + len(parts.header.json)
    # The names in it stand beside the payload as strings, which one wide character makes four times as wide.
    narrow = parts.payload.isascii() and parts.header.json.isascii() and b"\\u" not in parts.payload
    return 1024 + len(raw) + texts + (texts if narrow else 4 * texts) + 64 * scopes


_SCOPES = Facts._fields.index("scopes")


def _progress(refusal: Refusal) -> int:
    if isinstance(refusal, UnknownKey | AlgorithmNotAllowed):
        return 0
    if isinstance(refusal, BadSignature):
        return 1
    # Where keys could not be had the token may be good; a claim at fault, after a good signature, is the last word.
    return 2 if isinstance(refusal, Unavailable) else 3


def _by_issuer(providers: tuple[Provider, ...]) -> dict[str, int]:
    if not providers:
        raise ConfigurationError("providers: at least one Provider is needed")
    names: set[str] = set()
    by_issuer: dict[str, int] = {}
    for place, provider in enumerate(providers):
        if not isinstance(provider, Provider):
            raise ConfigurationError(f"providers must be Provider objects, not {type(provider).__name__}")
        if provider.name in names:
            raise ConfigurationError(f"providers: the name {provider.name!r} stands twice; give each its own name=")
        names.add(provider.name)
        for issuer in provider.issuers:
            if issuer in by_issuer:
                raise ConfigurationError(
                    f"providers: {providers[by_issuer[issuer]].name!r} and {provider.name!r} both have the issuer "
                    f"{issuer!r}; make them one Provider with all keys and audiences"
                )
            by_issuer[issuer] = place
    return by_issuer
