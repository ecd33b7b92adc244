"""When is a fetch of keys due, when is it allowed, when is it given up, and when are keys too old? Pure.

A ``Schedule`` is a value. Its methods take the time and return what to do next, or the schedule after something has
happened. ``RemoteKeys`` carries the steps out. All times are seconds of one monotonic clock.
"""

from dataclasses import dataclass, replace
from enum import Enum
from math import inf, isfinite

from .._support.arguments import check_seconds
from ..errors import ConfigurationError

COOLDOWN_WITHOUT_KEYS = 1
"""Seconds between two attempts while there are no keys at all, unless ``cooldown`` is shorter."""

LONGEST_WITHOUT_ATTEMPT = 3600
"""Seconds after which keys are withheld from requests if no attempt has run to its end in the meantime."""

PATIENCE_WITH_LOOPS = 1
"""Seconds beyond ``timeout`` after which an attempt must have been left behind by its event loop."""


class Step(Enum):
    """What to do about the keys now."""

    NOTHING = "nothing"
    FETCH = "fetch"
    """A refresh is due. Requests go on with the keys in force."""
    WITHHOLD = "withhold"
    """Event loops ended before they could refresh the keys: the next request waits for one attempt."""
    DISCARD = "discard"
    """The keys are older than ``keys_max_stale``."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of ``RemoteKeys`` that say when, in seconds."""

    cooldown: float
    refresh_after: float
    refresh_limits: tuple[float, float]
    max_stale: float
    timeout: float

    def lifetime(self, max_age: float | None) -> float:
        """How long keys are used before they are refreshed, if the answer allows ``max_age`` seconds."""
        least, most = self.refresh_limits
        lifetime = self.refresh_after if max_age is None else min(max(max_age, least), most)
        return min(lifetime, self.max_stale / 2)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What has happened to the keys so far, and what follows from it."""

    rules: Rules
    has_keys: bool = False
    is_withheld: bool = False
    fetched: float = -inf
    """When the keys were last found to be current."""
    finished: float = -inf
    """When an attempt last ran to its end, whether it succeeded or not."""
    begun: float = -inf
    """When the last attempt began, or, once it has asked the provider, when it asked."""
    lost_at: float | None = None
    """When the attempt under way is given up. None if there is none."""
    allowed_at: float = -inf
    """The end of the cooldown."""
    refresh_at: float = -inf

    def seconds_to_refresh(self, now: float) -> float | None:
        """Seconds until the next attempt, 0 if it is due. None if none is planned."""
        return max(0.0, self.refresh_at - now) if isfinite(self.refresh_at) else None

    @property
    def due(self) -> float:
        """The time until which ``next_step`` has nothing to do."""
        if not self.has_keys:
            return self.refresh_at
        if self.is_withheld:
            return min(self.refresh_at, self._stale_at)
        return min(self.refresh_at, self._stale_at, self._withheld_at)

    def next_step(self, now: float) -> Step:
        """What to do about the keys now."""
        if self.has_keys and now >= self._stale_at:
            return Step.DISCARD
        if self.has_keys and not self.is_withheld and now >= self._withheld_at:
            return Step.WITHHOLD
        return Step.FETCH if now >= self.refresh_at else Step.NOTHING

    def is_under_way(self, now: float) -> bool:
        """Whether an attempt is under way and not yet given up."""
        return self.lost_at is not None and now < self.lost_at

    def may_begin(self, now: float) -> bool:
        """Whether an attempt may begin now, if none is under way.

        Withheld keys have no cooldown: requests wait for them, and no attempt has run to its end for an hour.
        """
        return self.is_withheld or now >= self.allowed_at

    def begin(self, now: float) -> "Schedule":
        """An attempt begins, or still waits for its turn. It has not asked anything, so it starts no cooldown."""
        lost_at = now + self.rules.timeout + PATIENCE_WITH_LOOPS
        return replace(self, begun=now, lost_at=lost_at, refresh_at=lost_at)

    def ask(self, now: float) -> "Schedule":
        """The attempt under way asks the provider: its time and the cooldown begin."""
        cooldown = self.rules.cooldown if self.has_keys else min(COOLDOWN_WITHOUT_KEYS, self.rules.cooldown)
        schedule = self.begin(now)
        return replace(schedule, allowed_at=now + cooldown, refresh_at=max(schedule.refresh_at, now + cooldown))

    def succeed(self, now: float, max_age: float | None, chance: float) -> "Schedule":
        """The attempt brought keys. ``chance``, from 0 to 1, moves the next refresh so that processes do not meet."""
        # An attempt that began without keys had a shorter cooldown.
        allowed_at = max(self.allowed_at, self.begun + self.rules.cooldown)
        ahead = self.rules.lifetime(max_age) * (0.75 + 0.2 * chance)
        return replace(
            self,
            has_keys=True,
            is_withheld=False,
            fetched=now,
            finished=now,
            lost_at=None,
            allowed_at=allowed_at,
            refresh_at=max(now + ahead, allowed_at),
        )

    def fail(self, now: float, chance: float) -> "Schedule":
        """The attempt brought no keys."""
        later = self.rules.cooldown * 0.25 * chance if self.has_keys else 0
        return replace(self, is_withheld=False, finished=now, lost_at=None, refresh_at=self.allowed_at + later)

    def cut_short(self) -> "Schedule":
        """The attempt ended without an outcome: its event loop ended, or was told to stop."""
        return replace(self, lost_at=None, refresh_at=self.allowed_at)

    def withhold(self) -> "Schedule":
        """Requests get no keys until an attempt has run to its end, or one has waited for as long as it may."""
        return replace(self, is_withheld=True)

    def release(self, now: float) -> "Schedule":
        """A request has waited for as long as it may: all go on with the keys that there are."""
        return replace(self, is_withheld=False, finished=now)

    def discard(self, now: float) -> "Schedule":
        """There are no keys any more."""
        allowed_at = min(self.allowed_at, now + COOLDOWN_WITHOUT_KEYS)
        return replace(self, has_keys=False, is_withheld=False, allowed_at=allowed_at, refresh_at=allowed_at)

    def inherit(self) -> "Schedule":
        """The schedule of a forked process: the keys are its own, its parent's attempts are not."""
        refresh_at = self.refresh_at if self.lost_at is None else -inf
        return replace(self, lost_at=None, allowed_at=-inf, refresh_at=refresh_at)

    @property
    def _stale_at(self) -> float:
        return self.fetched + self.rules.max_stale

    @property
    def _withheld_at(self) -> float:
        longest = max(LONGEST_WITHOUT_ATTEMPT, self.rules.refresh_limits[1], self.rules.refresh_after)
        return self.finished + longest


