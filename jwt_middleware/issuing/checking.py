"""When does a password check run? In a worker thread, when it is the client's turn."""

import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from math import inf
from typing import Any

from anyio import CancelScope, CapacityLimiter, Event, get_cancelled_exc_class, move_on_after, to_thread

from .._support.background import Background
from .._support.loops import PerLoop
from .throttle import LoginRefused
from .turns import RETRY_AFTER, Turns

CLIENT: ContextVar[str] = ContextVar("jwt_middleware.client", default="")
"""The client address of the login that is under way. Logins that name no address share one turn."""


class CheckQueue:
    """Calls the sync ``function`` in worker threads, ``threads`` at once, one client address after the other.

    ``seconds`` is how long a call takes; 0 if that is not known. ``Turns`` decides who is next. A call
    that cannot start within a second is refused at once, or at the latest after that second, with ``LoginRefused``
    (503). A call that has started runs to its end and keeps its thread until then, even if its request is cancelled:
    otherwise, clients that hang up would get more threads than there are.

    Each event loop has its own queue.
    """

    def __init__(self, function: Callable[..., Any], *, threads: int, seconds: float = 0.0) -> None:
        self._function = function
        self._seconds = seconds
        self._background = Background("password checks")
        self._turns: PerLoop[Turns[_Check]] = PerLoop(lambda: Turns(threads=threads, seconds=self._seconds))
        # `Turns` counts the threads. anyio's default limit is shared with the app's sync endpoints.
        self._limiter: PerLoop[CapacityLimiter] = PerLoop(lambda: CapacityLimiter(inf))

    def check_admission(self) -> None:
        """Raise ``LoginRefused`` if a call for the current client would be refused now."""
        if not self._turns.get().admits(CLIENT.get(), time.monotonic()):
            raise _busy()

    async def __call__(self, *arguments: Any) -> Any:
        """Return what ``function(*arguments)`` returns, awaited if it is awaitable."""
        turns = self._turns.get()
        check = _Check(partial(copy_context().run, self._function, *arguments))
        refused = turns.ask(CLIENT.get(), check, time.monotonic())
        if refused is not None:
            refused.decided.set()
        self._start(turns)
        try:
            with move_on_after(turns.patience):
                await check.decided.wait()
        finally:
            if not check.has_started:
                turns.withdraw(check, time.monotonic())
        if not check.has_started:
            raise _busy()
        try:
            await check.ended.wait()
        except get_cancelled_exc_class():
            # The caller learns of it only when the thread is free again. Until then, the call still counts.
            with CancelScope(shield=True):
                await check.ended.wait()
            raise
        result = check.outcome()
        return await result if isawaitable(result) else result

    def _start(self, turns: "Turns[_Check]") -> None:
        while True:
            for late in turns.expire(time.monotonic()):
                late.decided.set()
            check = turns.start()
            if check is None:
                return
            check.has_started = True
            check.decided.set()
            # Whatever becomes of the task, no request waits for it forever.
            self._background.start(partial(self._run, turns, check), ended=check.ended.set)

    async def _run(self, turns: "Turns[_Check]", check: "_Check") -> None:
        started_at = time.monotonic()
        try:
            await to_thread.run_sync(check.run, limiter=self._limiter.get())
        finally:
            turns.end(time.monotonic() - started_at)
            self._seconds = turns.seconds
            check.ended.set()
        # Not reached if this task was cancelled: the event loop is then about to end.
        self._start(turns)


@dataclass(eq=False, slots=True)
class _Check:
    call: Callable[[], Any] = field(repr=False)
    """Holds the password."""
    decided: Event = field(default_factory=Event)
    """Set when it is known whether the check starts or is refused."""
    has_started: bool = False
    ended: Event = field(default_factory=Event)
    result: Any = field(default=None, repr=False)
    error: BaseException | None = None

    def run(self) -> None:
        # The outcome stays here: trio lets no coroutine out of a thread, and a sync function may return one.
        try:
            self.result = self.call()
        except BaseException as error:  # noqa: BLE001  # raised again by outcome()
            self.error = error

    def outcome(self) -> Any:
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            # Its traceback refers to this frame.
            del error


def _busy() -> LoginRefused:
    return LoginRefused(503, "Too many logins are being checked. Try again.", retry_after=RETRY_AFTER, by="hasher")
