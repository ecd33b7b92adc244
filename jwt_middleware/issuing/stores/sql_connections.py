"""Which connection does a step of SQLStore take, for how long, and when is the step done again?

Connections belong to an event loop. So each loop has a place of its own, with two engines:

1. The engine for sessions: the app's own on the loop that uses the store first, one like it on any other loop, and
   one of the store's if the store was given an address.
2. The engine for reading the log of revocations: always the store's own. It keeps one connection, so that a pool
   that is exhausted or an app that pools nothing does not hold up the reading.

A step runs in a task of its own. Drivers may take seconds to give up a connection to a server that hangs, and no
caller waits for that.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import random
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from anyio.lowlevel import current_token

from ..._support.loops import PerLoop
from ...errors import StoreUnavailable
from .sql_engines import MakeEngine, like
from .sql_errors import OUTDATED, REPEATABLE, UNPREPARED, explain, state

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

Result = TypeVar("Result")
Keep: TypeAlias = "Callable[[AsyncConnection], Awaitable[None]]"
Values: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = "Sequence[Row[Any]]"

STEP_SECONDS = 0.9
"""Seconds that a step may take: less than a caller waits for it."""

READ_SECONDS = 2
"""Seconds that one read of the log may take."""

CLOSE_SECONDS = 2
"""Seconds that ``aclose`` waits for a server that does not answer."""

MOST_READERS = 4
"""Connections for reading the log, at most. More than one is open only while the server is slow."""

OPEN_SECONDS = 10
"""Seconds that opening a connection may take. It goes on after the step that needed it has given up."""

MOST_OPENING = 4
"""Connections that go on opening after their steps have given up, at most."""

MOST_TRIES = 5
"""How often a step is tried, at most."""

PAUSE = 0.02
"""Seconds between two tries, at most."""

READ_COMMITTED = "READ COMMITTED"
AUTOCOMMIT = "AUTOCOMMIT"


class Attempt:
    """One try to do a step, in one transaction."""

    def __init__(self, connection: "AsyncConnection", is_repeatable: bool) -> None:
        self.connection = connection
        self.is_repeatable = is_repeatable
        """Whether the step may be done again if the connection breaks now: it may have been done."""

    async def query(self, statement: str, **values: Any) -> Rows:
        """The rows that ``statement`` returns, if any."""
        from sqlalchemy import text

        result = await self.connection.execute(text(statement), values)
        return result.all() if result.returns_rows else ()


class Connections:
    """The connections of one store.

    ``check`` looks at the tables in the first step of each event loop, and again after a step has missed some. It
    returns the isolation level that a session of the server has by itself.
    """

    def __init__(
        self,
        make_engine: MakeEngine,
        errors: tuple[type[Exception], ...],
        check: Callable[[Attempt], Awaitable[str]],
    ) -> None:
        self._make_engine = make_engine
        self._errors = errors
        self._check = check
        self._places = PerLoop(lambda: _Place(*make_engine()))

    async def run(
        self,
        step: Callable[[Attempt], Awaitable[Result]],
        *,
        seconds: float | None = None,
        reads_log: bool = False,
        checks: bool = True,
        is_single: bool = True,
        is_repeatable: bool = False,
    ) -> Result:
        """Do ``step`` within ``seconds``, by default STEP_SECONDS; raise ``StoreUnavailable`` if it could not be done.

        The step is done again if the server rolled it back for the sake of another transaction, or if its connection
        broke and the attempt is repeatable. A step ``is_single`` if it is one statement, which needs no transaction
        around it.
        """
        place = await self._place()
        work = self._work(place, step, reads_log, checks, is_single, is_repeatable)
        return await place.wait_for(work, STEP_SECONDS if seconds is None else seconds)

    def start(self, step: Callable[[Attempt], Awaitable[None]], *, reads_log: bool) -> None:
        """Do ``step`` of single statements soon. No caller waits for it, and if it fails, it is not done."""
        place = self._places.get()

        async def work() -> None:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(READ_SECONDS):
                    await self._work(place, step, reads_log, True, True, False)

        place.start(work())

    def check_again(self) -> None:
        """Look at the tables again in the next step on the running event loop."""
        self._places.get().isolation = None

    async def aclose(self) -> None:
        """Close the connections of the running event loop that are the store's own."""
        await self._places.get().close()

    async def _place(self) -> "_Place":
        if not isinstance(current_token().native_token, asyncio.AbstractEventLoop):
            raise RuntimeError("SQLStore runs on asyncio, as SQLAlchemy does; on trio there is SQLiteStore")
        place = self._places.get()
        if place.guard is None:
            await place.close_with_loop()
        return place

    async def _work(
        self,
        place: "_Place",
        step: Callable[[Attempt], Awaitable[Result]],
        reads_log: bool,
        checks: bool,
        is_single: bool,
        is_repeatable: bool,
    ) -> Result:
        tries = 0
        while True:
            tries += 1
            attempt: Attempt | None = None
            try:
                async with place.reader() if reads_log else place.connection() as connection:
                    if checks and place.isolation is None:
                        await connection.execution_options(isolation_level=AUTOCOMMIT)
                        found = await self._check(Attempt(connection, is_repeatable=True))
                        await connection.commit()
                        place.isolation = AUTOCOMMIT if found == READ_COMMITTED.lower() else READ_COMMITTED
                    isolation = place.isolation if is_single and place.isolation else READ_COMMITTED
                    await connection.execution_options(isolation_level=isolation)
                    attempt = Attempt(connection, is_repeatable)
                    result = await step(attempt)
                    await connection.commit()
                    return result
            except self._errors as error:
                broke = getattr(error, "connection_invalidated", False)
                is_safe = broke and attempt is not None and attempt.is_repeatable
                if not ((_is_undone(place, error) or is_safe) and tries < MOST_TRIES):
                    raise StoreUnavailable(explain(error)) from None
            await asyncio.sleep(PAUSE * random())


