"""What do login, refresh and logout answer where sessions are kept?"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from ..errors import CrossSite, InvalidToken, Refusal, StoreUnavailable
from ..reading.sources import read_bearer
from ..refuser import Refuser
from ..verifying.verifier import MAX_TOKEN_SIZE
from .cookies import Cookies
from .login import Login, grantable, invalid_scope
from .oauth import NO_STORE, OAuthError, read_fields, token_response
from .sessions import Grant, InvalidGrant, Sessions
from .users import ScopeNotGranted

NoteDevice: TypeAlias = Callable[[Request], str | None]
Answer = TypeVar("Answer")

logger = logging.getLogger("jwt_middleware")


class SessionEndpoints:
    """The endpoints of ``auth_routes(sessions)``; see there."""

    def __init__(
        self,
        sessions: Sessions,
        login: Login,
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
            has_kept = self._cookies is not None and await self._logout_kept(self._cookies, request.scope)
            if raw is None and not has_kept:
                return await self._logout_bearer(request)
        except OAuthError as error:
            return error.response
        # RFC 7009 2.2: also where the token was not a good one; the client does not want it any more either way.
        return JSONResponse({}, headers=NO_STORE)

    async def _logout_kept(self, cookies: Cookies, scope: Scope) -> bool:
        ended = [await _stored(self._sessions.logout(raw)) for raw in cookies.tokens(scope)]
        return any(ended)

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
        scopes = grantable(fields, user)
        device = None if self._device is None else self._device(request)
        return await _stored(self._sessions.open(user.subject, scopes=scopes, claims=user.claims, device=device or ""))

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
            raise invalid_scope() from None


async def _stored(answer: Awaitable[Answer]) -> Answer:
    try:
        return await answer
    except StoreUnavailable as error:
        logger.warning("sessions: the store is not available: %s", error)
        raise OAuthError(
            "temporarily_unavailable", "Sessions cannot be stored at the moment.", status=503, retry_after=1
        ) from None
