"""What have other processes revoked? A view of their log, in memory, that is read several times a second."""

from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from time import monotonic, time
from typing import Literal, TypeAlias

import anyio
import anyio.lowlevel

from .._support.arguments import check_callable, check_seconds
from .._support.background import Background
from .._support.loops import PerLoop
from .._support.redaction import describe_error
from ..errors import ConfigurationError, RevocationsUnavailable
from ..events import RevocationsRead, RevocationsUnread
from ..telling import Events
from ..verifying.token import Token
from .log import RevocationLog, RevocationPage
from .revoked import Revocation, RevokedTokens

FRESH = 1
"""Seconds for which a view is as good as the log, counted from the start of a read. No request waits longer."""

INTERVAL = 0.15
"""Seconds between the starts of two reads. A read that takes 0.8 s then ends before the previous read is stale."""

PATIENT_INTERVAL = 0.5
"""The same, while the log cannot be read or many reads are under way."""

MANY_READS = 8
"""More reads than can be under way at once if each takes 0.8 s."""

MOST_READS = 16
"""Reads under way at once, at most, however long they take."""

MISSES = 2
"""Reads in a row that fail before the log counts as unreadable: if every second one fails, the others are enough."""

PATIENCE = 5
"""Seconds that the read of one page may take: longer than a request waits, so that late answers count as well."""

REMEMBERED = 3600
"""The least number of seconds for which a revocation is remembered, whatever its log says."""

BATCH = 2000
"""Revocations on one page: more would hold up the event loop while the page is decoded, or the log while it is read."""

PIECE = 500
"""Revocations that are added before other work on the event loop gets its turn."""

WhenUnavailable: TypeAlias = Literal["refuse", "pass"]


