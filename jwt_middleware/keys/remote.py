"""When are keys that others publish fetched, how long are they good, and what survives an outage? (I/O)"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, inf
from os import PathLike
from random import uniform
from threading import Lock

import anyio

from .._support.arguments import check_bool, check_callable, check_seconds
from .._support.background import Background, Signal
from ..errors import ConfigurationError, KeysUnavailable
from .fetching import (
    Address,
    Discovery,
    Document,
    Fetch,
    FetchError,
    File,
    Source,
    described,
    entries,
    in_thread,
    is_address,
    shown,
)
from .key_set import Key, KeySet, load_foreign_keys
from .signatures import ALGORITHMS

MAX_KEYS = 100
"""Entries of a JWK Set; one with more is taken for broken."""

logger = logging.getLogger("jwt_middleware")


@dataclass(frozen=True, slots=True)
class KeysHealth:
    """How a provider's keys are, for readiness probes."""

    keys: int
    """Keys that are good now. None at all: every token of this provider is answered with 503."""
    fetched_at: float | None = None
    """Unix time when the keys were last found to be current. None: never, or they are static."""
    age: float | None = None
    """Seconds since then."""
    error: str | None = None
    """Why the last attempt failed. None: it did not."""


class RemoteKeys:
    """Keys that look after themselves. One object may serve several providers, event loops and threads.

    ``jwks``
        Where the JWK Set (RFC 7517 section 5) lies: an https address (http on loopback only), or a file's path.
    ``issuer``
        Instead of ``jwks``: the https address of an issuer whose metadata names it (OpenID Connect Discovery 1.0
        section 4, RFC 8414 section 3; an issuer with a path is looked for in both their ways).
    ``fetch``
        ``await fetch(url)`` gives a response with ``status_code``, ``headers`` and ``content``, and follows no
        redirects: the ``get`` method of an ``AsyncClient`` of httpx or httpx2 with proxies, certificates and headers of
        your own will do. Default: httpx2 (extra ``remote``), which also makes use of ETags. It reads nothing of the
        environment: proxies and certificate authorities of your own are the fetcher's matter.
    ``cooldown``
        Seconds from the start of one attempt, good or not, to the next one. A key that is added is accepted within this
        time. Default 30; for a file 1.
    ``refresh_after``
        Seconds after which the keys are fetched again, some earlier by chance so that not all processes come at once.
        Default 600, or what the answer's Cache-Control says, but in ``refresh_limits``; for a file 5.
    ``refresh_limits``
        The least and the most that Cache-Control may say. Default 60 and 3600: within an hour a removed key is refused.
    ``keys_max_stale``
        Seconds since the last good fetch that the keys are good for while no fetch succeeds, more than twice the
        cooldown. Default a day.
    ``timeout``
        Seconds for one attempt in all, and for a request that waits for it. Default 5.
    ``allow_weak_keys``
        As in ``Provider``. Default False.
    ``clock``
        Monotonic seconds. Default ``time.monotonic``.

    The rules:

    1. One attempt at a time, owned by no request. A request with a known kid never waits for it; one with an unknown
       kid, or with none that verifies, does: ``KeysUnavailable`` where the attempt fails.
    2. Within the cooldown nothing is asked for: what was not found then stays unknown, and costs nothing to remember.
       With no keys at all the cooldown is a second at most.
    3. A failed attempt changes no keys until ``keys_max_stale``. A good one puts what it brings in the place of what
       was there: a key that is gone from the set verifies nothing from then on.
    4. At most 512 KiB and 100 keys; what is broken in a set is skipped, and logged once.

    Raises ``ConfigurationError`` where an argument cannot work, or a file holds no keys.
    """

    def __init__(
        self,
        jwks: str | PathLike[str] | None = None,
        *,
        issuer: str | None = None,
        fetch: Fetch | None = None,
        cooldown: float | None = None,
        refresh_after: float | None = None,
        refresh_limits: tuple[float, float] = (60, 3600),
        keys_max_stale: float = 24 * 3600,
        timeout: float = 5,
        allow_weak_keys: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = _source(jwks, issuer, fetch)
        is_file = isinstance(self._source, File)
        self._cooldown = check_seconds("cooldown", (1 if is_file else 30) if cooldown is None else cooldown)
        self._refresh_after = check_seconds(
            "refresh_after", (5 if is_file else 600) if refresh_after is None else refresh_after
        )
        self._limits = _limits(refresh_limits)
        self._max_stale = check_seconds("keys_max_stale", keys_max_stale)
        self._timeout = check_seconds("timeout", timeout)
        if timeout == 0:
            raise ConfigurationError("timeout must be more than 0 seconds")
        if keys_max_stale <= 2 * self._cooldown:
            raise ConfigurationError(
                f"keys_max_stale must be more than twice the cooldown ({self._cooldown:g} s): else good keys could run "
                "out between two attempts"
            )
        check_bool("allow_weak_keys", allow_weak_keys)
        self._allow_weak_keys = allow_weak_keys
        check_callable("clock", clock)
        check_seconds("clock()", clock())
        self._clock = clock
        self._background = Background(f"keys of {self._source}")
        self._processes: dict[int, _Process] = {}
        # What follows is the process's, read without a lock and written under its lock.
        self._keys = self._last = _NONE
        self._validator: tuple[object, ...] | None = None
        self._fetched = -inf
        self._fetched_at: float | None = None
        self._error: str | None = None
        self._broken: frozenset[str] = frozenset()
        self._refresh_at = self._due = -inf
        if isinstance(self._source, File):
            try:
                self._take(self._read(self._source.read()), None)
            except FetchError as error:
                raise ConfigurationError(f"jwks: {self._source}: {error}") from None

    def __repr__(self) -> str:
        return f"RemoteKeys({str(self._source)!r})"

    @property
    def current(self) -> KeySet:
        """The keys that are good now; none before the first fetch, and after ``keys_max_stale``.

        It is had without waiting, on an event loop, and begins a refresh when one is due.
        """
        if self._clock() >= self._due:
            self._look_after()
        return self._keys

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """The keys to look in once more, after ``current`` verified nothing for this ``kid`` and ``algorithm``.

        Raises ``KeysUnavailable`` where nobody can tell whether such a key exists.
        """
        if algorithm not in ALGORITHMS:
            return self._keys
        if kid is not None and self._keys.knows(kid):
            # Perhaps the provider uses an old kid for a new key: the next request will know.
            self._begin()
            return self._keys
        if not await self._attempted():
            raise KeysUnavailable(retry_after=max(1, ceil(self._process.attempt_at - self._clock())))
        return self._keys

    async def keep(self) -> None:
        """Refresh the keys whenever it is due, until cancelled."""
        while True:
            self._look_after()
            flight = self._process.flight
            if flight is not None:
                with anyio.move_on_after(flight.lost_at - self._clock()):
                    await flight.over.wait()
            await anyio.sleep(max(self._due - self._clock(), _SHORTEST_SLEEP))

    async def prefetch(self) -> None:
        """Return when there are keys, or the first attempt to have them has failed."""
        if not self.current.keys:
            await self._attempted()

    async def stop(self) -> None:
        """Give up what is being fetched on this event loop; whoever waits for it begins again."""
        await self._background.stop()

    @property
    def health(self) -> KeysHealth:
        """How the keys are; asking begins nothing."""
        age = self._clock() - self._fetched
        return KeysHealth(
            keys=len(self._keys.keys) if age < self._max_stale else 0,
            fetched_at=self._fetched_at,
            age=None if self._fetched_at is None else age,
            error=self._error,
        )

    @property
    def _process(self) -> "_Process":
        # Of a parent only its keys are good here: a fork may find its lock held, and its attempt never ends.
        pid = os.getpid()
        return self._processes.get(pid) or self._processes.setdefault(pid, _Process())

    def _look_after(self) -> None:
        now, process = self._clock(), self._process
        with process.lock:
            stale = self._keys.keys and now >= self._fetched + self._max_stale
            if stale:
                self._keys = _NONE
                process.attempt_at = min(process.attempt_at, now + _COOLDOWN_WITHOUT_KEYS)
                self._schedule(process, process.attempt_at)
        if stale:
            logger.error(
                "keys of %s: not fetched for %d s, no longer used; last error: %s",
                self._source,
                self._max_stale,
                self._error,
            )
        if now >= self._refresh_at or stale:
            self._begin()

    def _schedule(self, process: "_Process", refresh_at: float) -> None:
        self._refresh_at = max(refresh_at, process.attempt_at)
        self._due = min(self._refresh_at, self._fetched + self._max_stale) if self._keys.keys else self._refresh_at

    async def _attempted(self) -> bool:
        """Whether the attempt under way, or a new one, or the one that the cooldown comes from, was a good one."""
        with anyio.move_on_after(self._timeout):
            flight: _Flight | None = None
            for _ in range(_LANDINGS):
                # One that was cut short, since its event loop ended or was told to stop, is gone on with here.
                flight = self._begin(after=flight)
                if flight is not None:
                    await flight.over.wait()
                if flight is None or flight.landed:
                    return bool(self._keys.keys) and self._error is None
        return False

    def _begin(self, *, after: "_Flight | None" = None) -> "_Flight | None":
        """The attempt under way, else a new one, else, within the cooldown, None.

        ``after`` is one that was cut short: where it was the last, the new one is the same attempt still.
        """
        process, now = self._process, self._clock()
        with process.lock:
            if process.flight is not None and now < process.flight.lost_at:
                return process.flight
            if now < process.attempt_at and (after is None or process.last is not after):
                return None
            # A second more than it can take: its event loop must have ended without a word.
            flight = process.flight = process.last = _Flight(now, lost_at=now + self._timeout + 1)
            cooldown = self._cooldown if self._keys.keys else min(_COOLDOWN_WITHOUT_KEYS, self._cooldown)
            process.attempt_at = now + cooldown
            self._schedule(process, flight.lost_at)
        try:
            self._background.start(partial(self._attempt, flight), ended=partial(self._end, process, flight))
        except BaseException:
            # There is no event loop here: it was no attempt.
            process.attempt_at = now
            self._end(process, flight)
            raise
        return flight

    def _end(self, process: "_Process", flight: "_Flight") -> None:
        with process.lock:
            if process.flight is flight:
                process.flight = None
                if not flight.landed:
                    self._schedule(process, process.attempt_at)
        flight.over.set()

    async def _attempt(self, flight: "_Flight") -> None:
        found, error = None, ""
        try:
            with anyio.fail_after(self._timeout):
                found = await in_thread(self._read, await self._source.fetch(self._validator))
        except FetchError as failure:
            error = str(failure)
        except TimeoutError:
            error = f"no whole answer within {self._timeout:g} s"
        except BaseException as failure:
            if isinstance(failure, KeyboardInterrupt | GeneratorExit | anyio.get_cancelled_exc_class()):
                raise
            # The fetcher may be the user's: whatever it raises, no keys came.
            error = described(failure)
        flight.landed = True
        if found is None:
            self._miss(error, flight)
        else:
            self._take(found, flight)

    def _read(self, document: Document) -> "_Found":
        """What a document holds; raises ``FetchError`` where that is nothing. It takes a while: not for event loops."""
        before = self._last
        if document.body is None:
            return _Found(document, before)
        jwks = entries(document.body)
        if len(jwks) > MAX_KEYS:
            raise FetchError(f"the JWK Set has {len(jwks)} keys, more than {MAX_KEYS}")
        keys, broken = load_foreign_keys(jwks, allow_weak_keys=self._allow_weak_keys, published=self._source.published)
        if not keys:
            raise FetchError("; ".join(["the JWK Set holds no key that can verify", *broken[:3]]))
        # The same keys are the same object: what was verified with them is good still.
        return _Found(document, before if _alike(before.keys, keys) else KeySet(keys), broken)

    def _take(self, found: "_Found", flight: "_Flight | None") -> None:
        now, process = self._clock(), self._process
        with process.lock:
            if process.last is not flight:
                # Given up for lost, and come back after another: what it brings is older than what that brought.
                return
            if flight is not None:
                # Begun without keys, it had a shorter one.
                process.attempt_at = max(process.attempt_at, flight.begun + self._cooldown)
            before, failed = self._last, self._error
            self._keys = self._last = found.keys
            self._validator = found.document.validator
            self._fetched, self._fetched_at, self._error = now, time.time(), None
            lifetime = min(self._lifetime(found.document.max_age), self._max_stale / 2)
            self._schedule(process, now + lifetime * uniform(0.75, 0.95))
            new = [text for text in found.broken if text not in self._broken]
            self._broken = self._broken if found.document.body is None else frozenset(found.broken)
        for text in new:
            logger.warning("keys of %s: skipped %s (said once)", self._source, text)
        if failed is not None:
            logger.warning("keys of %s: fetched again, after: %s", self._source, failed)
        if self._keys is not before:
            logger.info(
                "keys of %s: %s; they are now %s",
                self._source,
                "changed" if before.keys else "fetched",
                ", ".join(f"{key.kid!r:.66}" for key in self._keys.keys[:8])
                + (", ..." if len(self._keys.keys) > 8 else ""),
            )

    def _miss(self, error: str, flight: "_Flight") -> None:
        process = self._process
        with process.lock:
            if process.last is not flight:
                return
            first, self._error = self._error is None, error
            later = self._cooldown * uniform(0, 0.25) if self._keys.keys else 0
            self._schedule(process, process.attempt_at + later)
        if first:
            logger.warning(
                "keys of %s: not fetched: %s%s",
                self._source,
                error,
                "; those from before go on"
                if self._keys.keys
                else "; there are none: its tokens are answered with 503",
            )

    def _lifetime(self, max_age: float | None) -> float:
        least, most = self._limits
        return self._refresh_after if max_age is None else min(max(max_age, least), most)


class ProviderKeys:
    """Remote keys as one provider sees them: narrowed to its algorithms, with its static keys beside them."""

    def __init__(self, remote: RemoteKeys, static: Iterable[Key], algorithms: Collection[str] | None) -> None:
        self._remote = remote
        self._static = KeySet(static)
        self._algorithms = algorithms
        self._seen = (_NONE, self._static)

    @property
    def current(self) -> KeySet:
        """The static keys, and the remote ones that are good now."""
        remote = self._remote.current
        seen, keys = self._seen
        if remote is not seen:
            keys = KeySet((*self._static.keys, *_narrowed(remote.keys, self._algorithms)))
            self._seen = (remote, keys)
        return keys

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """As ``RemoteKeys.refreshed``."""
        allowed = self._algorithms is None or algorithm in self._algorithms
        if allowed and (kid is None or not self._static.knows(kid)):
            await self._remote.refreshed(kid, algorithm)
        return self.current


@dataclass(slots=True)
class _Flight:
    """One attempt."""

    begun: float
    lost_at: float
    landed: bool = False
    over: Signal = field(default_factory=Signal)


@dataclass(slots=True)
class _Process:
    """What a forked process must not have from its parent."""

    lock: Lock = field(default_factory=Lock)
    flight: _Flight | None = None
    """The attempt under way."""
    last: _Flight | None = None
    """The attempt under way, or the one before."""
    attempt_at: float = -inf
    """When the next one may begin."""


@dataclass(frozen=True, slots=True)
class _Found:
    document: Document
    keys: KeySet
    broken: tuple[str, ...] = ()


_NONE = KeySet(())
_COOLDOWN_WITHOUT_KEYS = 1
_SHORTEST_SLEEP = 0.1
_LANDINGS = 3


def _source(jwks: str | PathLike[str] | None, issuer: str | None, fetch: Fetch | None) -> Source:
    if (jwks is None) == (issuer is None):
        raise ConfigurationError("jwks: RemoteKeys needs the JWK Set's address or path, or issuer=, and not both")
    if fetch is not None:
        check_callable("fetch", fetch, "url")
    if issuer is not None:
        return Discovery(issuer, fetch)
    if is_address(jwks):
        return Address(str(jwks), fetch)
    if not isinstance(jwks, str | PathLike) or not os.fspath(jwks):
        kind = "empty" if jwks == "" else type(jwks).__name__
        raise ConfigurationError(f"jwks must be an address, a file's path or RemoteKeys(...), not {kind}")
    if fetch is not None:
        raise ConfigurationError(f"jwks: {shown(str(jwks))} is a file's path, which fetch= has no use for")
    return File(jwks)


def _limits(limits: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(limits, tuple | list) or len(limits) != 2:
        raise ConfigurationError(f"refresh_limits must be two numbers of seconds, not {limits!r}")
    least, most = check_seconds("refresh_limits", limits[0]), check_seconds("refresh_limits", limits[1])
    if least > most:
        raise ConfigurationError(f"refresh_limits must be the least and then the most, not {limits!r}")
    return least, most


def _alike(some: tuple[Key, ...], others: tuple[Key, ...]) -> bool:
    return all(key in others for key in some) and all(key in some for key in others)


def _narrowed(keys: Iterable[Key], algorithms: Collection[str] | None) -> Iterable[Key]:
    for key in keys:
        allowed = tuple(name for name in key.algorithms if algorithms is None or name in algorithms)
        if allowed:
            yield replace(key, algorithms=allowed)
