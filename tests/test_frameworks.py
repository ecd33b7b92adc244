from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Security
from fastapi.security import OAuth2PasswordBearer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import JWTMiddleware
from jwt_middleware import requires as our_requires

from .support import NOW, SECRET, bare_client, bearer, client, token

OPTIONS: dict[str, Any] = {"key": SECRET, "audience": "orders", "clock": lambda: NOW}
ORIGIN = "https://app.example"


def me(request: Request) -> Response:
    return JSONResponse(request.user.identity)


# Starlette


def test_it_stands_in_starlettes_list_of_middleware(backend: str) -> None:
    app = Starlette(routes=[Route("/me", me)], middleware=[Middleware(JWTMiddleware, **OPTIONS)])
    with bare_client(app, backend=backend) as service:
        assert service.get("/me", headers=bearer(token())).json() == "ada"
        assert service.get("/me").status_code == 401


def test_it_stands_in_front_of_some_routes_only() -> None:
    guarded = [Middleware(JWTMiddleware, **OPTIONS)]
    app = Starlette(
        routes=[
            Route("/free", lambda request: PlainTextResponse("free")),
            Mount("/api", routes=[Route("/me", me)], middleware=guarded),
            Route("/me", me, middleware=guarded),
        ]
    )
    service = bare_client(app)
    assert service.get("/free").text == "free"
    for path in ("/api/me", "/me"):
        assert service.get(path).status_code == 401
        assert service.get(path, headers=bearer(token())).json() == "ada"


@requires("orders:write")
async def starlettes_async(request: Request) -> Response:
    return PlainTextResponse("written")


@requires(["authenticated", "orders:write"])
def starlettes_all(request: Request) -> Response:
    return PlainTextResponse("written")


@requires("orders:write")
async def starlettes_websocket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("written")
    await websocket.close()


def test_starlettes_requires_works_on_our_credentials(backend: str) -> None:
    app = Starlette(routes=[Route("/", starlettes_async), WebSocketRoute("/feed", starlettes_websocket)])
    service = client(app, allow_anonymous=True, backend=backend)
    assert service.get("/").status_code == 403
    assert service.get("/", headers=bearer(token(scope="orders:read"))).status_code == 403
    assert service.get("/", headers=bearer(token())).text == "written"
    with service.websocket_connect("/feed", headers=bearer(token())) as connection:
        assert connection.receive_text() == "written"
    with pytest.raises(WebSocketDisconnect), service.websocket_connect("/feed"):
        pass


def test_only_the_tokens_own_scopes_count_for_starlettes_requires() -> None:
    service = client(Starlette(routes=[Route("/", starlettes_all)]))
    assert service.get("/", headers=bearer(token())).status_code == 403
    assert service.get("/", headers=bearer(token(scope="authenticated orders:write"))).text == "written"


# Tracing


@pytest.mark.parametrize(
    ("path", "route"),
    [("/orders/5", "/orders/{id}"), ("/api/orders/5", "/api/orders/{id}")],
    ids=["route", "route in a mount"],
)
def test_tracing_outside_of_us_sees_the_route(path: str, route: str, backend: str) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    routes = [Route("/orders/{id}", me), Mount("/api", routes=[Route("/orders/{id}", me)])]
    traced = OpenTelemetryMiddleware(JWTMiddleware(Starlette(routes=routes), **OPTIONS), tracer_provider=provider)
    service = bare_client(traced, backend=backend)
    assert service.get(path, headers=bearer(token())).status_code == 200
    assert service.get(path).status_code == 401
    passed, refused = spans.get_finished_spans()
    assert (passed.name, (passed.attributes or {})["http.route"]) == (f"GET {route}", route)
    assert (refused.attributes or {})["http.response.status_code"] == 401


# CORS


def cors(app: ASGIApp) -> CORSMiddleware:
    return CORSMiddleware(
        app, allow_origins=[ORIGIN], allow_headers=["authorization"], expose_headers=["www-authenticate"]
    )


PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "GET",
    "access-control-request-headers": "authorization",
}


