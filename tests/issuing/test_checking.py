"""Password checks in worker threads: how many run, who waits, and what a cancelled one leaves behind."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.abc import TaskGroup

from jwt_middleware.issuing import LoginRefused
from jwt_middleware.issuing.checking import CLIENT, CheckQueue
from jwt_middleware.issuing.turns import MAX_WAIT

from ..support import until


class Gate:
    """A check that runs until it is let go, and counts how many run."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.most = 0
        self._go = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __call__(self, name: str) -> str:
        with self._lock:
            self.running.append(name)
            self.most = max(self.most, len(self.running))
        assert self._go.acquire(timeout=20)
        with self._lock:
            self.running.remove(name)
        return name

    def let_go(self, number: int = 1) -> None:
        """Let the next ``number`` checks end."""
        self._go.release(number)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.let_go(1000)


@pytest.mark.anyio
async def test_a_check_gives_what_the_function_returns_or_raises() -> None:
    assert await CheckQueue(lambda *numbers: sum(numbers), threads=1)(1, 2) == 3

    def fail() -> None:
        raise LookupError("the database is down")

    with pytest.raises(LookupError, match="the database is down"):
        await CheckQueue(fail, threads=1)()


@pytest.mark.anyio
async def test_a_coroutine_that_a_sync_function_returns_is_awaited_on_the_event_loop() -> None:
    threads = []

    async def inner() -> str:
        threads.append(threading.get_ident())
        return "found"

    def outer() -> Any:
        threads.append(threading.get_ident())
        return inner()

    assert await CheckQueue(outer, threads=1)() == "found"
    assert threads[0] != threads[1] == threading.get_ident()


@pytest.mark.anyio
async def test_a_check_sees_the_context_of_its_request() -> None:
    request_id: ContextVar[str] = ContextVar("request_id")
    request_id.set("r-1")
    assert await CheckQueue(request_id.get, threads=1)() == "r-1"


@pytest.mark.anyio
async def test_no_more_checks_run_than_there_are_threads(gate: Gate) -> None:
    queue = CheckQueue(gate, threads=2)
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(queue, f"check{number}")
        await until(lambda: len(gate.running) == 2)
        gate.let_go(5)
    assert gate.most == 2


async def try_check(queue: CheckQueue, client: str, outcomes: list[str]) -> None:
    token = CLIENT.set(client)
    try:
        await queue(client)
    except LoginRefused as error:
        good = (error.status, error.retry_after, error.by) == (503, 1, "hasher")
        outcomes.append(f"{client} refused" if good else f"{client} {error!r}")
    else:
        outcomes.append(client)
    finally:
        CLIENT.reset(token)


@pytest.mark.anyio
async def test_beyond_a_second_of_work_checks_are_refused_at_once_and_each_address_gets_its_turn(gate: Gate) -> None:
    # One thread, and 0.4 seconds a check: two may wait.
    queue = CheckQueue(gate, threads=1, seconds=0.4)
    outcomes: list[str] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(try_check, queue, "flood", outcomes)
        await until(lambda: gate.running and outcomes)
        assert outcomes == ["flood refused"]
        tasks.start_soon(try_check, queue, "other", outcomes)
        await until(lambda: len(outcomes) == 2)
        assert outcomes == ["flood refused"] * 2
        CLIENT.set("flood")
        with pytest.raises(LoginRefused):
            queue.check_admission()
        CLIENT.set("third")
        queue.check_admission()
        gate.let_go(3)
    assert outcomes == ["flood refused", "flood refused", "flood", "other", "flood"]


@asynccontextmanager
async def while_one_runs(gate: Gate) -> AsyncIterator[tuple[CheckQueue, list[str], TaskGroup]]:
    """A queue whose one thread runs the check "first", the outcomes of checks, and a group for the tasks of others.

    It is left when all of them have ended.
    """
    queue = CheckQueue(gate, threads=1)
    outcomes: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(try_check, queue, "first", outcomes)
        await until(lambda: gate.running)
        yield queue, outcomes, tasks


