"""What belongs to one event loop, and is dropped when that loop has ended?

A limiter, a connection pool or a set of tasks works on one event loop only. A process may have many loops: one per job
(``asyncio.run``, Celery, ``async_to_sync``), one per thread, one per request in a test client, another after a fork.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar, cast
from weakref import WeakKeyDictionary

from anyio.lowlevel import current_token

Value = TypeVar("Value")


class PerLoop(Generic[Value]):
    """A value for each event loop, made by ``make()`` on the loop that first asks for it.

    A value is dropped when its loop is garbage, or, where the value itself refers to the loop, as soon as another loop
    asks for its own. ``drop(value)`` is called then; it runs outside the loop that the value belonged to. A forked
    process drops the values of its parent without that call, because the parent still uses what they refer to.
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
        if self._drop is not None and not is_child:
            for _, value in ended:
                self._drop(value)


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


def _nothing() -> None:
    pass
