"""What is an operator told, and how? Every event is a class here; ``Events`` logs it and calls handlers."""

import logging
import time
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, fields
from functools import cache
from inspect import iscoroutinefunction
from threading import Lock
from typing import Any, ClassVar, Literal, TypeAlias

from ._support.arguments import check_callables
from .errors import ConfigurationError, Refusal

SECONDS_BETWEEN_LINES = 60
"""Seconds between two log lines about events of one kind. The next line says how many were left out."""

MAX_KINDS = 256
"""The number of kinds that are told apart; later ones share one line."""

MAX_TEXT = 200
"""The most characters of a text from a request that an event holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that an operator may want to know. No event holds a token, a secret or a password.

    ``str(event)`` is the log line. Every field is in the log record, too, under its own name.
    """

    about: ClassVar[str]
    """The subject: events of ``keys`` are logged by the logger ``jwt_middleware.keys``."""
    severity: ClassVar[int] = logging.INFO

    @property
    def level(self) -> int:
        """The level of the log line, as in ``logging``."""
        return self.severity

    @property
    def kind(self) -> Hashable | None:
        """Events of one kind are logged once a minute, with their number. If it is None, each one is logged."""
        return None


Handler: TypeAlias = Callable[[Event], object]
"""A plain function that is called with every event. It runs on the event loop: one that blocks blocks every request."""

