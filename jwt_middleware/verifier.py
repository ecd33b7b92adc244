"""Is this token good now? Providers, each with its keys and rules, and the decision over all of them."""

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from enum import Enum
from inspect import isawaitable
from os import PathLike
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict

from . import compact
from .arguments import count, function, functions, seconds, strings, switch
from .background import Background
from .cache import TokenCache
from .claims import ClaimRules, Facts, Token, media_type
from .errors import (
    AlgorithmNotAllowed,
    BadSignature,
    ConfigurationError,
    InvalidClaim,
    MalformedToken,
    MissingClaim,
    Refusal,
    TokenTooLarge,
    Unavailable,
    UnknownIssuer,
    UnknownKey,
    WrongIssuer,
)
from .fetching import is_address
from .keys import Key, KeySet, check_algorithms, load_keys
from .loading import PrivateKey, PublicKey
from .remote import KeysHealth, ProviderKeys, RemoteKeys

logger = logging.getLogger("jwt_middleware")

CACHE_SIZE = 16 * 1024
"""Tokens that are remembered, unless told otherwise."""

MAX_HEADERS = 256
"""Headers that are remembered. Few exist: one for each key of each signer, where signers are sensible."""

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
        """The keys to look in once more, after ``current`` verified nothing; raises ``KeysUnavailable``."""
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

    key: KeyText | list[KeyText] | tuple[KeyText, ...] | None
    jwks: str | PathLike[str] | RemoteKeys | None
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
    ``jwks``
        Where keys that others rotate are fetched: a JWK Set's https address, a file's path, or ``RemoteKeys(...)``.
        Beside it, those of ``key`` verify too.
    ``audience``
        The ``aud`` that a token must name (RFC 7519 4.1.3), one or several: a token for any of them is good. ``ANY``
        says that none is checked. Required.
    ``issuer``
        The ``iss`` that a token must carry (RFC 7519 4.1.1), one or several, compared to the letter. None: not checked.
        Without ``key`` and ``jwks``, a single https address is also where the metadata lies that names the JWK Set.
    ``name``
        Unique among providers; credentials, refusals and logs say it. Default ``jwt``.
    ``algorithms``
        Names from RFC 7518 3.1 and RFC 9864 2.2 that narrow what the keys verify. Default: all that the keys are for.
    ``allow_weak_keys``
        Accept secrets shorter than their hash and RSA keys under 2048 bits, for old systems. Default False. A
        ``RemoteKeys`` has its own.
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
        jwks: str | PathLike[str] | RemoteKeys | None = None,
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
        allowed = None if algorithms is None else check_algorithms(algorithms)
        static = () if key is None else load_keys(key, algorithms=allowed, allow_weak_keys=allow_weak_keys)
        self.remote = _remote_keys(jwks, () if static else self.issuers, allow_weak_keys)
        self.keys: KeySource
        if self.remote is None:
            if not static:
                raise ConfigurationError(
                    "key is required: a secret, a PEM, a JWK or JWK Set dict, or a list of them; or jwks=, a JWK Set's "
                    "address; or issuer=, a single https address that leads to it"
                )
            self.keys = StaticKeys(static)
        elif static or allowed is not None:
            self.keys = ProviderKeys(self.remote, static, allowed)
        else:
            self.keys = self.remote
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

    @property
    def health(self) -> KeysHealth:
        """How the keys are; those of ``key`` are always good."""
        return KeysHealth(len(self.keys.current.keys)) if self.remote is None else self.remote.health


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
        remote = (provider.remote for provider in self.providers)
        self.remote = tuple(dict.fromkeys(keys for keys in remote if keys is not None))
        self._background = Background("keeping keys fresh")
        self._without_slash = {issuer.rstrip("/"): issuer for issuer in self._by_issuer}
        self._slash_logged = False
        function("clock", clock)
        self._clock = clock
        self._verified: TokenCache[_Remembered] = TokenCache(count("cache_size", cache_size))
        # Of tokens with good signatures only.
        self._headers: dict[bytes, compact.Header] = {}

    async def verify(self, raw: str | bytes) -> Token:
        """The token that ``raw`` spells, if it is good now; raises a ``Refusal`` that says why not.

        Any ``raw`` ends in one or the other; only what ``validate`` itself raises gets through.
        """
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

    async def start(self) -> None:
        """Fetch the remote keys before they are needed, and keep them fresh on this event loop until ``stop``.

        It takes as long as one attempt at most, and raises nothing where keys cannot be had. Without it they are
        fetched when requests need them.
        """
        for keys in self.remote:
            self._background.start(keys.keep)
        for keys in self.remote:
            await keys.prefetch()

    async def stop(self) -> None:
        """End what ``start`` began, and what is being fetched."""
        await self._background.stop()
        for keys in self.remote:
            await keys.stop()

    def health(self) -> dict[str, KeysHealth]:
        """How the keys of each provider are, by its name."""
        return {provider.name: provider.health for provider in self.providers}

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
        payload = parts.payload.decode("utf-8")
        refusals: list[Refusal] = []
        doubtful: list[tuple[int, KeySet]] = []
        for place in self._candidates(claims):
            keys = self.providers[place].keys.current
            try:
                return self._verify_with(place, keys, raw, parts, payload, claims)
            except Refusal as refusal:
                refusals.append(refusal)
                if isinstance(refusal, UnknownKey | AlgorithmNotAllowed | BadSignature):
                    doubtful.append((place, keys))
        # Only now, since it can take a while: a token that one provider's keys verify waits for no other's.
        for place, keys in doubtful:
            try:
                refreshed = await self.providers[place].keys.refreshed(header.kid, header.algorithm)
                if refreshed is not keys:
                    return self._verify_with(place, refreshed, raw, parts, payload, claims)
            except Refusal as refusal:
                refusal.provider, refusal.kid = self.providers[place].name, header.kid
                refusals.append(refusal)
        # Of several providers the one that got furthest knows best: its keys may have been the right ones.
        raise max(refusals, key=_progress)

    def _verify_with(
        self, place: int, keys: KeySet, raw: bytes, parts: compact.Compact, payload: str, claims: dict[str, Any]
    ) -> Facts:
        header, provider, signed = parts.header, self.providers[place], False
        try:
            for key in keys.find(header.kid, header.algorithm):
                if key.verifies(header.algorithm, parts.signing_input, parts.signature):
                    signed = True
                    break
            else:
                raise BadSignature
            facts, good_from, good_until = provider.rules.read(header, payload, claims, self._clock())
        except Refusal as refusal:
            refusal.provider, refusal.kid = provider.name, header.kid
            refusal.subject = _subject(claims) if signed else None
            raise
        self._verified.put(raw, (good_from, good_until, place, keys.serial, tuple(facts)))
        self._remember_header(parts)
        return facts

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
        if isinstance(iss, str):
            self._log_slash(iss)
        if self._without_issuer:
            return self._without_issuer
        if "iss" not in claims:
            raise MissingClaim(claim="iss")
        if not isinstance(iss, str):
            raise InvalidClaim(claim="iss")
        if len(self.providers) == 1:
            raise WrongIssuer(provider=self.providers[0].name)
        raise UnknownIssuer

    def _log_slash(self, iss: str) -> None:
        near = None if self._slash_logged else self._without_slash.get(iss.rstrip("/"))
        if near is not None:
            self._slash_logged = True
            logger.warning(
                "refused a token: its issuer %.200r and the configured %r differ by a trailing slash only; configure "
                "issuer= as the provider spells it (said once)",
                iss,
                near,
            )

    def _remember_header(self, parts: compact.Compact) -> None:
        if parts.header_segment not in self._headers:
            if len(self._headers) >= MAX_HEADERS:
                self._headers.clear()
            self._headers[parts.header_segment] = parts.header


def _progress(refusal: Refusal) -> int:
    if isinstance(refusal, UnknownKey | AlgorithmNotAllowed):
        return 0
    if isinstance(refusal, BadSignature):
        return 1
    # Where keys could not be had the token may be good; a claim at fault, after a good signature, is the last word.
    return 2 if isinstance(refusal, Unavailable) else 3


def _subject(claims: Mapping[str, Any]) -> str | None:
    subject = claims.get("sub")
    return subject if isinstance(subject, str) else None


def _remote_keys(
    jwks: str | PathLike[str] | RemoteKeys | None, issuers: tuple[str, ...], allow_weak_keys: bool
) -> RemoteKeys | None:
    if isinstance(jwks, RemoteKeys):
        return jwks
    if jwks is not None:
        return RemoteKeys(jwks, allow_weak_keys=allow_weak_keys)
    if len(issuers) == 1 and is_address(issuers[0]):
        return RemoteKeys(issuer=issuers[0], allow_weak_keys=allow_weak_keys)
    return None


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
