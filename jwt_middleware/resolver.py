"""Which provider makes the tokens of an issuer that is not configured? A function of the app says it."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableSequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

import anyio

from ._support.arguments import check_callable, check_seconds, show
from ._support.background import Background, Signal
from ._support.hooks import Hook
from .errors import ConfigurationError, KeysUnavailable
from .events import UnexpectedError
from .keys.addresses import Hosts, check_hosts
from .keys.key_set import KeySet
from .keys.source import KeySource, StaticKeys
from .provider import Provider
from .telling import Events, escape

MAX_ISSUER = 2048
"""The most bytes of an issuer that a resolver is asked about."""

MAX_CALLS = 8
"""The most calls of a resolver that are under way at once."""

TIMEOUT = 5
"""The seconds that a call may take."""

LIFETIME = 3600
"""Seconds after which an answer expires."""

MAX_PROVIDERS = 16 * 1024
"""The most providers that are remembered."""

MAX_UNKNOWN = 4096
"""The most issuers without a provider that are remembered. They never displace a provider."""

MAX_ERRORS_SHOWN = 8
"""The most failing providers that ``health`` names."""

Resolve: TypeAlias = Callable[[str], Provider | Awaitable[Provider | None] | None]


class ProviderResolver:
    """Finds the provider of an issuer while the service runs. It stands in ``providers=[...]``, once.

    ``resolve``
        ``resolve(issuer)``, sync (then in a worker thread) or async: the ``Provider`` of that issuer, which must list
        it, or None if its tokens are not accepted. The issuer comes from an unverified token. The function is asked
        only for issuers of at most 2 KiB that are not configured. At most eight calls run at once, for five seconds
        each. If a call is one too many, takes longer or raises an exception, the answer is 503 and nothing is
        remembered. Answers expire after an hour.
    ``allow_hosts``
        Exact names of hosts in private networks that the providers it returns may fetch keys from, beside the hosts
        that configured providers name. All others must be on the public internet.
    ``clock``
        Monotonic seconds. Default ``time.monotonic``.

    Raises ``ConfigurationError``.
    """

    def __init__(
        self, resolve: Resolve, *, allow_hosts: Collection[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        check_callable("resolve", resolve, "issuer")
        check_callable("clock", clock)
        check_seconds("clock()", clock())
        self.resolve = Hook(resolve, threads=MAX_CALLS)
        self.hosts = check_hosts("allow_hosts", allow_hosts)
        self.clock = clock


@dataclass(frozen=True, slots=True)
class Resolved:
    """An answer of a resolver."""

    index: int | None
    """The index of the provider. None if there is none."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class ResolvedHealth:
    """The state of the keys of resolved providers, however many there are."""

    providers: int
    """How many providers are remembered."""
    failing: int
    """How many of them could not fetch their keys the last time. Some may still have older ones."""
    errors: Mapping[str, str]
    """Why: the errors of eight of them at most, by their issuers."""


