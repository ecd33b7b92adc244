"""What belongs to an event loop is dropped with it."""

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable

import anyio
import pytest
from anyio.lowlevel import current_token

from jwt_middleware._support.loops import PerLoop


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
