"""How is a function of the app called? On the event loop if it is async, else in a worker thread."""

from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import anyio

from .arguments import is_async
from .loops import PerLoop

WORKER_THREADS = 40
"""The most threads that one sync hook occupies. They are not among the threads that sync endpoints share."""


class Hook:
    """Calls ``function``, sync or async, from a coroutine. A sync one runs in at most ``threads`` threads at a time."""

    def __init__(self, function: Callable[..., Any], *, threads: int = WORKER_THREADS) -> None:
        self._function = function
        self._is_async = is_async(function)
        self._limiter: PerLoop[anyio.CapacityLimiter] = PerLoop(lambda: anyio.CapacityLimiter(threads))

    async def __call__(self, *arguments: Any) -> Any:
        """The result of ``function(*arguments)``, awaited if need be."""
        if self._is_async:
            return await self._function(*arguments)
        # A function that is async but does not look it, such as a lambda, returns its coroutine from the thread. It
        # comes in a tuple because trio refuses to pass a bare coroutine on.
        (result,) = await anyio.to_thread.run_sync(lambda: (self._function(*arguments),), limiter=self._limiter.get())
        return await result if isawaitable(result) else result
