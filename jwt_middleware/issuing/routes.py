"""auth_routes(): login, refresh, logout and the JWK Set, as OAuth clients expect them (RFC 6749, RFC 7009)."""

from collections.abc import Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .._support.arguments import check_plain_function, check_takes
from ..errors import ConfigurationError
from ..refuser import RefusalResponse, Refuser
from ..telling import Events, Handlers
from .cookies import CookieMode, Cookies
from .issuer import TokenIssuer
from .login import Authenticate, Login
from .session_endpoints import ChooseLifetime, NoteDevice, SessionEndpoints
from .sessions import Sessions
from .stateless_endpoints import StatelessLogin, StatelessRefresh
from .throttle import Throttle


def auth_routes(
    sessions: Sessions | TokenIssuer,
    *,
    authenticate: Authenticate,
    throttle: Throttle | None = None,
    device: NoteDevice | None = None,
    lifetime: ChooseLifetime | None = None,
    cookies: CookieMode | Cookies | None = None,
    cookie_path: str | None = None,
    origins: Iterable[str] = (),
    realm: str = "api",
    refusal_response: RefusalResponse | None = None,
    on_event: Handlers | None = None,
) -> list[Route]:
    """Return Starlette routes, for a ``Mount`` at a path of your choice.

    With ``Sessions`` there are four, and all of them may be public:

    ``POST /login``
        Takes the OAuth2 password form (RFC 6749 4.3.2), or the same names in a JSON object: ``username``,
        ``password``, and ``scope`` to ask for fewer scopes than the user may have. Opens a session and answers with
        its first tokens.
    ``POST /refresh``
        Takes ``refresh_token`` (RFC 6749 6) in the same ways, and ``scope`` to ask for fewer scopes. Answers as the
        login does. Clients that know only one token endpoint can use either address for both; ``grant_type`` tells
        which request it is.
    ``POST /logout``
        Takes ``token`` (RFC 7009 2.1), which is a refresh token or an access token, or the token in a Bearer header or
        in a cookie. Ends its session, even if the token has expired, and even if the body cannot be read. Unknown
        tokens get the same answer. If the store cannot write, the answer is 503, and the session may live on.
    ``GET /jwks.json``
        The issuer's public keys (RFC 7517 5). There are none if it signs with a secret.

    With a ``TokenIssuer`` alone, nothing is stored and there is no logout. ``POST /refresh`` exists only if the issuer
    has a ``session_lifetime``. It takes the Bearer token of a login until ``session_lifetime`` has passed since that
    login, while the token is still good. The issuer's own rules are checked there. If those of the middleware
    (``validate``, ``load_user``) must be checked as well, do not make this route public.

    ``authenticate(username, password)``, sync (then in a worker thread) or async, is your function. It returns None if
    the user is unknown or the password is wrong, else a subject (str), or a user with ``identity`` (str) and, if it has
    them, ``scopes`` (list of str: those that may be granted), ``claims`` (dict: further claims of the tokens), ``acr``
    (str) and ``amr`` (list of str): how the user logged in, for ``requires(acr=...)``. ``auth_time`` in the tokens says
    when. A refresh keeps all three. An unknown user should take as long as a wrong password, as with
    ``password_check``.

    The app answers an exception from ``authenticate``. It counts as a failed login only if it says so itself:
    Starlette's ``HTTPException`` or a ``Refusal`` with a status below 500.

    ``throttle`` refuses logins after too many failed ones. Default None: they are not counted.

    ``device(request)``, sync and quick, returns a text that tells the sessions of a user apart, such as a User-Agent,
    or None; see ``Sessions.list``. Default None: an empty text.

    ``lifetime(parameters)``, sync and quick, returns the seconds that the session of this login lives at most, or None
    for the ``session_lifetime`` of ``Sessions``, which is the maximum. ``parameters`` (dict) is whatever the login sent
    apart from the parameters above: texts in a form, any values in JSON. So a "remember me" check box works with
    ``lifetime=lambda parameters: None if parameters.get("remember_me") else 12 * 3600``. Default None: every session
    lives for ``session_lifetime``.

    ``cookies`` is for pages in browsers, with ``Sessions``. ``"refresh"``: the cookie ``__Secure-refresh`` holds the
    refresh token for these routes alone, and no page sees it; refresh and logout need no parameters. ``"all"``: the
    cookie ``__Host-access`` holds the access token as well, and ``sources=[cookie("__Host-access")]`` reads it. Login,
    refresh and logout must come from the same origin then, or from one of ``origins``; others get ``cross_site``, see
    ``Origins``. ``cookie_path`` is the path of these routes as browsers know it, for proxies that strip a prefix; by
    default that of the ``Mount``. ``Cookies(...)`` has further settings, and holds path and origins itself. Default
    None: the tokens are in the response.

    ``realm`` and ``refusal_response`` are for answers to a Bearer header; see ``Refuser``. ``on_event`` is called with
    every event of a login; see ``Events``.

    Raises ``ConfigurationError`` if an argument cannot work.
    """
    if not isinstance(sessions, Sessions | TokenIssuer):
        raise ConfigurationError(f"auth_routes() needs Sessions or a TokenIssuer, not {type(sessions).__name__}")
    check_takes("authenticate", authenticate, "username", "password")
    if throttle is not None and not isinstance(throttle, Throttle):
        raise ConfigurationError(f"throttle must be a Throttle(...), not {type(throttle).__name__}")
    if device is not None:
        check_plain_function("device", device, "request")
    if isinstance(lifetime, int | float):
        raise ConfigurationError("lifetime must be a function; Sessions(session_lifetime=...) is for all sessions")
    if lifetime is not None:
        check_plain_function("lifetime", lifetime, "parameters")
    tokens = sessions.tokens if isinstance(sessions, Sessions) else sessions
    settings = read_cookies(cookies, cookie_path, origins)
    events = _connect_events(on_event, throttle, settings)
    refuser = Refuser(realm, refusal_response, events=events)
    login = Login(authenticate, throttle, tokens.derived_keys("login throttle")[0], events)
    if isinstance(sessions, Sessions):
        endpoints = SessionEndpoints(sessions, login, device, lifetime, settings, refuser, events)
        posts = {"login": endpoints.login, "refresh": endpoints.refresh, "logout": endpoints.logout}
    elif device is not None:
        raise ConfigurationError("device: without Sessions, there is no list of sessions to tell apart")
    elif lifetime is not None:
        raise ConfigurationError("lifetime: without Sessions, set TokenIssuer(session_lifetime=...)")
    elif settings is not None:
        raise ConfigurationError("cookies: without Sessions, there is no refresh token for them to hold")
    else:
        posts = {"login": StatelessLogin(tokens, login).login}
        if tokens.session_lifetime is not None:
            posts["refresh"] = StatelessRefresh(tokens, tokens.session_lifetime, refuser).refresh
    return [
        *(Route(f"/{name}", endpoint, methods=["POST"], name=name) for name, endpoint in posts.items()),
        Route("/jwks.json", _jwks_endpoint(tokens), name="jwks"),
    ]


def read_cookies(
    cookies: CookieMode | Cookies | None, cookie_path: str | None, origins: Iterable[str]
) -> Cookies | None:
    """The settings that these arguments make; None without cookies. Raises ``ConfigurationError``."""
    has_settings = cookie_path is not None or bool(origins)
    if isinstance(cookies, Cookies) and has_settings:
        raise ConfigurationError("cookie_path and origins: give them to Cookies(..., path=..., origins=...)")
    if cookies is None and has_settings:
        raise ConfigurationError("cookie_path and origins are for cookies=")
    if cookies is None or isinstance(cookies, Cookies):
        return cookies
    return Cookies(cookies, path=cookie_path, origins=origins)


def _connect_events(on_event: Handlers | None, throttle: Throttle | None, cookies: Cookies | None) -> Events:
    events = Events(on_event)
    for part in (throttle, cookies):
        if part is not None and on_event is not None:
            part.events.add_handlers(on_event)
    return events


def _jwks_endpoint(tokens: TokenIssuer) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(tokens.jwks(), headers={"cache-control": "public, max-age=300"})

    return endpoint
