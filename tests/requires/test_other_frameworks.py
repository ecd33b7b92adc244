"""``requires`` finds the request that another framework passes, or says at decoration what to write instead."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import InvalidStatus

from jwt_middleware import JWTMiddleware

from ..support import bare_client
from ..support.frameworks import CHALLENGE, OTHER, READER, SECRET, Served, served

HEAD = """
from jwt_middleware import JWTMiddleware, requires
options = {"key": "a secret that has thirty-two bytes or more", "audience": "orders", "allow_anonymous": True}
"""

PROGRAMS = {
    "litestar": """
from litestar import Litestar, Request, WebSocket, get, websocket

@get("/orders")
@requires("orders:read")
async def orders(request: Request[object, object, object]) -> list[str]:
    return ["an order"]

@get("/sync", sync_to_thread=False)
@requires("orders:read")
def sync(request: "Request") -> list[str]:
    return ["an order"]

@websocket("/feed")
@requires("orders:read")
async def feed(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()

app = JWTMiddleware(Litestar([orders, sync, feed]), **options)
""",
    "django": """
from asyncio import get_running_loop
from threading import current_thread
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

settings.configure(
    ALLOWED_HOSTS=["*"], MIDDLEWARE=["jwt_middleware.django.UserMiddleware"], ROOT_URLCONF=__name__, SECRET_KEY="s"
)
django_app = get_asgi_application()

from jwt_middleware.django import requires as django_requires

@requires("orders:read")
async def orders(request):
    user = await request.auser()
    return JsonResponse(["an order"], safe=False)

@requires("orders:read")
def sync(request):
    return JsonResponse(["an order"], safe=False)

@django_requires("orders:read")
async def own(request):
    return JsonResponse(["an order"], safe=False)

@django_requires("orders:read")
class Orders(View):
    def get(self, request):
        return JsonResponse(["an order"], safe=False)

@django_requires("orders:read")
class AsyncOrders(View):
    async def get(self, request):
        return JsonResponse(["an order"], safe=False)

@method_decorator(django_requires("orders:read"), name="dispatch")
class Decorated(View):
    def get(self, request):
        return JsonResponse(["an order"], safe=False)

@method_decorator(django_requires("orders:read"), name="dispatch")
class AsyncDecorated(View):
    async def get(self, request):
        return JsonResponse(["an order"], safe=False)

class Methods(View):
    @method_decorator(django_requires("orders:read"))
    def get(self, request):
        return JsonResponse(["an order"], safe=False)

    @django_requires("orders:read")
    def post(self, request):
        return JsonResponse(["an order"], safe=False)

class AsyncMethods(View):
    @method_decorator(django_requires("orders:read"))
    async def get(self, request):
        return JsonResponse(["an order"], safe=False)

    @django_requires("orders:read")
    async def post(self, request):
        return JsonResponse(["an order"], safe=False)

class AsyncDispatch(View):
    async def get(self, request):
        return JsonResponse(["an order"], safe=False)

    @django_requires("orders:read")
    def dispatch(self, request):
        return super().dispatch(request)

async def by_name(request):
    return await own(request=request)

@django_requires("orders:read")
def own_sync(request):
    return JsonResponse(["an order"], safe=False)

def sync_by_name(request):
    return own_sync(request=request)

async def me(request):
    return JsonResponse({"user": request.user.identity, "same": (await request.auser()) is request.user})

urlpatterns = [
    path("orders", orders), path("sync", sync), path("own", own), path("me", me),
    path("class", Orders.as_view()), path("async-class", AsyncOrders.as_view()),
    path("decorated", Decorated.as_view()), path("async-decorated", AsyncDecorated.as_view()),
    path("methods", Methods.as_view()), path("async-methods", AsyncMethods.as_view()),
    path("async-dispatch", AsyncDispatch.as_view()), path("by-name", by_name), path("sync-by-name", sync_by_name),
]
app = JWTMiddleware(django_app, **options)
""",
    "blacksheep": """
from blacksheep import Application, Request, WebSocket, get, ws
from jwt_middleware.blacksheep import requires as blacksheep_requires

blacksheep_app = Application()

@get("/orders")
@requires("orders:read")
async def orders(request: Request):
    return ["an order"]

@get("/sync")
@requires("orders:read")
def sync(request):
    return ["an order"]

@get("/own/{number}")
@blacksheep_requires("orders:read")
def own(number: int, request: Request):
    return [number, request.scope["user"].identity]

@get("/unannotated")
@blacksheep_requires("orders:read")
async def unannotated(request):
    return [request.scope["user"].identity]

@ws("/feed")
@requires("orders:read")
async def feed(socket: WebSocket):
    await socket.accept()
    await socket.close()

app = JWTMiddleware(blacksheep_app, **options)
""",
    "quart": """
from quart import Quart
from jwt_middleware.quart import requires

quart_app = Quart(__name__)

@quart_app.get("/orders")
@requires("orders:read")
def orders():
    return ["an order"]

app = JWTMiddleware(quart_app, **options)
""",
}

# One middleware that is not async is enough: Django then calls those around it without await.
PROGRAMS["django beside a sync middleware"] = (
    PROGRAMS["django"]
    .replace(
        """["jwt_middleware.django.UserMiddleware"]""", """["jwt_middleware.django.UserMiddleware", "main.plain"]"""
    )
    .replace(
        "settings.configure(",
        """
def plain(get_response):
    return lambda request: get_response(request)

settings.configure(""",
    )
)


@pytest.fixture(scope="module")
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    framework = request.param.split()[0]
    with served(framework, HEAD + PROGRAMS[request.param], tmp_path_factory.mktemp("app")) as running:
        yield running


@pytest.mark.parametrize(
    ("app", "path"),
    [
        *(("litestar", path) for path in ("/orders", "/sync")),
        *(("django", path) for path in ("/orders", "/sync", "/own", "/class", "/async-class")),
        *(("django", path) for path in ("/decorated", "/async-decorated", "/methods", "/async-methods")),
        *(("django", path) for path in ("/async-dispatch", "/by-name", "/sync-by-name")),
        *(("blacksheep", path) for path in ("/orders", "/sync")),
        ("quart", "/orders"),
    ],
    indirect=["app"],
)
def test_a_function_is_guarded_by_the_request_that_its_framework_passes(app: Served, path: str) -> None:
    assert app.client.get(path, headers=READER).json() == ["an order"]
    anonymous, other = app.client.get(path), app.client.get(path, headers=OTHER)
    assert (anonymous.status_code, anonymous.headers["www-authenticate"]) == (401, 'Bearer realm="api"')
    assert (other.status_code, other.headers["www-authenticate"]) == (403, CHALLENGE)


@pytest.mark.parametrize("app", ["django"], indirect=True)
@pytest.mark.parametrize("path", ["/methods", "/async-methods"])
def test_a_method_of_a_django_view_is_guarded(app: Served, path: str) -> None:
    assert app.client.post(path, headers=READER).json() == ["an order"]
    anonymous, other = app.client.post(path), app.client.post(path, headers=OTHER)
    assert (anonymous.status_code, other.status_code) == (401, 403)


@pytest.mark.parametrize("app", ["litestar", "blacksheep"], indirect=True)
def test_a_websocket_of_another_framework_is_guarded(app: Served) -> None:
    with app.websocket("/feed", additional_headers=READER):
        pass
    with pytest.raises(InvalidStatus), app.websocket("/feed", additional_headers=OTHER):
        pass


@pytest.mark.parametrize("app", ["blacksheep"], indirect=True)
def test_a_blacksheep_handler_gets_what_it_asks_for(app: Served) -> None:
    assert app.client.get("/own/5", headers=READER).json() == [5, "ada"]
    assert app.client.get("/unannotated", headers=READER).json() == ["ada"]
    assert app.client.get("/own/5", headers=OTHER).status_code == 403


@pytest.mark.parametrize("app", ["django", "django beside a sync middleware"], indirect=True)
def test_a_django_view_sees_its_user_without_djangos_own(app: Served) -> None:
    assert app.client.get("/me", headers=READER).json() == {"user": "ada", "same": True}
    assert app.client.get("/me").json() == {"user": "", "same": True}


def test_django_without_asgi_is_an_error_and_not_a_way_in() -> None:
    from jwt_middleware.django import requires

    @requires("orders:read")
    def view(request: Any) -> None:
        raise AssertionError("the view was reached")

    with pytest.raises(RuntimeError, match="put JWTMiddleware around get_asgi_application"):
        view(object())


@pytest.mark.parametrize(
    ("authorization", "code", "reason"),
    [
        pytest.param({}, 3000, "missing_token", id="anonymous"),
        pytest.param(OTHER, 3003, "insufficient_scope", id="without the scope"),
    ],
)
def test_quart_closes_a_websocket_with_our_code_if_the_server_cannot_deny_it(
    authorization: dict[str, str], code: int, reason: str
) -> None:
    from quart import Quart

    from jwt_middleware.quart import requires

    quart_app = Quart(__name__)

    @quart_app.websocket("/feed")
    @requires("orders:read")
    async def feed() -> None:
        raise AssertionError("the handler was reached")

    inside: Any = quart_app
    guarded = JWTMiddleware(inside, key=SECRET, audience="orders", allow_anonymous=True)

    async def on_such_a_server(scope: Scope, receive: Receive, send: Send) -> None:
        # Version 2.3 of ASGI for WebSockets brought the reason.
        older = {**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}
        del older["extensions"]
        await guarded(older, receive, send)

    with (
        pytest.raises(WebSocketDisconnect) as closed,
        bare_client(on_such_a_server).websocket_connect("/feed", headers=authorization),
    ):
        pass
    assert (closed.value.code, closed.value.reason) == (code, reason)


def define(source: str) -> None:
    """Run ``source`` as a module of an app."""
    module = ModuleType("an_app")
    module.__dict__["requires"] = __import__("jwt_middleware").requires
    exec(source, module.__dict__)


@pytest.mark.parametrize(
    ("source", "instead"),
    [
        pytest.param("from quart import Quart\n@requires()\nasync def view(): ...", "jwt_middleware.quart", id="Quart"),
        pytest.param(
            "from litestar import get\n@requires()\nasync def handler(n: int) -> None: ...",
            r"guards=\[requires",
            id="Litestar, without a request",
        ),
        pytest.param(
            "from blacksheep import get\n@requires()\nasync def handler(n: int): ...",
            "jwt_middleware.blacksheep",
            id="BlackSheep, without a request",
        ),
        pytest.param(
            "import strawberry\n@requires()\ndef field(self) -> str: ...", r"permission_classes=\[", id="Strawberry"
        ),
        pytest.param(
            "import strawberry\nfrom starlette.routing import Route\n"
            "@requires()\ndef field(root, info: strawberry.Info) -> str: ...",
            r"permission_classes=\[",
            id="Strawberry, by its info",
        ),
        pytest.param(
            "from mcp.server.mcpserver import MCPServer\n@requires()\ndef tool(name: str) -> str: ...",
            "require_scopes of jwt_middleware.mcp",
            id="the SDK of MCP",
        ),
        pytest.param(
            "from fastmcp import FastMCP\n@requires()\ndef tool() -> str: ...", "fastmcp.server.auth", id="FastMCP"
        ),
        pytest.param(
            "from ariadne import QueryType\n@requires()\ndef field(_, info): ...", r"info\.context", id="Ariadne"
        ),
        pytest.param(
            "import falcon.asgi\n@requires()\nasync def on_get(self, request, response): ...",
            r"request\.scope",
            id="Falcon",
        ),
        pytest.param("import socketio\n@requires()\nasync def me(sid): ...", "get_session", id="Socket.IO"),
        pytest.param(
            "import rest_framework\n@requires()\ndef view(request): ...",
            "jwt_middleware.django",
            id="Django REST framework",
        ),
        pytest.param(
            "from django.utils.decorators import method_decorator\nfrom django.views import View\n"
            "@method_decorator(requires(), name='dispatch')\nclass Orders(View): ...",
            "jwt_middleware.django",
            id="Django, by method_decorator",
        ),
        pytest.param("import sanic\n@requires()\nasync def handler(n: int): ...", "request.transport", id="Sanic"),
    ],
)
def test_a_function_that_gets_no_scope_says_at_decoration_what_to_write(
    source: str, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One is not among our test dependencies, and the other wants its settings.
    for name in ("sanic", "rest_framework"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(TypeError, match=instead):
        define(source)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import strawberry\n@requires()\nasync def endpoint(request): ...", id="an unannotated request"),
        pytest.param(
            "import strawberry\nfrom fastapi import FastAPI\n@requires()\nasync def endpoint(n: int): ...",
            id="a module with FastAPI, too",
        ),
        pytest.param("from quart import request\n@requires()\nasync def endpoint(request): ...", id="a proxy"),
        pytest.param("import socketio\n@requires()\nasync def app(scope, receive, send): ...", id="an ASGI app"),
    ],
)
def test_a_module_may_use_another_framework_beside_starlette(source: str) -> None:
    define(source)


@pytest.mark.parametrize(
    ("source", "instead"),
    [
        pytest.param("from django.views import View as Base", "use requires of jwt_middleware.django", id="Django"),
        pytest.param("from litestar import Controller as Base", r"guards = \[requires", id="Litestar"),
        pytest.param("from quart.views import MethodView as Base", r"decorators = \[requires", id="Quart"),
        pytest.param(
            "from channels.generic.websocket import AsyncJsonWebsocketConsumer as Base", "as_asgi", id="Channels"
        ),
        pytest.param(
            "from blacksheep.server.controllers import Controller as Base", "guard its handlers", id="BlackSheep"
        ),
        pytest.param("class Base: ...", "is not one", id="no framework"),
    ],
)
def test_a_class_that_cannot_be_guarded_says_at_decoration_what_to_write(source: str, instead: str) -> None:
    with pytest.raises(TypeError, match=instead):
        define(f"{source}\n@requires()\nclass Orders(Base): ...")


def test_a_class_is_no_handler() -> None:
    from blacksheep.server.controllers import Controller
    from quart.views import MethodView

    from jwt_middleware import blacksheep, quart

    class Orders(Controller): ...

    class Order(MethodView): ...

    with pytest.raises(TypeError, match="guard its handlers"):
        blacksheep.requires("orders:read")(Orders)
    with pytest.raises(TypeError, match=r"decorators = \[requires"):
        quart.requires("orders:read")(Order)


@pytest.mark.parametrize("guard", ["jwt_middleware", "jwt_middleware.blacksheep"])
@pytest.mark.parametrize("route", ["Router().get('/orders')", "Router().ws('/orders')"])
def test_a_guard_above_the_decorator_of_blacksheep_says_that_it_guards_nothing(guard: str, route: str) -> None:
    head = f"from blacksheep import Request, Router\nfrom {guard} import requires\n"
    with pytest.raises(TypeError, match="place it below"):
        define(f"{head}@requires()\n@{route}\nasync def orders(request: Request): ...")
    define(f"{head}@{route}\n@requires()\nasync def others(request: Request): ...")


@pytest.mark.parametrize("route", ["get('/orders')", "websocket('/orders')"])
def test_a_guard_above_the_decorator_of_quart_says_that_it_guards_nothing(route: str) -> None:
    head = "from quart import Quart, request\nfrom jwt_middleware.quart import requires\nclass App(Quart): ...\n"
    head += "other, app = Quart('other'), App('app')\n"
    with pytest.raises(TypeError, match="place it below"):
        define(f"{head}@requires()\n@app.{route}\nasync def orders(): ...")
    define(f"{head}@app.{route}\n@requires()\nasync def orders(): ...")
