"""A route is opened only if FastAPI is certain to select it: each attack has an unguarded neighbour."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.testclient import WebSocketDenialResponse

from jwt_middleware import JWTUser
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer
from jwt_middleware.testing import as_user

from ..support import SECRET, bare_client
from .apps import READER, make_auth

auth = make_auth()
admin = as_user("ada")


async def reach(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("another")(scope, receive, send)


def declare(router: FastAPI | APIRouter) -> None:
    router.add_api_route("/guarded", lambda: "guarded", dependencies=[Depends(auth)])
    router.add_api_route("/another", lambda: "another")


class Never(APIRouter):
    def matches(self, scope: Any) -> Any:
        return Match.NONE, {}


class Elsewhere(APIRouter):
    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        await reach(scope, receive, send)


class Renaming(APIRouter):
    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if "path" in scope:
            scope["path"] = scope["path"].replace("guarded", "another")
        await super().app(scope, receive, send)


class Rename:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if "path" in scope:
            scope["path"] = scope["path"].replace("guarded", "another")
        await self.app(scope, receive, send)


class RenamingApp(FastAPI):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Rename(super().__call__)(scope, receive, send)


class WrappedApp(FastAPI):
    def build_middleware_stack(self) -> Any:
        return Rename(super().build_middleware_stack())


class StrayMount(Mount):
    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        await reach(scope, receive, send)


def include_nested_router_that_declines(app: FastAPI) -> None:
    outer, declining, unguarded = APIRouter(), Never(), APIRouter()
    declare(declining)
    unguarded.add_api_route("/guarded", lambda: "another")
    outer.include_router(declining)
    outer.include_router(unguarded)
    app.include_router(outer)


def include_router_that_handles_by_itself(app: FastAPI) -> None:
    router = Elsewhere()
    declare(router)
    app.include_router(router)


def include_nested_router_that_handles_by_itself(app: FastAPI) -> None:
    outer, router = APIRouter(), Elsewhere()
    declare(router)
    outer.include_router(router)
    app.include_router(outer)


def have_a_handler_put_into_a_router(app: FastAPI) -> None:
    router = APIRouter()
    declare(router)
    vars(router)["handle"] = reach
    app.include_router(router)


class Fickle(APIRoute):
    """Matches one time in two."""

    asked = 0

    def matches(self, scope: Any) -> Any:
        Fickle.asked += 1
        return super().matches(scope) if Fickle.asked % 2 else (Match.NONE, {})


def have_a_route_that_changes_its_mind(app: FastAPI) -> None:
    Fickle.asked = 0
    app.router.routes.append(Fickle("/guarded", lambda: "guarded", dependencies=[Depends(auth)]))
    app.add_api_route("/guarded", lambda: "another")


def have_a_router_that_renames(app: FastAPI) -> None:
    app.router = Renaming(dependency_overrides_provider=app)
    declare(app)


def mount(app: FastAPI, child: FastAPI, kind: type[Mount] = Mount, **options: Any) -> None:
    declare(child)
    child.dependency_overrides[auth] = admin
    app.router.routes.append(kind("/child", child, **options))


def mount_an_app_that_renames(app: FastAPI) -> None:
    mount(app, RenamingApp())


def mount_an_app_that_wraps_its_middleware(app: FastAPI) -> None:
    mount(app, WrappedApp())


def mount_an_app_whose_middleware_is_wrapped_later(app: FastAPI) -> None:
    child = FastAPI()
    child.middleware_stack = Rename(child.build_middleware_stack())
    mount(app, child)


def mount_an_app_whose_builder_is_replaced(app: FastAPI) -> None:
    child = FastAPI()
    build = child.build_middleware_stack
    vars(child)["build_middleware_stack"] = lambda: Rename(build())
    mount(app, child)


def mount_an_app_with_a_router_that_renames(app: FastAPI) -> None:
    child = FastAPI()
    child.router = Renaming(dependency_overrides_provider=child)
    mount(app, child)


def mount_an_app_whose_middleware_is_wrapped_between_its_parts(app: FastAPI) -> None:
    child = FastAPI()
    stack: Any = child.build_middleware_stack()
    stack.app = Rename(stack.app)
    child.middleware_stack = stack
    mount(app, child)


def wrap_the_middleware_of_the_router(app: FastAPI) -> None:
    declare(app)
    app.router.middleware_stack = Rename(app.router.middleware_stack)


def wrap_the_middleware_of_the_router_by_a_function(app: FastAPI) -> None:
    async def rename(request: Request, call_next: Any) -> Any:
        request.scope["path"] = request.scope["path"].replace("guarded", "another")
        return await call_next(request)

    declare(app)
    app.router.middleware_stack = BaseHTTPMiddleware(app.router.middleware_stack, rename)


def mount_by_a_class_that_handles_by_itself(app: FastAPI) -> None:
    mount(app, FastAPI(), StrayMount)


def mount_behind_a_middleware(app: FastAPI) -> None:
    mount(app, FastAPI(), middleware=[Middleware(Rename)])


def mount_starlette_below_the_guarded_path(app: FastAPI) -> None:
    declare(app)
    app.mount("/guarded", Starlette(routes=[Route("/", lambda request: PlainTextResponse("another"))]))


def mount_over_the_guarded_path(app: FastAPI) -> None:
    app.mount("/guarded", reach)
    declare(app)


def answer_by_host_first(app: FastAPI) -> None:
    app.host("{name}", reach)
    declare(app)


def answer_everything_first(app: FastAPI) -> None:
    app.add_api_route("/{path:path}", lambda path: "another")
    declare(app)


def guard_another_method(app: FastAPI) -> None:
    app.add_api_route("/guarded", lambda: "guarded", methods=["POST", "HEAD", "OPTIONS"], dependencies=[Depends(auth)])
    app.add_api_route("/guarded", lambda: "another")


def answer_what_no_route_matches(app: FastAPI) -> None:
    declare(app)
    app.router.default = reach


CHOICES = [
    *(include_nested_router_that_declines, include_router_that_handles_by_itself),
    *(include_nested_router_that_handles_by_itself, have_a_handler_put_into_a_router, have_a_router_that_renames),
    have_a_route_that_changes_its_mind,
    *(mount_an_app_that_renames, mount_an_app_that_wraps_its_middleware),
    *(mount_an_app_whose_middleware_is_wrapped_later, mount_an_app_whose_builder_is_replaced),
    mount_an_app_whose_middleware_is_wrapped_between_its_parts,
    *(wrap_the_middleware_of_the_router, wrap_the_middleware_of_the_router_by_a_function),
    *(mount_an_app_with_a_router_that_renames, mount_by_a_class_that_handles_by_itself, mount_behind_a_middleware),
    *(mount_starlette_below_the_guarded_path, mount_over_the_guarded_path, answer_by_host_first),
    *(answer_everything_first, guard_another_method, answer_what_no_route_matches),
]


@pytest.mark.parametrize("choose", CHOICES, ids=lambda choose: choose.__name__.replace("_", " "))
def test_an_override_opens_no_route_that_fastapi_may_not_select(choose: Callable[[FastAPI], None]) -> None:
    app = FastAPI()
    auth.install(app)
    choose(app)
    app.dependency_overrides[auth] = admin
    reached = 0
    with bare_client(app) as service:
        for path in ("/guarded", "/guarded/", "/child/guarded", "/nowhere"):
            assert "another" not in service.get(path, follow_redirects=False).text
            reached += "another" in service.get(path, headers=READER).text
    # The neighbour that must not be reached without a token is there.
    assert reached


def test_a_limit_of_the_body_does_not_keep_a_route_closed() -> None:
    app, child = FastAPI(max_body_size=100), FastAPI(max_body_size=100)
    auth.install(app)
    app.router = APIRouter(max_body_size=100, dependency_overrides_provider=app)
    app.mount("/child", child)
    for each in (app, child):
        declare(each)
        each.dependency_overrides[auth] = admin
    with bare_client(app) as service:
        assert service.get("/guarded").json() == service.get("/child/guarded").json() == "guarded"


def find(username: str, password: str) -> str | None:
    return username


def test_a_login_that_fastapi_may_not_select_stays_closed() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, "orders"))
    app, outer, declining, own = FastAPI(), APIRouter(), Never(), APIRouter()
    Auth(sessions=sessions).install(app)
    declining.include_router(auth_router(sessions, authenticate=find))
    own.add_api_route("/login", lambda: "another", methods=["POST"])
    outer.include_router(declining)
    outer.include_router(own)
    app.include_router(outer)
    assert bare_client(app).post("/login").status_code == 401


@pytest.mark.parametrize("of", [FastAPI, APIRouter], ids=["another app", "a router that is not included"])
def test_an_optional_guard_whose_override_fastapi_does_not_apply_lets_no_anonymous_request_through(of: Any) -> None:
    """FastAPI does not say which app a WebSocket route belongs to, so the guard itself has to refuse."""
    app, owner = FastAPI(), of()
    auth.install(app)

    async def live(socket: WebSocket, guest: Annotated[JWTUser | None, Depends(auth.optional)]) -> None:
        await socket.accept()
        await socket.close()

    owner.add_api_websocket_route("/live", live)
    app.router.routes += owner.router.routes if of is FastAPI else owner.routes
    app.dependency_overrides[auth.optional] = admin
    with pytest.raises(WebSocketDenialResponse) as denied, bare_client(app).websocket_connect("/live"):
        pass
    assert denied.value.status_code == 401
    with bare_client(app).websocket_connect("/live", headers=READER):
        pass


def test_an_override_that_is_removed_during_the_request_leaves_its_route_closed() -> None:
    app = FastAPI()
    auth.install(app)

    def remove_the_override() -> None:
        app.dependency_overrides.clear()

    @app.get("/", dependencies=[Depends(remove_the_override), Depends(auth.optional)])
    def read() -> str:
        return "another"

    app.dependency_overrides[auth.optional] = admin
    assert bare_client(app).get("/").json()["code"] == "missing_token"


class Anything(BaseRoute):
    """A route of no kind that FastAPI or Starlette has."""

    def matches(self, scope: Any) -> Any:
        return Match.FULL, {}

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        await reach(scope, receive, send)


def test_a_route_of_an_unknown_kind_stays_refused_beside_an_override() -> None:
    app = FastAPI()
    auth.install(app)
    app.router.routes.append(Anything())
    declare(app)
    app.dependency_overrides[auth] = admin
    assert bare_client(app).get("/guarded").status_code == 401
