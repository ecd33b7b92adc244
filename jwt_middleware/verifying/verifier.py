"""Is this token good now? Recall or decide, then admit: this is the only part of verifying that reads and waits."""

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel

from .._support.arguments import check_callable, check_count, check_seconds
from .._support.background import Background
from ..errors import (
    InvalidClaim,
    KeysUnavailable,
    MalformedToken,
    Refusal,
    RevocationsUnavailable,
    Revoked,
    TokenTooLarge,
)
from ..events import Advice
from ..keys.key_set import KeySet
from ..keys.source import KeysHealth, StaticKeys
from ..provider import Provider
from ..resolver import ProviderResolver, ResolvedHealth, ResolvedProviders
from ..revocation.revoked import Revocations
from ..telling import Events
from .choosing import Candidate, Candidates
from .compact import Compact, Header, decode, decode_padded, json_object
from .configuration import check_leeway, check_revocations, find_doubts, split_providers
from .decision import decide, depends_on_keys, describe, is_temporary, last_word
from .memory import END, TokenMemory
from .misspelling import encode_ascii, find_misspelling
from .token import Token

CACHE_SIZE = 16 * 1024
"""The number of tokens that are remembered by default."""

MAX_TOKEN_SIZE = 16 * 1024
"""The bytes that a token may have by default."""

MAX_CHECKS: Final = 16
"""The number of keys that are tried for one token, however many providers there are, and again after a fetch.

Each provider tries ``MAX_TRIES`` keys at most. A check can take over a millisecond, and any client can cause one.
"""

Clock: TypeAlias = Callable[[], float]
"""Returns Unix time."""

_FROM_THE_END: Final = -END

_NOTHING: Final[frozenset[str]] = frozenset()

_STARTS_AT_ONCE: Final = 50
"""The number of remote keys that ``start`` begins to fetch before other work gets its turn."""


