"""The schema says how to log in, which scopes a route needs, and how a request is refused."""

import functools
import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security
from fastapi.openapi.utils import get_openapi
from fastapi.security import APIKeyHeader
from starlette.responses import PlainTextResponse

from jwt_middleware import JWTUser, Provider, requires
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer
from jwt_middleware.reading.sources import bearer_header, cookie
from jwt_middleware.testing import IdentityProvider

from ..support import SECRET, bare_client
from .apps import make_auth
from .documented import authenticate, make_app

SNAPSHOT = Path(__file__).with_name("openapi.json")


def test_the_schema_is_the_one_that_was_reviewed() -> None:
    """After a change that is meant: write ``json.dumps(make_app().openapi(), indent=2)`` into the file, and read it."""
    assert make_app().openapi() == json.loads(SNAPSHOT.read_text("utf-8"))


def security(app: FastAPI, path: str, method: str = "get") -> Any:
    return app.openapi()["paths"][path][method].get("security")


def statuses(app: FastAPI, path: str, method: str = "get") -> set[str]:
    return set(app.openapi()["paths"][path][method]["responses"])


def schemes(app: FastAPI) -> Any:
    return app.openapi()["components"]["securitySchemes"]


# Which scopes, which answers


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/health", "get", None),
        ("/auth/login", "post", None),
        ("/bare", "get", [{"login": []}]),
        ("/me", "get", [{"login": []}]),
        ("/orders/{id}", "get", [{"login": ["orders:read"]}]),
        ("/search", "get", [{}, {"login": []}]),
        ("/search/mine", "get", [{"login": []}]),
        (
            "/reports/{id}",
            "get",
            [{"login": ["orders:read", "admin"]}, {"login": ["orders:read", "orders:write"]}],
        ),
        ("/reports/{id}", "put", [{"login": ["orders:write"]}]),
        ("/admin/{name}", "put", [{"login": ["orders:write", "admin"]}, {"login": ["orders:write", "auditor"]}]),
    ],
)
def test_each_route_says_what_it_needs(path: str, method: str, expected: Any) -> None:
    assert security(make_app(), path, method) == expected


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/health", "get", {"200"}),
        ("/search", "get", {"200", "422"}),
        ("/search/mine", "get", {"200", "401", "422"}),
        ("/bare", "get", {"200", "400", "401", "503"}),
        ("/me", "get", {"200", "400", "401", "503"}),
        ("/orders/{id}", "get", {"200", "400", "401", "403", "422", "503"}),
        ("/orders", "post", {"201", "400", "401", "403", "422", "503"}),
        ("/reports/{id}", "get", {"200", "400", "401", "403", "422", "503"}),
        ("/reports/{id}", "put", {"200", "400", "401", "403", "422", "503"}),
        ("/admin/{name}", "put", {"200", "400", "401", "403", "422", "503"}),
        ("/auth/login", "post", {"200", "400", "413", "429", "503"}),
        ("/auth/refresh", "post", {"200", "400", "413", "503"}),
        ("/auth/logout", "post", {"200", "400", "401", "413", "503"}),
        ("/auth/jwks.json", "get", {"200"}),
    ],
)
def test_each_route_says_how_it_refuses(path: str, method: str, expected: set[str]) -> None:
    assert statuses(make_app(), path, method) == expected


def test_answers_are_described_with_body_and_header() -> None:
    responses = make_app().openapi()["paths"]["/orders"]["post"]["responses"]
    for status, header in (("400", "WWW-Authenticate"), ("401", "WWW-Authenticate"), ("503", "Retry-After")):
        schema = responses[status]["content"]["application/json"]["schema"]
        assert {"$ref": "#/components/schemas/Refusal"} in (schema, *schema.get("anyOf", ()))
        assert list(responses[status]["headers"]) == [header]
    assert responses["403"]["description"] == "You cannot."


def test_the_body_of_a_custom_answer_is_not_described() -> None:
    app = FastAPI()
    make_auth(refusal_response=lambda connection, refusal: PlainTextResponse("no")).install(app)
    app.add_api_route("/", lambda: None)
    assert "content" not in app.openapi()["paths"]["/"]["get"]["responses"]["401"]


def test_where_anonymous_requests_pass_the_token_is_optional() -> None:
    app = FastAPI()
    auth = make_auth(allow_anonymous=True)
    auth.install(app)
    app.add_api_route("/", lambda: None)

    @app.get("/me")
    def me(user: Annotated[JWTUser, Depends(auth)]) -> None: ...

    assert security(app, "/") == [{}, {"JWT": []}]
    assert security(app, "/me") == [{"JWT": []}]
    assert statuses(app, "/") == {"200", "400", "401", "503"}


