"""How does a client find out who issues tokens for this service?"""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from jwt_middleware import ConfigurationError
from jwt_middleware.resource import ProtectedResource

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
