"""auth_router: its routes are open by route and method, and authenticate may have dependencies."""

import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import anyio
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Form, Header, Request
from fastapi.routing import iter_route_contexts
from fastapi.security import OAuth2PasswordRequestForm
from starlette.testclient import TestClient

from jwt_middleware import ConfigurationError, JWTUser
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import MemoryStore, Sessions, Throttle, TokenIssuer, auth_routes
from jwt_middleware.reading.sources import bearer_header, cookie

from ..support import SECRET, bare_client, bearer


@dataclass
class User:
    identity: str
    scopes: tuple[str, ...] = ()


def find(username: str, password: str) -> User | None:
    return User(username, ("orders:read",)) if password == "lovelace" else None


def make_sessions() -> Sessions:
    return Sessions(MemoryStore(), TokenIssuer(SECRET, "orders"))


def make_app(
    authenticate: Callable[..., Any] = find,
    *,
    sessions: Sessions | TokenIssuer | None = None,
    prefix: str = "/auth",
    options: dict[str, Any] | None = None,
    **router_options: Any,
) -> FastAPI:
    sessions = sessions or make_sessions()
    given: dict[str, Any] = {"sessions": sessions, **(options or {})}
    auth = Auth(**given)
    app = FastAPI()
    auth.install(app)
    app.include_router(auth_router(sessions, authenticate=authenticate, **router_options), prefix=prefix)

    @app.get("/me")
    def me(user: Annotated[JWTUser, Depends(auth)]) -> list[Any]:
        return [user.identity, user.scopes]

    return app


def log_in(service: TestClient, path: str = "/auth/login", password: str = "lovelace") -> dict[str, Any]:
    response = service.post(path, data={"username": "ada", "password": password})
    assert response.status_code == 200, response.text
    tokens: dict[str, Any] = response.json()
    return tokens


# What the routes do


def test_a_session_lives_from_login_to_logout(backend: str) -> None:
    with bare_client(make_app(), backend=backend) as service:
        tokens = log_in(service)
        assert service.get("/me", headers=bearer(tokens["access_token"])).json() == ["ada", ["orders:read"]]
        newer = service.post("/auth/refresh", data={"refresh_token": tokens["refresh_token"]}).json()
        assert service.get("/me", headers=bearer(newer["access_token"])).status_code == 200
        assert service.post("/auth/logout", data={"token": newer["refresh_token"]}).status_code == 200
        assert service.get("/me", headers=bearer(newer["access_token"])).json()["code"] == "revoked"
        assert service.get("/auth/jwks.json").json() == {"keys": []}


def test_a_login_with_a_stale_token_in_the_header_works() -> None:
    service = bare_client(make_app())
    assert service.post("/auth/login", json={"username": "ada", "password": "lovelace"}, headers=bearer("x")).is_success
    assert service.post("/auth/login", data={"username": "ada", "password": "x"}).json()["error"] == "invalid_grant"


def test_a_throttle_refuses_further_logins() -> None:
    service = bare_client(make_app(throttle=Throttle(account_failures=1)))
    assert service.post("/auth/login", data={"username": "ada", "password": "x"}).status_code == 400
    refused = service.post("/auth/login", data={"username": "ada", "password": "lovelace"})
    assert (refused.status_code, "retry-after" in refused.headers) == (429, True)


def test_the_app_chooses_how_long_a_session_lives() -> None:
    sessions = make_sessions()
    remember: dict[str, Any] = {"lifetime": lambda parameters: None if "remember_me" in parameters else 3600}
    service = bare_client(make_app(sessions=sessions, **remember))
    forms: list[dict[str, str]] = [{}, {"remember_me": "on"}]
    for more in forms:
        service.post("/auth/login", data={"username": "ada", "password": "lovelace", **more})
    later, sooner = sorted(anyio.run(sessions.list, "ada"), key=lambda session: -session.ends_at)
    assert later.ends_at - sooner.ends_at == pytest.approx(90 * 24 * 3600 - 3600, abs=10)


def test_a_token_issuer_alone_renews_its_logins() -> None:
    issuer = TokenIssuer(SECRET, "orders", session_lifetime=3600)
    service = bare_client(make_app(sessions=issuer))
    tokens = log_in(service)
    assert "refresh_token" not in tokens
    renewed = service.post("/auth/refresh", headers=bearer(tokens["access_token"]))
    assert service.get("/me", headers=bearer(renewed.json()["access_token"])).status_code == 200
    assert service.post("/auth/refresh").json()["code"] == "missing_token"
    assert service.post("/auth/logout").status_code == 401


def test_the_renewal_of_a_token_issuers_login_is_for_users_whom_the_middleware_accepts() -> None:
    issuer = TokenIssuer(SECRET, "orders", session_lifetime=3600)
    service = bare_client(make_app(sessions=issuer, options={"load_user": lambda token: None}))
    tokens = log_in(service)
    assert service.post("/auth/refresh", headers=bearer(tokens["access_token"])).json()["code"] == "user_refused"


