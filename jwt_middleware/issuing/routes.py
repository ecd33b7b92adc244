"""auth_routes(): login, refresh, logout and the JWK Set, spoken as OAuth clients expect it (RFC 6749, RFC 7009)."""

from collections.abc import Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .._support.arguments import check_callable
from ..errors import ConfigurationError
from ..refuser import RefusalResponse, Refuser
from .cookies import CookieMode, Cookies
from .issuer import TokenIssuer
from .login import Authenticate, Login
from .session_endpoints import NoteDevice, SessionEndpoints
from .sessions import Sessions
from .stateless_endpoints import StatelessLogin, StatelessRefresh
from .throttle import Throttle


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

    ``device(request)``, sync and quick, gives a text that tells the sessions of a user apart, such as a User-Agent, or
    None; see ``Sessions.list``. Default None: an empty one.

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
    check_callable("authenticate", authenticate, "username", "password")
    if throttle is not None and not isinstance(throttle, Throttle):
        raise ConfigurationError(f"throttle must be a Throttle(...), not {type(throttle).__name__}")
    if device is not None:
        check_callable("device", device, "request")
    refuser = Refuser(realm, refusal_response)
    tokens = sessions.tokens if isinstance(sessions, Sessions) else sessions
    login = Login(authenticate, throttle, tokens.derived_keys("login throttle")[0])
    if isinstance(sessions, Sessions):
        kept = _cookies(cookies, cookie_path, origins, sessions)
        endpoints = SessionEndpoints(sessions, login, device, kept, refuser)
        posts = {"login": endpoints.login, "refresh": endpoints.refresh, "logout": endpoints.logout}
    elif device is not None:
        raise ConfigurationError("device: without Sessions there is nothing to note it in")
    elif cookies is not None:
        raise ConfigurationError("cookies: without Sessions there are no refresh tokens to keep in one")
    else:
        posts = {"login": StatelessLogin(tokens, login).endpoint}
        if tokens.session_lifetime is not None:
            posts["refresh"] = StatelessRefresh(tokens, tokens.session_lifetime, refuser).endpoint
    return [
        *(Route(f"/{name}", endpoint, methods=["POST"], name=name) for name, endpoint in posts.items()),
        Route("/jwks.json", _jwks_endpoint(tokens), name="jwks"),
    ]


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
