"""MCP servers behind the middleware, called over real HTTP by the clients of the SDK and of FastMCP."""

import asyncio
import importlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest
from fastmcp import Client as FastMCPClient
from fastmcp import FastMCP
from fastmcp.server.auth import AccessToken as FastMCPAccessToken
from fastmcp.server.auth import require_roles, restrict_tag
from fastmcp.server.auth import require_scopes as fastmcp_scopes
from fastmcp.server.dependencies import get_access_token as fastmcp_access_token
from fastmcp.server.middleware import AuthMiddleware
from mcp import ClientSession, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import MCPServer
from mcp_types import TextContent
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from jwt_middleware import ConfigurationError, ProtectedResource, bearer_header, cookie
from jwt_middleware.mcp import protect, require_scopes
from jwt_middleware.testing import IdentityProvider

from ..support import bare_client
from ..support.frameworks import SECRET, token
from ..support.serving import free_port, serving
from .calls import has_reached_the_server, rpc


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as one:
        yield one


def sdk_server() -> MCPServer:
    server = MCPServer("tools")

    @server.tool()
    def whoami() -> dict[str, Any]:
        token = get_access_token()
        assert token is not None
        return {**token.model_dump(exclude={"token"}), "raw": bool(token.token), "shown": repr(token)}

    @server.tool()
    @require_scopes("tools:write")
    def delete(name: str) -> str:
        return f"deleted {name}"

    @server.tool()
    @require_scopes("tools:write")
    async def erase(name: str) -> str:
        return f"erased {name}"

    @server.resource("files://secret")
    def secret() -> str:
        return "secret"

    @server.prompt()
    def greet() -> str:
        return "hello"

    return server


def fast_server() -> FastMCP:
    server = FastMCP("tools", middleware=[AuthMiddleware(auth=restrict_tag("admin", scopes=["admin"]))])

    @server.tool
    def whoami() -> dict[str, Any]:
        token = fastmcp_access_token()
        assert isinstance(token, FastMCPAccessToken)
        return {**token.model_dump(exclude={"token"}), "raw": bool(token.token), "shown": repr(token)}

    @server.tool(auth=fastmcp_scopes("tools:write"))
    def delete(name: str) -> str:
        return f"deleted {name}"

    @server.tool(auth=[fastmcp_scopes("tools:write")], tags={"admin"})
    def purge() -> str:
        return "purged"

    @server.tool(auth=[fastmcp_scopes("tools:write"), require_roles("boss", extract=lambda claims: claims["roles"])])
    def fire() -> str:
        return "fired"

    @server.resource("files://secret", auth=fastmcp_scopes("files:read"))
    def secret() -> str:
        return "secret"

    @server.prompt(auth=fastmcp_scopes("prompts:read"))
    def greet() -> str:
        return "hello"

    return server


@contextmanager
def protected(server: Any, provider: IdentityProvider, **options: Any) -> Iterator[str]:
    port = free_port()
    resource = f"http://127.0.0.1:{port}/mcp"
    with serving(protect(server, resource, issuer=provider.issuer, **options), port):
        yield resource


def minted(provider: IdentityProvider, url: str, *scopes: str, **claims: Any) -> str:
    return provider.mint(**{"aud": url, "scope": " ".join(scopes), "client_id": "client-1", **claims})


@asynccontextmanager
async def session(url: str, raw: str) -> AsyncIterator[ClientSession]:
    headers = {"authorization": f"Bearer {raw}"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        streamable_http_client(url, http_client=http) as (read, write, *_),
        ClientSession(read, write) as one,
    ):
        await one.initialize()
        yield one


def post(url: str, raw: str | None, body: Any, **headers: str) -> httpx2.Response:
    sent = {"accept": "application/json, text/event-stream", "content-type": "application/json", **headers}
    if raw is not None:
        sent["authorization"] = f"Bearer {raw}"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(url, content=content, headers=sent, timeout=10)


CLIENT = {"name": "test", "version": "1"}
TOOLS = {"delete": ["tools:write"], "erase": ["tools:write"]}


def test_a_tool_of_the_sdk_sees_the_callers_token_without_its_text_in_a_representation(
    provider: IdentityProvider,
) -> None:
    async def call(url: str) -> Any:
        async with session(url, minted(provider, url, "tools:read")) as one:
            return (await one.call_tool("whoami", {})).structured_content

    with protected(sdk_server(), provider, tools=TOOLS) as url:
        seen = asyncio.run(call(url))
    assert seen["raw"] is True
    assert (seen["client_id"], seen["subject"], seen["scopes"], seen["resource"]) == (
        "client-1",
        "ada",
        ["tools:read"],
        url,
    )
    assert seen["expires_at"] > time.time()
    assert seen["claims"]["iss"] == provider.issuer
    assert "eyJ" not in seen["shown"]


