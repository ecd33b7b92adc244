"""How is a function of the app's called? On the event loop where it is async, else in a worker thread."""

from collections.abc import Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

WORKER_THREADS = 40
"""Threads that one sync hook occupies at most: apart from those that sync endpoints share."""


class Hook:
    """Makes ``function``, sync or async, a coroutine function; a sync one runs ``threads`` times at once, at most."""

    def __init__(self, function: Callable[..., Any], *, threads: int = WORKER_THREADS) -> None:
        self._function = function
        self._threads = threads
        # Objects with an async `__call__` do not look it.
        self._is_async = iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)
        # A limiter belongs to one event loop; tests and servers with threads have several.
        self._limiter: RunVar[CapacityLimiter] = RunVar("jwt_middleware.hook")

    async def __call__(self, *arguments: Any) -> Any:
        """What ``function(*arguments)`` gives, awaited where need be."""
        if self._is_async:
            return await self._function(*arguments)
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = CapacityLimiter(self._threads)
            self._limiter.set(limiter)
        # What is async and does not look it at all, such as a lambda, gives its coroutine in the thread; in a tuple,
        # since trio refuses to pass one on.
        (result,) = await to_thread.run_sync(lambda: (self._function(*arguments),), limiter=limiter)
        return await result if isawaitable(result) else result
