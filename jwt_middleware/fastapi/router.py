"""Which routes log users in, and what do they say of themselves in OpenAPI? ``auth_router``."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Annotated, Any, Concatenate, Literal, Protocol, TypeAlias, get_args, get_origin

from fastapi import APIRouter, params
from fastapi.responses import Response
from fastapi.security import SecurityScopes
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo
from starlette.background import BackgroundTasks
from starlette.requests import HTTPConnection, Request

from .._support.arguments import check_callable, check_takes, is_async
from ..errors import ConfigurationError
from ..issuing import Sessions, Throttle, TokenIssuer, auth_routes
from ..issuing.cookies import CookieMode, Cookies
from ..issuing.routes import read_cookies
from ..issuing.session_endpoints import ChooseLifetime, NoteDevice
from ..refuser import RefusalResponse
from ..telling import Handlers


class Identified(Protocol):
    """A user of the app, as a login needs one. ``scopes`` and ``claims`` are optional; see ``auth_routes``."""

    @property
    def identity(self) -> str:
        """The subject of the user's tokens."""
        ...


Found: TypeAlias = Identified | str | Literal[False] | None
AuthenticateWith: TypeAlias = Callable[Concatenate[str, str, ...], Found | Awaitable[Found]]
"""``authenticate(username, password, ...)``: what follows are dependencies."""


def auth_router(
    sessions: Sessions | TokenIssuer,
    *,
    authenticate: AuthenticateWith,
    throttle: Throttle | None = None,
    device: NoteDevice | None = None,
    lifetime: ChooseLifetime | None = None,
    cookies: CookieMode | Cookies | None = None,
    cookie_path: str | None = None,
    origins: Iterable[str] = (),
    realm: str = "api",
    refusal_response: RefusalResponse | None = None,
    on_event: Handlers | None = None,
) -> APIRouter:
    """The routes of ``auth_routes``, for ``app.include_router(..., prefix="/auth")``, with models for OpenAPI.

    An app where an ``Auth`` is installed leaves them open wherever they are included: the routes themselves, each with
    its method, not their paths. A route of the app's own that matches first stays guarded. The refresh of a
    ``TokenIssuer`` is guarded as well, because it takes an access token.

    ``authenticate(username, password, ...)``, sync (then in a worker thread) or async, returns what it returns for
    ``auth_routes``: None for an unknown user or a wrong password, a subject (str), or a user with ``identity`` and, if
    it has them, ``scopes``: those that its tokens may carry. Arguments after the first two are dependencies, which
    FastAPI resolves and ``dependency_overrides`` replaces: ``db: Annotated[AsyncSession, Depends(get_db)]``.

    The other arguments are those of ``auth_routes``. Raises ``ConfigurationError``.
    """
    check_callable("authenticate", authenticate, "username", "password")
    injected = _injected_parameters(authenticate)
    check_takes("authenticate", authenticate, "username", "password", also=[each.name for each in injected])
    _check_user(authenticate)
    settings = read_cookies(cookies, cookie_path, origins)
    routes = auth_routes(
        sessions,
        authenticate=_with_injected(authenticate) if injected else authenticate,
        throttle=throttle,
        device=device,
        lifetime=lifetime,
        cookies=settings,
        realm=realm,
        refusal_response=refusal_response,
        on_event=on_event,
    )
    is_stateless = isinstance(sessions, TokenIssuer)
    mode = None if settings is None else settings.mode
    router = APIRouter(tags=["auth"])
    for route in routes:
        described = _describe(route.name, mode, is_stateless, throttle is not None)
        router.add_api_route(
            route.path,
            Endpoint(
                route.name,
                route.path,
                route.endpoint,
                injected if route.name == "login" else (),
                is_open=not (is_stateless and route.name == "refresh"),
                access_cookie=settings.access_name if settings is not None and mode == "all" else None,
            ),
            methods=["GET" if route.name == "jwks" else "POST"],
            name=route.name,
            **described,
        )
    for api_route in router.routes:
        if getattr(api_route, "body_field", None) is not None:
            raise ConfigurationError("authenticate: its dependencies cannot read the body, which holds the password")
    return router