def make_rules(
    is_file: bool,
    cooldown: float | None,
    refresh_after: float | None,
    refresh_limits: tuple[float, float],
    keys_max_stale: float,
    timeout: float,
) -> Rules:
    """The rules that the arguments of ``RemoteKeys`` set. Raises ``ConfigurationError``."""
    rules = Rules(
        cooldown=check_seconds("cooldown", (1 if is_file else 30) if cooldown is None else cooldown),
        refresh_after=check_seconds(
            "refresh_after", (5 if is_file else 600) if refresh_after is None else refresh_after
        ),
        refresh_limits=_check_limits(refresh_limits),
        max_stale=check_seconds("keys_max_stale", keys_max_stale),
        timeout=check_seconds("timeout", timeout),
    )
    if timeout == 0:
        raise ConfigurationError("timeout must be more than 0 seconds")
    if rules.max_stale <= 2 * rules.cooldown:
        raise ConfigurationError(
            f"keys_max_stale must be more than twice the cooldown ({rules.cooldown:g} s); otherwise good keys could "
            "expire between two attempts"
        )
    return rules


def _check_limits(limits: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(limits, tuple | list) or len(limits) != 2:
        raise ConfigurationError(f"refresh_limits must be two numbers of seconds, not {limits!r}")
    least, most = check_seconds("refresh_limits", limits[0]), check_seconds("refresh_limits", limits[1])
    if least > most:
        raise ConfigurationError(f"refresh_limits must be the least and then the most, not {limits!r}")
    return least, most
