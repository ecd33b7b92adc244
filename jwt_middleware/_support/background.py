"""Who owns work that no request may own? A task of the event loop itself, for as long as the loop runs.

anyio has no task outside a task group, and a request's task must not own what other requests wait for: it can be
cancelled at any moment, and a test client without ``with`` ends its event loop after each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, cast

import anyio
from anyio.lowlevel import current_token

from ..events import UnexpectedError
from ..telling import Events
from .loops import PerLoop

if TYPE_CHECKING:
    from trio.lowlevel import TrioToken


class Background:
    """The detached tasks of one owner, on whichever event loops they run.

    A task outlives the request that started it, and ends with its event loop at the latest. ``name`` names the work in
    logs. ``patience`` is how many seconds ``stop`` waits for work that does not end when it is cancelled.
    """

    def __init__(self, name: str, *, patience: float = 5, events: Events | None = None) -> None:
        self._name = name
        self._patience = patience
        self._events = Events() if events is None else events
        self._tasks: PerLoop[set[_Task]] = PerLoop(set, drop=_abandon)

    def start(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        ended: Callable[[], None] | None = None,
        at_most: float = inf,
    ) -> None:
        """Run ``work()`` on the running event loop, in its own context. An exception that it raises is logged.

        The work is cancelled after ``at_most`` seconds. ``ended()`` is called when it is over, however it ended, and
        even if the loop ended before the work began. If a loop is closed without cancelling its tasks,
        ``ended()`` is called as soon as this object is used on another loop.
        """
        tasks = self._tasks.get()
        task = _Task(
            anyio.CancelScope() if at_most == inf else anyio.CancelScope(deadline=anyio.current_time() + at_most), ended
        )

        async def run() -> None:
            with task.scope:
                try:
                    await work()
                except Exception as error:  # noqa: BLE001  # a system task of trio would end the whole program with it
                    self._events.tell(UnexpectedError(where=self._name, error=type(error).__name__), exc_info=error)

        def finish(_: object = None) -> None:
            tasks.discard(task)
            if task.ended is not None:
                task.ended()
            if task.over is not None:
                task.over.set()

        loop = current_token().native_token
        tasks.add(task)
        if isinstance(loop, asyncio.AbstractEventLoop):
            # The loop holds its tasks weakly, so something else must hold this one. `finish` is a callback because a
            # task that is cancelled before its first step never reaches its own `finally`.
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
        """Cancel the tasks on the running event loop and wait for their end, for ``patience`` seconds at most."""
        waiting = []
        for task in tuple(self._tasks.get()):
            if task.over is None:
                task.over = anyio.Event()
            waiting.append(task.over)
            task.scope.cancel()
        with anyio.move_on_after(self._patience, shield=True):
            for over in waiting:
                await over.wait()


class _Task:
    def __init__(self, scope: anyio.CancelScope, ended: Callable[[], None] | None) -> None:
        self.scope = scope
        self.ended = ended
        self.over: anyio.Event | None = None
        """Set at the end, if a task waits for it."""
        self.strong: asyncio.Task[None] | None = None


def _abandon(tasks: set[_Task]) -> None:
    """Give up the tasks of an event loop that was closed without ending them."""
    abandoned = list(tasks)
    tasks.clear()
    for task in abandoned:
        if task.ended is not None:
            task.ended()


class Signal:
    """Something that happens once. Tasks on any event loop of the process can wait for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._happened = False
        self._events: dict[object, anyio.Event] = {}

    def set(self) -> None:
        """Let all waiting tasks go on, each on its own event loop."""
        with self._lock:
            self._happened = True
            events, self._events = self._events, {}
        for loop, event in events.items():
            # The loop may have ended; then no task waits on it.
            with suppress(RuntimeError):
                if isinstance(loop, asyncio.AbstractEventLoop):
                    loop.call_soon_threadsafe(event.set)
                else:
                    cast("TrioToken", loop).run_sync_soon(event.set)

    async def wait(self) -> None:
        """Return as soon as it has happened."""
        with self._lock:
            if self._happened:
                return
            event = self._events.setdefault(current_token().native_token, anyio.Event())
        await event.wait()
