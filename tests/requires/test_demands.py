"""What may ``requires`` demand, and of which functions and classes?"""

from collections.abc import AsyncIterator, Iterator
from functools import lru_cache, partial
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from jwt_middleware import ConfigurationError, requires

from ..support import bearer, token
from .guarding import by_function, routed, with_a_greeting_sync


def demanding(*scopes: str, **more: Any) -> TestClient:
    endpoint = requires(*scopes, **more)(with_a_greeting_sync.__get__("hello"))
    return routed(Route("/", endpoint))


def test_a_broader_scope_counts_for_the_narrower_ones_on_http_and_on_websockets() -> None:
    @requires("orders:read")
    async def orders(request: Request) -> Response:
        return PlainTextResponse("hello")

    @requires("orders:read")
    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    routes = Route("/", orders), WebSocketRoute("/feed", feed)
    service = routed(*routes, scope_implies={"orders": ["orders:write"], "orders:write": ["orders:read"]})
    for scope in ("orders", "orders:write", "orders:read"):
        assert service.get("/", headers=bearer(token(scope=scope))).text == "hello"
        with service.websocket_connect("/feed", headers=bearer(token(scope=scope))) as websocket:
            assert websocket.receive_text() == "hello"
    assert service.get("/", headers=bearer(token(scope="other"))).status_code == 403


@pytest.mark.parametrize(
    ("scopes", "any_of", "held", "named"),
    [
        pytest.param([], None, "", None, id="nothing demanded"),
        pytest.param(["a"], None, "a", None, id="one, held"),
        pytest.param(["a"], None, "b", "a", id="one, not held"),
        pytest.param(["a"], None, "", "a", id="none held"),
        pytest.param(["a"], None, "aa", "a", id="part of another's name"),
        pytest.param(["a"], None, "A", "a", id="another case"),
        pytest.param(["a", "b"], None, "b a c", None, id="all held"),
        pytest.param(["a", "b", "c"], None, "b", "a b c", id="some missing"),
        pytest.param([], ["a", "b"], "b", None, id="one of several"),
        pytest.param([], ["a", "b"], "c", "a", id="none of several"),
        pytest.param([], "a", "a", None, id="one of one"),
        pytest.param([], ("a" for _ in "a"), "b", "a", id="one of an iterator"),
        pytest.param(["a"], ["b", "c"], "a c", None, id="all and one of"),
        pytest.param(["a"], ["b", "c"], "b c", "a b", id="all missing, one of held"),
        pytest.param(["a"], ["b", "c"], "a", "a b", id="all held, one of missing"),
        pytest.param(["a"], ["a", "b"], "c", "a", id="each is named once"),
    ],
)
def test_all_of_the_scopes_and_one_of_any_of_are_demanded(
    scopes: list[str], any_of: Any, held: str, named: str | None
) -> None:
    response = demanding(*scopes, any_of=any_of).get("/", headers=bearer(token(scope=held)))
    if named is None:
        assert response.text == "hello"
    else:
        assert response.status_code == 403
        assert response.headers["www-authenticate"].endswith(f', scope="{named}"')


@pytest.mark.parametrize(
    ("roles", "status"),
    [
        pytest.param("admin", 200, id="the role"),
        pytest.param(["clerk", "admin"], 200, id="the role, in a list"),
        pytest.param("admin read-only", 403, id="a role that begins with its name"),
        pytest.param("not admin", 403, id="a role that ends with its name"),
        pytest.param(["admin read-only"], 403, id="a role that begins with its name, in a list"),
    ],
)
def test_a_role_is_granted_by_its_whole_name_alone(roles: Any, status: int) -> None:
    endpoint = requires("admin")(with_a_greeting_sync.__get__("hello"))
    service = routed(Route("/", endpoint), scope_claim="roles")
    assert service.get("/", headers=bearer(token(roles=roles))).status_code == status


