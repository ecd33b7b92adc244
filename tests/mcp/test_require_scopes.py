"""``require_scopes`` on the functions of an MCP server, below and above the decorator of the server."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytest
from fastmcp import FastMCP
from fastmcp.server.auth import require_scopes as fastmcp_scopes
from fastmcp.server.transforms import ToolTransform
from fastmcp.tools.tool_transform import ToolTransformConfig
from mcp.server.mcpserver import MCPServer
from starlette.testclient import TestClient

from jwt_middleware.mcp import protect, require_scopes
from jwt_middleware.mcp_calls import Call
from jwt_middleware.mcp_functions import scopes_of_function

from ..support import bare_client
from ..support.frameworks import SECRET
from ..support.steps import steps
from .calls import URL, has_reached_the_server, post, rpc


def make_guarded(is_above: bool) -> Callable[[Any], Callable[[Any], Any]]:
    """What makes of a server's decorator one for a function that needs the scope ``w``."""
    guard = require_scopes("w")

    def make(register: Any) -> Callable[[Any], Any]:
        return (lambda function: guard(register(function))) if is_above else lambda function: register(guard(function))

    return make


@pytest.fixture(params=[MCPServer, FastMCP], ids=["sdk", "fastmcp"], scope="module")
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[False, True], ids=["below", "above"], scope="module")
def client(make: Any, request: pytest.FixtureRequest) -> Any:
    server, guarded = make("server"), make_guarded(request.param)

    def change(function: Any) -> Any:
        @wraps(function)
        def changed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return changed

    class Files:
        def remove(self) -> str:
            return "removed"

    @guarded(server.tool())
    def delete() -> str:
        return "deleted"

    @guarded(server.tool())
    async def erase() -> str:
        return "erased"

    @guarded(lambda function: server.tool()(change(function)) and function)
    def purge() -> str:
        return "purged"

    def look() -> str:
        return "looked"

    @guarded(server.resource("files://secret"))
    def secret() -> str:
        return "secret"

    @guarded(server.resource("notes://{name}"))
    def note(name: str) -> str:
        return name

    @guarded(server.prompt())
    def greet() -> str:
        return "hello"

    server.tool()(look)
    guarded(lambda method: server.tool()(method) and method)(Files().remove)
    with bare_client(protect(server, URL, key=SECRET)) as one:
        yield one


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        pytest.param("tools/call", {"name": "delete"}, id="a tool"),
        pytest.param("tools/call", {"name": "erase"}, id="an async tool"),
        pytest.param("tools/call", {"name": "purge"}, id="a tool inside another decorator"),
        pytest.param("tools/call", {"name": "remove"}, id="a method"),
        pytest.param("resources/read", {"uri": "files://secret"}, id="a resource"),
        pytest.param("resources/read", {"uri": "notes://a"}, id="a template"),
        pytest.param("resources/read", {"uri": "notes://%61?b"}, id="a template, in another spelling"),
        pytest.param("prompts/get", {"name": "greet"}, id="a prompt"),
    ],
)
def test_a_function_needs_its_scopes_before_it_is_dispatched(
    client: TestClient, method: str, parameters: dict[str, Any]
) -> None:
    refused = post(client, rpc(method, **parameters), "r")
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert 'scope="w"' in refused.headers["www-authenticate"]
    assert has_reached_the_server(post(client, rpc(method, **parameters), "w"))
    assert has_reached_the_server(post(client, rpc("tools/call", name="look"), "r"))


def test_several_guards_of_a_function_all_count(make: Any) -> None:
    server = make("server")

    @require_scopes("a")
    @require_scopes("b", "c")
    def delete() -> str:
        return "deleted"

    server.tool()(delete)
    with bare_client(protect(server, URL, key=SECRET, tools={"delete": ["d"]})) as client:
        refused = post(client, rpc("tools/call", name="delete"), "a")
        assert 'scope="d a b c"' in refused.headers["www-authenticate"]
        assert has_reached_the_server(post(client, rpc("tools/call", name="delete"), "a b c d"))


@dataclass
class Look:
    """A callable that cannot be hashed."""

    __name__ = "Look"

    def __call__(self) -> str:
        return "looked"


def test_a_callable_object_can_be_a_tool() -> None:
    server = MCPServer("server")
    server.add_tool(Look(), name="look")
    server.add_tool(require_scopes("w")(Look()), name="stare")
    with bare_client(protect(server, URL, key=SECRET)) as client:
        assert has_reached_the_server(post(client, rpc("tools/call", name="look"), "r"))
        assert post(client, rpc("tools/call", name="stare"), "r").status_code == 403


def test_a_tool_keeps_its_guards_under_other_names() -> None:
    outer, inner = FastMCP("outer"), FastMCP("inner")

    @require_scopes("a")
    @inner.tool(auth=fastmcp_scopes("b"))
    def delete() -> str:
        return "deleted"

    outer.mount(inner, namespace="inner")
    for old, new in ("inner_delete", "remove"), ("remove", "wipe"):
        outer.add_transform(ToolTransform({old: ToolTransformConfig(name=new)}))
    with bare_client(protect(outer, URL, key=SECRET, tools={"wipe": ["c"]})) as client:
        refused = post(client, rpc("tools/call", name="wipe"), "r")
        assert 'scope="c b a"' in refused.headers["www-authenticate"]
        assert has_reached_the_server(post(client, rpc("tools/call", name="wipe"), "a b c"))


def test_a_call_does_the_same_work_however_many_tools_and_prompts_there_are() -> None:
    server = MCPServer("server")

    def work() -> int:
        calls = (Call("tools", "function"), Call("prompts", "function"))
        return steps(lambda: [*scopes_of_function(server, calls[0]), *scopes_of_function(server, calls[1])])

    @server.tool()
    @server.prompt()
    @require_scopes("w")
    def function() -> str:
        return ""

    assert {*scopes_of_function(server, Call("tools", "function"))} == {"w"}
    before = work()
    for number in range(60):
        server.tool(f"tool {number}")(require_scopes("w")(lambda: ""))
        server.prompt(f"prompt {number}")(require_scopes("w")(lambda: ""))
    assert work() == before
