"""Where the middleware stands, what it leaves open, and what an app must not do."""

import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Security
from fastapi.responses import PlainTextResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from jwt_middleware import ConfigurationError, JWTUser, Provider, bearer_header, cookie, requires
from jwt_middleware.events import Advice, Event, RequestRefused
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import Cookies, MemoryStore, Sessions, TokenIssuer

from ..support import SECRET, bare_client, bearer
from .apps import READER, WRITER, make_auth

auth = make_auth()
ORIGIN = "https://app.example"
PREFLIGHT = {"origin": ORIGIN, "access-control-request-method": "GET"}


@pytest.mark.parametrize("first", ["cors", "auth"])
def test_cors_works_whether_it_is_added_before_or_after(first: str) -> None:
    app = FastAPI()
    if first == "auth":
        auth.install(app)
    app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], allow_headers=["authorization"])
    if first == "cors":
        auth.install(app)

    @app.get("/me")
    def me(user: Annotated[JWTUser, Depends(auth)]) -> str:
        return user.identity

    service = bare_client(app)
    assert service.options("/me", headers=PREFLIGHT).status_code == 200
    refused = service.get("/me", headers={"origin": ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)


def test_routes_may_come_later() -> None:
    app = FastAPI()
    auth.install(app)
    service = bare_client(app)
    assert service.get("/late").status_code == 401
    assert service.get("/late", headers=READER).status_code == 404

    @app.get("/late")
    def late(user: Annotated[JWTUser, Depends(auth)]) -> str:
        return user.identity

    assert service.get("/late", headers=READER).json() == "ada"


def test_one_auth_serves_several_apps() -> None:
    def me(user: Annotated[JWTUser, Depends(auth)]) -> str:
        return user.identity

    apps = FastAPI(), FastAPI()
    for app in apps:
        auth.install(app)
        app.add_api_route("/me", me)
    for app in apps:
        assert bare_client(app).get("/me", headers=READER).json() == "ada"


def test_an_app_takes_one_auth_before_it_starts() -> None:
    app = FastAPI()
    auth.install(app)
    for another in (auth, make_auth()):
        with pytest.raises(ConfigurationError, match="installed on this app already"):
            another.install(app)
    started = FastAPI()
    bare_client(started).get("/")
    with pytest.raises(ConfigurationError, match="the app has started"):
        auth.install(started)
    with pytest.raises(ConfigurationError, match="must be a FastAPI app, not Starlette"):
        auth.install(Starlette())  # type: ignore[arg-type]  # not a FastAPI app


def test_nothing_stands_between_the_middleware_and_the_routes() -> None:
    app = FastAPI()
    auth.install(app)
    app.user_middleware.append(Middleware(GZipMiddleware))
    with pytest.raises(RuntimeError, match=r"behind that of auth\.install"):
        bare_client(app).get("/", headers=READER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"public": "/health"}, "public must be a list", id="public, one text"),
        pytest.param({"public": ["health"]}, "must start with '/'", id="public, no path"),
        pytest.param({"docs": "yes"}, "docs must be True or False", id="docs"),
        pytest.param({"docs_client_id": 7}, "docs_client_id must be", id="docs_client_id"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        auth.install(FastAPI(), **options)


# What is open


def test_public_paths_may_be_named_at_either_place() -> None:
    for options, public in (
        ({"public": ["/a"]}, ["/b"]),
        ({"public": iter(["/a"])}, iter(["/b"])),
        ({"public": lambda scope: scope["path"] == "/a"}, ["/b"]),
    ):
        app = FastAPI()
        make_auth(**options).install(app, public=public)
        for path in ("/a", "/b", "/c"):
            app.add_api_route(path, lambda request=None: "open")
        service = bare_client(app)
        assert [service.get(path).status_code for path in ("/a", "/b", "/c")] == [200, 200, 401]


def test_a_function_may_say_who_may_be_anonymous() -> None:
    app = FastAPI()
    make_auth(allow_anonymous=lambda scope: scope["path"] == "/a").install(app)
    app.add_api_route("/a", lambda: "open")
    app.add_api_route("/b", lambda: "open")
    service = bare_client(app)
    assert [service.get(path).status_code for path in ("/a", "/b")] == [200, 401]
    assert service.get("/a", headers=bearer("x")).status_code == 401


DOCS = ["/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"]


def test_the_documentation_is_closed_unless_it_is_opened() -> None:
    for docs, status in ((False, 401), (True, 200)):
        app = FastAPI()
        auth.install(app, docs=docs)
        service = bare_client(app)
        assert [service.get(path).status_code for path in DOCS] == [status] * 4
        assert service.post("/docs").status_code == service.get("/docs/x").status_code == 401
        assert service.head("/docs").status_code == status


def test_the_documentation_is_open_wherever_the_app_has_put_it() -> None:
    app = FastAPI(docs_url="/help", redoc_url=None, openapi_url="/schema", swagger_ui_oauth2_redirect_url="/back")
    auth.install(app, docs=True)
    service = bare_client(app)
    assert [service.get(path).status_code for path in ("/help", "/schema", "/back")] == [200] * 3
    assert [service.get(path).status_code for path in DOCS] == [401] * 4


def test_a_route_of_the_apps_own_in_the_place_of_the_documentation_stays_guarded() -> None:
    async def secret(request: Request) -> PlainTextResponse:
        return PlainTextResponse("secret")

    app = FastAPI(docs_url=None, routes=[Route("/redoc", secret), Route("/openapi.json", secret)])
    auth.install(app, docs=True)
    app.add_route("/docs", secret)
    service = bare_client(app)
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert service.get(path).status_code == 401
        assert service.get(path, headers=READER).text == "secret"


def test_the_documentation_of_a_mounted_app_is_its_own_matter() -> None:
    app, child = FastAPI(), FastAPI()
    auth.install(app, docs=True)
    app.mount("/child", child)
    service = bare_client(app)
    assert service.get("/child/docs").status_code == service.get("/child/openapi.json").status_code == 401


# requires() in the wrong place


def guard_too_late(app: FastAPI | APIRouter) -> None:
    @requires("orders:write")
    @app.get("/late")
    async def late(request: Request) -> str:
        raise AssertionError("the route is not guarded")


def test_requires_above_the_route_keeps_an_app_from_starting() -> None:
    app = FastAPI()
    auth.install(app)
    guard_too_late(app)
    with pytest.raises(RuntimeError, match=r"/late: .* place @requires\(...\) below"), bare_client(app):
        pass


@pytest.mark.anyio
async def test_a_server_is_told_that_the_app_does_not_start() -> None:
    app = FastAPI()
    auth.install(app)
    guard_too_late(app)
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        messages.append(message)

    with pytest.raises(RuntimeError, match="/late"):
        await app({"type": "lifespan", "state": {}}, receive, send)
    (message,) = messages
    assert message["type"] == "lifespan.startup.failed"
    assert "/late" in message["message"]


@pytest.mark.parametrize("where", ["app", "router", "nested router", "mounted app", "host", "host in a router"])
def test_requires_above_a_route_is_an_error_at_every_request_where_there_is_no_lifespan(where: str) -> None:
    app, router, child, host = FastAPI(), APIRouter(), FastAPI(), FastAPI()
    auth.install(app)
    (router if where == "host in a router" else app).host("host.example", host)
    app.add_api_route("/other", lambda: "other")
    guard_too_late({"app": app, "mounted app": child, "host": host, "host in a router": host}.get(where, router))
    if where == "nested router":
        outer = APIRouter()
        outer.include_router(router, prefix="/inner")
        router = outer
    app.include_router(router, prefix="/api")
    app.mount("/child", child)
    service = bare_client(app)
    for path in ("/late", "/api/late", "/api/inner/late", "/child/late", "/other"):
        assert service.get(path).status_code == 401
        with pytest.raises(RuntimeError, match="/late: the route calls"):
            service.get(path, headers=WRITER)


@pytest.mark.parametrize("order", ["route first", "guard first"])
def test_requires_above_a_route_that_is_added_while_the_app_runs_is_an_error(order: str) -> None:
    app = FastAPI()
    auth.install(app)
    app.add_api_route("/other", lambda: "other")
    with bare_client(app) as service:
        assert service.get("/other", headers=READER).status_code == 200
        if order == "route first":
            guard_too_late(app)
        else:

            async def late(request: Request) -> str:
                raise AssertionError("the route is not guarded")

            requires("orders:write")(late)
            assert service.get("/other", headers=READER).status_code == 200
            app.add_api_route("/late", late)
        for path in ("/late", "/other"):
            with pytest.raises(RuntimeError, match="/late: the route calls"):
                service.get(path, headers=WRITER)


def test_an_app_may_be_mounted_in_itself() -> None:
    app = FastAPI()
    auth.install(app)
    app.add_api_route("/", lambda: "here")
    app.mount("/again", app)
    with bare_client(app) as service:
        assert service.get("/again/again/", headers=READER).json() == "here"
        assert service.get("/again/").status_code == 401


def test_requires_below_a_route_works() -> None:
    app = FastAPI()
    auth.install(app)

    @app.get("/")
    @requires("orders:write")
    async def read() -> str:
        return "read"

    with bare_client(app) as service:
        assert service.get("/", headers=WRITER).json() == "read"
        refused = service.get("/", headers=READER)
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")


def test_lifespan_starts_and_stops_the_app() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        seen.append("started")
        yield
        seen.append("stopped")

    app = FastAPI(lifespan=lifespan)
    auth.install(app)
    app.add_api_route("/", lambda: "here")
    with bare_client(app) as service:
        assert service.get("/", headers=READER).json() == "here"
    assert seen == ["started", "stopped"]


def test_an_app_may_route_by_host() -> None:
    app, child = FastAPI(), FastAPI()
    auth.install(app)
    child.add_api_route("/", lambda: "child")
    app.host("child.example", child)
    app.add_api_route("/", lambda: "parent")
    with bare_client(app) as service:
        assert service.get("/", headers={"host": "child.example"}).status_code == 401
        assert service.get("/", headers={"host": "child.example", **READER}).json() == "child"
        assert service.get("/", headers=READER).json() == "parent"


def test_without_fastapi_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jwt_middleware.fastapi")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ImportError, match=r"pip install 'asgi-jwt-middleware\[fastapi\]'"):
        importlib.import_module("jwt_middleware.fastapi")


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        pytest.param(lambda auth: auth.any_of, r"Depends\(auth.any_of\) .* Depends\(auth.any_of\(", id="any_of"),
        pytest.param(lambda auth: auth.credentials, r"Depends\(auth.credentials\)", id="another method"),
        pytest.param(lambda auth: requires, r"Depends\(requires\) .* Depends\(requires\(", id="requires"),
    ],
)
@pytest.mark.parametrize("place", ["route", "router", "mounted", "nested"])
def test_a_guard_that_was_not_called_is_an_error_at_startup(guard: Any, message: str, place: str) -> None:
    """FastAPI would take its arguments from the query, and answer 422."""
    auth, app, router, child = make_auth(), FastAPI(), APIRouter(), FastAPI()
    auth.install(app)
    wrong = Depends(guard(auth))

    def around(found: Annotated[Any, wrong]) -> None: ...

    depends = {"route": wrong, "mounted": wrong, "nested": Depends(around), "router": wrong}[place]
    if place == "router":
        router.add_api_route("/here", lambda: None)
        app.include_router(router, dependencies=[depends])
    else:
        (child if place == "mounted" else app).add_api_route("/here", lambda: None, dependencies=[depends])
        app.mount("/below", child)
    path = "/below/here" if place == "mounted" else "/here"
    with pytest.raises(RuntimeError, match=f"^{path}: .*{message}"), bare_client(app):
        pass