@pytest.mark.parametrize("role", ["Site Manager", "B\u00fcro", 'a"b', "a\\b", " ", "\u200b", "read,write"])
def test_any_text_may_be_demanded(role: str) -> None:
    for guard in (requires(role), requires(any_of=[role])):
        service = routed(Route("/", guard(with_a_greeting_sync.__get__("hello"))), scope_claim="roles")
        for roles in ([role], role, ["clerk", role]):
            assert service.get("/", headers=bearer(token(roles=roles))).text == "hello"
        for others in (["clerk"], role * 2, [f"{role}."]):
            assert service.get("/", headers=bearer(token(roles=others))).status_code == 403


@pytest.mark.parametrize(
    ("scopes", "any_of", "named"),
    [
        pytest.param(["Site Manager", "orders:write"], None, 'scope="orders:write"', id="a space"),
        pytest.param(["B\u00fcro", 'a"b', "a\\b", "a\n"], None, None, id="none that can be spelled"),
        pytest.param([], ["Site Manager", "admin", "root"], 'scope="admin"', id="the first that can be spelled"),
        pytest.param([], ["Site Manager"], None, id="no alternative that can be spelled"),
    ],
)
def test_a_challenge_names_only_what_can_be_spelled_there(scopes: list[str], any_of: Any, named: str | None) -> None:
    challenge = demanding(*scopes, any_of=any_of).get("/", headers=bearer(token(scope="x"))).headers["www-authenticate"]
    assert challenge.partition('needed here."')[2] == ("" if named is None else f", {named}")


def test_any_user_will_do_where_no_scope_is_demanded() -> None:
    assert demanding().get("/").json()["code"] == "missing_token"
    assert demanding().get("/", headers=bearer(token(scope=None))).text == "hello"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"scopes": [by_function]}, TypeError, r"write @requires\(\)", id="no parentheses"),
        pytest.param({"scopes": [5]}, TypeError, "takes scopes, not 5", id="a number"),
        pytest.param({"scopes": [["a", "b"]]}, TypeError, "takes scopes, not", id="a list"),
        pytest.param({"scopes": [None]}, TypeError, "takes scopes, not None", id="None"),
        pytest.param({"any_of": [5]}, TypeError, "takes scopes, not 5", id="a number in any_of"),
        pytest.param({"any_of": 5}, TypeError, "takes scopes, not 5", id="a number as any_of"),
        pytest.param({"any_of": False}, TypeError, "takes scopes, not False", id="False as any_of"),
        pytest.param({"any_of": []}, ConfigurationError, "any_of must name at least one scope", id="an empty any_of"),
        pytest.param({"scopes": [""]}, ConfigurationError, "a scope must be a text", id="empty"),
        pytest.param({"any_of": ["a", ""]}, ConfigurationError, "a scope must be a text", id="empty in any_of"),
    ],
)
def test_what_cannot_be_demanded_is_refused_where_it_is_written(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        requires(*arguments.pop("scopes", []), **arguments)


async def async_generator() -> AsyncIterator[str]:
    yield "no answer"


def generator() -> Iterator[str]:
    yield "no answer"


class CallableEndpoint:
    async def __call__(self, request: Request) -> Response:
        return PlainTextResponse("hello")


class KeywordApp:
    async def __call__(self, scope: Scope, receive: Receive, *, send: Send) -> None:
        pass


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        pytest.param(None, "None is not one", id="None"),
        pytest.param("orders:write", "'orders:write' is not one", id="a string"),
        pytest.param(dict, "is not one", id="a class that is no endpoint"),
        pytest.param(WebSocket, "is not one", id="a class of Starlette's that is no endpoint"),
        pytest.param(CallableEndpoint(), "is not one", id="an object that takes a request"),
        pytest.param(lru_cache(with_a_greeting_sync), "is not one", id="a cache"),
        pytest.param(staticmethod(by_function), "is not one", id="a static method, above"),
        pytest.param(KeywordApp(), "is not one", id="an object that takes keywords"),
        pytest.param(getattr, "is not one", id="a builtin"),
        pytest.param(generator, "cannot answer for a generator", id="a generator"),
        pytest.param(async_generator, "cannot answer for a generator", id="an async generator"),
        pytest.param(partial(generator), "cannot answer for a generator", id="partial of a generator"),
    ],
)
def test_what_is_no_endpoint_is_refused_where_it_is_decorated(endpoint: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        requires("orders:write")(endpoint)
