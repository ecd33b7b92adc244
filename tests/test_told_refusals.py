"""Every refusal is told once, with what an operator needs to know and nothing that a client must not."""

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import ConfigurationError, bearer_header, cookie, requires
from jwt_middleware.errors import MissingToken
from jwt_middleware.events import Event, RequestRefused
from jwt_middleware.reading.other_schemes import describe_credentials
from jwt_middleware.testing import IdentityProvider

from .support import NOW, bearer, client, http, logged, sent, token
from .support.refusals import REFUSED, refusing


@pytest.fixture
def heard() -> list[Event]:
    return []


def told(heard: list[Event]) -> RequestRefused:
    (event,) = heard
    assert isinstance(event, RequestRefused)
    return event


def test_a_refusal_says_what_was_expected_and_found_and_where(heard: list[Event], backend: str) -> None:
    response = client(on_event=heard.append, backend=backend).get(
        "/items?secret=1", headers=bearer(token(aud="billing", header={"kid": "k\n1"}))
    )
    assert response.json() == {
        "error": "invalid_token",
        "error_description": "The access token is meant for another audience.",
        "code": "wrong_audience",
    }
    event = told(heard)
    assert (event.code, event.status, event.provider, event.subject) == ("wrong_audience", 401, "jwt", "ada")
    assert event.kid == r"k\n1"
    assert "orders" in str(event.expected)
    assert "billing" in str(event.found)
    assert (event.method, event.path, event.client, event.ignored) == ("GET", "/items", "testclient", False)


BY_JWT = {"provider": "jwt"}
ABOUT_ADA = {**BY_JWT, "subject": "ada"}

FIELDS: dict[str, dict[str, Any]] = {
    "missing_token": {},
    "ambiguous_token": {"status": 400, "found": "two Authorization headers"},
    "token_too_large": {"status": 400, "expected": "100 bytes at most", "found": "211 bytes"},
    "malformed_token": {"found": "an opaque text, which only the provider that issued it can read"},
    "encrypted_token": {"found": "five segments"},
    "unknown_issuer": {
        "claim": "iss",
        "expected": "https://a.example, https://b.example",
        "found": "https://login.example",
    },
    "unknown_key": {**BY_JWT, "kid": "old", "expected": "current"},
    "algorithm_not_allowed": {**BY_JWT, "expected": "HS256", "found": "none"},
    "bad_signature": {**BY_JWT, "expected": "a signature by the secret", "found": "another HS256 signature"},
    "expired": {**ABOUT_ADA, "claim": "exp", "seconds_off": 5},
    "not_yet_valid": {**ABOUT_ADA, "claim": "nbf", "seconds_off": 6},
    "too_old": {**ABOUT_ADA, "claim": "iat", "expected": "60 s at most", "found": "65 s", "seconds_off": 5},
    "wrong_issuer": {
        **BY_JWT,
        "claim": "iss",
        "expected": "https://login.example",
        "found": "https://evil.example",
    },
    "wrong_audience": {**ABOUT_ADA, "claim": "aud", "expected": "orders", "found": "billing"},
    "wrong_type": {**ABOUT_ADA, "expected": "at+jwt", "found": "JWT"},
    "missing_claim": {**ABOUT_ADA, "claim": "exp"},
    "invalid_claim": {**BY_JWT, "claim": "sub", "expected": "a text", "found": "a list"},
    "sender_constrained": {**ABOUT_ADA, "claim": "cnf", "expected": "no cnf", "found": "jkt"},
    "revoked": ABOUT_ADA,
    "user_refused": {**ABOUT_ADA, "expected": "load_user returns a user", "found": "None"},
    "insufficient_user_authentication": ABOUT_ADA,
    "insufficient_scope": {**ABOUT_ADA, "status": 403},
    "cross_site": {**ABOUT_ADA, "status": 403},
    "keys_unavailable": {**ABOUT_ADA, "status": 503},
    "revocations_unavailable": {**ABOUT_ADA, "status": 503},
}
"""What the event of each refusal says besides its code, method, path and client."""


