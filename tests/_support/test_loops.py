"""What belongs to an event loop is dropped with it."""

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint, current_token

from jwt_middleware._support.loops import LoopEndedError, PerLoop, run_on

from ..support.waiting import until


class Value:
    """Refers to its event loop, as a connection or a task does."""

    def __init__(self) -> None:
        self.loop = current_token().native_token


def run(function: Callable[[], object], backend: str = "asyncio") -> object:
    """The result of ``function``, on an event loop of its own."""

    async def main() -> object:
        return function()

    return anyio.run(main, backend=backend)


def test_a_loop_has_one_value(backend: str) -> None:
    values: PerLoop[Value] = PerLoop(Value)
    assert run(lambda: values.get() is values.get(), backend) is True


def test_another_loop_has_another_value(backend: str) -> None:
    values: PerLoop[Value] = PerLoop(Value)
    assert run(values.get, backend) is not run(values.get, backend)


@pytest.mark.parametrize("backends", [("asyncio", "trio"), ("trio", "asyncio"), ("trio", "trio"), ("asyncio",) * 2])
def test_the_value_of_a_loop_that_has_ended_is_freed_as_soon_as_another_loop_asks(backends: tuple[str, str]) -> None:
    dropped: list[int] = []
    values: PerLoop[Value] = PerLoop(Value, drop=lambda value: dropped.append(1))
    first, second = backends
    value = run(lambda: weakref.ref(values.get()), first)
    assert isinstance(value, weakref.ref)
    run(values.get, second)
    gc.collect()
    assert len(dropped) == 1
    assert value() is None


def test_a_value_that_does_not_refer_to_its_loop_is_freed_with_it(backend: str) -> None:
    class Plain:
        pass

    values: PerLoop[Plain] = PerLoop(Plain)
    kept: list[weakref.ref[Plain]] = []
    run(lambda: kept.append(weakref.ref(values.get())), backend)
    gc.collect()
    assert kept[0]() is None


def test_many_loops_leave_one_value_at_most(backend: str) -> None:
    values: PerLoop[Value] = PerLoop(Value)
    for _ in range(20):
        run(values.get, backend)
    assert len(values.all()) <= 1
    values.drop_ended()
    assert values.all() == []


def test_a_loop_that_still_runs_keeps_its_value() -> None:
    values: PerLoop[Value] = PerLoop(Value, drop=lambda value: pytest.fail("dropped"))
    both = threading.Barrier(2, timeout=10)
    kept: list[bool] = []

    def ask() -> None:
        before = values.get()
        both.wait()
        assert len(values.all()) == 2
        both.wait()
        values.drop_ended()
        kept.append(values.get() is before)
        both.wait()

    running = [threading.Thread(target=run, args=(ask, backend)) for backend in ("asyncio", "trio")]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(10)
    assert kept == [True, True]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_no_value_of_its_parent_and_leaves_the_parents_alone() -> None:
    dropped: list[Value] = []
    values: PerLoop[Value] = PerLoop(Value, drop=dropped.append)
    loop = asyncio.new_event_loop()

    async def get() -> Value:
        return values.get()

    before = loop.run_until_complete(get())
    child = os.fork()
    if not child:
        # No failure may escape: the child would go on with the tests of its parent.
        try:
            is_good = run(lambda: values.get() is not before) and len(values.all()) == 1 and not dropped
            os._exit(0 if is_good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop.run_until_complete(get()) is before
    loop.close()


# Work for another loop


@contextmanager
def other_loop(backend: str) -> Iterator[tuple[object, Callable[[], None]]]:
    """An event loop that runs on another thread, and a function that ends it."""
    loops: list[object] = []
    runs, ends = threading.Event(), threading.Event()

    async def main() -> None:
        loops.append(current_token().native_token)
        runs.set()
        while not ends.is_set():  # noqa: ASYNC110  # it is set on another thread
            await anyio.sleep(0.01)

    thread = threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": backend})
    thread.start()
    try:
        assert runs.wait(10)
        yield loops[0], ends.set
    finally:
        ends.set()
        thread.join(10)


@pytest.fixture(params=["asyncio", "trio"])
def there(request: pytest.FixtureRequest) -> Iterator[tuple[object, Callable[[], None]]]:
    with other_loop(request.param) as other:
        yield other


@pytest.mark.anyio
async def test_work_on_another_loop_runs_there_and_its_result_comes_back(
    there: tuple[object, Callable[[], None]],
) -> None:
    loop, _ = there

    async def work() -> object:
        await checkpoint()
        return current_token().native_token

    assert await run_on(loop, work) is loop


@pytest.mark.anyio
async def test_an_error_of_work_on_another_loop_is_raised_where_it_is_awaited(
    there: tuple[object, Callable[[], None]],
) -> None:
    loop, _ = there

    async def fail() -> None:
        await checkpoint()
        raise LookupError("no such key")

    with pytest.raises(LookupError, match="no such key"):
        await run_on(loop, fail)


@pytest.mark.anyio
async def test_work_on_another_loop_is_cancelled_with_the_caller(there: tuple[object, Callable[[], None]]) -> None:
    loop, _ = there
    began, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        began.set()
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class():
            cancelled.set()
            raise

    async with anyio.create_task_group() as together:
        together.start_soon(run_on, loop, work)
        await until(began.is_set)
        together.cancel_scope.cancel()
    await until(cancelled.is_set)


@pytest.mark.anyio
async def test_a_caller_hears_that_the_other_loop_ended_before_the_work(
    there: tuple[object, Callable[[], None]],
) -> None:
    loop, end = there

    async def work() -> None:
        end()
        await anyio.sleep(60)

    with anyio.fail_after(10), pytest.raises(LoopEndedError):
        await run_on(loop, work)
