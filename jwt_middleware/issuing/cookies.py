"""How do browsers keep the tokens of a session out of reach of the page's scripts? In cookies."""

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Literal, TypeAlias
from urllib.parse import quote, urlsplit

from starlette.responses import Response
from starlette.types import Scope

from .._support.arguments import check_bool, show
from ..errors import ConfigurationError
from ..events import Advice
from ..reading.cookies import cookie_values, read_cookie
from ..reading.origins import Origins
from ..telling import Events, escape
from ..verifying.verifier import MAX_TOKEN_SIZE
from .grants import Grant
from .oauth import token_response

CookieMode: TypeAlias = Literal["refresh", "all"]
SameSite: TypeAlias = Literal["strict", "lax", "none"]

MAX_COOKIE_SIZE = 4096
"""Bytes of name and value. Browsers drop larger cookies (RFC 6265bis 5.5)."""

MAX_LOGOUT_TOKENS = 16
"""The most tokens in cookies that one logout looks at."""


class Cookies:
    """Settings of the cookies that hold a session's tokens, for ``auth_routes(..., cookies=)`` and for your own login.

    ``mode``
        ``refresh``: a cookie holds the refresh token, and the access token goes to the page. ``all``: another cookie
        holds the access token.
    ``path``
        The path of the login routes as browsers know it, for the refresh token's cookie. Default None: the path of the
        ``Mount``, as each request says. ``set_cookies`` needs it.
    ``origins``
        Pages of other origins that may log in, refresh and log out, such as ``https://app.example``. See ``Origins``.
    ``domain``
        A domain whose hosts all get the cookies, such as ``shop.example``. Default None: only the host that set them,
        which is safer: any host of the domain can read, and replace, a cookie of the domain.
    ``samesite``
        ``strict``, ``lax`` or ``none``, for both cookies (RFC 6265bis 4.1.2.7). Default None: ``strict`` for the
        refresh token, and ``lax`` for the access token, so that a user who follows a link to the app is logged in. A
        page on another site than the API needs ``none``.
    ``secure``
        Whether browsers send the cookies over https only. Default True. False is for development over plain http; the
        names then lose their prefixes, which browsers accept over https only.
    ``refresh_name``, ``access_name``
        The names of the cookies. Defaults: ``__Secure-refresh`` and ``__Host-access``, and with a ``domain``
        ``__Secure-access``. Without ``secure``: ``refresh`` and ``access``. Give the middleware the same name:
        ``sources=[bearer_header(), cookie(cookies.access_name)]``.

    Cookies that browsers would drop are refused here, if the settings show it. What only a request can show is
    logged once, at login: plain http, another host than the ``domain``, a page of another site, a token that is too
    large.

    Raises ``ConfigurationError`` if an argument cannot work.
    """

    def __init__(
        self,
        mode: CookieMode,
        *,
        path: str | None = None,
        origins: Iterable[str] = (),
        domain: str | None = None,
        samesite: SameSite | None = None,
        secure: bool = True,
        refresh_name: str | None = None,
        access_name: str | None = None,
    ) -> None:
        if mode not in ("refresh", "all"):
            raise ConfigurationError(f"cookies must be 'refresh', 'all' or Cookies(...), not {show(mode)}")
        if path is not None and not (isinstance(path, str) and path.startswith("/") and path == _quote(path)):
            raise ConfigurationError(
                "cookie_path, or path of Cookies, must be a path as browsers write it, such as '/auth'"
            )
        if domain is not None and not _is_domain(domain):
            raise ConfigurationError(
                "domain of the cookies must be a host name with a dot, such as 'shop.example': browsers drop cookies "
                "of addresses and of top-level domains"
            )
        if samesite not in (None, "strict", "lax", "none"):
            raise ConfigurationError(
                f"samesite of the cookies must be 'strict', 'lax', 'none' or None, not {show(samesite)}"
            )
        check_bool("secure of the cookies", secure)
        if samesite == "none" and not secure:
            raise ConfigurationError("samesite='none' of the cookies needs secure=True: browsers drop them otherwise")
        self.mode: CookieMode = mode
        self._holds_access = mode == "all"
        self._path = path
        self._origins = Origins(origins)
        self._domain = domain
        self._secure = secure
        self._refresh_samesite: SameSite = samesite or "strict"
        self._access_samesite: SameSite = samesite or "lax"
        prefix = "__Secure-" if secure else ""
        self.refresh_name = refresh_name if refresh_name is not None else f"{prefix}refresh"
        """The name of the cookie that holds the refresh token."""
        access_prefix = "__Host-" if secure and domain is None else prefix
        self.access_name = access_name if access_name is not None else f"{access_prefix}access"
        """The name of the cookie that holds the access token."""
        self._check_name("refresh_name", self.refresh_name, path)
        self._check_name("access_name", self.access_name, "/")
        if self.refresh_name == self.access_name:
            raise ConfigurationError("refresh_name and access_name must differ")
        self.events = Events()
        """Tells why browsers drop cookies."""

    def _check_name(self, argument: str, name: object, path: str | None) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(f"{argument} must be letters, digits and !#$%&'*+-.^_`|~ (RFC 6265 4.1.1)")
        # RFC 6265bis 4.1.3. Browsers ignore the case of a prefix.
        lower = name.lower()
        if lower.startswith(("__secure-", "__host-", "__http-")) and not self._secure:
            raise ConfigurationError(f"{argument}: browsers drop a cookie with such a prefix unless it is secure=True")
        if lower.startswith("__host-") and (self._domain is not None or path != "/"):
            raise ConfigurationError(
                f"{argument}: browsers drop a cookie with the prefix __Host- if it has a domain, or another path than "
                "'/'"
            )

    def check(self, scope: Scope) -> None:
        """Raise ``CrossSite`` unless the request comes from an allowed origin: these routes work by cookies alone."""
        if not self._origins.vouched_for(scope):
            raise self._origins.refusal(scope)

    def read_refresh_token(self, scope: Scope) -> str | None:
        """The refresh token in the cookies of the request. Raises ``AmbiguousToken`` and ``TokenTooLarge``."""
        raw = read_cookie(scope["headers"], self.refresh_name.encode("ascii"), MAX_TOKEN_SIZE)
        return None if raw is None else raw.decode("latin-1")

    def read_tokens(self, scope: Scope) -> Iterator[str]:
        """The tokens in the cookies of the request, whichever path or host they are for.

        Another host of the domain can add cookies of these names, so there may be several. Each is looked at once, and
        there are at most ``MAX_LOGOUT_TOKENS``.
        """
        found: dict[bytes, None] = {}
        for name in (self.refresh_name, self.access_name):
            found |= dict.fromkeys(cookie_values(scope["headers"], name.encode("ascii")))
        for raw in list(found)[:MAX_LOGOUT_TOKENS]:
            yield raw.decode("latin-1")

    def response(self, grant: Grant, scope: Scope) -> Response:
        """The response to a login and to a refresh: what the page may know, and the cookies."""
        access_token = None if self._holds_access else grant.access_token
        response = token_response(access_token, grant.expires_in, grant.scopes)
        self._advise(scope)
        self._set(response, grant, self._path_of(scope))
        return response

    def set_cookies(self, response: Response, grant: Grant) -> None:
        """Put the tokens of ``grant`` into cookies of ``response``, the response to a login of yours.

        The settings must have a ``path``: that of the routes for refresh and logout. Checking origins is up to you: a
        page of another site that can send the login can log its victim into the attacker's account. Raises
        ``ConfigurationError`` without a ``path``.
        """
        if self._path is None:
            raise ConfigurationError(
                "set_cookies() needs Cookies(..., path='/auth'): the path at which browsers see refresh and logout"
            )
        self._set(response, grant, self._path)

    def clear(self, response: Response, scope: Scope) -> None:
        """Make the browser delete the cookies."""
        self._set_one(response, self.refresh_name, "", 0, self._path_of(scope), self._refresh_samesite)
        if self._holds_access:
            self._set_one(response, self.access_name, "", 0, "/", self._access_samesite)

    def _path_of(self, scope: Scope) -> str:
        return self._path or _quote(scope.get("root_path", "")) or "/"

    def _set(self, response: Response, grant: Grant, path: str) -> None:
        lifetime = grant.refresh_expires_in
        self._set_one(response, self.refresh_name, grant.refresh_token, lifetime, path, self._refresh_samesite)
        if self._holds_access:
            # Unsafe methods are the middleware's concern: it demands an allowed origin.
            self._set_one(response, self.access_name, grant.access_token, grant.expires_in, "/", self._access_samesite)

    def _set_one(self, response: Response, name: str, value: str, lifetime: int, path: str, samesite: SameSite) -> None:
        size = len(name) + len(value)
        if size > MAX_COOKIE_SIZE:
            self._advise_once(
                name,
                f"{name} has {size} bytes, and {MAX_COOKIE_SIZE} are allowed. Put fewer claims and scopes into the "
                "access token, or keep it in the page: Cookies('refresh')",
            )
        response.set_cookie(
            name,
            value,
            lifetime,
            path=path,
            domain=self._domain,
            secure=self._secure,
            httponly=True,
            samesite=samesite,
        )

    def _advise(self, scope: Scope) -> None:
        """Log, once each, why the browser that sent this request will drop the cookies."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        site = headers.get(b"sec-fetch-site")
        scheme, page = _read_origin(headers.get(b"origin", ""))
        _, host = _read_origin(f"//{headers.get(b'host', '')}")
        # A proxy may speak plain http to us, so only the browser can tell. Browsers send Sec-Fetch-Site to
        # hosts that they trust.
        if self._secure and site is None and scheme == "http" and not _is_loopback(host):
            self._advise_once(
                "plain http",
                f"they are Secure, and {escape(host)} was reached over plain http. Use https, or for development "
                "Cookies(..., secure=False)",
            )
        if site == "same-origin" and page:
            # A proxy may rewrite Host, too.
            host = page
        if self._domain is not None and host != self._domain and not host.endswith(f".{self._domain}"):
            self._advise_once("domain", f"their domain is {self._domain}, and {escape(host)} is not one of its hosts")
        if site == "cross-site" and self._refresh_samesite != "none":
            self._advise_once(
                "site", f"the page at {escape(page)} is another site, which needs Cookies(..., samesite='none')"
            )

    def _advise_once(self, about: str, reason: str) -> None:
        self.events.tell(Advice(text=f"browsers drop the cookies of the login: {reason}"), once=about)


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# RFC 1123 2.1, with the underscores that some hosts have.
_DOMAIN = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)+")


def _is_domain(domain: object) -> bool:
    return isinstance(domain, str) and bool(_DOMAIN.fullmatch(domain)) and not _is_address(domain)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _read_origin(url: str) -> tuple[str, str]:
    """Scheme and host name of ``url``. Both are empty if it cannot be read."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or ""
    except ValueError:
        return "", ""


def _is_loopback(host: str) -> bool:
    """Whether browsers trust ``host`` without TLS (W3C Secure Contexts 3.1)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return _is_address(host) and ip_address(host).is_loopback


def _quote(path: str) -> str:
    """``path`` as browsers write it. A character that would end the cookie's attribute is encoded as well."""
    return quote(path, safe="/:@!$&'()*+,=~")
