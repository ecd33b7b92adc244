import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any

import jwt
import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from redis import Redis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from jwt_middleware import ConfigurationError, JWTMiddleware, Refusal
from jwt_middleware.issuing import MemoryStore, Sessions, Throttle, TokenIssuer, auth_routes, password_check

from ..support import NOW, SECRET, Clock, bare_client, bearer, claims, echo, signed
from ..support.keys import RSA, SECRET_64
from ..support.redis_server import redis_server

FORM = "application/x-www-form-urlencoded"
GOOD = {"username": "ada", "password": "lovelace"}
UNREADABLE = ("invalid_request", "The body cannot be read.")
NEEDED = ("invalid_request", "The parameters username and password are needed.")


@dataclass
class User:
    identity: Any = "ada"
    scopes: Any = ()
    claims: Any = field(default_factory=dict)


def check(username: str, password: str) -> str | None:
    return username if password == "lovelace" else None


def finds(user: object) -> Callable[[str, str], object]:
    """An ``authenticate`` that finds ``user`` for everybody."""
    return lambda username, password: user


def app(authenticate: Any = check, *, clock: Any = None, key: Any = SECRET, routes: Any = None, **options: Any) -> Any:
    tokens = TokenIssuer(key, **{"audience": "orders", "clock": clock or Clock(), **options})
    return Starlette(routes=auth_routes(tokens, authenticate=authenticate, **(routes or {})))


def client(authenticate: Any = check, *, backend: str = "asyncio", **options: Any) -> TestClient:
    return TestClient(app(authenticate, **options), backend=backend)  # type: ignore[arg-type]  # a str for a Literal


def minted(response: Any) -> dict[str, Any]:
    """The claims of the token in ``response``, as PyJWT reads them."""
    assert response.status_code == 200, response.text
    read: dict[str, Any] = jwt.decode(response.json()["access_token"], options={"verify_signature": False})
    return read


def test_login_answers_as_rfc_6749_5_1_says(backend: str) -> None:
    response = client(finds(User(scopes=["a", "b"])), backend=backend).post("/login", data=GOOD)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["pragma"] == "no-cache"
    body = response.json()
    assert body.pop("access_token").count(".") == 2
    assert body == {"token_type": "bearer", "expires_in": 900, "scope": "a b"}
    assert type(body["expires_in"]) is int


def test_without_scopes_the_answer_has_no_scope() -> None:
    response = client().post("/login", data=GOOD)
    assert set(response.json()) == {"access_token", "token_type", "expires_in"}


def test_the_token_of_a_login_opens_the_app_behind_the_middleware() -> None:
    tokens = TokenIssuer(SECRET, audience="orders", issuer="https://login.example", clock=Clock())
    routes = [Mount("/auth", routes=auth_routes(tokens, authenticate=check)), Mount("/", app=echo)]
    wrapped = JWTMiddleware(Starlette(routes=routes), providers=tokens.provider(), public=["/auth/*"], clock=Clock())
    browser = TestClient(wrapped)
    assert browser.get("/").status_code == 401
    raw = browser.post("/auth/login", data=GOOD).json()["access_token"]
    assert browser.get("/", headers=bearer(raw)).json()["user"] == "ada"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param("username=ada&password=lovelace", FORM, id="form"),
        pytest.param("username=ada&password=lovelace", f"{FORM};charset=UTF-8", id="form with a charset"),
        pytest.param("username=ada&password=lovelace", f"{FORM} ; charset=utf-8", id="form with a space"),
        pytest.param("username=ada&password=lovelace", "Application/X-WWW-Form-URLEncoded", id="form in capitals"),
        pytest.param("grant_type=password&username=ada&password=lovelace", FORM, id="grant_type"),
        pytest.param("grant_type=&username=ada&password=lovelace", FORM, id="empty grant_type"),
        pytest.param("username=ada&password=lovelace&client_id=None&client_secret=", FORM, id="client_id=None"),
        pytest.param("username=ada&password=lovelace&scope=", FORM, id="empty scope"),
        pytest.param("username=ada&password=lovelace&scope=+", FORM, id="blank scope"),
        pytest.param("a=1&a=2&username=ada&&b&password=lovelace&=", FORM, id="stray fields, doubled ones too"),
        pytest.param("%75sername=%61da&password=love%6Cace", FORM, id="percent encoding"),
        pytest.param('{"username": "ada", "password": "lovelace"}', "application/json", id="JSON"),
        pytest.param(
            '{"username": "ada", "password": "lovelace"}', "APPLICATION/JSON; charset=utf-8", id="JSON, charset"
        ),
        pytest.param(
            '{"username": "ada", "password": "lovelace", "grant_type": null, "scope": null, "client_id": null}',
            "application/json",
            id="JSON with nulls",
        ),
        pytest.param(
            '{"username": "\\u0061da", "password": "lovelace", "remember": true, "device": {"os": ["x"]}, "n": 5}',
            "application/json",
            id="JSON with stray fields",
        ),
    ],
)
def test_login_takes_forms_and_json_as_clients_send_them(body: str, content_type: str) -> None:
    response = client().post("/login", content=body, headers={"content-type": content_type})
    assert minted(response)["sub"] == "ada"


