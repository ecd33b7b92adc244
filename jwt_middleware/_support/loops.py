"""What belongs to one event loop, and is dropped when that loop has ended?

A limiter, a connection pool or a set of tasks works on one event loop only. A process may have many loops: one per job
(``asyncio.run``, Celery, ``async_to_sync``), one per thread, one per request in a test client, another after a fork.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    import trio

Value = TypeVar("Value")


class PerLoop(Generic[Value]):
    """A value for each event loop, made by ``make()`` on the loop that first asks for it.

    A value is dropped when its loop is garbage, or, if the value itself refers to the loop, as soon as another loop
    asks for its own. ``drop(value)`` is called then; it runs outside the loop that the value belonged to. A forked
    process sets the values of its parent aside without that call, because the parent still uses what they refer to.
    """

    def __init__(self, make: Callable[[], Value], drop: Callable[[Value], None] | None = None) -> None:
        self._make = make
        self._drop = drop
        self._lock = Lock()
        self._process = os.getpid()
        # anyio's RunVar never frees a value that refers to its loop: it holds the value, and so the loop.
        self._values: WeakKeyDictionary[object, Value] = WeakKeyDictionary()

    def get(self) -> Value:
        """The value of the running event loop."""
        loop = current_token().native_token
        try:
            return self._values[loop]
        except KeyError:
            value = self._make()
            self.drop_ended()
            with self._lock:
                self._values[loop] = value
            return value

    def all(self) -> list[Value]:
        """The values of all event loops, those that have just ended included."""
        with self._lock:
            return list(self._values.values())

    def drop_ended(self) -> None:
        """Drop the values of event loops that have ended."""
        with self._lock:
            is_child = self._process != os.getpid()
            ended = [(loop, value) for loop, value in self._values.items() if is_child or has_ended(loop)]
            for loop, _ in ended:
                del self._values[loop]
            self._process = os.getpid()
        if is_child:
            # Both processes share the parent's selector. If the garbage collector closed a connection of the parent
            # here, the selector would forget it, and the parent would wait forever.
            _OF_PARENTS.append(ended)
        elif self._drop is not None:
            for _, value in ended:
                self._drop(value)


_OF_PARENTS: list[object] = []
"""Values of the parents of this process. They are kept, but never used."""


def has_ended(loop: object) -> bool:
    """Whether ``loop``, the native token of an event loop, will never run again."""
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.is_closed()
    import trio

    try:
        cast("trio.lowlevel.TrioToken", loop).run_sync_soon(_nothing, idempotent=True)
    except trio.RunFinishedError:
        return True
    return False


def is_running(loop: object) -> bool:
    """Whether ``loop`` runs now, on this or another thread."""
    return loop.is_running() if isinstance(loop, asyncio.AbstractEventLoop) else not has_ended(loop)


class LoopEndedError(Exception):
    """The event loop that was to do some work ended before the work was done."""


async def run_on(loop: object, work: Callable[[], Awaitable[Value]]) -> Value:
    """Await ``work()`` on ``loop``, which must be running, from any other loop. Returns or raises what ``work`` does.

    Raises ``LoopEndedError`` if ``loop`` ends before the work does.
    """
    scopes: list[anyio.CancelScope] = []
    over: Future[Value] = Future()

    async def run() -> None:
        # Made on the loop that it belongs to.
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            try:
                over.set_result(await work())
            except Exception as error:  # noqa: BLE001  # raised where it is awaited
                over.set_exception(error)

    _call_if_running(loop, partial(_spawn, loop, run))
    happened = anyio.Event()
    here = current_token().native_token
    over.add_done_callback(lambda _: _call_if_running(here, happened.set))
    try:
        while not happened.is_set():
            with anyio.move_on_after(_SECONDS_BETWEEN_LOOKS):
                await happened.wait()
            if not (over.done() or is_running(loop)):
                raise LoopEndedError
    except BaseException:
        for scope in scopes:
            _call_if_running(loop, scope.cancel)
        raise
    return over.result()


def call_on(loop: object, function: Callable[[], object]) -> None:
    """Call ``function`` soon on ``loop``, from any thread. Raises ``RuntimeError`` if ``loop`` has ended."""
    if isinstance(loop, asyncio.AbstractEventLoop):
        loop.call_soon_threadsafe(function)
    else:
        cast("trio.lowlevel.TrioToken", loop).run_sync_soon(function)


def _call_if_running(loop: object, function: Callable[[], object]) -> None:
    with suppress(RuntimeError):
        call_on(loop, function)


def _spawn(loop: object, run: Callable[[], Coroutine[None, None, None]]) -> None:
    if not isinstance(loop, asyncio.AbstractEventLoop):
        from trio.lowlevel import spawn_system_task

        spawn_system_task(run)
        return
    # In a context of its own: the one here is the caller's, which may be of another kind of event loop.
    task = loop.create_task(run(), context=Context())
    # The loop holds its tasks weakly.
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)


_SECONDS_BETWEEN_LOOKS = 0.25

_TASKS: set[asyncio.Task[None]] = set()


def _nothing() -> None:
    pass
