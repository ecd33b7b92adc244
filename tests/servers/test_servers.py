import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from ..support import bearer, token
from .running import SERVERS, Running, started

APP = "tests.servers.app:app"
GOOD = token()
FORGED = token("another secret of thirty-two bytes")
EXPIRED = token(exp=1)
MISSING = 'Bearer realm="api"'
BAD_SIGNATURE = (
    'Bearer realm="api", error="invalid_token", error_description="The signature of the access token does not verify."'
)
HAS_EXPIRED = 'Bearer realm="api", error="invalid_token", error_description="The access token has expired."'


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(request.param, APP, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    ("path", "headers", "status", "challenge"),
    [
        pytest.param("/", {}, 401, MISSING, id="no token"),
        pytest.param("/", {"authorization": "Basic Og=="}, 401, MISSING, id="another scheme"),
        pytest.param("/", bearer(FORGED), 401, BAD_SIGNATURE, id="bad signature"),
        pytest.param("/", bearer(EXPIRED), 401, HAS_EXPIRED, id="expired"),
        pytest.param("/", bearer(GOOD), 200, None, id="good token"),
        pytest.param("/public", {}, 200, None, id="public path without a token"),
        pytest.param("/public", bearer(FORGED), 200, None, id="public path with a bad token"),
        pytest.param("/public%2f..%2fprivate", {}, 401, MISSING, id="public path with an encoded slash"),
    ],
)
def test_a_request_is_answered_alike_by_every_server(
    running: Running, method: str, path: str, headers: dict[str, str], status: int, challenge: str | None
) -> None:
    response = running.client.request(method, path, headers=headers)
    assert response.status_code == status
    assert response.headers.get_list("www-authenticate") == ([] if challenge is None else [challenge])
    assert bool(response.content) == (method != "HEAD")


def test_the_app_sees_the_user_of_the_token_or_an_anonymous_one(running: Running) -> None:
    seen = running.client.get("/", headers=bearer(GOOD)).json()
    assert (seen["user"], seen["scopes"]) == ("ada", ["orders:read", "orders:write"])
    # On the same connection nobody is left of the request before.
    nobody = running.client.get("/public").json()
    assert (nobody["user"], nobody["is_authenticated"], nobody["scopes"]) == ("", False, [])


def test_two_authorization_lines_are_refused(running: Running) -> None:
    request = (
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Authorization: Bearer {GOOD}\r\nAuthorization: Bearer {GOOD}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'Bearer realm="api", error="invalid_request"' in answer
    assert b'"code":"ambiguous_token"' in answer


def test_lifespan_passes_the_middleware_untouched(running: Running) -> None:
    assert running.client.get("/lifespan").json() == {"seen": running.server.has_lifespan}


def test_a_websocket_with_a_good_token_is_let_in(running: Running) -> None:
    with websocket(running, "/", bearer(GOOD)) as connection:
        assert json.loads(connection.recv(timeout=5))["user"] == "ada"


def test_a_websocket_on_a_public_path_needs_no_token(running: Running) -> None:
    with websocket(running, "/public", {}) as connection:
        assert json.loads(connection.recv(timeout=5))["user"] == ""


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        pytest.param({}, MISSING, id="no token"),
        pytest.param(bearer(FORGED), BAD_SIGNATURE, id="bad signature"),
        pytest.param(bearer(EXPIRED), HAS_EXPIRED, id="expired"),
    ],
)
def test_a_websocket_is_refused_before_it_opens(running: Running, headers: dict[str, str], challenge: str) -> None:
    with pytest.raises(InvalidStatus) as refused, websocket(running, "/", headers):
        pass
    response = refused.value.response
    if running.server.denies:
        assert (response.status_code, response.headers.get_all("www-authenticate")) == (401, [challenge])
        assert json.loads(response.body)["error_description"]
    else:
        assert response.status_code == 403


@pytest.mark.parametrize(
    ("headers", "closed"),
    [
        pytest.param({}, (3000, "missing_token"), id="no token"),
        pytest.param(bearer(EXPIRED), (3000, "expired"), id="expired"),
        pytest.param({"origin": "https://evil.example"}, (3003, ""), id="a foreign page"),
    ],
)
def test_a_refused_websocket_closes_with_a_code_that_a_page_can_read(
    running: Running, headers: dict[str, str], closed: tuple[int, str]
) -> None:
    url = f"ws://127.0.0.1:{running.port}/closing"
    offered = [Subprotocol("graphql-ws")]
    with connect(url, additional_headers=headers, subprotocols=offered, open_timeout=5, proxy=None) as connection:
        assert connection.subprotocol == "graphql-ws"
        with pytest.raises(ConnectionClosed) as ended:
            connection.recv(timeout=5)
    assert ended.value.rcvd is not None
    code, reason = closed
    assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (code, reason if running.server.says_why else "")


@contextmanager
def websocket(running: Running, path: str, headers: dict[str, str]) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{running.port}{path}"
    with connect(url, additional_headers=headers, open_timeout=5, close_timeout=5, proxy=None) as connection:
        yield connection
        # The app closes it. Where both sides do at once, hypercorn on trio writes twice at the same time, and dies.
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=5)
