"""Overrides open one route at a time, and only where they take the place of its guard."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Request, Security, UploadFile, WebSocket
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Host, Mount
from starlette.testclient import TestClient, WebSocketDenialResponse

from jwt_middleware import JWTUser, Provider, ProviderResolver, Token, requires
from jwt_middleware.events import Event, GuardReplaced
from jwt_middleware.testing import as_user, headers_for

from ..support import SECRET, bare_client, bearer, token
from .apps import READER, make_auth

auth = make_auth()
other = make_auth()


class User:
    def __init__(self, name: str) -> None:
        self.name = name


def get_settings() -> str:
    return "settings"


def get_db() -> Iterator[str]:
    yield "db"


async def current_user(caller: Annotated[Token, Depends(auth.token)], db: Annotated[str, Depends(get_db)]) -> User:
    return User(str(caller.subject))


async def maybe_user(caller: Annotated[JWTUser | None, Depends(auth.optional)]) -> User | None:
    return None if caller is None else User(caller.identity)


async def tenant(user: Annotated[User, Depends(current_user)]) -> str:
    return f"tenant of {user.name}"


class Listing:
    def __init__(self, user: Annotated[User, Depends(current_user)], limit: int = 10) -> None:
        self.owner, self.limit = user.name, limit


def declare(app: FastAPI | APIRouter) -> None:
    @app.get("/bare")
    def bare(request: Request) -> str:
        return "bare"

    @app.get("/settings")
    def settings(settings: Annotated[str, Depends(get_settings)]) -> str:
        return settings

    @app.get("/auth")
    def by_auth(caller: Annotated[JWTUser, Depends(auth)]) -> str:
        return caller.identity

    @app.get("/token")
    def by_token(caller: Annotated[Token, Depends(auth.token)]) -> Any:
        return caller.subject

    @app.get("/optional")
    def by_optional(caller: Annotated[JWTUser | None, Depends(auth.optional)]) -> Any:
        return caller and caller.identity

    @app.get("/any-of", dependencies=[Security(auth.any_of("admin", "auditor"))])
    def by_any_of(request: Request) -> Any:
        return request.user.identity

    @app.get("/me")
    def me(user: Annotated[User, Depends(current_user)]) -> str:
        return user.name

    @app.get("/maybe")
    def maybe(user: Annotated[User | None, Depends(maybe_user)]) -> Any:
        return user and user.name

    @app.get("/tenant")
    def of_tenant(tenant: Annotated[str, Depends(tenant)]) -> str:
        return tenant

    @app.get("/listing")
    def listing(listing: Annotated[Listing, Depends()]) -> str:
        return listing.owner

    @app.get("/write")
    def write(user: Annotated[JWTUser, Security(auth, scopes=["orders:write"])]) -> str:
        return user.identity

    @app.get("/both", dependencies=[Depends(auth)])
    def both(user: Annotated[User, Depends(current_user)]) -> str:
        return user.name

    @app.get("/auth-and-token")
    def auth_and_token(user: Annotated[JWTUser, Depends(auth)], token: Annotated[Token, Depends(auth.token)]) -> Any:
        return [user.identity, token.subject]

    @app.get("/auth-and-optional")
    def auth_and_optional(
        user: Annotated[JWTUser, Depends(auth)], guest: Annotated[JWTUser | None, Depends(auth.optional)]
    ) -> Any:
        return [user.identity, guest and guest.identity]

    @app.get("/two")
    def two(user: Annotated[JWTUser, Depends(auth)], another: Annotated[JWTUser, Depends(other)]) -> str:
        raise AssertionError("it needs two")

    @app.get("/items/{item}", dependencies=[Depends(auth)])
    def item(item: str) -> str:
        return item

    @app.post("/me")
    def post_me(request: Request) -> str:
        return "posted"

    @app.websocket("/live")
    async def live(socket: WebSocket, caller: Annotated[JWTUser, Depends(auth)]) -> None:
        await socket.accept()
        await socket.send_text(caller.identity)
        await socket.close()


PATHS = [
    *(
        "/bare",
        "/settings",
        "/auth",
        "/token",
        "/optional",
        "/any-of",
        "/me",
        "/maybe",
        "/tenant",
        "/listing",
        "/write",
    ),
    *("/both", "/auth-and-token", "/auth-and-optional", "/two", "/items/1"),
]

Overrides = dict[Callable[..., Any], Callable[..., Any]]

admin = as_user("ada", scopes=["admin", "orders:write"])


def fake_user() -> User:
    return User("ada")


def fake_db() -> str:
    return "another db"


def still_verified(caller: Annotated[Token, Depends(auth.token)]) -> User:
    return User(f"{caller.subject} of another class")


def still_verified_below(user: Annotated[User, Depends(still_verified)]) -> User:
    return user


def still_optional(caller: Annotated[JWTUser | None, Depends(auth.optional)]) -> User:
    return User("x")


def around_itself(user: Annotated[User, Depends(current_user)]) -> User:
    return user


def on_settings(settings: Annotated[str, Depends(get_settings)]) -> User:
    return User("ada")


ON_TOKEN = ["/token", "/me", "/tenant", "/listing"]
ALL_FED = ["/auth", "/token", "/optional", "/any-of", "/me", "/maybe", "/tenant", "/listing", "/write", "/both"]
ALL_FED += ["/auth-and-token", "/auth-and-optional", "/items/1"]


@pytest.mark.parametrize(
    ("overrides", "opened"),
    [
        pytest.param({}, [], id="none"),
        pytest.param({get_settings: lambda: "x"}, [], id="an unrelated one"),
        pytest.param({get_db: fake_db}, [], id="the database of a guarded dependency"),
        pytest.param({get_db: fake_db, get_settings: lambda: "x"}, [], id="several unrelated ones"),
        pytest.param({auth: admin}, ALL_FED, id="auth, as_user"),
        pytest.param({auth: lambda: JWTUser(None)}, ["/auth", "/write", "/items/1"], id="auth, a function"),
        pytest.param({auth.token: lambda: None}, ON_TOKEN, id="auth.token, a function"),
        pytest.param({auth.token: admin}, ON_TOKEN, id="auth.token, as_user"),
        pytest.param({auth.any_of("auditor", "admin"): admin}, ["/any-of"], id="any_of, as_user"),
        pytest.param({auth.any_of("auditor", "admin"): lambda: None}, ["/any-of"], id="any_of, a function"),
        pytest.param({auth.any_of("admin"): admin}, [], id="another any_of"),
        pytest.param({auth.optional: admin}, ["/optional", "/maybe"], id="auth.optional, as_user"),
        pytest.param({auth.optional: lambda: None}, [], id="auth.optional, a function"),
        pytest.param({auth.optional: lambda: JWTUser(None)}, [], id="auth.optional, a function that gives a user"),
        pytest.param({current_user: fake_user}, ["/me", "/tenant", "/listing"], id="what builds on auth.token"),
        pytest.param({maybe_user: fake_user}, [], id="what builds on auth.optional, a function"),
        pytest.param({maybe_user: admin}, ["/maybe"], id="what builds on auth.optional, as_user"),
        pytest.param({tenant: lambda: "x"}, ["/tenant"], id="what builds on what builds on auth.token"),
        pytest.param({Listing: fake_user}, ["/listing"], id="a class that builds on auth.token"),
        pytest.param({current_user: on_settings}, ["/me", "/tenant", "/listing"], id="a replacement with dependencies"),
        pytest.param({current_user: still_verified}, [], id="a replacement that depends on auth.token"),
        pytest.param({current_user: still_verified_below}, [], id="a replacement that depends on it from afar"),
        pytest.param({current_user: still_optional}, [], id="a replacement that depends on auth.optional"),
        pytest.param({current_user: auth.token}, [], id="a replacement that is auth.token"),
        pytest.param({current_user: partial(auth.token)}, [], id="a replacement that is auth.token, in a partial"),
        pytest.param({auth: auth.optional}, [], id="auth.optional in the place of auth"),
        pytest.param({auth: other}, [], id="another Auth in the place of auth"),
        pytest.param({other: admin}, [], id="another Auth"),
        pytest.param({auth: auth}, [], id="auth in its own place"),
        pytest.param({current_user: current_user}, [], id="a dependency in its own place"),
        pytest.param({current_user: around_itself}, [], id="a replacement that goes in a circle"),
        pytest.param(
            {current_user: still_verified, auth.token: lambda: None}, ON_TOKEN, id="a replacement of a replacement"
        ),
        pytest.param({auth: admin, current_user: still_verified}, ALL_FED, id="a replacement that as_user feeds"),
        pytest.param(
            {auth: lambda: None, current_user: fake_user},
            ["/auth", "/write", "/items/1", "/me", "/tenant", "/listing", "/both"],
            id="auth and what builds on auth.token, functions",
        ),
    ],
)
def test_an_anonymous_request_reaches_a_route_only_where_its_guard_is_replaced(
    overrides: Overrides, opened: list[str]
) -> None:
    app = FastAPI()
    auth.install(app)
    declare(app)
    app.dependency_overrides = overrides
    # A replacement may be a nonsense that fails once the route is reached; what counts is that it was not refused.
    service = TestClient(app, raise_server_exceptions=False)
    answers = {path: service.get(path).status_code for path in PATHS}
    assert [path for path, status in answers.items() if status != 401] == sorted(opened, key=PATHS.index)


@pytest.mark.parametrize("overrides", [{auth: admin}, {current_user: fake_user}], ids=["as_user", "function"])
@pytest.mark.parametrize("raw", ["x", token(exp=1), token(aud="others")], ids=["malformed", "expired", "audience"])
def test_a_bad_token_is_refused_as_ever(overrides: Overrides, raw: str) -> None:
    app = FastAPI()
    auth.install(app)
    declare(app)
    app.dependency_overrides = overrides
    for path in PATHS:
        assert bare_client(app).get(path, headers=bearer(raw)).status_code == 401


def install_and_declare(app: FastAPI, overrides: Overrides | None = None, **options: Any) -> TestClient:
    auth.install(app, **options)
    declare(app)
    app.dependency_overrides = overrides or {}
    return bare_client(app)


# What as_user puts there


def test_one_override_of_auth_feeds_every_guard() -> None:
    service = install_and_declare(FastAPI(), {auth: admin})
    answers = {path: service.get(path).json() for path in ALL_FED}
    assert answers == {
        **dict.fromkeys(
            ("/auth", "/token", "/optional", "/any-of", "/me", "/maybe", "/listing", "/write", "/both"), "ada"
        ),
        "/tenant": "tenant of ada",
        "/auth-and-token": ["ada", "ada"],
        "/auth-and-optional": ["ada", "ada"],
        "/items/1": "1",
    }
    with service.websocket_connect("/live") as connection:
        assert connection.receive_text() == "ada"


def test_as_user_takes_the_place_of_a_real_caller() -> None:
    service = install_and_declare(FastAPI(), {auth: as_user("grace")})
    for path in ("/auth", "/token", "/me"):
        assert service.get(path, headers=READER).json() == "grace"
    assert service.get("/bare", headers=READER).json() == "bare"


def test_as_user_gives_a_token_like_a_real_one() -> None:
    app = FastAPI()
    auth = make_auth(name="staff")
    auth.install(app)

    @app.get("/")
    def read(token: Annotated[Token, Depends(auth.token)], request: Request) -> Any:
        assert request.user.token is token
        assert request.auth.token is token
        token.claims["sub"] = "changed"
        return [token.subject, token.scopes, token.provider, token.claims["org"], request.auth.scopes]

    app.dependency_overrides[auth] = as_user("ada", scopes=["a", "b"], claims={"org": "x"})
    for _ in range(2):
        assert bare_client(app).get("/").json() == ["ada", ["a", "b"], "staff", "x", ["a", "b"]]


@pytest.mark.parametrize(
    ("path", "missing"), [("/write", "orders:write"), ("/any-of", "admin")], ids=["scope", "any of several"]
)
@pytest.mark.parametrize("direct", [False, True], ids=["auth", "the guard itself"])
def test_as_user_shows_the_403_of_a_user_without_the_scopes(path: str, missing: str, direct: bool) -> None:
    place = auth.any_of("admin", "auditor") if direct and path == "/any-of" else auth
    response = install_and_declare(FastAPI(), {place: as_user("ada", scopes=["orders:read"])}).get(path)
    assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
    assert f'scope="{missing}"' in response.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("options", "scopes", "status"),
    [
        pytest.param({"scope_implies": {"orders": ["orders:write"]}}, ["orders"], 200, id="implied"),
        pytest.param({"scope_implies": {"orders": ["orders:read"]}}, ["orders"], 403, id="implied, another"),
        pytest.param({"may_grant": ["orders:read"]}, ["orders:write"], 403, id="what the provider may not grant"),
        pytest.param({"may_grant": ["orders:write"]}, ["orders:write"], 200, id="what it may grant"),
    ],
)
@pytest.mark.parametrize("place", ["auth", "token", "any_of"])
def test_as_user_has_the_scopes_that_a_token_of_the_provider_would_have(
    options: dict[str, Any], scopes: list[str], status: int, place: str
) -> None:
    auth = make_auth(**options)
    guard: Any = {"auth": auth, "token": auth.token, "any_of": auth.any_of("orders:write", "other")}[place]
    app = FastAPI()
    auth.install(app)
    app.add_api_route("/", lambda: None, dependencies=[Security(guard, scopes=["orders:write"])])
    app.dependency_overrides[guard] = as_user("ada", scopes=scopes)
    assert bare_client(app).get("/").status_code == status
    assert bare_client(app).get("/", headers=headers_for(auth, "ada", scopes=scopes)).status_code == status


@pytest.mark.parametrize("kind", ["malformed JSON", "broken upload"])
def test_as_user_is_refused_before_the_body_is_read(kind: str) -> None:
    app = FastAPI()
    auth.install(app)

    @app.post("/orders")
    def order(
        order: Annotated[int, Body(embed=True)], user: Annotated[JWTUser, Security(auth, scopes=["x"])]
    ) -> None: ...

    @app.post("/upload")
    def upload(file: UploadFile, user: Annotated[JWTUser, Security(auth, scopes=["x"])]) -> None: ...

    path, content_type, status = {
        "malformed JSON": ("/orders", "application/json", 422),
        "broken upload": ("/upload", "multipart/form-data", 400),
    }[kind]
    for scopes, expected in (([], 403), (["x"], status)):
        app.dependency_overrides[auth] = as_user("ada", scopes=scopes)
        answer = bare_client(app).post(path, content="{", headers={"content-type": content_type})
        assert answer.status_code == expected


def test_as_user_comes_from_one_of_the_providers() -> None:
    several = [
        Provider(name="users", key=SECRET, audience="orders"),
        Provider(name="staff", key=SECRET[::-1], audience="orders", may_grant=["admin"], subject_claim="email"),
    ]
    auth = make_auth(providers=several, key=None, audience=None)
    app = FastAPI()
    auth.install(app)

    @app.get("/")
    def read(token: Annotated[Token, Depends(auth.token)]) -> Any:
        return [token.provider, token.scopes, token.subject, token.claims.get("email")]

    service = bare_client(app)
    app.dependency_overrides[auth] = as_user("ada", scopes=["orders:write"])
    assert service.get("/").json() == ["users", ["orders:write"], "ada", None]
    app.dependency_overrides[auth] = as_user("ada", scopes=["orders:write", "admin"], provider="staff")
    assert service.get("/").json() == ["staff", ["admin"], "ada", "ada"]
    app.dependency_overrides[auth] = as_user("ada", provider="partners")
    with pytest.raises(RuntimeError, match="there is no provider 'partners'; there is 'users', 'staff'"):
        service.get("/")


@pytest.mark.parametrize("name", [None, "partner"])
def test_as_user_may_come_from_any_provider_of_a_resolver(name: str | None) -> None:
    auth = make_auth(providers=ProviderResolver(lambda issuer: None), key=None, audience=None)
    app = FastAPI()
    auth.install(app)

    @app.get("/")
    def read(token: Annotated[Token, Security(auth.token, scopes=["orders:write"])]) -> Any:
        return [token.provider, token.subject]

    app.dependency_overrides[auth] = as_user("ada", scopes=["orders:write"], provider=name)
    assert bare_client(app).get("/").json() == [name or "jwt", "ada"]


def test_as_user_is_known_to_requires_and_to_dependencies_that_run_before_its_own() -> None:
    def name_of_user(request: Request) -> str:
        return str(request.user.identity)

    app = FastAPI()
    auth.install(app)
    guard = Depends(requires("orders:write"))

    @app.post("/dependency", dependencies=[guard])
    def by_dependency(
        name: Annotated[str, Depends(name_of_user)],
        user: Annotated[JWTUser, Depends(auth)],
        body: Annotated[str, Body()],
    ) -> list[str]:
        return [name, user.identity]

    @app.post("/decorator")
    @requires("orders:write")
    def by_decorator(user: Annotated[JWTUser, Depends(auth)]) -> list[str]:
        return [user.identity, user.identity]

    @app.post("/alone", dependencies=[guard])
    def alone() -> None: ...

    service = bare_client(app)
    for scopes, status in ((["orders:write"], 200), (["orders:read"], 403)):
        app.dependency_overrides[auth] = as_user("ada", scopes=scopes)
        for path in ("/dependency", "/decorator"):
            answer = service.post(path, json="x")
            assert answer.status_code == status
            assert status == 403 or answer.json() == ["ada", "ada"]
    # It has no dependency that the override could replace.
    assert service.post("/alone").status_code == 401


def test_as_user_in_two_places_that_need_different_things_says_so() -> None:
    app = FastAPI()

    @app.post("/change")
    def change(token: Annotated[Token, Depends(auth.token)], name: Annotated[str, Body(embed=True)]) -> None: ...

    service = install_and_declare(app, {auth: admin, auth.token: admin})
    # FastAPI reads the body of a POST first, and would turn an error at that moment into its own 400.
    for method, path, body in (("GET", "/token", None), ("POST", "/change", {"name": "ada"})):
        with pytest.raises(RuntimeError, match="override `auth` alone"):
            service.request(method, path, json=body)


def test_as_user_cannot_hide_that_nothing_is_installed() -> None:
    app = FastAPI()
    declare(app)
    app.dependency_overrides[auth] = admin
    for path in ("/auth", "/token"):
        with pytest.raises(RuntimeError, match=r"auth\.install\(app\)"):
            bare_client(app).get(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"subject": ""}, "subject must be a text", id="empty subject"),
        pytest.param({"subject": 7}, "subject must be a text that is not empty, not int", id="number"),
        pytest.param({"subject": "ada", "scopes": "orders:write"}, r"for instance \['orders:write'\]", id="one text"),
    ],
)
def test_a_fake_user_that_cannot_be_one_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_user(**arguments)


# One route at a time


def test_an_override_opens_its_route_for_its_method_alone() -> None:
    service = install_and_declare(FastAPI(), {auth: admin})
    assert service.get("/me").status_code == 200
    for method in ("POST", "PUT", "HEAD", "OPTIONS"):
        assert service.request(method, "/me").status_code == 401
    for path in ("/me/", "//me", "/ME", "/me%2f", "/items/", "/items/1/2", "/nowhere"):
        assert service.get(path, follow_redirects=False).status_code == 401


def test_of_two_routes_that_match_the_first_one_counts() -> None:
    app = FastAPI()
    auth.install(app)

    @app.get("/items/secret")
    def secret() -> str:
        return "secret"

    declare(app)

    @app.get("/items/2", dependencies=[Depends(auth)])
    def never_reached() -> None: ...

    app.dependency_overrides[auth] = admin
    service = bare_client(app)
    assert service.get("/items/secret").status_code == 401
    assert service.get("/items/2").json() == "2"


def test_a_guard_of_an_included_router_counts_where_it_is_included() -> None:
    app = FastAPI()
    auth.install(app)
    inner, outer = APIRouter(), APIRouter(prefix="/outer", dependencies=[Depends(auth)])

    @inner.get("/x")
    def x() -> str:
        return "x"

    @inner.websocket("/feed")
    async def feed(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    outer.include_router(inner, prefix="/guarded")
    app.include_router(outer)
    app.include_router(inner, prefix="/bare")
    app.dependency_overrides[auth] = admin
    service = bare_client(app)
    assert service.get("/outer/guarded/x").json() == "x"
    assert service.get("/bare/x").status_code == 401
    with service.websocket_connect("/outer/guarded/feed"):
        pass
    with pytest.raises(WebSocketDenialResponse), service.websocket_connect("/bare/feed"):
        pass


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_routers_with_a_class_of_their_own_stay_closed_where_only_fastapi_can_ask_them(depth: int) -> None:
    class Reluctant(APIRoute):
        def matches(self, scope: Any) -> Any:
            return super().matches(scope)

    app = FastAPI()
    auth.install(app)
    router = APIRouter(route_class=Reluctant, dependencies=[Depends(auth)])

    @router.get("/x")
    def x() -> str:
        return "x"

    for _ in range(depth):
        around = APIRouter()
        around.include_router(router)
        router = around
    app.include_router(router)
    app.dependency_overrides[auth] = admin
    assert bare_client(app).get("/x").status_code == 401


@pytest.mark.parametrize(("between", "status"), [(60, 200), (70, 401)], ids=["looked at", "too deep"])
def test_a_guard_that_is_too_deep_to_be_looked_at_opens_nothing(between: int, status: int) -> None:
    def depends_on(below: Callable[..., Any]) -> Callable[..., Any]:
        def dependency(found: Annotated[Any, Depends(below)]) -> Any:
            return found

        return dependency

    deepest: Callable[..., Any] = current_user
    for _ in range(between):
        deepest = depends_on(deepest)
    app = FastAPI()
    auth.install(app)
    app.add_api_route("/", lambda: "reached", dependencies=[Depends(deepest)])
    app.dependency_overrides[current_user] = fake_user
    assert bare_client(app).get("/").status_code == status
    assert bare_client(app).get("/", headers=READER).json() == "reached"


# Mounted apps


def test_an_override_counts_on_the_app_that_owns_it() -> None:
    parent, child = FastAPI(), FastAPI()
    auth.install(parent)
    declare(parent)
    declare(child)
    parent.mount("/child", child)
    service = bare_client(parent)
    parent.dependency_overrides[auth] = admin
    assert (service.get("/auth").status_code, service.get("/child/auth").status_code) == (200, 401)
    parent.dependency_overrides.clear()
    child.dependency_overrides[auth] = admin
    assert (service.get("/auth").status_code, service.get("/child/auth").json()) == (401, "ada")
    assert service.get("/child/bare").status_code == 401
    with service.websocket_connect("/child/live") as connection:
        assert connection.receive_text() == "ada"


def test_an_override_counts_in_an_app_that_is_chosen_by_its_host() -> None:
    parent, child, of_router = FastAPI(), FastAPI(), FastAPI()
    auth.install(parent)
    declare(parent)
    declare(child)
    router = APIRouter()
    router.host("router.example", of_router)
    parent.include_router(router, prefix="/prefixed")
    parent.router.routes.insert(0, Host("child.example", child))
    service = bare_client(parent)
    there = {"host": "child.example"}
    child.dependency_overrides[auth] = of_router.dependency_overrides[auth] = admin
    assert service.get("/auth", headers=there).json() == "ada"
    assert service.get("/auth").status_code == service.get("/bare", headers=there).status_code == 401
    assert service.get("/prefixed/auth", headers={"host": "router.example"}).status_code == 401
    child.dependency_overrides.clear()
    parent.dependency_overrides[auth] = admin
    assert service.get("/auth", headers=there).status_code == 401
    assert service.get("/auth").json() == "ada"


def test_an_override_counts_in_an_app_that_is_mounted_in_an_included_router() -> None:
    parent, middle, child = FastAPI(), FastAPI(), FastAPI()
    auth.install(parent)
    declare(child)
    middle.mount("/child", child)
    router = APIRouter()
    router.mount("/middle", middle)
    parent.include_router(router, prefix="/api")
    child.dependency_overrides[auth] = admin
    service = bare_client(parent)
    assert service.get("/api/middle/child/auth").json() == "ada"
    assert service.get("/api/middle/child/bare").status_code == 401


def test_a_mounted_app_behind_a_middleware_that_may_change_the_path_stays_closed() -> None:
    parent, child = FastAPI(), FastAPI()
    auth.install(parent)

    @child.middleware("http")
    async def rewrite(request: Request, call_next: Any) -> Any:
        request.scope["path"] = request.scope["path"].replace("/auth", "/bare")
        return await call_next(request)

    declare(child)
    parent.mount("/child", child)
    child.dependency_overrides[auth] = admin
    assert bare_client(parent).get("/child/auth").status_code == 401
    assert bare_client(parent).get("/child/auth", headers=READER).json() == "bare"


def test_a_mounted_app_behind_cors_is_opened() -> None:
    parent, child = FastAPI(), FastAPI()
    auth.install(parent)
    child.add_middleware(CORSMiddleware, allow_origins=["*"])
    declare(child)
    parent.mount("/child", child)
    child.dependency_overrides[auth] = admin
    assert bare_client(parent).get("/child/auth").json() == "ada"


def test_a_mounted_app_with_a_root_path_of_its_own_is_asked_as_fastapi_asks_it() -> None:
    parent = FastAPI()
    with pytest.warns(match="root_path"):
        child = FastAPI(root_path="/child")
    auth.install(parent)
    declare(child)
    parent.mount("/child", child)
    child.dependency_overrides[auth] = admin
    service = bare_client(parent)
    assert service.get("/child/auth", headers=READER).status_code == service.get("/child/auth").status_code == 200
    assert service.get("/child/bare").status_code == 401


def test_what_is_mounted_and_is_no_fastapi_app_stays_closed() -> None:
    parent, child = FastAPI(), FastAPI()
    auth.install(parent)
    declare(child)
    child.dependency_overrides[auth] = admin
    parent.router.routes.append(Mount("/wrapped", app=lambda scope, receive, send: child(scope, receive, send)))
    parent.router.routes.append(Mount("/routes", routes=[Mount("/child", child)]))
    router = APIRouter()
    declare(router)
    parent.mount("/router", router)
    parent.dependency_overrides[auth] = admin
    service = bare_client(parent)
    assert service.get("/wrapped/auth").status_code == 401
    assert service.get("/routes/child/auth").status_code == 401
    assert service.get("/router/auth").status_code == 401


def test_a_route_of_another_app_keeps_the_overrides_of_that_app() -> None:
    app, another = FastAPI(), FastAPI()
    auth.install(app)
    declare(another)
    app.router.routes += another.router.routes
    app.dependency_overrides[current_user] = fake_user
    assert bare_client(app).get("/me").status_code == 401


def test_a_route_without_an_app_has_no_overrides() -> None:
    app, router = FastAPI(), APIRouter()
    auth.install(app)
    declare(router)
    app.router.routes += router.routes
    app.dependency_overrides[current_user] = fake_user
    assert bare_client(app).get("/me").status_code == 401


# What else opens a route


def test_an_optional_guard_opens_nothing_by_itself() -> None:
    assert install_and_declare(FastAPI()).get("/optional").status_code == 401
    assert install_and_declare(FastAPI(), public=["/optional"]).get("/optional").json() is None
    guests = make_auth(allow_anonymous=True)
    app = FastAPI()
    guests.install(app)

    @app.get("/")
    def read(caller: Annotated[JWTUser | None, Depends(guests.optional)]) -> Any:
        return caller and caller.identity

    assert bare_client(app).get("/").json() is None
    assert bare_client(app).get("/", headers=READER).json() == "ada"
    assert bare_client(app).get("/", headers=bearer("x")).status_code == 401


# What an operator is told


def test_each_opened_route_is_told_once_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    auth = make_auth(on_event=events.append)
    app = FastAPI()
    auth.install(app)
    for path in ("/items/{item}", "/me"):
        app.add_api_route(path, lambda: None, dependencies=[Depends(auth)])
    app.add_api_route("/bare", lambda: None)
    app.dependency_overrides[auth] = admin
    service = bare_client(app)
    for _ in range(3):
        service.get("/items/1")
        service.get("/items/2")
        service.get("/me")
        service.get("/bare")
    told = [record for record in caplog.records if record.name.startswith("jwt_middleware.advice")]
    assert [record.levelno for record in told] == [logging.WARNING] * 2
    assert "/items/{item}" in told[0].getMessage()
    assert "/me" in told[1].getMessage()
    opened = [GuardReplaced(method="GET", path=path) for path in ("/items/{item}", "/me")]
    assert [event for event in events if isinstance(event, GuardReplaced)] == opened


def test_two_opened_routes_with_the_same_path_are_both_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    auth.install(app)
    app.add_api_route("/items/{item:int}", lambda item: "by number", dependencies=[Depends(auth)])
    app.add_api_route("/items/{item}", lambda item: "by name", dependencies=[Depends(auth)])
    app.dependency_overrides[auth] = admin
    for _ in range(2):
        assert [bare_client(app).get(path).json() for path in ("/items/1", "/items/x")] == ["by number", "by name"]
    assert caplog.text.count("GET /items/{item}:") == 2


def test_an_opened_route_of_a_mounted_app_is_logged_with_its_whole_path(caplog: pytest.LogCaptureFixture) -> None:
    parent, child = FastAPI(), FastAPI()
    auth.install(parent)
    declare(child)
    parent.mount("/child", child)
    child.dependency_overrides[auth] = admin
    bare_client(parent).get("/child/items/1")
    assert "/child/items/{item}" in caplog.text


def test_an_override_that_opens_nothing_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    service = install_and_declare(FastAPI(), {get_db: fake_db, current_user: still_verified})
    service.get("/me")
    assert service.get("/me", headers=READER).json() == "ada of another class"
    assert "dependency_overrides" not in caplog.text


def test_a_path_that_no_convertor_can_read_is_refused_like_any_other() -> None:
    app = FastAPI()
    auth.install(app, docs=True)

    @app.get("/numbers/{number:int}", dependencies=[Depends(auth)])
    def number(number: int) -> None: ...

    app.dependency_overrides[auth] = admin
    path = f"/numbers/{'9' * 5000}"
    assert bare_client(app).get(path).status_code == 401
    assert bare_client(app).get(path, headers=bearer("x")).status_code == 401
    assert bare_client(app).get("/numbers/7").status_code == 200
