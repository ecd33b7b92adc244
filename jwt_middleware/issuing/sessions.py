"""Sessions: a login opens one, a refresh token renews it, and a logout ends it everywhere."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from secrets import token_urlsafe
from typing import Any, Literal, TypeAlias, TypeVar

from .._support.arguments import check_callable, check_count, check_seconds
from .._support.hooks import Hook
from ..errors import ConfigurationError, Refusal, StoreUnavailable
from ..events import Advice, AnswerLost, EndReason, SessionEnded, SessionOpened, SessionRefreshed, WritesLost
from ..revocation.view import RevocationView, WhenUnavailable
from ..telling import Events, Handlers
from ..verifying.token import Token
from .grants import Grant, InvalidGrant
from .issuer import TokenIssuer
from .refresh_tokens import PresentedToken, RefreshTokens, verifier_of
from .revoking import RevocationRequests, check_moment
from .rotation import Opening, Outcome, Realm, RevocationRequest, Rotation, Session
from .session_store import SessionStore
from .store_calls import STORE_SECONDS, StoreCalls
from .unanswered import Unanswered
from .users import User, grant_scopes, login_claims, read_user

DEVICE_LENGTH = 256
"""How many characters of a note about a device are kept; clients often choose the note."""

STORE_METHODS = ("open", "read", "rotate", "revoke", "revoke_subject", "sessions", "revocations", "aclose")

ReloadUser: TypeAlias = Callable[[str], Any]
Reuse: TypeAlias = Literal["within_grace", "until_used"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SessionsHealth:
    """The state of sessions and their store, for health checks."""

    store_reachable: bool
    """Whether the store did its last step, and its revocations can be read."""
    store_error: str | None
    """Why the store could not do its last step, or what is wrong with it. None if all is well."""
    clock_difference: float | None
    """Seconds by which the clock of the store is ahead of this host's. None before the first read of revocations."""
    revocations_error: str | None
    """Why revocations cannot be read. None if they can."""
    revocations_age: float
    """Seconds since they were read; infinite if they never were."""
    revocations_usable: bool
    """Whether tokens can be judged. If not, they are answered with 503."""


