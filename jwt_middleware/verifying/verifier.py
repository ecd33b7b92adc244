"""Is this token good now? The decision over all providers, and the memory of what was decided."""

import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import anyio

from .._support.arguments import check_callable, check_count, check_seconds
from .._support.background import Background
from ..errors import (
    AlgorithmNotAllowed,
    BadSignature,
    ConfigurationError,
    InvalidClaim,
    MalformedToken,
    MissingClaim,
    NotYetValid,
    Refusal,
    RevocationsUnavailable,
    Revoked,
    TokenTooLarge,
    Unavailable,
    UnknownIssuer,
    UnknownKey,
    WrongIssuer,
)
from ..keys.key_set import KeySet
from ..keys.remote import KeysHealth
from ..provider import Provider, StaticKeys
from ..reading.sources import BEARER, WHITE_SPACE, bearer_token
from ..revocation.revoked import MARGIN, Revocations
from . import compact
from .claims import Facts, Token
from .memory import TokenCache

logger = logging.getLogger("jwt_middleware")

CACHE_SIZE = 16 * 1024
"""Tokens that are remembered, unless told otherwise."""

MAX_HEADERS = 256
"""Headers that are remembered. Few exist: one for each key of each signer, where signers are sensible."""

MAX_HEADER_SIZE = 1024
"""Bytes of a header segment that is remembered."""

MAX_TOKEN_SIZE = 16 * 1024
"""Bytes of a token that are looked at, unless told otherwise."""

Clock: TypeAlias = Callable[[], float]
"""Gives Unix time."""


END = 32
"""Bytes at the end of a token by which it is found in memory, before it is compared whole: 192 bits of the signature.

To hash all of it would be a good part of what a request costs, and with a large token nearly everything.
"""

# A token taken apart, in the order of ``compact.Compact``.
_Parts: TypeAlias = tuple[bytes, compact.Header, bytes, bytes, bytes]
_HEADER: Final = 1
_PAYLOAD: Final = 2

# What is remembered of a token: the header line that presents it; from when on it is good, and before when; its
# provider's place, the serial of the key set that verified it, and its facts. All plain values in plain tuples, which
# the garbage collector leaves alone.
_Remembered: TypeAlias = tuple[bytes, float, float, int, int, tuple[Any, ...]]


