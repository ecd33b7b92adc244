"""The routes of sessions, as OAuth clients speak with them (RFC 6749, RFC 7009)."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient

from jwt_middleware import ConfigurationError, JWTMiddleware
from jwt_middleware.events import Event, StoreFailed
from jwt_middleware.issuing import MemoryStore, Sessions, Throttle, TokenIssuer, auth_routes
from jwt_middleware.testing.store_contract import REALM

from ..support import NOW, SECRET, Clock, bare_client, bearer, echo, logged, signed
from .test_sessions import Broken, Hanging, User, read

GOOD = {"username": "ada", "password": "lovelace"}
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


def check(username: str, password: str) -> User | None:
    return User(username, scopes=["a", "b"], claims={"tenant": 7}) if password == "lovelace" else None


@dataclass
class StrongUser(User):
    acr: str | None = None
    amr: list[str] | None = None


@pytest.fixture
def clock() -> Clock:
    return Clock()


def app(clock: Clock, *, store: Any = None, routes: Any = None, **options: Any) -> JWTMiddleware:
    """Login routes under /auth, and the echo app elsewhere, behind the middleware that asks the sessions."""
    tokens = TokenIssuer(SECRET, audience="orders", clock=clock)
    sessions = Sessions(MemoryStore(clock=clock) if store is None else store, tokens, **options)
    mounted = auth_routes(sessions, **{"authenticate": check, **(routes or {})})
    service = Starlette(routes=[Mount("/auth", routes=mounted), Mount("/", app=echo)])
    return JWTMiddleware(service, providers=tokens.provider(), revocations=sessions, public=["/auth/*"], clock=clock)


@pytest.fixture
def client(clock: Clock, backend: str) -> Iterator[TestClient]:
    with bare_client(app(clock), backend=backend) as client:
        yield client


def opened(client: TestClient, **fields: str) -> dict[str, Any]:
    response = client.post("/auth/login", data={**GOOD, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def refused(response: Any) -> tuple[int, str]:
    """Status and error of a refusal as RFC 6749 5.2 has it."""
    body = response.json()
    assert set(body) == {"error", "error_description"}
    assert {name: response.headers[name] for name in NO_STORE} == NO_STORE
    # RFC 9110: it would tell clients that a Bearer token is wanted here.
    assert "www-authenticate" not in response.headers
    return response.status_code, body["error"]


def is_in(client: TestClient, access_token: str) -> bool:
    response = client.get("/", headers=bearer(access_token))
    if response.status_code == 401:
        assert response.json()["code"] == "revoked"
    return bool(response.status_code == 200)


# Login and refresh


def test_login_and_refresh_answer_as_rfc_6749_5_1_says(client: TestClient, clock: Clock) -> None:
    login = client.post("/auth/login", data=GOOD)
    clock.now += 60
    refresh = client.post("/auth/refresh", data={"refresh_token": login.json()["refresh_token"]})
    for response in (login, refresh):
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert {name: response.headers[name] for name in NO_STORE} == NO_STORE
        body = response.json()
        assert read(body.pop("access_token"))["tenant"] == 7
        assert read(body.pop("refresh_token"))["sub"] == "ada"
        assert body == {"token_type": "bearer", "expires_in": 900, "scope": "a b"}
        assert type(body["expires_in"]) is int
    assert is_in(client, refresh.json()["access_token"])


def test_without_scopes_the_answers_have_none(clock: Clock) -> None:
    with bare_client(app(clock, routes={"authenticate": lambda username, password: "ada"})) as client:
        body = opened(client)
        assert set(body) == {"access_token", "refresh_token", "token_type", "expires_in"}
        body = client.post("/auth/refresh", data={"refresh_token": body["refresh_token"]}).json()
        assert set(body) == {"access_token", "refresh_token", "token_type", "expires_in"}


@pytest.mark.parametrize("address", ["/auth/login", "/auth/refresh"])
@pytest.mark.parametrize("form", ["form", "JSON"])
def test_either_address_takes_both_grants(client: TestClient, address: str, form: str) -> None:
    def post(**fields: str) -> Any:
        body: dict[str, Any] = {"data" if form == "form" else "json": fields}
        return client.post(address, **body)

    login = post(grant_type="password", **GOOD, scope="a")
    assert login.json()["scope"] == "a"
    refresh = post(grant_type="refresh_token", refresh_token=login.json()["refresh_token"], client_id="None")
    assert read(refresh.json()["access_token"])["sid"] == read(login.json()["access_token"])["sid"]
    assert refused(post(grant_type="client_credentials")) == (400, "unsupported_grant_type")
    assert refused(post(grant_type="password", username="ada")) == (400, "invalid_request")
    assert refused(post(grant_type="refresh_token")) == (400, "invalid_request")
    assert refused(post(grant_type="password", **{**GOOD, "password": "x"})) == (400, "invalid_grant")


def test_without_a_grant_type_each_address_is_what_it_is_called(client: TestClient) -> None:
    refresh_token = opened(client)["refresh_token"]
    assert client.post("/auth/refresh", json={"refresh_token": refresh_token}).status_code == 200
    assert refused(client.post("/auth/refresh", data=GOOD)) == (400, "invalid_request")
    assert refused(client.post("/auth/login", data={"refresh_token": refresh_token})) == (400, "invalid_request")


def test_a_refresh_may_ask_for_fewer_scopes(client: TestClient, clock: Clock) -> None:
    refresh_token = opened(client)["refresh_token"]
    asked = client.post("/auth/refresh", data={"refresh_token": refresh_token, "scope": "b c"})
    assert asked.json()["scope"] == "b"
    response = client.post("/auth/refresh", data={"refresh_token": refresh_token, "scope": "c"})
    assert refused(response) == (400, "invalid_scope")
    assert refused(client.post("/auth/login", data={**GOOD, "scope": "c"})) == (400, "invalid_scope")


def test_a_replay_is_invalid_grant_and_ends_the_session_and_no_other(
    client: TestClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.INFO, "jwt_middleware.sessions")
    first, other = opened(client), opened(client)
    clock.now += 60
    second = client.post("/auth/refresh", data={"refresh_token": first["refresh_token"]}).json()
    clock.now += 60
    for stale in (first, second, first):
        response = client.post("/auth/refresh", data={"refresh_token": stale["refresh_token"]})
        assert refused(response) == (400, "invalid_grant")
    assert not is_in(client, first["access_token"])
    assert not is_in(client, second["access_token"])
    assert is_in(client, other["access_token"])
    refusals = [said for _, said in logged(caplog) if said.startswith("a refresh token was refused")]
    # A kind of event is logged once a minute.
    assert refusals == [
        "a refresh token was refused: refresh token was used before",
        "a refresh token was refused: session is over",
    ]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("nonsense", id="nonsense"),
        pytest.param(TokenIssuer(SECRET, audience="orders", clock=lambda: NOW).mint("ada"), id="an access token"),
        pytest.param("a." * 7000, id="much"),
        pytest.param("é.b.c", id="not ASCII"),
    ],
)
def test_what_is_no_refresh_token_is_invalid_grant(client: TestClient, raw: str) -> None:
    assert refused(client.post("/auth/refresh", json={"refresh_token": raw})) == (400, "invalid_grant")


def test_a_refresh_keeps_what_the_login_said_of_itself(clock: Clock) -> None:
    # RFC 9470: another login is another session, so a refresh never looks like one.
    strong = StrongUser("ada", claims={"tenant": 7}, acr="urn:example:strong", amr=["hwk"])
    weaker = StrongUser("ada", claims={"tenant": 8, "acr": "urn:example:forged", "auth_time": NOW + 60}, acr="weak")
    routes = {"authenticate": lambda username, password: strong}
    for options, tenant in (({}, 7), ({"reload_user": lambda subject: weaker}, 8)):
        clock.now = NOW
        with bare_client(app(clock, routes=routes, **options)) as client:
            first = opened(client)
            clock.now += 60
            second = client.post("/auth/refresh", data={"refresh_token": first["refresh_token"]}).json()
        before, after = read(first["access_token"]), read(second["access_token"])
        assert (before["auth_time"], before["acr"], before["amr"]) == (NOW, "urn:example:strong", ["hwk"])
        assert (after["auth_time"], after["acr"], after["amr"]) == (NOW, "urn:example:strong", ["hwk"])
        assert after["tenant"] == tenant


def test_a_throttle_counts_logins_at_either_address(clock: Clock) -> None:
    throttled = app(clock, routes={"throttle": Throttle()})
    with bare_client(throttled) as client:
        statuses = [
            client.post(address, data={"grant_type": "password", "username": "ada", "password": "x"}).status_code
            for address in ("/auth/login", "/auth/refresh") * 10
        ]
        assert statuses[0] == 400
        assert statuses[-1] == 429


# What tells the sessions of a user apart


@pytest.mark.parametrize(
    ("agent", "device"),
    [pytest.param("curl/8", "curl/8", id="named"), pytest.param(None, "", id="not named")],
)
def test_what_is_noted_of_a_device(clock: Clock, agent: str | None, device: str) -> None:
    store = MemoryStore(clock=clock)

    def note(request: Request) -> str | None:
        return request.headers.get("x-agent")

    with bare_client(app(clock, store=store, routes={"device": note})) as client:
        response = client.post("/auth/login", data=GOOD, headers={} if agent is None else {"x-agent": agent})
        assert response.status_code == 200
    assert [session.device for session in anyio.run(store.sessions, "ada", REALM)] == [device]


# How long a session lives

DAY = 24 * 3600


def remember(parameters: Mapping[str, Any]) -> float | None:
    return None if parameters.get("remember_me") else DAY


@pytest.mark.parametrize("address", ["/auth/login", "/auth/refresh"])
@pytest.mark.parametrize(
    ("body", "days"),
    [
        pytest.param({"data": {**GOOD, "grant_type": "password", "remember_me": "on"}}, 90, id="form, ticked"),
        pytest.param({"data": {**GOOD, "grant_type": "password"}}, 1, id="form, not ticked"),
        pytest.param({"json": {**GOOD, "grant_type": "password", "remember_me": True}}, 90, id="JSON, true"),
        pytest.param({"json": {**GOOD, "grant_type": "password", "remember_me": False}}, 1, id="JSON, false"),
    ],
)
def test_a_login_may_ask_for_a_session_that_lives_longer(
    clock: Clock, address: str, body: dict[str, Any], days: int
) -> None:
    store = MemoryStore(clock=clock)
    with bare_client(app(clock, store=store, routes={"lifetime": remember})) as client:
        assert client.post(address, **body).status_code == 200
    (session,) = anyio.run(store.sessions, "ada", REALM)
    assert session.ends_at == NOW + days * DAY


def test_the_function_that_chooses_a_lifetime_sees_no_password_and_no_more_than_was_sent(clock: Clock) -> None:
    seen: list[dict[str, Any]] = []

    def choose(parameters: Mapping[str, Any]) -> None:
        seen.append(dict(parameters))

    sent = {**GOOD, "scope": "a", "remember_me": None, "device": {"os": ["x"]}}
    with bare_client(app(clock, routes={"lifetime": choose})) as client:
        assert client.post("/auth/login", json=sent).status_code == 200
        assert client.post("/auth/login", data={**GOOD, "password": "wrong", "remember_me": "on"}).status_code == 400
        assert client.post("/auth/login", data={**GOOD, "a": ["1", "2"]}).status_code == 200
    assert seen == [{"remember_me": None, "device": {"os": ["x"]}}, {"a": "2"}]


@pytest.mark.parametrize("lifetime", [0, 91 * DAY, "a day", True])
def test_a_lifetime_that_the_app_gets_wrong_opens_no_session(clock: Clock, lifetime: Any) -> None:
    store = MemoryStore(clock=clock)
    service = app(clock, store=store, routes={"lifetime": lambda parameters: lifetime})
    with bare_client(service) as client, pytest.raises(ValueError, match="lifetime must be"):
        client.post("/auth/login", data=GOOD)
    assert not anyio.run(store.sessions, "ada", REALM)


# Logout


@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
@pytest.mark.parametrize("hint", [None, "refresh_token", "access_token", "something_else"])
@pytest.mark.parametrize("form", ["form", "JSON"])
def test_logout_is_a_revocation_as_rfc_7009_says(clock: Clock, kind: str, hint: str | None, form: str) -> None:
    with bare_client(app(clock)) as client:
        tokens, other = opened(client), opened(client)
        fields = {"token": tokens[kind]} if hint is None else {"token": tokens[kind], "token_type_hint": hint}
        for _ in range(2):
            body: dict[str, Any] = {"data" if form == "form" else "json": fields}
            response = client.post("/auth/logout", **body)
            assert (response.status_code, response.json()) == (200, {})
            assert {name: response.headers[name] for name in NO_STORE} == NO_STORE
        assert not is_in(client, tokens["access_token"])
        response = client.post("/auth/refresh", data={"refresh_token": tokens["refresh_token"]})
        assert refused(response) == (400, "invalid_grant")
        assert is_in(client, other["access_token"])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="no body"),
        pytest.param({"data": {"token": ""}}, id="an empty token"),
        pytest.param({"json": {}}, id="an empty object"),
        pytest.param({"content": b"", "headers": {"content-type": "application/json"}}, id="JSON without a body"),
        pytest.param({"content": b"", "headers": {"content-type": "text/plain"}}, id="text without a body"),
    ],
)
def test_logout_takes_the_bearer_header(client: TestClient, options: dict[str, Any]) -> None:
    tokens = opened(client)
    headers = {**options.get("headers", {}), **bearer(tokens["access_token"])}
    response = client.post("/auth/logout", **{**options, "headers": headers})
    assert (response.status_code, response.json()) == (200, {})
    assert not is_in(client, tokens["access_token"])
    # Once more: it is still ours, and ended.
    assert client.post("/auth/logout", headers=bearer(tokens["access_token"])).status_code == 200


def test_logout_takes_a_refresh_token_by_its_own_name(client: TestClient) -> None:
    tokens = opened(client)
    assert client.post("/auth/logout", json={"refresh_token": tokens["refresh_token"]}).status_code == 200
    assert not is_in(client, tokens["access_token"])


def test_logout_takes_tokens_that_have_expired(client: TestClient, clock: Clock) -> None:
    first = opened(client)
    clock.now += 3600
    second = client.post("/auth/refresh", data={"refresh_token": first["refresh_token"]}).json()
    assert client.post("/auth/logout", headers=bearer(first["access_token"])).status_code == 200
    assert not is_in(client, second["access_token"])


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("nonsense", id="nonsense"),
        pytest.param("x" * 15_000, id="much"),
        pytest.param("é", id="not ASCII"),
        pytest.param(
            TokenIssuer("another secret of thirty-two bytes", audience="orders", clock=lambda: NOW).mint("ada"),
            id="of another issuer",
        ),
        pytest.param(
            signed({"alg": "HS256", "typ": "JWT"}, {"aud": "orders", "sub": "ada", "exp": NOW + 9}), id="without a name"
        ),
    ],
)
def test_an_unknown_token_is_answered_alike_in_a_body_and_refused_in_a_header(client: TestClient, raw: str) -> None:
    # RFC 7009 2.2: the client does not want it any more either way.
    response = client.post("/auth/logout", json={"token": raw})
    assert (response.status_code, response.json()) == (200, {})
    response = client.post("/auth/logout", headers=[(b"authorization", b"Bearer " + raw.encode("latin-1"))])
    assert response.status_code in (400, 401)
    assert response.headers["www-authenticate"].startswith('Bearer realm="api", error="invalid_')


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        pytest.param(b"bye", "text/plain;charset=UTF-8", 400, id="a text, as fetch() sends it"),
        pytest.param(b"{", "application/json", 400, id="broken JSON"),
        pytest.param(b"token=a&token=b", "application/x-www-form-urlencoded", 400, id="two tokens"),
        pytest.param(b"x" * 17_000, "application/json", 413, id="a large body"),
    ],
)
def test_logout_by_header_ends_the_session_whatever_the_body(
    client: TestClient, content: bytes, content_type: str, status: int
) -> None:
    tokens = opened(client)
    headers = {"content-type": content_type}
    options: Any = {"content": content, "headers": headers}
    # Nothing names a session: the answer says what is wrong with the body, also beside a header that names none.
    assert client.post("/auth/logout", **options).status_code == status
    for wrong in ("Bearer nonsense", "Basic Og=="):
        wrong_headers = {**headers, "authorization": wrong}
        assert client.post("/auth/logout", content=content, headers=wrong_headers).status_code == status
    response = client.post("/auth/logout", content=content, headers={**headers, **bearer(tokens["access_token"])})
    assert (response.status_code, response.json()) == (200, {})
    assert not is_in(client, tokens["access_token"])


def test_a_good_token_in_the_body_leaves_the_session_of_the_header_alone(client: TestClient) -> None:
    mine, other = opened(client), opened(client)
    headers = bearer(mine["access_token"])
    assert client.post("/auth/logout", data={"token": other["refresh_token"]}, headers=headers).status_code == 200
    assert is_in(client, mine["access_token"])
    assert not is_in(client, other["access_token"])
    # One that is not ours names no session, so the header does.
    assert client.post("/auth/logout", data={"token": "nonsense"}, headers=headers).status_code == 200
    assert not is_in(client, mine["access_token"])


@pytest.mark.parametrize("expires_at", [2**53 - 1, 2**53 + 2, 2**60])
def test_logout_takes_a_token_that_expires_at_the_end_of_time(client: TestClient, expires_at: float) -> None:
    # Another holder of the secret may have signed it.
    payload = {"aud": "orders", "sub": "ada", "jti": "t-1", "exp": expires_at}
    raw = signed({"alg": "HS256", "typ": "JWT"}, payload)
    for headers, data in ((bearer(raw), {}), ({}, {"token": raw})):
        assert client.post("/auth/logout", headers=headers, data=data).status_code == 200
    assert not is_in(client, raw)


def test_logout_without_a_token_is_a_bad_request(client: TestClient) -> None:
    assert refused(client.post("/auth/logout")) == (400, "invalid_request")
    assert refused(client.post("/auth/logout", headers={"authorization": "Basic Og=="})) == (400, "invalid_request")
    assert refused(client.post("/auth/logout", json=["token"])) == (400, "invalid_request")
    twice = urlencode([("token", "a"), ("token", "b")])
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert refused(client.post("/auth/logout", content=twice, headers=form)) == (400, "invalid_request")
    assert client.get("/auth/logout").status_code == 405


def test_refusals_of_a_header_are_the_apps_to_shape(clock: Clock) -> None:
    shaped = app(
        clock,
        routes={
            "realm": "orders",
            "refusal_response": lambda connection, refusal: PlainTextResponse(refusal.code, 401),
        },
    )
    with bare_client(shaped) as client:
        response = client.post("/auth/logout", headers=bearer("nonsense"))
        assert response.text == "invalid_token"


# A store that is out


@pytest.mark.parametrize("kind", ["broken", "hanging"])
def test_where_nothing_can_be_stored_nothing_is_said_to_be_good(clock: Clock, kind: str, backend: str) -> None:
    store = Hanging(clock=clock)
    events: list[Event] = []
    routes = {"on_event": events.append}
    service = app(clock, store=store if kind == "hanging" else Broken(clock=clock), routes=routes)
    with bare_client(app(clock), backend=backend) as well:
        tokens = opened(well)
    store.hangs = ("open", "read", "rotate", "revoke")
    with bare_client(service, backend=backend) as client:
        requests: list[tuple[str, dict[str, Any]]] = [
            ("refresh", {"data": {"refresh_token": tokens["refresh_token"]}}),
            ("logout", {"data": {"token": tokens["refresh_token"]}}),
            ("login", {"data": GOOD}),
            ("logout", {"data": {"token": tokens["access_token"]}}),
            ("logout", {"headers": bearer(tokens["access_token"])}),
        ]
        # Each takes a second where the store hangs.
        tried = requests[:2] if kind == "hanging" else requests
        for name, options in tried:
            response = client.post(f"/auth/{name}", **options)
            assert refused(response) == (503, "temporarily_unavailable")
            assert response.headers["retry-after"] == "1"
            if name == "logout":
                assert response.json()["error_description"] == (
                    "The session could not be ended and may live on. Try again later."
                )
        # What needs no store is answered.
        wrong = client.post("/auth/login", data={**GOOD, "password": "x"})
        assert refused(wrong) == (400, "invalid_grant")
        assert client.post("/auth/logout", data={"token": "nonsense"}).status_code == 200
    assert sum(isinstance(event, StoreFailed) for event in events) == len(tried)


# Configuration


def test_the_routes_are_these(clock: Clock) -> None:
    tokens = TokenIssuer(SECRET, audience="orders")
    routes = auth_routes(Sessions(MemoryStore(), tokens), authenticate=check)
    assert [(route.path, route.name) for route in routes] == [
        ("/login", "login"),
        ("/refresh", "refresh"),
        ("/logout", "logout"),
        ("/jwks.json", "jwks"),
    ]
    with bare_client(app(clock)) as client:
        assert json.loads(client.get("/auth/jwks.json").content) == {"keys": []}


async def asynchronous(argument: Any) -> Any: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"device": "phone"}, "device must be callable", id="a text for a function"),
        pytest.param({"device": asynchronous}, "device must be a plain function", id="a device that waits"),
        pytest.param({"lifetime": DAY}, r"Sessions\(session_lifetime=...\)", id="one lifetime for all"),
        pytest.param({"lifetime": asynchronous}, "lifetime must be a plain function", id="a lifetime that waits"),
        pytest.param({"authenticate": None}, "authenticate must be callable", id="no authenticate"),
        pytest.param(
            {"authenticate": lambda form: None}, r"\(username, password\)", id="an authenticate that takes one"
        ),
        pytest.param(
            {"authenticate": lambda username, password, db: None}, r"\(username, password\)", id="one that takes three"
        ),
        pytest.param({"throttle": 5}, r"throttle must be a Throttle", id="a number for a throttle"),
    ],
)
def test_what_cannot_work_is_said_at_construction(options: dict[str, Any], message: str) -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, audience="orders"))
    with pytest.raises(ConfigurationError, match=message):
        auth_routes(sessions, **{"authenticate": check, **options})


@pytest.mark.parametrize("argument", ["device", "lifetime"])
def test_an_argument_about_sessions_needs_sessions(argument: str) -> None:
    options: dict[str, Any] = {argument: lambda about: None}
    with pytest.raises(ConfigurationError, match=f"{argument}: without Sessions"):
        auth_routes(TokenIssuer(SECRET, audience="orders"), authenticate=check, **options)
