"""Waiting for something that happens elsewhere: in a thread, a process, a task."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import anyio.lowlevel


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Return when ``condition()`` is true; fail after ``seconds``."""
    for _ in range(int(seconds / 0.002)):
        if condition():
            return
        await anyio.sleep(0.002)
    raise AssertionError(f"not within {seconds} s")


async def most_between_turns(work: Callable[[], Awaitable[object]], count: Callable[[], int]) -> int:
    """The most by which ``count()`` grows between two turns of another task, while ``work`` is done."""
    counts = [count()]

    async def watch() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            counts.append(count())

    async with anyio.create_task_group() as together:
        together.start_soon(watch)
        await work()
        together.cancel_scope.cancel()
    counts.append(count())
    return max(after - before for before, after in pairwise(counts))
