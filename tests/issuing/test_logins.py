"""Who logs in, and what failed logins lead to."""

import asyncio
import socket
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any

import anyio
import pytest
from anyio import to_thread
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from redis import Redis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from jwt_middleware.errors import UserRefused
from jwt_middleware.events import Event, LoginFailed, LoginSucceeded, LoginThrottled, ThrottleFailed
from jwt_middleware.issuing import (
    LoginRefused,
    MemoryStore,
    Sessions,
    Throttle,
    TokenIssuer,
    auth_routes,
    password_check,
)

from ..support import NOW, SECRET, bare_client
from ..support.keys import RSA, SECRET_64
from ..support.redis_server import redis_server
from .stateless import GOOD, User, app, check, client, finds, minted, status_of_login


async def async_check(username: str, password: str) -> str | None:
    return check(username, password)


class AsyncCheck:
    async def __call__(self, username: str, password: str) -> str | None:
        return check(username, password)


@pytest.mark.parametrize(
    "authenticate",
    [
        pytest.param(check, id="sync"),
        pytest.param(async_check, id="async"),
        pytest.param(AsyncCheck(), id="object with an async call"),
        pytest.param(partial(async_check), id="partial of an async function"),
        pytest.param(lambda username, password: async_check(username, password), id="lambda around an async function"),
    ],
)
def test_authenticate_is_sync_or_async(authenticate: Any, backend: str) -> None:
    browser = client(authenticate, backend=backend)
    assert minted(browser.post("/login", data=GOOD))["sub"] == "ada"
    assert browser.post("/login", data={**GOOD, "password": "x"}).status_code == 400


def test_a_sync_authenticate_runs_in_a_worker_thread(backend: str) -> None:
    threads = []

    def in_a_thread(username: str, password: str) -> Any:
        async def on_the_loop() -> str:
            threads.append(get_ident())
            return username

        threads.append(get_ident())
        return on_the_loop()

    assert client(in_a_thread, backend=backend).post("/login", data=GOOD).status_code == 200
    assert len(set(threads)) == 2


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        pytest.param("ada", {}, id="a subject"),
        pytest.param(User(), {}, id="a user"),
        pytest.param(User(scopes=("a", "b")), {"scope": "a b"}, id="scopes"),
        pytest.param(User(scopes=None, claims=None), {}, id="none of either"),
        pytest.param(User(claims={"name": "Ada", "roles": ["x"]}), {"name": "Ada", "roles": ["x"]}, id="claims"),
    ],
)
def test_the_token_carries_what_authenticate_returns(user: object, expected: dict[str, object]) -> None:
    token_claims = minted(client(finds(user)).post("/login", data=GOOD))
    assert len(token_claims.pop("jti")) == 22
    always = {"sub": "ada", "aud": "orders", "iat": NOW, "exp": NOW + 900, "auth_time": NOW}
    assert token_claims == {**always, **expected}


@dataclass
class StrongUser(User):
    acr: Any = "urn:example:phishing-resistant"
    amr: Any = ("hwk", "pin")


def test_the_token_says_when_and_how_the_user_logged_in() -> None:
    # RFC 9470 asks for acr and auth_time, RFC 8176 names the methods.
    token_claims = minted(client(finds(StrongUser(claims={"tenant": 7}))).post("/login", data=GOOD))
    assert token_claims["auth_time"] == NOW
    assert (token_claims["acr"], token_claims["amr"]) == ("urn:example:phishing-resistant", ["hwk", "pin"])
    assert token_claims["tenant"] == 7


def test_a_client_cannot_say_how_it_logged_in() -> None:
    forged = {"acr": "urn:example:phishing-resistant", "amr": "hwk", "auth_time": str(NOW + 60)}
    token_claims = minted(client().post("/login", data={**GOOD, **forged}))
    assert token_claims["auth_time"] == NOW
    assert not {"acr", "amr"} & token_claims.keys()


@dataclass
class Anonymous:
    username: str = "ada"


