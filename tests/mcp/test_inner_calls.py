"""A guarded tool, resource or prompt that another tool of a FastMCP server reaches, and not the request itself."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.server.transforms import PromptsAsTools, ResourcesAsTools
from fastmcp.server.transforms.search import RegexSearchTransform
from starlette.testclient import TestClient

from jwt_middleware.events import RequestRefused
from jwt_middleware.mcp import protect

from ..support import bare_client
from ..support.frameworks import SECRET
from .calls import URL, post, rpc

DEMANDS: dict[str, Any] = {
    "tools": {"delete": ["w"], "inner_delete": ["w"]},
    "resources": {"files://secret": ["w"], "files://inner/{name}": ["w"]},
    "prompts": {"greet": ["w"], "inner_greet": ["w"]},
}


def fill(server: FastMCP) -> FastMCP:
    """Give ``server`` a tool, a resource, a template and a prompt, and the tools that reach them."""

    @server.tool
    def delete() -> str:
        return "reached"

    @server.tool
    def look() -> str:
        return "reached"

    @server.tool
    async def relay(name: str, ctx: Context, arguments: dict[str, Any] | None = None) -> Any:
        return await ctx.fastmcp.call_tool(name, arguments)

    @server.resource("files://secret")
    def secret() -> str:
        return "reached"

    @server.resource("files://{name}")
    def file(name: str) -> str:
        return "reached"

    @server.resource("pages://{name}/text{?number}")
    def page(name: str, number: int = 1) -> str:
        return "reached"

    @server.prompt
    def greet() -> str:
        return "reached"

    server.add_transform(ResourcesAsTools(server))
    server.add_transform(PromptsAsTools(server))
    return server


def make_server() -> FastMCP:
    server, inner, innermost = fill(FastMCP("outer")), fill(FastMCP("inner")), fill(FastMCP("innermost"))
    inner.mount(innermost, namespace="most")
    server.mount(inner, namespace="inner")
    server.add_transform(RegexSearchTransform())
    return server


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = make_server().http_app(path="/mcp", stateless_http=True, json_response=True)
    with bare_client(protect(app, URL, key=SECRET, **DEMANDS)) as one:
        yield one


def call_tool(client: TestClient, tool: str, scope: str | None, arguments: dict[str, Any]) -> str:
    """What ``tool`` says to a token that grants ``scope``, or without a token."""
    response = post(client, rpc("tools/call", name=tool, arguments=arguments), scope)
    assert response.status_code == 200
    text: str = response.json()["result"]["content"][0]["text"]
    return text


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param("call_tool", {"name": "delete"}, id="a tool, by a search"),
        pytest.param("call_tool", {"name": "inner_delete"}, id="a tool of a mounted server, by a search"),
        pytest.param("relay", {"name": "delete"}, id="a tool, by a tool"),
        pytest.param("call_tool", {"name": "relay", "arguments": {"name": "delete"}}, id="a tool, by two tools"),
        pytest.param("read_resource", {"uri": "files://secret"}, id="a resource"),
        pytest.param("read_resource", {"uri": "files://s%65cret"}, id="a resource, percent-encoded"),
        pytest.param("read_resource", {"uri": "files://inner/a"}, id="a template of a mounted server"),
        pytest.param("get_prompt", {"name": "greet"}, id="a prompt"),
        pytest.param("inner_relay", {"name": "delete"}, id="a tool, by a tool of a mounted server"),
        pytest.param("inner_read_resource", {"uri": "files://a"}, id="a template, by a tool of a mounted server"),
        pytest.param("inner_get_prompt", {"name": "greet"}, id="a prompt, by a tool of a mounted server"),
        pytest.param("inner_most_relay", {"name": "delete"}, id="a tool, by a tool of a server that is mounted twice"),
        pytest.param(
            "call_tool",
            {"name": "inner_relay", "arguments": {"name": "relay", "arguments": {"name": "delete"}}},
            id="a tool, by tools of both servers",
        ),
    ],
)
def test_a_tool_that_reaches_a_guarded_one_is_no_way_around_its_scopes(
    client: TestClient, tool: str, arguments: dict[str, Any]
) -> None:
    assert " needs w" in call_tool(client, tool, "r", arguments)
    assert "reached" in call_tool(client, tool, "w", arguments)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param("call_tool", {"name": "look"}, id="a tool"),
        pytest.param("read_resource", {"uri": "files://open"}, id="a resource"),
        pytest.param("read_resource", {"uri": "pages://inner/most/a/text?number=2"}, id="a template with a query"),
        pytest.param("inner_look", {}, id="a tool of a mounted server"),
        pytest.param("inner_most_look", {}, id="a tool of a server that is mounted twice"),
        pytest.param("call_tool", {"name": "inner_most_look"}, id="a tool of a mounted server, by a search"),
    ],
)
def test_what_needs_no_scope_is_reached(client: TestClient, tool: str, arguments: dict[str, Any]) -> None:
    assert "reached" in call_tool(client, tool, "r", arguments)


def test_a_client_in_the_same_process_has_no_token_and_needs_none() -> None:
    async def call(server: FastMCP) -> Any:
        async with Client(server) as one:
            return (await one.call_tool("call_tool", {"name": "delete"})).data

    server = make_server()
    protect(server, URL, key=SECRET, **DEMANDS)
    assert asyncio.run(call(server)) == "reached"


def test_outside_protect_the_same_server_checks_nothing() -> None:
    server = make_server()
    protect(server, URL, key=SECRET, **DEMANDS)
    with bare_client(server.http_app(path="/mcp", stateless_http=True, json_response=True)) as one:
        assert "reached" in call_tool(one, "call_tool", None, {"name": "delete"})


def test_within_a_session_the_token_of_each_request_counts() -> None:
    def send(method: str, scope: str, **parameters: Any) -> httpx2.Response:
        return post(client, rpc(method, **parameters), scope, **session)

    session: dict[str, str] = {}
    calling = {"name": "call_tool", "arguments": {"name": "delete"}}
    about = {"name": "test", "version": "1"}
    with bare_client(protect(make_server(), URL, key=SECRET, **DEMANDS)) as client:
        opened = send("initialize", "w", protocolVersion="2025-06-18", capabilities={}, clientInfo=about)
        session["mcp-session-id"] = opened.headers["mcp-session-id"]
        assert "reached" in send("tools/call", "w", **calling).text
        assert " needs w" in send("tools/call", "r", **calling).text
        assert "reached" in send("tools/call", "w", **calling).text


@pytest.mark.parametrize("granted", ["w", "r", None])
def test_a_refused_inner_call_is_an_event(granted: str | None) -> None:
    told: list[tuple[str, str | None]] = []

    def hear(event: object) -> None:
        if isinstance(event, RequestRefused):
            told.append((event.code, event.expected))

    app = make_server().http_app(path="/mcp", stateless_http=True, json_response=True)
    with bare_client(protect(app, URL, key=SECRET, allow_anonymous=True, on_event=hear, **DEMANDS)) as client:
        call_tool(client, "read_resource", granted, {"uri": "files://secret"})
    assert told == {"w": [], "r": [("insufficient_scope", "w")], None: [("missing_token", None)]}[granted]


@pytest.mark.parametrize("way", ["outer", "in the same process", "sibling"])
def test_a_tool_that_calls_a_mounted_server_itself_is_no_way_around_the_scopes(way: str) -> None:
    server, inner, sibling = FastMCP("outer"), fill(FastMCP("inner")), FastMCP("sibling")

    async def call(name: str) -> Any:
        if way != "in the same process":
            return await inner.call_tool(name)
        async with Client(inner) as one:
            return (await one.call_tool(name)).data

    (sibling if way == "sibling" else server).tool(call)
    server.mount(inner, namespace="inner", tool_names={"look": "glance"})
    server.mount(sibling)
    sibling.mount(inner, namespace="inner")
    app = server.http_app(path="/mcp", stateless_http=True, json_response=True)
    with bare_client(protect(app, URL, key=SECRET, **DEMANDS)) as client:
        assert " needs w" in call_tool(client, "call", "r", {"name": "delete"})
        assert "reached" in call_tool(client, "call", "w", {"name": "delete"})