def test_every_code_has_fields() -> None:
    assert FIELDS.keys() == REFUSED.keys()


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("code", list(FIELDS))
@pytest.mark.anyio
async def test_each_kind_of_refusal_says_all_that_is_known(code: str, ignored: bool, heard: list[Event]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert ignored

    app_behind, lines = refusing(code, app, on_event=heard.append, public=["/items"] if ignored else ())
    await sent(app_behind, http("/items", *lines, client=("10.0.0.7", 50000)))
    refused = [event for event in heard if isinstance(event, RequestRefused)]
    if code == "missing_token" and ignored:
        # A request without a token is what a public path is for.
        assert refused == []
        return
    common: dict[str, Any] = {"status": 401, "method": "GET", "path": "/items", "client": "10.0.0.7"}
    assert refused == [RequestRefused(code=code, ignored=ignored, **{**common, **FIELDS[code]})]


@requires("orders:write", "orders:admin")
async def orders(request: Request) -> None: ...


@requires(provider="staff")
async def staff(request: Request) -> None: ...


@requires(acr="gold", max_age=300)
async def step_up(request: Request) -> None: ...


ENDPOINTS = Starlette(routes=[Route("/orders", orders), Route("/staff", staff), Route("/step-up", step_up)])


@pytest.mark.parametrize(
    ("path", "claims", "code", "expected", "found"),
    [
        ("/orders", {"scope": "orders:read"}, "insufficient_scope", "orders:write orders:admin", "orders:read"),
        ("/staff", {}, "wrong_issuer", "provider staff", "provider jwt"),
        (
            "/step-up",
            {"acr": "silver", "auth_time": NOW - 400},
            "insufficient_user_authentication",
            "acr gold, a login 300 s ago at most",
            "acr silver, a login 400 s ago",
        ),
        (
            "/step-up",
            {},
            "insufficient_user_authentication",
            "acr gold, a login 300 s ago at most",
            "acr None, no auth_time",
        ),
    ],
)
def test_what_an_endpoint_demands_and_what_the_token_has_are_told(
    path: str, claims: dict[str, Any], code: str, expected: str, found: str, heard: list[Event]
) -> None:
    client(ENDPOINTS, on_event=heard.append).get(path, headers=bearer(token(**claims)))
    event = told(heard)
    assert (event.code, event.expected, event.found) == (code, expected, found)
    assert (event.provider, event.subject, event.path) == ("jwt", "ada", path)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"origin": "https://evil.example"}, "Origin https://evil.example"),
        ({"sec-fetch-site": "cross-site"}, "Sec-Fetch-Site cross-site"),
        ({}, "no Origin"),
    ],
)
def test_a_request_from_another_site_says_from_where(headers: dict[str, str], found: str, heard: list[Event]) -> None:
    one = client(on_event=heard.append, sources=[cookie("session")], origins=["https://app.example"])
    assert one.post("/", headers={"cookie": f"session={token()}", **headers}).status_code == 403
    assert told(heard).expected == "http://testserver, https://app.example"
    assert told(heard).found == found


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"cookie": "session=a; session=b"}, "two cookies named session"),
        ({"authorization": "Bearer "}, "an empty text"),
        ({"authorization": "Bearer\tx"}, "a character other than a space after the scheme"),
    ],
)
def test_what_stands_in_the_place_of_a_token_is_told(headers: dict[str, str], found: str, heard: list[Event]) -> None:
    client(on_event=heard.append, sources=[bearer_header(), cookie("session")]).get("/", headers=headers)
    assert told(heard).found == found


def test_the_log_line_names_both_audiences(caplog: pytest.LogCaptureFixture) -> None:
    client().get("/items", headers=bearer(token(aud="billing")))
    ((level, line),) = logged(caplog)
    assert level == logging.WARNING
    assert line.startswith("refused GET /items from testclient: wrong_audience (")
    assert "orders" in line
    assert "billing" in line


def test_a_late_token_says_by_how_much(heard: list[Event]) -> None:
    client(on_event=heard.append).get("/", headers=bearer(token(exp=NOW - 40)))
    assert told(heard).seconds_off == 40


