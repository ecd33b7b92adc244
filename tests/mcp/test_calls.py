"""Which scopes does a JSON-RPC request need? Asked in every way that a client could try to hide what it calls."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastmcp import FastMCP
from fastmcp.server.auth import require_scopes as fastmcp_scopes
from fastmcp.server.transforms import ToolTransform
from fastmcp.tools.tool_transform import ToolTransformConfig
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from jwt_middleware.mcp import protect

from ..support import bare_client, bearer
from ..support.frameworks import SECRET, token
from .calls import URL, has_reached_the_server, post, rpc

DEMANDS: dict[str, Any] = {
    "tools": {"delete": ["w"], "admin_*": ["w"]},
    "resources": {
        "files://secret": ["w"],
        "files://private/*": ["w"],
        "files://a%20b": ["w"],
        "notes://{user}/private/{name}": ["w"],
    },
    "prompts": {"greet": ["w"]},
}


def reading(scope: str = "r") -> dict[str, str]:
    return {**bearer(token(aud=URL, scope=scope)), "content-type": "application/json"}


@pytest.fixture(scope="module")
def plain() -> TestClient:
    """An app that answers 200 to whatever reaches it."""
    return bare_client(protect(PlainTextResponse("reached"), URL, key=SECRET, **DEMANDS))


def completion(**reference: str) -> dict[str, Any]:
    return rpc("completion/complete", ref=reference, argument={"name": "a", "value": ""})


def listen(*uris: str) -> dict[str, Any]:
    return rpc("subscriptions/listen", notifications={"resourceSubscriptions": list(uris)})


HIDDEN: dict[str, Any] = {
    "plain": rpc("tools/call", name="delete"),
    "a pattern": rpc("tools/call", name="admin_purge"),
    "escaped": b'{"m\\u0065thod": "t\\u006fols/call", "params": {"n\\u0061me": "d\\u0065lete"}}',
    "nested": {**rpc("tools/call", name="delete", arguments={"name": "look", "method": "ping"}), "name": "look"},
    "a notification": {"method": "tools/call", "params": {"name": "delete"}},
    "UTF-16": json.dumps(rpc("tools/call", name="delete")).encode("utf-16"),
    "with a byte order mark": json.dumps(rpc("tools/call", name="delete")).encode("utf-8-sig"),
    "in a batch": [rpc("ping"), [], 5, rpc("tools/call", name="look"), rpc("tools/call", name="delete")],
    "a resource": rpc("resources/read", uri="files://secret"),
    "a resource whose demand is percent-encoded": rpc("resources/read", uri="files://a b"),
    "a resource, percent-encoded": rpc("resources/read", uri="files://s%65cret"),
    "a pattern, percent-encoded": rpc("resources/read", uri="files://private%2Fx"),
    "a template": rpc("resources/read", uri="notes://ada/private/diary"),
    "a template, percent-encoded": rpc("resources/read", uri="notes://ada/pr%69vate/diary"),
    "a subscription": rpc("resources/subscribe", uri="files://private/x"),
    "a listening stream": listen("files://open", "files://secret"),
    "a listening stream, by the SDK's own name": rpc(
        "subscriptions/listen", notifications={"resource_subscriptions": ["files://secret"]}
    ),
    "a listening stream, by both names": rpc(
        "subscriptions/listen",
        notifications={"resourceSubscriptions": ["files://open"], "resource_subscriptions": ["files://secret"]},
    ),
    "a completion for a prompt": completion(type="ref/prompt", name="greet"),
    "a completion for a resource": completion(type="ref/resource", uri="files://secret"),
    "a completion for a template": completion(type="ref/resource", uri="notes://{user}/private/{name}"),
    "a prompt": rpc("prompts/get", name="greet"),
}


@pytest.mark.parametrize("body", HIDDEN.values(), ids=HIDDEN)
def test_a_call_is_found_however_it_is_written(plain: TestClient, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {**reading(), "mcp-method": "ping", "mcp-name": "look"}
    response = plain.post("/mcp", content=content, headers=headers)
    assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
    assert 'scope="w"' in response.headers["www-authenticate"]
    assert plain.post("/mcp", content=content, headers=reading("w")).text == "reached"


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded, application/json",
        "application/x-www-form-urlencodedx",
        "multipart/form-data-json",
        "text/plain",
        "",
    ],
)
def test_a_type_that_only_resembles_a_form_hides_no_call(plain: TestClient, kind: str) -> None:
    body = json.dumps(rpc("tools/call", name="delete")).encode()
    assert plain.post("/mcp", content=body, headers={**reading(), "content-type": kind}).status_code == 403


@pytest.mark.parametrize("added", ["?x=1", "?", "#part", "?x=1#part", "\n", "\n?x=1", "#part?x=1"])
@pytest.mark.parametrize("make", [MCPServer, FastMCP], ids=["sdk", "fastmcp"])
def test_nothing_that_is_added_to_a_uri_hides_its_resource(make: Any, added: str) -> None:
    def diary(user: str) -> str:
        return "dear diary"

    server = make("server")
    server.resource("notes://{user}/diary")(diary)
    server.resource("files://{user}")(diary)
    demands = {"notes://{user}/diary": ["w"], "files://secret": ["w"]}
    with bare_client(protect(server, URL, key=SECRET, resources=demands)) as client:
        for uri in ("notes://ada/diary", "files://secret"):
            response = post(client, rpc("resources/read", uri=f"{uri}{added}"), "r")
            assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
        assert has_reached_the_server(post(client, rpc("resources/read", uri=f"files://open{added}"), "r"))


def test_a_broader_scope_implies_the_narrower_ones_for_a_call() -> None:
    hierarchy = {"all": ["w", "r"]}
    app = protect(PlainTextResponse("reached"), URL, key=SECRET, scope_implies=hierarchy, **DEMANDS)
    response = bare_client(app).post("/mcp", json=rpc("tools/call", name="delete"), headers=reading("all"))
    assert response.text == "reached"


def test_chunks_hide_no_call(plain: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for byte in json.dumps(rpc("tools/call", name="delete")).encode():
            yield bytes([byte])

    assert plain.post("/mcp", content=chunks(), headers=reading()).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        rpc("tools/list"),
        rpc("tools/call", name="look"),
        rpc("tools/call", name="Delete"),
        rpc("resources/read", uri="files://open"),
        rpc("resources/read", uri="notes://ada/public/diary"),
        listen(),
        rpc("subscriptions/listen", notifications={"resourceSubscriptions": "files://secret"}),
        rpc("subscriptions/listen", notifications={"resourceSubscriptions": [5]}),
        rpc("subscriptions/listen", notifications=5),
        rpc("subscriptions/listen"),
        completion(type="ref/prompt", name="other"),
        completion(type="ref/other", name="greet"),
        completion(),
        rpc("completion/complete", ref=5),
    ],
    ids=json.dumps,
)
def test_what_needs_no_scope_goes_on(plain: TestClient, body: Any) -> None:
    assert plain.post("/mcp", json=body, headers=reading()).text == "reached"


def test_more_calls_than_anybody_needs_are_refused(plain: TestClient) -> None:
    batch = [rpc("tools/call", name=f"look {number}") for number in range(101)]
    assert plain.post("/mcp", json=batch[:100], headers=reading()).text == "reached"
    response = plain.post("/mcp", json=batch, headers=reading())
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)


def test_names_that_take_long_to_compare_are_refused(plain: TestClient) -> None:
    names = ["files://" + "%" * 65_528, "files://" + "%" * 65_529]
    assert plain.post("/mcp", json=rpc("resources/read", uri=names[0]), headers=reading()).text == "reached"
    for body in (rpc("resources/read", uri=names[1]), [rpc("prompts/get", name=name * 40_000) for name in "ab"]):
        response = plain.post("/mcp", json=body, headers=reading())
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_a_body_without_content_calls_nothing(plain: TestClient, body: bytes) -> None:
    assert plain.post("/logout", content=body, headers=reading()).text == "reached"
    assert plain.post("/logout", content=body).status_code == 401


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "HEAD"])
def test_other_methods_are_the_servers_to_answer(plain: TestClient, method: str) -> None:
    assert plain.request(method, "/mcp", headers=reading()).status_code == 200
    assert plain.request(method, "/mcp").status_code == 401


def fast_server() -> FastMCP:
    """A server whose tools, resources and prompts are reached by other names than those of their functions."""
    inner = FastMCP("inner")

    @inner.tool(auth=fastmcp_scopes("w"))
    def delete() -> str:
        return "deleted"

    @inner.tool(auth=fastmcp_scopes("w"))
    def raze() -> str:
        return "razed"

    @inner.resource("files://{name}", auth=fastmcp_scopes("w"))
    def read(name: str) -> str:
        return name

    @inner.prompt(auth=fastmcp_scopes("w"))
    def greet() -> str:
        return "hello"

    outer = FastMCP("outer")
    outer.mount(inner, namespace="inner")

    @outer.tool(auth=fastmcp_scopes("w"))
    def purge() -> str:
        return "purged"

    @outer.resource("notes://{name}", auth=fastmcp_scopes("w"))
    def note(name: str) -> str:
        return name

    @outer.tool(version="1")
    def build() -> str:
        return "built"

    @outer.tool(name="build", version="2", auth=fastmcp_scopes("w"))
    def build_again() -> str:
        return "built again"

    names = {"purge": "wipe", "inner_raze": "raze"}
    outer.add_transform(ToolTransform({old: ToolTransformConfig(name=new) for old, new in names.items()}))
    return outer


@pytest.fixture(scope="module")
def fast() -> Iterator[TestClient]:
    with bare_client(protect(fast_server(), URL, key=SECRET, tools={"wipe": ["x"]})) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "needed"),
    [
        pytest.param(rpc("tools/call", name="inner_delete"), "w", id="a tool of a mounted server"),
        pytest.param(rpc("resources/read", uri="files://inner/a"), "w", id="a template of a mounted server"),
        pytest.param(rpc("prompts/get", name="inner_greet"), "w", id="a prompt of a mounted server"),
        pytest.param(rpc("tools/call", name="raze"), "w", id="a tool of a mounted server, with another name"),
        pytest.param(rpc("tools/call", name="wipe"), "x w", id="a tool with another name"),
        pytest.param(rpc("resources/read", uri="notes://a"), "w", id="a template"),
        pytest.param(listen("notes://a"), "w", id="a listening stream"),
        pytest.param(completion(type="ref/resource", uri="notes://{name}"), "w", id="a completion"),
    ],
)
def test_what_fastmcp_demands_is_found_by_any_name(fast: TestClient, body: Any, needed: str) -> None:
    response = post(fast, body, "r")
    assert response.status_code == 403
    assert f'scope="{needed}"' in response.headers["www-authenticate"]
    assert has_reached_the_server(post(fast, body, needed))


@pytest.mark.parametrize("name", ["unknown", "__0123456789ab_delete"])
def test_what_fastmcp_does_not_know_is_its_own_to_refuse(fast: TestClient, name: str) -> None:
    assert has_reached_the_server(post(fast, rpc("tools/call", name=name), "r"))


def mounted(app: Any) -> Starlette:
    return Starlette(routes=[Route("/", PlainTextResponse("")), Mount("/", app)], lifespan=app.lifespan)


@pytest.mark.parametrize(
    "wrap",
    [lambda app: app, GZipMiddleware, mounted, lambda app: GZipMiddleware(mounted(app))],
    ids=["as it is", "in a middleware", "in another app", "in both"],
)
def test_an_app_that_fastmcp_has_made_is_known_as_fastmcps(wrap: Any) -> None:
    with bare_client(protect(wrap(fast_server().http_app()), URL, key=SECRET)) as client:
        response = post(client, rpc("tools/call", name="inner_delete"), "r")
        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
        assert has_reached_the_server(post(client, rpc("tools/call", name="inner_delete"), "w"))


def test_in_an_app_with_several_fastmcp_servers_the_names_in_the_request_are_checked() -> None:
    servers = [fast_server().http_app(), fast_server().http_app()]
    app = Starlette(routes=[Mount(f"/{number}", server) for number, server in enumerate(servers)])
    client = bare_client(protect(app, URL, key=SECRET, tools={"inner_delete": ["x"]}))
    response = post(client, rpc("tools/call", name="inner_delete"), "r")
    assert 'scope="x"' in response.headers["www-authenticate"]


def test_a_version_that_the_token_may_call_is_called(fast: TestClient) -> None:
    assert has_reached_the_server(post(fast, rpc("tools/call", name="build"), "r"))


@pytest.mark.parametrize("make", [MCPServer, FastMCP], ids=["sdk", "fastmcp"])
@pytest.mark.parametrize(
    "url",
    [
        *(f"https://api.example{path}" for path in ("", "/", "/mcp", "/files/mcp", "/mcp/", "/a%20b")),
        "https://API.example/mcp",
    ],
)
def test_a_server_answers_at_the_resources_own_address(make: Any, url: str) -> None:
    path = urlsplit(url).path
    initialize = rpc("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=CLIENT)
    headers = {**bearer(token(aud=url)), "accept": "application/json, text/event-stream"}
    with TestClient(protect(make("server"), url, key=SECRET), base_url="https://api.example") as client:
        assert client.post(path or "/", json=initialize, headers=headers).status_code == 200
        foreign = client.post(path or "/", json=initialize, headers={**headers, "origin": "https://evil.example"})
        assert foreign.status_code == 403
        own = client.post(path or "/", json=initialize, headers={**headers, "origin": "https://api.example"})
        assert own.status_code == 200
        rebound = client.post(path or "/", json=initialize, headers={**headers, "host": "evil.example"})
        assert rebound.status_code == 421


CLIENT = {"name": "test", "version": "1"}


@pytest.mark.parametrize("make", [MCPServer, FastMCP], ids=["sdk", "fastmcp"])
def test_a_session_belongs_to_whoever_opened_it(make: Any) -> None:
    initialize = rpc("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=CLIENT)
    accepted = {"accept": "application/json, text/event-stream"}
    app = protect(make("server"), URL, key=SECRET, allow_anonymous=True)
    with TestClient(app, base_url="https://api.example") as client:
        ada = {**bearer(token(aud=URL, client_id="one")), **accepted}
        session = {"mcp-session-id": client.post("/mcp", json=initialize, headers=ada).headers["mcp-session-id"]}
        eve = {**bearer(token(aud=URL, client_id="one", sub="eve")), **accepted}
        other = {**bearer(token(aud=URL, client_id="two")), **accepted}
        for headers in (eve, other, accepted):
            ping = client.post("/mcp", json=rpc("ping"), headers={**headers, **session})
            ended = client.delete("/mcp", headers={**headers, **session})
            assert (ping.status_code, ended.status_code) == (404, 404)
        assert client.post("/mcp", json=rpc("ping"), headers={**ada, **session}).status_code == 200
