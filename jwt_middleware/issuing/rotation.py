"""Which refresh token renews its session? A session, and the rule by which its generation moves. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

from ..revocation.revoked import RETENTION, Claim, Revocation


class Realm(NamedTuple):
    """The provider and issuer that assigned the identifiers: others may use the same ones for somebody else."""

    provider: str
    issuer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A login, as a store keeps it. All moments are Unix time by the store's clock."""

    id: str
    """The ``sid`` of its tokens."""
    realm: Realm = field(repr=False)
    subject: str
    generation: int = field(default=1, repr=False)
    """The generation of the refresh token that is good now."""
    parent: int | None = field(default=None, repr=False)
    """The generation that the current one replaced."""
    is_used: bool = field(default=False, repr=False)
    """Whether a refresh token of the current generation has been presented."""
    opened_at: float
    rotated_at: float = field(repr=False)
    """When the current generation was made, by the store's steady time (see ``SteadyTime``)."""
    used_at: float
    """When it was last refreshed, or opened if it has never been refreshed."""
    ends_at: float
    """When it ends, however often it is refreshed."""
    expires_at: float
    """When it ends unless it is refreshed before then."""
    access_until: float = field(repr=False)
    """The latest ``exp`` of its access tokens."""
    scopes: tuple[str, ...] = ()
    """What was granted at login."""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Further claims of its access tokens."""
    device: str = ""
    """The app's note about the device."""

    def is_alive(self, realm: Realm, now: float) -> bool:
        """Whether it is a session of ``realm`` that has not ended."""
        return self.realm == realm and now < self.expires_at

    def revoke(self) -> Revocation:
        """The revocation of all its tokens."""
        return revoke_session(self.id, self.realm, self.access_until)


def revoke_session(id: str, realm: Realm, access_until: float) -> Revocation:
    """The revocation of a session whose access tokens expire by ``access_until``."""
    return Revocation(realm.provider, "sid", id, access_until + RETENTION, realm.issuer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A session that is about to begin. The store adds the time. Durations are seconds."""

    id: str
    realm: Realm
    subject: str
    idle_lifetime: float
    session_lifetime: float
    access_lifetime: float
    """The lifetime of its first access token."""
    scopes: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""

    def begin(self, now: float, steady: float) -> Session:
        """The session that begins at ``now``, which is ``steady`` in steady time."""
        ends_at = now + self.session_lifetime
        return Session(
            id=self.id,
            realm=self.realm,
            subject=self.subject,
            opened_at=now,
            rotated_at=steady,
            used_at=now,
            ends_at=ends_at,
            expires_at=min(now + self.idle_lifetime, ends_at),
            access_until=now + self.access_lifetime,
            scopes=self.scopes,
            claims=self.claims,
            device=self.device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A presented refresh token, and the terms on which it is renewed. Durations are seconds."""

    id: str
    realm: Realm
    generation: int
    """The presented generation."""
    grace: float
    idle_lifetime: float
    access_lifetime: float
    """The lifetime of the access token that is given for it."""
    deadline: float
    """By the store's clock. No request waits for an answer after it, so a later rotation would look like theft."""
    reuse_until_used: bool = False
    """Whether the parent is good until the current generation has been presented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRequest:
    """A session or token that is to be revoked. The store adds the time."""

    realm: Realm
    claim: Claim
    value: str
    lifetime: float
    """The longest time, in seconds, for which its tokens are still good."""

    def begin(self, now: float) -> Revocation:
        """The revocation that begins at ``now``."""
        until = now + self.lifetime + RETENTION
        return Revocation(self.realm.provider, self.claim, self.value, until, self.realm.issuer)


class Outcome(Enum):
    """The outcome for a presented generation."""

    NEXT = "next"
    """It is the current one: the session moves on to the next."""
    AGAIN = "again"
    """A parallel tab, or an answer that was lost a moment ago: the current generation is given again."""
    REISSUED = "reissued"
    """An answer was lost: the generation that no client has presented is replaced by a new one."""
    AHEAD = "ahead"
    """It is higher than the store knows: the store has lost writes, and moves past it."""
    THEFT = "theft"
    """It was replaced long ago, so two parties hold the token: the session ends."""
    GONE = "gone"
    """There is no such session, or it has ended."""
    LATE = "late"
    """The deadline has passed: nothing was done."""


def rotate(session: Session | None, rotation: Rotation, now: float, steady: float) -> tuple[Outcome, Session | None]:
    """Decide what happens to ``session`` if ``rotation.generation`` is presented, by the store's clock and steady time.

    1. After the deadline nothing is done: ``LATE``.
    2. No session, one of another realm, or one past its end: ``GONE``.
    3. A higher generation than the current one: ``AHEAD``.
    4. The current one: ``AGAIN`` within ``grace`` of its making, else ``NEXT``.
    5. Its parent: ``AGAIN`` within ``grace``; later ``REISSUED``, if that is allowed and the current one is unused.
    6. Any other: ``THEFT``. The session is returned as it was; the store ends it.

    A generation is given out again for at most ``grace`` seconds. Two holders of one token therefore cannot take
    turns unnoticed: sooner or later one of them presents a generation that is neither current nor its parent.
    """
    if now > rotation.deadline:  # 1
        return Outcome.LATE, session
    if session is None or not session.is_alive(rotation.realm, now):  # 2
        return Outcome.GONE, None
    presented, current = rotation.generation, session.generation
    # Steady time is behind only if the store has lost it; how long ago the rotation was is then unknown.
    is_graced = 0 <= steady - session.rotated_at < rotation.grace
    changes: dict[str, Any]
    if presented > current:  # 3
        outcome, changes = Outcome.AHEAD, {"generation": presented + 1, "parent": presented, "is_used": False}
    elif presented == current and is_graced:  # 4
        outcome, changes = Outcome.AGAIN, {"is_used": True}
    elif presented == current:
        outcome, changes = Outcome.NEXT, {"generation": current + 1, "parent": current, "is_used": False}
    elif presented == session.parent and is_graced:  # 5
        outcome, changes = Outcome.AGAIN, {}
    elif presented == session.parent and rotation.reuse_until_used and not session.is_used:
        outcome, changes = Outcome.REISSUED, {"generation": current + 1}
    else:  # 6
        return Outcome.THEFT, session
    if outcome is not Outcome.AGAIN:
        changes["rotated_at"] = steady
    moved = replace(
        session,
        used_at=now,
        expires_at=min(now + rotation.idle_lifetime, session.ends_at),
        access_until=max(session.access_until, now + rotation.access_lifetime),
        **changes,
    )
    return outcome, moved