class Endpoint:
    """The endpoint of one of the routes."""

    def __init__(
        self,
        name: str,
        path: str,
        respond: Callable[[Request], Awaitable[Response]],
        injected: tuple[inspect.Parameter, ...],
        *,
        is_open: bool,
        access_cookie: str | None = None,
    ) -> None:
        self.name = name
        """``login``, ``refresh``, ``logout`` or ``jwks``."""
        self.is_open = is_open
        """Whether it needs no token of the middleware's."""
        self.access_cookie = access_cookie
        """The cookie into which a login puts the access token; None if it sets no such cookie."""
        self.__name__, self.__doc__ = name, None
        self._path = path
        self._respond = respond
        # FastAPI gives the request to one parameter only, which is ours.
        self._requests = [each.name for each in injected if _is_a(each.annotation, HTTPConnection)]
        parameters = [each.replace(kind=_KEYWORD) for each in injected if each.name not in self._requests]
        self.__signature__ = inspect.Signature([*parameters, inspect.Parameter(_REQUEST, _KEYWORD, annotation=Request)])

    async def __call__(self, **values: Any) -> Response:
        """Respond to the request among ``values``; the others are for ``authenticate``."""
        request: Request = values.pop(_REQUEST)
        token = _injected.set({**values, **dict.fromkeys(self._requests, request)})
        try:
            return await self._respond(self._as_mounted(request))
        finally:
            _injected.reset(token)

    def _as_mounted(self, request: Request) -> Request:
        # Cookies are for the path under which the routes are mounted, which `root_path` says. An included router has
        # a prefix instead.
        scope, path = request.scope, request.scope["path"]
        if path.endswith(self._path):
            scope = {**scope, "root_path": path.removesuffix(self._path)}
        return Request(scope, request.receive)


def is_open(endpoint: object) -> bool:
    """Whether ``endpoint`` answers a route of an ``auth_router`` that needs no token."""
    return isinstance(endpoint, Endpoint) and endpoint.is_open


_REQUEST = "jwt_middleware_request"
_KEYWORD = inspect.Parameter.KEYWORD_ONLY

_injected: ContextVar[Mapping[str, Any]] = ContextVar("jwt_middleware.fastapi.injected")
"""The values that FastAPI has resolved for ``authenticate``, during one login."""


def _with_injected(authenticate: Callable[..., Any]) -> Callable[[str, str], Any]:
    if is_async(authenticate):

        async def authenticate_with_injected(username: str, password: str) -> Any:
            return await authenticate(username, password, **_injected.get())

        return authenticate_with_injected

    def authenticate_in_thread(username: str, password: str) -> Any:
        return authenticate(username, password, **_injected.get())

    return authenticate_in_thread


def _injected_parameters(authenticate: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    try:
        signature = inspect.signature(authenticate, eval_str=True)
    except NameError:
        # A name that only type checkers know. FastAPI complains of it if it matters.
        signature = inspect.signature(authenticate)
    except ValueError:
        return ()
    parameters = list(signature.parameters.values())
    if any(map(_is_declared, parameters[:2])):
        raise ConfigurationError(
            "authenticate must be callable as (username, password, ...): its first two arguments come from the form, "
            "so FastAPI's OAuth2PasswordRequestForm is not needed; put dependencies after them"
        )
    return tuple(parameter for parameter in parameters[2:] if _is_injected(parameter))


def _is_declared(parameter: inspect.Parameter) -> bool:
    """Whether FastAPI is to find the value of ``parameter``."""
    annotation = parameter.annotation
    markers = [*(get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()), parameter.default]
    return any(isinstance(marker, params.Depends | FieldInfo) for marker in markers) or _is_a(annotation, *_GIVEN)


def _is_injected(parameter: inspect.Parameter) -> bool:
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        return False
    if _is_declared(parameter):
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ConfigurationError(f"authenticate: {parameter.name} must not be positional-only")
        return True
    if parameter.default is inspect.Parameter.empty:
        # FastAPI would take it for a parameter of the query, and a request could choose it.
        raise ConfigurationError(
            f"authenticate: {parameter.name} is no dependency; declare it as Annotated[..., Depends(...)], or give it "
            "a default"
        )
    return False


def _is_a(annotation: Any, *kinds: type) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, kinds)


_GIVEN = (HTTPConnection, Response, BackgroundTasks, SecurityScopes)


def _check_user(authenticate: Callable[..., Any]) -> None:
    """Raise ``ConfigurationError`` if the annotation says that users without ``identity`` are returned."""
    try:
        returned = inspect.signature(authenticate, eval_str=True).return_annotation
    except (NameError, ValueError):
        return
    for kind in get_args(returned) or (returned,):
        if inspect.isclass(kind) and not _may_have_identity(kind):
            raise ConfigurationError(
                f"authenticate returns a {kind.__name__}, which has no `identity` (str); add a property that gives the "
                "subject of its tokens, for instance str(self.id), or return that text"
            )


