"""A guarded FastAPI dependency cannot answer, so it must raise."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import requires

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


misused = FastAPI()


@misused.post("/route", dependencies=[Depends(requires("orders:write"))])
@misused.get("/route", dependencies=[Depends(requires("orders:write"))])
async def misused_route() -> str:
    raise AssertionError("the endpoint was reached")


@misused.post("/value")
@misused.get("/value")
async def misused_value(guard: Annotated[Any, Depends(requires())]) -> str:
    raise AssertionError("the endpoint was reached")


@pytest.mark.parametrize("path", ["/route", "/value"])
@pytest.mark.parametrize("headers", [{}, READER, WRITER], ids=["nobody", "reader", "writer"])
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"params": {"endpoint": "x"}}, id="query"),
        pytest.param({"params": [("endpoint", "x"), ("endpoint", "y")]}, id="query twice"),
        pytest.param({"params": {"endpoint": "builtins.print"}}, id="query that names a function"),
        pytest.param({"method": "POST", "json": {"endpoint": "x"}}, id="JSON body"),
        pytest.param({"method": "POST", "json": "builtins.print"}, id="JSON string"),
        pytest.param({"method": "POST", "json": None}, id="JSON null"),
        pytest.param({"cookies": {"endpoint": "x"}}, id="cookie"),
    ],
)
def test_requires_itself_as_a_dependency_lets_nobody_in(
    path: str, headers: dict[str, str], request_: dict[str, Any]
) -> None:
    request = {"method": "GET", **request_}
    service = client(misused, allow_anonymous=True)
    service.cookies.update(request.pop("cookies", {}))
    assert service.request(url=path, headers=headers, **request).status_code in (403, 422)