def test_the_raw_token_is_there_wherever_the_request_had_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen = get_access_token()
        await PlainTextResponse("" if seen is None else seen.token)(scope, receive, send)

    raw = token(aud="https://api.example/mcp")
    sources = [bearer_header(), cookie("token")]
    client = bare_client(protect(app, "https://api.example/mcp", key=SECRET, sources=sources))
    for headers in ({"authorization": f"bearer  {raw}"}, {"cookie": f"token={raw}"}):
        assert client.get("/mcp", headers=headers).text == raw


def test_a_tool_of_fastmcp_sees_fastmcps_own_token(provider: IdentityProvider) -> None:
    async def call(url: str) -> Any:
        async with FastMCPClient(url, auth=minted(provider, url, "tools:read", azp="a", client_id=None)) as one:
            return (await one.call_tool("whoami", {})).data

    with protected(fast_server(), provider) as url:
        seen = asyncio.run(call(url))
    assert (seen["client_id"], seen["subject"], seen["scopes"]) == ("a", "ada", ["tools:read"])
    assert "eyJ" not in seen["shown"]


def test_a_missing_token_is_told_where_to_get_one(provider: IdentityProvider) -> None:
    with protected(sdk_server(), provider, scopes={"tools:read": "Use tools"}) as url:
        response = post(url, None, rpc("tools/list"))
        assert response.status_code == 401
        challenge = response.headers["www-authenticate"]
        assert "error" not in challenge
        assert 'scope="tools:read"' in challenge
        address = challenge.partition('resource_metadata="')[2].partition('"')[0]
        assert httpx2.get(address).json() == {
            "resource": url,
            "authorization_servers": [provider.issuer],
            "scopes_supported": ["tools:read"],
            "bearer_methods_supported": ["header"],
        }


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        pytest.param({"aud": "http://other.example/mcp"}, "wrong_audience", id="another resource"),
        pytest.param({"aud": None}, "missing_claim", id="no audience"),
        pytest.param({"exp": 1}, "expired", id="expired"),
    ],
)
def test_a_token_that_is_not_for_this_server_is_refused(
    provider: IdentityProvider, claims: dict[str, Any], code: str
) -> None:
    with protected(sdk_server(), provider) as url:
        response = post(url, minted(provider, url, **claims), rpc("tools/list"))
    assert (response.status_code, response.json()["code"]) == (401, code)


def test_a_token_signed_by_a_foreign_key_is_refused(provider: IdentityProvider) -> None:
    with IdentityProvider() as foreign, protected(sdk_server(), provider) as url:
        response = post(url, minted(foreign, url, iss=provider.issuer), rpc("tools/list"))
    assert response.status_code == 401


CALLS = [
    pytest.param(rpc("tools/call", name="delete", arguments={"name": "x"}), "tools:write", id="a tool"),
    pytest.param([rpc("tools/list"), rpc("tools/call", name="delete")], "tools:write", id="the second of a batch"),
    pytest.param(rpc("resources/read", uri="files://secret"), "files:read", id="a resource"),
    pytest.param(rpc("resources/subscribe", uri="files://secret"), "files:read", id="a subscription"),
    pytest.param(rpc("prompts/get", name="greet"), "prompts:read", id="a prompt"),
]


@pytest.mark.parametrize(("body", "needed"), CALLS)
@pytest.mark.parametrize("kind", ["sdk", "fastmcp"])
def test_a_call_without_its_scopes_is_a_403_before_it_is_dispatched(
    provider: IdentityProvider, kind: str, body: Any, needed: str
) -> None:
    demands: dict[str, Any] = {
        "tools": TOOLS,
        "resources": {"files://*": ["files:read"]},
        "prompts": {"greet": ["prompts:read"]},
    }
    server, options = (sdk_server(), demands) if kind == "sdk" else (fast_server(), {})
    with protected(server, provider, **options) as url:
        # What the headers say is not believed.
        response = post(url, minted(provider, url, "tools:read"), body, **{"mcp-name": "whoami", "mcp-method": "ping"})
    assert response.status_code == 403
    assert f'scope="{needed}"' in response.headers["www-authenticate"]
    assert "resource_metadata=" in response.headers["www-authenticate"]
    assert response.json()["code"] == "insufficient_scope"


