"""Sessions: what a login opens, a refresh token renews, and a logout ends, everywhere."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from secrets import token_urlsafe
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import anyio

from .._support.arguments import check_callable, check_count, check_seconds
from .._support.background import Background
from .._support.hooks import Hook
from ..errors import ConfigurationError, InvalidClaim, Refusal, StoreUnavailable
from ..revocation.revoked import MARGIN, Ends, Revocation
from ..revocation.view import RevocationLog, RevocationView, WhenUnavailable
from ..verifying.verifier import Verifier
from .issuer import TokenIssuer
from .rotation import Opening, Outcome, Rotation, Session, rotated
from .users import User, grant_scopes, login_claims, read_user

logger = logging.getLogger("jwt_middleware")

STORE_SECONDS = 1
"""What a store may take to answer."""

DEVICE_LENGTH = 256
"""Characters of what is noted about a device; clients often choose them."""

MAX_UNANSWERED = 10_000
"""Rotations without an answer that are remembered."""

LATEST = 2.0**52
"""Unix time; a token that expires later is revoked until then."""

REFRESH_TYPE = "refresh+jwt"
REFRESH_AUDIENCE = "urn:jwt_middleware:refresh"

ReloadUser: TypeAlias = Callable[[str], Any]
Happening: TypeAlias = Literal["theft", "lost_writes", "evicted"]
Answer = TypeVar("Answer")


class SessionStore(RevocationLog, Protocol):
    """Where sessions and revocations are kept. Each method is one step: for all who look it happened whole, or not.

    All moments are by the clock that all processes of the store share, which is never the caller's. Sessions that are
    over, and revocations that are, go away by themselves. ``provider`` is whose sessions these are, for revocations.
    Methods raise ``StoreUnavailable`` where they cannot do their work, and may be cancelled, done or not. Those who
    write a store find what it must keep to in ``jwt_middleware.issuing.testing.StoreContract``.
    """

    async def open(self, opening: Opening, *, provider: str, max_sessions: int) -> tuple[Session, Sequence[Revocation]]:
        """Begin a session. Of the subject's others the least recently used end, so that it has ``max_sessions``."""
        ...

    async def read(self, id: str) -> tuple[Session | None, float]:
        """The session, unless it is over, and what time it is in the store."""
        ...

    async def rotate(self, rotation: Rotation, *, provider: str) -> tuple[Outcome, Session | None]:
        """Do what ``rotation.rotated`` says, and revoke the session on ``THEFT``; the session that there is, or was."""
        ...

    async def revoke(self, revocation: Revocation) -> Revocation:
        """Write a revocation, and end the session that it is for.

        Where that session is known, its ``access_until`` and ``MARGIN`` take the place of ``until``. Nothing is written
        where the same is revoked already, for as long, or for a session that is not known: it got no token since. What
        is in force then.
        """
        ...

    async def revoke_subject(self, subject: str, *, provider: str) -> Sequence[Revocation]:
        """End all sessions of ``subject``, with a revocation for each."""
        ...

    async def sessions(self, subject: str) -> Sequence[Session]:
        """The sessions of ``subject`` that are not over, the last used first."""
        ...

    async def aclose(self) -> None:
        """Let go of what is open on this event loop; what is used again is opened again."""
        ...


@dataclass(frozen=True, slots=True)
class Grant:
    """What a login and a refresh give."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    """Seconds until the access token expires."""
    scopes: tuple[str, ...]
    session_id: str
    """The session's id."""
    refresh_expires_in: int
    """Seconds until the session ends unless it is refreshed before."""


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that the operator should know."""

    what: Happening
    """``theft``: a refresh token was used again long after it was replaced, and its session ended. ``lost_writes``: a
    refresh token came that the store knows nothing of yet; it must have lost its last writes. ``evicted``: a subject
    opened more than ``max_sessions``, and this session ended for it."""
    session_id: str
    subject: str


class InvalidGrant(Exception):
    """RFC 6749 5.2, ``invalid_grant``: the refresh token is invalid, expired or revoked. ``reason`` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid_grant: {reason}")
        self.reason = reason


