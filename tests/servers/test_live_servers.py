"""Open connections end with their tokens under every server, seen by real clients."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ..support import SECRET, bearer, token
from ..support.processes import END_SECONDS
from .running import SERVERS, Running, started

APP = "tests.servers.live:app"
MOMENT = 2
"""Seconds after its time, or its revocation, in which a connection must have ended: one, and one for a busy machine."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """All of them, by their names."""
    with ExitStack() as stack:
        yield {
            str(server.id): stack.enter_context(
                started(server.values[0], APP, tmp_path_factory.mktemp("server") / "log")  # type: ignore[arg-type]  # ours
            )
            for server in SERVERS
        }


@pytest.fixture(params=[server.id for server in SERVERS])
def running(request: pytest.FixtureRequest, servers: dict[str, Running]) -> Running:
    return servers[request.param]


def everywhere(servers: dict[str, Running], check: Callable[[Running], None]) -> None:
    """``check`` every server, all at once: for what takes seconds of waiting."""
    failed: list[Exception] = []

    def one(name: str, running: Running) -> None:
        try:
            check(running)
        except Exception as error:  # noqa: BLE001  # raised below, with those of the other servers
            error.add_note(name)
            failed.append(error)

    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(one, servers, servers.values()))
    if failed:
        raise ExceptionGroup("not with every server", failed)


def websocket(running: Running, path: str, headers: Any = None, subprotocols: Any = None) -> ClientConnection:
    options: Any = {"additional_headers": headers, "subprotocols": subprotocols, "close_timeout": 2, "proxy": None}
    connection: ClientConnection = connect(f"ws://127.0.0.1:{running.port}{path}", **options)
    return connection


def soon(**changes: Any) -> tuple[str, int]:
    """A token that is good for three seconds at most, and when it ends."""
    ends = int(time.time()) + 3
    return token(iat=None, exp=ends, **changes), ends


def long() -> str:
    """A token that outlives its test."""
    return token(iat=None, exp=int(time.time()) + 1000)


def until_closed(connection: ClientConnection, patience: float = 10) -> tuple[int, str] | None:
    """The code and the reason with which the server closes; None where it is just gone."""
    try:
        while True:
            connection.recv(timeout=patience)
    except ConnectionClosed as closed:
        return None if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)


def nothing_is_open(running: Running) -> None:
    deadline = time.monotonic() + 5
    while running.client.get("/state").json()["open"]:
        assert time.monotonic() < deadline, "it is still in the timer"
        time.sleep(0.05)


def test_a_subprotocol_brings_the_token_as_browsers_send_it(running: Running) -> None:
    raw = long()
    for offered, header in (["v1", "bearer", raw], "v1"), (["bearer", raw], None):
        with websocket(running, "/listen", subprotocols=offered) as connection:
            assert connection.subprotocol == "bearer"
            seen = json.loads(connection.recv(timeout=5))
            assert seen == {"user": "ada", "offered": [header] if header else [], "header": header}


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param("https://evil.example", id="another site"),
        pytest.param("http://127.0.0.1", id="another port"),
        pytest.param("https://127.0.0.1:{port}", id="another scheme"),
        pytest.param("null", id="null"),
        pytest.param(None, id="none"),
    ],
)
def test_a_cookie_opens_no_websocket_for_another_origin(running: Running, origin: str | None) -> None:
    headers = {"cookie": f"access={long()}"}
    if origin is not None:
        headers["origin"] = origin.format(port=running.port)
    with pytest.raises(InvalidStatus) as refused, websocket(running, "/listen", headers=headers):
        pass
    response = refused.value.response
    assert response.status_code == 403
    assert not running.server.denies or json.loads(response.body)["code"] == "cross_site"


def test_a_cookie_opens_one_for_its_own_origin(running: Running) -> None:
    headers = {"cookie": f"access={long()}", "origin": f"http://127.0.0.1:{running.port}"}
    with websocket(running, "/listen", headers=headers) as connection:
        assert json.loads(connection.recv(timeout=5))["user"] == "ada"


def test_a_cookie_changes_nothing_for_another_origin(running: Running) -> None:
    cookie = f"access={long()}"
    for origin, status in (("https://evil.example", 403), (f"http://127.0.0.1:{running.port}", 405)):
        response = running.client.post("/events", headers={"cookie": cookie, "origin": origin})
        assert response.status_code == status


def test_a_connection_ends_when_its_token_does(servers: dict[str, Running]) -> None:
    def check(running: Running) -> None:
        raw, ends = soon()
        with ExitStack() as stack:
            opened = [
                stack.enter_context(websocket(running, path, headers=bearer(raw))) for path in ("/listen", "/tick")
            ]
            events = stack.enter_context(running.client.stream("GET", "/events", headers=bearer(raw)))
            assert events.status_code == 200
            # httpx2 raises where the end of the body is not a clean one.
            body = b"".join(events.iter_bytes())
            assert ends <= time.time() < ends + MOMENT
            for connection in opened:
                assert until_closed(connection) == (3000, "expired" if running.server.says_why else "")
            assert ends <= time.time() < ends + MOMENT
        assert body.startswith(b"data: tick\n\n")
        nothing_is_open(running)
        assert running.client.get("/state").json()["ended"][-1] == {"code": 3000, "reason": "expired"}

    everywhere(servers, check)


def test_a_connection_ends_within_a_second_of_its_revocation(running: Running) -> None:
    opened = running.client.post("/session").json()
    with websocket(running, "/listen", headers=bearer(opened["access_token"])) as connection:
        connection.recv(timeout=5)
        began = time.monotonic()
        running.client.post("/revoke", params={"session": opened["session"]})
        closed = until_closed(connection)
        assert time.monotonic() - began < MOMENT
    assert closed == (3000, "revoked" if running.server.says_why else "")
    nothing_is_open(running)


def test_a_connection_is_renewed_by_a_message(servers: dict[str, Running]) -> None:
    def check(running: Running) -> None:
        raw, ends = soon()
        with websocket(running, "/listen", headers=bearer(raw)) as connection:
            connection.recv(timeout=5)
            for other, refused in ((soon(sub="bob")[0], "invalid_claim"), (token("x" * 32), "bad_signature")):
                connection.send(other)
                assert json.loads(connection.recv(timeout=5)) == {"refused": refused}
            connection.send(token(iat=None, exp=ends + 1))
            assert json.loads(connection.recv(timeout=5)) == {"expires_at": ends + 1}
            closed = until_closed(connection)
            assert ends + 1 <= time.time() < ends + 1 + MOMENT
        assert closed is not None
        assert closed[0] == 3000

    everywhere(servers, check)


def test_an_app_may_close_before(running: Running) -> None:
    raw = long()
    with websocket(running, "/listen", headers=bearer(raw)) as connection:
        connection.send("close")
        assert until_closed(connection) == (4000, "by the app" if running.server.says_why else "")
    nothing_is_open(running)


def test_a_client_may_close_before(running: Running) -> None:
    with websocket(running, "/listen", headers=bearer(long())) as connection:
        connection.recv(timeout=5)
    nothing_is_open(running)
    # One that is cut off without a word.
    with websocket(running, "/listen", headers=bearer(long())) as connection:
        connection.recv(timeout=5)
        connection.socket.shutdown(socket.SHUT_RDWR)
    nothing_is_open(running)


def test_an_app_that_only_sends_outlives_its_client_no_longer_than_the_token(servers: dict[str, Running]) -> None:
    def check(running: Running) -> None:
        # Not every server tells it that nobody is there any more.
        with websocket(running, "/careful", headers=bearer(soon()[0])) as connection:
            connection.recv(timeout=5)
        nothing_is_open(running)

    everywhere(servers, check)


def test_nothing_of_all_that_is_an_error_to_the_server(running: Running) -> None:
    output = running.log.read_text()
    # What uvicorn's newer implementation says of each handshake that was refused with a response.
    output = output.replace("ERROR:    ASGI callable returned without completing handshake.", "")
    assert "ERROR" not in output
    assert "Traceback" not in output
    assert "Exception" not in output
    assert SECRET not in output


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_shuts_down_with_connections_open(server: Any, tmp_path: Path) -> None:
    raw = long()
    with started(server, APP, tmp_path / "log") as running:
        with ExitStack() as stack:
            connection = stack.enter_context(websocket(running, "/listen", headers=bearer(raw)))
            connection.recv(timeout=5)
            running.process.send_signal(signal.SIGINT)
            # From Python 3.12 on, hypercorn on asyncio waits for its clients to go; on trio, three seconds.
            with suppress(TimeoutError):
                closed = until_closed(connection, patience=5)
                assert closed is None or closed[0] != 3000
        running.process.wait(END_SECONDS)
        output = running.log.read_text()
    assert "Task was destroyed" not in output
    assert "never awaited" not in output
