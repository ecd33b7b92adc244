"""Waiting for something that happens elsewhere: in a thread, a process, a task."""

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Return when ``condition()`` is true; fail after ``seconds``."""
    for _ in range(int(seconds / 0.002)):
        if condition():
            return
        await anyio.sleep(0.002)
    raise AssertionError(f"not within {seconds} s")
