"""Who works with a SQLite connection? One thread, which does the steps of one moment in one transaction."""

import sqlite3
from collections import deque
from collections.abc import Callable
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any, Generic, TypeVar, cast

from ..._support.background import Signal
from ...errors import StoreUnavailable

Result = TypeVar("Result")

PATIENCE = 0.8
"""Seconds within which a step must be done: less than a caller waits for it."""

MAX_STEPS = 512
"""The most steps in one transaction: more would hold the write lock, and the later ones, for too long."""

MAX_WAITING = 2048
"""The most steps that wait for a transaction."""

IDLE_SECONDS = 10
"""Seconds without a step after which the thread ends. The next step starts another."""


class StepQueue:
    """The steps of one connection; they are done in the order in which they came.

    While one transaction is written to the disk, the next steps gather, and share the next transaction: otherwise, a
    disk that takes 20 ms for each would do only 50 steps a second. A step that cannot be done in time is refused when
    it comes, instead of being done and thrown away.

    ``perform`` is called in the thread with the steps of one transaction, and gives the outcome of each. The thread is
    a daemon: it keeps no process from ending. (Worker threads of anyio are waited for at the interpreter's exit, and
    are told to end only by the event loop, which some servers never end.)
    """

    def __init__(self, name: str, perform: "Callable[[list[Step[Any]]], None]", close: Callable[[], None]) -> None:
        self._name = name
        self._perform = perform
        self._close = close
        self.reset()

    def reset(self) -> None:
        """Begin anew, without a thread: in a forked process there is none."""
        self.lock = Lock()
        """Held while a transaction is under way."""
        self._wakes = Condition(Lock())
        self._waiting: deque[Step[Any]] = deque()
        self._thread: Thread | None = None
        self._ends = False
        self._began: float | None = None
        # How long a transaction takes, smoothed.
        self._usual = 0.0

    async def run(self, work: Callable[[sqlite3.Connection, float], Result]) -> Result:
        """Do ``work(connection, now)`` in the thread. Raises ``StoreUnavailable`` if that cannot be done in time."""
        step = Step(work)
        with self._wakes:
            self._admit(step.came_at)
            self._waiting.append(step)
            self._wake()
        try:
            await step.done.wait()
        finally:
            # No caller waits for it any more: if it has not begun, it need not begin.
            step.is_wanted = False
        return step.outcome()

    async def aclose(self) -> None:
        """Close the connection once the steps before are done."""
        step = Step[None](lambda db, now: None)
        step.closes = True
        with self._wakes:
            has_thread = self._thread is not None
            if has_thread:
                self._waiting.append(step)
                self._wakes.notify()
        if has_thread:
            await step.done.wait()
        else:
            self.close_now()

    def close_now(self) -> None:
        """Close the connection as soon as no transaction is under way, or not at all."""
        if self.lock.acquire(timeout=PATIENCE):
            try:
                self._close()
            finally:
                self.lock.release()

    def end_thread(self) -> None:
        """End the thread when no transaction is under way: a process with threads must not be forked."""
        with self._wakes:
            thread, self._ends = self._thread, True
            self._wakes.notify()
        if thread is not None:
            thread.join(PATIENCE)

    def go_on(self) -> None:
        """Do the steps that have come since the thread was ended."""
        with self._wakes:
            self._ends = False
            if self._waiting:
                self._wake()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        else:
            self._wakes.notify()

    def _admit(self, now: float) -> None:
        if self._began is None and not self._waiting:
            return
        if len(self._waiting) >= MAX_WAITING:
            raise StoreUnavailable(f"{MAX_WAITING} steps wait already")
        elapsed = 0.0 if self._began is None else now - self._began
        expected = max(self._usual - elapsed, 0) + self._usual
        if expected > PATIENCE or elapsed > PATIENCE:
            raise StoreUnavailable(f"a transaction takes {max(self._usual, elapsed):.1f} s at the moment")

    def _work(self) -> None:
        while True:
            with self._wakes:
                has_work = self._wakes.wait_for(lambda: self._waiting or self._ends, IDLE_SECONDS)
                if not has_work or self._ends:
                    self._thread = None
                    return
                steps = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_STEPS))]
                self._began = monotonic()
            self._do(steps)
            with self._wakes:
                taken, self._began = monotonic() - self._began, None
                self._usual += (taken - self._usual) / 4
            for step in steps:
                step.done.set()
            # A step refers to its store, which must not live as long as this thread. There was at least one step.
            del step, steps  # pyright: ignore[reportPossiblyUnboundVariable]

    def _do(self, steps: "list[Step[Any]]") -> None:
        now = monotonic()
        for step in steps:
            if now - step.came_at > PATIENCE:
                step.error = StoreUnavailable(f"another transaction took more than {PATIENCE} s")
        doable = [step for step in steps if step.is_wanted and step.error is None and not step.closes]
        if self.lock.acquire(timeout=PATIENCE):
            try:
                if doable:
                    self._perform(doable)
                if any(step.closes for step in steps):
                    self._close()
            except BaseException as error:  # noqa: BLE001  # whoever waits for the steps hears of it
                for step in doable:
                    step.error = step.error or error
            finally:
                self.lock.release()
        else:
            for step in doable:
                step.error = StoreUnavailable("the file is being closed")


class Step(Generic[Result]):
    """One step that a caller waits for."""

    def __init__(self, work: Callable[[sqlite3.Connection, float], Result]) -> None:
        self.work = work
        self.came_at = monotonic()
        self.done = Signal()
        self.is_wanted = True
        self.closes = False
        self.result: Result | None = None
        self.error: BaseException | None = None

    def outcome(self) -> Result:
        """Return what the step returned, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return cast("Result", self.result)