class Verifier:
    """Verifies tokens of one or several providers, without ASGI. The decisions, in their order:

    1. Size: more than ``max_token_size`` bytes are ``token_too_large``, before anything is parsed.
    2. Form: three segments of canonical base64url, JSON objects: ``malformed_token``, ``encrypted_token``.
    3. Provider: the one that has the token's ``iss``; those without an issuer are tried in their order for tokens
       whose ``iss`` no other has: ``unknown_issuer`` (``wrong_issuer`` where there is only one to choose from).
    4. Key: by ``kid``, then by what the key is for: ``unknown_key``, ``algorithm_not_allowed``.
    5. Signature: ``bad_signature``.
    6. Claims: see ``ClaimRules.read``.
    7. Revocation: ``revoked``, or ``revocations_unavailable`` where that cannot be told.
    8. The provider's ``validate``.

    What was found good is remembered, for ``cache_size`` tokens (0: none). Seen again, a token is checked for what may
    have changed: the time, whether its provider still has the key set that verified it, and whether it was revoked; and
    ``validate`` runs.

    ``providers`` is a ``Provider`` or several; ``revocations`` are ``Sessions``, a ``RevocationView`` or your own;
    ``clock`` gives Unix time. Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        providers: Provider | Iterable[Provider],
        *,
        max_token_size: int = MAX_TOKEN_SIZE,
        cache_size: int = CACHE_SIZE,
        revocations: Revocations | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.providers: tuple[Provider, ...] = tuple(providers) if isinstance(providers, Iterable) else (providers,)
        self.max_token_size = check_count("max_token_size", max_token_size, minimum=1)
        # Providers by their places.
        self._by_issuer = _by_issuer(self.providers)
        self._without_issuer = tuple(place for place, provider in enumerate(self.providers) if not provider.issuers)
        self._validators = {provider.name: provider.validators for provider in self.providers if provider.validators}
        remote = (provider.remote for provider in self.providers)
        self.remote = tuple(dict.fromkeys(keys for keys in remote if keys is not None))
        self.revocations = None if revocations is None else _revocations(revocations, self.providers)
        self._background = Background("keeping keys fresh")
        self._without_slash = {issuer.rstrip("/"): issuer for issuer in self._by_issuer}
        self._slash_logged = False
        check_callable("clock", clock)
        check_seconds("clock()", clock())
        self._clock = clock
        self._verified: TokenCache[_Remembered] = TokenCache(check_count("cache_size", cache_size))
        # Looked up once instead of with each request.
        self._found = self._verified.get
        self._keys = tuple(provider.keys for provider in self.providers)
        self._has_more_to_ask = bool(self._validators) or self.revocations is not None
        # Of tokens with good signatures only.
        self._headers: dict[bytes, compact.Header] = {}

    async def verify(self, raw: str | bytes) -> Token:
        """The token that ``raw`` spells, if it is good now; raises a ``Refusal`` that says why not.

        Any ``raw`` ends in one or the other; only what ``validate`` itself raises gets through.
        """
        if isinstance(raw, str):
            if len(raw) > self.max_token_size:
                raise TokenTooLarge
            try:
                raw = raw.encode("ascii")
            except UnicodeEncodeError:
                raise MalformedToken from None
        elif not isinstance(raw, bytes):
            raise TypeError(f"a token is str or bytes, not {type(raw).__name__}")
        outcome = self.judge(raw)
        return outcome if isinstance(outcome, Token) else await outcome

    def judge(self, raw: bytes) -> Token | Coroutine[Any, Any, Token]:
        """As ``verify``, without a coroutine where nothing has to be waited for, which is nearly always.

        Otherwise it gives what is to be awaited, for keys, for revocations or for ``validate``.
        """
        if len(raw) > self.max_token_size:
            raise TokenTooLarge
        line = BEARER + raw
        token = self._recalled(line)
        return self._judged(line, raw) if token is None else self._answered(token)

    def judge_header(self, authorization: bytes) -> Token | Coroutine[Any, Any, Token] | None:
        """As ``judge``, of the token in the value of an Authorization header; None where that is no Bearer token.

        Raises what ``bearer_token`` does, too.
        """
        # The line as it came, which is nearly always spelled in the usual way: nothing is taken apart or copied.
        token = self._recalled(authorization)
        if token is not None:
            return self._answered(token) if self._has_more_to_ask else token
        if authorization.startswith(BEARER) and len(authorization) <= len(BEARER) + self.max_token_size:
            raw = authorization[len(BEARER) :]
            if raw and not raw.startswith(b" ") and raw[-1] not in WHITE_SPACE:
                return self._judged(authorization, raw)
        other = bearer_token(authorization, self.max_token_size)
        return None if other is None else self.judge(other)

    def good_until(self, token: Token) -> float:
        """The Unix time from which on ``token``, verified here, will be refused for its age."""
        rules = next(provider.rules for provider in self.providers if provider.name == token.provider)
        return rules.good_until(token.expires_at, token.claims.get("iat") if rules.max_token_age is not None else None)

    def login_age(self, token: Token) -> float | None:
        """Seconds since the login behind ``token``, verified here; see ``ClaimRules.login_age``."""
        rules = next(provider.rules for provider in self.providers if provider.name == token.provider)
        return rules.login_age(token.claims, self._clock())

    async def start(self) -> None:
        """Fetch remote keys and revocations before they are needed; keep them fresh on this event loop until ``stop``.

        It takes as long as one attempt at most, and raises nothing where they cannot be had. Without it they are
        fetched when requests need them.
        """
        for keys in self.remote:
            self._background.start(keys.keep)
        async with anyio.create_task_group() as together:
            for keys in self.remote:
                together.start_soon(keys.prefetch)
            if self.revocations is not None:
                together.start_soon(_prefetch, self.revocations)

    async def stop(self) -> None:
        """End what ``start`` began, and what is being fetched."""
        await self._background.stop()
        for keys in self.remote:
            await keys.stop()
        if self.revocations is not None:
            await self.revocations.stop()

    def health(self) -> dict[str, KeysHealth]:
        """How the keys of each provider are, by its name."""
        return {provider.name: provider.health for provider in self.providers}

    def _recalled(self, line: bytes) -> Token | None:
        """The token that ``line``, a Bearer header in its usual spelling, presents: if it is in memory and still good.

        Whether it is revoked, and what ``validate`` says, is not asked.
        """
        verified = self._found(line[-END:])
        if verified is None:
            return None
        known, good_from, good_until, place, serial, facts = verified
        # A token is as good as the keys that verified it: gone or replaced, they take it with them.
        if known == line and good_from <= self._clock() < good_until and serial == self._keys[place].current.serial:
            return Token(facts)
        return None

    def _answered(self, token: Token) -> Token | Coroutine[Any, Any, Token]:
        """The ``token``, once it is settled that it is not revoked and that ``validate`` takes it."""
        if self.revocations is not None:
            revoked = self.revocations.is_revoked(token)
            if revoked is None:
                return self._answered_in_time(token, self.revocations)
            if revoked is not False:
                raise Revoked().about(token)
        return self._validated(token) if self._validators else token

    async def _answered_in_time(self, token: Token, revocations: Revocations) -> Token:
        try:
            await revocations.catch_up()
        except Refusal as refusal:
            refusal.about(token)
            raise
        revoked = revocations.is_revoked(token)
        if revoked is not False:
            raise (RevocationsUnavailable() if revoked is None else Revoked()).about(token)
        return await self._validated(token)

    async def _validated(self, token: Token) -> Token:
        try:
            for validate in self._validators.get(token.provider, ()):
                result = validate(token)
                if isawaitable(result):
                    result = await result
                if result is False:
                    raise InvalidClaim
                if result is not True:
                    # Many things are true that mean no: an error text, (False, "reason"), an async generator.
                    raise TypeError(f"validate must return True or False, not {type(result).__name__}")
        except Refusal as refusal:
            refusal.about(token)
            raise
        return token

    def _judged(self, line: bytes, raw: bytes) -> Token | Coroutine[Any, Any, Token]:
        parts = compact.decode_plainly(raw, self._headers)
        claims = compact.json_object(parts[_PAYLOAD])
        # Emptied in the end: each holds its traceback, that holds this frame, and a circle is the collector's to find.
        refusals: list[Refusal] = []
        doubtful: list[tuple[int, KeySet]] = []
        for place in self._candidates(claims):
            keys = self._keys[place].current
            try:
                facts = self._judged_by(place, keys, line, parts, claims, refusals)
            except Refusal as refusal:
                refusals.append(self._described(refusal, place, parts[_HEADER], claims))
                # Keys of the configuration are never other ones.
                if isinstance(refusal, _DOUBTFUL) and not isinstance(self._keys[place], StaticKeys):
                    doubtful.append((place, keys))
            else:
                refusals.clear()
                return self._answered(Token(facts))
        if doubtful:
            # Only now, since it can take a while: a token that one provider's keys verify waits for no other's.
            return self._judged_again(doubtful, line, parts, claims, refusals)
        raise _last_word(refusals)

    async def _judged_again(
        self,
        doubtful: Sequence[tuple[int, KeySet]],
        line: bytes,
        parts: _Parts,
        claims: dict[str, Any],
        refusals: list[Refusal],
    ) -> Token:
        for place, refreshed in await self._refreshed(doubtful, parts[_HEADER]):
            if isinstance(refreshed, Refusal):
                refusals.append(self._described(refreshed, place, parts[_HEADER], claims))
                continue
            try:
                facts = self._judged_by(place, refreshed, line, parts, claims, refusals)
            except Refusal as refusal:
                refusals.append(self._described(refusal, place, parts[_HEADER], claims))
            else:
                refusals.clear()
                answer = self._answered(Token(facts))
                return answer if isinstance(answer, Token) else await answer
        raise _last_word(refusals)

    async def _refreshed(
        self, doubtful: Sequence[tuple[int, KeySet]], header: compact.Header
    ) -> list[tuple[int, KeySet | Refusal]]:
        """For each provider whose keys are other ones now, its place and these keys, or why they cannot be had."""
        found: dict[int, KeySet | Refusal] = {}

        async def ask(place: int, before: KeySet) -> None:
            try:
                keys = await self._keys[place].refreshed(header.kid, header.algorithm)
            except Refusal as refusal:
                # Without what holds this frame, which holds what was found: a circle for the garbage collector.
                found[place] = refusal.with_traceback(None)
            else:
                if keys is not before:
                    found[place] = keys

        if len(doubtful) == 1:
            await ask(*doubtful[0])
        else:
            # Together, so that their waits do not add up.
            async with anyio.create_task_group() as together:
                for place, keys in doubtful:
                    together.start_soon(ask, place, keys)
        return sorted(found.items())

    def _candidates(self, claims: Mapping[str, Any]) -> tuple[int, ...]:
        if not self._by_issuer:
            return self._without_issuer
        iss = claims.get("iss")
        if isinstance(iss, str):
            if iss in self._by_issuer:
                return (self._by_issuer[iss],)
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

    def _judged_by(
        self,
        place: int,
        keys: KeySet,
        line: bytes,
        parts: _Parts,
        claims: dict[str, Any],
        refusals: Iterable[Refusal],
    ) -> tuple[Any, ...]:
        segment, header, payload, signing_input, signature = parts
        for key in keys.find(header.kid, header.algorithm):
            if key.verifies(header.algorithm, signing_input, signature):
                break
        else:
            raise BadSignature
        facts, good_from, good_until = self.providers[place].rules.read_plainly(header, payload, claims, self._clock())
        # Where another provider refused for a reason that may pass, the next request asks it again.
        if not (refusals and any(isinstance(refusal, NotYetValid | Unavailable) for refusal in refusals)):
            # Floats, since the clock gives one: numbers of one type compare at half the price.
            self._remember((line, float(good_from), float(good_until), place, keys.serial, facts), payload, header)
            if segment not in self._headers and len(segment) <= MAX_HEADER_SIZE:
                if len(self._headers) >= MAX_HEADERS:
                    self._headers.clear()
                self._headers[segment] = header
        return facts

    def _described(self, refusal: Refusal, place: int, header: compact.Header, claims: dict[str, Any]) -> Refusal:
        provider = self.providers[place]
        refusal.provider, refusal.kid = provider.name, header.kid
        if not isinstance(refusal, _UNVERIFIED):
            # The signature was good: the claims may be spoken of.
            refusal.subject = provider.rules.subject(claims)
        return refusal

    def _remember(self, remembered: _Remembered, payload: bytes, header: compact.Header) -> None:
        line, scopes = remembered[0], remembered[-1][_SCOPES]
        end = line[-END:]
        other = self._found(end)
        # Two good tokens with one signature: only a signer who means to can make them. The first one stays.
        if other is not None and other[0] != line:
            return
        # Bytes of memory, or a little less, that it takes. The names in it stand beside the payload as strings, which
        # one wide character makes four times as wide.
        narrow = payload.isascii() and header.json.isascii() and _BACKSLASH not in payload
        weight = 1024 + len(line) + (2 if narrow else 5) * (len(payload) + len(header.json))
        if not isinstance(scopes, str):
            weight += 64 * len(scopes)
        self._verified.put(end, remembered, weight)


async def _prefetch(revocations: Revocations) -> None:
    # Requests will say what is wrong.
    with suppress(RevocationsUnavailable):
        await revocations.catch_up()


# As a number: `in` first takes what is looked for in bytes for one, and where it is none an exception comes and goes.
_BACKSLASH = ord("\\")

_DOUBTFUL = (UnknownKey, AlgorithmNotAllowed, BadSignature)
"""Refusals by keys: others may be had by now."""

_UNVERIFIED = (*_DOUBTFUL, Unavailable)
"""Refusals of tokens whose claims may be anybody's."""

