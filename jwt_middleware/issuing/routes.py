"""auth_routes(): login, refresh and the JWK Set, spoken as OAuth clients expect it (RFC 6749)."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from ..arguments import function
from ..claims import Token
from ..compact import json_object
from ..errors import ConfigurationError, InvalidClaim, MalformedToken, MissingClaim, MissingToken, Refusal, TooOld
from ..hooks import Hook
from ..refuser import RefusalResponse, Refuser
from ..sources import read_bearer
from ..verifier import Verifier
from .issuer import RESERVED, TokenIssuer
from .throttle import LoginRefused, Throttle

Authenticate: TypeAlias = Callable[[str, str], Any]

MAX_LOGIN_SIZE = 16 * 1024
"""Bytes of a login request's body, at most."""


def auth_routes(
    tokens: TokenIssuer,
    *,
    authenticate: Authenticate,
    throttle: Throttle | None = None,
    realm: str = "api",
    refusal_response: RefusalResponse | None = None,
) -> list[Route]:
    """Starlette routes, for a ``Mount`` of the app's choice.

    ``POST /login``
        Takes the OAuth2 password form (RFC 6749 4.3.2) or the same names in a JSON object: ``username``, ``password``,
        and ``scope`` if less is wanted than the user may have.
    ``POST /refresh``
        Only where ``tokens`` has a ``session_lifetime``. Takes a Bearer token of a login that is still good, and
        answers as the login did, until ``session_lifetime`` has passed since then. The issuer's own rules are checked
        here; for those of the middleware as well (``validate``, ``load_user``), do not make this route public.
    ``GET /jwks.json``
        The issuer's public keys (RFC 7517 5); none where it signs with a secret.

    ``authenticate(username, password)``, sync (then in a worker thread) or async, is the app's: it returns None for
    nobody, a subject (str), or a user with ``identity`` (str), and if it has them ``scopes`` (those it may be granted)
    and ``claims`` (further ones for its tokens). Unknown users should cost it the time that wrong passwords do, as with
    ``password_check``.

    ``throttle`` refuses logins after too many failed ones. Default None: they are not counted.

    ``realm`` and ``refusal_response`` are for refresh; see ``Refuser``. Raises ``ConfigurationError``.
    """
    if not isinstance(tokens, TokenIssuer):
        raise ConfigurationError(f"auth_routes() needs a TokenIssuer, not {type(tokens).__name__}")
    function("authenticate", authenticate, "username", "password")
    if throttle is not None and not isinstance(throttle, Throttle):
        raise ConfigurationError(f"throttle must be a Throttle(...), not {throttle!r}")
    refuser = Refuser(realm, refusal_response)
    routes = [
        Route("/login", _Login(tokens, Hook(authenticate), throttle).endpoint, methods=["POST"], name="login"),
        Route("/jwks.json", _jwks_endpoint(tokens), name="jwks"),
    ]
    if tokens.session_lifetime is not None:
        renewal = _Refresh(tokens, tokens.session_lifetime, refuser)
        routes.insert(1, Route("/refresh", renewal.endpoint, methods=["POST"], name="refresh"))
    return routes


# RFC 6749 5.1: both headers, on every answer that holds a token; on errors too, since they tell of an attempt.
_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