class ResolvedProviders:
    """The answers of a resolver, for one ``Verifier``.

    ``providers`` and ``keys`` are the verifier's; resolved providers are put behind its own. Their places are reused
    when their answers have expired: key sets are told apart by their serials, so no token is taken for another
    provider's.
    """

    def __init__(
        self,
        resolver: ProviderResolver,
        providers: MutableSequence[Provider],
        keys: MutableSequence[KeySource],
        check: Callable[[Provider], None],
        events: Events,
    ) -> None:
        self._resolver = resolver
        self._providers = providers
        self._keys = keys
        self._check = check
        self._events = events
        self._own = frozenset(provider.name for provider in providers)
        self._own_remote = frozenset(id(provider.remote) for provider in providers if provider.remote is not None)
        named = (provider.remote.host for provider in providers if provider.remote is not None)
        self._hosts = Hosts(named=resolver.hosts | frozenset(filter(None, named)))
        self._background = Background("resolving issuers")
        self._lock = Lock()
        self._found: dict[str, Resolved] = {}
        self._indices: dict[str, int] = {}
        self._unknown: dict[str, Resolved] = {}
        self._calls: dict[str, _Call] = {}
        self._free: list[int] = []

    def recall(self, issuer: str) -> Resolved | None:
        """The answer about ``issuer`` that is known. None if the resolver must be asked."""
        if len(issuer) > MAX_ISSUER or len(issuer.encode("utf-8")) > MAX_ISSUER:
            return _TOO_LONG
        resolved = self._found.get(issuer) or self._unknown.get(issuer)
        return resolved if resolved is not None and self._resolver.clock() < resolved.expires_at else None

    async def resolve(self, issuer: str) -> Resolved:
        """The answer of the resolver about ``issuer``. Raises ``KeysUnavailable`` if there is none in time."""
        with self._lock:
            call = self._calls.get(issuer)
            if call is None:
                if len(self._calls) >= MAX_CALLS:
                    raise KeysUnavailable(retry_after=1)
                call = self._calls[issuer] = _Call()
                begins = True
            else:
                begins = False
        if begins:
            started = call

            async def work() -> None:
                started.resolved = await self._ask(issuer)

            def end() -> None:
                with self._lock:
                    self._calls.pop(issuer, None)
                started.over.set()

            # Owned by no request: others wait for it, too.
            self._background.start(work, ended=end, at_most=TIMEOUT)
        with anyio.move_on_after(TIMEOUT):
            await call.over.wait()
        if call.resolved is None:
            raise KeysUnavailable(retry_after=1)
        return call.resolved

    @property
    def health(self) -> ResolvedHealth:
        """The state of the keys. Asking for it fetches nothing."""
        now = self._resolver.clock()
        with self._lock:
            found = [
                (issuer, self._providers[resolved.index])
                for issuer, resolved in self._found.items()
                if resolved.index is not None and now < resolved.expires_at
            ]
        failing = [
            (issuer, provider.remote.error)
            for issuer, provider in found
            if provider.remote is not None and provider.remote.error is not None
        ]
        return ResolvedHealth(len(found), len(failing), dict(failing[:MAX_ERRORS_SHOWN]))

    async def stop(self) -> None:
        """End the calls on this event loop, and every fetch of a resolved provider."""
        await self._background.stop()
        for provider in self._providers[len(self._own) :]:
            if provider.remote is not None:
                await provider.remote.stop()

    async def _ask(self, issuer: str) -> Resolved | None:
        try:
            provider = await self._resolver.resolve(issuer)
            if provider is not None:
                self._admit(provider, issuer)
        except Exception as error:  # noqa: BLE001  # whatever the app's function raises, nothing is known
            self._events.tell(UnexpectedError(where="resolve", error=type(error).__name__), exc_info=error)
            return None
        with self._lock:
            return self._forget(issuer) if provider is None else self._remember(issuer, provider)

    def _admit(self, provider: object, issuer: str) -> None:
        if not isinstance(provider, Provider):
            raise ConfigurationError(f"resolve must return a Provider or None, not {show(provider)}")
        if issuer not in provider.issuers or provider.template is not None:
            raise ConfigurationError(
                f"resolve returned the provider {provider.name!r} for the issuer {escape(issuer)!r}, which it does not "
                "list; give it issuer="
            )
        if provider.load_balancer is not None:
            raise ConfigurationError(
                "resolve returned a provider with LoadBalancerKeys; a load balancer is recognised by its signer, so "
                "configure it"
            )
        if provider.name in self._own:
            raise ConfigurationError(
                f"resolve returned a provider of the name {provider.name!r}, which a configured one has; give it "
                "another name="
            )
        if provider.remote is not None:
            if id(provider.remote) not in self._own_remote:
                provider.remote.confine(self._hosts)
            # Its fetches are reported like those of configured providers.
            if self._events.handlers:
                provider.remote.events.add_handlers(self._events.handlers)
        self._check(provider)

    def _remember(self, issuer: str, provider: Provider) -> Resolved:
        self._unknown.pop(issuer, None)
        self._found.pop(issuer, None)
        expires_at = self._resolver.clock() + LIFETIME
        index = self._indices.get(issuer)
        if index is None:
            if len(self._found) >= MAX_PROVIDERS:
                self._free_place(next(iter(self._found)))
            index = self._indices[issuer] = self._free.pop() if self._free else self._add_place(provider)
        self._providers[index] = provider
        self._keys[index] = _ExpiringKeys(provider.keys, expires_at, self._resolver.clock)
        resolved = self._found[issuer] = Resolved(index, expires_at)
        return resolved

    def _forget(self, issuer: str) -> Resolved:
        if issuer in self._found:
            self._free_place(issuer)
        if len(self._unknown) >= MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        resolved = self._unknown[issuer] = Resolved(None, self._resolver.clock() + LIFETIME)
        return resolved

    def _add_place(self, provider: Provider) -> int:
        self._providers.append(provider)
        self._keys.append(provider.keys)
        return len(self._keys) - 1

    def _free_place(self, issuer: str) -> None:
        del self._found[issuer]
        index = self._indices.pop(issuer)
        self._keys[index] = StaticKeys(())
        self._free.append(index)


class _ExpiringKeys:
    """The keys of a resolved provider, until the answer expires."""

    def __init__(self, keys: KeySource, expires_at: float, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._expires_at = expires_at
        self._clock = clock

    @property
    def current(self) -> KeySet:
        return self._keys.current if self._clock() < self._expires_at else _NONE

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        await self._keys.refreshed(kid, algorithm)
        return self.current


class _Call:
    """A call of the resolver that is under way."""

    def __init__(self) -> None:
        self.over = Signal()
        self.resolved: Resolved | None = None


_NONE = KeySet(())
_TOO_LONG = Resolved(None, 0)