def test_cors_outside_of_us_answers_preflights_and_shows_our_refusals_to_browsers(backend: str) -> None:
    service = bare_client(cors(JWTMiddleware(Starlette(routes=[Route("/me", me)]), **OPTIONS)), backend=backend)
    preflight = service.options("/me", headers=PREFLIGHT)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, ORIGIN)
    refused = service.get("/me", headers={"origin": ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
    assert refused.headers["access-control-expose-headers"] == "www-authenticate"
    assert refused.headers["www-authenticate"] == 'Bearer realm="api"'
    passed = service.get("/me", headers={"origin": ORIGIN, **bearer(token())})
    assert (passed.json(), passed.headers["access-control-allow-origin"]) == ("ada", ORIGIN)


def test_cors_inside_of_us_answers_preflights_where_they_may_pass() -> None:
    service = client(cors(Starlette(routes=[Route("/me", me)])), allow_preflight=True)
    preflight = service.options("/me", headers=PREFLIGHT)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert service.get("/me", headers={"origin": ORIGIN}).status_code == 401


# Other middleware, on either side


class Marking(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-user"] = request.user.identity if "user" in request.scope else "not seen"
        return response


def long(request: Request) -> Response:
    return PlainTextResponse(f"{request.user.identity} " * 1000)


LONG = "ada " * 1000


@pytest.mark.parametrize("middleware", [GZipMiddleware, Marking], ids=["GZip", "BaseHTTPMiddleware"])
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "inside"])
def test_it_gets_along_with_other_middleware(middleware: Any, outside: bool, backend: str) -> None:
    stack = [Middleware(middleware), Middleware(JWTMiddleware, **OPTIONS)]
    app = Starlette(routes=[Route("/", long)], middleware=stack if outside else stack[::-1])
    service = bare_client(app, backend=backend)
    refused = service.get("/")
    assert (refused.status_code, refused.json()["code"]) == (401, "missing_token")
    passed = service.get("/", headers=bearer(token()))
    assert (passed.status_code, passed.text) == (200, LONG)
    if middleware is Marking:
        assert passed.headers["x-user"] == "ada"
        # Outside, the refused request has no user yet; inside, there is no such request.
        assert refused.headers.get("x-user") == ("not seen" if outside else None)
    else:
        assert passed.headers["content-encoding"] == "gzip"


# FastAPI

token_url = OAuth2PasswordBearer(
    tokenUrl="/auth/login", auto_error=False, scopes={"orders:write": "Create and change orders"}
)


def fastapi() -> FastAPI:
    app = FastAPI(dependencies=[Security(token_url)])
    app.add_middleware(JWTMiddleware, **OPTIONS, public=["/openapi.json", "/docs"])

    @app.get("/me")
    async def read_me(request: Request) -> str:
        identity: str = request.user.identity
        return identity

    @app.post("/orders", dependencies=[Security(token_url, scopes=["orders:write"])])
    @our_requires("orders:write")
    async def write_order(item: Annotated[str, "any"]) -> str:
        return item

    return app


def test_it_stands_in_fastapis_list_of_middleware(backend: str) -> None:
    with bare_client(fastapi(), backend=backend) as service:
        assert service.get("/me").json()["code"] == "missing_token"
        assert service.get("/me", headers=bearer(token())).json() == "ada"
        assert service.post("/orders?item=book", headers=bearer(token())).json() == "book"
        assert service.post("/orders?item=book", headers=bearer(token(scope=None))).status_code == 403


def test_fastapis_documentation_has_its_authorize_button() -> None:
    service = bare_client(fastapi())
    schema = service.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["OAuth2PasswordBearer"]["flows"]["password"] == {
        "tokenUrl": "/auth/login",
        "scopes": {"orders:write": "Create and change orders"},
    }
    assert {"OAuth2PasswordBearer": []} in schema["paths"]["/me"]["get"]["security"]
    assert {"OAuth2PasswordBearer": ["orders:write"]} in schema["paths"]["/orders"]["post"]["security"]
    assert service.get("/docs").status_code == 200


def test_fastapis_own_errors_stay_its_own() -> None:
    service = bare_client(fastapi())
    assert service.get("/nowhere").status_code == 401
    assert service.get("/nowhere", headers=bearer(token())).json() == {"detail": "Not Found"}
    assert service.post("/orders", headers=bearer(token())).status_code == 422


# No framework


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["user"].identity})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["user"].identity.encode()})


def test_it_wraps_an_app_of_no_framework(backend: str) -> None:
    service = client(plain, backend=backend)
    assert service.get("/", headers=bearer(token())).text == "ada"
    assert service.get("/").status_code == 401
    with service.websocket_connect("/", headers=bearer(token())) as connection:
        assert connection.receive_text() == "ada"


def test_an_app_without_lifespan_stays_without() -> None:
    async def raising(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")
        await plain(scope, receive, send)

    service: TestClient = client(raising)
    with pytest.raises(ValueError, match="not lifespan"), service:
        pass
    assert service.get("/", headers=bearer(token())).text == "ada"
