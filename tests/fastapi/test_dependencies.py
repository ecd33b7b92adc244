"""What the dependencies give, whom they refuse, and when."""

import gc
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import pytest
from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, Form, Request, Security, UploadFile, WebSocket
from fastapi.dependencies.models import Dependant
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.authentication import AuthCredentials
from starlette.datastructures import UploadFile as StarletteUploadFile
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from jwt_middleware import (
    ConfigurationError,
    JWTMiddleware,
    JWTUser,
    Provider,
    ProviderResolver,
    Refusal,
    Token,
    requires,
)
from jwt_middleware.errors import UserRefused
from jwt_middleware.fastapi import Auth
from jwt_middleware.fastapi.auth import MiddlewareOptions
from jwt_middleware.issuing import TokenIssuer
from jwt_middleware.provider import ProviderOptions

from ..support import NOW, SECRET, bare_client, bearer, token
from .apps import READER, WRITER, make_auth, serve

auth = make_auth()
Caller = Annotated[JWTUser, Depends(auth)]
Reader = Annotated[JWTUser, Security(auth, scopes=["orders:read"])]
Writer = Annotated[JWTUser, Security(auth, scopes=["orders:write"])]


# What they give


def test_each_gives_what_its_type_says(backend: str) -> None:
    def declare(app: FastAPI) -> None:
        @app.get("/")
        def read(
            request: Request,
            user: Caller,
            token: Annotated[Token, Depends(auth.token)],
            guest: Annotated[JWTUser | None, Depends(auth.optional)],
            one: Annotated[JWTUser, Security(auth.any_of("orders:read", "admin"))],
        ) -> str:
            assert user is guest is one is request.user
            assert user.token is token is request.auth.token
            return str(token.subject)

    service = serve(auth, declare, backend=backend)
    assert service.get("/", headers=READER).json() == "ada"
    assert service.get("/").json()["code"] == "missing_token"


def test_a_route_that_returns_its_user_or_its_token_sends_no_claims() -> None:
    def declare(app: FastAPI) -> None:
        @app.get("/user", response_model=None)
        async def user(user: Annotated[JWTUser | None, Depends(auth.optional)]) -> Any:
            return user or JWTUser(None)

        @app.get("/all", response_model=None)
        async def everything(caller: Caller, verified: Annotated[Token, Depends(auth.token)]) -> Any:
            return {"callers": [caller], "token": verified}

    client = serve(auth, declare, public=["/user"])
    ada = bearer(token(scope="orders:read", name="Ada", email="ada@example.org"))
    user = {"identity": "ada", "display_name": "Ada", "scopes": ["orders:read"]}
    assert client.get("/user", headers=ada).json() == user
    assert client.get("/user").json() == {"identity": None, "display_name": "", "scopes": []}
    assert client.get("/all", headers=ada).json() == {
        "callers": [user],
        "token": {
            "provider": "jwt",
            "issuer": None,
            "subject": "ada",
            "scopes": ["orders:read"],
            "expires_at": NOW + 900,
        },
    }


def test_the_user_of_load_user_is_what_auth_gives() -> None:
    class User:
        name = "Ada"

    loading = make_auth(load_user=lambda token: User())

    def declare(app: FastAPI) -> None:
        @app.get("/")
        def read(
            user: Annotated[User, Depends(loading)], guest: Annotated[User | None, Depends(loading.optional)]
        ) -> str:
            assert user is guest
            return user.name

    assert serve(loading, declare).get("/", headers=READER).json() == "Ada"


def test_a_websocket_has_them_too(backend: str) -> None:
    def declare(app: FastAPI) -> None:
        @app.websocket("/live")
        async def live(socket: WebSocket, user: Writer, token: Annotated[Token, Depends(auth.token)]) -> None:
            await socket.accept()
            await socket.send_text(f"{user.identity} {token.subject}")
            await socket.close()

    service = serve(auth, declare, backend=backend)
    with service.websocket_connect("/live", headers=WRITER) as connection:
        assert connection.receive_text() == "ada ada"
    for headers, status in ((READER, 403), ({}, 401)):
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            service.websocket_connect("/live", headers=headers),
        ):
            pass
        assert denied.value.status_code == status


