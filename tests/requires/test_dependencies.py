"""A guarded FastAPI dependency cannot answer, so it must raise."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import JWTUser, requires
from jwt_middleware.requires import is_bypassed

from ..support import client
from .guarding import FORBIDDEN, READER, WRITER

dependent = FastAPI()


reached: list[str] = []


@requires("orders:write")
async def writer() -> str:
    return "a writer"


@requires("orders:write")
def sync_writer(connection: HTTPConnection) -> str:
    return "a writer"


@dependent.get("/value")
async def by_value(who: Annotated[str, Depends(writer)]) -> str:
    reached.append("value")
    return who


@dependent.get("/sync-value")
async def by_sync_value(who: Annotated[str, Depends(sync_writer)]) -> str:
    reached.append("sync-value")
    return who


@dependent.get("/route", dependencies=[Depends(writer)])
async def by_route() -> str:
    reached.append("route")
    return "a writer"


@dependent.get("/called")
async def by_call(request: Request) -> str:
    await sync_writer(request)  # type: ignore[misc]  # it is async once it is guarded
    reached.append("called")
    return "a writer"


@dependent.websocket("/websocket")
async def by_websocket(websocket: WebSocket, who: Annotated[str, Depends(writer)]) -> None:
    reached.append("websocket")
    await websocket.accept()
    await websocket.send_text(who)
    await websocket.close()


guarded_router = APIRouter(dependencies=[Depends(writer)])


@guarded_router.get("/router")
async def by_router() -> str:
    reached.append("router")
    return "a writer"


dependent.include_router(guarded_router)


@dependent.get("/guarded")
@requires("orders:read")
async def by_value_of_a_guarded_endpoint(who: Annotated[str, Depends(writer)]) -> str:
    reached.append("guarded")
    return who


@pytest.mark.parametrize("path", ["/value", "/sync-value", "/route", "/router", "/called", "/guarded"])
def test_a_guarded_dependency_refuses_before_the_endpoint_runs(path: str, backend: str) -> None:
    reached.clear()
    guarded = client(dependent, allow_anonymous=True, backend=backend)
    nobody, reader = guarded.get(path), guarded.get(path, headers=READER)
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, 'Bearer realm="api"')
    assert (reader.status_code, reader.headers["www-authenticate"]) == (403, FORBIDDEN)
    assert not reached
    assert guarded.get(path, headers=WRITER).json() == "a writer"
    assert reached == [path.removeprefix("/")]


def test_a_guarded_dependency_refuses_websockets_before_the_endpoint_runs(backend: str) -> None:
    reached.clear()
    guarded = client(dependent, allow_anonymous=True, backend=backend)
    for headers, code in (({}, 3000), (READER, 3003)):
        with pytest.raises(WebSocketDisconnect) as closed, guarded.websocket_connect("/websocket", headers=headers):
            pass
        assert closed.value.code == code
    assert not reached
    with guarded.websocket_connect("/websocket", headers=WRITER) as connection:
        assert connection.receive_text() == "a writer"


async def accepted(websocket: WebSocket) -> None:
    await websocket.accept()


async def accepted_and_closed(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(4000)


accepting = FastAPI()


@accepting.websocket("/accepted", dependencies=[Depends(accepted)])
@accepting.websocket("/closed", dependencies=[Depends(accepted_and_closed)])
@requires("orders:write")
async def after_a_dependency(websocket: WebSocket) -> None:
    raise AssertionError("the endpoint was reached")


@pytest.mark.parametrize(("path", "code"), [("/accepted", 3003), ("/closed", 4000)])
def test_a_websocket_is_closed_once(path: str, code: int, backend: str) -> None:
    service = client(accepting, allow_anonymous=True, backend=backend)
    with (
        service.websocket_connect(path, headers=READER) as connection,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        connection.receive_text()
    assert closed.value.code == code


as_dependency = FastAPI()


@as_dependency.post("/route", dependencies=[Depends(requires("orders:write"))])
@as_dependency.get("/route", dependencies=[Depends(requires("orders:write"))])
async def guarded_route() -> str:
    return "reached"


@as_dependency.get("/value")
async def guarded_value(user: Annotated[JWTUser, Depends(requires())]) -> str:
    return user.identity


@as_dependency.websocket("/feed", dependencies=[Depends(requires("orders:write"))])
async def guarded_feed(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"params": {"endpoint": "x"}}, id="query"),
        pytest.param({"params": [("endpoint", "x"), ("endpoint", "y")]}, id="query twice"),
        pytest.param({"params": {"jwt_middleware_connection": "x"}}, id="query with our name"),
        pytest.param({"method": "POST", "json": {"endpoint": "x"}}, id="JSON body"),
        pytest.param({"method": "POST", "json": None}, id="JSON null"),
        pytest.param({"cookies": {"endpoint": "x"}}, id="cookie"),
    ],
)
def test_requires_itself_guards_as_a_dependency_whatever_a_request_says(request_: dict[str, Any]) -> None:
    request = {"method": "GET", **request_}
    service = client(as_dependency, allow_anonymous=True)
    service.cookies.update(request.pop("cookies", {}))
    assert service.request(url="/route", **request).status_code == 401
    assert service.request(url="/route", headers=READER, **request).status_code == 403
    assert service.request(url="/route", headers=WRITER, **request).json() == "reached"


def test_requires_itself_as_a_dependency_gives_the_user_and_challenges() -> None:
    service = client(as_dependency, allow_anonymous=True)
    assert service.get("/value", headers=READER).json() == "ada"
    assert service.get("/value").headers["www-authenticate"] == 'Bearer realm="api"'
    assert service.get("/openapi.json").json()["paths"]["/route"]["get"].get("parameters") is None


def test_requires_itself_as_a_dependency_guards_websockets() -> None:
    service = client(as_dependency, allow_anonymous=True)
    with service.websocket_connect("/feed", headers=WRITER):
        pass
    with pytest.raises(WebSocketDisconnect), service.websocket_connect("/feed", headers=READER):
        pass


@dataclass
class Unhashable:
    value: str = "x"

    def __call__(self) -> str:
        return self.value


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param(lambda: None, id="function"),
        pytest.param(FastAPI(), id="app"),
        pytest.param({}, id="object without weak references"),
        pytest.param(Unhashable(), id="unhashable object"),
        pytest.param(None, id="None"),
    ],
)
def test_what_was_never_guarded_is_not_bypassed(endpoint: Any) -> None:
    assert not is_bypassed(endpoint)


def test_a_route_with_the_function_below_the_guard_bypasses_it() -> None:
    def plain(connection: HTTPConnection) -> None: ...

    guarded = requires("orders:write")(plain)
    assert is_bypassed(plain)
    assert is_bypassed(partial(plain))
    assert not is_bypassed(guarded)
