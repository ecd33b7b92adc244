"""What does OpenAPI say of the callers of an app: how do they log in, which scopes do they need, what is refused?"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.types import Scope

from ..requires import Requirement, demands_of
from .dependencies import AnyOfGuard, Authority, Guard, OptionalGuard, calls_in
from .router import Endpoint, is_open

Schema: TypeAlias = dict[str, Any]


def document(auth: Authority, app: FastAPI, is_public: Callable[[Scope], bool], docs_client_id: str | None) -> None:
    """Have ``app.openapi()`` tell what ``auth`` does, even if the app puts its own function in its place."""
    documentation = _Documentation(auth, app, is_public)

    def get(self: Any) -> Callable[[], Schema]:
        replaced = vars(self).get("openapi")
        return lambda: documentation.complete((replaced or original.__get__(self))())

    def put(self: Any, replacement: Callable[[], Schema]) -> None:
        vars(self)["openapi"] = replacement

    kind: Any = type(app)
    original = kind.openapi
    # A mere attribute of the object would be lost as soon as the app assigns its own function.
    app.__class__ = type(kind.__name__, (kind,), {"openapi": property(get, put), "__module__": kind.__module__})
    if any(_discovers(auth)):
        # RFC 7636: a page in a browser keeps no secret.
        oauth: Schema = {"usePkceWithAuthorizationCodeGrant": True}
        if docs_client_id is not None:
            oauth["clientId"] = docs_client_id
        app.swagger_ui_init_oauth = {**oauth, **(app.swagger_ui_init_oauth or {})}


@dataclass(frozen=True, slots=True)
class _Need:
    """What a guard needs: all of ``scopes``, and one of ``any_of`` unless it is empty."""

    scopes: tuple[str, ...]
    any_of: tuple[str, ...] = ()
    is_optional: bool = False
    """Whether an anonymous request may pass."""


class _Documentation:
    def __init__(self, auth: Authority, app: FastAPI, is_public: Callable[[Scope], bool]) -> None:
        self._auth = auth
        self._app = app
        self._is_public = is_public
        self._last: tuple[Schema, Schema, Schema] | None = None

    def complete(self, schema: Schema) -> Schema:
        """A copy of ``schema`` with our part in it. Completing it again changes nothing."""
        schemes = self._schemes()
        if self._last is not None and self._last[0] is schema and self._last[1] == schemes:
            return self._last[2]
        completed = dict(schema)
        paths = completed["paths"] = dict(schema.get("paths") or {})
        for context in self._routes():
            path = context.path_format
            for method in sorted(context.methods or ()):
                operation = (paths.get(path) or {}).get(method.lower())
                if operation is not None:
                    paths[path] = {**paths[path], method.lower(): self._operation(operation, context, method, schemes)}
        components = completed["components"] = dict(schema.get("components") or {})
        others = {name: scheme for name, scheme in (components.get("securitySchemes") or {}).items() if name != _OURS}
        components["securitySchemes"] = {**others, **schemes}
        components["schemas"] = {**(components.get("schemas") or {}), "Refusal": _REFUSAL}
        self._last = (schema, schemes, completed)
        return completed

    def _routes(self) -> Iterator[RouteContext]:
        for context in iter_route_contexts(self._app.routes):
            if isinstance(context.original_route, APIRoute) and context.include_in_schema:
                yield context

    def _needs(self, context: RouteContext) -> Iterator["_Need"]:
        """What the guards of a route need: its dependencies, and the decorators of its endpoint."""
        for call, scopes in calls_in(context.dependant):
            if isinstance(call, Guard) and call.auth is self._auth:
                is_optional = isinstance(call, OptionalGuard) and not scopes
                yield _Need(scopes, call.names if isinstance(call, AnyOfGuard) else (), is_optional)
            elif isinstance(call, Requirement):
                yield _Need(call.demand.scopes, call.demand.any_of)
        for demand in demands_of(context.endpoint):
            yield _Need(demand.scopes, demand.any_of)

    def _operation(self, operation: Schema, context: RouteContext, method: str, schemes: Schema) -> Schema:
        needs = list(self._needs(context))
        needs_token = not all(need.is_optional for need in needs)
        is_public = is_open(context.endpoint) or self._is_public(self._scope(context, method))
        anonymous = self._auth.options.get("allow_anonymous", False)
        # What a function of the app will say is not known here: an optional guard tells what is meant.
        may_be_anonymous = is_public or (bool(needs) if callable(anonymous) else anonymous)
        completed = {**operation, "responses": dict(operation.get("responses") or {})}
        alternatives, too_many = _find_alternatives(needs)
        ours = (
            [{scheme: list(scopes)} for scopes in alternatives for scheme in schemes] if needs or not is_public else []
        )
        if ours and may_be_anonymous and not needs_token:
            ours.insert(0, {})
        others = [
            entry for entry in operation.get("security") or () if entry and not {_OURS, *schemes}.intersection(entry)
        ]
        if ours or others:
            completed["security"] = [*others, *ours]
        else:
            completed.pop("security", None)
        for status in self._statuses(needs, method, is_public=is_public, needs_token=needs_token):
            documented = completed["responses"].get(status) or {}
            answer = self._response(status, reads_body=context.body_field is not None)
            if status == "403":
                answer["description"] += "".join(f" It also needs one of: {', '.join(names)}." for names in too_many)
            completed["responses"][status] = {**answer, **documented}
        return completed

    def _scope(self, context: RouteContext, method: str) -> Scope:
        """A request for the route, as far as its declaration tells: its parameters stand for themselves."""
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": context.path_format,
            "raw_path": None,
            "root_path": "",
            "query_string": b"",
            "headers": [],
            "client": None,
            "server": None,
            "app": self._app,
        }

    def _statuses(self, needs: Iterable["_Need"], method: str, *, is_public: bool, needs_token: bool) -> Iterator[str]:
        if not is_public:
            yield "400"
        if needs_token or not is_public:
            yield "401"
        has_scopes = any(need.scopes or need.any_of for need in needs)
        is_unsafe = method not in ("GET", "HEAD", "OPTIONS")
        if has_scopes or (not is_public and is_unsafe and self._auth.cookies):
            yield "403"
        if not is_public:
            yield "503"

    def _response(self, status: str, *, reads_body: bool) -> Schema:
        description, header = _ANSWERS[status]
        response: Schema = {"description": description, "headers": {header: _HEADERS[header]}}
        if self._auth.refuser.is_default:
            schema: Schema = {"$ref": "#/components/schemas/Refusal"}
            if status == "400" and reads_body:
                # FastAPI's own answer to a body that it cannot decode.
                schema = {"anyOf": [schema, _DETAIL]}
            response["content"] = {"application/json": {"schema": schema}}
        return response

    def _schemes(self) -> Schema:
        scopes = dict(self._auth.scopes)
        for context in self._routes():
            for need in self._needs(context):
                scopes.update((name, "") for name in (*need.scopes, *need.any_of) if name not in scopes)
        schemes: Schema = {}
        for cookie in self._auth.cookies:
            schemes["cookie"] = {"type": "apiKey", "in": "cookie", "name": cookie}
        login = self._path_of("login")
        if login is not None:
            flow = {"tokenUrl": login, "scopes": scopes}
            refresh = self._path_of("refresh")
            schemes["login"] = {
                "type": "oauth2",
                "flows": {"password": flow if refresh is None else {**flow, "refreshUrl": refresh}},
            }
        for name, issuer, endpoints in _discovers(self._auth):
            schemes[f"{name} openid"] = {
                "type": "openIdConnect",
                "openIdConnectUrl": f"{issuer.rstrip('/')}/.well-known/openid-configuration",
            }
            if endpoints is not None:
                # They are known as soon as keys have been fetched; nothing is fetched for this.
                flow = {"authorizationUrl": endpoints[0], "tokenUrl": endpoints[1], "scopes": scopes}
                schemes[name] = {"type": "oauth2", "flows": {"authorizationCode": flow}}
        return schemes or {_OURS: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}

    def _path_of(self, name: str) -> str | None:
        """Where the first ``auth_router`` has its route ``name``, relative to the app wherever it is mounted."""
        for context in iter_route_contexts(self._app.routes):
            if isinstance(context.endpoint, Endpoint) and context.endpoint.name == name and context.path is not None:
                return context.path.lstrip("/")
        return None


_OURS = Guard.scheme_name
"""The scheme that FastAPI itself finds; the schemes of the app take its place."""

_REFUSAL: Schema = {
    "title": "Refusal",
    "description": "Why a request was refused (RFC 6750 3.1).",
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "error_description": {"type": "string"},
        "code": {"type": "string", "description": "Stable, and more exact than `error`."},
    },
    "required": ["error", "error_description", "code"],
}

_DETAIL: Schema = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}

_HEADERS: Schema = {
    "WWW-Authenticate": {"description": "The challenge (RFC 6750 3).", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait (RFC 9110 10.2.3).", "schema": {"type": "integer"}},
}

_ANSWERS = {
    "400": ("The request carries more than one token, or one that is too large.", "WWW-Authenticate"),
    "401": ("The request carries no token, or none that is good.", "WWW-Authenticate"),
    "403": ("The token lacks a scope, or the request comes from another site.", "WWW-Authenticate"),
    "503": ("The token cannot be checked at the moment.", "Retry-After"),
}


MAX_ALTERNATIVES = 64
"""Alternatives that the schema lists for one route. Several ``any_of`` multiply them."""


def _find_alternatives(needs: Iterable[_Need]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The smallest sets of scopes that satisfy ``needs``, and each ``any_of`` that would make too many of them."""
    several = tuple(needs)
    alternatives = [tuple(dict.fromkeys(scope for need in several for scope in need.scopes))]
    too_many: list[tuple[str, ...]] = []
    for any_of in dict.fromkeys(need.any_of for need in several if need.any_of):
        longer = [
            (*scopes, *chosen)
            for scopes in alternatives
            for chosen in ([()] if set(any_of).intersection(scopes) else [(name,) for name in any_of])
        ]
        if len(longer) > MAX_ALTERNATIVES:
            too_many.append(any_of)
        else:
            # An alternative that contains all scopes of another one adds nothing.
            alternatives = [one for one in longer if not any(set(other) < set(one) for other in longer)]
    return alternatives, too_many


def _discovers(auth: Authority) -> Iterator[tuple[str, str, tuple[str, str] | None]]:
    """For each provider whose metadata can be discovered: its name, its issuer, and where it logs users in."""
    for provider in auth.providers:
        if provider.remote is not None and len(provider.issuers) == 1:
            yield provider.name, provider.issuers[0], provider.remote.login_endpoints