@pytest.mark.parametrize(
    ("value", "scheme", "token_like"),
    [
        pytest.param("Basic dXNlcjpwYXNz", "Basic", False, id="Basic"),
        pytest.param(f"Token {token()}", "Token", True, id="Token"),
        pytest.param(f"jwt {token()}", "JWT", True, id="JWT"),
        pytest.param(token(), None, True, id="a raw token"),
        pytest.param("hunter2", None, False, id="a word that may be a secret"),
    ],
)
def test_a_missing_token_says_what_came_instead(
    value: str, scheme: str | None, token_like: bool, heard: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    one = client(on_event=heard.append)
    assert one.get("/", headers={"authorization": value}).json()["code"] == "missing_token"
    event = told(heard)
    assert (event.scheme, event.token_like) == (scheme, token_like)
    assert value.rpartition(" ")[2] not in str(event)
    assert value.rpartition(" ")[2] not in caplog.text


def test_no_header_at_all_is_no_mistake_of_a_scheme(heard: list[Event]) -> None:
    client(on_event=heard.append).get("/")
    assert (told(heard).code, told(heard).scheme, told(heard).token_like) == ("missing_token", None, False)
    assert describe_credentials([(b"host", b"x")]) == (None, False)


def test_a_token_that_is_ignored_on_a_public_path_is_told(heard: list[Event]) -> None:
    one = client(on_event=heard.append, public=["/open"])
    assert one.get("/open", headers=bearer(token(exp=1))).status_code == 200
    assert (told(heard).code, told(heard).ignored) == ("expired", True)


def test_a_missing_token_on_a_public_path_is_not_told(heard: list[Event]) -> None:
    assert client(on_event=heard.append, public=["/open"]).get("/open").status_code == 200
    assert heard == []


@requires("admin")
async def admin(request: Request) -> Response:
    return PlainTextResponse("ok")


async def helper(request: Request) -> Response:
    response: Response = await admin(request)
    return response


@requires("admin")
async def live(websocket: WebSocket) -> None:
    await websocket.accept()


APP = Starlette(routes=[Route("/admin", admin), Route("/helper", helper), WebSocketRoute("/live", live)])


@pytest.mark.parametrize("path", ["/admin", "/helper"])
@pytest.mark.parametrize("own", [False, True])
def test_each_refusal_of_an_endpoint_is_told_once(path: str, own: bool, heard: list[Event]) -> None:
    options: dict[str, Any] = {}
    if own:
        options["refusal_response"] = lambda connection, refusal: PlainTextResponse("no", refusal.status)
    response = client(APP, on_event=heard.append, **options).get(path, headers=bearer(token()))
    assert response.status_code == 403
    assert (told(heard).code, told(heard).path, told(heard).subject) == ("insufficient_scope", path, "ada")


def test_each_refusal_of_a_websocket_is_told_once(heard: list[Event]) -> None:
    one = client(APP, on_event=heard.append)
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), one.websocket_connect("/live"):
        pass
    assert (told(heard).code, told(heard).method, told(heard).path) == ("missing_token", None, "/live")
    heard.clear()
    with (
        pytest.raises(WebSocketDisconnect),
        client(APP, on_event=heard.append, websocket_refusals="close").websocket_connect("/live") as websocket,
    ):
        websocket.receive_text()
    assert told(heard).code == "missing_token"


def test_a_refusal_that_a_hook_raises_is_told(heard: list[Event]) -> None:
    def refuse(seen: Any) -> Any:
        raise MissingToken

    client(on_event=heard.append, load_user=refuse).get("/", headers=bearer(token()))
    assert (told(heard).code, told(heard).subject) == ("missing_token", "ada")


def test_many_refusals_of_a_kind_are_one_line_and_every_event(
    heard: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    one = client(on_event=heard.append)
    for _ in range(50):
        one.get("/", headers=bearer(token(aud="billing")))
    assert len(heard) == 50
    assert len(logged(caplog)) == 1
    quiet = client()
    for _ in range(50):
        quiet.get("/", headers=bearer(token(aud="billing")))
    assert len(logged(caplog)) == 2


@pytest.mark.parametrize("handlers", [None, [lambda event: None]])
def test_requests_without_a_token_do_not_hide_one_with_another_scheme(
    handlers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jwt_middleware")
    one = client(on_event=handlers)
    for value in ({}, {"authorization": f"Token {token()}"}, {}, {"authorization": f"Token {token()}"}):
        one.get("/", headers=value)
    lines = [line for _, line in logged(caplog)]
    assert len(lines) == 2
    assert "scheme=Token" in lines[1]


def test_ignored_tokens_do_not_hide_refused_ones(caplog: pytest.LogCaptureFixture) -> None:
    one = client(public=["/open"])
    for path in ("/open", "/items", "/open", "/items"):
        one.get(path, headers=bearer(token(aud="billing")))
    lines = [line for _, line in logged(caplog)]
    assert len(lines) == 2
    assert lines[1].startswith("refused GET /items")


def test_a_handler_that_raises_changes_no_answer() -> None:
    def fail(event: Event) -> None:
        raise RuntimeError

    assert client(on_event=fail).get("/").status_code == 401


def test_a_coroutine_function_is_refused_at_construction() -> None:
    async def handler(event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="on_event must be a plain function"):
        client(on_event=handler)


def test_the_handler_also_hears_of_the_keys(heard: list[Event]) -> None:
    with IdentityProvider() as provider:
        provider.fail()
        with client(on_event=heard.append, key=None, issuer=provider.issuer, audience="orders"):
            pass
        provider.recover()
    assert [type(event).__name__ for event in heard] == ["FetchFinished", "KeysFailed"]