def test_an_optional_guard_is_optional_where_a_function_may_let_anonymous_requests_pass() -> None:
    app = FastAPI()
    auth = make_auth(allow_anonymous=lambda scope: scope["path"] == "/guests")
    auth.install(app)
    app.add_api_route("/guests", lambda: None, dependencies=[Depends(auth.optional)])
    app.add_api_route("/users", lambda: None, dependencies=[Depends(auth.optional), Depends(auth)])
    app.add_api_route("/bare", lambda: None)
    found = [security(app, path) for path in ("/guests", "/users", "/bare")]
    assert found == [[{}, {"JWT": []}], [{"JWT": []}], [{"JWT": []}]]


def test_an_optional_guard_with_scopes_is_not_optional() -> None:
    app = FastAPI()
    auth = make_auth()
    auth.install(app, public=["/"])

    @app.get("/")
    def read(user: Annotated[JWTUser | None, Security(auth.optional, scopes=["x"])]) -> None: ...

    assert security(app, "/") == [{"JWT": ["x"]}]
    assert statuses(app, "/") == {"200", "401", "403"}


@pytest.mark.parametrize("public", [False, True])
def test_requires_is_documented_wherever_it_stands(public: bool) -> None:
    def log(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(endpoint)
        def logging(**values: Any) -> Any:
            return endpoint(**values)

        return logging

    app = FastAPI()
    make_auth().install(app, public=["/*"] if public else [])

    @app.get("/decorated")
    @log
    @requires("b")
    @log
    @requires("a", any_of=["x", "y"])
    async def decorated() -> None: ...

    @app.get("/partial")
    async def partial() -> None: ...

    app.add_api_route("/users", functools.partial(requires()(partial)), dependencies=[Depends(requires(acr="urn:mfa"))])
    router = APIRouter(dependencies=[Depends(requires("a"))])
    router.add_api_route("/routed", partial)
    app.include_router(router)
    assert security(app, "/decorated") == [{"JWT": ["b", "a", "x"]}, {"JWT": ["b", "a", "y"]}]
    assert security(app, "/routed") == [{"JWT": ["a"]}]
    assert security(app, "/users") == [{"JWT": []}]
    assert {"401", "403"} <= statuses(app, "/decorated")
    assert "401" in statuses(app, "/users")
    assert ("403" in statuses(app, "/users"), "401" in statuses(app, "/partial")) == (False, not public)


def test_schemes_of_the_apps_own_are_kept() -> None:
    app = FastAPI()
    auth = make_auth()
    auth.install(app)

    @app.get("/", dependencies=[Security(APIKeyHeader(name="x-key")), Depends(auth)])
    def read() -> None: ...

    assert security(app, "/") == [{"APIKeyHeader": []}, {"JWT": []}]
    assert set(schemes(app)) == {"APIKeyHeader", "JWT"}


def test_a_function_that_says_what_is_public_is_asked_about_each_route() -> None:
    app = FastAPI()
    make_auth(public=lambda scope: scope["path"].startswith("/open/") and scope["method"] == "GET").install(app)
    for path in ("/open/{id}", "/closed"):
        app.add_api_route(path, lambda id=0: None, methods=["GET"])
    assert (security(app, "/open/{id}"), security(app, "/closed")) == (None, [{"JWT": []}])


@pytest.mark.parametrize(
    ("scopes", "choices", "alternatives"),
    [
        pytest.param([], ["a b", "c d"], ["a c", "a d", "b c", "b d"], id="two choices"),
        pytest.param([], ["a b", "b c"], ["a c", "b"], id="what is in both suffices"),
        pytest.param(["a"], ["a b"], ["a"], id="what is needed anyway suffices"),
        pytest.param(["x"], ["a b", "b a", "a b c"], ["x a", "x b"], id="the same choice again"),
        pytest.param([], ["a b", "c", "b c"], ["a c", "b c"], id="a choice of one"),
        pytest.param([], ["a b", "b c", "c a"], ["a c", "b a", "b c"], id="two of three"),
    ],
)
def test_each_alternative_is_the_least_that_suffices(
    scopes: list[str], choices: list[str], alternatives: list[str]
) -> None:
    app, auth = FastAPI(), make_auth()
    auth.install(app)
    guards = [Security(auth.any_of(*choice.split()), scopes=scopes) for choice in choices]
    app.add_api_route("/", lambda: None, dependencies=guards)
    assert [" ".join(one["JWT"]) for one in security(app, "/")] == alternatives


def test_a_choice_that_would_make_too_many_alternatives_is_said_in_words() -> None:
    app, auth = FastAPI(), make_auth()
    auth.install(app)
    names = [[f"{letter}{number}" for number in range(8)] for letter in "abcdefghij"]
    app.add_api_route("/", lambda: None, dependencies=[Security(auth.any_of(*several)) for several in names])
    assert [one["JWT"] for one in security(app, "/")] == [[a, b] for a in names[0] for b in names[1]]
    answer = app.openapi()["paths"]["/"]["get"]["responses"]["403"]
    assert answer["description"].endswith("It also needs one of: j0, j1, j2, j3, j4, j5, j6, j7.")
    assert answer["description"].count("It also needs one of:") == 8


# How to log in


def test_the_password_flow_leads_to_our_login() -> None:
    assert schemes(make_app()) == {
        "login": {
            "type": "oauth2",
            "flows": {
                "password": {
                    "tokenUrl": "auth/login",
                    "refreshUrl": "auth/refresh",
                    "scopes": {
                        "orders:read": "See orders",
                        "orders:write": "Change orders",
                        "admin": "",
                        "auditor": "",
                    },
                }
            },
        }
    }


def test_the_scopes_of_another_auth_are_not_offered_at_our_login() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, "orders"))
    auth, another = Auth(sessions=sessions), make_auth()
    app = FastAPI()
    auth.install(app)
    app.include_router(auth_router(sessions, authenticate=authenticate), prefix="/auth")

    @app.get("/", dependencies=[Security(auth, scopes=["ours"]), Security(another, scopes=["theirs"])])
    def read() -> None: ...

    assert schemes(app)["login"]["flows"]["password"]["scopes"] == {"ours": ""}
    assert security(app, "/") == [{"login": ["ours"]}]