def test_a_method_of_a_subclass_can_be_a_dependency() -> None:
    class AuthOfTenants(Auth):
        def find_tenant(self, request: Request) -> str:
            return f"tenant of {request.user.identity}"

    own, app = AuthOfTenants(key=SECRET, audience="orders", clock=auth.clock), FastAPI()
    own.install(app)

    @app.get("/tenant")
    def read(tenant: Annotated[str, Depends(own.find_tenant)]) -> str:
        return tenant

    with bare_client(app) as client:
        assert client.get("/tenant", headers=READER).json() == "tenant of ada"


def test_scopes_that_were_given_as_one_string_cause_advice() -> None:
    heard: list[Event] = []
    auth, app = make_auth(on_event=heard.append), FastAPI()
    auth.install(app)
    app.add_api_route("/", lambda: None, dependencies=[Security(auth, scopes="orders:read")])
    app.add_api_route("/fine", lambda: None, dependencies=[Security(auth, scopes=["x"]), Depends(auth)])
    service = bare_client(app)
    assert [service.get("/", headers=READER).status_code for _ in range(2)] == [403, 403]
    (advice,) = [event for event in heard if isinstance(event, Advice)]
    assert str(advice) == (
        "/: a guard demands the scopes 'o', 'r', 'd', 'e', 'r', 's', ':', 'r', ...: give Security(scopes=) a list, "
        "because FastAPI reads a string as a list of its letters (said once)"
    )