class Sessions:
    """Opens, renews and ends sessions. As ``JWTMiddleware(revocations=)`` it refuses the tokens of ended sessions.

    ``store``
        ``SQLiteStore`` for one machine, ``SQLStore`` (PostgreSQL) or ``RedisStore`` for several, ``MemoryStore`` for
        one process and for tests, or a ``SessionStore`` of your own.
    ``tokens``
        The ``TokenIssuer`` of the access tokens. Refresh tokens are signed with a key that is derived from its key, and
        have another type and audience: no verifier accepts them as access tokens.
    ``idle_lifetime``
        Seconds that a session lives without a refresh. Default 14 days.
    ``session_lifetime``
        Seconds that a session lives at most. Default 90 days.
    ``grace``
        Seconds during which a refresh token that was replaced gives the same successor again: parallel tabs, and
        clients that did not get the answer, are not thieves. Default 10.
    ``reuse``
        ``"within_grace"``, the default. ``"until_used"`` serves clients that lose an answer for longer, for instance
        phones in tunnels: the replaced token stays good until its successor has been presented, and gives a new
        successor each time; the unused one is dead. The price: somebody who has stolen a token can use it until the
        owner refreshes, and is found out only then.
    ``max_sessions``
        Sessions that a subject may have; one more ends the one that was used least recently. Default 100.
    ``reload_user``
        ``reload_user(subject)``, sync (in a worker thread) or async, runs at every refresh and returns what
        ``authenticate`` returned at login, or True. None or False ends the session. Scopes that are gone are
        withdrawn, and claims are replaced. Default None: a session keeps what was granted at login.
    ``on_event``
        A plain function that gets every event about sessions, their store and the reading of revocations, or several
        such functions. See ``jwt_middleware.events``. Default None: events are only logged.
    ``revocations_max_stale``, ``revocations_unavailable``
        ``max_stale`` and ``when_unavailable`` of the ``RevocationView``. Defaults: 60 seconds, ``"refuse"``.

    Raises ``ConfigurationError`` for an argument that cannot work. Its methods raise ``StoreUnavailable`` if the
    store gives no answer within a second: what it did is then unknown, and the call may be repeated.
    """

    def __init__(
        self,
        store: SessionStore,
        tokens: TokenIssuer,
        *,
        idle_lifetime: float = 14 * 24 * 3600,
        session_lifetime: float = 90 * 24 * 3600,
        grace: float = 10,
        reuse: Reuse = "within_grace",
        max_sessions: int = 100,
        reload_user: ReloadUser | None = None,
        on_event: Handlers | None = None,
        revocations_max_stale: float = 60,
        revocations_unavailable: WhenUnavailable = "refuse",
    ) -> None:
        if not isinstance(tokens, TokenIssuer):
            # It may be the secret, or the address of a server with its password.
            raise ConfigurationError(f"tokens must be a TokenIssuer, not {type(tokens).__name__}")
        if not all(callable(getattr(store, method, None)) for method in STORE_METHODS):
            raise ConfigurationError(
                f"store must be a SessionStore, such as SQLiteStore(path), not {type(store).__name__}"
            )
        if tokens.session_lifetime is not None:
            raise ConfigurationError("session_lifetime: give it to Sessions, not to its TokenIssuer")
        for option, lifetime in (("idle_lifetime", idle_lifetime), ("session_lifetime", session_lifetime)):
            if check_seconds(option, lifetime, minimum=1) < tokens.access_lifetime:
                raise ConfigurationError(f"{option} must not be shorter than access_lifetime of the TokenIssuer")
        if reuse not in ("within_grace", "until_used"):
            raise ConfigurationError("reuse must be 'within_grace' or 'until_used'")
        if reload_user is not None:
            check_callable("reload_user", reload_user, "subject")
        self.tokens = tokens
        self._store = store
        self._realm = Realm(tokens.name, tokens.issuer)
        self._requests = RevocationRequests(tokens)
        self.idle_lifetime, self._session_lifetime = idle_lifetime, session_lifetime
        self._grace = check_seconds("grace", grace)
        self._reuse_until_used = reuse == "until_used"
        self._max_sessions = check_count("max_sessions", max_sessions, minimum=1)
        self._reload_user = None if reload_user is None else Hook(reload_user)
        self._began_at = tokens.clock()
        self._unanswered = Unanswered()
        self._view = RevocationView(store, max_stale=revocations_max_stale, when_unavailable=revocations_unavailable)
        self.is_revoked = self._view.is_revoked
        """See ``Revocations``."""
        self.catch_up = self._view.catch_up
        """See ``Revocations``."""
        events = getattr(store, "events", None)
        self.events = events if isinstance(events, Events) else Events()
        """Tells of sessions, of their store, and of the reading of revocations."""
        if on_event is not None:
            self.events.add_handlers(on_event)
        self._view.events = self.events
        self._calls = StoreCalls(self.events)
        self._refresh_tokens = RefreshTokens(tokens, session_lifetime)
        self._access_verifier = verifier_of(tokens)

    def __repr__(self) -> str:
        return f"Sessions({self._store!r})"

    @property
    def provider(self) -> str:
        """The name of the provider whose tokens are revoked here."""
        return self.tokens.name

    async def open(
        self,
        subject: str,
        *,
        scopes: Iterable[str] = (),
        claims: Mapping[str, Any] | None = None,
        device: str = "",
        lifetime: float | None = None,
    ) -> Grant:
        """Open a session for ``subject``, whom the app has authenticated, and mint its first tokens.

        ``claims`` are further claims of its access tokens. ``auth_time``, ``acr`` and ``amr`` among them say when and
        how the user logged in (RFC 9470), and a refresh keeps them. The login routes set them; ``open`` sets none,
        because only the app knows them: with single sign-on, the user may have logged in long ago. ``device`` is a note
        for lists of sessions, cut after 256 characters. ``lifetime`` is the seconds that this session lives at most,
        for "remember me" and its opposite; ``session_lifetime`` is the default and the maximum.

        Raises ``TypeError`` or ``ValueError`` for values that no token can hold, and for a lifetime out of bounds.
        """
        if isinstance(scopes, str):
            raise TypeError(f"scopes must be a list, for instance [{scopes!r}]")
        session_lifetime = self._session_lifetime
        if lifetime is not None:
            session_lifetime = _check_lifetime(lifetime, at_most=session_lifetime)
        id, now, scopes = token_urlsafe(16), self.tokens.clock(), tuple(scopes)
        expires_in = int(min(self.tokens.access_lifetime, session_lifetime))
        access_token = self._mint_access_token(id, subject, scopes, claims or {}, expires_in, now)
        opening = Opening(
            id=id,
            realm=self._realm,
            subject=subject,
            idle_lifetime=self.idle_lifetime,
            session_lifetime=session_lifetime,
            access_lifetime=expires_in,
            scopes=scopes,
            claims=dict(claims or {}),
            device=(device or "")[:DEVICE_LENGTH],
        )
        session, evicted = await self._calls.ask(self._store.open(opening, max_sessions=self._max_sessions))
        self._calls.compare_clocks(session.opened_at, now)
        self._view.add(*evicted)
        for revocation in evicted:
            self.events.tell(SessionEnded(session_id=revocation.value, subject=subject, reason="evicted"))
        self.events.tell(SessionOpened(session_id=id, subject=subject))
        refresh_token = self._refresh_tokens.mint(session, now, session.opened_at)
        return Grant(access_token, refresh_token, expires_in, scopes, id, int(session.expires_at - session.opened_at))

    async def refresh(self, refresh_token: str, *, scope: str = "") -> Grant:
        """New tokens for a refresh token (RFC 6749 6). ``scope`` asks for fewer scopes, separated by spaces.

        1. The token is one of ours, or else ``InvalidGrant``.
        2. Its session is alive, or else ``InvalidGrant``.
        3. ``reload_user`` finds its user, or else ``InvalidGrant``, and the session ends.
        4. Its generation is one that ``rotation.rotate`` accepts, or else ``InvalidGrant``, and the session ends.

        Raises ``ScopeNotGranted`` if none of ``scope`` was granted. Unless step 3 or 4 refuses it, the token stays as
        good as before. If the store did not answer, this process remembers when it was first asked.
        """
        presented = await self._read(refresh_token)  # 1
        id = presented.session_id
        if self.is_revoked(presented.token):
            # A store that was put back, for instance by a failover, may have forgotten that.
            raise InvalidGrant("session is over")
        now = self.tokens.clock()
        session, store_now = await self._calls.run(id, lambda: self._store.read(id, self._realm))  # 2
        # Measured from here, not from before: the store must not get more time than we wait for it.
        read_at = time.monotonic()
        self._calls.compare_clocks(store_now, now)
        if session is None:
            self._check_memory(presented)
            raise InvalidGrant("session is over")
        user = await self._reload(session)  # 3
        expires_in = int(min(self.tokens.access_lifetime, session.ends_at - store_now))
        if expires_in < 1:
            raise InvalidGrant("session is over")
        # A thief must not learn anything about scopes, nor stay unnoticed by asking for wrong ones. If the client may
        # be a thief, the store decides first.
        is_newest = presented.generation >= session.generation
        kept = _keep(session.scopes, user.scopes)
        claims = session.claims if user.claims is None else {**user.claims, **login_claims(session.claims)}
        mint = partial(self._mint_access_token, id, session.subject, claims=claims, lifetime=expires_in, now=now)
        scopes = grant_scopes(scope if is_newest else "", kept)
        access_token = mint(scopes)
        rotation = Rotation(
            id=id,
            realm=self._realm,
            generation=presented.generation,
            # A rotation that got no answer may have been done: then this is the same client, asking again.
            grace=self._grace + self._unanswered.seconds(id, presented.generation),
            idle_lifetime=self.idle_lifetime,
            access_lifetime=expires_in,
            # A store that answers too late must not have done it: no client would know the new generation, and the old
            # one would come back as if from a thief.
            deadline=store_now + (time.monotonic() - read_at) + STORE_SECONDS,
            reuse_until_used=self._reuse_until_used,
        )
        moved = await self._rotate(session, rotation)  # 4
        if not is_newest and scope:
            scopes = grant_scopes(scope, kept)
            access_token = mint(scopes)
        refresh_token = self._refresh_tokens.mint(moved, now, store_now)
        self.events.tell(SessionRefreshed(session_id=id, subject=session.subject, generation=moved.generation))
        return Grant(access_token, refresh_token, expires_in, scopes, id, int(moved.expires_at - store_now))

    async def logout(self, raw: str) -> bool:
        """End the session of a refresh token or an access token of ours, expired or not. Returns whether it was one.

        An access token that belongs to no session is revoked alone.
        """
        try:
            token = (await self._refresh_tokens.read(raw)).token
        except Refusal:
            try:
                token = await self._access_verifier.verify(raw)
            except Refusal:
                return False
        if token.session_id is None and token.id is None:
            return False
        await self._revoke(self._requests.for_token(token), "logout")
        return True

    async def revoke(
        self,
        token: Token | None = None,
        /,
        *,
        session: str | None = None,
        subject: str | Token | None = None,
        jti: str | None = None,
        expires_at: float | None = None,
        provider: str | None = None,
        issuer: str | None = None,
    ) -> int:
        """End one ``session``, all sessions of a ``subject``, or one token by its ``jti``. Returns how many ended.

        A verified ``token`` of ours stands for its session, or, if it belongs to none, for itself;
        ``subject=token`` stands for its subject. ``jti`` needs the token's ``expires_at`` (Unix time), and for a token
        of another issuer ``provider``, the name of its provider, and ``issuer``, if that provider has several.

        All tokens of a session end with it: they are refused here at once, and within a second everywhere. A session or
        token that the store does not know counts as one that ended. Raises ``TypeError`` and ``ValueError`` for values
        that cannot name one, and ``ValueError`` for a token of another provider or issuer.
        """
        given = {"a token": token, "session": session, "subject": subject, "jti": jti}
        if sum(value is not None for value in given.values()) != 1:
            raise TypeError("revoke() ends one thing: a token, session=, subject=, or jti= with expires_at=")
        if (jti is None) != (expires_at is None) or (jti is None and (provider, issuer) != (None, None)):
            raise TypeError(
                "revoke() needs expires_at= with jti=, takes provider= and issuer= with it, and only with it"
            )
        if subject is not None:
            return await self._revoke_subject(subject)
        if token is not None:
            self._requests.check_ours(token)
            request = self._requests.for_token(token)
        elif session is not None:
            request = self._requests.for_session(session)
        else:
            realm = self._realm if provider is None else Realm(provider, issuer)
            request = self._requests.for_jti(realm, jti, check_moment(expires_at))
        await self._revoke(request, "revoked")
        return 1

    async def list(self, subject: str | Token) -> tuple[Session, ...]:
        """The sessions of ``subject`` that are alive, most recently used first.

        A verified token of ours stands for its subject. Raises ``ValueError`` for a token of another provider or
        issuer: there, the same subject may be somebody else.
        """
        return tuple(await self._calls.ask(self._store.sessions(self._requests.read_subject(subject), self._realm)))

    @property
    def is_in_memory(self) -> bool:
        """Whether only this process knows the sessions, because the store is a ``MemoryStore``."""
        return hasattr(self._store, "has_held")

    def health(self) -> SessionsHealth:
        """The state of the store and of the reading of revocations, as far as it is known without asking."""
        problem: str | None = getattr(self._store, "problem", None)
        view = self._view
        reachable = self._calls.error is None and view.error is None
        error = problem or self._calls.error
        return SessionsHealth(reachable, error, view.clock_difference, view.error, view.age, view.is_usable)

    async def stop(self) -> None:
        """End all work on this event loop, and close what is open there. Later calls start and open it again."""
        await self._view.stop()
        await self._store.aclose()

    async def _read(self, raw: str) -> PresentedToken:
        try:
            return await self._refresh_tokens.read(raw)
        except Refusal as refusal:
            raise InvalidGrant(refusal.code) from None

    async def _reload(self, session: Session) -> User:
        if self._reload_user is None:
            return User(session.subject)
        found = await self._reload_user(session.subject)
        user = User(session.subject) if found is True else read_user(found, "reload_user")
        if user is None:
            await self._revoke(self._requests.for_session(session.id), "user_refused")
            raise InvalidGrant("user is refused")
        if user.subject != session.subject:
            raise TypeError("reload_user() returned another user than the one it was asked for")
        return user

    async def _rotate(self, before: Session, rotation: Rotation) -> Session:
        """Rotate the session, which is ``before``, and return it as it is now. Raises ``InvalidGrant``."""
        self._unanswered.begin(rotation.id, rotation.generation)
        outcome, session = await self._calls.run(rotation.id, lambda: self._store.rotate(rotation))
        if outcome is Outcome.LATE:
            raise StoreUnavailable("the store was late")
        self._unanswered.end(rotation.id, rotation.generation)
        if outcome is Outcome.THEFT:
            ended = before if session is None else session
            self._view.add(ended.revoke())
            self.events.tell(SessionEnded(session_id=ended.id, subject=ended.subject, reason="theft"))
            raise InvalidGrant("refresh token was used before")
        if session is None:
            raise InvalidGrant("session is over")
        if outcome is Outcome.AHEAD:
            self.events.tell(WritesLost(session_id=session.id, subject=session.subject))
        if outcome is Outcome.REISSUED:
            self.events.tell(AnswerLost(session_id=session.id, subject=session.subject))
        return session

    async def _revoke(self, request: RevocationRequest, reason: EndReason) -> None:
        self._tell_unasked()
        revocation = await self._calls.run(request.value, lambda: self._store.revoke(request))
        self._view.add(revocation)
        if request.claim == "sid":
            self.events.tell(SessionEnded(session_id=request.value, subject=None, reason=reason))

    async def _revoke_subject(self, subject: str | Token) -> int:
        name = self._requests.read_subject(subject)
        self._tell_unasked()
        revoked = await self._calls.ask(self._store.revoke_subject(name, self._realm))
        self._view.add(*revoked)
        for revocation in revoked:
            self.events.tell(SessionEnded(session_id=revocation.value, subject=name, reason="revoked"))
        return len(revoked)

    def _mint_access_token(
        self, id: str, subject: str, scopes: tuple[str, ...], claims: Mapping[str, Any], lifetime: int, now: float
    ) -> str:
        if "sid" in claims:
            raise ValueError("claims: sid cannot be given; it names the session")
        return self.tokens.mint(subject, scopes=scopes, claims={**claims, "sid": id}, lifetime=lifetime, now=now)

    def _check_memory(self, presented: PresentedToken) -> None:
        has_held: Callable[[str], bool] | None = getattr(self._store, "has_held", None)
        if has_held is not None and presented.issued_at > self._began_at and not has_held(presented.session_id):
            text = (
                "a refresh token came for a session that this process never opened: another process has opened it, and "
                "a MemoryStore is for one process; use SQLiteStore or RedisStore (said once)"
            )
            self.events.tell(Advice(text=text), once="memory")

    def _tell_unasked(self) -> None:
        if self._view.age == inf:
            text = (
                "sessions: nothing here asks which tokens are revoked: set JWTMiddleware(revocations=sessions), or "
                "access tokens are good until they expire (said once)"
            )
            self.events.tell(Advice(text=text), once="unasked")


def _check_lifetime(value: object, *, at_most: float) -> float:
    try:
        lifetime = check_seconds("lifetime", value, minimum=1)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    if lifetime > at_most:
        raise ValueError(f"lifetime must be session_lifetime ({at_most:g} s) or less, not {value!r}")
    return lifetime


def _keep(scopes: tuple[str, ...], still: tuple[str, ...] | None) -> tuple[str, ...]:
    return scopes if still is None else tuple(name for name in scopes if name in still)