@pytest.mark.parametrize(
    ("user", "error", "message"),
    [
        pytest.param(True, TypeError, "it returned a bool$", id="True"),
        pytest.param(42, TypeError, "it returned a int$", id="a number"),
        pytest.param({"identity": "ada"}, TypeError, "it returned a dict$", id="a dict"),
        pytest.param(Anonymous(), TypeError, "it returned a Anonymous$", id="a user without identity"),
        pytest.param(User(identity=42), TypeError, "it returned a User$", id="identity is a number"),
        pytest.param(StrongUser(acr=5), TypeError, "`acr` is a string", id="acr is a number"),
        pytest.param(StrongUser(amr="pwd"), TypeError, "`amr` is a list of strings", id="amr is a string"),
        pytest.param(StrongUser(amr=[1]), TypeError, "`amr` is a list of strings", id="amr holds a number"),
        pytest.param(User(scopes="a b"), TypeError, "it returned a User$", id="scopes are a string"),
        pytest.param(User(scopes=["a b"]), ValueError, "cannot be a scope", id="a scope with a space"),
        pytest.param(User(scopes=[1]), ValueError, "cannot be a scope", id="a scope that is a number"),
        pytest.param("", ValueError, "must not be empty", id="an empty subject"),
        pytest.param(User(identity=""), ValueError, "must not be empty", id="an empty identity"),
        pytest.param(User(claims={"exp": 1}), ValueError, "exp cannot be given", id="a claim of the issuer's"),
        pytest.param(User(claims={"cnf": {}}), ValueError, "sender_constrained", id="a claim that would not verify"),
    ],
)
def test_a_user_that_cannot_be_is_an_error_of_the_apps(user: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        client(finds(user)).post("/login", data=GOOD)
    quiet = TestClient(app(finds(user)), raise_server_exceptions=False)
    assert quiet.post("/login", data=GOOD).status_code == 500


THROTTLED = {
    "error": "temporarily_unavailable",
    "error_description": "There were too many failed logins. Try again later.",
}


def throttled(authenticate: Any = check, *, backend: str = "asyncio", routes: Any = None, **options: Any) -> TestClient:
    """A client of routes with a throttle; ``options`` are the throttle's."""
    return client(authenticate, backend=backend, routes={"throttle": Throttle(**options), **(routes or {})})


def wrong(browser: TestClient, username: str = "ada") -> int:
    return browser.post("/login", data={"username": username, "password": "wrong"}).status_code


def test_after_ten_wrong_passwords_the_right_one_is_refused_as_well(backend: str) -> None:
    browser = throttled(backend=backend)
    assert [wrong(browser) for _ in range(12)] == [400] * 10 + [429] * 2
    response = browser.post("/login", data=GOOD)
    assert (response.status_code, response.json()) == (429, THROTTLED)
    assert 895 <= int(response.headers["retry-after"]) <= 900
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "application/json"
    assert "www-authenticate" not in response.headers
    assert browser.post("/login", data={**GOOD, "username": "bob"}).status_code == 200


def test_a_refused_login_tells_nothing_of_account_and_password() -> None:
    answers = []
    for user, password in (("ada", "lovelace"), ("ada", "wrong"), ("eve", "wrong")):
        browser = throttled(lambda username, password: check(username, password) if username == "ada" else None)
        assert [wrong(browser, user) for _ in range(10)] == [400] * 10
        response = browser.post("/login", data={"username": user, "password": password})
        answers.append((response.status_code, response.content, sorted(response.headers)))
    assert answers[0] == answers[1] == answers[2]


def test_a_refused_login_costs_no_password_check() -> None:
    seen = []
    browser = throttled(lambda username, password: seen.append(username), account_failures=1)
    assert [wrong(browser) for _ in range(3)] == [400, 429, 429]
    assert seen == ["ada"]


def test_a_good_login_starts_the_count_again() -> None:
    browser = throttled(account_failures=2, address_failures=4)
    for _ in range(3):
        assert wrong(browser) == 400
        assert browser.post("/login", data=GOOD).status_code == 200
    assert [wrong(browser), wrong(browser)] == [400, 429]


def test_the_right_password_with_a_wrong_scope_is_no_failed_login() -> None:
    browser = throttled(account_failures=1)
    for _ in range(3):
        assert browser.post("/login", data={**GOOD, "scope": "admin"}).json()["error"] == "invalid_scope"
    assert browser.post("/login", data=GOOD).status_code == 200


def test_a_request_that_is_no_login_is_not_counted() -> None:
    browser = throttled(account_failures=1, address_failures=1)
    for _ in range(3):
        assert browser.post("/login", data={"username": "ada"}).status_code == 400
        assert browser.post("/login", content=b"x").status_code == 400
    assert browser.post("/login", data=GOOD).status_code == 200


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(LookupError("the database is down"), id="an outage of the user table"),
        pytest.param(HTTPException(503), id="an outage that the app answers itself"),
        pytest.param(5, id="nonsense"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_login_that_ends_in_an_error_of_the_app_is_no_failed_one(outcome: object, is_async: bool) -> None:
    broken = True

    def authenticate(username: str, password: str) -> object:
        if not broken:
            return check(username, password)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def authenticate_async(username: str, password: str) -> object:
        return authenticate(username, password)

    throttle = Throttle(account_failures=2, address_failures=3)
    starlette = app(authenticate_async if is_async else authenticate, routes={"throttle": throttle})
    browser = TestClient(starlette, raise_server_exceptions=False)
    assert {wrong(browser, f"user{number % 2}") for number in range(8)} <= {500, 503}
    broken = False
    assert [wrong(browser) for _ in range(3)] == [400, 400, 429]
    assert browser.post("/login", data={**GOOD, "username": "bob"}).status_code == 200


@pytest.mark.parametrize(
    "error", [pytest.param(HTTPException(401), id="HTTPException"), pytest.param(UserRefused(), id="Refusal")]
)
def test_an_error_that_says_no_to_the_password_counts(error: Exception) -> None:
    # Many FastAPI apps raise HTTPException(401). If it did not count, they could be asked for ever.
    def authenticate(username: str, password: str) -> object:
        raise error

    starlette = app(authenticate, routes={"throttle": Throttle(account_failures=2)})
    browser = TestClient(starlette, raise_server_exceptions=False)
    statuses = [wrong(browser) for _ in range(3)]
    assert statuses[2] == 429
    assert 429 not in statuses[:2]


@pytest.mark.anyio
async def test_a_cancelled_login_counts_for_its_address_only_and_only_after_its_check_has_ended(
    anyio_backend_name: str,
) -> None:
    started, release = threading.Event(), threading.Event()

    def authenticate(username: str, password: str) -> str | None:
        started.set()
        assert release.wait(10)
        return check(username, password)

    throttle = Throttle(account_failures=1, address_failures=2)
    starlette = app(authenticate, routes={"throttle": throttle})
    first = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        with first:

            async def hang_up() -> None:
                await to_thread.run_sync(started.wait, 10)
                first.cancel()
                # The check still runs, so the account still counts it.
                assert await status_of_login(starlette, "198.51.100.1") == 429
                release.set()

            tasks.start_soon(hang_up)
            await status_of_login(starlette, "203.0.113.9")
    assert first.cancelled_caught
    assert await status_of_login(starlette, "198.51.100.1", "ada", "wrong") == 400
    assert await status_of_login(starlette, "203.0.113.9", "bob", "wrong") == 400
    assert await status_of_login(starlette, "203.0.113.9", "eve", "wrong") == 429


@pytest.mark.asyncio
async def test_a_login_that_is_cancelled_by_asyncio_itself_counts_in_the_same_way() -> None:
    started, release = threading.Event(), threading.Event()

    def authenticate(username: str, password: str) -> str | None:
        started.set()
        assert release.wait(10)
        return check(username, password)

    starlette = app(authenticate, routes={"throttle": Throttle(account_failures=1, address_failures=2)})
    login = asyncio.create_task(status_of_login(starlette, "203.0.113.9"))
    await asyncio.to_thread(started.wait, 10)
    login.cancel()
    await asyncio.sleep(0)
    assert not login.done()
    assert await status_of_login(starlette, "198.51.100.1") == 429
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await login
    assert await status_of_login(starlette, "198.51.100.1") == 200
    assert await status_of_login(starlette, "203.0.113.9", "bob", "wrong") == 400
    assert await status_of_login(starlette, "203.0.113.9", "eve", "wrong") == 429


def test_a_login_for_which_there_is_no_time_is_no_failed_one() -> None:
    def authenticate(username: str, password: str) -> object:
        raise LoginRefused(503, "Too many logins are being checked. Try again.", retry_after=1, by="hasher")

    browser = throttled(authenticate, account_failures=1, address_failures=1)
    for _ in range(3):
        response = browser.post("/login", data=GOOD)
        assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")
        assert response.headers["retry-after"] == "1"
        assert response.headers["cache-control"] == "no-store"


def test_handlers_hear_of_logins(tmp_path: Path) -> None:
    events: list[Event] = []
    browser = throttled(account_failures=1, routes={"on_event": events.append})
    browser.post("/login", data=GOOD)
    assert [wrong(browser) for _ in range(2)] == [400, 429]
    assert events == [
        LoginSucceeded(subject="ada", client="testclient"),
        LoginFailed(client="testclient"),
        LoginThrottled(by="account", client="testclient", retry_after=900),
    ]
    assert "lovelace" not in repr(events)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    events.clear()
    assert wrong(throttled(storage=f"redis://127.0.0.1:{port}", routes={"on_event": events.append})) == 503
    assert [type(event) for event in events] == [ThrottleFailed]


def test_made_up_addresses_buy_no_attempt() -> None:
    browser = throttled(address_failures=10)
    statuses = [
        browser.post(
            "/login",
            data={"username": f"user{number}", "password": "wrong"},
            headers={"x-forwarded-for": f"203.0.113.{number}"},
        ).status_code
        for number in range(12)
    ]
    assert statuses == [400] * 10 + [429] * 2


def test_what_stands_for_a_name_depends_on_the_signing_key(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, Redis(port=server.port) as redis:
        kept = []
        for key in (SECRET, SECRET, SECRET_64):
            assert wrong(client(key=key, routes={"throttle": Throttle(storage=server.url)})) == 400
            kept.append(redis.dbsize())
    # An account and an address each, of one issuer twice and of another once.
    assert kept == [2, 2, 4]


@pytest.mark.parametrize("key", [SECRET, RSA], ids=["secret", "RSA"])
def test_with_sessions_logins_are_throttled_and_refreshes_are_not(key: Any, backend: str) -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(key, audience="orders"))
    routes = auth_routes(sessions, authenticate=check, throttle=Throttle(account_failures=2))
    browser = bare_client(Starlette(routes=routes), backend=backend)
    login = browser.post("/login", data=GOOD).json()
    assert [wrong(browser) for _ in range(3)] == [400, 400, 429]
    assert browser.post("/refresh", data=GOOD | {"grant_type": "password"}).status_code == 429
    assert browser.post("/refresh", data={"refresh_token": login["refresh_token"]}).status_code == 200


def test_under_a_password_check_an_unknown_user_and_a_wrong_password_look_alike() -> None:
    users = {"ada": User()}
    hasher = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    good = hasher.hash("lovelace")
    browser = throttled(password_check(users.get, hasher, hash_of=lambda user: good), account_failures=20)
    assert browser.post("/login", data=GOOD).status_code == 200
    answers = {
        (response.status_code, response.content, *response.headers.items())
        for username in ["ada", "eve"] * 20
        for response in [browser.post("/login", data={"username": username, "password": "wrong"})]
    }
    assert [status for status, *_ in answers] == [400]


def test_a_storage_that_is_away_lets_nobody_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    response = throttled(storage=f"redis://127.0.0.1:{port}").post("/login", data=GOOD)
    assert (response.status_code, response.json()) == (
        503,
        {
            "error": "temporarily_unavailable",
            "error_description": "Logins cannot be checked at the moment. Try again later.",
        },
    )
    assert response.headers["retry-after"] == "1"
    assert response.headers["cache-control"] == "no-store"


def test_what_authenticate_raises_is_the_apps() -> None:
    def throttled(username: str, password: str) -> str:
        raise HTTPException(429, headers={"retry-after": "60"})

    def broken(username: str, password: str) -> str:
        raise LookupError("database")

    response = client(throttled).post("/login", data=GOOD)
    assert (response.status_code, response.headers["retry-after"]) == (429, "60")
    with pytest.raises(LookupError, match="database"):
        client(broken).post("/login", data=GOOD)