def test_a_token_issuer_alone_has_no_refresh_url() -> None:
    issuer = TokenIssuer(SECRET, "orders")
    app = FastAPI()
    Auth(sessions=issuer).install(app)
    app.include_router(auth_router(issuer, authenticate=authenticate))
    assert schemes(app)["login"]["flows"]["password"] == {"tokenUrl": "login", "scopes": {}}


def test_without_a_login_a_token_can_be_pasted() -> None:
    app = FastAPI()
    make_auth().install(app)
    assert schemes(app) == {"JWT": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}


def test_a_cookie_is_a_scheme_and_may_be_refused_for_unsafe_methods() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, "orders"))
    app = FastAPI()
    Auth(sessions=sessions, sources=[bearer_header(), cookie("__Host-access")]).install(app)
    app.include_router(auth_router(sessions, authenticate=authenticate, cookies="all"), prefix="/auth")
    app.add_api_route("/", lambda: None, methods=["GET"])
    app.add_api_route("/", lambda: None, methods=["POST"])
    assert schemes(app)["cookie"] == {"type": "apiKey", "in": "cookie", "name": "__Host-access"}
    assert security(app, "/") == [{"cookie": []}, {"login": []}]
    assert ("403" in statuses(app, "/"), "403" in statuses(app, "/", "post")) == (False, True)
    assert "403" in statuses(app, "/auth/login", "post")
    answers = app.openapi()["paths"]["/auth/login"]["post"]["responses"]
    assert answers["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/LoginAnswer")


def test_an_issuers_login_is_documented_once_its_metadata_is_known() -> None:
    with IdentityProvider() as provider:
        urls = {"authorization_endpoint": f"{provider.issuer}/authorize", "token_endpoint": f"{provider.issuer}/token"}
        provider.metadata.update(urls)
        auth = Auth(issuer=provider.issuer, audience="orders", scopes={"x": "X"}, docs_client_id="docs")
        app = FastAPI()
        auth.install(app, docs=True)
        app.add_api_route("/", lambda: None)
        openid = {"type": "openIdConnect", "openIdConnectUrl": f"{provider.issuer}/.well-known/openid-configuration"}
        assert schemes(app) == {"jwt openid": openid}
        assert provider.requests == []
        with bare_client(app) as service:
            schema = service.get("/openapi.json").json()
            flow = {"authorizationUrl": urls["authorization_endpoint"], "tokenUrl": urls["token_endpoint"]}
            assert schema["components"]["securitySchemes"] == {
                "jwt openid": openid,
                "jwt": {"type": "oauth2", "flows": {"authorizationCode": {**flow, "scopes": {"x": "X"}}}},
            }
            assert schema["paths"]["/"]["get"]["security"] == [{"jwt openid": []}, {"jwt": []}]
            page = service.get("/docs").text
            assert '"clientId": "docs"' in page
            assert '"usePkceWithAuthorizationCodeGrant": true' in page