_SCOPES = Facts._fields.index("scopes")


def _last_word(refusals: list[Refusal]) -> Refusal:
    """Of several providers' refusals that of the one that got furthest: its keys may have been the right ones."""
    refusal = max(refusals, key=_progress) if len(refusals) > 1 else refusals[0]
    refusals.clear()
    return refusal


def _progress(refusal: Refusal) -> int:
    if isinstance(refusal, UnknownKey | AlgorithmNotAllowed):
        return 0
    if isinstance(refusal, BadSignature):
        return 1
    # Where keys could not be had the token may be good; a claim at fault, after a good signature, is the last word.
    return 2 if isinstance(refusal, Unavailable) else 3


def _revocations(revocations: Revocations, providers: Sequence[Provider]) -> Revocations:
    for name in ("is_revoked", "catch_up", "stop"):
        if not callable(getattr(revocations, name, None)):
            raise ConfigurationError(
                f"revocations must have a method {name}(); a {type(revocations).__name__} has none"
            )
    names = [provider.name for provider in providers]
    # Sessions say whose tokens they end. Under another name nothing would be refused.
    ended = getattr(revocations, "provider", None)
    if isinstance(ended, str) and ended not in names:
        raise ConfigurationError(
            f"revocations: they are for the provider {ended!r}, and there are {', '.join(map(repr, names))}; give both "
            "one name, with TokenIssuer(name=...)"
        )
    for provider in providers:
        if provider.rules.leeway > MARGIN:
            # Revocations are forgotten that long after what they end.
            raise ConfigurationError(
                f"leeway: beside revocations= it must be {MARGIN} or less, not {provider.rules.leeway!r}"
            )
    return revocations


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
