"""How is an operator told? ``Events`` logs an event and calls the handlers."""

import logging
import time
from collections.abc import Callable, Collection, Hashable
from functools import cache
from threading import Lock
from typing import Any, TypeAlias

from ._support.arguments import check_callables, check_plain_function
from .errors import Refusal
from .events import Event

Handler: TypeAlias = Callable[[Event], object]
"""A plain function that is called with every event. It runs on the event loop, so a slow one delays every request."""

Handlers: TypeAlias = Handler | Collection[Handler]
"""The type of ``on_event``: one handler or several."""

SECONDS_BETWEEN_LINES = 60
"""Seconds between two log lines about events of one kind. The next line says how many were left out."""

MAX_KINDS = 256
"""The number of kinds that are told apart; later ones share one line."""

MAX_TEXT = 200
"""The most characters of a text from a request that an event holds."""


class Events:
    """Tells events: writes each into the log and calls every handler. Any thread may call it.

    ``on_event``
        A plain function that takes an ``Event``, or several. They are called on the event loop, so one that blocks
        blocks every request. An exception is logged once and breaks nothing. If it is None, events are only logged.
    ``clock``
        Monotonic seconds.

    Raises ``ConfigurationError`` for a handler that cannot be called, or that is a coroutine function.
    """

    def __init__(self, on_event: Handlers | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.handlers: tuple[Handler, ...] = ()
        """The handlers that are called with every event."""
        self._clock = clock
        self._lock = Lock()
        self._said: set[Hashable] = set()
        self._counts: dict[Hashable, _Count] = {}
        self._failed: set[int] = set()
        if on_event is not None:
            self.add_handlers(on_event)

    def add_handlers(self, on_event: Handlers) -> None:
        """Call one handler, or several, with every event from now on; adding one again changes nothing."""
        handlers = check_callables("on_event", on_event, "event")
        for one in handlers:
            check_plain_function("on_event", one, "event")
        with self._lock:
            for one in handlers:
                if one not in self.handlers:
                    self.handlers = (*self.handlers, one)

    def skips(self, level: int, about: str, kind: Hashable) -> bool:
        """Whether an event of this level, subject and kind need not be made, because nobody would see it."""
        if self.handlers:
            return False
        if not logger_of(about).isEnabledFor(level):
            return True
        with self._lock:
            count = self._counts.get((about, kind))
            if count is None or self._clock() >= count.logged_at + SECONDS_BETWEEN_LINES:
                return False
            count.left_out += 1
            return True

    def tell(self, event: Event, *, once: Hashable | None = None, exc_info: BaseException | None = None) -> None:
        """Log ``event`` and call the handlers.

        ``once`` is a name for what is said only once: a later event of that name is not told at all. ``exc_info`` adds
        a traceback to the log line.
        """
        if once is not None:
            with self._lock:
                if once in self._said or len(self._said) >= MAX_KINDS:
                    return
                self._said.add(once)
        self._log(event, exc_info)
        for handler in self.handlers:
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001  # whatever it raises, the request goes on
                self._log_failure(handler, error)

    def _log(self, event: Event, exc_info: BaseException | None) -> None:
        logger, level = logger_of(event.about), event.level
        if not logger.isEnabledFor(level):
            return
        before = 0
        if event.kind is not None:
            line = self._count((event.about, event.kind))
            if line is None:
                return
            before = line
        text = f"{event} ({before} more of this kind since the last line)" if before else str(event)
        logger.log(level, "%s", text, exc_info=exc_info, extra=_extra(event))

    def _count(self, kind: Hashable) -> int | None:
        """How many events of ``kind`` were not logged since its last line; None if this one is not logged either."""
        with self._lock:
            if kind not in self._counts and len(self._counts) >= MAX_KINDS:
                kind = None
            count = self._counts.get(kind)
            now = self._clock()
            if count is None:
                self._counts[kind] = _Count(now)
                return 0
            if now < count.logged_at + SECONDS_BETWEEN_LINES:
                count.left_out += 1
                return None
            before, count.left_out, count.logged_at = count.left_out, 0, now
            return before

    def _log_failure(self, handler: Handler, error: Exception) -> None:
        with self._lock:
            first = id(handler) not in self._failed
            self._failed.add(id(handler))
        if first:
            logger_of("details").error("on_event raised an exception; further ones are not logged", exc_info=error)


class _Count:
    __slots__ = ("left_out", "logged_at")

    def __init__(self, logged_at: float) -> None:
        self.logged_at = logged_at
        self.left_out = 0


def escape(text: str) -> str:
    """``text``, which comes from a request, fit for a log line: control characters escaped, 200 characters at most."""
    shown = text[:MAX_TEXT]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    # An escaped character is up to ten.
    return shown if len(text) <= MAX_TEXT and len(shown) <= MAX_TEXT else f"{shown[:MAX_TEXT]}..."


def describe_refusal(refusal: Refusal) -> dict[str, Any]:
    """The fields of ``RequestRefused`` that a refusal itself knows."""
    return {
        "code": refusal.code,
        "status": refusal.status,
        "provider": refusal.provider,
        "kid": None if refusal.kid is None else escape(refusal.kid),
        "subject": None if refusal.subject is None else escape(refusal.subject),
        "claim": refusal.claim,
        "expected": None if refusal.expected is None else escape(refusal.expected),
        "found": None if refusal.found is None else escape(refusal.found),
        "seconds_off": refusal.seconds_off,
    }


@cache
def logger_of(about: str) -> logging.Logger:
    """The logger of a subject."""
    return logging.getLogger(f"jwt_middleware.{about}")


def _extra(event: Event) -> dict[str, Any]:
    return {"event": type(event).__name__, **vars(event)}
