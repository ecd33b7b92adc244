"""Accepted requests are events only where somebody asks for them."""

import logging
from typing import Any

import pytest
from starlette.websockets import WebSocket

from jwt_middleware import ConfigurationError
from jwt_middleware.events import Event, RequestAccepted

from .support import bearer, client, logged, token


def test_an_accepted_request_is_an_event_on_request(backend: str) -> None:
    heard: list[Event] = []
    one = client(on_event=heard.append, tell_accepted=True, backend=backend)
    for _ in range(2):
        assert one.get("/a\u202eb?secret=1", headers=bearer(token(header={"kid": "k\n"}))).status_code == 200
    expected = RequestAccepted(
        provider="jwt", kid=r"k\n", subject="ada", method="GET", path=r"/a\u202eb", client="testclient"
    )
    assert heard == [expected, expected]


def test_it_is_no_event_by_default() -> None:
    heard: list[Event] = []
    assert client(on_event=heard.append).get("/", headers=bearer(token())).status_code == 200
    assert heard == []


def test_a_request_without_a_good_token_is_not_accepted_though_it_passes() -> None:
    heard: list[Event] = []
    one = client(on_event=heard.append, tell_accepted=True, public=["/open"], allow_anonymous=True)
    assert one.get("/open", headers=bearer(token(exp=1))).status_code == 200
    assert one.get("/").status_code == 200
    assert [type(event).__name__ for event in heard] == ["RequestRefused"]


def test_the_lifespan_and_unknown_scopes_pass_untouched() -> None:
    heard: list[Event] = []
    with client(on_event=heard.append, tell_accepted=True):
        pass
    assert heard == []


async def live(scope: Any, receive: Any, send: Any) -> None:
    websocket = WebSocket(scope, receive, send)
    await websocket.accept()
    await websocket.receive()


def test_a_websocket_is_accepted_once() -> None:
    heard: list[Event] = []
    one = client(live, on_event=heard.append, tell_accepted=True)
    with one.websocket_connect("/live", headers=bearer(token())) as websocket:
        websocket.send_text("x")
    (event,) = heard
    assert isinstance(event, RequestAccepted)
    assert (event.method, event.path) == (None, "/live")


def test_it_is_logged_for_debugging_alone(caplog: pytest.LogCaptureFixture) -> None:
    one = client(tell_accepted=True)
    caplog.set_level(logging.INFO, "jwt_middleware")
    one.get("/", headers=bearer(token()))
    assert logged(caplog) == []
    caplog.set_level(logging.DEBUG, "jwt_middleware")
    one.get("/items", headers=bearer(token()))
    assert logged(caplog) == [(logging.DEBUG, "accepted GET /items from testclient (provider=jwt, subject=ada)")]


def test_it_is_on_or_off() -> None:
    with pytest.raises(ConfigurationError, match="tell_accepted must be True or False"):
        client(tell_accepted=1)
