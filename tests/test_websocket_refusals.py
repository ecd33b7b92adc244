"""With ``websocket_refusals="close"``, a page learns why its WebSocket was refused, unless it is foreign."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import Message, Scope
from starlette.websockets import WebSocket

from jwt_middleware import ConfigurationError, JWTMiddleware, bearer_header, cookie, requires, subprotocol
from jwt_middleware.errors import KeysUnavailable

from .support import NOW, SECRET, echo, sent, token, websocket

pytestmark = pytest.mark.anyio

EXPIRED = token(exp=NOW - 100)


def refusing(app: Any = echo, **options: Any) -> JWTMiddleware:
    options = {"key": SECRET, "audience": "orders", "websocket_refusals": "close", **options}
    return JWTMiddleware(app, clock=lambda: NOW, **options)


def handshake(
    *authorization: bytes, origin: str | None = None, offered: tuple[str, ...] = (), more: dict[str, str] | None = None
) -> Scope:
    scope = websocket("/", *authorization, extensions={"websocket.http.response": {}})
    scope["subprotocols"] = list(offered)
    if origin is not None:
        scope["headers"].append((b"origin", origin.encode()))
    scope["headers"] += [(name.encode(), value.encode()) for name, value in (more or {}).items()]
    return scope


def accepted_and_closed(code: int, reason: str, protocol: str | None = None) -> list[Message]:
    return [
        {"type": "websocket.accept", "subprotocol": protocol},
        {"type": "websocket.close", "code": code, "reason": reason},
    ]


OWN, TRUSTED, FOREIGN = "http://testserver", "https://app.example", "https://evil.example"


@pytest.mark.parametrize("origin", [None, OWN, TRUSTED], ids=["no page", "own page", "trusted page"])
@pytest.mark.parametrize(
    ("authorization", "code", "reason"),
    [
        pytest.param([], 3000, "missing_token", id="no token"),
        pytest.param([b"Bearer " + EXPIRED.encode()], 3000, "expired", id="an expired token"),
        pytest.param([b"Bearer x", b"Bearer y"], 1008, "ambiguous_token", id="two tokens"),
    ],
)
async def test_a_refused_handshake_is_accepted_and_closed_with_its_reason(
    origin: str | None, authorization: list[bytes], code: int, reason: str
) -> None:
    scope = handshake(*authorization, origin=origin)
    assert await sent(refusing(origins=[TRUSTED]), scope) == accepted_and_closed(code, reason)


@pytest.mark.parametrize(
    ("origin", "more"),
    [
        pytest.param(FOREIGN, {}, id="another site"),
        pytest.param("null", {}, id="an opaque origin"),
        pytest.param("", {}, id="an empty origin"),
        pytest.param("https://testserver", {}, id="another scheme"),
        pytest.param(OWN, {"sec-fetch-site": "cross-site"}, id="a browser that knows better"),
        pytest.param(TRUSTED, {"origin": FOREIGN}, id="two origins"),
    ],
)
@pytest.mark.parametrize("authorization", [[], [b"Bearer " + EXPIRED.encode()], [b"Bearer x", b"Bearer y"]])
async def test_a_foreign_page_learns_nothing(origin: str, more: dict[str, str], authorization: list[bytes]) -> None:
    scope = handshake(*authorization, origin=origin, more=more)
    assert await sent(refusing(origins=[TRUSTED]), scope) == accepted_and_closed(3003, "")


@pytest.mark.parametrize("raw", [token(), EXPIRED, "garbage"], ids=["good", "expired", "garbage"])
async def test_a_foreign_page_does_not_learn_what_the_cookie_of_its_visitor_is_worth(raw: str) -> None:
    scope = handshake(origin=FOREIGN, more={"cookie": f"access={raw}"})
    assert await sent(refusing(sources=[cookie("access")]), scope) == accepted_and_closed(3003, "")


async def test_a_foreign_page_does_not_learn_of_an_outage() -> None:
    def validate(found: Any) -> bool:
        raise KeysUnavailable

    for origin, code, reason in ((FOREIGN, 3003, ""), (OWN, 1013, "keys_unavailable")):
        scope = handshake(b"Bearer " + token().encode(), origin=origin)
        assert await sent(refusing(validate=validate), scope) == accepted_and_closed(code, reason)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        pytest.param(["bearer", EXPIRED], "bearer", id="the token's"),
        pytest.param(["graphql-ws", "bearer", EXPIRED], "bearer", id="the token's, behind another"),
        pytest.param(["graphql-ws", "mqtt"], "graphql-ws", id="the first"),
        pytest.param([], None, id="none"),
    ],
)
async def test_a_subprotocol_that_the_client_offers_is_chosen_and_never_the_token(
    offered: list[str], chosen: str | None
) -> None:
    scope = handshake(offered=tuple(offered))
    answer = await sent(refusing(sources=[bearer_header(), subprotocol("bearer")]), scope)
    assert answer[0] == {"type": "websocket.accept", "subprotocol": chosen}


@pytest.mark.parametrize(("offered", "chosen"), [([], "bearer"), (["graphql-ws"], "graphql-ws")])
async def test_requires_refuses_in_the_same_way(offered: list[str], chosen: str) -> None:
    @requires("admin")
    async def feed(connection: WebSocket) -> None:
        raise AssertionError("the endpoint was reached")

    app = refusing(Starlette(routes=[WebSocketRoute("/", feed)]), sources=[subprotocol("bearer")])
    scope = handshake(offered=(*offered, "bearer", token()))
    assert await sent(app, scope) == accepted_and_closed(3003, "insufficient_scope", chosen)


async def test_by_default_a_refused_handshake_is_denied_with_a_response() -> None:
    answer = await sent(refusing(websocket_refusals="deny"), handshake())
    assert [message["type"] for message in answer] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]


@pytest.mark.parametrize("value", ["accept", None, True, 3000])
def test_another_way_of_refusing_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="websocket_refusals must be 'deny' or 'close'"):
        refusing(websocket_refusals=value)