class Verifier:
    """Verifies tokens of one or several providers, without ASGI. These are the decisions, in their order:

    1. Size: more than ``max_token_size`` bytes are ``token_too_large``, before anything is parsed.
    2. Form: three segments of canonical base64url, JSON objects: ``malformed_token``, ``encrypted_token``.
    3. Provider: the one that has the token's ``iss``. Providers without an issuer are tried in their order for tokens
       whose ``iss`` no other provider has: ``unknown_issuer`` (``wrong_issuer`` if there is only one to choose from).
    4. Key: by ``kid``, then by what the key is for: ``unknown_key``, ``algorithm_not_allowed``. Eight keys are tried
       per provider, and 16 in all.
    5. Signature: ``bad_signature``.
    6. Claims: see ``ClaimRules.check``.
    7. Revocation: ``revoked``, or ``revocations_unavailable`` if that is unknown.
    8. The provider's ``validate``.

    If keys that are fetched do not accept a token, newer ones are asked for, and decisions 4 to 6 are made again.

    Good tokens are remembered, ``cache_size`` of them (0: none). A remembered token is checked for what may have
    changed: the time, whether its provider still has the key set that verified it, and whether it was revoked. Then
    ``validate`` runs.

    ``providers``
        A ``Provider`` or several.
    ``revocations``
        ``Sessions``, a ``RevocationView`` or your own ``Revocations``.
    ``events``
        Where an operator is told what is wrong. Default: the log.
    ``clock``
        Returns Unix time.

    Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        providers: Provider | ProviderResolver | Iterable[Provider | ProviderResolver],
        *,
        max_token_size: int = MAX_TOKEN_SIZE,
        cache_size: int = CACHE_SIZE,
        revocations: Revocations | None = None,
        events: Events | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.providers, self.resolver = split_providers(providers)
        resolver = self.resolver
        # Resolved providers, and their keys, are put behind the configured ones.
        self._providers = list(self.providers)
        self._keys = [provider.keys for provider in self.providers]
        self.max_token_size = check_count("max_token_size", max_token_size, minimum=1)
        self._events = Events() if events is None else events
        self._rules = {provider.name: provider.rules for provider in self.providers}
        self._validators = {provider.name: provider.validators for provider in self.providers if provider.validators}
        remote = (provider.remote for provider in self.providers)
        self.remote = tuple(dict.fromkeys(keys for keys in remote if keys is not None))
        self.revocations = None if revocations is None else check_revocations(revocations, self.providers)
        self._background = Background("keeping keys fresh")
        check_callable("clock", clock)
        check_seconds("clock()", clock())
        self._clock = clock
        self._memory = TokenMemory(check_count("cache_size", cache_size))
        # Looked up once instead of with each request.
        self._find, self._known_headers = self._memory.find, self._memory.headers
        self._remember = self._memory.remember
        self._resolved: ResolvedProviders | None = None
        if resolver is not None:
            check = self._check_resolved
            self._resolved = ResolvedProviders(resolver, self._providers, self._keys, check, self._events)
        self._candidates = Candidates(self.providers, self._providers, self._keys, self._resolved, self._events)
        self._decode = decode_padded if self._candidates.may_be_padded else decode
        self._choose = self._candidates.choose
        for once, text in find_doubts(self.providers, MAX_CHECKS):
            self._events.tell(Advice(text=text), once=once)
        for provider in self.providers:
            provider.rules.scopes.tell = self._tell_of_scopes
        self.sees_connection = resolver is not None or any(provider.sees_connection for provider in self.providers)
        """Whether a ``validate`` takes the connection."""
        self._must_validate = bool(self._validators) or resolver is not None
        self.must_admit = self._must_validate or self.revocations is not None
        """Whether ``admit`` checks anything. If not, a token that is recalled is good."""
        self.has_work = bool(self.remote) or self.revocations is not None or resolver is not None
        """Whether ``start`` and ``stop`` do anything."""

    async def verify(
        self,
        raw: str | bytes,
        *,
        key: bytes | None = None,
        connection: object | None = None,
        confirms: frozenset[str] = _NOTHING,
    ) -> Token:
        """Return the token that ``raw`` spells if it is good now. Raises a ``Refusal`` that says why it is not.

        Every str or bytes yields a ``Token`` or a ``Refusal``. The only other exceptions are those of ``validate``, and
        a ``TypeError`` if it returns no bool. ``key`` and ``confirms`` are as for ``judge``; ``connection`` is for
        ``validate``.
        """
        if isinstance(raw, str):
            if len(raw) > self.max_token_size:
                raise TokenTooLarge.measured(len(raw), self.max_token_size)
            raw = encode_ascii(raw)
        elif not isinstance(raw, bytes):
            raise TypeError(f"a token is str or bytes, not {type(raw).__name__}")
        outcome = self.judge(raw, raw if key is None else key, connection, confirms)
        return outcome if isinstance(outcome, Token) else await outcome

    def judge(
        self, raw: bytes, key: bytes, connection: object | None = None, confirms: frozenset[str] = _NOTHING
    ) -> Token | Coroutine[Any, Any, Token]:
        """Do what ``verify`` does, without a coroutine if nothing must be waited for, which is nearly always.

        Otherwise it returns a coroutine, which waits for keys, revocations or ``validate``. The token is remembered by
        ``key``, any bytes that end with the same bytes as ``raw``, so that a caller can look the token up before it
        parses its input. ``confirms`` are the methods of confirmation (``cnf``) that the caller itself checks for each
        request; a token that it accepts by them must not be looked up by a key without that check.
        """
        if len(raw) > self.max_token_size:
            raise TokenTooLarge.measured(len(raw), self.max_token_size)
        token = self.recall(key)
        return self.decide(raw, key, connection, confirms) if token is None else self.admit(token, connection)

    def recall(self, key: bytes) -> Token | None:
        """Return the remembered token of ``key`` if its time and its keys are still good.

        Neither revocation nor ``validate`` is checked here: see ``admit``.
        """
        remembered = self._find(key[_FROM_THE_END:])
        if remembered is None:
            return None
        known, good_from, good_until, index, serial, facts = remembered
        # A token is as good as the keys that verified it: if they are gone or replaced, so is the token.
        if known == key and good_from <= self._clock() < good_until and serial == self._keys[index].current.serial:
            return Token(facts)
        return None

    def decide(
        self, raw: bytes, key: bytes, connection: object | None = None, confirms: frozenset[str] = _NOTHING
    ) -> Token | Coroutine[Any, Any, Token]:
        """Do what ``judge`` does, for a token that is not remembered and not too large."""
        try:
            compact = self._decode(raw, self._known_headers)
            claims = json_object(compact.payload)
        except MalformedToken as refusal:
            refusal.found = find_misspelling(raw).found
            raise
        if self._resolved is not None and (issuer := self._candidates.find_unresolved(claims, compact)) is not None:
            return self._decide_resolved(self._resolved, issuer, key, compact, claims, confirms, connection)
        return self._decide(key, compact, claims, confirms, connection)

    async def _decide_resolved(
        self,
        resolved: ResolvedProviders,
        issuer: str,
        key: bytes,
        compact: Compact,
        claims: dict[str, Any],
        confirms: frozenset[str],
        connection: object | None,
    ) -> Token:
        await resolved.resolve(issuer)
        outcome = self._decide(key, compact, claims, confirms, connection)
        return outcome if isinstance(outcome, Token) else await outcome

    def _decide(
        self, key: bytes, compact: Compact, claims: dict[str, Any], confirms: frozenset[str], connection: object | None
    ) -> Token | Coroutine[Any, Any, Token]:
        candidates = self._choose(claims, compact)
        refusals: list[Refusal] = []
        token = self._try(candidates, key, compact, claims, confirms, refusals)
        if token is not None:
            return self.admit(token, connection) if self.must_admit else token
        doubtful = [
            candidate
            for candidate, refusal in zip(candidates, refusals, strict=True)
            # Keys of the configuration never change.
            if depends_on_keys(refusal) and not isinstance(self._keys[candidate[0]], StaticKeys)
        ]
        if doubtful:
            # Only now, because it can take a while: a token that one provider's keys verify waits for no other's.
            return self._decide_again(doubtful, key, compact, claims, confirms, refusals, connection)
        try:
            raise last_word(refusals)
        finally:
            # Each refusal holds its traceback, which holds this frame: a reference cycle.
            refusals.clear()

    async def _decide_again(
        self,
        doubtful: Sequence[Candidate],
        key: bytes,
        compact: Compact,
        claims: dict[str, Any],
        confirms: frozenset[str],
        refusals: list[Refusal],
        connection: object | None,
    ) -> Token:
        candidates = await self._refresh(doubtful, compact.header, claims, refusals)
        token = self._try(candidates, key, compact, claims, confirms, refusals)
        try:
            if token is None:
                raise last_word(refusals)
        finally:
            refusals.clear()
        outcome = self.admit(token, connection)
        return outcome if isinstance(outcome, Token) else await outcome

    def admit(self, token: Token, connection: object | None = None) -> Token | Coroutine[Any, Any, Token]:
        """Return ``token``, once it is settled that it is not revoked and that ``validate`` accepts it."""
        if self.revocations is not None:
            is_revoked = self.revocations.is_revoked(token)
            if is_revoked is None:
                return self._admit_later(token, self.revocations, connection)
            if is_revoked is not False:
                raise Revoked().about(token)
        return self._validate(token, connection) if self._must_validate else token

    async def _admit_later(self, token: Token, revocations: Revocations, connection: object | None) -> Token:
        try:
            await revocations.catch_up()
        except Refusal as refusal:
            refusal.about(token)
            raise
        is_revoked = revocations.is_revoked(token)
        if is_revoked is not False:
            raise (RevocationsUnavailable() if is_revoked is None else Revoked()).about(token)
        return await self._validate(token, connection)

    async def _validate(self, token: Token, connection: object | None) -> Token:
        try:
            for validate in self._find_validators(token):
                result = validate(token, connection)
                if isawaitable(result):
                    result = await result
                if result is False:
                    raise InvalidClaim(expected="validate returns True", found="False")
                if result is not True:
                    # Many truthy values mean no: an error text, (False, "reason"), an async generator.
                    raise TypeError(f"validate must return True or False, not {type(result).__name__}")
        except Refusal as refusal:
            refusal.about(token)
            raise
        return token

    def good_until(self, token: Token) -> float:
        """The Unix time from which ``token`` will be refused for its age."""
        return token.good_until

    def login_age(self, token: Token) -> float | None:
        """Seconds since the login behind ``token``, verified here; see ``ClaimRules.login_age``."""
        rules = self._rules.get(token.provider) or self._find_resolved(token).rules
        return rules.login_age(token.claims, self._clock())

    async def start(self) -> None:
        """Fetch remote keys and revocations before they are needed. Keep keys fresh on this event loop until ``stop``.

        It takes no longer than one attempt, and raises nothing if they are unavailable. Without ``start``, keys and
        revocations are fetched when requests need them.
        """
        async with anyio.create_task_group() as together:
            for number, keys in enumerate(self.remote, 1):
                self._background.start(keys.keep)
                together.start_soon(keys.prefetch)
                if number % _STARTS_AT_ONCE == 0:
                    await anyio.lowlevel.checkpoint()
            if self.revocations is not None:
                together.start_soon(_prefetch, self.revocations)

    async def stop(self) -> None:
        """End what ``start`` began, and every fetch that is under way."""
        await self._background.stop()
        for keys in self.remote:
            await keys.stop()
        if self._resolved is not None:
            await self._resolved.stop()
        if self.revocations is not None:
            await self.revocations.stop()

    def time_new_tokens(self, record: Callable[[float], object]) -> None:
        """From now on, call ``record(seconds)`` for each new good token that was verified without waiting.

        Until then, this costs requests nothing.
        """
        decide = self.decide

        def timed(
            raw: bytes, key: bytes, connection: object | None = None, confirms: frozenset[str] = _NOTHING
        ) -> Token | Coroutine[Any, Any, Token]:
            started = time.perf_counter()
            outcome = decide(raw, key, connection, confirms)
            if isinstance(outcome, Token):
                record(time.perf_counter() - started)
            return outcome

        self.decide = timed  # type: ignore[method-assign]  # a hook that costs nothing while it is unused

    @property
    def new_tokens(self) -> int:
        """The number of tokens verified since the start that were not remembered."""
        return self._memory.taken

    def health(self) -> dict[str, KeysHealth]:
        """The state of the keys of each configured provider, by its name."""
        return {provider.name: provider.health for provider in self.providers}

    def resolved_health(self) -> ResolvedHealth | None:
        """The state of the keys of all resolved providers. None if there is no resolver."""
        return None if self._resolved is None else self._resolved.health

    def _find_resolved(self, token: Token) -> Provider:
        resolved = None if self._resolved is None or token.issuer is None else self._resolved.recall(token.issuer)
        if resolved is None or resolved.index is None:
            # The resolver's answer has just expired.
            raise KeysUnavailable(retry_after=1)
        return self._providers[resolved.index]

    def _find_validators(self, token: Token) -> Sequence[Callable[[Token, object | None], Any]]:
        if self._resolved is None or token.provider in self._rules:
            return self._validators.get(token.provider, ())
        return self._find_resolved(token).validators

    def _check_resolved(self, provider: Provider) -> None:
        if self.revocations is not None:
            check_leeway(provider)
        provider.rules.scopes.tell = self._tell_of_scopes

    def _tell_of_scopes(self, text: str, error: BaseException | None) -> None:
        self._events.tell(Advice(text=text), once=text, exc_info=error)

    def _try(
        self,
        candidates: Iterable[Candidate],
        key: bytes,
        compact: Compact,
        claims: dict[str, Any],
        confirms: frozenset[str],
        refusals: list[Refusal],
    ) -> Token | None:
        """Return the token if one of ``candidates`` accepts it, and remember it; else add each one's refusal."""
        checks = MAX_CHECKS
        for index, keys in candidates:
            rules = self._providers[index].rules
            try:
                good_from, facts = decide(compact, claims, keys, rules, self._clock(), checks, confirms)
            except Refusal as refusal:
                checks -= refusal.tried
                refusals.append(describe(refusal, rules, compact.header, claims))
                continue
            if refusals:
                is_settled = not any(map(is_temporary, refusals))
                refusals.clear()
                if not is_settled:
                    # The next request must ask that other provider again.
                    return Token(facts)
            self._remember(key, good_from, facts, index, keys.serial, compact)
            return Token(facts)
        return None

    async def _refresh(
        self, doubtful: Sequence[Candidate], header: Header, claims: dict[str, Any], refusals: list[Refusal]
    ) -> list[Candidate]:
        """Return the providers whose keys are different now, with these keys; add a refusal for each that fails."""
        newer: dict[int, KeySet] = {}

        async def ask(index: int, before: KeySet) -> None:
            try:
                keys = await self._keys[index].refreshed(header.kid, header.algorithm)
            except Refusal as refusal:
                # Without its traceback, which holds this frame.
                described = describe(refusal, self._providers[index].rules, header, claims)
                refusals.append(described.with_traceback(None))
            else:
                if keys is not before:
                    newer[index] = keys

        if len(doubtful) == 1:
            await ask(*doubtful[0])
        else:
            # Together, so that their waits do not add up.
            async with anyio.create_task_group() as together:
                for index, keys in doubtful:
                    together.start_soon(ask, index, keys)
        return sorted(newer.items())


async def _prefetch(revocations: Revocations) -> None:
    # Requests will report what is wrong.
    with suppress(RevocationsUnavailable):
        await revocations.catch_up()
