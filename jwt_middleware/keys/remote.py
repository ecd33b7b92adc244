"""How are keys that others publish fetched and kept fresh? ``Schedule`` decides when; this file does it. (I/O)"""

import os
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from os import PathLike
from random import random
from threading import Lock
from typing import NamedTuple

import anyio
import anyio.lowlevel

from .._support.arguments import check_bool, check_callable, check_seconds
from .._support.background import Background, Signal
from .._support.redaction import describe_error
from ..errors import ConfigurationError, KeysUnavailable
from ..events import FetchFinished, KeysExpired, KeysFailed, KeysFetched, KeySkipped
from ..telling import Events
from .addresses import Hosts
from .algorithms import ALGORITHMS
from .documents import DocumentError, read_keys
from .fetching import Discovery, Document, File, Source, make_source
from .http import Fetch, FetchError, in_thread
from .key_set import KeySet, Skipped, load_foreign_keys
from .places import Claim, places
from .schedule import Rules, Schedule, Step, make_rules
from .source import KeysHealth

MAX_KIDS_SHOWN = 8
"""How many key ids an event names."""


class RemoteKeys:
    """Keys that are fetched and kept fresh. One object may serve several providers, event loops and threads.

    ``jwks``
        The https address of a JWK Set (RFC 7517 section 5; http on loopback only), or the path of a file.
    ``issuer``
        Instead of ``jwks``: the https address of an issuer whose metadata names the JWK Set (OpenID Connect Discovery
        1.0 section 4, RFC 8414 section 3). An issuer with a path is looked up in both ways.
    ``fetch``
        ``await fetch(url)`` returns a response with ``status_code``, ``headers`` and ``content``, and follows no
        redirects. The ``get`` method of an ``AsyncClient`` of httpx or httpx2 works; that client can have proxies,
        certificates and headers of your own. Default: httpx2 (extra ``remote``), which also uses ETags. The default
        reads nothing from the environment: proxies need a fetcher of your own. It is called on one event loop for as
        long as that loop runs; other loops of the process ask through it.
    ``allow_http``
        Exact names of hosts that may be asked over plain http, such as ``["keycloak"]`` within a cluster. Whoever can
        change what they answer can make tokens.
    ``allow_hosts``
        Exact names of hosts, beside that of ``jwks`` or ``issuer``, to which metadata may lead although they lie in a
        private network.
    ``ca_file``
        A PEM file of the certificate authorities to trust instead of the system's. It is read again when it changes.
    ``token_file``
        A file with a bearer token that the address demands, as in Kubernetes. It is read for each attempt, and sent
        only to the scheme, host and port of ``jwks`` or ``issuer``, which must be https.
    ``cooldown``
        Seconds from the start of one attempt to the next, whether it succeeds or not. A key that is added is accepted
        within this time. Default 30, for a file 1.
    ``refresh_after``
        Seconds after which the keys are fetched again, at random some seconds earlier, so that processes do not all
        fetch at once. Default 600, or what the answer's Cache-Control says within ``refresh_limits``; for a file 5.
    ``refresh_limits``
        The least and the most that Cache-Control may say, in seconds. Default 60 and 3600: a removed key is refused
        within an hour.
    ``keys_max_stale``
        Seconds since the last successful fetch during which the keys stay in force while every attempt fails. It must
        be more than twice the cooldown. Default a day.
    ``timeout``
        Seconds for one attempt in all, and for a request that waits for it. Default 5.
    ``allow_weak_keys``
        As in ``Provider``. Default False.
    ``clock``
        Monotonic seconds. Default ``time.monotonic``.

    The rules:

    1. One attempt runs at a time, and no request owns it. A request with a known kid never waits for it, with one
       exception: if no event loop has lived long enough for an attempt to end within the last hour (one loop per
       job, a frozen process), one request waits, for ``timeout`` seconds at most, and then goes on with the keys that
       there are.
    2. A request with an unknown kid, or whose signature no key verifies, waits for the attempt. If it fails, the answer
       is ``KeysUnavailable``.
    3. Within the cooldown nothing is fetched: a kid that was not found stays unknown, and remembering it costs nothing.
       Without any keys the cooldown is a second at most. An attempt that its event loop left before it asked anything
       starts no cooldown.
    4. A failed attempt changes no keys until ``keys_max_stale``. A successful one replaces them all: a key that is gone
       from the set verifies nothing from then on.
    5. A set has at most 512 KiB and 100 keys. A key that cannot be used is skipped and reported once.

    Raises ``ConfigurationError`` for an argument that cannot work, and for a file that holds no keys.
    """

    def __init__(
        self,
        jwks: str | PathLike[str] | None = None,
        *,
        issuer: str | None = None,
        fetch: Fetch | None = None,
        allow_http: Collection[str] = (),
        allow_hosts: Collection[str] = (),
        ca_file: str | PathLike[str] | None = None,
        token_file: str | PathLike[str] | None = None,
        cooldown: float | None = None,
        refresh_after: float | None = None,
        refresh_limits: tuple[float, float] = (60, 3600),
        keys_max_stale: float = 24 * 3600,
        timeout: float = 5,
        allow_weak_keys: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        source = make_source(
            jwks, issuer, fetch, allow_http=allow_http, allow_hosts=allow_hosts, ca_file=ca_file, token_file=token_file
        )
        rules = make_rules(isinstance(source, File), cooldown, refresh_after, refresh_limits, keys_max_stale, timeout)
        check_bool("allow_weak_keys", allow_weak_keys)
        self._set_up(source, rules, allow_weak_keys=allow_weak_keys, clock=clock)
        if isinstance(source, File):
            try:
                self._take(self._read(source.read()), None)
            except (FetchError, DocumentError) as error:
                raise ConfigurationError(f"jwks: {source}: {error}") from None

    def _set_up(self, source: Source, rules: Rules, *, allow_weak_keys: bool, clock: Callable[[], float]) -> None:
        check_callable("clock", clock)
        check_seconds("clock()", clock())
        self._source = source
        self._allow_weak_keys = allow_weak_keys
        self._clock = clock
        self.events = Events()
        self._background = Background(f"keys of {self._source}", events=self.events)
        # Read without a lock, written under the lock of the process.
        self._process = _Process(Schedule(rules))
        self._processes = {self._process.pid: self._process}
        self._due = self._process.schedule.due
        self._keys = self._last = _NONE
        self._validator: tuple[object, ...] | None = None
        self._fetched_at: float | None = None
        self._error: str | None = None
        self._skipped: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._source)!r})"

    @property
    def current(self) -> KeySet:
        """The keys in force: none before the first fetch, after ``keys_max_stale``, or while ``refreshed`` must wait.

        It never waits. It must be called on an event loop, because it begins a refresh that is due.
        """
        if self._clock() >= self._due:
            self._look_after()
        return self._keys

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """The keys to look in again, after ``current`` verified nothing for this ``kid`` and ``algorithm``.

        Raises ``KeysUnavailable`` if it is unknown whether such a key exists.
        """
        if algorithm not in ALGORITHMS:
            return self._keys
        process = self._own_process()
        was_withheld = process.schedule.is_withheld
        if not was_withheld and kid is not None and self._keys.knows(kid):
            # The provider may use an old kid for a new key: the next request will know.
            self._begin()
            return self._keys
        succeeded = await self._wait_for_attempt()
        if was_withheld and self._release(process) and (kid is None or self._keys.knows(kid)):
            return self._keys
        if not succeeded:
            raise KeysUnavailable(retry_after=max(1, ceil(process.schedule.allowed_at - self._clock())))
        return self._keys

    async def keep(self) -> None:
        """Refresh the keys whenever that is due, until cancelled."""
        while True:
            self._look_after()
            process = self._own_process()
            flight, lost_at = process.flight, process.schedule.lost_at
            if flight is not None and lost_at is not None:
                with anyio.move_on_after(lost_at - self._clock()):
                    await flight.over.wait()
            await anyio.sleep(max(self._due - self._clock(), _SHORTEST_SLEEP))

    async def prefetch(self) -> None:
        """Return when there are keys, or when the first attempt to fetch them has failed."""
        if not self.current.keys:
            await self._wait_for_attempt(is_urgent=False)

    async def stop(self) -> None:
        """Abandon the attempt that runs on this event loop. A request that waits for it begins another."""
        await self._background.stop()

    @property
    def login_endpoints(self) -> tuple[str, str] | None:
        """The addresses where users log in: ``authorization_endpoint`` and ``token_endpoint`` of the metadata.

        None before the first successful fetch, and if the metadata names none. Reading it starts no fetch.
        """
        return self._source.login_endpoints if isinstance(self._source, Discovery) else None

    @property
    def error(self) -> str | None:
        """Why the last attempt failed. None if it succeeded, and before the first one."""
        return self._error

    @property
    def host(self) -> str:
        """The host that is configured; empty for a file."""
        return self._source.host

    def confine(self, hosts: Hosts) -> None:
        """Ask no private network but ``hosts`` and those of ``allow_hosts`` and ``allow_http``.

        For keys whose address was not configured: a resolver takes it from a token. Raises ``ConfigurationError`` if
        it leads to a private network.
        """
        self._source.confine(hosts)

    @property
    def health(self) -> KeysHealth:
        """The state of the keys. Asking for it fetches nothing."""
        schedule, now = self._process.schedule, self._clock()
        is_stale = now - schedule.fetched >= schedule.rules.max_stale
        keys = len(self._last.keys) if schedule.has_keys and not is_stale else 0
        age = None if self._fetched_at is None else now - schedule.fetched
        next_attempt = schedule.seconds_to_refresh(now)
        return KeysHealth(keys, self._fetched_at, age, self._error, next_attempt, self._skipped)

    def _own_process(self) -> "_Process":
        # A fork may find its parent's lock held, and its parent's attempt never ends here: only the keys are its own.
        pid = os.getpid()
        if self._process.pid != pid:
            self._process = self._processes.setdefault(pid, _Process(self._process.schedule.inherit()))
        return self._process

    def _look_after(self) -> None:
        now, process = self._clock(), self._own_process()
        with process.lock:
            step = process.schedule.next_step(now)
            if step is Step.DISCARD:
                self._adopt(process, process.schedule.discard(now))
                self._keys = _NONE
            elif step is Step.WITHHOLD:
                self._adopt(process, process.schedule.withhold())
                self._keys = _NONE
        if step is Step.DISCARD:
            self.events.tell(
                KeysExpired(source=str(self._source), max_stale=process.schedule.rules.max_stale, error=self._error)
            )
        if step is not Step.NOTHING:
            self._begin()

    def _adopt(self, process: "_Process", schedule: Schedule) -> None:
        process.schedule = schedule
        self._due = schedule.due

    def _release(self, process: "_Process") -> bool:
        """Put withheld keys in force again; returns whether there are any keys."""
        with process.lock:
            if process.schedule.is_withheld:
                self._adopt(process, process.schedule.release(self._clock()))
                self._keys = self._last
        return bool(self._keys.keys)

    async def _wait_for_attempt(self, *, is_urgent: bool = True) -> bool:
        """Whether the attempt succeeded: the one under way, else a new one, or, in the cooldown, the last one.

        ``is_urgent`` means that a request waits, so the attempt goes before those that no request waits for.
        """
        with anyio.move_on_after(self._process.schedule.rules.timeout):
            flight: _Flight | None = None
            for _ in range(_TRIES_AFTER_CUTS):
                # One that was cut short, because its event loop ended or was told to stop, is continued here.
                flight = self._begin(after=flight)
                if flight is not None:
                    if is_urgent:
                        places().hurry(flight.claim)
                    await flight.over.wait()
                if flight is None or flight.landed:
                    return bool(self._keys.keys) and self._error is None
        return False

    def _begin(self, *, after: "_Flight | None" = None) -> "_Flight | None":
        """The attempt under way, or a new one, or None in the cooldown.

        ``after`` is an attempt that was cut short. If no other has begun since, the new one counts as the same attempt
        and needs no cooldown.
        """
        process, now = self._own_process(), self._clock()
        with process.lock:
            if process.flight is not None and process.schedule.is_under_way(now):
                return process.flight
            if not process.schedule.may_begin(now) and (after is None or process.last is not after):
                return None
            self._adopt(process, process.schedule.begin(now))
            flight = process.flight = process.last = _Flight(Claim(self._source.host))
        try:
            self._background.start(partial(self._attempt, flight), ended=partial(self._end, process, flight))
        except BaseException:
            # There is no event loop here, so no attempt can run.
            self._end(process, flight)
            raise
        return flight

    def _end(self, process: "_Process", flight: "_Flight") -> None:
        with process.lock:
            if process.flight is flight:
                process.flight = None
                if not flight.landed:
                    self._adopt(process, process.schedule.cut_short())
        flight.over.set()

    async def _attempt(self, flight: "_Flight") -> None:
        process, host = self._own_process(), self._source.host
        timeout = process.schedule.rules.timeout
        found, error, begun = None, "", time.monotonic()

        def adopt(step: Callable[[Schedule, float], Schedule]) -> None:
            with process.lock:
                if process.last is flight:
                    self._adopt(process, step(process.schedule, self._clock()))

        try:
            # A loop that ends at once ends here, before anything was asked.
            await anyio.lowlevel.checkpoint()
            place = places().hold(flight.claim, partial(adopt, Schedule.begin), at_least_every=timeout / 2)
            async with place if host else nullcontext():  # A file is on this machine: it needs no place.
                with anyio.fail_after(timeout):
                    await self._source.prepare()
                    adopt(Schedule.ask)
                    found = await in_thread(self._read, await self._source.fetch(self._validator))
            places().heard(host)
        except (FetchError, DocumentError) as failure:
            error = str(failure)
        except TimeoutError:
            if not process.schedule.is_under_way(self._clock()):
                # The event loop stood still for longer than that: it is unknown what the provider would have answered.
                return
            places().heard_nothing(host)
            error = f"no complete answer within {timeout:g} s"
        except BaseException as failure:
            if isinstance(failure, KeyboardInterrupt | GeneratorExit | anyio.get_cancelled_exc_class()):
                raise
            # The fetcher may be the user's own: whatever it raises, there are no new keys.
            error = describe_error(failure)
        flight.landed = True
        seconds = time.monotonic() - begun
        self.events.tell(FetchFinished(source=str(self._source), seconds=seconds, error=error or None))
        if found is None:
            self._miss(error, flight)
        else:
            self._take(found, flight)

    def _read(self, document: Document) -> "_Found":
        """The keys in ``document``. Raises ``DocumentError`` if there are none. Slow: not for event loops."""
        before = self._last
        if document.body is None:
            return _Found(document, before)
        entries = read_keys(document.body)
        keys, skipped = load_foreign_keys(
            entries, allow_weak_keys=self._allow_weak_keys, published=self._source.published
        )
        if not keys and not self._source.may_be_empty:
            reasons = [one.reason for one in skipped[:3]]
            raise DocumentError("; ".join(["the JWK Set holds no key that can verify", *reasons]))
        # Equal keys stay the same object: what they have verified stays verified.
        return _Found(document, before if before.holds_exactly(keys) else KeySet(keys), skipped)

    def _take(self, found: "_Found", flight: "_Flight | None") -> None:
        now, process = self._clock(), self._own_process()
        with process.lock:
            if process.last is not flight:
                # This attempt was given up as lost, and ends after another one, whose keys are newer.
                return
            before, failure = self._last, self._error
            self._keys = self._last = found.keys
            self._validator = found.document.validator
            self._fetched_at, self._error = time.time(), None
            self._adopt(process, process.schedule.succeed(now, found.document.max_age, random()))
            new = [one for one in found.skipped if one.reason not in self._skipped]
            if found.document.body is not None:
                self._skipped = tuple(one.reason for one in found.skipped)
        for one in new:
            self.events.tell(KeySkipped(source=str(self._source), reason=one.reason, is_broken=one.is_broken))
        if failure is not None or found.keys is not before:
            self.events.tell(
                KeysFetched(
                    source=str(self._source),
                    kids=tuple(key.kid and key.kid[:64] for key in found.keys.keys[:MAX_KIDS_SHOWN]),
                    changed=bool(before.keys) and found.keys is not before,
                    after=failure,
                )
            )

    def _miss(self, error: str, flight: "_Flight") -> None:
        now, process = self._clock(), self._own_process()
        with process.lock:
            if process.last is not flight:
                return
            first, self._error = self._error is None, error
            self._adopt(process, process.schedule.fail(now, random()))
            usable = process.schedule.has_keys
            if usable:
                self._keys = self._last
        if first:
            self.events.tell(KeysFailed(source=str(self._source), error=error, usable=usable))


@dataclass(slots=True, eq=False)
class _Flight:
    """One attempt."""

    claim: Claim
    landed: bool = False
    over: Signal = field(default_factory=Signal)


@dataclass(slots=True, eq=False)
class _Process:
    """The state that a forked process must not share with its parent."""

    schedule: Schedule
    lock: Lock = field(default_factory=Lock)
    flight: _Flight | None = None
    """The attempt under way."""
    last: _Flight | None = None
    """The attempt under way, or the one before."""
    pid: int = field(default_factory=os.getpid)


class _Found(NamedTuple):
    document: Document
    keys: KeySet
    skipped: tuple[Skipped, ...] = ()


_NONE = KeySet(())
_SHORTEST_SLEEP = 0.1
_TRIES_AFTER_CUTS = 3