def test_one_403_names_every_scope_that_the_calls_need(provider: IdentityProvider) -> None:
    with protected(sdk_server(), provider, tools={"delete": ["a", "b"], "erase": ["b", "c"]}) as url:
        batch = [rpc("tools/call", name="delete"), rpc("tools/call", name="erase")]
        response = post(url, minted(provider, url, "a"), batch)
        assert 'scope="a b tools:write c"' in response.headers["www-authenticate"]
        assert has_reached_the_server(post(url, minted(provider, url, "a", "b", "tools:write", "c"), batch))


def test_middleware_of_fastmcp_that_demands_scopes_is_honoured(provider: IdentityProvider) -> None:
    with protected(fast_server(), provider) as url:
        response = post(url, minted(provider, url), rpc("tools/call", name="purge"))
        assert 'scope="tools:write admin"' in response.headers["www-authenticate"]


def test_a_tool_that_fastmcp_does_not_know_is_fastmcps_to_refuse(provider: IdentityProvider) -> None:
    with protected(fast_server(), provider) as url:
        assert has_reached_the_server(post(url, minted(provider, url), rpc("tools/call", name="unknown")))


def test_an_anonymous_call_of_a_tool_that_needs_scopes_is_a_401() -> None:
    resource = ProtectedResource("https://api.example/mcp")
    app = protect(sdk_server(), resource, key="k" * 32, allow_anonymous=True, tools=TOOLS)
    response = bare_client(app).post("/mcp", json=rpc("tools/call", name="delete"))
    assert (response.status_code, response.json()["code"]) == (401, "missing_token")


def test_a_check_that_no_scope_can_satisfy_is_left_to_fastmcp(provider: IdentityProvider) -> None:
    with protected(fast_server(), provider) as url:
        assert has_reached_the_server(post(url, minted(provider, url), rpc("tools/call", name="fire")))


def test_a_call_with_its_scopes_reaches_the_tool(provider: IdentityProvider) -> None:
    async def call(url: str) -> list[str]:
        async with session(url, minted(provider, url, "tools:write", "files:read")) as one:
            results = [await one.call_tool(tool, {"name": "x"}) for tool in ("delete", "erase")]
            return [block.text for result in results for block in result.content if isinstance(block, TextContent)]

    with protected(sdk_server(), provider, tools=TOOLS) as url:
        assert asyncio.run(call(url)) == ["deleted x", "erased x"]


def test_a_tool_checks_again_where_nothing_was_checked_before(provider: IdentityProvider) -> None:
    async def call(url: str) -> None:
        async with session(url, minted(provider, url, "tools:read")) as one:
            for tool in ("delete", "erase"):
                with pytest.raises(MCPError, match="tools:write"):
                    await one.call_tool(tool, {"name": "x"})

    # The app does not show the functions of its tools.
    with protected(sdk_server().streamable_http_app(), provider) as url:
        asyncio.run(call(url))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(
            b'{"method": "tools/list", "method": "tools/call", "params": {"name": "delete"}}', 400, id="twice"
        ),
        pytest.param(b'{"method": "tools/call", "params": {"name": "whoami", "name": "delete"}}', 400, id="name twice"),
        pytest.param(b"{", 400, id="cut"),
        pytest.param(b"\xff", 400, id="not UTF-8"),
        pytest.param(b"[" * 100_000, 400, id="deep"),
        pytest.param(b'{"a": "' + b"x" * 2000 + b'"}', 413, id="large"),
    ],
)
def test_a_body_that_can_be_read_in_two_ways_is_not_passed_on(
    provider: IdentityProvider, body: bytes, status: int
) -> None:
    limit = 1000 if status == 413 else 4 * 1024 * 1024
    with protected(sdk_server(), provider, tools=TOOLS, max_body=limit) as url:
        response = post(url, minted(provider, url), body)
    assert response.status_code == status
    assert response.json()["error"]["code"] in (-32700, -32600)


def test_a_number_that_python_does_not_read_hides_no_call(provider: IdentityProvider) -> None:
    body = b'{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"delete"}}' % (b"9" * 5000)
    with protected(sdk_server(), provider, tools=TOOLS) as url:
        assert post(url, minted(provider, url), body).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"method": 1},
        {"method": "tools/call"},
        {"method": "tools/call", "params": [1]},
        {"method": "tools/call", "params": {"name": 1}},
        "text",
        [1],
    ],
)
def test_what_names_no_call_is_the_servers_to_refuse(provider: IdentityProvider, body: Any) -> None:
    with protected(sdk_server(), provider, tools=TOOLS) as url:
        assert post(url, minted(provider, url), body).status_code in (400, 404)


