import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import checkpoint

from jwt_middleware._support.hooks import WORKER_THREADS, Hook


def here(greeting: str, name: str = "ada") -> tuple[str, int]:
    return f"{greeting}, {name}", threading.get_ident()


async def here_async(greeting: str, name: str = "ada") -> tuple[str, int]:
    await checkpoint()
    return here(greeting, name)


class Sync:
    def __call__(self, greeting: str) -> tuple[str, int]:
        return here(greeting)

    def method(self, greeting: str) -> tuple[str, int]:
        return here(greeting)


class Async:
    async def __call__(self, greeting: str) -> tuple[str, int]:
        return await here_async(greeting)

    async def method(self, greeting: str) -> tuple[str, int]:
        return await here_async(greeting)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(here, id="function"),
        pytest.param(lambda greeting: here(greeting), id="lambda"),
        pytest.param(partial(here, name="ada"), id="partial"),
        pytest.param(Sync(), id="object"),
        pytest.param(Sync().method, id="method"),
        pytest.param(partial(Sync()), id="partial of an object"),
    ],
)
async def test_a_sync_function_runs_in_a_worker_thread(function: Callable[[str], tuple[str, int]]) -> None:
    said, thread = await Hook(function)("hello")
    assert said == "hello, ada"
    assert thread != threading.get_ident()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(here_async, id="function"),
        pytest.param(partial(here_async, name="ada"), id="partial"),
        pytest.param(Async(), id="object"),
        pytest.param(Async().method, id="method"),
        pytest.param(lambda greeting: here_async(greeting), id="a lambda that gives a coroutine"),
        pytest.param(partial(Async()), id="partial of an object"),
    ],
)
async def test_an_async_function_runs_on_the_event_loop(function: Callable[[str], Awaitable[tuple[str, int]]]) -> None:
    assert await Hook(function)("hello") == ("hello, ada", threading.get_ident())


@pytest.mark.asyncio
@pytest.mark.parametrize("function", [here_async, partial(here_async), Async(), Async().method])
async def test_what_can_be_seen_to_be_async_costs_no_thread(
    function: Callable[[str], Awaitable[tuple[str, int]]],
) -> None:
    threads = set(threading.enumerate())
    await Hook(function)("hello")
    assert set(threading.enumerate()) == threads


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_what_a_function_raises_gets_through(is_async: bool) -> None:
    def fail() -> None:
        raise LookupError("no such user")

    async def fail_async() -> None:
        fail()

    with pytest.raises(LookupError, match="no such user"):
        await Hook(fail_async if is_async else fail)()


@pytest.mark.anyio
async def test_a_sync_function_sees_the_context_of_its_caller() -> None:
    request_id: ContextVar[str] = ContextVar("request_id")
    request_id.set("r-1")
    assert await Hook(request_id.get)() == "r-1"


@pytest.mark.anyio
async def test_sync_functions_use_up_no_thread_of_the_apps_endpoints() -> None:
    release = threading.Event()
    waiting = threading.Semaphore(0)

    def wait() -> None:
        waiting.release()
        release.wait(10)

    async def all_wait() -> None:
        for _ in range(WORKER_THREADS):
            await to_thread.run_sync(waiting.acquire, True, 10, limiter=CapacityLimiter(1))

    hook = Hook(wait)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            try:
                # Ten of them wait for a thread of the hook's own.
                for _ in range(WORKER_THREADS + 10):
                    tasks.start_soon(hook)
                await all_wait()
                limiter = to_thread.current_default_thread_limiter()
                assert limiter.borrowed_tokens == 0
                assert await to_thread.run_sync(lambda: "free") == "free"
                assert not waiting.acquire(timeout=0.05)  # the others wait
            finally:
                release.set()
            for _ in range(10):
                await to_thread.run_sync(waiting.acquire, True, 10)


@pytest.mark.anyio
async def test_each_hook_has_threads_of_its_own() -> None:
    release = threading.Event()
    slow = Hook(release.wait)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            try:
                for _ in range(WORKER_THREADS):
                    tasks.start_soon(slow, 10)
                await anyio.sleep(0.05)
                assert (await Hook(here)("hello"))[0] == "hello, ada"
            finally:
                release.set()


@pytest.mark.parametrize("loops", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "asyncio"), ("trio", "trio")])
def test_a_hook_serves_one_event_loop_after_another(loops: tuple[str, str]) -> None:
    hook = Hook(here)
    for backend in loops:
        said, thread = anyio.run(hook, "hello", backend=backend)
        assert said == "hello, ada"
        assert thread != threading.get_ident()


def test_a_hook_serves_several_event_loops_at_once() -> None:
    together = threading.Barrier(2, timeout=10)
    hook = Hook(together.wait)
    results: list[Any] = []
    loops = [threading.Thread(target=lambda: results.append(anyio.run(hook))) for _ in range(2)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join(10)
    assert sorted(results) == [0, 1]
