"""FastAPI endpoints are guarded whatever their signature."""

import asyncio
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI
from fastapi import Request as FastAPIRequest
from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from jwt_middleware import requires

from ..support import client
from .guarding import (
    READER,
    WRITER,
    echo_once,
    guards,
    guards_websocket,
    noisy,
    refused,
)


class Order(BaseModel):
    item: str
    amount: int = 1


def subject(connection: HTTPConnection) -> str:
    identity: str = connection.user.identity
    return identity


def number(n: int = 7) -> int:
    return n


service = FastAPI()


Number = Annotated[int, Depends(number)]


@service.get("/bare")
@requires("orders:write")
async def bare() -> str:
    """Takes nothing."""
    return "hello"


@service.get("/bare-sync")
@requires("orders:write")
def bare_sync() -> str:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    return "hello"


@service.get("/request")
@requires("orders:write")
async def with_request(request: Request) -> str:
    return subject(request)


@service.get("/fastapi-request")
@requires("orders:write")
async def with_fastapi_request(r: FastAPIRequest) -> str:
    return subject(r)


@service.get("/connection")
@requires("orders:write")
def with_connection(connection: HTTPConnection) -> str:
    return subject(connection)


@service.get("/string")
@requires("orders:write")
async def with_string_annotation(request: "Request", n: "Number", q: "int" = 1) -> "list[int | str]":
    return [subject(request), n, q]


@service.get("/annotated-request")
@requires("orders:write")
async def with_annotated_request(request: Annotated[Request, "ours"]) -> str:
    return subject(request)


@service.get("/path/{n}")
@requires("orders:write")
async def with_path(n: int, q: str = "default") -> list[int | str]:
    return [n, q]


@service.get("/depends")
@requires("orders:write")
async def with_depends(n: Number, m: int = Depends(number)) -> list[int]:
    return [n, m]


@service.post("/body", status_code=201)
@requires("orders:write")
async def with_body(order: Order, note: Annotated[str, Body()] = "") -> Order:
    return order


@service.get("/model", response_model=Order)
@requires("orders:write")
async def with_response_model() -> dict[str, Any]:
    return {"item": "book", "amount": 2, "secret": "left out"}


@service.get("/keywords")
@requires("orders:write")
async def with_keywords(n: int, **kwargs: Any) -> int:
    return n


@service.get("/twice")
@requires("orders:read")
@requires("orders:write")
async def twice(n: Number) -> int:
    return n


@service.get("/noisy")
@noisy
@requires("orders:write")
async def decorated(n: Number) -> int:
    return n


def of_one_argument(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    async def wrapper(request: Request) -> Any:
        return await endpoint(request)

    return wrapper


@service.get("/decorated")
@of_one_argument
@requires("orders:write")
async def decorated_with_request(request: Request) -> str:
    return subject(request)


@service.get("/decorated-string")
@of_one_argument
@requires("orders:write")
async def decorated_with_string_annotation(request: "Request") -> str:
    return subject(request)


router = APIRouter(prefix="/router")


@router.get("/bare")
@requires("orders:write")
async def on_a_router() -> str:
    return "hello"


class Methods:
    @requires("orders:write")
    async def method(self, n: Number) -> int:
        return n


router.add_api_route("/method", Methods().method)


router.add_api_route("/partial", requires("orders:write")(partial(number, n=3)))


service.include_router(router)


@service.websocket("/websocket")
@requires("orders:write")
async def with_websocket(websocket: WebSocket, n: Number) -> None:
    await websocket.accept()
    await websocket.send_text(f"{await websocket.receive_text()} {n}")


@service.websocket("/websocket-by-connection")
@requires("orders:write")
async def with_websocket_by_another_name(connection: "WebSocket") -> None:
    await echo_once.__wrapped__(connection)  # type: ignore[attr-defined]  # wraps() sets it


def fastapi(backend: str = "asyncio") -> TestClient:
    return client(service, allow_anonymous=True, backend=backend)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/bare", "hello"),
        ("/bare-sync", "hello"),
        ("/request", "ada"),
        ("/fastapi-request", "ada"),
        ("/connection", "ada"),
        ("/string?q=3", ["ada", 7, 3]),
        ("/annotated-request", "ada"),
        ("/path/5?q=a", [5, "a"]),
        ("/depends?n=2", [2, 2]),
        ("/model", {"item": "book", "amount": 2}),
        ("/router/bare", "hello"),
        ("/router/method?n=4", 4),
        ("/router/partial", 3),
    ],
)
def test_a_fastapi_endpoint_is_guarded_whatever_its_signature(path: str, body: Any, backend: str) -> None:
    response = guards(fastapi(backend), path)
    assert (response.status_code, response.json()) == (200, body)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/twice?n=1", 1), ("/noisy?n=1", 1), ("/decorated", "ada"), ("/decorated-string", "ada")],
)
def test_a_fastapi_endpoint_inside_another_decorator_is_guarded(path: str, body: Any, backend: str) -> None:
    guarded = fastapi(backend)
    refused(guarded, path)
    assert guarded.get(path, headers=WRITER).json() == body


def test_a_fastapi_endpoint_with_a_body_is_guarded() -> None:
    response = guards(fastapi(), "/body", "POST", json={"order": {"item": "book"}, "note": "soon"})
    assert (response.status_code, response.json()) == (201, {"item": "book", "amount": 1})


def test_a_fastapi_endpoint_with_open_keywords_gets_none_of_ours() -> None:
    response = fastapi().get("/keywords?n=3&kwargs=x", headers=WRITER)
    assert (response.status_code, response.json()) == (200, 3)
    assert fastapi().get("/keywords?n=3&kwargs=x").status_code == 401


@pytest.mark.parametrize(
    ("path", "said"), [("/websocket?n=2", "hello 2"), ("/websocket-by-connection", "hello")], ids=["named", "unnamed"]
)
def test_a_fastapi_websocket_is_guarded(path: str, said: str, backend: str) -> None:
    assert guards_websocket(fastapi(backend), path) == said


@pytest.mark.parametrize("name", ["jwt_middleware_connection", "request", "given"])
def test_no_parameter_of_a_request_stands_for_its_connection(name: str) -> None:
    assert fastapi().get("/bare", params={name: "x"}).status_code == 401
    assert fastapi().get("/bare", params={name: "x"}, headers=READER).status_code == 403
    assert fastapi().get("/bare", params={name: "x"}, headers=WRITER).status_code == 200


def test_the_openapi_schema_does_not_show_what_we_inject() -> None:
    schema = fastapi().get("/openapi.json", headers=WRITER).json()
    assert "jwt_middleware" not in str(schema)
    assert "parameters" not in schema["paths"]["/bare"]["get"]
    assert schema["paths"]["/bare"]["get"]["description"] == "Takes nothing."
    assert schema["paths"]["/bare"]["get"]["summary"] == "Bare"
    assert [p["name"] for p in schema["paths"]["/path/{n}"]["get"]["parameters"]] == ["n", "q"]
