"""auth_routes(): login, refresh, logout and the JWK Set, spoken as OAuth clients expect it (RFC 6749, RFC 7009)."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from ..arguments import function
from ..claims import Token
from ..errors import (
    ConfigurationError,
    CrossSite,
    InvalidClaim,
    InvalidToken,
    MissingClaim,
    MissingToken,
    Refusal,
    StoreUnavailable,
    TooOld,
)
from ..hooks import Hook
from ..refuser import RefusalResponse, Refuser
from ..sources import read_bearer
from ..verifier import MAX_TOKEN_SIZE, Verifier
from .cookies import CookieMode, Cookies
from .issuer import RESERVED, TokenIssuer
from .oauth import NO_STORE, OAuthError, read_fields, token_response
from .sessions import Grant, InvalidGrant, Sessions
from .throttle import LoginRefused, Throttle
from .users import ScopeNotGranted, User, granted, user_of

Authenticate: TypeAlias = Callable[[str, str], Any]
NoteDevice: TypeAlias = Callable[[Request], str]

logger = logging.getLogger("jwt_middleware")


def auth_routes(
    sessions: Sessions | TokenIssuer,
    *,
    authenticate: Authenticate,
    throttle: Throttle | None = None,
    device: NoteDevice | None = None,
    cookies: CookieMode | None = None,
    cookie_path: str | None = None,
    origins: Iterable[str] = (),
    realm: str = "api",
    refusal_response: RefusalResponse | None = None,
) -> list[Route]:
    """Starlette routes, for a ``Mount`` of the app's choice.

    With ``Sessions``, all of them may be public:

    ``POST /login``
        Takes the OAuth2 password form (RFC 6749 4.3.2) or the same names in a JSON object: ``username``, ``password``,
        and ``scope`` if less is wanted than the user may have. Opens a session, and answers with its first tokens.
    ``POST /refresh``
        Takes ``refresh_token`` (RFC 6749 6) in the same ways, and ``scope`` for fewer scopes; answers as the login did.
        Clients that know one token endpoint only can use either address for both: ``grant_type`` tells.
    ``POST /logout``
        Takes ``token`` (RFC 7009 2.1), a refresh token or an access token, or a Bearer header. Ends its session. Old
        and expired tokens will do, and unknown ones are answered alike.
    ``GET /jwks.json``
        The issuer's public keys (RFC 7517 5); none where it signs with a secret.

    With a ``TokenIssuer`` alone nothing is stored: there is no logout, and ``POST /refresh``, only where the issuer has
    a ``session_lifetime``, takes a Bearer token of a login that is still good, until ``session_lifetime`` has passed
    since then. The issuer's own rules are checked there; for those of the middleware as well (``validate``,
    ``load_user``), do not make this route public.

    ``authenticate(username, password)``, sync (then in a worker thread) or async, is the app's: it returns None for
    nobody, a subject (str), or a user with ``identity`` (str), and if it has them ``scopes`` (those it may be granted)
    and ``claims`` (further ones for its tokens). Unknown users should cost it the time that wrong passwords do, as with
    ``password_check``.

    ``throttle`` refuses logins after too many failed ones. Default None: they are not counted.

    ``device(request)``, sync and quick, gives a text that tells the sessions of a user apart, such as a User-Agent; see
    ``Sessions.list``. Default None: an empty one.

    ``cookies`` is for pages in browsers, with ``Sessions``. ``"refresh"``: the refresh token is kept in the cookie
    ``__Secure-refresh``, for these routes alone, and goes to no page; refresh and logout need no parameters. ``"all"``:
    the access token is kept in ``__Host-access``, which ``sources=[cookie("__Host-access")]`` reads. Login, refresh and
    logout must come from the same origin then, or from one of ``origins``: ``cross_site``; see ``Origins``. Default
    None: tokens are in the answers. ``cookie_path`` is the path of these routes as browsers know it, for proxies that
    strip a prefix; by default that of the ``Mount``.

    ``realm`` and ``refusal_response`` are for answers to a Bearer header; see ``Refuser``. Raises
    ``ConfigurationError``.
    """
    if not isinstance(sessions, Sessions | TokenIssuer):
        raise ConfigurationError(f"auth_routes() needs Sessions, or a TokenIssuer, not {type(sessions).__name__}")
    function("authenticate", authenticate, "username", "password")
    if throttle is not None and not isinstance(throttle, Throttle):
        raise ConfigurationError(f"throttle must be a Throttle(...), not {throttle!r}")
    if device is not None:
        function("device", device, "request")
    refuser = Refuser(realm, refusal_response)
    tokens = sessions.tokens if isinstance(sessions, Sessions) else sessions
    login = _Login(Hook(authenticate), throttle, tokens.derived_keys("login throttle")[0])
    if isinstance(sessions, Sessions):
        kept = _cookies(cookies, cookie_path, origins, sessions)
        endpoints = _SessionEndpoints(sessions, login, device, kept, refuser)
        posts = {"login": endpoints.login, "refresh": endpoints.refresh, "logout": endpoints.logout}
    elif device is not None:
        raise ConfigurationError("device: without Sessions there is nothing to note it in")
    elif cookies is not None:
        raise ConfigurationError("cookies: without Sessions there are no refresh tokens to keep in one")
    else:
        posts = {"login": _StatelessLogin(tokens, login).endpoint}
        if tokens.session_lifetime is not None:
            posts["refresh"] = _StatelessRefresh(tokens, tokens.session_lifetime, refuser).endpoint
    return [
        *(Route(f"/{name}", endpoint, methods=["POST"], name=name) for name, endpoint in posts.items()),
        Route("/jwks.json", _jwks_endpoint(tokens), name="jwks"),
    ]


class _Login:
    """Who is it? What both kinds of login ask."""

    def __init__(self, authenticate: Hook, throttle: Throttle | None, secret: bytes) -> None:
        self._authenticate = authenticate
        self._throttle = throttle
        self._secret = secret

    async def user(self, fields: Mapping[str, str], scope: Scope) -> User:
        """The user with the ``username`` and ``password`` of ``fields``; raises ``OAuthError``."""
        username, password = fields.get("username"), fields.get("password")
        if username is None or password is None:
            raise OAuthError("invalid_request", "The parameters username and password are needed.")
        if self._throttle is None:
            return await self._authenticated(username, password)
        try:
            attempt = await self._throttle.attempt(username, scope, self._secret)
        except LoginRefused as refused:
            raise OAuthError(
                # RFC 6749 5.2 has no word for it; 4.1.2.1 has.
                "temporarily_unavailable",
                refused.description,
                status=refused.status,
                retry_after=refused.retry_after,
            ) from None
        user = await self._authenticated(username, password)
        await self._throttle.forgive(attempt)
        return user

    async def _authenticated(self, username: str, password: str) -> User:
        user = user_of(await self._authenticate(username, password), "authenticate")
        if user is None:
            raise OAuthError("invalid_grant", "The username or the password is wrong.")
        return user


class _SessionEndpoints:
    def __init__(
        self,
        sessions: Sessions,
        login: _Login,
        device: NoteDevice | None,
        cookies: Cookies | None,
        refuser: Refuser,
    ) -> None:
        self._sessions = sessions
        self._login = login
        self._device = device
        self._cookies = cookies
        self._refuser = refuser

    async def login(self, request: Request) -> Response:
        return await self._granted(request, "password")

    async def refresh(self, request: Request) -> Response:
        return await self._granted(request, "refresh_token")

    async def logout(self, request: Request) -> Response:
        if self._cookies is None:
            return await self._logout(request)
        try:
            self._cookies.check(request.scope)
        except CrossSite as refusal:
            return await self._refuser.response(refusal, request.scope)
        response = await self._logout(request)
        # Also where the session could not be ended: nobody is to find them in this browser.
        self._cookies.clear(response, request.scope)
        return response

    async def _logout(self, request: Request) -> Response:
        try:
            fields = await read_fields(request, ("token", "token_type_hint", "refresh_token"))
            # RFC 7009 2.1: a hint that is wrong changes nothing, so none is needed.
            raw = fields.get("token") or fields.get("refresh_token")
            if raw is not None:
                await _stored(self._sessions.logout(raw))
            elif self._cookies is None or not await self._logout_kept(self._cookies, request.scope):
                return await self._logout_bearer(request)
        except OAuthError as error:
            return error.response
        except Refusal as refusal:
            return await self._refuser.response(refusal, request.scope)
        # RFC 7009 2.2: also where the token was not a good one; the client does not want it any more either way.
        return JSONResponse({}, headers=NO_STORE)

    async def _logout_kept(self, cookies: Cookies, scope: Scope) -> bool:
        for raw in (cookies.refresh_token(scope), cookies.access_token(scope)):
            if raw is not None and await _stored(self._sessions.logout(raw)):
                return True
        return False

    async def _logout_bearer(self, request: Request) -> Response:
        try:
            raw = read_bearer(request.scope["headers"], MAX_TOKEN_SIZE)
            if raw is None:
                if self._cookies is not None:
                    # Whatever there was is gone already.
                    return JSONResponse({}, headers=NO_STORE)
                raise OAuthError("invalid_request", "The parameter token, or a Bearer token in the header, is needed.")
            if not await _stored(self._sessions.logout(raw.decode("latin-1"))):
                raise InvalidToken
        except Refusal as refusal:
            return await self._refuser.response(refusal, request.scope)
        return JSONResponse({}, headers=NO_STORE)

    async def _granted(self, request: Request, usual: str) -> Response:
        try:
            if self._cookies is not None:
                self._cookies.check(request.scope)
            fields = await read_fields(request, ("grant_type", "username", "password", "refresh_token", "scope"))
            grant_type = fields.get("grant_type", usual)
            if grant_type == "password":
                grant = await self._opened(fields, request)
            elif grant_type == "refresh_token":
                grant = await self._refreshed(fields, request)
            else:
                raise OAuthError(
                    "unsupported_grant_type", "Only the grant types password and refresh_token are supported here."
                )
        except OAuthError as error:
            return error.response
        except Refusal as refusal:
            return await self._refuser.response(refusal, request.scope)
        if self._cookies is not None:
            return self._cookies.answer(grant, request.scope)
        return token_response(grant.access_token, grant.expires_in, grant.scopes, grant.refresh_token)

    async def _opened(self, fields: Mapping[str, str], request: Request) -> Grant:
        user = await self._login.user(fields, request.scope)
        scopes = _grantable(fields, user)
        device = "" if self._device is None else self._device(request)
        return await _stored(self._sessions.open(user.subject, scopes=scopes, claims=user.claims, device=device))

    async def _refreshed(self, fields: Mapping[str, str], request: Request) -> Grant:
        refresh_token = fields.get("refresh_token")
        if refresh_token is None and self._cookies is not None:
            refresh_token = self._cookies.refresh_token(request.scope)
            if refresh_token is None:
                # Not the page's mistake: nobody is logged in.
                raise OAuthError("invalid_grant", "There is no refresh token: log in.")
        if refresh_token is None:
            raise OAuthError("invalid_request", "The parameter refresh_token is needed.")
        try:
            return await _stored(self._sessions.refresh(refresh_token, scope=fields.get("scope", "")))
        except InvalidGrant as refused:
            logger.info("refused to refresh: %s", refused.reason)
            raise OAuthError("invalid_grant", "The refresh token is not good, or not any more.") from None
        except ScopeNotGranted:
            raise _invalid_scope() from None


class _StatelessLogin:
    def __init__(self, tokens: TokenIssuer, login: _Login) -> None:
        self._tokens = tokens
        self._login = login

    async def endpoint(self, request: Request) -> Response:
        try:
            fields = await read_fields(request, ("grant_type", "username", "password", "scope"))
            if fields.get("grant_type", "password") != "password":
                raise OAuthError("unsupported_grant_type", "Only the grant type password is supported here.")
            user = await self._login.user(fields, request.scope)
            scopes = _grantable(fields, user)
        except OAuthError as error:
            return error.response
        now = self._tokens.clock()
        claims = dict(user.claims or {})
        if self._tokens.session_lifetime is not None:
            # OpenID Connect Core 2: when the user was last asked for a password. Renewal is counted from here.
            claims["auth_time"] = int(now)
        access_token = self._tokens.mint(user.subject, scopes=scopes, claims=claims, now=now)
        return token_response(access_token, self._tokens.access_lifetime, scopes)


class _StatelessRefresh:
    def __init__(self, tokens: TokenIssuer, session_lifetime: int, refuser: Refuser) -> None:
        self._tokens = tokens
        self._session_lifetime = session_lifetime
        self._refuser = refuser
        provider = tokens.provider()
        self._leeway = provider.rules.leeway
        self._verifier = Verifier(provider, clock=tokens.clock)

    async def endpoint(self, request: Request) -> Response:
        try:
            raw = read_bearer(request.scope["headers"], self._verifier.max_token_size)
            if raw is None:
                raise MissingToken
            token = await self._verifier.verify(raw)
            try:
                return self._renewed(token, self._tokens.clock())
            except Refusal as refusal:
                refusal.provider, refusal.kid, refusal.subject = token.provider, token.kid, token.subject
                raise
        except Refusal as refusal:
            return await self._refuser.response(refusal, request.scope)

    def _renewed(self, token: Token, now: float) -> Response:
        # Who shares a secret with us, or had one that is now an old key, may have made this token. So it is not taken
        # for granted that we would make such a one.
        if not token.subject:
            raise MissingClaim(claim="sub")
        lifetime = min(self._tokens.access_lifetime, self._left(token.claims, now))
        claims = {name: value for name, value in token.claims.items() if name not in RESERVED}
        try:
            access_token = self._tokens.mint(
                token.subject, scopes=token.scopes, claims=claims, lifetime=lifetime, now=now
            )
        except ValueError:
            raise InvalidClaim from None
        return token_response(access_token, lifetime, token.scopes)

    def _left(self, claims: Mapping[str, Any], now: float) -> int:
        """Seconds until the login of these claims ends; raises a ``Refusal`` where there was none, or it has."""
        auth_time = claims.get("auth_time")
        if auth_time is None:
            raise MissingClaim(claim="auth_time")
        if type(auth_time) is not int or auth_time > now + self._leeway:
            raise InvalidClaim(claim="auth_time")
        left = auth_time + self._session_lifetime - int(now)
        if left < 1:
            raise TooOld(claim="auth_time")
        return left


def _cookies(mode: CookieMode | None, path: str | None, origins: Iterable[str], sessions: Sessions) -> Cookies | None:
    if mode is not None:
        return Cookies(mode, path=path, origins=origins, lifetime=sessions.idle_lifetime)
    if path is not None or origins:
        raise ConfigurationError("cookie_path and origins are for cookies=")
    return None


def _jwks_endpoint(tokens: TokenIssuer) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(tokens.jwks(), headers={"cache-control": "public, max-age=300"})

    return endpoint


Answer = TypeVar("Answer")


async def _stored(answer: Awaitable[Answer]) -> Answer:
    try:
        return await answer
    except StoreUnavailable as error:
        logger.warning("sessions: the store is not available: %s", error)
        raise OAuthError(
            "temporarily_unavailable", "Sessions cannot be stored at the moment.", status=503, retry_after=1
        ) from None


def _grantable(fields: Mapping[str, str], user: User) -> tuple[str, ...]:
    try:
        return granted(fields.get("scope", ""), user.scopes or ())
    except ScopeNotGranted:
        raise _invalid_scope() from None


def _invalid_scope() -> OAuthError:
    return OAuthError("invalid_scope", "None of the scopes asked for can be granted.")
