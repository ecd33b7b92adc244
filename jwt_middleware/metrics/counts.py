"""What is counted, and under which names? Plain numbers that the exporters read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Final, Literal, TypeAlias
from weakref import WeakSet

from starlette.types import Scope

from ..accepted import hear_accepted
from ..events import (
    Event,
    FetchFinished,
    LoginFailed,
    LoginSucceeded,
    LoginThrottled,
    RequestRefused,
    SessionEnded,
    SessionRefreshed,
)
from ..middleware import JWTMiddleware
from ..probes import look_at_revocations
from ..verifying.token import Token

Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name below ``jwt_middleware.``, its unit (UCUM), what it measures, and whether it only grows."""

    name: str
    unit: str
    description: str
    kind: Literal["counter", "gauge", "histogram"] = "counter"
    labels: tuple[str, ...] = ()


REFUSED: Final = Metric(
    "requests.refused", "{request}", "Requests that were refused.", labels=("error.type", "provider")
)
IGNORED: Final = Metric(
    "tokens.ignored", "{token}", "Bad tokens that a public path ignored.", labels=("error.type", "provider")
)
VERIFIED: Final = Metric("tokens.verified", "{token}", "Tokens that were found good.", labels=("state",))
VERIFICATIONS: Final = Metric(
    "tokens.verification.duration", "s", "How long verifying new tokens took, without waiting.", "histogram"
)
FETCHES: Final = Metric("keys.fetch.duration", "s", "How long fetching keys took.", "histogram", labels=("error.type",))
KEYS: Final = Metric("keys.count", "{key}", "Keys in force.", "gauge", labels=("provider",))
AGE: Final = Metric("keys.age", "s", "Time since the keys were found to be current.", "gauge", labels=("provider",))
REVOCATIONS: Final = Metric("revocations.lag", "s", "Time since the revocations were read.", "gauge")
CONNECTIONS: Final = Metric("connections.open", "{connection}", "Connections that end with their token.", "gauge")
REFRESHES: Final = Metric("sessions.refreshes", "{refresh}", "Refresh tokens that were exchanged.")
THEFTS: Final = Metric("sessions.thefts", "{session}", "Sessions that ended because a refresh token was stolen.")
LOGINS: Final = Metric("logins", "{login}", "Logins by their outcome.", labels=("outcome",))

METRICS: Final = (
    *(REFUSED, IGNORED, VERIFIED, VERIFICATIONS, FETCHES, KEYS, AGE),
    *(REVOCATIONS, CONNECTIONS, REFRESHES, THEFTS, LOGINS),
)

BUCKETS: Final = {
    # A signature takes 20 to 300 µs to verify.
    VERIFICATIONS: (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    # An attempt takes 5 s at most.
    FETCHES: (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
}
"""Upper bounds of each histogram, in seconds. Histograms are expensive, so only rare events have one."""

MAX_SERIES: Final = 2000
"""The number of combinations of labels that are told apart. Later ones count as the provider ``other``."""


class Counts:
    """Counts events, and reads what ``JWTMiddleware`` knows. Give it to ``on_event`` of the middleware, of ``Sessions``
    and of ``auth_routes``. Any thread may read.

    Nothing that a request says becomes a label: only codes, names of providers and outcomes do.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._counters: dict[tuple[Metric, Labels], int] = {}
        self._watched: WeakSet[JWTMiddleware] = WeakSet()
        self._accepted = self._remembered = 0

    def __call__(self, event: Event) -> None:
        """Count ``event``."""
        if isinstance(event, RequestRefused):
            metric = IGNORED if event.ignored else REFUSED
            self._add(metric, ("error.type", event.code), ("provider", event.provider or ""))
        elif isinstance(event, SessionRefreshed):
            self._add(REFRESHES)
        elif isinstance(event, SessionEnded) and event.reason == "theft":
            self._add(THEFTS)
        elif isinstance(event, LoginSucceeded):
            self._add(LOGINS, ("outcome", "succeeded"))
        elif isinstance(event, LoginFailed):
            self._add(LOGINS, ("outcome", "failed"))
        elif isinstance(event, LoginThrottled):
            self._add(LOGINS, ("outcome", "throttled"))
        elif isinstance(event, FetchFinished):
            self.record(FETCHES, event.seconds, ("error.type", "" if event.error is None else "failed"))

    def record(self, metric: Metric, seconds: float, *labels: tuple[str, str]) -> None:
        """Something took ``seconds``. Exporters override it with their histograms."""

    def watch(self, middleware: JWTMiddleware) -> None:
        """From now on, read what ``middleware`` knows. A middleware calls this itself for its ``on_event``."""
        self._watched.add(middleware)
        middleware.app = hear_accepted(middleware.app, self._count_accepted)
        middleware.verifier.time_new_tokens(partial(self.record, VERIFICATIONS))

    def read(self) -> Iterable[tuple[Metric, Labels, float]]:
        """Every metric but the histogram, with its labels and its value now."""
        watched = list(self._watched)
        new = sum(one.verifier.new_tokens for one in watched)
        with self._lock:
            counters = list(self._counters.items())
            # A counter must never fall, and a new token may be refused for another reason.
            self._remembered = max(self._remembered, self._accepted - new)
        for (metric, labels), value in counters:
            yield metric, labels, value
        yield VERIFIED, (("state", "new"),), new
        yield VERIFIED, (("state", "remembered"),), self._remembered
        yield CONNECTIONS, (), sum(one.open_connections for one in watched)
        for middleware in watched:
            yield from _read_keys(middleware)
            revocations, _ = look_at_revocations(middleware.verifier.revocations)
            if revocations is not None and revocations.age is not None:
                yield REVOCATIONS, (), revocations.age

    def _add(self, metric: Metric, *labels: tuple[str, str]) -> None:
        with self._lock:
            if (metric, labels) not in self._counters and len(self._counters) >= MAX_SERIES:
                labels = tuple((name, "other" if name == "provider" else value) for name, value in labels)
            self._counters[metric, labels] = self._counters.get((metric, labels), 0) + 1

    def _count_accepted(self, token: Token, scope: Scope) -> None:
        # Not locked: at most a few in millions are lost between threads.
        self._accepted += 1


def _read_keys(middleware: JWTMiddleware) -> Iterable[tuple[Metric, Labels, float]]:
    for name, health in middleware.verifier.health().items():
        labels = (("provider", name),)
        yield KEYS, labels, health.keys
        if health.age is not None:
            yield AGE, labels, health.age


def merged(read: Iterable[tuple[Metric, Labels, float]]) -> Mapping[Metric, dict[Labels, float]]:
    """What was read, by metric and labels. If two middlewares have a provider of the same name, the last one counts."""
    found: dict[Metric, dict[Labels, Any]] = {metric: {} for metric in METRICS if metric.kind != "histogram"}
    for metric, labels, value in read:
        found[metric][labels] = value
    return found
