"""Scopes count whoever granted them, and nobody gets in without being somebody."""

from typing import Any

import pytest
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser, UnauthenticatedUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from jwt_middleware import JWTMiddleware, requires

from ..support import NOW, SECRET, bare_client, client, http, sent
from .guarding import READER, WRITER, by_function, guards, plain_app, routed

API_KEY = {"x-api-key": "k-1"}


class KeyBackend(AuthenticationBackend):
    """API keys, for requests that brought no token."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if conn.user.is_authenticated:
            return conn.auth, conn.user
        if conn.headers.get("x-api-key") == "k-1":
            return AuthCredentials(["orders:write"]), SimpleUser("robot")
        if conn.headers.get("x-api-key") == "k-2":
            return AuthCredentials(["orders:read"]), SimpleUser("reading robot")
        return None


class KeyMiddleware:
    """The same, written by hand."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["user"].is_authenticated and (b"x-api-key", b"k-1") in scope["headers"]:
            scope["user"], scope["auth"] = SimpleUser("robot"), AuthCredentials(["orders:write"])
        await self.app(scope, receive, send)


KEYS_INSIDE = Middleware(AuthenticationMiddleware, backend=KeyBackend())


@pytest.mark.parametrize("inside", [KEYS_INSIDE, Middleware(KeyMiddleware)], ids=["Starlette's", "by hand"])
def test_an_api_key_gets_in_beside_a_token(inside: Middleware) -> None:
    service = routed(Route("/", by_function), middleware=[inside])
    assert guards(service).text == "hello"
    assert service.get("/", headers=API_KEY).text == "hello"


def test_an_api_key_without_the_scope_is_refused_in_the_middlewares_name() -> None:
    service = routed(Route("/", by_function), middleware=[KEYS_INSIDE], realm="orders")
    response = service.get("/", headers={"x-api-key": "k-2"})
    assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
    assert response.headers["www-authenticate"].startswith('Bearer realm="orders", error="insufficient_scope"')


def test_credentials_from_outside_are_overwritten() -> None:
    app = JWTMiddleware(
        requires("orders:write")(plain_app), key=SECRET, audience="orders", clock=lambda: NOW, allow_anonymous=True
    )

    class Outside(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
            return AuthCredentials(["orders:write"]), SimpleUser("robot")

    service = bare_client(AuthenticationMiddleware(app, Outside()))
    assert service.get("/").status_code == 401
    assert service.get("/", headers=READER).status_code == 403
    assert service.get("/", headers=WRITER).text == "hello"


class Unsure(BaseUser):
    """A user whose ``is_authenticated`` is whatever a test says."""

    def __init__(self, is_authenticated: Any) -> None:
        self.affirmed = is_authenticated

    @property
    def is_authenticated(self) -> bool:
        affirmed: bool = self.affirmed
        return affirmed


class Old:
    """A user of the days when ``is_authenticated`` was a method."""

    def is_authenticated(self) -> bool:
        return False


@pytest.mark.parametrize(
    "user",
    [
        pytest.param(UnauthenticatedUser(), id="nobody"),
        pytest.param(Unsure(False), id="False"),
        pytest.param(Unsure(None), id="None"),
        pytest.param(Unsure("no"), id="a text"),
        pytest.param(Unsure(1), id="a number"),
        pytest.param(Old(), id="a method"),
        pytest.param(None, id="no user"),
        pytest.param(object(), id="an object that does not say"),
    ],
)
def test_whoever_is_not_said_to_be_authenticated_is_anonymous_whatever_scopes_stand_there(user: Any) -> None:
    async def grant(scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"], scope["auth"] = user, AuthCredentials(["orders:write"])
        await requires("orders:write")(plain_app)(scope, receive, send)

    for headers in ({}, READER, WRITER):
        response = client(grant, allow_anonymous=True).get("/", headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, "missing_token")


@pytest.mark.parametrize("user", [UnauthenticatedUser(), Unsure(False), None], ids=["nobody", "False", "no user"])
def test_a_user_that_the_app_has_logged_out_is_anonymous_though_there_is_a_token(user: Any) -> None:
    async def log_out(scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"] = user
        await requires()(plain_app)(scope, receive, send)

    assert client(log_out).get("/", headers=WRITER).json()["code"] == "missing_token"


@pytest.mark.parametrize("user", [object(), {"is_authenticated": False}, "ada"], ids=["object", "dict", "str"])
def test_the_apps_own_user_need_not_be_one_of_ours(user: Any) -> None:
    service = routed(Route("/", by_function), load_user=lambda token: user)
    assert guards(service).text == "hello"


def test_scopes_that_the_app_grants_count() -> None:
    async def grant(scope: Scope, receive: Receive, send: Send) -> None:
        scope["auth"].scopes.append("orders:write")
        await requires("orders:write")(plain_app)(scope, receive, send)

    assert client(grant).get("/", headers=READER).text == "hello"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "auth", [None, "spoofed", object(), AuthCredentials(["orders:write"])], ids=["None", "str", "object", "Starlette's"]
)
async def test_without_the_middleware_in_front_no_credentials_count(auth: Any) -> None:
    with pytest.raises(RuntimeError, match="wrap the app in JWTMiddleware"):
        await sent(requires()(plain_app), http(auth=auth, user=SimpleUser("eve")))
    with pytest.raises(RuntimeError, match="wrap the app in JWTMiddleware"):
        await sent(requires()(plain_app), http(auth=auth, user=SimpleUser("eve"), jwt_middleware="spoofed"))


@pytest.mark.parametrize("auth", [None, ["orders:write"]], ids=["None", "a list"])
def test_what_is_no_credentials_behind_the_middleware_is_an_error_and_not_a_way_in(auth: Any) -> None:
    async def spoil(scope: Scope, receive: Receive, send: Send) -> None:
        scope["auth"] = auth
        await requires()(plain_app)(scope, receive, send)

    with pytest.raises(RuntimeError, match="wrap the app in JWTMiddleware"):
        client(spoil).get("/", headers=WRITER)
