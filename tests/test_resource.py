"""How does a client find out who issues tokens for this service?"""

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from jwt_middleware import ConfigurationError, JWTMiddleware, ProtectedResource, Provider, cookie, requires

from .support import NOW, SECRET, bare_client, bearer, client, echo, logged, token

MCP = "https://api.example/mcp"


@pytest.mark.parametrize(
    ("identifier", "path", "url"),
    [
        # RFC 9728 section 3.1, its two examples first.
        (
            "https://resource.example.com",
            "/.well-known/oauth-protected-resource",
            "https://resource.example.com/.well-known/oauth-protected-resource",
        ),
        (
            "https://resource.example.com/resource1",
            "/.well-known/oauth-protected-resource/resource1",
            "https://resource.example.com/.well-known/oauth-protected-resource/resource1",
        ),
        (
            "https://api.example/",
            "/.well-known/oauth-protected-resource",
            "https://api.example/.well-known/oauth-protected-resource",
        ),
        (
            "http://127.0.0.1:8000/a/b/",
            "/.well-known/oauth-protected-resource/a/b/",
            "http://127.0.0.1:8000/.well-known/oauth-protected-resource/a/b/",
        ),
        (
            "https://[::1]/a%20b/.c/d..;e=1,(2)",
            "/.well-known/oauth-protected-resource/a%20b/.c/d..;e=1,(2)",
            "https://[::1]/.well-known/oauth-protected-resource/a%20b/.c/d..;e=1,(2)",
        ),
    ],
)
def test_the_address_of_the_document_has_the_well_known_path_behind_the_host(
    identifier: str, path: str, url: str
) -> None:
    resource = ProtectedResource(identifier)
    assert (resource.metadata_path, resource.metadata_url) == (path, url)
    assert resource.paths == (path,)
    assert resource.document()["resource"] == identifier


def test_the_root_has_the_document_too_where_it_is_asked_for() -> None:
    well_known = "/.well-known/oauth-protected-resource"
    assert ProtectedResource(MCP, root=True).paths == (f"{well_known}/mcp", well_known)
    assert ProtectedResource("https://api.example", root=True).paths == (well_known,)


@pytest.mark.parametrize(
    "identifier",
    [
        pytest.param("http://api.example/mcp", id="plain http"),
        pytest.param("https://api.example/mcp#x", id="fragment"),
        pytest.param("https://api.example/mcp#", id="empty fragment"),
        pytest.param("https://api.example/mcp?a=b", id="query"),
        pytest.param("https://user@api.example/", id="user"),
        pytest.param("https:///mcp", id="no host"),
        pytest.param("https://[::1/mcp", id="broken host"),
        pytest.param("https://api.example:x/", id="broken port"),
        pytest.param("https://api.example/m cp", id="space"),
        pytest.param("https://api.example/ü", id="not ASCII"),
        pytest.param('https://api.example/m"cp', id="quotation mark"),
        pytest.param("https://api.example/m\\cp", id="backslash"),
        pytest.param("https://api.example/<mcp>", id="angle brackets"),
        pytest.param("https://api.example/100%", id="broken percent-encoding"),
        pytest.param("https://api.example/a/../mcp", id="dot segment"),
        pytest.param("https://api.example/./mcp", id="single dot segment"),
        pytest.param("https://api.example/a/%2e%2E/mcp", id="encoded dot segment"),
        pytest.param("urn:api", id="no URL"),
        pytest.param("", id="empty"),
        pytest.param(None, id="nothing"),
    ],
)
def test_an_identifier_that_no_client_could_use_is_refused(identifier: Any) -> None:
    with pytest.raises(ConfigurationError, match="resource must be the https URL"):
        ProtectedResource(identifier)