class Sessions:
    """Opens, renews and ends sessions; given to ``JWTMiddleware(revocations=)``, it refuses the tokens of ended ones.

    ``store``
        ``SQLiteStore`` for one machine, ``RedisStore`` for several, ``MemoryStore`` for one process and for tests, or a
        ``SessionStore`` of your own.
    ``tokens``
        The ``TokenIssuer`` of the access tokens. Refresh tokens are signed with a key that is derived from its key, of
        another type and for another audience: nobody who verifies access tokens takes them for one.
    ``idle_lifetime``
        Seconds that a session lives without being renewed. Default 14 days.
    ``session_lifetime``
        Seconds that a session lives at most. Default 90 days.
    ``grace``
        Seconds in which a refresh token that was replaced gives the same successor again: parallel tabs, and clients
        that did not get the answer, are no thieves. Default 10.
    ``max_sessions``
        Sessions that a subject may have; one more ends the one that was used least recently. Default 100.
    ``reload_user``
        ``reload_user(subject)``, sync (in a worker thread) or async, runs at every refresh and says what
        ``authenticate`` said at login, or True: None or False ends the session, scopes that are gone are taken away,
        claims are replaced. Default None: what was granted at login goes on.
    ``on_event``
        ``on_event(event)``, sync (in a worker thread) or async, hears of each ``SessionEvent``. No request waits for
        it, and what it raises is logged. The log has all events in any case.
    ``revocations_max_stale``, ``revocations_unavailable``
        ``max_stale`` and ``when_unavailable`` of the ``RevocationView``. Defaults: 60 seconds, ``"refuse"``.

    Raises ``ConfigurationError`` where an argument cannot work. Its methods raise ``StoreUnavailable`` where the store
    gave no answer within a second: nothing is known then, and the same can be asked again.
    """

    def __init__(
        self,
        store: SessionStore,
        tokens: TokenIssuer,
        *,
        idle_lifetime: float = 14 * 24 * 3600,
        session_lifetime: float = 90 * 24 * 3600,
        grace: float = 10,
        max_sessions: int = 100,
        reload_user: ReloadUser | None = None,
        on_event: Callable[[SessionEvent], Any] | None = None,
        revocations_max_stale: float = 60,
        revocations_unavailable: WhenUnavailable = "refuse",
    ) -> None:
        if not isinstance(tokens, TokenIssuer):
            # It may be the secret, or the address of a server with its password.
            raise ConfigurationError(f"tokens must be a TokenIssuer, not {type(tokens).__name__}")
        for method in ("open", "read", "rotate", "revoke", "revoke_subject", "sessions", "revocations", "aclose"):
            if not callable(getattr(store, method, None)):
                raise ConfigurationError(
                    f"store must be a SessionStore, such as SQLiteStore(path), not {type(store).__name__}"
                )
        if tokens.session_lifetime is not None:
            raise ConfigurationError("session_lifetime: give it to Sessions, not to its TokenIssuer")
        for option, lifetime in (("idle_lifetime", idle_lifetime), ("session_lifetime", session_lifetime)):
            if check_seconds(option, lifetime, minimum=1) < tokens.access_lifetime:
                raise ConfigurationError(f"{option} must not be shorter than access_lifetime of the TokenIssuer")
        if reload_user is not None:
            check_callable("reload_user", reload_user, "subject")
        if on_event is not None:
            check_callable("on_event", on_event, "event")
        self.tokens = tokens
        self._store = store
        self.idle_lifetime, self._session_lifetime = idle_lifetime, session_lifetime
        self._grace = check_seconds("grace", grace)
        self._max_sessions = check_count("max_sessions", max_sessions, minimum=1)
        self._reload_user = None if reload_user is None else Hook(reload_user)
        self._on_event = None if on_event is None else Hook(on_event)
        self._background = Background("telling of sessions")
        self._unanswered = _Unanswered()
        self._unasked_logged = False
        self._view = RevocationView(
            store, max_stale=revocations_max_stale, when_unavailable=revocations_unavailable, clock=tokens.clock
        )
        self.is_revoked = self._view.is_revoked
        """See ``Revocations``."""
        self.catch_up = self._view.catch_up
        """See ``Revocations``."""
        newest, *older = tokens.derived_keys(REFRESH_TYPE)
        self._refresh_tokens = TokenIssuer(
            newest,
            # Whoever shares the secret, and a store, with a service for another audience does not renew its sessions.
            [f"{REFRESH_AUDIENCE}:{audience}" for audience in tokens.audiences],
            tokens.issuer,
            access_lifetime=session_lifetime,
            old_keys=older,
            token_type=REFRESH_TYPE,
            name=tokens.name,
            clock=tokens.clock,
        )
        # The store decides when a session is over, and at a logout it does not matter when a token was.
        never = 2**52
        self._refresh_verifier = _verifier(self._refresh_tokens, leeway=never)
        self._access_verifier = _verifier(tokens, leeway=never)

    def __repr__(self) -> str:
        return f"Sessions({self._store!r})"

    @property
    def provider(self) -> str:
        """The name of the provider whose tokens are ended here."""
        return self.tokens.name

    async def open(
        self,
        subject: str,
        *,
        scopes: Iterable[str] = (),
        claims: Mapping[str, Any] | None = None,
        device: str = "",
    ) -> Grant:
        """Open a session for ``subject``, whoever found out who that is, and give its first tokens.

        ``claims`` are further ones for its access tokens; ``device`` is what an app wants to show in a list of
        sessions, cut after 256 characters. Raises ``TypeError`` or ``ValueError`` for what cannot stand in a token.
        """
        if isinstance(scopes, str):
            raise TypeError(f"scopes must be a list, for instance [{scopes!r}]")
        id, now, scopes = token_urlsafe(16), self.tokens.clock(), tuple(scopes)
        lifetime = int(min(self.tokens.access_lifetime, self._session_lifetime))
        access_token = self._access_token(id, subject, scopes, claims or {}, lifetime, now)
        opening = Opening(
            id=id,
            subject=subject,
            idle_lifetime=self.idle_lifetime,
            session_lifetime=self._session_lifetime,
            access_until=int(now) + lifetime,
            scopes=scopes,
            claims=dict(claims or {}),
            device=(device or "")[:DEVICE_LENGTH],
        )
        session, evicted = await self._ask(
            self._store.open(opening, provider=self.tokens.name, max_sessions=self._max_sessions)
        )
        self._view.add(*evicted)
        for revocation in evicted:
            self._tell("evicted", revocation.value, subject)
        refresh_token = self._refresh_token(session, self._session_lifetime, now)
        return Grant(
            access_token, refresh_token, lifetime, scopes, id, int(min(self.idle_lifetime, self._session_lifetime))
        )

    async def refresh(self, refresh_token: str, *, scope: str = "") -> Grant:
        """New tokens for a refresh token (RFC 6749 6); ``scope`` asks for fewer scopes, delimited by spaces.

        1. The token is one of ours: ``InvalidGrant``.
        2. Its session is there: ``InvalidGrant``.
        3. ``reload_user`` says that its user still is: ``InvalidGrant``, and the session ends.
        4. Its generation is the current one, or was within ``grace``: ``InvalidGrant``, and the session ends.

        Raises ``ScopeNotGranted`` where none of ``scope`` was granted. Whatever is raised but for 3 and 4, the token is
        as good as before; for how long a store that lost its answer takes it for good, this process remembers.
        """
        presented = await self._presented(refresh_token)
        if presented.is_revoked:
            # A store that was put back, by a failover for instance, may have forgotten.
            raise InvalidGrant("session is over")
        now = self.tokens.clock()
        session, store_now = await self._ask(self._store.read(presented.id))
        # From here, not from before: what is left to the store must not be longer than it is waited for.
        read_at = time.monotonic()
        if session is None:
            raise InvalidGrant("session is over")
        user = await self._reloaded(session)
        lifetime = int(min(self.tokens.access_lifetime, session.ends_at - store_now))
        if lifetime < 1:
            raise InvalidGrant("session is over")
        rotation = Rotation(
            id=session.id,
            generation=presented.generation,
            # What was asked before and not answered was perhaps done: then this is the same client, asking again.
            grace=self._grace + self._unanswered.seconds(presented.id, presented.generation),
            idle_lifetime=self.idle_lifetime,
            access_until=int(now) + lifetime,
            deadline=store_now,
        )
        # A thief learns nothing about scopes, and does not stay unnoticed by asking for those that there are not.
        is_theft = rotated(session, rotation, store_now)[0] is Outcome.THEFT
        scopes = grant_scopes("" if is_theft else scope, _kept(session.scopes, user.scopes))
        claims = session.claims if user.claims is None else {**user.claims, **login_claims(session.claims)}
        access_token = self._access_token(session.id, session.subject, scopes, claims, lifetime, now)
        moved = await self._rotated(
            # A store that answers too late must not have done it: nobody would know of the new generation, and the old
            # one would come again as a thief's.
            session,
            replace(rotation, deadline=store_now + (time.monotonic() - read_at) + STORE_SECONDS),
        )
        refresh_token = self._refresh_token(moved, min(self._session_lifetime, moved.ends_at - store_now), now)
        return Grant(access_token, refresh_token, lifetime, scopes, moved.id, int(moved.expires_at - store_now))

    async def logout(self, raw: str) -> bool:
        """End the session of a refresh token or an access token of ours, expired or not; whether it was one.

        An access token that belongs to no session is ended by itself.
        """
        try:
            await self.revoke(session=(await self._presented(raw)).id)
            return True
        except InvalidGrant:
            pass
        try:
            token = await self._access_verifier.verify(raw)
        except Refusal:
            return False
        if token.session_id is not None:
            await self.revoke(session=token.session_id)
        elif token.id is not None:
            # Another issuer with the same key may have written an ``exp`` in a million years.
            await self.revoke(jti=token.id, expires_at=min(token.expires_at, LATEST))
        return token.session_id is not None or token.id is not None

    async def revoke(
        self,
        *,
        session: str | None = None,
        subject: str | None = None,
        jti: str | None = None,
        expires_at: float | None = None,
        provider: str | None = None,
    ) -> int:
        """End one ``session``, all sessions of a ``subject``, or one token by its ``jti``; how many are ended then.

        ``jti`` needs the token's ``expires_at`` (Unix time), and for a token of another issuer the name of its
        ``provider``. All tokens of a session end with it: they are refused here at once, and within a second
        everywhere. A session or token that the store does not know is one as well. Raises ``TypeError`` and
        ``ValueError`` for what can be none.
        """
        given = {"session": session, "subject": subject, "jti": jti}
        named = {name: value for name, value in given.items() if value is not None}
        if len(named) != 1:
            raise TypeError("revoke() ends one thing: session=, subject=, or jti= with expires_at=")
        if (jti is None) != (expires_at is None) or (provider is not None and jti is None):
            raise TypeError("revoke() needs expires_at= with jti=, takes provider= with it, and neither with others")
        for name, value in named.items():
            _check_text(name, value)
        self._log_unasked()
        whose = self.tokens.name if provider is None else provider
        if subject is not None:
            revoked = await self._ask(self._store.revoke_subject(subject, provider=whose))
        else:
            # Should the store have lost the session, its last token was made now at the latest.
            last = self.tokens.clock() + self.tokens.access_lifetime if expires_at is None else _moment(expires_at)
            ends: Ends = "jti" if session is None else "sid"
            one = Revocation(whose, ends, next(iter(named.values())), last + MARGIN)
            revoked = [await self._ask(self._store.revoke(one))]
        self._view.add(*revoked)
        return len(revoked)

    async def list(self, subject: str) -> tuple[Session, ...]:
        """The sessions of ``subject`` that are not over, the last used first."""
        _check_text("subject", subject)
        return tuple(await self._ask(self._store.sessions(subject)))

    async def stop(self) -> None:
        """End what is read, and let go of what is open, on this event loop; what is used again begins again."""
        await self._background.stop()
        await self._view.stop()
        await self._store.aclose()

    async def _presented(self, raw: str) -> "_Presented":
        try:
            token = await self._refresh_verifier.verify(raw)
            generation = token.claims.get("gen")
            if token.session_id is None or type(generation) is not int:
                raise InvalidClaim(claim="gen")
        except Refusal as refusal:
            raise InvalidGrant(refusal.code) from None
        return _Presented(token.session_id, generation, bool(self.is_revoked(token)))

    async def _rotated(self, before: Session, rotation: Rotation) -> Session:
        """What ``rotation`` makes of the session that was ``before`` it; raises ``InvalidGrant``."""
        self._unanswered.begin(rotation.id, rotation.generation)
        outcome, session = await self._ask(self._store.rotate(rotation, provider=self.tokens.name))
        if outcome is Outcome.LATE:
            raise StoreUnavailable("the store was late")
        self._unanswered.end(rotation.id, rotation.generation)
        if outcome is Outcome.THEFT:
            ended = before if session is None else session
            self._view.add(Revocation(self.tokens.name, "sid", ended.id, ended.access_until + MARGIN))
            self._tell("theft", ended.id, ended.subject)
            raise InvalidGrant("refresh token was used before")
        if session is None:
            raise InvalidGrant("session is over")
        if outcome is Outcome.AHEAD:
            self._tell("lost_writes", session.id, session.subject)
        return session

    async def _reloaded(self, session: Session) -> User:
        if self._reload_user is None:
            return User(session.subject)
        found = await self._reload_user(session.subject)
        user = User(session.subject) if found is True else read_user(found, "reload_user")
        if user is None:
            await self.revoke(session=session.id)
            raise InvalidGrant("user is refused")
        if user.subject != session.subject:
            raise TypeError("reload_user() returned another user than the one it was asked for")
        return user

    def _access_token(
        self, id: str, subject: str, scopes: tuple[str, ...], claims: Mapping[str, Any], lifetime: int, now: float
    ) -> str:
        if "sid" in claims:
            raise ValueError("claims: sid cannot be given; it names the session")
        return self.tokens.mint(subject, scopes=scopes, claims={**claims, "sid": id}, lifetime=lifetime, now=now)

    def _refresh_token(self, session: Session, lifetime: float, now: float) -> str:
        claims = {"sid": session.id, "gen": session.generation}
        return self._refresh_tokens.mint(session.subject, claims=claims, lifetime=max(1, int(lifetime)), now=now)

    def _log_unasked(self) -> None:
        if self._view.age == inf and not self._unasked_logged:
            self._unasked_logged = True
            logger.warning(
                "sessions: nobody here asks what has ended: set JWTMiddleware(revocations=sessions), or access tokens "
                "are good until they expire (said once)"
            )

    async def _ask(self, answer: Awaitable[Answer]) -> Answer:
        try:
            with anyio.fail_after(STORE_SECONDS):
                return await answer
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {STORE_SECONDS} s") from None

    def _tell(self, what: Happening, session_id: str, subject: str) -> None:
        level = logging.INFO if what == "evicted" else logging.WARNING
        logger.log(level, "sessions: %s (session=%.64r subject=%.64r)", what, session_id, subject)
        if self._on_event is not None:
            # Nobody waits for it: who gave up waiting would ask again, and be taken for a thief.
            self._background.start(partial(self._on_event, SessionEvent(what, session_id, subject)))


@dataclass(frozen=True, slots=True)
class _Presented:
    id: str
    generation: int
    is_revoked: bool
    """As far as this process knows."""


class _Unanswered:
    """Rotations that were asked for and not answered, the last ones, and since when."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, int], float] = {}

    def begin(self, id: str, generation: int) -> None:
        if len(self._since) >= MAX_UNANSWERED:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread was there first
                del self._since[next(iter(self._since))]
        self._since.setdefault((id, generation), time.monotonic())

    def end(self, id: str, generation: int) -> None:
        self._since.pop((id, generation), None)

    def seconds(self, id: str, generation: int) -> float:
        """How long ago this was first asked for without an answer; 0 where it was not."""
        now = time.monotonic()
        return now - self._since.get((id, generation), now)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}; say str({name})")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds what no text in UTF-8 can") from None


def _moment(value: object) -> float:
    try:
        return check_seconds("expires_at", value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def _kept(scopes: tuple[str, ...], still: tuple[str, ...] | None) -> tuple[str, ...]:
    return scopes if still is None else tuple(name for name in scopes if name in still)


def _verifier(tokens: TokenIssuer, *, leeway: float) -> Verifier:
    return Verifier(tokens.provider(leeway=leeway), cache_size=0, clock=tokens.clock)