Handlers: TypeAlias = Handler | Collection[Handler]
"""What ``on_event`` takes: one handler or several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Event):
    """A request was refused, or, on a public path, its token was ignored (``ignored``)."""

    about = "requests"

    code: str
    """The refusal's stable code, such as ``wrong_audience``."""
    status: int
    """The HTTP status of the answer."""
    provider: str | None = None
    """The provider that was asked."""
    kid: str | None = None
    """The token's ``kid``, verified or not."""
    subject: str | None = None
    """The token's subject, after a good signature only."""
    claim: str | None = None
    """The claim at fault."""
    expected: str | None = None
    """What would have passed."""
    found: str | None = None
    """What the token says instead."""
    seconds_off: float | None = None
    """By how many seconds the token came too late, or too early. Leeway is not included."""
    scheme: str | None = None
    """The scheme that came instead of Bearer, if it is a known one."""
    token_like: bool = False
    """Whether something like a JSON Web Token was in the Authorization header nevertheless."""
    method: str | None = None
    path: str | None = None
    """The path without the query."""
    client: str | None = None
    """The client's address, as the server reports it."""
    ignored: bool = False

    @property
    def level(self) -> int:
        """A warning if a setting is likely to be wrong; what clients do every day is informational."""
        if self.scheme is not None or self.token_like:
            return logging.WARNING
        return level_of(self.code)

    @property
    def kind(self) -> Hashable:
        """The code and the provider."""
        return self.code, self.provider

    def __str__(self) -> str:
        where = f" {self.method or 'WebSocket'} {self.path}" if self.path is not None else ""
        client = f" from {self.client}" if self.client is not None else ""
        outcome = "ignored the token of" if self.ignored else "refused"
        details = _details(self, _SHOWN)
        if self.token_like:
            details.append("something like a token came without the scheme Bearer")
        return f"{outcome}{where or ' a request'}{client}: {self.code}" + (
            f" ({', '.join(details)})" if details else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAccepted(Event):
    """A request with a good token goes to the app. Told only with ``JWTMiddleware(tell_accepted=True)``."""

    about = "requests"
    severity = logging.DEBUG

    provider: str
    kid: str | None
    subject: str | None
    method: str | None = None
    path: str
    """The path without the query."""
    client: str | None = None
    """The client's address, as the server reports it."""

    def __str__(self) -> str:
        client = f" from {self.client}" if self.client is not None else ""
        return f"accepted {self.method or 'WebSocket'} {self.path}{client} ({', '.join(_details(self, _WHOSE))})"


_WHOSE = ("provider", "kid", "subject")
_SHOWN = ("claim", "expected", "found", "seconds_off", "scheme", *_WHOSE)


def _details(event: Event, names: Iterable[str]) -> list[str]:
    return [f"{name}={getattr(event, name)}" for name in names if getattr(event, name) is not None]


def level_of(code: str) -> int:
    """The level of a refusal with this code, unless something else came in the token's place."""
    return logging.INFO if code in _EVERYDAY else logging.WARNING


_EVERYDAY = frozenset(
    {
        *("missing_token", "expired", "revoked", "user_refused", "insufficient_scope", "cross_site"),
        "insufficient_user_authentication",
    }
)
"""Codes of refusals that a well-configured service answers every day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysFetched(Event):
    """Keys were fetched for the first time, or differ from those before, or came after failed attempts."""

    about = "keys"

    source: str
    """Where the keys come from."""
    kids: tuple[str | None, ...]
    """The key ids in force now, eight at most."""
    changed: bool
    """Whether other keys were in force before."""
    after: str | None = None
    """Why the attempts before this one failed. None if the last attempt succeeded."""

    def __str__(self) -> str:
        what = "changed" if self.changed else "fetched"
        after = f", after: {self.after}" if self.after is not None else ""
        return f"keys of {self.source} {what}{after}; in force: {', '.join(map(repr, self.kids))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFinished(Event):
    """An attempt to fetch keys is over, whether it changed anything or not."""

    about = "keys"
    severity = logging.DEBUG

    source: str
    seconds: float
    """How long it took."""
    error: str | None = None
    """Why it failed. None if it succeeded."""

    def __str__(self) -> str:
        outcome = "succeeded" if self.error is None else f"failed: {self.error}"
        return f"fetching keys of {self.source} took {self.seconds:.3f} s and {outcome}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysFailed(Event):
    """Keys could not be fetched."""

    about = "keys"
    severity = logging.WARNING

    source: str
    error: str
    usable: bool
    """Whether keys from an earlier fetch are still in force."""

    def __str__(self) -> str:
        outcome = "the keys fetched before stay in force" if self.usable else "no keys: tokens are answered with 503"
        return f"keys of {self.source} could not be fetched: {self.error}; {outcome}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysExpired(Event):
    """Keys were not fetched for ``keys_max_stale`` seconds and are no longer used."""

    about = "keys"
    severity = logging.ERROR

    source: str
    max_stale: float
    error: str | None

    def __str__(self) -> str:
        return (
            f"keys of {self.source} were not fetched for {self.max_stale:g} s and are no longer used: tokens are "
            f"answered with 503; last error: {self.error}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySkipped(Event):
    """A key of a set is not used: it is broken or weak, or it is made for something else. The others are used."""

    about = "keys"

    source: str
    reason: str
    """Which key it is, and why it is not used."""
    is_broken: bool = True
    """Whether it is broken or weak. Otherwise it is made for something else, such as encryption."""

    @property
    def level(self) -> int:
        """A warning for a key that somebody should mend."""
        return logging.WARNING if self.is_broken else logging.INFO

    def __str__(self) -> str:
        return f"keys of {self.source}: skipped {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationsUnread(Event):
    """The log of revocations could not be read."""

    about = "revocations"

    error: str
    outcome: str
    """What happens meanwhile, in words."""
    stale: bool = False
    """Whether tokens are answered with 503 because of it."""

    @property
    def level(self) -> int:
        """An error if tokens are answered with 503, else a warning."""
        return logging.ERROR if self.stale else logging.WARNING

    def __str__(self) -> str:
        return f"revocations could not be read: {self.error}; {self.outcome}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationsRead(Event):
    """The log of revocations can be read again."""

    about = "revocations"
    severity = logging.WARNING

    after: str
    """Why it could not be read before."""

    def __str__(self) -> str:
        return f"revocations are read again, after: {self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened(Event):
    """A login opened a session."""

    about = "sessions"

    session_id: str
    subject: str

    def __str__(self) -> str:
        return f"session {self.session_id} opened for {self.subject!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRefreshed(Event):
    """A refresh token was exchanged for new tokens."""

    about = "sessions"
    severity = logging.DEBUG

    session_id: str
    subject: str
    generation: int
    """How many times the session has been refreshed."""

    def __str__(self) -> str:
        return f"session {self.session_id} of {self.subject!r} refreshed to generation {self.generation}"


EndReason: TypeAlias = Literal["logout", "revoked", "theft", "evicted", "user_refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """A session ended before its time."""

    about = "sessions"

    session_id: str
    subject: str | None
    """None if the request that ended it does not say."""
    reason: EndReason
    """``logout``: the user logged out. ``revoked``: the app ended it. ``theft``: a refresh token was presented again
    long after it was replaced, so two parties hold it. ``evicted``: the subject opened more than ``max_sessions``.
    ``user_refused``: ``reload_user`` refused the user."""

    @property
    def level(self) -> int:
        """A warning for theft."""
        return logging.WARNING if self.reason == "theft" else logging.INFO

    def __str__(self) -> str:
        return f"session {self.session_id} of {self.subject!r} ended: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesLost(Event):
    """A refresh token is newer than what the store knows: the store must have lost its last writes."""

    about = "sessions"
    severity = logging.WARNING

    session_id: str
    subject: str

    def __str__(self) -> str:
        return f"the store has lost writes: session {self.session_id} of {self.subject!r} is older there than its token"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLost(Event):
    """A refresh token was presented again, and its successor was never used: the client got another successor."""

    about = "sessions"

    session_id: str
    subject: str

    def __str__(self) -> str:
        return f"an answer was lost: session {self.session_id} of {self.subject!r} got another refresh token"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshRefused(Event):
    """A refresh token was refused."""

    about = "sessions"

    reason: str

    @property
    def kind(self) -> Hashable:
        """The reason."""
        return self.reason

    def __str__(self) -> str:
        return f"a refresh token was refused: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFailed(Event):
    """The session store gave no answer, or an error."""

    about = "sessions"
    severity = logging.WARNING

    error: str

    @property
    def kind(self) -> Hashable:
        """One kind for all errors."""
        return "store"

    def __str__(self) -> str:
        return f"the session store is unavailable: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSucceeded(Event):
    """A user logged in."""

    about = "logins"

    subject: str
    client: str | None = None
    """The client's address."""

    def __str__(self) -> str:
        return f"{self.subject!r} logged in from {self.client}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailed(Event):
    """A login had a wrong user name or password. The name is left out: people type passwords into the wrong field."""

    about = "logins"

    client: str | None = None

    @property
    def kind(self) -> Hashable:
        """One kind for all failures."""
        return "failed"

    def __str__(self) -> str:
        return f"a login from {self.client} failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginThrottled(Event):
    """A login was refused before its password was checked."""

    about = "logins"

    by: str
    """What was exhausted: the failures of the ``account``, those of the ``address``, or the ``hasher``."""
    client: str | None = None
    retry_after: int | None = None
    """Seconds after which the client may try again."""

    @property
    def kind(self) -> Hashable:
        """What was exhausted."""
        return self.by

    def __str__(self) -> str:
        return f"a login from {self.client} was refused, limited by {self.by}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleFailed(Event):
    """The storage that counts failed logins is unavailable."""

    about = "logins"
    severity = logging.WARNING

    error: str

    def __str__(self) -> str:
        return f"failed logins cannot be counted, so logins are answered with 503: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleRecovered(Event):
    """The storage that counts failed logins is available again."""

    about = "logins"

    def __str__(self) -> str:
        return "failed logins are counted again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionEnded(Event):
    """A WebSocket or a stream was closed because its token is no longer good."""

    about = "connections"

    code: str
    """The refusal's code: ``expired``, ``revoked`` and so on."""
    provider: str | None = None
    subject: str | None = None

    @property
    def kind(self) -> Hashable:
        """The code and the provider."""
        return self.code, self.provider

    def __str__(self) -> str:
        return f"a connection of {self.subject!r} was closed: {self.code} (provider={self.provider})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRenewed(Event):
    """A connection goes on with a new token."""

    about = "connections"
    severity = logging.DEBUG

    provider: str
    subject: str | None

    def __str__(self) -> str:
        return f"a connection of {self.subject!r} was renewed (provider={self.provider})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice(Event):
    """A setting is likely to be wrong, or something the service relies on is; the text says what to do."""

    about = "advice"
    severity = logging.WARNING

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class UnexpectedError(Event):
    """Something raised an unexpected exception: a mistake in this package, or in a function of the app.

    The log line has the traceback. The work that failed is tried again if that makes sense.
    """

    about = "details"
    severity = logging.ERROR

    where: str
    """What was being done."""
    error: str

    def __str__(self) -> str:
        return f"{self.where} failed: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail(Event):
    """Something that only matters to a person who looks for a fault in this package."""

    about = "details"
    severity = logging.DEBUG

    text: str

    def __str__(self) -> str:
        return self.text


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
        """Who is called with every event."""
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
        if any(iscoroutinefunction(one) or iscoroutinefunction(type(one).__call__) for one in handlers):
            raise ConfigurationError("on_event must be a plain function: nothing would await a coroutine function")
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
    cut = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
    return cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def describe_refusal(refusal: Refusal) -> dict[str, Any]:
    """The fields of ``RequestRefused`` that a refusal itself knows."""
    return {
        "code": refusal.code,
        "status": refusal.status,
        "provider": refusal.provider,
        "kid": None if refusal.kid is None else escape(refusal.kid),
        "subject": None if refusal.subject is None else escape(refusal.subject),
        "claim": refusal.claim,
        "expected": refusal.expected,
        "found": None if refusal.found is None else escape(refusal.found),
        "seconds_off": refusal.seconds_off,
    }


@cache
def logger_of(about: str) -> logging.Logger:
    """The logger of a subject."""
    return logging.getLogger(f"jwt_middleware.{about}")


def _extra(event: Event) -> dict[str, Any]:
    return {"event": type(event).__name__, **{field.name: getattr(event, field.name) for field in fields(event)}}