@pytest.mark.parametrize(
    "endpoint",
    ["javascript:alert(1)", "http://elsewhere.example/authorize", "https://user:secret@login.example/", 7, None],
)
def test_an_issuers_login_at_an_address_that_no_page_should_open_is_not_documented(endpoint: Any) -> None:
    with IdentityProvider() as provider:
        provider.metadata |= {"authorization_endpoint": endpoint, "token_endpoint": f"{provider.issuer}/token"}
        app = FastAPI()
        Auth(issuer=provider.issuer, audience="orders").install(app)
        with bare_client(app):
            assert set(schemes(app)) == {"jwt openid"}


def test_settings_of_the_apps_own_for_its_documentation_win() -> None:
    app = FastAPI(swagger_ui_init_oauth={"clientId": "mine", "appName": "x"})
    Auth(issuer="https://login.example", audience="orders").install(app, docs_client_id="docs")
    assert app.swagger_ui_init_oauth == {
        "clientId": "mine",
        "appName": "x",
        "usePkceWithAuthorizationCodeGrant": True,
    }
    plain = FastAPI()
    Auth(providers=Provider(key=SECRET, audience="orders")).install(plain, docs_client_id="docs")
    assert plain.swagger_ui_init_oauth is None


# Whose function builds the schema


def custom(app: FastAPI) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = get_openapi(title="Mine", version="2", routes=app.routes)
        return app.openapi_schema

    return openapi


def around(app: FastAPI) -> Callable[[], dict[str, Any]]:
    original = app.openapi

    def openapi() -> dict[str, Any]:
        return {**original(), "info": {"title": "Mine", "version": "2"}}

    return openapi


class Subclass(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return {**super().openapi(), "info": {"title": "Mine", "version": "2"}}


@pytest.mark.parametrize("replace", [custom, around], ids=["get_openapi", "around the original"])
@pytest.mark.parametrize("first", ["install", "replace"])
def test_an_app_that_replaces_openapi_keeps_ours(replace: Any, first: str) -> None:
    app, auth = FastAPI(), make_auth()
    if first == "replace":
        app.openapi = replace(app)  # type: ignore[method-assign]  # as apps do
    auth.install(app, docs=True)
    if first == "install":
        app.openapi = replace(app)  # type: ignore[method-assign]  # as apps do
    app.add_api_route("/", lambda: None)
    for schema in (app.openapi(), bare_client(app).get("/openapi.json").json(), app.openapi()):
        assert schema["info"]["title"] == "Mine"
        assert schema["paths"]["/"]["get"]["security"] == [{"JWT": []}]
        assert set(schema["paths"]["/"]["get"]["responses"]) == {"200", "400", "401", "503"}
        assert schema["components"]["schemas"]["Refusal"]["required"] == ["error", "error_description", "code"]


def test_a_subclass_that_replaces_openapi_keeps_ours() -> None:
    app = Subclass()
    make_auth().install(app)
    app.add_api_route("/", lambda: None)
    assert isinstance(app, Subclass)
    assert type(app).__name__ == "Subclass"
    assert app.openapi()["info"]["title"] == "Mine"
    assert security(app, "/") == [{"JWT": []}]


def test_a_schema_with_fewer_routes_is_left_so() -> None:
    app = FastAPI()
    make_auth().install(app)
    app.add_api_route("/hidden", lambda: None, include_in_schema=False)
    app.add_api_route("/shown", lambda: None)
    schema = {"openapi": "3.1.0", "info": {"title": "Mine", "version": "2"}}
    app.openapi = lambda: schema  # type: ignore[method-assign]  # as apps do
    assert app.openapi()["paths"] == {}


def test_the_schema_is_built_once_for_the_same_routes() -> None:
    app = make_app()
    assert app.openapi() is app.openapi()
    before = app.openapi()

    @app.get("/later")
    def later() -> None: ...

    assert app.openapi() is not before
    assert security(app, "/later") == [{"login": []}]