class _OAuthError(Exception):
    """RFC 6749 5.2: an error of the token endpoint."""

    def __init__(self, error: str, description: str, *, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(error)
        headers = _NO_STORE if retry_after is None else {**_NO_STORE, "retry-after": str(retry_after)}
        self.response = JSONResponse(
            {"error": error, "error_description": description}, status_code=status, headers=headers
        )


@dataclass(frozen=True, slots=True)
class _User:
    subject: str
    scopes: tuple[str, ...] = ()
    claims: Mapping[str, Any] | None = None


class _Login:
    def __init__(self, tokens: TokenIssuer, authenticate: Hook, throttle: Throttle | None) -> None:
        self._tokens = tokens
        self._authenticate = authenticate
        self._throttle = throttle

    async def endpoint(self, request: Request) -> Response:
        try:
            fields = await _fields(request)
            user = await self._user(fields["username"], fields["password"], request.scope)
            scopes = _granted(fields["scope"], user.scopes)
        except _OAuthError as error:
            return error.response
        now = self._tokens.clock()
        claims = dict(user.claims or {})
        if self._tokens.session_lifetime is not None:
            # OpenID Connect Core 2: when the user was last asked for a password. Renewal is counted from here.
            claims["auth_time"] = int(now)
        access_token = self._tokens.mint(user.subject, scopes=scopes, claims=claims, now=now)
        return _token_response(access_token, self._tokens.access_lifetime, scopes)

    async def _user(self, username: str, password: str, scope: Scope) -> _User:
        if self._throttle is None:
            return _user(await self._authenticate(username, password))
        try:
            attempt = await self._throttle.attempt(username, scope)
        except LoginRefused as refused:
            raise _OAuthError(
                # RFC 6749 5.2 has no word for it; 4.1.2.1 has.
                "temporarily_unavailable",
                refused.description,
                status=refused.status,
                retry_after=refused.retry_after,
            ) from None
        user = _user(await self._authenticate(username, password))
        await self._throttle.forgive(attempt)
        return user


class _Refresh:
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
        return _token_response(access_token, lifetime, token.scopes)

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


def _jwks_endpoint(tokens: TokenIssuer) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(tokens.jwks(), headers={"cache-control": "public, max-age=300"})

    return endpoint


async def _fields(request: Request) -> dict[str, str]:
    """``username``, ``password`` and ``scope`` (empty where there is none); raises ``_OAuthError``."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await _body(request)
    try:
        if media_type == "application/json":
            pairs: Iterable[tuple[str, Any]] = json_object(body).items()
        elif media_type == _FORM:
            pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=100)
        else:
            raise _OAuthError("invalid_request", f"The content type must be {_FORM} or application/json.")
    except (ValueError, MalformedToken):
        raise _OAuthError("invalid_request", "The body cannot be read.") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in ("grant_type", "username", "password", "scope") or value is None:
            continue
        # RFC 6749 3.2: parameters MUST NOT be included more than once.
        if name in fields or not isinstance(value, str):
            raise _OAuthError("invalid_request", f"The parameter {name} must be one string.")
        if name != "scope" and not _TEXT.fullmatch(value):
            raise _OAuthError("invalid_request", f"The parameter {name} holds a character that it cannot have.")
        fields[name] = value
    if fields.get("grant_type", "") not in ("", "password"):
        raise _OAuthError("unsupported_grant_type", "Only the grant type password is supported here.")
    # RFC 6749 3.2: parameters without a value MUST be treated as if they were omitted.
    if not (fields.get("username") and fields.get("password")):
        raise _OAuthError("invalid_request", "The parameters username and password are needed.")
    return {"scope": "", **fields}


_FORM = "application/x-www-form-urlencoded"

# RFC 6749 A, UNICODECHARNOCRLF: databases, hashes and logs stumble over NUL and other control characters.
_TEXT = re.compile(r"[\t\x20-\x7e\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_LOGIN_SIZE:
                    raise _OAuthError("invalid_request", "The body is too large.", status=413)
    except ClientDisconnect:
        raise _OAuthError("invalid_request", "The body is not complete.") from None
    return body


def _user(found: object) -> _User:
    if found is None or found is False:
        raise _OAuthError("invalid_grant", "The username or the password is wrong.")
    if isinstance(found, str):
        return _User(found)
    subject = getattr(found, "identity", None)
    scopes = getattr(found, "scopes", None) or ()
    if not isinstance(subject, str) or isinstance(scopes, str):
        raise TypeError(
            "authenticate() must return a subject (str), None, or a user with an `identity` (str) and, if it has them, "
            f"`scopes` (a list); a {type(found).__name__} came"
        )
    return _User(subject, tuple(scopes), getattr(found, "claims", None))


def _granted(wanted: str, grantable: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for name in wanted.split(" ") if name))
    if not names:
        return grantable
    granted = tuple(name for name in names if name in grantable)
    if not granted:
        # RFC 6749 5.1 makes us name a scope that differs from the wanted one, and no scope has no name.
        raise _OAuthError("invalid_scope", "None of the scopes asked for can be granted.")
    return granted


def _token_response(access_token: str, lifetime: int, scopes: tuple[str, ...]) -> Response:
    scope = {"scope": " ".join(scopes)} if scopes else {}
    content = {"access_token": access_token, "token_type": "bearer", "expires_in": lifetime, **scope}
    return JSONResponse(content, headers=_NO_STORE)
