"""Throttle: may this login be tried now? Failed ones are counted by account and by client address."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import ceil
from threading import Lock
from typing import Any, TypeVar
from unicodedata import normalize

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from .._support.arguments import check_callable, check_count, check_seconds
from .._support.hooks import WORKER_THREADS
from .._support.redaction import redact, redact_address
from ..errors import ConfigurationError
from .addresses import Proxies
from .counts import Counts, MemoryCounts, StoredCounts

logger = logging.getLogger("jwt_middleware")

Result = TypeVar("Result")

PATIENCE = 1
"""Seconds that a login waits for the storage, at most."""


class LoginRefused(Exception):
    """A login that is not tried, whatever its password: ``status``, ``description``, and ``retry_after`` in seconds."""

    def __init__(self, status: int, description: str, retry_after: int) -> None:
        super().__init__(description)
        self.status = status
        self.description = description
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that may be tried, and counts as failed until it is forgiven. Holds no name and no address."""

    account: bytes
    address: bytes


class Throttle:
    """Refuses logins after too many failed ones, for ``auth_routes(..., throttle=)``.

    ``account_failures``
        Failed logins of one account in ``period``; after them the right password is refused as well. Default 10.
    ``address_failures``
        Failed logins from one address (IPv6: one /64 network) in ``period``. Attempts that an account's count refuses
        are none. Default 100.
    ``period``
        Seconds from the first failed login until all are forgotten. Default 900.
    ``trusted_proxies``
        Addresses and networks whose ``X-Forwarded-For`` is believed, ``unix`` for a proxy on a Unix socket. Default:
        none. Without it, all who come through a proxy have the proxy's address, and are refused together.
    ``storage``
        Default None: the memory of this process; several processes count each for themselves. ``redis://...``,
        ``rediss://...`` or ``unix://...``: those with the same signing key count together; by the library limits (extra
        ``login``).
    ``account_of``
        ``account_of(username)`` gives what is counted, quickly (it runs on the event loop): the same text for all
        spellings that your app takes for one account, and no others, since a good login resets the count of its
        account. Default: NFKC, without case and surrounding white space.
    ``clock``
        Gives seconds, for the storage in memory. Default ``time.monotonic``.

    A login is decided so:

    1. It is counted as failed for its address, then for its account: before the password is looked at, so that a
       hundred at once are no more than one after the other.
    2. Was that one too many, it is refused with 429 and ``Retry-After``, alike for any account, known or not, and any
       password. For its address it is not counted as failed then.
    3. Is it a good one, the count of its account is reset, and one taken off that of its address.
    4. Cannot the storage be asked within a second, it is refused with 503.

    The storage holds no name, but a hash of it with a secret that ``auth_routes`` derives from the signing key: people
    type passwords into the wrong field. The memory is bounded: each
    count has one of 2**20 places of 8 bytes, chosen by a hash with a random key of this process, so that nobody can
    work out who shares a place with whom. Two who do are counted together; forgetting old counts instead would let an
    attacker wash away his own.

    Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        *,
        account_failures: int = 10,
        address_failures: int = 100,
        period: float = 900,
        trusted_proxies: str | Collection[str] = (),
        storage: str | None = None,
        account_of: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if account_of is not None:
            check_callable("account_of", account_of, "username")
        check_callable("clock", clock)
        self._account_failures = check_count("account_failures", account_failures, minimum=1)
        self._address_failures = check_count("address_failures", address_failures, minimum=1)
        whole = ceil(check_seconds("period", period, minimum=1))
        if whole > _LONGEST:
            raise ConfigurationError(f"period must be a year ({_LONGEST} s) or less, not {period!r}")
        self._proxies = Proxies(trusted_proxies)
        self._account_of = account_of or _account
        self._accounts: Counts
        self._addresses: Counts
        self._worker: _Worker | None = None
        if storage is None:
            self._accounts, self._addresses = MemoryCounts(whole, clock), MemoryCounts(whole, clock)
        else:
            limits_storage, self._worker = _redis(storage)
            self._accounts = StoredCounts(limits_storage, "account", whole)
            self._addresses = StoredCounts(limits_storage, "address", whole)

    async def attempt(self, username: str, scope: Mapping[str, Any], secret: bytes = b"") -> Attempt:
        """Count the login of ``username`` in the request of ``scope`` as failed; raises ``LoginRefused``.

        ``secret``, at most 64 bytes, keeps those who read the storage from trying names on it. Who counts together must
        have the same.
        """
        client = self._proxies.client(scope)
        # Of a long name the beginning: normalising takes the square of its length. And that of the name itself, or one
        # who pads it would be counted by the padding.
        account = self._account_of(username.strip()[:MAX_NAME])
        attempt = Attempt(self._accounts.place(account, secret), self._addresses.place(client, secret))
        refused = await self._ask(self._count, attempt)
        if refused is not None:
            by, wait = refused
            logger.info("login refused: too many failed logins (by=%s address=%.64r)", by, client)
            raise LoginRefused(429, "There were too many failed logins. Try again later.", wait)
        return attempt

    async def forgive(self, attempt: Attempt) -> None:
        """It was a good login."""
        try:
            await self._ask(self._forgive, attempt)
        except LoginRefused:
            # Its password was right, and one failed login too many is all that is left of it.
            logger.debug("a good login stays counted as a failed one")

    def _count(self, attempt: Attempt) -> tuple[str, int] | None:
        """None, or whose count refuses it, and for how many seconds."""
        # The address first: one that is refused makes no places for accounts that it made up.
        by, counts, place = "address", self._addresses, attempt.address
        if counts.add(place, 1) <= self._address_failures:
            by, counts, place = "account", self._accounts, attempt.account
            if counts.add(place, 1) <= self._account_failures:
                return None
        # A client that goes on with an old password does not lock out all who share its address.
        self._addresses.add(attempt.address, -1)
        return by, max(1, ceil(counts.left(place)))

    def _forgive(self, attempt: Attempt) -> None:
        self._accounts.clear(attempt.account)
        self._addresses.add(attempt.address, -1)

    async def _ask(self, work: Callable[[Attempt], Result], attempt: Attempt) -> Result:
        return work(attempt) if self._worker is None else await self._worker(work, attempt)


MAX_NAME = 256
"""Characters of a user name that are told apart."""

_LONGEST = 366 * 24 * 3600


def _account(username: str) -> str:
    return normalize("NFKC", normalize("NFKC", username).casefold()).strip()


def _redis(url: object) -> tuple[Any, "_Worker"]:
    if not isinstance(url, str) or not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError(
            f"storage must be None, or start with redis://, rediss:// or unix://, not {redact_address(str(url))!r}"
        )
    try:
        from limits.errors import StorageError
        from limits.storage import RedisStorage
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise ConfigurationError(
            "storage: counting logins in Redis needs limits and redis; install asgi-jwt-middleware[login]"
        ) from None
    options: dict[str, Any] = {
        "socket_timeout": _SOCKET_PATIENCE,
        "socket_connect_timeout": _SOCKET_PATIENCE,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        storage = RedisStorage(url, key_prefix="jwt_middleware:login", wrap_exceptions=True, **options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"storage: {redact_address(url)!r} cannot be used ({type(error).__name__})") from None
    return storage, _Worker(StorageError)


_SOCKET_PATIENCE = 0.4
"""Seconds; a dead connection and a new one fit into ``PATIENCE``."""


class _Worker:
    """Runs what waits for the storage in worker threads, and waits no longer than ``PATIENCE``.

    A storage that failed is asked by one login in ``_PAUSE`` seconds until it answers: what others would ask now, it
    might still count when it wakes up.
    """

    def __init__(self, error: type[Exception]) -> None:
        self._error = error
        self._limiter: RunVar[CapacityLimiter] = RunVar("jwt_middleware.throttle")
        self._lock = Lock()
        self._busy = 0
        self._is_well = True
        self._next_try = 0.0

    async def __call__(self, work: Callable[[Attempt], Result], attempt: Attempt) -> Result:
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = CapacityLimiter(WORKER_THREADS)
            self._limiter.set(limiter)
        reason = f"no answer within {PATIENCE} s"
        with anyio.move_on_after(PATIENCE):
            try:
                result = await to_thread.run_sync(self._run, work, attempt, limiter=limiter, abandon_on_cancel=True)
            except (self._error, _NotAskedError) as error:
                cause = error.__cause__ or error
                reason = redact(f"{type(cause).__name__}: {cause}")
            else:
                self._note(None)
                return result
        self._note(reason)
        raise LoginRefused(503, "Logins cannot be checked at the moment. Try again later.", 1)

    def _run(self, work: Callable[[Attempt], Result], attempt: Attempt) -> Result:
        with self._lock:
            self._check()
            self._busy += 1
        try:
            return work(attempt)
        finally:
            with self._lock:
                self._busy -= 1

    def _check(self) -> None:
        # A thread that waits for a name to be resolved outlives those who gave it up.
        if self._busy >= 2 * WORKER_THREADS:
            raise _NotAskedError("too many wait for it")
        if not self._is_well:
            now = time.monotonic()
            if now < self._next_try:
                raise _NotAskedError
            self._next_try = now + _PAUSE

    def _note(self, reason: str | None) -> None:
        if self._is_well == (reason is None):
            return
        self._is_well = reason is None
        if reason is None:
            logger.info("login throttle: its storage is there again")
        else:
            logger.warning("login throttle: its storage cannot be asked, logins are answered with 503: %s", reason)


_PAUSE = 0.5


class _NotAskedError(Exception):
    pass
