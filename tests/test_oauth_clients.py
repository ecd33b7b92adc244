"""Real OAuth clients live their whole lives with the demo: login, calls, automatic refresh, revocation, the end."""

from collections.abc import Iterator
from typing import Any

import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from oauthlib.oauth2 import InvalidGrantError, LegacyApplicationClient
from requests_oauthlib import OAuth2Session

from .test_examples import address, demo

LONG_AGO = 1


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("demo") / "log"
    with demo(log.parent, "--port", "0", log=log):
        yield address(log)


@pytest.fixture(autouse=True)
def _over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    # On loopback; both insist on https elsewhere.
    for name in ("AUTHLIB_INSECURE_TRANSPORT", "OAUTHLIB_INSECURE_TRANSPORT"):
        monkeypatch.setenv(name, "1")


@pytest.mark.parametrize("endpoint", ["refresh", "login"], ids=["two addresses", "one token endpoint"])
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "none"])
@pytest.mark.anyio
async def test_authlib_logs_in_refreshes_by_itself_and_revokes(url: str, endpoint: str, method: str) -> None:
    updates: list[dict[str, Any]] = []

    async def update(token: dict[str, Any], **old: Any) -> None:
        updates.append(token)

    async with AsyncOAuth2Client(
        "demo",
        "",
        token_endpoint=f"{url}/auth/{endpoint}",
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
        update_token=update,
    ) as client:
        first = await client.fetch_token(f"{url}/auth/login", username="ada", password="lovelace")
        assert (await client.get(f"{url}/me")).json()["user"] == "ada"
        client.token = {**first, "expires_at": LONG_AGO}
        assert (await client.get(f"{url}/me")).json()["user"] == "ada"
        assert len(updates) == 1
        assert client.token["access_token"] != first["access_token"]
        revoke: Any = client.revoke_token
        revoked = await revoke(f"{url}/auth/logout", client.token["refresh_token"], "refresh_token")
        assert revoked.status_code == 200
        assert (await client.get(f"{url}/me")).json()["code"] == "revoked"
        with pytest.raises(OAuthError, match="invalid_grant"):
            await client.refresh_token(f"{url}/auth/{endpoint}")


def test_authlib_is_told_that_a_password_is_wrong(url: str) -> None:
    client = OAuth2Session(client=LegacyApplicationClient("demo"))
    with pytest.raises(InvalidGrantError, match="The username or the password is wrong"):
        client.fetch_token(f"{url}/auth/login", username="ada", password="builder")


def test_requests_oauthlib_logs_in_refreshes_by_itself_and_ends(url: str) -> None:
    updates: list[dict[str, Any]] = []
    with OAuth2Session(
        client=LegacyApplicationClient("demo"), auto_refresh_url=f"{url}/auth/refresh", token_updater=updates.append
    ) as client:
        first = client.fetch_token(f"{url}/auth/login", username="ada", password="lovelace", scope=["orders:read"])
        assert client.get(f"{url}/me").json() == {"user": "ada", "scopes": ["orders:read"]}
        client.token = {**first, "expires_at": LONG_AGO, "expires_in": -1}
        assert client.get(f"{url}/me").json() == {"user": "ada", "scopes": ["orders:read"]}
        assert len(updates) == 1
        assert updates[0]["access_token"] != first["access_token"]
        assert client.post(f"{url}/auth/logout").status_code == 200
        assert client.get(f"{url}/me").json()["code"] == "revoked"
        with pytest.raises(InvalidGrantError):
            client.refresh_token(f"{url}/auth/refresh")