def test_the_document_says_what_the_configuration_says() -> None:
    resource = ProtectedResource(
        MCP,
        scopes={"tools:read": "Use tools", "tools:write": "Change tools"},
        name="Tools",
        documentation="https://api.example/docs",
        policy_uri="https://api.example/policy",
        tos_uri="https://api.example/terms",
        jwks_uri="https://api.example/jwks.json",
        metadata={"dpop_bound_access_tokens_required": False},
    )
    assert resource.document(["https://login.example", "urn:local", "https://login.example"]) == {
        "resource": MCP,
        "authorization_servers": ["https://login.example"],
        "scopes_supported": ["tools:read", "tools:write"],
        "bearer_methods_supported": ["header"],
        "jwks_uri": "https://api.example/jwks.json",
        "resource_name": "Tools",
        "resource_documentation": "https://api.example/docs",
        "resource_policy_uri": "https://api.example/policy",
        "resource_tos_uri": "https://api.example/terms",
        "dpop_bound_access_tokens_required": False,
    }


def test_what_is_not_configured_is_not_in_the_document() -> None:
    assert ProtectedResource(MCP).document() == {"resource": MCP, "bearer_methods_supported": ["header"]}


def test_the_document_names_what_the_scopes_of_the_resource_imply() -> None:
    resource = ProtectedResource(MCP, scopes=["orders"])
    hierarchy = {"orders": ["orders:write"], "orders:write": ["orders:read"], "other": ["another"]}
    service = client(resource=resource, audience=MCP, scope_implies=hierarchy)
    document = service.get(f"{WELL_KNOWN}/mcp").json()
    assert document["scopes_supported"] == ["orders", "orders:write", "orders:read"]
    (route,) = resource.routes(implied_scopes=["orders:read"])
    outer = TestClient(Starlette(routes=[route]))
    assert outer.get(f"{WELL_KNOWN}/mcp").json()["scopes_supported"] == ["orders", "orders:read"]


def test_authorization_servers_can_be_others_than_the_issuers() -> None:
    resource = ProtectedResource(MCP, authorization_servers=["https://proxy.example"])
    assert resource.document(["https://login.example"])["authorization_servers"] == ["https://proxy.example"]


def test_a_client_asks_for_all_scopes_first_unless_told_otherwise() -> None:
    assert ProtectedResource(MCP, scopes=["a", "b"]).first_scopes == ("a", "b")
    assert ProtectedResource(MCP, scopes=["a", "b"], first_scopes=["a"]).first_scopes == ("a",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scopes": ["offline_access"]}, "offline_access"),
        ({"first_scopes": ["offline_access"]}, "offline_access"),
        ({"scopes": [1]}, "scopes"),
        ({"name": ""}, "resource_name"),
        ({"root": 1}, "root"),
        ({"authorization_servers": []}, "authorization_servers"),
        ({"metadata": {"resource": "x"}}, "derived from the other settings"),
        ({"metadata": {"x": object()}}, "nothing but JSON"),
        ({"metadata": [1]}, "must be a dict"),
    ],
)
def test_what_cannot_work_is_said_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ProtectedResource(MCP, **options)


