"""How login speaks: forms, JSON, errors (RFC 6749, sections 4.3 and 5), and the JWK Set."""

import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from jwt_middleware import ConfigurationError, JWTMiddleware
from jwt_middleware.issuing import TokenIssuer, auth_routes

from ..support import SECRET, Clock, bearer, echo
from ..support.keys import RSA, SECRET_64
from .stateless import GOOD, User, app, check, client, finds, minted

FORM = "application/x-www-form-urlencoded"
UNREADABLE = ("invalid_request", "The body cannot be read.")
NEEDED = ("invalid_request", "The parameters username and password are required.")


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
                f"The parameter {name} must be a single string.",
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
                f"The parameter {name} must be a single string.",
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
            "error_description": f"The parameter {name} contains a character that is not allowed.",
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
        {"error": "invalid_scope", "error_description": "None of the requested scopes can be granted."},
    )


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


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        pytest.param(SECRET, {}, "needs Sessions or a TokenIssuer, not str", id="a secret for the issuer"),
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