def test_a_form_is_not_read_and_the_sdk_refuses_it(provider: IdentityProvider) -> None:
    call = json.dumps(rpc("tools/call", name="delete")).encode()
    with protected(sdk_server(), provider, tools=TOOLS) as url:
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            response = post(url, minted(provider, url), call, **{"content-type": kind})
            assert response.status_code in (400, 415)


@pytest.mark.parametrize("part", [b"", b"5"])
def test_what_a_client_sends_before_it_goes_away_is_not_passed_on(part: bytes) -> None:
    app = protect(PlainTextResponse("ok"), "https://api.example/mcp", key="k" * 32, allow_anonymous=True)
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": part, "more_body": True}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400


def test_any_app_can_be_protected_and_sees_who_calls() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["user"].is_authenticated, await receive(), await receive()))
        await PlainTextResponse("ok")(scope, receive, send)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None: ...

    protected_app = protect(app, "https://api.example/mcp", key="k" * 32, allow_anonymous=True)
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": [], "query_string": b""}
    asyncio.run(protected_app(scope, receive, send))
    body = {"type": "http.request", "body": b"{}", "more_body": False}
    assert seen == [(False, body, body)]


@pytest.mark.parametrize(
    ("server", "options", "message"),
    [
        (1, {}, "server must be"),
        (print, {"tools": ["delete"]}, "tools must be a dict"),
        (print, {"prompts": {"greet": [1]}}, "prompts"),
        (print, {"resource": ProtectedResource("https://a.example/"), "scopes": ["a"]}, "ProtectedResource"),
    ],
)
def test_what_cannot_work_is_said_at_construction(server: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        protect(server, **{"resource": "https://api.example/mcp", "key": "k" * 32, **options})


def test_a_missing_sdk_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jwt_middleware.mcp")
    monkeypatch.setitem(sys.modules, "mcp.server.auth.provider", None)
    with pytest.raises(ConfigurationError, match=r"asgi-jwt-middleware\[mcp\]"):
        importlib.import_module("jwt_middleware.mcp")


def test_no_raw_token_reaches_the_log(provider: IdentityProvider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def call(url: str, raw: str) -> None:
        async with session(url, raw) as one:
            await one.call_tool("whoami", {})

    with protected(sdk_server(), provider) as url:
        raw = minted(provider, url, "tools:read")
        asyncio.run(call(url, raw))
    assert raw.rpartition(".")[2] not in "\n".join(record.getMessage() for record in caplog.records)


def test_a_stream_ends_with_its_token(provider: IdentityProvider) -> None:
    async def listen(url: str) -> float:
        async with session(url, minted(provider, url)) as one, httpx2.AsyncClient(timeout=20) as http:
            assert one is not None
            begun = time.monotonic()
            raw = minted(provider, url, exp=int(time.time()) + 3)
            headers = {"authorization": f"Bearer {raw}", "accept": "text/event-stream"}
            initialized = await http.post(
                url,
                json=rpc(
                    "initialize",
                    protocolVersion="2025-06-18",
                    capabilities={},
                    clientInfo={"name": "t", "version": "1"},
                ),
                headers={**headers, "accept": "application/json, text/event-stream"},
            )
            headers["mcp-session-id"] = initialized.headers["mcp-session-id"]
            async with http.stream("GET", url, headers=headers) as response:
                assert response.status_code == 200
                async for _ in response.aiter_bytes():
                    pass
            return time.monotonic() - begun

    with protected(sdk_server(), provider, leeway=0) as url:
        assert asyncio.run(listen(url)) < 10


def test_the_older_transport_is_checked_and_ends_with_its_token(provider: IdentityProvider) -> None:
    async def listen(url: str) -> None:
        raw = minted(provider, url, exp=int(time.time()) + 3)
        async with (
            httpx2.AsyncClient(timeout=20, headers={"authorization": f"Bearer {raw}"}) as http,
            http.stream("GET", url) as response,
        ):
            lines = response.aiter_lines()
            while not (line := await anext(lines)).startswith("data:"):
                pass
            messages = urljoin(url, line.removeprefix("data:").strip())
            refused = await http.post(messages, json=rpc("tools/call", name="delete"))
            assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
            eve = {"authorization": f"Bearer {minted(provider, url, 'tools:write', sub='eve')}"}
            assert (await http.post(messages, json=rpc("ping"), headers=eve)).status_code == 404
            assert (await http.post(messages, json=rpc("ping"))).status_code == 202
            async for _ in lines:
                pass

    port = free_port()
    url = f"http://127.0.0.1:{port}/sse"
    app = protect(sdk_server().sse_app(), url, issuer=provider.issuer, tools=TOOLS, leeway=0)
    with serving(app, port):
        asyncio.run(asyncio.wait_for(listen(url), 15))