def test_login_ignores_an_empty_basic_header() -> None:
    # As Swagger UI sends it.
    response = client().post("/login", data=GOOD, headers={"authorization": "Basic Og=="})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param("username=J%C3%B6rg+%2B%26&password=%F0%9F%94%91%09%25zz+%3D", FORM, id="form"),
        pytest.param("username=Jörg+%2B%26&password=🔑%09%zz+=", FORM, id="form, not encoded"),
        pytest.param(json.dumps({"username": "Jörg +&", "password": "🔑\t%zz ="}), "application/json", id="JSON"),
        pytest.param('{"username": "Jörg +&", "password": "🔑\\t%zz ="}', "application/json", id="JSON, not escaped"),
    ],
)
def test_names_and_passwords_arrive_as_they_were_typed(body: str, content_type: str) -> None:
    seen = []

    def authenticate(username: str, password: str) -> str:
        seen.append((username, password))
        return "ada"

    response = client(authenticate).post("/login", content=body.encode(), headers={"content-type": content_type})
    assert response.status_code == 200
    assert seen == [("Jörg +&", "🔑\t%zz =")]


@pytest.mark.parametrize(
    ("body", "error", "description"),
    [
        pytest.param("", *NEEDED, id="empty"),
        pytest.param("username=ada", *NEEDED, id="no password"),
        pytest.param("password=lovelace", *NEEDED, id="no username"),
        pytest.param("username=ada&password=", *NEEDED, id="empty password"),
        pytest.param("username=&password=lovelace", *NEEDED, id="empty username"),
        pytest.param("Username=ada&Password=lovelace", *NEEDED, id="names in capitals"),
        pytest.param("username=ada;password=lovelace", *NEEDED, id="semicolons"),
        *(
            pytest.param(
                f"username=ada&password=lovelace&scope=a&{name}=x&{name}=x",
                "invalid_request",
                f"The parameter {name} must be one string.",
                id=f"{name} twice",
            )
            for name in ("username", "password", "scope", "grant_type")
        ),
        *(
            pytest.param(
                f"grant_type={grant_type}&username=ada&password=lovelace",
                "unsupported_grant_type",
                "Only the grant type password is supported here.",
                id=f"grant_type {grant_type}",
            )
            for grant_type in ("refresh_token", "client_credentials", "authorization_code", "Password", "null", "+")
        ),
        pytest.param("username=ada&password=%ff", *UNREADABLE, id="percent encoding of no UTF-8"),
        pytest.param("username=ada&password=%ed%a0%80", *UNREADABLE, id="percent encoding of a surrogate"),
        pytest.param("username=ada&password=%c0%80", *UNREADABLE, id="overlong NUL"),
        pytest.param(b"username=ada&password=\xff", *UNREADABLE, id="no UTF-8"),
        pytest.param("username=ada&password=x&" + "&".join(map(str, range(100))), *UNREADABLE, id="102 fields"),
    ],
)
def test_a_form_that_is_no_login_is_refused(body: str | bytes, error: str, description: str) -> None:
    response = client().post("/login", content=body, headers={"content-type": FORM})
    assert (response.status_code, response.json()) == (400, {"error": error, "error_description": description})


