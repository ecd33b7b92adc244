"""Detached work outlives its starter and ends with its event loop."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from threading import Thread
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest

from jwt_middleware._support.background import Background, Signal

from ..support import logged
from ..support.logs import records

Test = TypeVar("Test", bound=Callable[..., Any])

request_id: ContextVar[str] = ContextVar("request_id", default="none")


def virtual(test: Test) -> Test:
    """A test that takes no time, on both event loops."""
    marked: Test = pytest.mark.virtual_time(pytest.mark.anyio(test))
    return marked


class Work:
    """Something to do, until ``go`` is set; it keeps what became of it."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.began = anyio.Event()
        self.became: list[str] = []
        self.over = anyio.Event()

    async def __call__(self) -> None:
        self.began.set()
        try:
            await self.go.wait()
            self.became.append("done")
        finally:
            self.became.append("ended")

    def ended(self) -> None:
        self.became.append("told")
        self.over.set()


@virtual
async def test_work_outlives_the_task_that_started_it() -> None:
    background, work = Background("test"), Work()
    with anyio.CancelScope() as request:
        background.start(work, ended=work.ended)
        await work.began.wait()
        request.cancel()
        await anyio.sleep(1)
    assert work.became == []
    work.go.set()
    with anyio.fail_after(5):
        await work.over.wait()
    assert work.became == ["done", "ended", "told"]


@virtual
async def test_work_does_not_see_the_context_of_the_request_that_started_it() -> None:
    seen: list[str] = []
    over = anyio.Event()

    async def look() -> None:
        seen.append(request_id.get())

    request_id.set("a request's own")
    Background("test").start(look, ended=over.set)
    await over.wait()
    assert seen == ["none"]


@virtual
async def test_work_takes_no_longer_than_it_may() -> None:
    work = Work()
    Background("test").start(work, ended=work.ended, at_most=0.05)
    with anyio.fail_after(5):
        await work.over.wait()
    assert work.became == ["ended", "told"]


@virtual
async def test_two_who_stop_it_at_once_both_wait_for_its_end() -> None:
    background, work = Background("test"), Work()
    background.start(work)
    await work.began.wait()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as together:
            together.start_soon(background.stop)
            together.start_soon(background.stop)
    assert work.became == ["ended"]


@virtual
async def test_work_that_fails_is_logged_and_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    over = anyio.Event()

    async def fail() -> None:
        raise LookupError("nobody is there to catch it")

    Background("the test's work").start(fail, ended=over.set)
    await over.wait()
    await anyio.sleep(0.01)
    assert logged(caplog) == [(logging.ERROR, "the test's work failed: LookupError")]
    assert records(caplog)[0].exc_info is not None


@virtual
async def test_stop_cancels_the_work_and_waits_for_its_end() -> None:
    background, work, other = Background("test"), Work(), Work()
    background.start(work, ended=work.ended)
    background.start(other)
    await work.began.wait()
    await background.stop()
    assert (work.became, other.became) == (["ended", "told"], ["ended"])
    await background.stop()


@virtual
async def test_stop_leaves_the_work_of_others_alone() -> None:
    background, work = Background("test"), Work()
    background.start(work)
    await work.began.wait()
    await Background("test").stop()
    assert work.became == []
    await background.stop()


@virtual
async def test_stop_loses_patience_with_work_that_goes_on_when_cancelled() -> None:
    background, over = Background("test", patience=0.05), anyio.Event()

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.3)

    background.start(stubborn, ended=over.set)
    await anyio.sleep(0.01)
    await background.stop()
    assert not over.is_set()
    with anyio.fail_after(5):
        await over.wait()


@pytest.mark.parametrize("steps", [0, 1])
def test_work_ends_with_its_event_loop(backend: str, steps: int) -> None:
    became: list[str] = []

    async def forever() -> None:
        became.append("began")
        await anyio.sleep_forever()

    async def main() -> None:
        Background("test").start(forever, ended=lambda: became.append("told"))
        for _ in range(steps):
            await anyio.sleep(0.01)

    anyio.run(main, backend=backend)
    gc.collect()
    # What never began on asyncio is told of all the same.
    assert became[-1] == "told"
    assert became.count("told") == 1


def test_each_event_loop_has_its_own_work(backend: str) -> None:
    background = Background("test")

    async def main() -> None:
        work = Work()
        background.start(work)
        await work.began.wait()
        await background.stop()
        assert work.became == ["ended"]

    for _ in range(2):
        anyio.run(main, backend=backend)


def test_work_whose_loop_was_closed_is_over_as_soon_as_another_loop_asks() -> None:
    background = Background("test")
    became: list[str] = []

    async def begin() -> None:
        background.start(anyio.sleep_forever, ended=lambda: became.append("told"))
        await asyncio.sleep(0)

    async def use() -> None:
        background.start(anyio.lowlevel.checkpoint)
        await background.stop()

    loop = asyncio.new_event_loop()
    # asyncio reports the tasks that were pending.
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(begin())
    (task,) = asyncio.all_tasks(loop)
    loop.close()
    assert became == []
    asyncio.run(use())
    assert became == ["told"]
    with suppress(RuntimeError):
        # Else Python closes it later, and reports that a cancel scope cannot end without its event loop.
        task.get_coro().close()


def threads(*mains: tuple[str, Callable[[], Awaitable[None]]]) -> None:
    """Run each on an event loop and in a thread of its own."""
    failures: list[BaseException] = []

    def run(backend: str, main: Callable[[], Awaitable[Any]]) -> None:
        try:
            anyio.run(main, backend=backend)
        except BaseException as failure:
            failures.append(failure)
            raise

    running = [Thread(target=run, args=arguments) for arguments in mains]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(20)
    assert not failures


def test_a_signal_is_heard_on_every_event_loop() -> None:
    signal = Signal()
    heard: list[str] = []

    def listener(name: str) -> Callable[[], Awaitable[None]]:
        async def listen() -> None:
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    group.start_soon(signal.wait)
                    await signal.wait()
            heard.append(name)

        return listen

    async def tell() -> None:
        await anyio.sleep(0.2)
        signal.set()
        await signal.wait()
        heard.append("teller")

    threads(("asyncio", listener("asyncio")), ("trio", listener("trio")), ("asyncio", tell))
    assert sorted(heard) == ["asyncio", "teller", "trio"]


def test_a_signal_does_not_mind_listeners_whose_event_loop_has_ended(backend: str) -> None:
    signal = Signal()

    async def listen() -> None:
        with anyio.move_on_after(0.01):
            await signal.wait()

    anyio.run(listen, backend=backend)
    signal.set()
    anyio.run(signal.wait, backend=backend)


def test_nothing_is_logged_when_work_ends_well(caplog: pytest.LogCaptureFixture, backend: str) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        over = anyio.Event()

        async def work() -> None:
            await anyio.lowlevel.checkpoint()

        Background("test").start(work, ended=over.set)
        await over.wait()

    anyio.run(main, backend=backend)
    assert logged(caplog) == []
