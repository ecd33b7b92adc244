"""How does a guarded endpoint answer, and what does it need to be asked?"""

import inspect
import threading

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from jwt_middleware import JWTMiddleware, requires
from jwt_middleware.errors import Refusal

from ..support import NOW, SECRET, bare_client, bearer, http, sent, token
from .guarding import FORBIDDEN, READER, WRITER, Orders, PlainApp, by_function, plain_app, routed


def test_an_endpoint_keeps_its_name_its_docstring_its_module_and_its_parameters() -> None:
    @requires("orders:write")
    async def by_number(n: int, q: str = "default") -> None:
        """Says hello."""

    assert (by_number.__name__, by_number.__doc__, by_number.__module__) == ("by_number", "Says hello.", __name__)
    assert list(inspect.signature(by_number).parameters)[:2] == ["n", "q"]
    assert Route("/", by_number).name == "by_number"


@pytest.mark.anyio
async def test_an_endpoint_keeps_its_return_value() -> None:
    answer = StreamingResponse(iter([b"a", b"b"]))

    @requires()
    def endpoint(request: Request) -> Response:
        return answer

    @requires()
    async def async_endpoint(request: Request) -> Response:
        return answer

    scope = http("/", WRITER["authorization"].encode())
    await sent(JWTMiddleware(plain_app, key=SECRET, audience="orders", clock=lambda: NOW), scope)
    assert await async_endpoint(Request(scope)) is answer
    assert await endpoint(Request(scope)) is answer  # type: ignore[misc]  # it is async once it is guarded


def test_the_realm_and_the_refusal_response_are_the_middlewares() -> None:
    def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        return PlainTextResponse(f"{refusal.code} {refusal.subject} {connection.url.path}", refusal.status)

    service = routed(Route("/orders", by_function), realm="orders", refusal_response=page)
    response = service.get("/orders", headers=READER)
    assert (response.status_code, response.text) == (403, "insufficient_scope ada /orders")
    assert response.headers["www-authenticate"] == FORBIDDEN.replace('"api"', '"orders"')


def test_the_refusal_says_whose_token_it_was() -> None:
    told: list[Refusal] = []

    def page(connection: HTTPConnection, refusal: Refusal) -> Response:
        told.append(refusal)
        return Response(status_code=refusal.status)

    service = routed(Route("/", by_function), refusal_response=page, name="staff")
    service.get("/", headers=bearer(token(header={"kid": "k"}, scope=None)))
    service.get("/")
    assert [(refusal.code, refusal.provider, refusal.kid, refusal.subject) for refusal in told] == [
        ("insufficient_scope", "staff", "k", "ada"),
        ("missing_token", None, None, None),
    ]


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(Starlette(routes=[Route("/", by_function)]), id="function"),
        pytest.param(Starlette(routes=[Route("/", requires()(Orders))]), id="class"),
        pytest.param(Starlette(routes=[Mount("/", requires()(PlainApp()))]), id="ASGI app"),
    ],
)
def test_without_the_middleware_in_front_it_is_an_error_and_not_a_way_in(app: ASGIApp) -> None:
    with pytest.raises(RuntimeError, match="wrap the app in JWTMiddleware"):
        bare_client(app).get("/")


@pytest.mark.anyio
async def test_a_function_that_is_given_no_request_is_an_error_and_not_a_way_in() -> None:
    @requires()
    async def helper(n: int) -> int:
        return n

    with pytest.raises(RuntimeError, match="found no request"):
        await helper(5)


def test_threads_do_not_mix_up_whose_request_it_is() -> None:
    seen: set[tuple[str, str]] = set()

    @requires("orders:write")
    def endpoint(request: Request) -> Response:
        seen.add((request.user.identity, request.query_params["who"]))
        return JSONResponse(None)

    service = routed(Route("/", endpoint))
    people = [f"user-{n}" for n in range(8)]
    calls = [
        threading.Thread(
            target=service.get, args=("/",), kwargs={"params": {"who": who}, "headers": bearer(token(sub=who))}
        )
        for who in people
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join(10)
    assert seen == {(who, who) for who in people}