@pytest.mark.parametrize("prefix", ["/auth", "/api/v1/auth"])
@pytest.mark.parametrize("root_path", ["", "/proxied"])
def test_cookies_are_for_the_path_of_the_router(prefix: str, root_path: str) -> None:
    app = make_app(prefix=prefix, cookies="all", options={"sources": [cookie("__Host-access"), bearer_header()]})
    service = bare_client(app, base_url="https://api.example", root_path=root_path)
    page = {"sec-fetch-site": "same-origin"}
    response = service.post(
        f"{root_path}{prefix}/login", data={"username": "ada", "password": "lovelace"}, headers=page
    )
    assert response.status_code == 200
    paths = {cookie.name: cookie.path for cookie in service.cookies.jar}
    assert paths == {"__Secure-refresh": f"{root_path}{prefix}", "__Host-access": "/"}
    assert service.get(f"{root_path}/me").json()[0] == "ada"
    assert service.post(f"{root_path}{prefix}/refresh", headers=page).status_code == 200
    assert service.post(f"{root_path}{prefix}/refresh").json()["code"] == "cross_site"
    assert service.post(f"{root_path}{prefix}/logout", headers=page).status_code == 200
    assert service.get(f"{root_path}/me").status_code == 401


def test_an_endpoint_that_the_app_declares_at_a_path_of_its_own_has_cookies_for_the_whole_app() -> None:
    app = make_app(cookies="all", options={"sources": [cookie("__Host-access"), bearer_header()]}, prefix="")
    (login,) = [each for each in iter_route_contexts(app.routes) if each.name == "login"]
    assert login.endpoint is not None
    app.add_api_route("/sign-in", login.endpoint, methods=["POST"])
    service = bare_client(app, base_url="https://api.example", root_path="/proxied")
    page = {"sec-fetch-site": "same-origin"}
    answer = service.post("/proxied/sign-in", data={"username": "ada", "password": "lovelace"}, headers=page)
    assert answer.status_code == 200
    paths = {cookie.name: cookie.path for cookie in service.cookies.jar}
    assert paths == {"__Secure-refresh": "/proxied", "__Host-access": "/"}
    assert service.post("/proxied/refresh", headers=page).status_code == 200


def test_it_takes_what_auth_routes_takes() -> None:
    ours, theirs = (inspect.signature(each).parameters for each in (auth_router, auth_routes))
    assert list(ours) == list(theirs)
    assert {name: each.default for name, each in ours.items()} == {name: each.default for name, each in theirs.items()}


# What is open


POSTS = ["/login", "/refresh", "/logout"]


def test_the_routes_are_open_for_their_method_alone() -> None:
    service = bare_client(make_app())
    assert {path: service.post(f"/auth{path}").status_code for path in POSTS} == dict.fromkeys(POSTS, 400)
    for path in POSTS:
        for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
            assert service.request(method, f"/auth{path}").status_code == 401
        for near in (f"/auth{path}/", f"/auth{path}/x", f"//auth{path}", f"/AUTH{path}"):
            assert service.post(near, follow_redirects=False).status_code == 401
    assert service.get("/auth/jwks.json").status_code == 200
    assert service.post("/auth/jwks.json").status_code == 401
    assert (
        service.get("/auth").status_code == service.get("/auth/").status_code == service.get("/me").status_code == 401
    )


@pytest.mark.parametrize(
    "path", ["/auth/login", "/auth/{action}", "/{rest:path}"], ids=["the same", "a parameter", "any path"]
)
def test_a_route_of_the_apps_own_that_matches_first_stays_guarded(path: str) -> None:
    sessions = make_sessions()
    auth = Auth(sessions=sessions)
    app = FastAPI()
    auth.install(app)

    @app.post(path)
    def own(request: Request) -> str:
        return "own"

    app.include_router(auth_router(sessions, authenticate=find), prefix="/auth")
    service = bare_client(app)
    assert service.post("/auth/login", data={"username": "ada", "password": "lovelace"}).status_code == 401


def test_a_route_of_the_apps_own_that_matches_later_changes_nothing() -> None:
    app = make_app()

    @app.post("/auth/{action}")
    def own(action: str) -> str:
        return "own"

    service = bare_client(app)
    assert log_in(service)
    assert service.post("/auth/other").status_code == 401


def test_the_routes_are_open_wherever_they_are_included() -> None:
    sessions = make_sessions()
    auth = Auth(sessions=sessions)
    app, child = FastAPI(), FastAPI()
    auth.install(app)
    routes = auth_router(sessions, authenticate=find)
    outer = APIRouter(prefix="/outer")
    outer.include_router(routes, prefix="/inner")
    app.include_router(outer)
    app.include_router(routes)
    child.include_router(routes, prefix="/auth")
    app.mount("/child", child)
    service = bare_client(app)
    for path in ("/outer/inner/login", "/login", "/child/auth/login"):
        assert log_in(service, path)
    assert service.post("/child/login").status_code == 401


def test_a_guard_above_the_router_guards_it() -> None:
    sessions = make_sessions()
    auth = Auth(sessions=sessions)
    app = FastAPI()
    auth.install(app)
    app.include_router(auth_router(sessions, authenticate=find), dependencies=[Depends(auth)])
    assert bare_client(app).post("/login").json()["code"] == "missing_token"