def _may_have_identity(kind: type) -> bool:
    if kind in (inspect.Signature.empty, Any, object, str, bool, type(None)) or hasattr(kind, "identity"):
        return True
    if hasattr(kind, "__getattr__") or any(
        "identity" in vars(base).get("__annotations__", ()) for base in kind.__mro__
    ):
        return True
    inits = (vars(base).get("__init__") for base in kind.__mro__)
    return any("identity" in init.__code__.co_names for init in inits if inspect.isfunction(init))


class LoginAnswer(BaseModel):
    """RFC 6749 5.1, where cookies keep the tokens."""

    token_type: Literal["bearer"]
    expires_in: int = Field(description="Seconds until the access token expires.")
    scope: str = Field(default="", description="What the access token allows, delimited by spaces.")


class AccessToken(LoginAnswer):
    """RFC 6749 5.1: an access token."""

    access_token: str


class Tokens(AccessToken):
    """RFC 6749 5.1: an access token, and the refresh token that gets the next one."""

    refresh_token: str


class OAuthProblem(BaseModel):
    """RFC 6749 5.2."""

    error: str
    error_description: str


class JWKSet(BaseModel):
    """RFC 7517 5: the public keys that verify access tokens."""

    keys: list[dict[str, Any]]


class LoggedOut(BaseModel):
    """The session is over."""


_FORMS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "login": (
        {
            "grant_type": {"const": "password"},
            "username": {"type": "string"},
            "password": {"type": "string", "format": "password"},
            "scope": {"type": "string", "description": "Fewer scopes than the user may have, delimited by spaces."},
        },
        ["username", "password"],
    ),
    "refresh": (
        {
            "grant_type": {"const": "refresh_token"},
            "refresh_token": {"type": "string"},
            "scope": {"type": "string", "description": "Fewer scopes than before, delimited by spaces."},
        },
        ["refresh_token"],
    ),
    "logout": (
        {
            "token": {"type": "string", "description": "A refresh token or an access token. Or use a Bearer header."},
            "token_type_hint": {"type": "string"},
        },
        [],
    ),
}

_SUMMARIES = {
    "login": "Log in with a user name and a password",
    "refresh": "Get new tokens",
    "logout": "End the session",
    "jwks": "The public keys that verify access tokens",
}


def _describe(name: str, cookies: CookieMode | None, is_stateless: bool, is_throttled: bool) -> dict[str, Any]:
    """The arguments of ``add_api_route`` that document the route ``name``."""
    if name == "jwks":
        return {"response_model": JWKSet, "summary": _SUMMARIES[name]}
    answers: dict[str, Any] = {"login": AccessToken if is_stateless or cookies == "refresh" else Tokens}
    if cookies == "all":
        answers["login"] = LoginAnswer
    answers |= {"refresh": answers["login"], "logout": LoggedOut}
    responses: dict[int, dict[str, Any]] = {400: {"model": OAuthProblem, "description": "RFC 6749 5.2."}}
    if not is_stateless or name == "login":
        responses[413] = {"model": OAuthProblem, "description": "The body is too large."}
    if name == "login" and is_throttled:
        responses[429] = {
            "model": OAuthProblem,
            "description": "Too many logins failed.",
            "headers": {"Retry-After": _RETRY_AFTER},
        }
    if not is_stateless or is_throttled:
        responses[503] = {
            "model": OAuthProblem,
            "description": "Sessions, or the count of failed logins, cannot be stored at the moment.",
            "headers": {"Retry-After": _RETRY_AFTER},
        }
    if name == "logout":
        responses[401] = {"description": "The Bearer token in the header is none of ours."}
    if cookies is not None:
        responses[403] = {"description": "The request comes from another site."}
    return {
        "response_model": answers[name],
        "summary": _SUMMARIES[name],
        "responses": responses,
        "openapi_extra": None if is_stateless and name == "refresh" else _form(name, cookies is not None),
    }


_RETRY_AFTER = {"description": "Seconds to wait (RFC 9110 10.2.3).", "schema": {"type": "integer"}}


def _form(name: str, has_cookies: bool) -> dict[str, Any]:
    properties, required = _FORMS[name]
    is_optional = not required or (has_cookies and name == "refresh")
    schema = {"type": "object", "properties": properties, **({} if is_optional else {"required": required})}
    content = {kind: {"schema": schema} for kind in ("application/x-www-form-urlencoded", "application/json")}
    return {"requestBody": {"content": content, "required": not is_optional}}
