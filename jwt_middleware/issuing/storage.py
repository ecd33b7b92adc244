"""How do we ask a storage that may be slow or gone? In worker threads, and no login waits longer than a second."""

import time
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from .._support.arguments import show
from .._support.hooks import WORKER_THREADS
from .._support.loops import PerLoop
from .._support.redaction import redact, redact_address
from ..errors import ConfigurationError
from ..events import ThrottleFailed, ThrottleRecovered
from ..telling import Events

Argument = TypeVar("Argument")
Result = TypeVar("Result")

PATIENCE = 1.0
"""Seconds that a login waits for the storage, at most."""

PAUSE = 0.5
"""Seconds between two attempts to ask a storage that failed."""


class StorageUnavailable(Exception):
    """The storage gave no answer in time, or an error."""


class Storage:
    """A Redis server that the library limits speaks with, and the threads for that.

    ``limits_storage`` is what ``StoredCounts`` takes. After a failure, one login every ``PAUSE`` seconds asks the
    storage again, until it answers. The others are refused without asking: a stalled storage might still count them
    when it wakes up.

    Raises ``ConfigurationError`` for an address that cannot be used, and if limits or redis is missing.
    """

    def __init__(self, url: object, events: Events) -> None:
        self.limits_storage, self._error = _connect(url)
        self._events = events
        self._limiter: PerLoop[CapacityLimiter] = PerLoop(lambda: CapacityLimiter(WORKER_THREADS))
        self._lock = Lock()
        self._busy = 0
        self._is_well = True
        self._next_try = 0.0

    async def ask(self, work: Callable[[Argument], Result], argument: Argument) -> Result:
        """Return what ``work(argument)`` returns in a thread. Raises ``StorageUnavailable``."""
        limiter = self._limiter.get()
        reason = f"no answer within {PATIENCE:g} s"
        with anyio.move_on_after(PATIENCE):
            try:
                result = await to_thread.run_sync(self._run, work, argument, limiter=limiter, abandon_on_cancel=True)
            except (self._error, _NotAskedError) as error:
                cause = error.__cause__ or error
                reason = redact(f"{type(cause).__name__}: {cause}")
            else:
                self._note(None)
                return result
        self._note(reason)
        raise StorageUnavailable(reason)

    def _run(self, work: Callable[[Argument], Result], argument: Argument) -> Result:
        with self._lock:
            self._check()
            self._busy += 1
        try:
            return work(argument)
        finally:
            with self._lock:
                self._busy -= 1

    def _check(self) -> None:
        # A thread that waits for a host name to be resolved outlives the login that has given up on it.
        if self._busy >= 2 * WORKER_THREADS:
            raise _NotAskedError("too many threads wait for it")
        if not self._is_well:
            now = time.monotonic()
            if now < self._next_try:
                raise _NotAskedError
            self._next_try = now + PAUSE

    def _note(self, reason: str | None) -> None:
        if self._is_well == (reason is None):
            return
        self._is_well = reason is None
        self._events.tell(ThrottleRecovered() if reason is None else ThrottleFailed(error=reason))


class _NotAskedError(Exception):
    pass


def _connect(url: object) -> tuple[Any, type[Exception]]:
    """The storage of the library limits for ``url``, and the error that it raises."""
    if not isinstance(url, str) or not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError(
            f"storage must be None, or a text that starts with redis://, rediss:// or unix://, not {show(url)}"
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
    return storage, StorageError


_SOCKET_PATIENCE = 0.4
"""Seconds. The time of a dead connection and that of a new one fit into ``PATIENCE`` together."""
