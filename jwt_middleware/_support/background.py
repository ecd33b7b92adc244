"""Who owns work that no request may own? An asyncio task or a system task of trio, one event loop's and process's.

anyio has no task outside a task group, and a request's task must not own what others wait for: it may be cancelled at
any moment, and a test client without ``with`` ends its event loop after each request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, cast

import anyio
from anyio import CancelScope, Event
from anyio.lowlevel import RunVar, current_token

if TYPE_CHECKING:
    from trio.lowlevel import TrioToken

logger = logging.getLogger("jwt_middleware")


class Background:
    """The detached tasks of one owner, on whichever event loops they run.

    A task outlives the request that started it, and ends with its event loop at the latest. ``patience`` is how long
    ``stop`` waits, in seconds, for work that does not end when it is cancelled.
    """

    def __init__(self, name: str, *, patience: float = 5) -> None:
        self._name = name
        self._patience = patience
        # Of the running event loop alone. A forked process runs a loop of its own, and so begins with none.
        self._tasks: RunVar[set[_Task]] = RunVar(name)

    def start(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        ended: Callable[[], None] | None = None,
        at_most: float = inf,
    ) -> None:
        """Run ``work()`` on the running event loop, in a context of its own; what it raises is logged.

        It is cancelled after ``at_most`` seconds. ``ended()`` is called when it is over, however it ended: also where
        its loop ended before it began.
        """
        tasks = self._tasks.get(None)
        if tasks is None:
            tasks = set()
            self._tasks.set(tasks)
        task = _Task(CancelScope() if at_most == inf else CancelScope(deadline=anyio.current_time() + at_most))

        async def run() -> None:
            with task.scope:
                try:
                    await work()
                except Exception:
                    # Out of a system task of trio it would end the whole program.
                    logger.exception("%s: a detached task failed", self._name)

        def finish(_: object = None) -> None:
            tasks.discard(task)
            if ended is not None:
                ended()
            if task.over is not None:
                task.over.set()

        loop = current_token().native_token
        tasks.add(task)
        if isinstance(loop, asyncio.AbstractEventLoop):
            # The loop itself holds its tasks weakly. A callback, since a task that is cancelled before its first step
            # never gets to a `finally` of its own.
            task.strong = loop.create_task(run(), name=self._name, context=Context())
            task.strong.add_done_callback(finish)
        else:
            from trio.lowlevel import spawn_system_task

            async def run_and_finish() -> None:
                try:
                    await run()
                finally:
                    finish()

            spawn_system_task(run_and_finish, name=self._name)

    async def stop(self) -> None:
        """Cancel the tasks on the running event loop, and wait until they are over, or patience is at its end."""
        waiting = []
        for task in tuple(self._tasks.get(set())):
            if task.over is None:
                task.over = Event()
            waiting.append(task.over)
            task.scope.cancel()
        with anyio.move_on_after(self._patience, shield=True):
            for over in waiting:
                await over.wait()


@dataclass(eq=False, slots=True)
class _Task:
    scope: CancelScope
    over: Event | None = None
    """Where somebody waits for it."""
    strong: asyncio.Task[None] | None = None


class Signal:
    """Something that happens once, awaited from any event loop of the process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._happened = False
        self._events: dict[object, Event] = {}

    def set(self) -> None:
        """It happened: all who wait go on, each on its event loop."""
        with self._lock:
            self._happened = True
            events, self._events = self._events, {}
        for loop, event in events.items():
            try:
                if isinstance(loop, asyncio.AbstractEventLoop):
                    loop.call_soon_threadsafe(event.set)
                else:
                    cast("TrioToken", loop).run_sync_soon(event.set)
            except RuntimeError:
                logger.debug("an event loop ended before what it waited for")

    async def wait(self) -> None:
        """Return when it has happened."""
        with self._lock:
            if self._happened:
                return
            event = self._events.setdefault(current_token().native_token, Event())
        await event.wait()
