"""What have others revoked? A view of their log, in memory, read again twice a second."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from time import monotonic, time
from typing import Literal, Protocol, TypeAlias

import anyio
from anyio import Event
from anyio.lowlevel import RunVar

from .._support.arguments import check_callable, check_seconds
from .._support.background import Background
from .._support.redaction import describe_error
from ..errors import ConfigurationError, RevocationsUnavailable
from ..verifying.token import Token
from .revoked import Revocation, RevokedTokens

logger = logging.getLogger("jwt_middleware")

INTERVAL = 0.5
"""Seconds between two reads."""

FRESH = 1
"""Seconds for which a view is as good as the log, counted from when its read began; nobody waits longer for one."""

REMEMBERED = 3600
"""Seconds for which a revocation is known at least, whatever this host takes for the time."""

PATIENCE = 5
"""Seconds that a read may take: longer than anybody waits for it, so that what comes late is known at last."""

BATCH = 1000
"""Revocations that are read at once: more would hold the event loop while they are added."""

WhenUnavailable: TypeAlias = Literal["refuse", "pass"]


class RevocationLog(Protocol):
    """Where revocations are written: the part of a session store that verifying needs."""

    async def revocations(self, after: str, limit: int) -> tuple[str, Sequence[Revocation]]:
        """The next ``limit`` revocations that were written behind the position ``after``, and the position then.

        Positions are the log's own; the empty one is before all. A position that the log does not know, for instance
        since it lost its last writes, is as good as the empty one. Whoever has written a revocation, and was told so,
        can count on every read that begins later to find it: in SQL databases, numbers that are drawn before the
        commit do not keep that promise. Raises an ``Exception`` where the log cannot be read.
        """
        ...


class RevocationView:
    """The ``Revocations`` of a log that others write, without a call for each request.

    It is read every half second by one task an event loop, which the first request begins, or lifespan. A request that
    finds it more than a second old, for instance after its process was idle, waits for a read: so what is revoked is
    refused everywhere within a second. While the log cannot be read nobody waits, and what is known goes on.

    ``log``
        A session store, ``SQLiteStore`` or ``RedisStore`` for instance, or anything with its method ``revocations``.
    ``max_stale``
        Seconds since the last good read after which the view is not believed any more. Default 60.
    ``when_unavailable``
        What happens then: ``"refuse"``, the default, answers requests that carry a token with
        ``revocations_unavailable`` (503); ``"pass"`` believes the view however old it is.
    ``clock``
        Gives Unix time. Default ``time.time``.

    Raises ``ConfigurationError`` where an argument cannot work.
    """

    def __init__(
        self,
        log: RevocationLog,
        *,
        max_stale: float = 60,
        when_unavailable: WhenUnavailable = "refuse",
        clock: Callable[[], float] = time,
    ) -> None:
        if not callable(getattr(log, "revocations", None)):
            raise ConfigurationError(
                f"log must have a method revocations(after, limit); a {type(log).__name__} has none"
            )
        if when_unavailable not in ("refuse", "pass"):
            raise ConfigurationError(f"when_unavailable must be 'refuse' or 'pass', not {when_unavailable!r}")
        self._log = log
        self._max_stale = check_seconds("max_stale", max_stale, minimum=FRESH)
        self._passes = when_unavailable == "pass"
        check_callable("clock", clock)
        self._clock = clock
        self._known = RevokedTokens()
        self._position = ""
        self._read_at = -inf
        self._error: str | None = None
        self._stale_logged = False
        # Until then, by the monotonic clock, `is_revoked` answers.
        self._answers_until = -inf
        self._background = Background("reading revocations")
        self._reader: RunVar[_Reader] = RunVar("jwt_middleware.revocations")

    def __repr__(self) -> str:
        return f"RevocationView({self._log!r})"

    def is_revoked(self, token: Token) -> bool | None:
        """Whether ``token`` is ended; None where only ``catch_up`` can tell."""
        # By its name, which Python calls at half the price of `in`. What has ended stays so, however old the view is.
        if self._known.__contains__(token):
            return True
        return False if monotonic() < self._answers_until else None

    async def catch_up(self) -> None:
        """Make ``is_revoked`` able to tell: by a read that all who wait share, or, while reads fail, at once."""
        reader = self._reading()
        if self._error is None:
            reader.wanted.set()
            with anyio.move_on_after(FRESH):
                await reader.read.wait()
        now, stale_at = monotonic(), self._read_at + self._max_stale
        if now < self._answers_until:
            return
        if self._error is None:
            if reader.ended:
                # Told to stop: nothing is known of the log.
                raise RevocationsUnavailable(retry_after=1)
            # What was waited for hangs; nobody waits for it again.
            self._miss(f"no answer within {FRESH} s")
        if now >= stale_at and not self._passes:
            self._log_stale()
            raise RevocationsUnavailable(retry_after=1)
        # Not longer, so that somebody comes here now and then and sees to it that the log is read.
        self._answers_until = now + INTERVAL if self._passes else min(now + INTERVAL, stale_at)

    async def stop(self) -> None:
        """End the reading on this event loop."""
        await self._background.stop()

    def add(self, *revocations: Revocation) -> None:
        """Know of ``revocations`` at once; their log has them already."""
        self._know(revocations)

    @property
    def age(self) -> float:
        """Seconds since the log was last read; infinite before it ever was."""
        return monotonic() - self._read_at

    def _know(self, revocations: Iterable[Revocation]) -> None:
        # By a clock that nobody sets: one that was wrong for a moment would make us forget what is not read again.
        now, unix = monotonic(), self._clock()
        self._known.add([replace(known, until=now + max(known.until - unix, REMEMBERED)) for known in revocations], now)

    def _reading(self) -> "_Reader":
        """The one who reads on this event loop."""
        reader = self._reader.get(None)
        if reader is None or reader.ended:
            reader = _Reader()
            self._reader.set(reader)
            self._background.start(partial(self._read_on, reader), ended=reader.end)
        return reader

    async def _read_on(self, reader: "_Reader") -> None:
        while True:
            due = monotonic() + INTERVAL
            await self._read()
            reader.read.set()
            reader.read, reader.wanted = Event(), Event()
            with anyio.move_on_after(max(0, due - monotonic())):
                await reader.wanted.wait()

    async def _read(self) -> None:
        try:
            with anyio.fail_after(PATIENCE):
                while True:
                    began = monotonic()
                    position, revocations = await self._log.revocations(self._position, BATCH)
                    self._know(revocations)
                    # Only now: what lies before it is known, whichever thread looks.
                    self._position = position
                    if len(revocations) < BATCH:
                        break
        except TimeoutError:
            self._miss(f"no answer within {PATIENCE} s")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | GeneratorExit | anyio.get_cancelled_exc_class()):
                raise
            # The log may be the user's: whatever it raises, nothing was read.
            self._miss(describe_error(error))
        else:
            self._take(began)

    def _take(self, began: float) -> None:
        self._read_at = max(self._read_at, began)
        self._answers_until = self._read_at + FRESH
        error, self._error, self._stale_logged = self._error, None, False
        if error is not None:
            logger.warning("revocations: read again, after: %s", error)

    def _miss(self, error: str) -> None:
        first, self._error = self._error is None, error
        if first:
            outcome = f"those known go on for {self._max_stale:g} s"
            if self._passes:
                outcome = "those known go on"
            elif self._read_at == -inf:
                outcome = "none is known yet: tokens are answered with 503"
            logger.warning("revocations: not read: %s; %s", error, outcome)

    def _log_stale(self) -> None:
        if not self._stale_logged and self._read_at != -inf:
            self._stale_logged = True
            logger.error(
                "revocations: not read for %g s, tokens are answered with 503; last error: %s",
                self._max_stale,
                self._error,
            )


@dataclass(slots=True)
class _Reader:
    """What requests of one event loop and its reading task share."""

    read: Event = field(default_factory=Event)
    """Set when the read that is under way, or the next one, is over."""
    wanted: Event = field(default_factory=Event)
    """Set to have the next read at once."""
    ended: bool = False

    def end(self) -> None:
        self.ended = True
        self.read.set()
