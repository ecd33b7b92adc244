"""How do login and refresh answer if nothing is stored?"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import InvalidClaim, MissingClaim, MissingToken, Refusal, TooOld
from ..reading.authorization import read_bearer
from ..refuser import Refuser
from ..verifying.token import Token
from ..verifying.verifier import Verifier
from .issuer import RESERVED, TokenIssuer
from .login import Login, read_scopes
from .oauth import OAuthError, read_fields, token_response


class StatelessLogin:
    """The login of ``auth_routes(tokens)``, which is described there."""

    def __init__(self, tokens: TokenIssuer, login: Login) -> None:
        self._tokens = tokens
        self._login = login

    async def login(self, request: Request) -> Response:
        """``POST /login``."""
        try:
            fields = await read_fields(request, ("grant_type", "username", "password", "scope"))
            if fields.get("grant_type", "password") != "password":
                raise OAuthError("unsupported_grant_type", "Only the grant type password is supported here.")
            user = await self._login.find_user(fields, request.scope)
            scopes = read_scopes(fields, user)
        except OAuthError as error:
            return error.response
        now = self._tokens.clock()
        access_token = self._tokens.mint(user.subject, scopes=scopes, claims=user.claims_at_login(now), now=now)
        return token_response(access_token, self._tokens.access_lifetime, scopes)


class StatelessRefresh:
    """The refresh of ``auth_routes(tokens)``, which is described there. ``session_lifetime`` is in seconds."""

    def __init__(self, tokens: TokenIssuer, session_lifetime: int, refuser: Refuser) -> None:
        self._tokens = tokens
        self._session_lifetime = session_lifetime
        self._refuser = refuser
        provider = tokens.provider()
        self._leeway = provider.rules.leeway
        self._verifier = Verifier(provider, clock=tokens.clock)

    async def refresh(self, request: Request) -> Response:
        """``POST /refresh``."""
        try:
            raw = read_bearer(request.scope["headers"], self._verifier.max_token_size)
            if raw is None:
                raise MissingToken
            token = await self._verifier.verify(raw)
            try:
                return self._renew(token, self._tokens.clock())
            except Refusal as refusal:
                refusal.about(token)
                raise
        except Refusal as refusal:
            return await self._refuser.response(refusal, request.scope)

    def _renew(self, token: Token, now: float) -> Response:
        # Another holder of the secret, or of one that is now an old key, may have made this token. So it need not be
        # a token that we would make.
        lifetime = min(self._tokens.access_lifetime, self._seconds_left(token.claims, now))
        claims = {name: value for name, value in token.claims.items() if name not in RESERVED}
        try:
            access_token = self._tokens.mint(
                token.subject, scopes=token.scopes, claims=claims, lifetime=lifetime, now=now
            )
        except ValueError:
            raise InvalidClaim from None
        return token_response(access_token, lifetime, token.scopes)

    def _seconds_left(self, claims: Mapping[str, Any], now: float) -> int:
        """Seconds until the login of these claims ends. Raises a ``Refusal`` if there was none, or it has ended."""
        auth_time = claims.get("auth_time")
        if auth_time is None:
            raise MissingClaim(claim="auth_time")
        if type(auth_time) is not int or auth_time > now + self._leeway:
            raise InvalidClaim(claim="auth_time")
        left = auth_time + self._session_lifetime - int(now)
        if left < 1:
            raise TooOld(claim="auth_time")
        return left