def test_a_websocket_that_was_accepted_is_closed_by_a_refusal() -> None:
    async def accept(socket: WebSocket) -> None:
        await socket.accept()

    def declare(app: FastAPI) -> None:
        @app.websocket("/live", dependencies=[Depends(accept), Security(auth, scopes=["orders:write"])])
        async def live(socket: WebSocket) -> None:
            raise AssertionError("it was refused")

        async def close(socket: WebSocket) -> None:
            await socket.accept()
            await socket.close()

        @app.websocket("/closed", dependencies=[Depends(close), Security(auth, scopes=["orders:write"])])
        async def closed(socket: WebSocket) -> None:
            raise AssertionError("it was refused")

    service = serve(auth, declare)
    with (
        service.websocket_connect("/live", headers=READER) as connection,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        connection.receive_text()
    assert (closed.value.code, closed.value.reason) == (3003, "insufficient_scope")
    with service.websocket_connect("/closed", headers=READER) as connection, pytest.raises(WebSocketDisconnect):
        connection.receive_text()


def test_they_are_stable_and_comparable() -> None:
    assert auth.token is auth.token
    assert auth.optional is auth.optional
    assert auth.any_of("a", "b") == auth.any_of("b", "a", "b")
    assert hash(auth.any_of("a", "b")) == hash(auth.any_of("b", "a"))
    assert auth.any_of("a", "b") != auth.any_of("a")
    assert auth.any_of("a") != make_auth().any_of("a")
    assert len({auth, auth.token, auth.optional, auth.any_of("a")}) == 4


@pytest.mark.parametrize(
    ("scopes", "message"),
    [((), "must name a scope"), ((7,), "not int"), (("",), "names of scopes"), ((["a"],), "list")],
)
def test_any_of_takes_the_names_of_scopes(scopes: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        auth.any_of(*scopes)


# Whom they refuse


@pytest.mark.parametrize(
    ("scope", "refused"),
    [
        ("orders:write admin", None),
        ("orders:write auditor other", None),
        # All that the request needs: clients ask for what is named, and for nothing else.
        ("orders:write", "orders:write admin"),
        ("auditor", "orders:write auditor"),
        (None, "orders:write admin"),
    ],
)
def test_any_of_is_demanded_beside_the_scopes_of_the_route(scope: str | None, refused: str | None) -> None:
    def declare(app: FastAPI) -> None:
        @app.get("/", dependencies=[Security(auth.any_of("admin", "auditor"), scopes=["orders:write"])])
        def read() -> str:
            return "read"

    response = serve(auth, declare).get("/", headers=bearer(token(scope=scope)))
    assert response.status_code == (200 if refused is None else 403)
    if refused is not None:
        assert response.headers["www-authenticate"].endswith(f'scope="{refused}"')


def test_any_of_refuses_an_anonymous_request_on_a_public_path() -> None:
    def declare(app: FastAPI) -> None:
        @app.get("/", dependencies=[Security(auth.any_of("admin"))])
        def read() -> str:
            return "read"

    assert serve(auth, declare, public=["/"]).get("/").json()["code"] == "missing_token"


def test_scopes_add_up_through_nested_securities() -> None:
    async def current(user: Annotated[JWTUser, Security(auth, scopes=["a"])]) -> JWTUser:
        return user

    async def editor(user: Annotated[JWTUser, Security(current, scopes=["b"])]) -> JWTUser:
        return user

    def declare(app: FastAPI) -> None:
        @app.get("/")
        def read(user: Annotated[JWTUser, Security(editor, scopes=["c"])]) -> str:
            return user.identity

    service = serve(auth, declare)
    assert service.get("/", headers=bearer(token(scope="a b c"))).json() == "ada"
    for scope in ("b c", "a c", "a b"):
        assert service.get("/", headers=bearer(token(scope=scope))).status_code == 403


def test_an_optional_guard_with_scopes_refuses_who_lacks_them() -> None:
    def declare(app: FastAPI) -> None:
        @app.get("/")
        def read(user: Annotated[JWTUser | None, Depends(auth.optional)]) -> Any:
            return user and user.identity

        @app.get("/writers")
        def write(user: Annotated[JWTUser | None, Security(auth.optional, scopes=["orders:write"])]) -> Any:
            return user and user.identity

    service = serve(auth, declare, public=["/*"])
    assert service.get("/").json() is None
    assert service.get("/", headers=READER).json() == "ada"
    assert service.get("/writers", headers=WRITER).json() == "ada"
    assert service.get("/writers", headers=READER).status_code == 403
    assert service.get("/writers").status_code == 401


def test_a_refusal_of_an_apps_own_dependency_is_answered_as_the_middlewares(caplog: pytest.LogCaptureFixture) -> None:
    async def current(token: Annotated[Token, Depends(auth.token)]) -> str:
        raise UserRefused

    class Suspended(Refusal):
        code = "suspended"
        status = 403
        description = "The account is suspended."

    async def suspended(token: Annotated[Token, Depends(auth.token)]) -> str:
        raise Suspended

    def declare(app: FastAPI) -> None:
        @app.get("/", dependencies=[Depends(current)])
        def read() -> None: ...

        @app.get("/suspended", dependencies=[Depends(suspended)])
        def read_suspended() -> None: ...

    caplog.set_level("INFO")
    service = serve(auth, declare)
    refused = service.get("/", headers=READER)
    assert (refused.status_code, refused.json()["code"]) == (401, "user_refused")
    assert refused.headers["www-authenticate"].startswith('Bearer realm="api", error="invalid_token"')
    assert service.get("/suspended", headers=READER).json()["code"] == "suspended"
    for code in ("user_refused", "suspended"):
        assert f"{code} (provider=jwt, subject=ada)" in caplog.text


def test_refusals_are_answered_as_configured() -> None:
    def respond(connection: Any, refusal: Refusal) -> PlainTextResponse:
        return PlainTextResponse(f"no: {refusal.code} {connection.url.path}", refusal.status)

    custom = make_auth(realm="orders", refusal_response=respond)

    def declare(app: FastAPI) -> None:
        @app.post("/", dependencies=[Security(custom, scopes=["x"])])
        def write(order: Annotated[str, Body()]) -> None: ...

        @app.get("/")
        def read(user: Annotated[JWTUser, Security(custom, scopes=["x"])]) -> None: ...

    service = serve(custom, declare)
    for method in ("GET", "POST"):
        response = service.request(method, "/", headers=READER)
        assert (response.status_code, response.text) == (403, "no: insufficient_scope /")
        assert 'realm="orders"' in response.headers["www-authenticate"]


def test_refusals_are_answered_in_a_mounted_app_that_was_not_installed() -> None:
    child = FastAPI()

    async def current(token: Annotated[Token, Depends(auth.token)]) -> str:
        raise UserRefused

    @child.get("/writers")
    def write(user: Writer) -> None: ...

    @child.post("/writers")
    def post(user: Writer, order: Annotated[str, Body()]) -> None: ...

    @child.get("/me")
    def me(user: Annotated[str, Depends(current)]) -> None: ...

    @child.websocket("/live")
    async def live(socket: WebSocket, user: Writer) -> None: ...

    service = serve(auth, lambda app: app.mount("/child", child))
    for method in ("GET", "POST"):
        refused = service.request(method, "/child/writers", headers=READER)
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
        assert refused.headers["www-authenticate"].endswith('scope="orders:write"')
    assert service.get("/child/me", headers=READER).json()["code"] == "user_refused"
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        service.websocket_connect("/child/live", headers=READER),
    ):
        pass
    assert denied.value.status_code == 403


@pytest.mark.parametrize("by", ["mount", "nested mount", "host"])
def test_a_mounted_app_refuses_before_it_reads_anything_with_the_configured_answer(by: str) -> None:
    custom = make_auth(refusal_response=lambda connection, refusal: PlainTextResponse(f"no: {refusal.code}", 403))
    child, between = FastAPI(), FastAPI()
    between.mount("/child", child)

    @child.post("/upload")
    def upload(user: Annotated[JWTUser, Security(custom, scopes=["x"])], file: UploadFile) -> None: ...

    @child.post("/orders")
    def order(user: Annotated[JWTUser, Security(custom, scopes=["x"])], item: Annotated[str, Body()]) -> None: ...

    def declare(app: FastAPI) -> None:
        app.mount("/child", child)
        app.mount("/nested", between)
        app.host("child.example", child)

    prefix = {"mount": "/child", "nested mount": "/nested/child", "host": ""}[by]
    service = serve(custom, declare, public=["/*"] if by == "mount" else [])
    for path, kind in (("/upload", "multipart/form-data"), ("/orders", "application/json")):
        headers = {**READER, "host": "child.example" if by == "host" else "testserver", "content-type": kind}
        refused = service.post(f"{prefix}{path}", content=b"{", headers=headers)
        assert refused.text == "no: insufficient_scope"


def test_an_apps_own_handler_of_refusals_is_kept() -> None:
    app = FastAPI()

    @app.exception_handler(Refusal)
    async def handle(request: Request, refusal: Refusal) -> PlainTextResponse:
        return PlainTextResponse(f"mine: {refusal.code}", 403)

    auth.install(app)

    @app.get("/")
    def read(user: Writer) -> None: ...

    assert bare_client(app).get("/", headers=READER).text == "mine: insufficient_scope"


def test_a_refusal_behind_the_credentials_of_another_is_not_answered_in_our_name() -> None:
    async def current(request: Request) -> None:
        request.scope["auth"] = AuthCredentials(["another"])
        raise UserRefused

    def declare(app: FastAPI) -> None:
        @app.get("/", dependencies=[Depends(current)])
        def read() -> None: ...

    with pytest.raises(UserRefused):
        serve(auth, declare).get("/", headers=READER)


@pytest.mark.parametrize("wrapped", [None, "JWTMiddleware", "another Auth"])
def test_without_the_middleware_in_front_they_say_so(wrapped: str | None) -> None:
    app = FastAPI()

    @app.get("/")
    def read(user: Caller) -> None: ...

    if wrapped == "JWTMiddleware":
        app.add_middleware(JWTMiddleware, key="a secret of thirty-two bytes, yes", audience="orders", clock=auth.clock)
    elif wrapped == "another Auth":
        make_auth().install(app)
    with pytest.raises(RuntimeError, match=r"auth\.install\(app\)"):
        bare_client(app).get("/", headers=READER)


# When


class Trace:
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self) -> AsyncIterator[None]:
        self.seen.append("side effect")
        yield


