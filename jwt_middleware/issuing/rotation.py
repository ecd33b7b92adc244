"""Which refresh token renews its session? One row a session, and the rule by which its generation moves. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A login, as a store keeps it. Moments are Unix time by the store's clock, ``access_until`` alone by ours."""

    id: str
    """The ``sid`` of its tokens."""
    subject: str
    generation: int = field(default=1, repr=False)
    """The refresh token that is good now."""
    opened_at: float
    rotated_at: float = field(repr=False)
    """When the current generation was made."""
    used_at: float
    """When it was last renewed; when it was opened, before that."""
    ends_at: float
    """When it is over, however often it is renewed."""
    expires_at: float
    """When it is over unless it is renewed before."""
    access_until: int = field(repr=False)
    """The latest ``exp`` of its access tokens."""
    scopes: tuple[str, ...] = ()
    """What was granted at login."""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The further claims of its access tokens."""
    device: str = ""
    """What the app noted about the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A session that is to begin; the store knows when that is. Durations are seconds."""

    id: str
    subject: str
    idle_lifetime: float
    session_lifetime: float
    access_until: int
    scopes: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""

    def begun(self, now: float) -> Session:
        """The session that begins at ``now``."""
        ends_at = now + self.session_lifetime
        return Session(
            id=self.id,
            subject=self.subject,
            opened_at=now,
            rotated_at=now,
            used_at=now,
            ends_at=ends_at,
            expires_at=min(now + self.idle_lifetime, ends_at),
            access_until=self.access_until,
            scopes=self.scopes,
            claims=self.claims,
            device=self.device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A refresh token that is presented, and what it would bring. Durations are seconds."""

    id: str
    generation: int
    """The presented one."""
    grace: float
    idle_lifetime: float
    access_until: int
    """The ``exp`` of the access token that will be given for it."""
    deadline: float
    """By the store's clock: who asked waits no longer, so that what happens later would be taken for theft."""


class Outcome(Enum):
    """What becomes of a presented generation."""

    NEXT = "next"
    """It is the current one: the session moves to the one behind it."""
    AGAIN = "again"
    """A parallel tab, or an answer that was lost: the current generation is given again."""
    AHEAD = "ahead"
    """It is higher than any that the store knows: the store lost writes, and moves past it."""
    THEFT = "theft"
    """It was replaced more than ``grace`` ago: two hold what only one was given. The session ends."""
    GONE = "gone"
    """There is no such session, or it is over."""
    LATE = "late"
    """The deadline is over: nothing was done."""


def rotated(session: Session | None, rotation: Rotation, now: float) -> tuple[Outcome, Session | None]:
    """What becomes of ``session`` by ``rotation`` at ``now``, the store's clock. None: it ends."""
    if now > rotation.deadline:
        return Outcome.LATE, session
    if session is None or now >= session.expires_at:
        return Outcome.GONE, None
    presented, current = rotation.generation, session.generation
    is_graced = now < session.rotated_at + rotation.grace
    if presented > current:
        outcome, generation = Outcome.AHEAD, presented + 1
    # A clock that was set back does not make a generation good until it has caught up.
    elif presented == current and (now < session.rotated_at or not is_graced):
        outcome, generation = Outcome.NEXT, current + 1
    elif presented == current or (presented == current - 1 and is_graced):
        outcome, generation = Outcome.AGAIN, current
    else:
        return Outcome.THEFT, None
    moved = replace(
        session,
        generation=generation,
        rotated_at=session.rotated_at if outcome is Outcome.AGAIN else now,
        used_at=now,
        expires_at=min(now + rotation.idle_lifetime, session.ends_at),
        access_until=max(session.access_until, rotation.access_until),
    )
    return outcome, moved
