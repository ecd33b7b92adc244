"""Unmodified MCP clients, a real identity provider, and a protected server: the whole way to a tool call."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from fastmcp import Client as FastMCPClient
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp_types import TextContent
from pydantic import AnyUrl
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jwt_middleware import ProtectedResource
from jwt_middleware.mcp import protect

from ..support.documents import blocks
from ..support.serving import free_port, serving

CALLBACK = "http://127.0.0.1:1/callback"
SCOPES = {"tools:read": "Use tools", "tools:write": "Change things"}


@pytest.fixture(scope="module")
def library() -> Path:
    """The packages node and oidc-provider, in a folder of npm's that OIDC_PROVIDER names."""
    path = Path(os.environ.get("OIDC_PROVIDER", "")) / "node_modules"
    if not (path / "oidc-provider").exists():
        if os.environ.get("CI"):
            pytest.fail("OIDC_PROVIDER must name a folder with npm's oidc-provider")
        pytest.skip("OIDC_PROVIDER names no folder with npm's oidc-provider")
    return path


@contextmanager
def identity_provider(library: Path, resource: str, scopes: str = " ".join(SCOPES)) -> Iterator[str]:
    port = free_port()
    program = Path(__file__).with_name("provider.mjs")
    node, package = library / ".bin" / "node", library / "oidc-provider" / "lib" / "index.js"
    command = [str(node), str(program), str(package), str(port), resource, scopes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().strip() == "ready"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


class Storage:
    """Keeps what the client was given."""

    def __init__(self, client: OAuthClientInformationFull | None = None) -> None:
        self.tokens: OAuthToken | None = None
        self.client = client

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Browser:
    """Follows the provider's redirects to the client's callback, as the user's browser does."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._result: AuthorizationCodeResult | None = None

    async def visit(self, address: str) -> None:
        self.asked.append(parse_qs(urlsplit(address).query).get("scope", [""])[0])
        async with httpx2.AsyncClient() as http:
            for _ in range(20):
                response = await http.get(address)
                assert response.status_code in (302, 303), response.text
                address = urljoin(address, response.headers["location"])
                if address.startswith(CALLBACK):
                    break
        query = parse_qs(urlsplit(address).query)
        assert "code" in query, address
        self._result = AuthorizationCodeResult(
            code=query["code"][0], state=query["state"][0], iss=query.get("iss", [None])[0]
        )

    async def result(self) -> AuthorizationCodeResult:
        assert self._result is not None
        return self._result


def oauth(url: str, storage: Storage, browser: Browser) -> OAuthClientProvider:
    metadata = OAuthClientMetadata(
        client_name="test",
        redirect_uris=[AnyUrl(CALLBACK)],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        token_endpoint_auth_method="none",
    )
    return OAuthClientProvider(url, metadata, storage, browser.visit, browser.result)


def server() -> MCPServer:
    one = MCPServer("tools")

    @one.tool()
    def look() -> str:
        return "looked"

    @one.tool()
    def change() -> str:
        return "changed"

    return one


@contextmanager
def protected(issuer: str, resource: str) -> Iterator[None]:
    # Nothing but the first scope is asked for at first: so the second one needs a step-up.
    described = ProtectedResource(resource, scopes=SCOPES, first_scopes=["tools:read"])
    app = protect(server(), described, issuer=issuer, tools={"change": ["tools:read", "tools:write"]})
    with serving(app, urlsplit(resource).port):
        yield


async def call(url: str, storage: Storage, browser: Browser, *names: str, **arguments: str) -> list[str]:
    """What the tools called ``names`` say to a client of the SDK."""
    async with (
        httpx2.AsyncClient(auth=oauth(url, storage, browser), timeout=30) as http,
        streamable_http_client(url, http_client=http) as (read, write, *_),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        results = [await session.call_tool(tool, arguments) for tool in names]
    return [block.text for result in results for block in result.content if isinstance(block, TextContent)]


async def call_by_fastmcp(url: str, storage: Storage, browser: Browser, *names: str) -> list[str]:
    """What they say to a client of FastMCP."""
    async with FastMCPClient(url, auth=oauth(url, storage, browser)) as client:
        results = [await client.call_tool(name, {}) for name in names]
    return [block.text for result in results for block in result.content if isinstance(block, TextContent)]


CLIENTS = [pytest.param(call, id="sdk"), pytest.param(call_by_fastmcp, id="fastmcp")]


@pytest.mark.parametrize("run", CLIENTS)
def test_a_client_goes_from_401_through_registration_to_a_tool_call(library: Path, run: Any) -> None:
    browser = Browser()
    resource = f"http://127.0.0.1:{free_port()}/mcp"
    with identity_provider(library, resource) as issuer, protected(issuer, resource):
        assert asyncio.run(run(resource, Storage(), browser, "look")) == ["looked"]
    assert asked(browser) == [{"tools:read"}]


@pytest.mark.parametrize("run", CLIENTS)
def test_a_client_that_lacks_a_scope_goes_through_a_step_up(library: Path, run: Any) -> None:
    browser = Browser()
    resource = f"http://127.0.0.1:{free_port()}/mcp"
    with identity_provider(library, resource) as issuer, protected(issuer, resource):
        storage = Storage(
            OAuthClientInformationFull(client_id="known", redirect_uris=[AnyUrl(CALLBACK)], issuer=issuer)
        )
        assert asyncio.run(run(resource, storage, browser, "look", "change")) == ["looked", "changed"]
    assert asked(browser) == [{"tools:read"}, {"tools:read", "tools:write"}]


class Transcript:
    """An app in front of another that writes down what is asked and answered."""

    def __init__(self, app: ASGIApp, browser: Browser) -> None:
        self._app = app
        self._browser = browser
        self._logins = 0
        self.lines: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The client opens its stream of notifications beside everything else, at any moment.
        if scope["type"] != "http" or (scope["method"], scope["path"]) == ("GET", "/mcp"):
            await self._app(scope, receive, send)
            return
        called: list[str] = []

        async def receive_and_read() -> Message:
            message = await receive()
            if message["type"] == "http.request" and message["body"]:
                body = json.loads(message["body"])
                called.extend([body["method"], *filter(None, [body.get("params", {}).get("name")])])
            return message

        async def send_and_write(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._write(" ".join([scope["method"], scope["path"], *called]), message)
            await send(message)

        await self._app(scope, receive_and_read, send_and_write)

    def _write(self, asked: str, answer: Message) -> None:
        for scopes in self._browser.asked[self._logins :]:
            granted = " ".join(name for name in ("files:read", "files:write") if name in scopes.split())
            how = "consents" if self._logins else "logs in"
            self.lines.append(f"(the user {how}, and the provider grants {granted})")
            self._logins += 1
        self.lines.append(f"{asked} -> {answer['status']}")
        self.lines += [value.decode() for name, value in answer["headers"] if name == b"www-authenticate"]


def test_the_documentation_shows_what_a_client_does_at_the_server_that_it_shows(library: Path) -> None:
    browser, resource = Browser(), f"http://127.0.0.1:{free_port()}/mcp"
    shown = {block.caption: block for block in blocks("docs/mcp.rst")}
    with identity_provider(library, resource, "files:read files:write") as issuer:
        program = shown["server"].text.replace("https://api.example/mcp", resource)
        names: dict[str, Any] = {}
        exec(program.replace("https://login.example", issuer), names)
        transcript = Transcript(names["app"], browser)
        known = OAuthClientInformationFull(client_id="known", redirect_uris=[AnyUrl(CALLBACK)], issuer=issuer)
        with serving(transcript, urlsplit(resource).port):
            results = asyncio.run(call(resource, Storage(known), browser, "read", "delete", name="a"))
    assert results == ["the content of a", "deleted a"]
    seen = " ".join(transcript.lines).replace(resource.removesuffix("/mcp"), "https://api.example")
    assert seen == " ".join(shown["transcript"].text.split())


def asked(browser: Browser) -> list[set[str]]:
    """The scopes of the resource that the client asked for, each time."""
    return [set(scopes.split()) & SCOPES.keys() for scopes in browser.asked]