def test_401_precedes_everything() -> None:
    trace = Trace()

    def declare(app: FastAPI) -> None:
        @app.post("/orders/{id}", dependencies=[Depends(trace)])
        def write(id: int, user: Writer, order: Annotated[int, Body(embed=True)]) -> None: ...

    service = serve(auth, declare)
    assert service.post("/orders/x", content="{", headers={"content-type": "application/json"}).status_code == 401
    assert service.post("/orders/x", headers=bearer("x")).status_code == 401
    assert service.get("/nowhere").status_code == 401
    assert trace.seen == []


@pytest.mark.parametrize("where", ["route", "router", "include"])
def test_403_precedes_validation_and_side_effects_where_the_guard_stands_above(where: str) -> None:
    trace = Trace()
    guard = [Security(auth, scopes=["orders:write"])]
    router = APIRouter(dependencies=guard if where == "router" else [])

    @router.get("/orders/{id}", dependencies=guard if where == "route" else [])
    def read(id: int, traced: Annotated[None, Depends(trace)], limit: int) -> None: ...

    service = serve(auth, lambda app: app.include_router(router, dependencies=guard if where == "include" else []))
    assert service.get("/orders/x", headers=READER).status_code == 403
    assert trace.seen == []
    assert service.get("/orders/x", headers=WRITER).status_code == 422
    assert trace.seen == ["side effect"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"content": "{", "headers": {"content-type": "application/json"}}, id="malformed JSON"),
        pytest.param({"json": {"order": "x"}}, id="invalid JSON"),
        pytest.param({"json": {"order": 1}}, id="good JSON"),
    ],
)
@pytest.mark.parametrize("where", ["signature", "route", "router", "nested"])
def test_403_precedes_the_reading_of_the_body(where: str, body: dict[str, Any], backend: str) -> None:
    trace = Trace()
    guard = Security(auth, scopes=["orders:write"])

    async def current(user: Caller) -> JWTUser:
        return user

    router = APIRouter(prefix="/api", dependencies=[guard] if where == "router" else [])
    if where == "signature":

        @router.post("/orders", dependencies=[Depends(trace)])
        def write(order: Annotated[int, Body(embed=True)], user: Writer) -> None: ...

    elif where == "nested":

        @router.post("/orders", dependencies=[Depends(trace), Security(current, scopes=["orders:write"])])
        def write_nested(order: Annotated[int, Body(embed=True)]) -> None: ...

    else:

        @router.post("/orders", dependencies=[Depends(trace), *([guard] if where == "route" else [])])
        def write_guarded(order: Annotated[int, Body(embed=True)]) -> None: ...

    service = serve(auth, lambda app: app.include_router(router), backend=backend)
    headers = body.pop("headers", {})
    refused = service.post("/api/orders", headers={**headers, **READER}, **body)
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert trace.seen == []
    passed = service.post("/api/orders", headers={**headers, **WRITER}, **body)
    assert passed.status_code == (200 if body.get("json") == {"order": 1} else 422)


