"""The lives that event loops have in deployments. Each runs a job several times, on several loops."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from threading import Thread
from typing import Any, TypeAlias

import anyio

Job: TypeAlias = Callable[[], Awaitable[object]]


def one_loop_per_job(job: Job, backend: str) -> None:
    """``asyncio.run`` for each job, as Celery, ``async_to_sync`` and a test client without ``with`` do."""
    for _ in range(5):
        anyio.run(job, backend=backend)


def one_loop_per_thread(job: Job, backend: str) -> None:
    """Several loops at once, each in a thread of its own."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            anyio.run(job, backend=backend)
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    anyio.run(job, backend=backend)


def both_kinds_of_loop(job: Job, backend: str) -> None:
    """A loop of asyncio and one of trio in turn."""
    for kind in (backend, "trio" if backend == "asyncio" else "asyncio") * 2:
        anyio.run(job, backend=kind)


def a_fork(job: Job, backend: str) -> None:
    """A process that has served before it forks, as preloading servers do. Parent and child go on."""
    anyio.run(job, backend=backend)
    child = os.fork()
    if not child:
        # Nothing may escape: the child would go on with the tests of its parent.
        try:
            anyio.run(job, backend=backend)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    anyio.run(job, backend=backend)


def a_loop_that_is_closed_at_once(job: Job, backend: str) -> None:
    """``run_until_complete`` and ``close``, without a word to the tasks that still run. For asyncio alone."""
    for _ in range(3):
        loop = asyncio.new_event_loop()
        # asyncio reports the tasks that were pending.
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(_coroutine(job))
        pending = asyncio.all_tasks(loop)
        loop.close()
        for task in pending:
            _close(task.get_coro())
    anyio.run(job, backend="asyncio")


async def _coroutine(job: Job) -> None:
    await job()


def _close(coroutine: Any) -> None:
    # Python would close it later, and complain that a cancel scope cannot end without its event loop.
    with suppress(RuntimeError):
        coroutine.close()


LIVES = [one_loop_per_job, one_loop_per_thread, both_kinds_of_loop, a_fork, a_loop_that_is_closed_at_once]
