"""How do login, refresh and logout answer if sessions are kept?"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from ..errors import CrossSite, InvalidToken, Refusal, StoreUnavailable
from ..events import RefreshRefused, StoreFailed
from ..reading.authorization import read_bearer
from ..refuser import Refuser
from ..telling import Events
from ..verifying.verifier import MAX_TOKEN_SIZE
from .cookies import Cookies
from .grants import Grant, InvalidGrant
from .login import Login, invalid_scope, read_scopes
from .oauth import NO_STORE, OAuthError, pick_fields, read_fields, read_parameters, token_response
from .sessions import Sessions
from .users import ScopeNotGranted

NoteDevice: TypeAlias = Callable[[Request], str | None]
ChooseLifetime: TypeAlias = Callable[[Mapping[str, Any]], float | None]
Result = TypeVar("Result")


class SessionEndpoints:
    """The endpoints of ``auth_routes(sessions)``. They are described there."""

    def __init__(
        self,
        sessions: Sessions,
        login: Login,
        device: NoteDevice | None,
        lifetime: ChooseLifetime | None,
        cookies: Cookies | None,
        refuser: Refuser,
        events: Events,
    ) -> None:
        self._sessions = sessions
        self._login = login
        self._device = device
        self._lifetime = lifetime
        self._cookies = cookies
        self._refuser = refuser
        self._events = events

    async def login(self, request: Request) -> Response:
        """``POST /login``. The grant type is ``password`` unless the request names the other one."""
        return await self._grant(request, "password")

    async def refresh(self, request: Request) -> Response:
        """``POST /refresh``. The grant type is ``refresh_token`` unless the request names the other one."""
        return await self._grant(request, "refresh_token")

    async def logout(self, request: Request) -> Response:
        """``POST /logout``."""
        if self._cookies is None:
            return await self._end_sessions(request)
        try:
            self._cookies.check(request.scope)
        except CrossSite as refusal:
            return await self._refuser.response(refusal, request.scope)
        response = await self._end_sessions(request)
        # Even if the session could not be ended: the next user of this browser must not find them.
        self._cookies.clear(response, request.scope)
        return response

    async def _end_sessions(self, request: Request) -> Response:
        """End the session that the request names, and answer.

        1. The token in the body names one (RFC 7009 2.1), and each token in a cookie does. A body that cannot be read
           is no reason to let a session live on.
        2. If none of these is a token of ours, the token in the header names one.
        3. If no session was named at all, the answer says what is wrong with the request.
        """
        unreadable: OAuthError | None = None
        fields: dict[str, str] = {}
        try:
            fields = await read_fields(request, ("token", "token_type_hint", "refresh_token"))
        except OAuthError as error:
            unreadable = error
        # A wrong hint changes nothing, so none is needed.
        named = fields.get("token") or fields.get("refresh_token")
        try:
            has_ended = named is not None and await self._sessions.logout(named)
            if self._cookies is not None:
                for raw in self._cookies.read_tokens(request.scope):
                    has_ended |= await self._sessions.logout(raw)
            if not has_ended:
                has_ended = await self._end_session_of_header(request, is_needed=named is None and unreadable is None)
            if not has_ended and unreadable is not None:
                raise unreadable
        except StoreUnavailable as error:
            self._events.tell(StoreFailed(error=str(error)))
            return self._may_live_on().response
        except OAuthError as error:
            return error.response
        except Refusal as refusal:
            return await self._refuser.response(refusal, request.scope)
        # RFC 7009 2.2: even if the token was not a good one. Either way, the client does not want it any more.
        return JSONResponse({}, headers=NO_STORE)

    async def _end_session_of_header(self, request: Request, *, is_needed: bool) -> bool:
        """Whether the header named a session. Raises an error if it did not and ``is_needed`` is true."""
        try:
            raw = read_bearer(request.scope["headers"], MAX_TOKEN_SIZE)
            if raw is not None:
                if await self._sessions.logout(raw.decode("latin-1")):
                    return True
                raise InvalidToken
        except Refusal:
            if is_needed:
                raise
            return False
        # With cookies, there may be nothing left to end.
        if is_needed and self._cookies is None:
            raise OAuthError("invalid_request", "The parameter token, or a Bearer token in the header, is required.")
        return False

    def _may_live_on(self) -> OAuthError:
        return OAuthError(
            "temporarily_unavailable",
            "The session could not be ended and may live on. Try again later."
            if self._cookies is None
            else "The cookies are cleared, but the session could not be ended and may live on.",
            status=503,
            retry_after=1,
        )

    async def _grant(self, request: Request, usual: str) -> Response:
        try:
            if self._cookies is not None:
                self._cookies.check(request.scope)
            parameters = await read_parameters(request)
            fields = pick_fields(parameters, _OF_OAUTH)
            grant_type = fields.get("grant_type", usual)
            if grant_type == "password":
                others = {name: value for name, value in parameters if name not in _OF_OAUTH}
                grant = await self._open(fields, others, request)
            elif grant_type == "refresh_token":
                grant = await self._refresh(fields, request.scope)
            else:
                raise OAuthError(
                    "unsupported_grant_type", "Only the grant types password and refresh_token are supported here."
                )
        except OAuthError as error:
            return error.response
        except Refusal as refusal:
            return await self._refuser.response(refusal, request.scope)
        if self._cookies is not None:
            return self._cookies.response(grant, request.scope)
        return token_response(grant.access_token, grant.expires_in, grant.scopes, grant.refresh_token)

    async def _open(self, fields: Mapping[str, str], others: Mapping[str, Any], request: Request) -> Grant:
        user = await self._login.find_user(fields, request.scope)
        scopes = read_scopes(fields, user)
        device = None if self._device is None else self._device(request)
        lifetime = None if self._lifetime is None else self._lifetime(others)
        claims = user.claims_at_login(self._sessions.tokens.clock())
        return await self._ask_store(
            self._sessions.open(user.subject, scopes=scopes, claims=claims, device=device or "", lifetime=lifetime)
        )

    async def _refresh(self, fields: Mapping[str, str], scope: Scope) -> Grant:
        refresh_token = fields.get("refresh_token")
        if refresh_token is None and self._cookies is not None:
            refresh_token = self._cookies.read_refresh_token(scope)
            if refresh_token is None:
                # The page did nothing wrong: the user is not logged in.
                raise OAuthError("invalid_grant", "There is no refresh token: log in.")
        if refresh_token is None:
            raise OAuthError("invalid_request", "The parameter refresh_token is required.")
        try:
            return await self._ask_store(self._sessions.refresh(refresh_token, scope=fields.get("scope", "")))
        except InvalidGrant as refused:
            self._events.tell(RefreshRefused(reason=refused.reason))
            raise OAuthError("invalid_grant", "The refresh token is not valid, or no longer valid.") from None
        except ScopeNotGranted:
            raise invalid_scope() from None

    async def _ask_store(self, result: Awaitable[Result]) -> Result:
        try:
            return await result
        except StoreUnavailable as error:
            self._events.tell(StoreFailed(error=str(error)))
            raise OAuthError(
                "temporarily_unavailable",
                "Sessions cannot be stored at the moment. Try again later.",
                status=503,
                retry_after=1,
            ) from None


_OF_OAUTH: Final = frozenset({"grant_type", "username", "password", "refresh_token", "scope"})
"""The parameters that mean something to these routes. Others are the app's own."""