def test_routes_serve_the_document_to_any_origin() -> None:
    resource = ProtectedResource(MCP, scopes=["a"], root=True)
    client = TestClient(Starlette(routes=resource.routes(["https://login.example"])))
    for path in resource.paths:
        response = client.get(path, headers={"host": "evil.example", "x-forwarded-host": "evil.example"})
        assert response.json() == resource.document(["https://login.example"])
        assert response.headers["content-type"] == "application/json"
        assert response.headers["access-control-allow-origin"] == "*"
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(response.content))
        preflight = client.options(
            path, headers={"origin": "https://a.example", "access-control-request-method": "GET"}
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-methods"] == "GET, HEAD"
        assert client.post(path).status_code == 405


def test_the_representation_names_the_resource() -> None:
    assert repr(ProtectedResource(MCP)) == "ProtectedResource('https://api.example/mcp')"


def served(**options: Any) -> TestClient:
    resource = ProtectedResource(MCP, scopes=["tools:read", "tools:write"], first_scopes=["tools:read"], root=True)
    return client(issuer="https://login.example", **{"audience": MCP, "resource": resource, **options})


WELL_KNOWN = "/.well-known/oauth-protected-resource"


@pytest.mark.parametrize("path", [f"{WELL_KNOWN}/mcp", WELL_KNOWN])
@pytest.mark.parametrize("headers", [{}, bearer("bad"), bearer(token(aud=MCP, iss="https://login.example"))])
def test_the_document_needs_no_token_and_takes_nothing_from_the_request(path: str, headers: dict[str, str]) -> None:
    forged = {"host": "evil.example", "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
    response = served().get(path, headers={**headers, **forged})
    assert response.json() == {
        "resource": MCP,
        "authorization_servers": ["https://login.example"],
        "scopes_supported": ["tools:read", "tools:write"],
        "bearer_methods_supported": ["header"],
    }


def test_the_document_is_open_for_reading_alone() -> None:
    assert served().post(f"{WELL_KNOWN}/mcp").status_code == 401
    assert served().options(f"{WELL_KNOWN}/mcp").status_code == 204
    assert served().head(f"{WELL_KNOWN}/mcp").status_code == 200
    for path in (f"{WELL_KNOWN}/mcp/", f"{WELL_KNOWN}/other", f"/x{WELL_KNOWN}/mcp", "/mcp"):
        assert served().get(path).status_code == 401


def test_only_a_resource_without_a_path_is_at_the_root() -> None:
    one = client(resource=ProtectedResource(MCP), audience=MCP)
    assert one.get(WELL_KNOWN).status_code == 401
    assert client(resource=ProtectedResource("https://api.example"), audience="x").get(WELL_KNOWN).status_code == 200


def test_every_bearer_challenge_names_the_document() -> None:
    url = f"https://api.example{WELL_KNOWN}/mcp"
    missing = served().get("/mcp")
    assert missing.headers["www-authenticate"] == (f'Bearer realm="api", resource_metadata="{url}", scope="tools:read"')
    bad = served().get("/mcp", headers=bearer("bad"))
    assert bad.headers["www-authenticate"].endswith(f'resource_metadata="{url}", scope="tools:read"')
    ambiguous = served().get("/mcp", headers=[("authorization", "Bearer a"), ("authorization", "Bearer b")])
    assert ambiguous.headers["www-authenticate"].endswith(f'resource_metadata="{url}"')


def test_a_challenge_for_missing_scopes_names_them_and_no_others() -> None:
    @requires("tools:write")
    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    raw = token(aud=MCP, iss="https://login.example", scope="tools:read")
    response = client(
        app, issuer="https://login.example", audience=MCP, resource=ProtectedResource(MCP, scopes=["tools:read"])
    ).get("/mcp", headers=bearer(raw))
    assert response.status_code == 403
    assert response.headers["www-authenticate"].count("scope=") == 1
    assert 'scope="tools:write"' in response.headers["www-authenticate"]
    assert "resource_metadata=" in response.headers["www-authenticate"]


def test_the_audience_is_the_resource_unless_told_otherwise() -> None:
    app = JWTMiddleware(echo, key=SECRET, resource=ProtectedResource(MCP), clock=lambda: NOW)
    assert bare_client(app).get("/mcp", headers=bearer(token(aud=MCP))).status_code == 200
    assert bare_client(app).get("/mcp", headers=bearer(token(aud="orders"))).status_code == 401
    other = JWTMiddleware(echo, key=SECRET, resource=ProtectedResource(MCP), audience="orders", clock=lambda: NOW)
    assert bare_client(other).get("/mcp", headers=bearer(token(aud="orders"))).status_code == 200


def test_several_providers_say_their_own_audiences() -> None:
    app = JWTMiddleware(
        echo, providers=[Provider(key=SECRET, audience="orders")], resource=ProtectedResource(MCP), clock=lambda: NOW
    )
    assert bare_client(app).get("/mcp", headers=bearer(token())).status_code == 200


def test_tokens_that_are_not_in_the_header_are_in_no_method_of_the_document() -> None:
    document = served(sources=[cookie("__Host-access")]).get(f"{WELL_KNOWN}/mcp").json()
    assert document["bearer_methods_supported"] == []


def test_a_token_in_the_query_string_is_none() -> None:
    raw = token(aud=MCP, iss="https://login.example")
    assert served().get("/mcp", headers=bearer(raw)).status_code == 200
    assert served().get("/mcp", params={"access_token": raw}).json()["code"] == "missing_token"


@pytest.mark.parametrize("path", ["/caf%C3%A9", "/a%20b"])
def test_a_resource_whose_path_is_percent_encoded_is_found(path: str) -> None:
    resource = ProtectedResource(f"https://api.example{path}")
    inside = bare_client(JWTMiddleware(echo, key=SECRET, resource=resource))
    outside = TestClient(Starlette(routes=resource.routes()))
    for service in (inside, outside):
        assert service.get(WELL_KNOWN + path).json()["resource"] == f"https://api.example{path}"
        assert service.get(f"{WELL_KNOWN}/other").status_code in (401, 404)


@pytest.mark.parametrize("root_path", ["/prefix", "/prefix/"])
def test_a_prefix_that_the_server_was_told_of_is_no_part_of_the_address(
    root_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = JWTMiddleware(echo, key=SECRET, resource=ProtectedResource(MCP), allow_anonymous=True)
    behind = TestClient(app, root_path=root_path)
    # uvicorn puts the prefix before the path, as it stands.
    for path in (f"/prefix{WELL_KNOWN}/mcp", f"{root_path}{WELL_KNOWN}/mcp", f"{WELL_KNOWN}/mcp"):
        assert behind.get(path).json()["resource"] == MCP
    for path in (f"/other{WELL_KNOWN}/mcp", f"/prefix/prefix{WELL_KNOWN}/mcp", f"/prefixed{WELL_KNOWN}/mcp"):
        assert "resource" not in behind.get(path).text
    assert "mounted" not in caplog.text


def test_the_log_says_once_that_a_mounted_middleware_never_sees_the_request(caplog: pytest.LogCaptureFixture) -> None:
    resource = ProtectedResource(MCP)
    app = JWTMiddleware(echo, key=SECRET, resource=resource, clock=lambda: NOW)
    outer = TestClient(Starlette(routes=[*resource.routes(), Mount("/mcp", app)]))
    for _ in range(2):
        assert outer.get("/mcp/x", headers=bearer(token(aud=MCP))).status_code == 200
    assert outer.get(f"{WELL_KNOWN}/mcp").json() == resource.document()
    ((level, text),) = logged(caplog)
    assert level == logging.WARNING
    assert "ProtectedResource.routes()" in text


def test_other_scopes_than_requests_pass_the_document() -> None:
    with TestClient(JWTMiddleware(echo, key=SECRET, resource=ProtectedResource(MCP))) as one:
        assert one.get("/x").status_code == 401


def test_any_parameter_can_be_added_to_the_challenge() -> None:
    response = client(challenge={"authorization_uri": "https://login.example/authorize"}).get("/")
    assert response.headers["www-authenticate"] == (
        'Bearer realm="api", authorization_uri="https://login.example/authorize"'
    )


def test_added_parameters_are_in_answers_of_the_apps_own_too() -> None:
    response = client(
        challenge={"hint": "x"}, refusal_response=lambda connection, refusal: PlainTextResponse("no", refusal.status)
    ).get("/")
    assert response.headers["www-authenticate"] == 'Bearer realm="api", hint="x"'


@pytest.mark.parametrize(
    ("challenge", "message"),
    [
        (["a"], "must be a dict"),
        ({"realm": "x"}, "cannot be a parameter"),
        ({"a b": "x"}, "cannot be a parameter"),
        ({"a": "x", "A": "x"}, "a parameter has two values"),
        ({1: "x"}, "cannot be a parameter"),
        ({"a": ""}, "printable ASCII"),
        ({"a": "\r\n"}, "printable ASCII"),
        ({"a": 1}, "printable ASCII"),
        ({"Scope": "a offline_access"}, "leave offline_access out"),
    ],
)
def test_what_cannot_be_a_parameter_is_refused(challenge: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        client(challenge=challenge)


def test_a_resource_must_be_one() -> None:
    with pytest.raises(ConfigurationError, match=r"ProtectedResource\(\.\.\.\)"):
        client(resource=MCP)