@pytest.mark.anyio
async def test_a_check_that_has_not_started_within_a_second_is_refused_and_never_starts(gate: Gate) -> None:
    async with while_one_runs(gate) as (queue, outcomes, tasks):
        tasks.start_soon(try_check, queue, "second", outcomes)
        await until(lambda: outcomes)
        assert outcomes == ["second refused"]
        gate.let_go()
    assert outcomes == ["second refused", "first"]
    assert not gate.running


@pytest.mark.anyio
async def test_a_check_that_has_waited_too_long_is_refused_when_the_next_one_comes(gate: Gate) -> None:
    async with while_one_runs(gate) as (queue, outcomes, tasks):
        tasks.start_soon(try_check, queue, "second", outcomes)
        await anyio.wait_all_tasks_blocked()
        time.sleep(MAX_WAIT + 0.1)  # noqa: ASYNC251  # it holds the loop, so no timer tells "second" that it is too late
        gate.let_go(2)
        await try_check(queue, "third", outcomes)
    assert sorted(outcomes) == ["first", "second refused", "third"]


@pytest.mark.anyio
async def test_a_cancelled_check_that_waits_never_starts(gate: Gate) -> None:
    async with while_one_runs(gate) as (queue, outcomes, _):
        with anyio.move_on_after(0.05) as scope:
            await try_check(queue, "second", outcomes)
        assert scope.cancelled_caught
        gate.let_go()
    assert outcomes == ["first"]


@pytest.mark.anyio
async def test_a_cancelled_check_that_runs_keeps_its_thread_to_its_end(gate: Gate) -> None:
    queue = CheckQueue(gate, threads=1)
    outcomes: list[str] = []
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                await until(lambda: gate.running)
                scope.cancel()
                tasks.start_soon(try_check, queue, "second", outcomes)
                await anyio.wait_all_tasks_blocked()
                assert gate.running == ["first"]
                gate.let_go(2)

            tasks.start_soon(cancel)
            await try_check(queue, "first", outcomes)
        assert scope.cancelled_caught
        assert gate.running != ["first"]
    assert outcomes == ["second"]
    assert gate.most == 1


@pytest.mark.asyncio
async def test_a_check_that_asyncio_cancels_again_and_again_keeps_its_thread_to_its_end(gate: Gate) -> None:
    queue = CheckQueue(gate, threads=1)
    first = asyncio.create_task(queue("first"))
    await until(lambda: gate.running)
    for _ in range(3):
        first.cancel()
        await asyncio.sleep(0)
    second = asyncio.create_task(queue("second"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert gate.running == ["first"]
    gate.let_go(2)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "second"
    assert gate.most == 1


def test_an_event_loop_that_ends_with_a_check_under_way_ends_at_once_after_it(gate: Gate) -> None:
    queue = CheckQueue(gate, threads=1)

    async def main() -> None:
        tasks = [asyncio.create_task(queue("first")), asyncio.create_task(queue("second"))]
        await until(lambda: gate.running)
        gate.let_go(2)
        del tasks

    asyncio.run(asyncio.wait_for(main(), 10))

    async def again() -> Any:
        return await queue("again")

    gate.let_go()
    assert asyncio.run(again()) == "again"


@pytest.mark.anyio
async def test_what_was_measured_on_one_event_loop_counts_on_the_next() -> None:
    ended = threading.Event()

    def slow() -> None:
        # Not on virtual time: it is a thread that is measured.
        ended.wait(0.3)

    queue = CheckQueue(slow, threads=1)

    async def several() -> int:
        refused: list[str] = []

        async def one() -> None:
            try:
                await queue()
            except LoginRefused:
                refused.append("refused")

        at_once = 0
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
            await anyio.wait_all_tasks_blocked()
            at_once = len(refused)
            ended.set()
        return at_once

    await queue()
    assert await to_thread.run_sync(anyio.run, several) >= 15
