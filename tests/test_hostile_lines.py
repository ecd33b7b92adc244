"""Whatever a request says, a log line stays one line, shows no control character, is short, and forges no field."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Scope

from jwt_middleware.events import Event, LoginFailed, RequestRefused
from jwt_middleware.telling import MAX_TEXT, escape

from .support import client, http, sent, token

HOSTILE = {
    "line": "a\r\nWARNING root: all is well",
    "terminal": "a\x1b[2J\x1b]0;owned\x07",
    "direction": "a\u202egpj.exe\u2066",
    "null": "a\x00b",
    "separator": "a\u2028b\u2029c\x85d",
    "surrogate": "a\udc80\ud800",
    "invisible": "a\u200b\ufeff\U000e0041",
    "long": "a" * 5000,
    "long and invisible": "\U000e0041" * 5000,
}

FORGED = [
    "x, provider=staff, subject=admin",
    "x) refused GET /admin from 10.0.0.9: expired (subject=admin",
    "x from 10.0.0.9: revoked",
]


async def logged_lines(caplog: pytest.LogCaptureFixture, scope: Any, **options: Any) -> list[str]:
    """The lines about the request of ``scope``, after checks that hold for every line."""
    caplog.set_level(logging.DEBUG, "jwt_middleware")
    heard: list[Event] = []
    await sent(client(on_event=heard.append, **options).app, scope)
    assert heard
    for record in caplog.records:
        assert record.getMessage().isprintable()
        for value in vars(record).values():
            if isinstance(value, str) and record.name == "jwt_middleware.requests" and value != record.getMessage():
                assert len(value) <= MAX_TEXT + len("...") or value == record.pathname
    return [record.getMessage() for record in caplog.records]


PLACES: dict[str, Callable[[str], Scope]] = {
    "path": lambda text: http(text, client=("10.0.0.7", 1)),
    "client": lambda text: http(client=(text, 1)),
    "method": lambda text: http(method=text),
    "scheme": lambda text: http("/", f"{text} x".encode("utf-8", "surrogatepass")),
    "kid": lambda text: http("/", f"Bearer {token(header={'kid': text})}".encode()),
    "iss": lambda text: http("/", f"Bearer {token(iss=text)}".encode()),
    "aud": lambda text: http("/", f"Bearer {token(aud=text)}".encode()),
    "sub": lambda text: http("/", f"Bearer {token(sub=text, aud='x')}".encode()),
    "client_id": lambda text: http("/", f"Bearer {token(client_id=text, aud=None)}".encode()),
}


@pytest.mark.anyio
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("place", PLACES)
async def test_no_value_of_a_request_breaks_a_line(place: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"issuer": "https://login.example"} if place == "iss" else {}
    if place == "kid":
        options = {"key": {"kty": "oct", "k": "QUFB" * 16, "kid": "current"}}
    assert await logged_lines(caplog, PLACES[place](text), **options)


@pytest.mark.anyio
@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("place", ["path", "client", "method", "kid", "iss", "aud", "sub"])
async def test_no_value_of_a_request_passes_for_another_field(
    place: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"issuer": "https://login.example"} if place == "iss" else {}
    if place == "kid":
        options = {"key": {"kty": "oct", "k": "QUFB" * 16, "kid": "current"}}
    for line in await logged_lines(caplog, PLACES[place](text), **options):
        assert repr(text) in line
        assert text not in line.replace(repr(text), "")


def test_an_escaped_text_is_short_as_well() -> None:
    assert len(escape("\U000e0041" * 5000)) <= MAX_TEXT + len("...")
    assert escape("a" * MAX_TEXT) == "a" * MAX_TEXT
    assert escape("a" * 201) == "a" * MAX_TEXT + "..."


def test_plain_values_stand_without_quotes() -> None:
    event = RequestRefused(
        code="wrong_audience", status=401, method="GET", path="/a", found="billing, https://b.example/x?y", client="::1"
    )
    assert str(event) == "refused GET /a from ::1: wrong_audience (found=billing, https://b.example/x?y)"
    assert str(LoginFailed(client="::1")) == "a login from ::1 failed"