@pytest.mark.parametrize("place", ["app", "router", "as @requires does", "optional", "nowhere"])
def test_a_guard_in_front_of_the_login_causes_advice(place: str) -> None:
    heard: list[Event] = []
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, "orders"))
    auth = Auth(sessions=sessions, on_event=heard.append)
    around: dict[str, Any] = {
        "app": auth,
        "router": auth.any_of("admin"),
        "as @requires does": requires(),
        "optional": auth.optional,
    }
    dependencies = [Depends(around[place])] if place in around else []
    app = FastAPI(dependencies=dependencies if place == "app" else [])
    auth.install(app)
    logins = auth_router(sessions, authenticate=find_no_user)
    app.include_router(logins, dependencies=[] if place == "app" else dependencies)
    with bare_client(app) as service:
        answer = service.post("/login", data={"username": "ada", "password": "x"})
    is_guarded = place not in ("optional", "nowhere")
    assert answer.status_code == (401 if is_guarded else 400)
    advice = [str(event) for event in heard if isinstance(event, Advice)]
    assert ["/login: a guard of the app or of a router refuses every login" in text for text in advice] == (
        [True] * is_guarded
    )


def find_no_user(username: str, password: str) -> None: ...


@pytest.mark.parametrize(
    ("cookies", "sources", "advised"),
    [
        pytest.param("all", [bearer_header()], True, id="not among the sources"),
        pytest.param(Cookies("all", access_name="other"), [cookie("__Host-access")], True, id="another name"),
        pytest.param("all", [bearer_header(), cookie("__Host-access")], False, id="among the sources"),
        pytest.param("refresh", [bearer_header()], False, id="no access token in it"),
        pytest.param(None, [bearer_header()], False, id="no cookies"),
    ],
)
def test_a_login_whose_cookie_is_never_read_causes_advice(cookies: Any, sources: list[Any], advised: bool) -> None:
    heard: list[Event] = []
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, "orders"))
    auth, app = Auth(sessions=sessions, sources=sources, on_event=heard.append), FastAPI()
    auth.install(app)
    app.include_router(auth_router(sessions, authenticate=find_no_user, cookies=cookies))
    for _ in range(2):
        with bare_client(app):
            pass
    advice = [str(event) for event in heard if isinstance(event, Advice)]
    assert ["does not read it: add cookie(" in text for text in advice] == [True] * advised


def test_advice_is_given_once_however_many_apps_there_are() -> None:
    heard: list[Event] = []
    providers = [Provider(name=name, key=SECRET, audience=name, issuer=f"https://{name}.example") for name in "ab"]
    auth = Auth(providers=providers, debug=True, on_event=heard.append)
    before = list(heard)
    assert ["may_grant" in str(event) for event in before] == [True, False]
    assert "debug=True" in str(before[1])
    for _ in range(2):
        app = FastAPI()
        auth.install(app)
        assert bare_client(app).get("/").status_code == 401
    assert [type(event) for event in heard[2:]] == [RequestRefused, RequestRefused]
