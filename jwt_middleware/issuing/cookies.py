"""How do browsers keep the tokens of a session, out of reach of the page's scripts? In cookies."""

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Scope

from ..errors import ConfigurationError, CrossSite
from ..reading.origins import Origins
from ..reading.sources import cookie_values, read_cookie
from ..verifying.verifier import MAX_TOKEN_SIZE
from .oauth import token_response
from .sessions import Grant

CookieMode: TypeAlias = Literal["refresh", "all"]

REFRESH_COOKIE = "__Secure-refresh"
ACCESS_COOKIE = "__Host-access"


class Cookies:
    """The cookies of ``auth_routes``, and who may have them set, used and cleared.

    ``mode``
        ``refresh``: the refresh token is kept in a cookie, the access token goes to the page. ``all``: so is the access
        token, in another one.
    ``path``
        Of the routes, as the browser knows it. None: as the request says.
    ``origins``
        See ``Origins``.
    ``lifetime``
        Seconds that the refresh token is kept.

    Raises ``ConfigurationError``.
    """

    def __init__(self, mode: CookieMode, *, path: str | None, origins: Iterable[str], lifetime: float) -> None:
        if mode not in ("refresh", "all"):
            raise ConfigurationError(f"cookies must be 'refresh' or 'all', not {mode!r}")
        if path is not None and not (isinstance(path, str) and path.startswith("/") and path == _quoted(path)):
            raise ConfigurationError(f"cookie_path must be a path as browsers write it, such as '/auth', not {path!r}")
        self._keeps_access = mode == "all"
        self._path = path
        self._origins = Origins(origins)
        self._lifetime = int(lifetime)

    def check(self, scope: Scope) -> None:
        """Raises ``CrossSite`` unless the request comes from where it may: whatever it does, it does to cookies."""
        if not self._origins.vouched_for(scope):
            raise CrossSite

    def refresh_token(self, scope: Scope) -> str | None:
        """The refresh token that the request of ``scope`` brings; raises ``AmbiguousToken``, ``TokenTooLarge``."""
        raw = read_cookie(scope["headers"], REFRESH_COOKIE.encode("ascii"), MAX_TOKEN_SIZE)
        return None if raw is None else raw.decode("latin-1")

    def tokens(self, scope: Scope) -> Iterator[str]:
        """All tokens that it brings, of whichever path or host their cookies are."""
        for name in (REFRESH_COOKIE, ACCESS_COOKIE):
            for raw in cookie_values(scope["headers"], name.encode("ascii")):
                yield raw.decode("latin-1")

    def answer(self, grant: Grant, scope: Scope) -> Response:
        """The answer to a login and to a refresh: what the page is to know, and the cookies."""
        access_token = None if self._keeps_access else grant.access_token
        response = token_response(access_token, grant.expires_in, grant.scopes)
        self._set(response, scope, grant.refresh_token, self._lifetime, grant.access_token, grant.expires_in)
        return response

    def clear(self, response: Response, scope: Scope) -> None:
        """Have the browser forget the cookies."""
        self._set(response, scope, "", 0, "", 0)

    def _set(
        self,
        response: Response,
        scope: Scope,
        refresh_token: str,
        refresh_lifetime: int,
        access_token: str,
        access_lifetime: int,
    ) -> None:
        path = self._path or _quoted(scope.get("root_path", "")) or "/"
        response.set_cookie(
            REFRESH_COOKIE, refresh_token, refresh_lifetime, path=path, secure=True, httponly=True, samesite="strict"
        )
        if self._keeps_access:
            # Lax: who follows a link to the app is logged in. Unsafe methods are looked at by the middleware.
            response.set_cookie(
                ACCESS_COOKIE, access_token, access_lifetime, path="/", secure=True, httponly=True, samesite="lax"
            )


def _quoted(path: str) -> str:
    """``path`` as browsers write it; what would end the attribute of a cookie is encoded as well."""
    return quote(path, safe="/:@!$&'()*+,=~")