def _is_undone(place: "_Place", error: Exception) -> bool:
    """Whether the server has certainly done nothing, and may do it the next time."""
    found = state(error)
    if found in OUTDATED:
        place.isolation = None
    if found in UNPREPARED:
        # A transaction stays on one connection of the server, also behind a pooler.
        place.isolation = READ_COMMITTED
        return True
    return found in REPEATABLE


async def _close(connection: "AsyncConnection") -> None:
    """Return ``connection`` to its pool."""
    await connection.close()


class _Place:
    """The connections of one event loop."""

    def __init__(self, engine: "AsyncEngine", is_own: bool) -> None:
        self.engine = engine
        self.isolation: str | None = None
        """The isolation level for a single statement. None until it is known."""
        self.guard: AsyncIterator[None] | None = None
        self._is_own = is_own
        self._log_engine = like(engine)
        self._readers = asyncio.Semaphore(MOST_READERS)
        self._opening = 0
        self._idle: list[AsyncConnection] = []
        # An event loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[Any]] = set()

    async def wait_for(self, work: Coroutine[Any, Any, Result], seconds: float) -> Result:
        """Return what ``work`` returns. If it takes longer than ``seconds``, let it end by itself."""
        task = self.start(work)
        try:
            await asyncio.wait((task,), timeout=seconds)
        finally:
            task.cancel()
        if not task.done():
            raise StoreUnavailable(f"no answer within {seconds} s")
        if task.cancelled():
            raise StoreUnavailable("the store was closed")
        return task.result()

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    @asynccontextmanager
    async def connection(self) -> "AsyncIterator[AsyncConnection]":
        """A connection for a step of sessions."""
        connection = await self._open(self.engine, _close)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def reader(self) -> "AsyncIterator[AsyncConnection]":
        """A connection for reading the log."""
        async with self._readers:
            connection = self._idle.pop() if self._idle else await self._open(self._log_engine, self._keep_reader)
            try:
                yield connection
            except BaseException:
                await connection.close()
                raise
            await self._keep_reader(connection)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._dispose(), CLOSE_SECONDS)

    async def close_with_loop(self) -> None:
        """Close when the event loop shuts down, whoever runs it."""

        # asyncio.run, and whatever else ends a loop well, closes the async generators of the loop before the loop.
        async def guard() -> AsyncIterator[None]:
            try:
                yield
            finally:
                await self.close()

        self.guard = guard()
        await anext(self.guard)

    async def _open(self, engine: "AsyncEngine", keep: Keep) -> "AsyncConnection":
        """Open a connection. If the step gives up meanwhile, go on, and ``keep`` the connection for the next step.

        If the server is far away or busy, opening takes longer than a step may. If each step started over, none would
        ever succeed.
        """
        opening = self.start(engine.connect().start())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self.start(self._finish_opening(opening, keep))
            raise

    async def _finish_opening(self, opening: "asyncio.Task[AsyncConnection]", keep: Keep) -> None:
        self._opening += 1
        try:
            # Tasks that wait for an exhausted pool must not pile up.
            async with asyncio.timeout(OPEN_SECONDS if self._opening <= MOST_OPENING else 0):
                connection = await opening
        finally:
            self._opening -= 1
        await keep(connection)

    async def _keep_reader(self, connection: "AsyncConnection") -> None:
        if self._idle:
            await connection.invalidate()
            await connection.close()
        else:
            self._idle.append(connection)

    async def _dispose(self) -> None:
        # A task that is cancelled may start another one, which ends at once.
        while self._tasks:
            await asyncio.wait(self._tasks)
        while self._idle:
            await self._idle.pop().close()
        await self._log_engine.dispose()
        if self._is_own:
            await self.engine.dispose()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # No caller waits for it any more if it took too long.
            task.exception()