@pytest.mark.parametrize("kind", ["form", "upload"])
def test_403_precedes_the_reading_of_forms_and_uploads(kind: str) -> None:
    def declare(app: FastAPI) -> None:
        @app.post("/form")
        def form(name: Annotated[str, Form()], user: Writer) -> str:
            return name

        @app.post("/upload")
        def upload(file: UploadFile, user: Writer) -> str:
            return str(file.filename)

    service = serve(auth, declare)
    broken = {"content-type": "multipart/form-data"}
    assert service.post(f"/{kind}", content=b"broken", headers={**broken, **READER}).status_code == 403
    assert service.post(f"/{kind}", content=b"broken", headers={**broken, **WRITER}).status_code == 400
    assert service.post("/form", data={"name": "x"}, headers=WRITER).json() == "x"
    assert service.post("/upload", files={"file": ("x", b"y")}, headers=WRITER).json() == "x"


@pytest.mark.parametrize("method", ["GET", "DELETE", "QUERY"])
def test_403_precedes_the_reading_of_the_body_whatever_the_method(method: str) -> None:
    def declare(app: FastAPI) -> None:
        @app.api_route("/orders", methods=[method])
        def find(user: Writer, order: Annotated[int, Body(embed=True)]) -> int:
            return order

    service = serve(auth, declare)
    kind = {"content-type": "application/json"}
    assert service.request(method, "/orders", content="{", headers={**kind, **READER}).status_code == 403
    assert service.request(method, "/orders", content="{", headers={**kind, **WRITER}).status_code == 422
    assert service.request(method, "/orders", json={"order": 1}, headers=WRITER).json() == 1