@pytest.mark.parametrize(
    ("body", "error", "description"),
    [
        pytest.param("", *NEEDED, id="empty"),
        pytest.param("null", *UNREADABLE, id="null"),
        pytest.param('["ada", "lovelace"]', *UNREADABLE, id="a list"),
        pytest.param('"username=ada"', *UNREADABLE, id="a string"),
        pytest.param('{"username": "ada", "password": "love', *UNREADABLE, id="cut off"),
        pytest.param("username=ada&password=lovelace", *UNREADABLE, id="a form"),
        pytest.param(
            '{"username": "bob", "username": "ada", "password": "lovelace"}', *UNREADABLE, id="username twice"
        ),
        pytest.param('{"username": "ada", "password": "\\ud800"}', *UNREADABLE, id="an unpaired surrogate"),
        pytest.param('{"username": "ada", "password": NaN}', *UNREADABLE, id="NaN"),
        pytest.param('{"username": "ada", "password": ' + "9" * 5000 + "}", *UNREADABLE, id="a number of 5,000 digits"),
        pytest.param('{"x": ' + "[" * 8000 + "]" * 8000 + "}", *UNREADABLE, id="deep"),
        pytest.param(b'\xef\xbb\xbf{"username": "ada", "password": "lovelace"}', *UNREADABLE, id="byte order mark"),
        pytest.param('{"username": "ada", "password": "lovelace"}'.encode("utf-16"), *UNREADABLE, id="UTF-16"),
        pytest.param("{}", *NEEDED, id="an empty object"),
        pytest.param('{"username": "ada", "password": null}', *NEEDED, id="null for a password"),
        *(
            pytest.param(
                json.dumps({**GOOD, name: value}),
                "invalid_request",
                f"The parameter {name} must be one string.",
                id=f"{name} is {value!r}",
            )
            for name in ("username", "password", "scope", "grant_type")
            for value in (5, True, ["lovelace"], {"$ne": ""})
        ),
        pytest.param(
            '{"username": "ada", "password": "lovelace", "grant_type": "refresh_token"}',
            "unsupported_grant_type",
            "Only the grant type password is supported here.",
            id="another grant type",
        ),
    ],
)
def test_json_that_is_no_login_is_refused(body: str | bytes, error: str, description: str) -> None:
    response = client().post("/login", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()) == (400, {"error": error, "error_description": description})


