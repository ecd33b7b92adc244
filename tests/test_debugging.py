"""The explanation of a refusal in its body: for developers on their own machine, and for nobody else."""

import logging
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient, WebSocketDenialResponse

from jwt_middleware import ConfigurationError, JWTMiddleware, bearer_header, cookie, requires
from jwt_middleware.debugging import is_local

from .support import NOW, SECRET, bearer, client, echo, http, logged, token


def debugged(address: str = "127.0.0.1", app: Any = echo, **options: Any) -> TestClient:
    middleware = JWTMiddleware(app, key=SECRET, audience="orders", clock=lambda: NOW, debug=True, **options)
    return TestClient(middleware, client=(address, 50000))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.1.2.3", "::ffff:127.0.0.1"])
def test_a_client_on_this_machine_gets_the_cause_and_the_cure(address: str) -> None:
    response = debugged(address).get("/", headers=bearer(token(aud="billing")))
    assert response.status_code == 401
    assert response.json()["explanation"]["cause"].startswith('The token is for the audience "billing"')
    assert "orders" in response.json()["explanation"]["cure"]
    assert (
        response.headers["www-authenticate"]
        == client().get("/", headers=bearer(token(aud="x"))).headers["www-authenticate"]
    )


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "8.8.8.8", "0.0.0.0", "testclient", "::ffff:10.0.0.1", "::", "localhost"]
)
def test_a_client_elsewhere_gets_the_plain_body(address: str) -> None:
    for headers in ({}, bearer(token(aud="billing"))):
        body = debugged(address).get("/", headers=headers).json()
        assert set(body) == {"error", "error_description", "code"}


@pytest.mark.parametrize(
    "header",
    [
        *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "x-forwarded-anything", "X-Real-IP"),
        *("Via", "X-Forwarded", "X_Forwarded_For", "X-Original-Forwarded-For", "CF-Connecting-IP", "True-Client-IP"),
        *("Client-IP", "X-Client-IP", "X-Cluster-Client-IP", "Fastly-Client-IP", "Fly-Client-IP"),
        *("X-Envoy-External-Address", "X-Amzn-Trace-Id", "X-Azure-ClientIP", "CDN-Loop", "Proxy-Connection"),
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", ""], ids=["an address", "empty"])
def test_a_request_through_a_proxy_on_this_machine_gets_the_plain_body(header: str, value: str) -> None:
    body = debugged().get("/", headers={**bearer(token(aud="billing")), header: value}).json()
    assert "explanation" not in body


def test_a_client_without_an_address_is_not_on_this_machine() -> None:
    assert not is_local(HTTPConnection(http(client=None)))
    # Behind a unix socket, uvicorn names no address, and others an empty one.
    assert not is_local(HTTPConnection(http(client=("", 0))))
    assert is_local(HTTPConnection(http(client=("127.0.0.1", 1))))


def test_a_refused_websocket_is_explained_to_the_same_clients() -> None:
    for address, is_explained in (("127.0.0.1", True), ("10.0.0.1", False)):
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            debugged(address).websocket_connect("/", headers=bearer(token(aud="billing"))),
        ):
            pass
        assert ("explanation" in denied.value.json()) == is_explained


def test_missing_tokens_and_scopes_are_explained_too() -> None:
    assert "Bearer" in debugged().get("/").json()["explanation"]["cure"]

    @requires("admin")
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    body = debugged(app=app).get("/", headers=bearer(token())).json()
    assert "The endpoint needs admin" in body["explanation"]["cause"]


def test_a_token_from_a_cookie_is_explained_too() -> None:
    one = debugged(sources=[bearer_header(), cookie("session")])
    body = one.get("/", headers={"cookie": f"session={token(aud='billing')}"}).json()
    assert body["explanation"]["cause"].startswith('The token is for the audience "billing"')
    body = one.get("/", headers={"cookie": "session=a; session=b"}).json()
    assert "more than one token" in body["explanation"]["cause"]


def test_no_explanation_holds_a_key_or_a_signature() -> None:
    raw = token(aud="billing")
    text = debugged().get("/", headers=bearer(raw)).text
    assert SECRET not in text
    assert raw.rpartition(".")[2] not in text


def test_it_is_off_by_default_and_loud_when_on(caplog: pytest.LogCaptureFixture) -> None:
    off = TestClient(JWTMiddleware(echo, key=SECRET, audience="orders"), client=("127.0.0.1", 1))
    assert "explanation" not in off.get("/").json()
    assert logged(caplog) == []
    debugged()
    assert [level for level, text in logged(caplog) if "debug=True" in text] == [logging.WARNING]


def test_two_ways_to_make_the_body_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="refusal_response"):
        client(debug=True, refusal_response=lambda connection, refusal: PlainTextResponse("no"))
    with pytest.raises(ConfigurationError, match="debug"):
        client(debug=1)