# Dependencies of authenticate


async def get_db() -> AsyncIterator[str]:
    yield "the database"


async def asynchronous(username: str, password: str, db: Annotated[str, Depends(get_db)]) -> User | None:
    return User(f"{username} of {db}")


def synchronous(username: str, password: str, *, db: str = Depends(get_db)) -> User | None:
    return User(f"{username} of {db}")


class Checking:
    async def __call__(self, username: str, password: str, db: Annotated[str, Depends(get_db)]) -> User:
        return User(f"{username} of {db}")


def with_everything(
    username: str,
    password: str,
    request: Request,
    db: Annotated[str, Depends(get_db)],
    agent: Annotated[str, Header(alias="user-agent")],
    rounds: int = 3,
    *others: Any,
    **more: Any,
) -> User:
    assert (request.url.path, agent, rounds, others, more) == ("/auth/login", "testclient", 3, (), {})
    return User(f"{username} of {db}")


@pytest.mark.parametrize(
    "authenticate",
    [
        pytest.param(asynchronous, id="async"),
        pytest.param(synchronous, id="sync"),
        pytest.param(Checking(), id="object"),
        pytest.param(with_everything, id="everything that FastAPI knows"),
        pytest.param(partial(with_everything, rounds=3), id="partial"),
    ],
)
def test_authenticate_may_have_dependencies(authenticate: Any, backend: str) -> None:
    app = make_app(authenticate)
    service = bare_client(app, backend=backend)
    tokens = log_in(service)
    assert service.get("/me", headers=bearer(tokens["access_token"])).json()[0] == "ada of the database"
    app.dependency_overrides[get_db] = lambda: "another"
    tokens = log_in(service)
    assert service.get("/me", headers=bearer(tokens["access_token"])).json()[0] == "ada of another"


def test_no_parameter_of_authenticate_can_be_chosen_by_a_request() -> None:
    def authenticate(username: str, password: str, is_admin: bool = False) -> User:
        assert not is_admin
        return User(username)

    service = bare_client(make_app(authenticate))
    assert log_in(service, "/auth/login?is_admin=true")
    assert "is_admin" not in str(service.app.openapi())  # type: ignore[attr-defined]  # the app is FastAPI's


def form_alone(form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> User:
    raise AssertionError


def form_and_db(form: Annotated[OAuth2PasswordRequestForm, Depends()], db: Annotated[str, Depends(get_db)]) -> User:
    raise AssertionError


def unknown_parameter(username: str, password: str, is_admin: bool) -> User:
    raise AssertionError


def positional(username: str, password: str, db: Annotated[str, Depends(get_db)], /) -> User:
    raise AssertionError


def reading_a_form(username: str, password: str, code: Annotated[str, Form()]) -> User:
    raise AssertionError


def reading_the_body(username: str, password: str, code: Annotated[str, Body()]) -> User:
    raise AssertionError


class Nobody:
    id = 7


class Made:
    def __init__(self) -> None:
        self.identity = "ada"


class Lazy:
    def __getattr__(self, name: str) -> str:
        return name


def without_identity(username: str, password: str) -> Nobody | None:
    raise AssertionError


@pytest.mark.parametrize(
    ("authenticate", "message"),
    [
        pytest.param("secret", "authenticate must be callable", id="a text"),
        pytest.param(form_alone, r"\(username, password, \.\.\.\)", id="FastAPI's form"),
        pytest.param(form_and_db, r"\(username, password, \.\.\.\)", id="FastAPI's form and a dependency"),
        pytest.param(lambda username: None, r"\(username, password\)", id="a name alone"),
        pytest.param(unknown_parameter, "is_admin is no dependency", id="a parameter that is no dependency"),
        pytest.param(positional, "db must not be positional-only", id="a positional-only dependency"),
        pytest.param(reading_a_form, "cannot read the body", id="a form"),
        pytest.param(reading_the_body, "cannot read the body", id="the body"),
        pytest.param(without_identity, "Nobody, which has no `identity`", id="a user without identity"),
    ],
)
def test_an_authenticate_that_cannot_work_is_refused_at_construction(authenticate: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        auth_router(make_sessions(), authenticate=authenticate)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("kind", [User, Made, Lazy, str, "Unknown", None, Any])
def test_a_user_that_may_have_an_identity_is_accepted(kind: Any) -> None:
    def authenticate(username: str, password: str) -> Any: ...

    authenticate.__annotations__["return"] = kind
    assert auth_router(make_sessions(), authenticate=authenticate).routes


def test_a_function_whose_signature_cannot_be_read_has_no_dependencies() -> None:
    assert auth_router(make_sessions(), authenticate=max).routes


def test_names_that_only_type_checkers_know_do_no_harm() -> None:
    def authenticate(username: str, password: str) -> Any:
        return "ada"

    authenticate.__annotations__["username"] = "OnlyForTypeCheckers"
    assert log_in(bare_client(make_app(authenticate)))
