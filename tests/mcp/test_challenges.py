"""Clients that others have written read our challenges and our metadata: the ``mcp`` SDK, and npm's oauth4webapi."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.auth.utils import (
    extract_field_from_www_auth,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
)
from starlette.responses import PlainTextResponse

from jwt_middleware import JWTMiddleware, ProtectedResource, requires

from ..support.clients import bearer
from ..support.frameworks import SECRET, token
from ..support.serving import free_port, serving

ISSUER = "https://login.example"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A resource that needs two scopes and a recent login."""
    port = free_port()
    resource = ProtectedResource(
        f"http://127.0.0.1:{port}/api",
        scopes={"orders:read": "See", "orders:write": "Change"},
        first_scopes=["orders:read"],
    )
    guard = requires("orders:read", "orders:write", acr=["gold", "silver"], max_age=300)
    with serving(
        JWTMiddleware(guard(PlainTextResponse("an order")), key=SECRET, issuer=ISSUER, resource=resource), port
    ):
        yield resource.identifier


def raw(url: str, scope: str) -> str:
    return token(aud=url, iss=ISSUER, scope=scope)


def expected(url: str) -> list[tuple[int, dict[str, str]]]:
    """The status and the parameters of the answers to a bad token, one without a scope, and one of an old login."""
    common = {"realm": "api", "resource_metadata": metadata_url(url)}
    return [
        (401, {**common, "error": "invalid_token", "scope": "orders:read"}),
        (403, {**common, "error": "insufficient_scope", "scope": "orders:read orders:write"}),
        (401, {**common, **ANOTHER_LOGIN, "scope": "orders:read orders:write"}),
    ]


ANOTHER_LOGIN = {"error": "insufficient_user_authentication", "acr_values": "gold silver", "max_age": "300"}


def metadata_url(url: str) -> str:
    return url.replace("/api", "/.well-known/oauth-protected-resource/api")


def sent(url: str) -> list[str]:
    return ["bad", raw(url, "orders:read"), raw(url, "orders:read orders:write")]


def test_the_sdk_reads_our_challenges(url: str) -> None:
    missing = httpx2.get(url)
    assert extract_resource_metadata_from_www_auth(missing) == metadata_url(url)
    assert extract_scope_from_www_auth(missing) == "orders:read"
    assert extract_field_from_www_auth(missing, "error") is None
    for value, (status, parameters) in zip(sent(url), expected(url), strict=True):
        response = httpx2.get(url, headers=bearer(value))
        assert response.status_code == status
        assert {name: extract_field_from_www_auth(response, name) for name in parameters} == parameters


@pytest.fixture(scope="module")
def read_by_oauth4webapi(url: str) -> Any:
    modules = Path(os.environ.get("OIDC_PROVIDER", "")) / "node_modules"
    library = modules / "oauth4webapi" / "build" / "index.js"
    if not library.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("OIDC_PROVIDER names no folder with npm's oauth4webapi")
    program = Path(__file__).with_name("challenges.mjs")
    command = [str(modules / ".bin" / "node"), str(program), str(library), url, *sent(url)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_oauth4webapi_reads_our_challenges(url: str, read_by_oauth4webapi: Any) -> None:
    for seen, (status, parameters) in zip(read_by_oauth4webapi["challenges"], expected(url), strict=True):
        (challenge,) = seen["challenges"]
        assert (seen["status"], challenge["scheme"]) == (status, "bearer")
        assert challenge["parameters"].pop("error_description")
        assert challenge["parameters"] == parameters


def test_oauth4webapi_accepts_our_metadata(url: str, read_by_oauth4webapi: Any) -> None:
    assert read_by_oauth4webapi["metadata"] == {
        "resource": url,
        "authorization_servers": [ISSUER],
        "scopes_supported": ["orders:read", "orders:write"],
        "bearer_methods_supported": ["header"],
    }
