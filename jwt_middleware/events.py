"""What is an operator told? A class for each event. ``telling.py`` says how."""

import logging
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias, dataclass_transform


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Event:
    """Something that an operator may want to know. No event holds a token, a secret or a password.

    ``str(event)`` is the log line. Every field is in the log record, too, under its own name.

    Each subclass is a frozen dataclass with keywords only. Its methods are those below: if each class had methods
    generated for itself, they would take a third of the time to import this package.
    """

    about: ClassVar[str]
    """The subject: events of ``keys`` are logged by the logger ``jwt_middleware.keys``."""
    severity: ClassVar[int] = logging.INFO
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    _names: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[Mapping[str, object]] = {}

    def __init_subclass__(cls) -> None:
        several = fields(dataclass(init=False, repr=False, eq=False, kw_only=True)(cls))
        cls._names = tuple(field.name for field in several)
        cls._defaults = {field.name: field.default for field in several if field.default is not MISSING}

    def __init__(self, **values: object) -> None:
        """Raises ``TypeError`` unless ``values`` are the fields of the class. Those with a default may be left out."""
        values = {**self._defaults, **values}
        if values.keys() != frozenset(self._names):
            raise TypeError(f"{type(self).__name__}() takes {', '.join(self._names)}, not {', '.join(values)}")
        self.__dict__.update(values)

    def __repr__(self) -> str:
        values = vars(self)
        return f"{type(self).__name__}({', '.join(f'{name}={values[name]!r}' for name in self._names)})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), frozenset(vars(self).items())))

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    @property
    def level(self) -> int:
        """The level of the log line, as in ``logging``."""
        return self.severity

    @property
    def kind(self) -> Hashable | None:
        """Events of one kind are logged once a minute, with their number. If it is None, each one is logged."""
        return None


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
        """The code, the provider, whether a scheme other than Bearer came, and whether the token was ignored."""
        # The level tells of the scheme. Requests without a token, which are many, must not hide such a line.
        return self.code, self.provider, self.level, self.ignored

    def __str__(self) -> str:
        where = f" {_request(self.method, self.path, self.client)}" if self.path is not None else " a request"
        outcome = "ignored the token of" if self.ignored else "refused"
        details = _details(self, _SHOWN)
        if self.token_like:
            details.append("something like a token came without the scheme Bearer")
        return f"{outcome}{where}: {self.code}" + (f" ({', '.join(details)})" if details else "")


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
        return f"accepted {_request(self.method, self.path, self.client)} ({', '.join(_details(self, _WHOSE))})"


_WHOSE = ("provider", "kid", "subject")
_SHOWN = ("claim", "expected", "found", "seconds_off", "scheme", *_WHOSE)


def _details(event: Event, names: Iterable[str]) -> list[str]:
    return [f"{name}={_quote(getattr(event, name))}" for name in names if getattr(event, name) is not None]


def _request(method: str | None, path: str, client: str | None) -> str:
    words = [method or "WebSocket", path, *(() if client is None else ("from", client))]
    return " ".join(repr(word) if " " in word else word for word in words)


def _quote(value: object) -> str:
    """``value`` in a line, in quotes if it could otherwise pass for another field, or for the rest of the line."""
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return repr(text) if any(mark in text for mark in _AMBIGUOUS) else text


_AMBIGUOUS = ("=", "(", ")", "'", '"', " from ")


def level_of(code: str) -> int:
    """The level of a refusal with this code, unless something else came in the token's place."""
    return logging.INFO if code in _EVERYDAY else logging.WARNING


_EVERYDAY = frozenset(
    {
        *("missing_token", "expired", "revoked", "user_refused", "insufficient_scope"),
        "insufficient_user_authentication",
    }
)
"""Codes of refusals that a well-configured service answers every day."""


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


class RevocationsRead(Event):
    """The log of revocations can be read again."""

    about = "revocations"
    severity = logging.WARNING

    after: str
    """Why it could not be read before."""

    def __str__(self) -> str:
        return f"revocations are read again, after: {self.after}"


class SessionOpened(Event):
    """A login opened a session."""

    about = "sessions"

    session_id: str
    subject: str

    def __str__(self) -> str:
        return f"session {self.session_id} opened for {self.subject!r}"


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


class WritesLost(Event):
    """A refresh token is newer than what the store knows: the store must have lost its last writes."""

    about = "sessions"
    severity = logging.WARNING

    session_id: str
    subject: str

    def __str__(self) -> str:
        return f"the store has lost writes: session {self.session_id} of {self.subject!r} is older there than its token"


class AnswerLost(Event):
    """A refresh token was presented again, and its successor was never used: the client got another successor."""

    about = "sessions"

    session_id: str
    subject: str

    def __str__(self) -> str:
        return f"an answer was lost: session {self.session_id} of {self.subject!r} got another refresh token"


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


class LoginSucceeded(Event):
    """A user logged in."""

    about = "logins"

    subject: str
    client: str | None = None
    """The client's address."""

    def __str__(self) -> str:
        return f"{self.subject!r} logged in from {self.client}"


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


class ThrottleFailed(Event):
    """The storage that counts failed logins is unavailable."""

    about = "logins"
    severity = logging.WARNING

    error: str

    def __str__(self) -> str:
        return f"failed logins cannot be counted, so logins are answered with 503: {self.error}"


class ThrottleRecovered(Event):
    """The storage that counts failed logins is available again."""

    about = "logins"

    def __str__(self) -> str:
        return "failed logins are counted again"


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


class ConnectionRenewed(Event):
    """A connection goes on with a new token."""

    about = "connections"
    severity = logging.DEBUG

    provider: str
    subject: str | None

    def __str__(self) -> str:
        return f"a connection of {self.subject!r} was renewed (provider={self.provider})"


class Advice(Event):
    """A setting, or something that the service relies on, is likely to be wrong. The text says what to do."""

    about = "advice"
    severity = logging.WARNING

    text: str

    def __str__(self) -> str:
        return self.text


class GuardReplaced(Event):
    """An entry of ``dependency_overrides`` takes the place of a route's guard. Told once for each route."""

    about = "advice"
    severity = logging.WARNING

    path: str
    """As it was declared."""
    method: str | None = None
    """None for a WebSocket route."""

    def __str__(self) -> str:
        return (
            f"dependency_overrides take the place of the guard of {self.method or 'WebSocket'} {self.path}: the route "
            "is open to requests without a token (said once for each route)"
        )


class LocalKeyMade(Event):
    """``headers_for`` made a key for tests, whose tokens are accepted until this process ends."""

    about = "advice"
    severity = logging.WARNING

    provider: str
    """The provider in whose name the key signs."""

    def __str__(self) -> str:
        return (
            f"headers_for() made a key for tests: until this process ends, tokens for {self.provider!r} that are "
            "signed with it are accepted, too"
        )


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


class Detail(Event):
    """Something that only matters to a person who looks for a fault in this package."""

    about = "details"
    severity = logging.DEBUG

    text: str

    def __str__(self) -> str:
        return self.text