def test_403_precedes_the_reading_of_the_body_in_an_app_that_is_mounted_in_an_included_router() -> None:
    def declare(app: FastAPI) -> None:
        child, router = FastAPI(), APIRouter()

        @child.post("/orders")
        def write(user: Writer, order: Annotated[int, Body(embed=True)]) -> None: ...

        router.mount("/child", child)
        app.include_router(router)

    service = serve(auth, declare)
    headers = {"content-type": "application/json", **READER}
    assert service.post("/child/orders", content="{", headers=headers).status_code == 403


def test_403_of_a_dependency_that_is_requires_precedes_the_reading_of_the_body() -> None:
    trace = Trace()

    def declare(app: FastAPI) -> None:
        @app.post("/orders", dependencies=[Depends(trace), Depends(requires("orders:write"))])
        def write(order: Annotated[int, Body(embed=True)]) -> int:
            return order

    service = serve(auth, declare)
    malformed = service.post("/orders", content="{", headers={"content-type": "application/json", **READER})
    assert malformed.json()["code"] == "insufficient_scope"
    assert trace.seen == []
    assert service.post("/orders", json={"order": 1}, headers=WRITER).json() == 1


def test_403_precedes_the_reading_of_the_body_also_beside_overrides() -> None:
    def get_db() -> str:
        return "db"

    def declare(app: FastAPI) -> None:
        @app.post("/orders")
        def write(user: Writer, db: Annotated[str, Depends(get_db)], order: Annotated[int, Body(embed=True)]) -> str:
            return db

        app.dependency_overrides[get_db] = lambda: "another"

    service = serve(auth, declare)
    assert (
        service.post("/orders", content="{", headers={"content-type": "application/json", **READER}).status_code == 403
    )
    assert service.post("/orders", json={"order": 1}, headers=WRITER).json() == "another"