@pytest.mark.parametrize("character", ["\0", "\n", "\r", "\x1b", "\x7f", "\ufffe", "\uffff"])
@pytest.mark.parametrize("name", ["username", "password"])
def test_characters_that_rfc_6749_excludes_never_reach_the_app(name: str, character: str) -> None:
    def never(username: str, password: str) -> str:
        raise AssertionError((username, password))

    fields = {**GOOD, name: f"a{character}b"}
    for response in (client(never).post("/login", data=fields), client(never).post("/login", json=fields)):
        assert response.status_code == 400
        assert response.json() == {
            "error": "invalid_request",
            "error_description": f"The parameter {name} holds a character that it cannot have.",
        }


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "multipart/form-data; boundary=x", "application/xml", "application/json-patch+json", "json", None],
)
def test_other_content_types_are_refused(content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = client().post("/login", content=b"username=ada&password=lovelace", headers=headers)
    assert (response.status_code, response.json()) == (
        400,
        {
            "error": "invalid_request",
            "error_description": f"The content type must be {FORM} or application/json.",
        },
    )


def padded(size: int) -> bytes:
    return b"username=ada&password=lovelace&x=".ljust(size, b"x")


@pytest.mark.parametrize(
    ("size", "status"),
    [pytest.param(16 * 1024, 200, id="16 KiB"), pytest.param(16 * 1024 + 1, 413, id="one more byte")],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_16_kib_is_read_and_not_a_byte_more(size: int, status: int, chunked: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for start in range(0, size, 1000):
            yield padded(size)[start : min(start + 1000, size)]

    content: Any = chunks() if chunked else padded(size)
    response = client().post("/login", content=content, headers={"content-type": FORM})
    assert ("content-length" in response.request.headers) is not chunked
    assert response.status_code == status
    if status == 413:
        assert response.json() == {"error": "invalid_request", "error_description": "The body is too large."}


def login_scope() -> Scope:
    headers = [(b"content-type", FORM.encode())]
    return {"type": "http", "method": "POST", "path": "/login", "query_string": b"", "headers": headers}


@pytest.mark.anyio
async def test_a_body_without_end_is_left_unread() -> None:
    sent: list[Message] = []
    looks = 0

    async def receive() -> Message:
        nonlocal looks
        looks += 1
        return {"type": "http.request", "body": b"x" * 1024, "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    await app()(login_scope(), receive, send)
    assert (sent[0]["status"], looks) == (413, 17)


@pytest.mark.anyio
async def test_a_client_that_leaves_in_the_middle_is_no_error() -> None:
    sent: list[Message] = []
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": b"username=ada", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    await app()(login_scope(), receive, send)
    assert sent[0]["status"] == 400


@pytest.mark.parametrize("found", [None, False])
def test_a_wrong_password_is_invalid_grant_without_a_challenge(found: object) -> None:
    response = client(finds(found)).post("/login", data=GOOD)
    assert (response.status_code, response.json()) == (
        400,
        {"error": "invalid_grant", "error_description": "The username or the password is wrong."},
    )
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert "www-authenticate" not in response.headers


def test_a_wrong_password_and_an_unknown_user_are_answered_alike() -> None:
    answers = [client().post("/login", data={**GOOD, **wrong}) for wrong in ({"password": "x"}, {"username": "eve"})]
    wrong_password, unknown = answers[0], client(finds(None)).post("/login", data={**GOOD, "username": "eve"})
    assert wrong_password.content == unknown.content
    assert wrong_password.headers == unknown.headers


@pytest.mark.parametrize("path", ["/login", "/refresh"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods_than_post_are_not_allowed(path: str, method: str) -> None:
    response = client(session_lifetime=3600).request(method, path, params=GOOD)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        pytest.param(None, "a b c", id="none: all of them"),
        pytest.param("a", "a", id="one"),
        pytest.param("c a", "c a", id="in the order asked for"),
        pytest.param("a a", "a", id="one twice"),
        pytest.param(" a  b ", "a b", id="spaces"),
        pytest.param("a admin", "a", id="one that he may not have"),
        pytest.param('a "\\ \x00\n', "a", id="no scopes at all"),
    ],
)
def test_the_scopes_asked_for_are_limited_to_those_granted(asked: str | None, granted: str) -> None:
    fields = GOOD if asked is None else {**GOOD, "scope": asked}
    response = client(finds(User(scopes=["a", "b", "c"]))).post("/login", data=fields)
    assert response.json()["scope"] == minted(response)["scope"] == granted


@pytest.mark.parametrize("user", [pytest.param(User(scopes=["a"]), id="other scopes"), pytest.param("ada", id="none")])
@pytest.mark.parametrize("asked", ["admin", "A", "a\tb", "a,b"])
def test_scopes_none_of_which_can_be_granted_are_refused(user: object, asked: str) -> None:
    response = client(finds(user)).post("/login", data={**GOOD, "scope": asked})
    assert (response.status_code, response.json()) == (
        400,
        {"error": "invalid_scope", "error_description": "None of the scopes asked for can be granted."},
    )


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
    assert token_claims == {"sub": "ada", "aud": "orders", "iat": NOW, "exp": NOW + 900, **expected}


@dataclass
class Anonymous:
    username: str = "ada"


@pytest.mark.parametrize(
    ("user", "error", "message"),
    [
        pytest.param(True, TypeError, "a bool came", id="True"),
        pytest.param(42, TypeError, "a int came", id="a number"),
        pytest.param({"identity": "ada"}, TypeError, "a dict came", id="a dict"),
        pytest.param(Anonymous(), TypeError, "a Anonymous came", id="a user without identity"),
        pytest.param(User(identity=42), TypeError, "a User came", id="identity is a number"),
        pytest.param(User(scopes="a b"), TypeError, "a User came", id="scopes are a string"),
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


def throttled(authenticate: Any = check, *, backend: str = "asyncio", **options: Any) -> TestClient:
    """A client of routes with a throttle; ``options`` are the throttle's."""
    return client(authenticate, backend=backend, routes={"throttle": Throttle(**options)})


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


@pytest.mark.parametrize("user", [pytest.param(LookupError(), id="it raises"), pytest.param(5, id="it gives nonsense")])
def test_an_attempt_that_ends_in_an_error_of_the_apps_stays_counted(user: object) -> None:
    def fail(username: str, password: str) -> object:
        if isinstance(user, Exception):
            raise user
        return user

    starlette = app(fail, routes={"throttle": Throttle(account_failures=2)})
    browser = TestClient(starlette, raise_server_exceptions=False)
    assert [wrong(browser) for _ in range(3)] == [500, 500, 429]


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


def test_a_secret_is_no_part_of_the_jwk_set() -> None:
    response = client(session_lifetime=3600, old_keys=[SECRET_64]).get("/jwks.json")
    assert (response.status_code, response.json()) == (200, {"keys": []})


def test_the_jwk_set_verifies_the_tokens() -> None:
    browser = client(key=RSA, old_keys=[SECRET_64])
    response = browser.get("/jwks.json")
    assert response.headers["cache-control"] == "public, max-age=300"
    assert [set(key) for key in response.json()["keys"]] == [{"kty", "n", "e", "kid", "alg", "use"}]
    raw = browser.post("/login", data=GOOD).json()["access_token"]
    key = jwt.PyJWKSet.from_dict(response.json())[jwt.get_unverified_header(raw)["kid"]]
    options: Any = {"verify_exp": False, "verify_iat": False}  # the clock is ours
    assert jwt.decode(raw, key, algorithms=["RS256"], audience="orders", options=options)["sub"] == "ada"


def test_there_is_no_refresh_without_a_session_lifetime() -> None:
    browser = client()
    raw = browser.post("/login", data=GOOD).json()["access_token"]
    assert browser.post("/refresh", headers=bearer(raw)).status_code == 404
    assert "auth_time" not in minted(browser.post("/login", data=GOOD))


def test_refresh_answers_as_login_does_and_carries_everything_on(backend: str) -> None:
    clock = Clock()
    user = User(scopes=["a", "b", "c"], claims={"name": "Ada", "nbf": NOW, "sid": "1"})
    browser = client(finds(user), clock=clock, session_lifetime=3600, backend=backend)
    login = browser.post("/login", data={**GOOD, "scope": "b a"})
    clock.now += 600
    refreshed = browser.post("/refresh", headers=bearer(login.json()["access_token"]))
    assert refreshed.headers["cache-control"] == "no-store"
    assert {**refreshed.json(), "access_token": ""} == {**login.json(), "access_token": ""}
    before, after = minted(login), minted(refreshed)
    assert before.pop("jti") != after.pop("jti")
    assert after == {**before, "iat": NOW + 600, "exp": NOW + 1500}
    assert after["auth_time"] == NOW


def test_refresh_knows_nobody_without_a_token() -> None:
    response = client(session_lifetime=3600).post("/refresh", data=GOOD)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer realm="api"')


def test_a_client_that_renews_in_time_ends_with_the_session_and_not_later() -> None:
    clock = Clock()
    browser = client(clock=clock, access_lifetime=900, session_lifetime=3600)
    response = browser.post("/login", data=GOOD)
    ends = []
    while response.status_code == 200:
        assert minted(response)["exp"] - clock.now == response.json()["expires_in"]
        ends.append(minted(response)["exp"] - NOW)
        raw = response.json()["access_token"]
        # As clients do: at four fifths of the lifetime that was told.
        clock.now += max(1, response.json()["expires_in"] * 4 // 5)
        response = browser.post("/refresh", headers=bearer(raw))
    assert ends[:5] == [900, 1620, 2340, 3060, 3600]
    assert set(ends[4:]) == {3600}
    assert (response.status_code, response.json()["code"]) == (401, "too_old")
    assert clock.now == NOW + 3600


@pytest.mark.parametrize("step", [0.1, 0.5, 0.9, 1, 1.3])
def test_no_token_outlives_the_session_whenever_the_clock_ticks(step: float) -> None:
    for lifetimes in ((900, 900), (60, 900), (899, 900)):
        clock = Clock(NOW + 0.05, step)
        browser = client(clock=clock, access_lifetime=lifetimes[0], session_lifetime=lifetimes[1])
        response = browser.post("/login", data=GOOD)
        end = minted(response)["iat"] + lifetimes[1]
        while response.status_code == 200:
            assert minted(response)["exp"] <= end
            assert minted(response)["exp"] - minted(response)["iat"] == response.json()["expires_in"]
            raw = response.json()["access_token"]
            clock.now += max(1, (minted(response)["exp"] - int(clock.now)) // 2)
            response = browser.post("/refresh", headers=bearer(raw))
        assert response.json()["code"] == "too_old"


@pytest.mark.parametrize(
    ("after", "status", "expires_in"),
    [
        pytest.param(0, 200, 900, id="at once"),
        pytest.param(1800, 200, 900, id="the last whole one"),
        pytest.param(1801, 200, 899, id="one second of it lost"),
        pytest.param(2699, 200, 1, id="the last second"),
        pytest.param(2700, 401, None, id="the end"),
        pytest.param(10_000, 401, None, id="long after"),
    ],
)
def test_what_is_left_of_the_session_is_counted_from_the_login(after: int, status: int, expires_in: int | None) -> None:
    tokens = TokenIssuer(SECRET, audience="orders", session_lifetime=2700)
    raw = tokens.mint("ada", claims={"auth_time": NOW}, now=NOW + after)
    response = client(clock=Clock(NOW + after), session_lifetime=2700).post("/refresh", headers=bearer(raw))
    assert (response.status_code, response.json().get("expires_in")) == (status, expires_in)


INVALID = 'Bearer realm="api", error="invalid_token", error_description="{}"'


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"exp": NOW - 5}, "expired", id="expired"),
        pytest.param({"aud": "invoices"}, "wrong_audience", id="another audience"),
        pytest.param({"auth_time": None}, "missing_claim", id="no login made it"),
        pytest.param({"auth_time": str(NOW)}, "invalid_claim", id="auth_time is a string"),
        pytest.param({"auth_time": True}, "invalid_claim", id="auth_time is a boolean"),
        pytest.param({"auth_time": NOW + 0.5}, "invalid_claim", id="auth_time is a fraction"),
        pytest.param({"auth_time": NOW + 6}, "invalid_claim", id="a login in the future"),
        pytest.param({"auth_time": 10**300}, "invalid_claim", id="a login at the end of time"),
        pytest.param({"auth_time": NOW - 3600}, "too_old", id="an old login"),
        pytest.param({"auth_time": -(10**300)}, "too_old", id="a login before time"),
        pytest.param({"sub": None}, "missing_claim", id="no subject"),
        pytest.param({"sub": ""}, "missing_claim", id="an empty subject"),
        pytest.param({"scope": 'a "'}, "invalid_claim", id="a scope that cannot be one"),
        pytest.param({"scope": None, "scp": ["a b"]}, "invalid_claim", id="a scope with a space"),
        pytest.param({"x": "x" * 12_095}, "invalid_claim", id="a token that would grow too large"),
    ],
)
def test_a_token_that_no_login_of_ours_made_is_not_renewed(changes: dict[str, Any], code: str) -> None:
    raw = signed({"alg": "HS256"}, claims(**{"auth_time": NOW, **changes}))
    response = client(session_lifetime=3600).post("/refresh", headers=bearer(raw))
    assert (response.status_code, response.json()["code"]) == (401, code)
    assert response.headers["www-authenticate"] == INVALID.format(response.json()["error_description"])


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({"authorization": "Bearer x"}, 401, "malformed_token", id="no token"),
        pytest.param({"authorization": "Bearer " + "x" * 20_000}, 400, "token_too_large", id="a large one"),
        pytest.param([("authorization", "Bearer x")] * 2, 400, "ambiguous_token", id="two"),
        pytest.param({"authorization": "Basic Og=="}, 401, "missing_token", id="another scheme"),
    ],
)
def test_refresh_reads_the_header_as_the_middleware_does(headers: Any, status: int, code: str) -> None:
    response = client(session_lifetime=3600).post("/refresh", headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_token_of_an_old_key_is_renewed_with_the_new_one() -> None:
    old = client(session_lifetime=3600).post("/login", data=GOOD).json()["access_token"]
    clock = Clock(NOW + 600)
    browser = client(key=RSA, old_keys=[SECRET], clock=clock, session_lifetime=3600)
    new = browser.post("/refresh", headers=bearer(old)).json()["access_token"]
    assert jwt.get_unverified_header(new)["alg"] == "RS256"
    after = client(key=RSA, clock=clock, session_lifetime=3600)
    assert minted(after.post("/refresh", headers=bearer(new)))["auth_time"] == NOW
    assert after.post("/refresh", headers=bearer(old)).status_code == 401


def test_an_rfc_9068_token_is_renewed_as_one() -> None:
    options: Any = {
        "issuer": "https://login.example",
        "client_id": "web",
        "token_type": "at+jwt",
        "session_lifetime": 3600,
    }
    browser = client(finds(User(scopes=["a"])), **options)
    raw = browser.post("/login", data=GOOD).json()["access_token"]
    refreshed = browser.post("/refresh", headers=bearer(raw))
    assert jwt.get_unverified_header(refreshed.json()["access_token"])["typ"] == "at+jwt"
    assert minted(refreshed)["client_id"] == "web"


def test_refresh_refuses_in_the_words_of_the_app() -> None:
    def refuse(connection: HTTPConnection, refusal: Refusal) -> Response:
        return PlainTextResponse(f"{refusal.code} {refusal.claim}", refusal.status)

    tokens = TokenIssuer(SECRET, audience="orders", clock=Clock())
    browser = client(session_lifetime=3600, routes={"realm": "demo", "refusal_response": refuse})
    response = browser.post("/refresh", headers=bearer(tokens.mint("ada")))
    assert response.text == "missing_claim auth_time"
    assert response.headers["www-authenticate"].startswith('Bearer realm="demo", error="invalid_token"')


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        pytest.param(SECRET, {}, "needs Sessions, or a TokenIssuer, not str", id="a secret for the issuer"),
        pytest.param(None, {"authenticate": None}, "^authenticate must be callable as .username, password", id="None"),
        pytest.param(None, {"throttle": 10}, "^throttle must be a Throttle", id="a number for the throttle"),
        pytest.param(None, {"realm": "a\n"}, "^realm", id="realm"),
        pytest.param(None, {"refusal_response": "no"}, "^refusal_response", id="refusal_response"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(tokens: Any, options: dict[str, Any], message: str) -> None:
    issuer = tokens or TokenIssuer(SECRET, audience="orders", session_lifetime=3600)
    with pytest.raises(ConfigurationError, match=message):
        auth_routes(issuer, **{"authenticate": check, **options})


def test_the_routes_have_names() -> None:
    tokens = TokenIssuer(SECRET, audience="orders", session_lifetime=3600)
    mounted = Starlette(routes=[Mount("/auth", name="auth", routes=auth_routes(tokens, authenticate=check))])
    names = [str(mounted.url_path_for(f"auth:{name}")) for name in ("login", "refresh", "jwks")]
    assert names == ["/auth/login", "/auth/refresh", "/auth/jwks.json"]
