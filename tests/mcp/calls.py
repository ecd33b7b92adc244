"""Calls of an MCP server at ``URL``, with a token for it."""

from typing import Any

import httpx2
from starlette.testclient import TestClient

from ..support import bearer
from ..support.frameworks import token

URL = "https://api.example/mcp"


def rpc(method: str, **parameters: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}


def post(client: TestClient, body: Any, scope: str | None, **headers: str) -> httpx2.Response:
    """The response to ``body``, with a token that grants ``scope``, or without a token."""
    sent = {"accept": "application/json, text/event-stream", **headers}
    if scope is not None:
        sent |= bearer(token(aud=URL, scope=scope))
    return client.post("/mcp", json=body, headers=sent)


def has_reached_the_server(response: httpx2.Response) -> bool:
    """Whether the server itself has answered: with a result, or because there is no session or the host is another."""
    return response.status_code in (200, 400, 421)