def test_an_upload_to_a_route_without_dependencies_or_to_none_is_left_to_the_app() -> None:
    async def receive(request: Request) -> PlainTextResponse:
        async with request.form() as form:
            file = form["file"]
            assert isinstance(file, StarletteUploadFile)
            return PlainTextResponse(str(file.filename))

    service = serve(auth, lambda app: app.add_route("/plain", receive, methods=["POST"]))
    upload = {"file": ("x", b"y")}
    assert service.post("/plain", files=upload).status_code == 401
    assert service.post("/plain", files=upload, headers=READER).text == "x"
    assert service.post("/nowhere", files=upload, headers=READER).status_code == 404


def test_many_routes_are_guarded_though_the_guards_of_a_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jwt_middleware.fastapi.install.MAX_ROUTES", 2)
    paths = [f"/orders/{number}" for number in range(5)]

    def declare(app: FastAPI) -> None:
        for path in paths:

            @app.post(path)
            def write(user: Writer, order: Annotated[int, Body(embed=True)]) -> int:
                return order

    service = serve(auth, declare)
    headers = {"content-type": "application/json", **READER}
    for path in paths * 2:
        assert service.post(path, content="{", headers=headers).status_code == 403
        assert service.post(path, json={"order": 1}, headers=WRITER).json() == 1


def test_the_guards_of_removed_routes_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jwt_middleware.fastapi.install.MAX_ROUTES", 2)
    app = FastAPI()
    auth.install(app)
    service = bare_client(app)

    for number in range(5):

        def write(user: Writer, order: Annotated[int, Body(embed=True)]) -> int:
            return order

        app.add_api_route(f"/removed/{number}", write, methods=["POST"])
        assert service.post(f"/removed/{number}", json={"order": 1}, headers=WRITER).json() == 1
        app.router.routes.pop()
    gc.collect()
    dependants = [each for each in gc.get_objects() if type(each) is Dependant]
    kept = {each.path for each in dependants if str(each.path).startswith("/removed/")}
    assert len(kept) <= 2


def test_401_precedes_the_reading_of_the_body_on_a_public_path_with_a_guard() -> None:
    def declare(app: FastAPI) -> None:
        @app.post("/orders")
        def write(user: Caller, order: Annotated[int, Body(embed=True)]) -> None: ...

    service = serve(auth, declare, public=["/orders"])
    assert service.post("/orders", content="{", headers={"content-type": "application/json"}).status_code == 401


def test_a_handler_for_a_status_does_not_take_our_answer() -> None:
    def declare(app: FastAPI) -> None:
        @app.exception_handler(403)
        async def forbidden(request: Request, error: Exception) -> PlainTextResponse:
            return PlainTextResponse("theirs", 403)

        @app.post("/orders")
        def write(user: Writer, order: Annotated[int, Body(embed=True)]) -> None: ...

    assert serve(auth, declare).post("/orders", json={}, headers=READER).json()["code"] == "insufficient_scope"


# What else an app does


def test_class_based_dependencies_and_generators_behave() -> None:
    closed: list[str] = []

    def session(user: Caller) -> Iterator[str]:
        try:
            yield f"session of {user.identity}"
        finally:
            closed.append(user.identity)

    class Repository:
        def __init__(self, session: Annotated[str, Depends(session)], user: Writer) -> None:
            self.session = session

    def declare(app: FastAPI) -> None:
        @app.get("/")
        def read(repository: Annotated[Repository, Depends()]) -> str:
            return repository.session

    service = serve(auth, declare)
    assert service.get("/", headers=WRITER).json() == "session of ada"
    assert service.get("/", headers=READER).status_code == 403
    assert closed == ["ada", "ada"]