class RevocationView:
    """The ``Revocations`` of a log that other processes write, without a call for each request.

    One task for each event loop reads the log several times a second; lifespan or the first request starts it. A
    request waits only if the last read began more than a second ago, for instance because its process was idle, so a
    revoked token is refused everywhere within a second. While the log cannot be read, no request waits, and what is
    known stays in force.

    ``log``
        A session store, for instance ``SQLiteStore`` or ``RedisStore``, or any object with its method ``revocations``.
    ``max_stale``
        Seconds since the last good read after which the view counts as unknown. Default 60.
    ``when_unavailable``
        What happens when the view counts as unknown. ``"refuse"``, the default, answers requests that carry a token
        with ``revocations_unavailable`` (503). ``"pass"`` trusts the view however old it is.
    ``clock``
        Seconds that never go back. Default ``time.monotonic``.

    ``events`` tells when the log cannot be read, and when it can again. Raises ``ConfigurationError`` for an argument
    that cannot work.
    """

    def __init__(
        self,
        log: RevocationLog,
        *,
        max_stale: float = 60,
        when_unavailable: WhenUnavailable = "refuse",
        clock: Callable[[], float] = monotonic,
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
        self.events = Events()
        self._known = RevokedTokens()
        self._position = ""
        # When the read that gave the position began, and when the last good read began.
        self._positioned_at = self._read_at = -inf
        # How far Unix time by the log's clock is ahead of our clock. None if the log has not been read yet.
        self._ahead: float | None = None
        self._is_paging = False
        self._error: str | None = None
        self._is_out = False
        self._stale_told = False
        # The time until which `is_revoked` answers.
        self._answers_until = -inf
        self._background = Background("reading revocations")
        self._readers = PerLoop(_Reader)

    def __repr__(self) -> str:
        return f"RevocationView({self._log!r})"

    def is_revoked(self, token: Token) -> bool | None:
        """Whether ``token`` is revoked; None if only ``catch_up`` can tell."""
        # The method is called by its name, which costs half as much as `in`. A revoked token stays so, however old the
        # view is.
        if self._known.__contains__(token):
            return True
        return False if self._clock() < self._answers_until else None

    async def catch_up(self) -> None:
        """Make ``is_revoked`` able to tell: after a read that all waiting requests share, or at once during an outage.

        Raises ``RevocationsUnavailable`` if the view is older than ``max_stale`` and may not be used.
        """
        reader = self._reader()
        with anyio.move_on_after(FRESH):
            while not self._is_fresh() and not reader.ended and not self._is_known_to_fail(reader):
                if self._clock() >= reader.began_at + INTERVAL:
                    reader.wanted.set()
                await reader.finished.wait()
        if self._is_fresh():
            return
        if reader.ended:
            raise RevocationsUnavailable(retry_after=1)
        self._fail(self._error or f"no answer within {FRESH} s")
        now, stale_at = self._clock(), self._read_at + self._max_stale
        if now >= stale_at and not self._passes:
            self._tell_stale()
            raise RevocationsUnavailable(retry_after=1)
        # No longer than that, so that now and then a request comes here and makes sure that the log is read.
        self._answers_until = now + PATIENT_INTERVAL if self._passes else min(now + PATIENT_INTERVAL, stale_at)

    async def stop(self) -> None:
        """End the reading on this event loop."""
        await self._background.stop()

    def add(self, *revocations: Revocation) -> None:
        """Take in ``revocations`` at once; their log already has them."""
        self._know(revocations)

    @property
    def clock_difference(self) -> float | None:
        """Seconds by which the clock of the log is ahead of this host's, give or take a read. None before the first."""
        return None if self._ahead is None else self._ahead + self._clock() - time()

    @property
    def age(self) -> float:
        """Seconds since the last good read began; infinite before the first."""
        return self._clock() - self._read_at

    @property
    def error(self) -> str | None:
        """Why the log cannot be read; None while it can."""
        return self._error if self._is_out else None

    @property
    def is_usable(self) -> bool:
        """Whether tokens can be judged: nothing failed yet, or the log was read within ``max_stale``."""
        return self._passes or self.error is None or self.age < self._max_stale

    def _is_fresh(self) -> bool:
        return self._clock() < self._read_at + FRESH

    def _is_known_to_fail(self, reader: "_Reader") -> bool:
        """Whether reads fail, as far as a recent read on this event loop has found out."""
        return (self._is_out or reader.misses >= MISSES) and reader.began_at > self._clock() - FRESH

    def _know(self, revocations: Iterable[Revocation]) -> None:
        # Use a clock that is never set: a clock that is wrong for a moment must not make us forget revocations that are
        # not read again.
        now = self._clock()
        ahead = time() - now if self._ahead is None else self._ahead
        self._known.add(revocations, now, shift=-ahead, at_least=REMEMBERED)

    def _reader(self) -> "_Reader":
        """The state that requests of this event loop share with its reading task."""
        reader = self._readers.get()
        if reader.ended:
            reader.start()
            self._background.start(partial(self._read_on, reader), ended=reader.end)
        return reader

    async def _read_on(self, reader: "_Reader") -> None:
        while True:
            reader.wanted = anyio.Event()
            if reader.under_way < MOST_READS and not self._is_paging:
                reader.begin(self._clock())
                # Not in a task group of this task: a read whose loop ends before it begins must leave nothing behind.
                self._background.start(partial(self._read, reader), ended=reader.finish)
            is_patient = self._is_out or reader.under_way >= MANY_READS
            with anyio.move_on_after(PATIENT_INTERVAL if is_patient else INTERVAL):
                await reader.wanted.wait()

    async def _read(self, reader: "_Reader") -> None:
        try:
            began = await self._read_pages()
        except TimeoutError:
            self._miss(reader, f"no answer within {PATIENCE} s")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | GeneratorExit | anyio.get_cancelled_exc_class()):
                raise
            # The log may be the user's own: whatever it raises, nothing was read.
            self._miss(reader, describe_error(error))
        else:
            reader.misses = 0
            self._take(began)

    async def _read_pages(self) -> float:
        """Read to the end of the log. Returns when the read of the last page began.

        If several reads find a long log, one goes on; the others count for nothing.
        """
        read = await self._read_page(self._position)
        if len(read[1].revocations) >= BATCH:
            if self._is_paging:
                return -inf
            self._is_paging = True
            try:
                while len(read[1].revocations) >= BATCH:
                    read = await self._add_page_and_read_next(*read)
            finally:
                self._is_paging = False
        await self._add_page(*read)
        return read[0]

    async def _read_page(self, after: str) -> tuple[float, RevocationPage]:
        """The page behind ``after``, and when its read began."""
        began = self._clock()
        with anyio.fail_after(PATIENCE):
            return began, await self._log.revocations(after, BATCH)

    async def _add_page_and_read_next(self, began: float, page: RevocationPage) -> tuple[float, RevocationPage]:
        """Add a page while the log looks for the next one, which is returned as by ``_read_page``."""
        outcome: list[tuple[float, RevocationPage] | Exception] = []

        async def read_next() -> None:
            try:
                outcome.append(await self._read_page(page.position))
            except Exception as error:  # noqa: BLE001  # raised below, outside the task group
                outcome.append(error)

        async with anyio.create_task_group() as together:
            together.start_soon(read_next)
            await self._add_page(began, page)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    async def _add_page(self, began: float, page: RevocationPage) -> None:
        self._ahead = page.now - self._clock()
        self._know(page.revocations[:PIECE])
        for start in range(PIECE, len(page.revocations), PIECE):
            await anyio.lowlevel.checkpoint()
            self._know(page.revocations[start : start + PIECE])
        if began >= self._positioned_at:
            # Set only now, so that whichever thread looks, everything before the position is known.
            self._position, self._positioned_at = page.position, began

    def _take(self, began: float) -> None:
        self._read_at = max(self._read_at, began)
        self._answers_until = max(self._answers_until, self._read_at + FRESH)
        error, self._error, self._stale_told = self._error, None, False
        if self._is_out and self._is_fresh():
            self._is_out = False
            self.events.tell(RevocationsRead(after=error or f"no answer within {FRESH} s"))

    def _miss(self, reader: "_Reader", error: str) -> None:
        self._error = error
        reader.misses += 1
        if reader.misses >= MISSES and not self._is_fresh():
            self._fail(error)

    def _fail(self, error: str) -> None:
        self._error = error
        if self._is_out:
            return
        self._is_out = True
        outcome = f"the known ones stay in force for {self._max_stale:g} s"
        if self._passes:
            outcome = "the known ones stay in force"
        elif self._read_at == -inf:
            outcome = "none is known yet, so tokens are answered with 503"
        self.events.tell(RevocationsUnread(error=error, outcome=outcome))

    def _tell_stale(self) -> None:
        if not self._stale_told and self._read_at != -inf:
            self._stale_told = True
            outcome = f"the last read was {self._max_stale:g} s ago, so tokens are answered with 503"
            self.events.tell(RevocationsUnread(error=f"{self._error}", outcome=outcome, stale=True))


class _Reader:
    """The state that requests of one event loop share with its reading task."""

    def __init__(self) -> None:
        self.start()
        self.ended = True

    def start(self) -> None:
        self.finished = anyio.Event()
        """Set when any read is over, and replaced then."""
        self.wanted = anyio.Event()
        """Set to start the next read at once."""
        self.ended = False
        self.under_way = 0
        self.began_at = -inf
        self.misses = 0
        """Reads in a row that failed."""

    def begin(self, now: float) -> None:
        self.under_way += 1
        self.began_at = now

    def finish(self) -> None:
        self.under_way -= 1
        finished, self.finished = self.finished, anyio.Event()
        finished.set()

    def end(self) -> None:
        self.ended = True
        self.finished.set()
        # An event that was waited for refers to its event loop, which would live as long as this reader.
        self.finished = self.wanted = anyio.Event()