def test_background_tasks_and_streams_behave(backend: str) -> None:
    done: list[str] = []

    def declare(app: FastAPI) -> None:
        @app.post("/task")
        def task(user: Writer, tasks: BackgroundTasks, order: Annotated[int, Body(embed=True)]) -> str:
            tasks.add_task(done.append, user.identity)
            return "queued"

        @app.post("/stream")
        async def stream(request: Request, user: Writer) -> StreamingResponse:
            async def chunks() -> AsyncIterator[bytes]:
                for _ in range(3):
                    assert not await request.is_disconnected()
                    yield b"x"
                    await anyio.lowlevel.checkpoint()

            return StreamingResponse(chunks())

    service = serve(auth, declare, backend=backend)
    assert service.post("/task", json={"order": 1}, headers=WRITER).json() == "queued"
    assert service.post("/stream", content=b"body", headers=WRITER).text == "xxx"
    assert done == ["ada"]


def test_the_routes_behave_below_a_root_path() -> None:
    app = FastAPI()
    auth.install(app, public=["/health"], docs=True)

    @app.get("/health")
    def health() -> str:
        return "well"

    @app.get("/me")
    def me(user: Caller) -> str:
        return user.identity

    service = bare_client(app, root_path="/api")
    for prefix in ("", "/api"):
        assert service.get(f"{prefix}/health").json() == "well"
        assert service.get(f"{prefix}/docs").status_code == 200
        assert service.get(f"{prefix}/me").status_code == 401
        assert service.get(f"{prefix}/me", headers=READER).json() == "ada"


# What cannot work


def test_it_takes_every_keyword_of_the_middleware() -> None:
    theirs = inspect.signature(JWTMiddleware).parameters.keys() - {"self", "app", "provider"}
    assert MiddlewareOptions.__optional_keys__ == theirs | ProviderOptions.__optional_keys__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "audience is required", id="nothing"),
        pytest.param({"issuerr": "x"}, "issuer is", id="a wrong keyword"),
        pytest.param({"audience": "orders", "key": "x" * 32, "realm": "\n"}, "realm", id="what the middleware refuses"),
        pytest.param({"sessions": "secret"}, "sessions must be Sessions or a TokenIssuer, not str", id="sessions"),
        pytest.param({"scopes": ["orders:write"]}, "scopes must say", id="scopes without descriptions"),
        pytest.param({"scopes": {"orders:write": None}}, "scopes must say", id="a scope without description"),
        pytest.param({"docs_client_id": ""}, "docs_client_id must be", id="docs_client_id"),
        pytest.param({"secret_key": SECRET}, "secret_key is not an argument of Auth; key is", id="a name of others"),
        pytest.param({"session": None}, "session is not an argument of Auth; sessions is", id="a typo"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Auth(**options)


def test_sessions_say_whose_tokens_are_accepted() -> None:
    with pytest.raises(ConfigurationError, match="audience cannot stand beside sessions="):
        Auth(sessions=TokenIssuer("a secret of thirty-two bytes, yes", "orders"), audience="others")


@pytest.mark.parametrize("beside", [[], [Provider(key=SECRET, audience="orders")]], ids=["alone", "beside a provider"])
def test_a_resolver_finds_the_providers_of_other_issuers(beside: list[Provider]) -> None:
    issuer, key = "https://partner.example", SECRET[::-1]
    partner = Provider(name="partner", key=key, audience="orders", issuer=issuer)
    resolver = ProviderResolver(lambda asked: partner if asked == issuer else None)
    resolving = Auth(providers=[*beside, resolver] if beside else resolver, clock=lambda: NOW)

    def declare(app: FastAPI) -> None:
        @app.get("/")
        def read(token: Annotated[Token, Depends(resolving.token)]) -> str:
            return token.provider

    service = serve(resolving, declare)
    assert service.get("/", headers=bearer(token(key=key, iss=issuer))).json() == "partner"
    unknown = bearer(token(key=key, iss="https://other.example"))
    assert service.get("/", headers=unknown).status_code == 401
