"""How do apps use the public API, as type checkers see it? mypy --strict and pyright read this file; nothing runs it.

Each ``assert_type`` is a promise: a change of the public types shows up here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_type

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from jwt_middleware import (
    ANY,
    JWTCredentials,
    JWTMiddleware,
    JWTUser,
    LoadBalancerKeys,
    Provider,
    Refusal,
    RemoteKeys,
    RevocationView,
    Token,
    Verifier,
    bearer_header,
    cookie,
    proxy_header,
    renew,
    requires,
    subprotocol,
)
from jwt_middleware.errors import InvalidToken
from jwt_middleware.issuing import (
    Grant,
    MemoryStore,
    RedisStore,
    Session,
    Sessions,
    SessionStore,
    SQLiteStore,
    Throttle,
    TokenIssuer,
    auth_routes,
    password_check,
)
from jwt_middleware.testing import IdentityProvider

SECRET = "a secret that has thirty-two bytes or more"


def providers_take_any_form_of_key(pem: bytes, jwk: Mapping[str, Any]) -> None:
    Provider(key=SECRET, audience="orders")
    Provider(key=[SECRET, pem, jwk], audience=["orders", "billing"])
    Provider(issuer="https://login.example", audience=ANY)
    Provider(jwks=RemoteKeys("https://login.example/keys", cooldown=10), audience="orders")


def a_wrong_keyword_is_an_error(app: ASGIApp) -> None:
    Provider(key=SECRET, audiences="orders")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    JWTMiddleware(app, key=SECRET, audiences="orders")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def plain_asgi(scope: Scope, receive: Receive, send: Send) -> None: ...


def the_middleware_wraps_any_app_and_is_one() -> ASGIApp:
    app: ASGIApp = JWTMiddleware(plain_asgi, key=SECRET, audience="orders")
    return JWTMiddleware(
        app, key=SECRET, audience="orders", sources=[bearer_header(), subprotocol("bearer"), cookie("t")]
    )


def a_load_balancer_signs() -> ASGIApp:
    keys = LoadBalancerKeys(signer="arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/a/1")
    return JWTMiddleware(plain_asgi, jwks=keys, audience=ANY, sources=[proxy_header("x-amzn-oidc-data")])


def starlette_takes_it(endpoint: Any) -> Starlette:
    return Starlette(
        routes=[Route("/", endpoint)],
        middleware=[Middleware(JWTMiddleware, issuer="https://login.example", audience="orders", public=["/health"])],
    )


@dataclass
class User:
    identity: str
    password_hash: str


async def load_user(token: Token) -> User | None:
    return User(token.subject, "") if token.subject is not None else None


def validate(token: Token) -> bool:
    return token.claims.get("email_verified") is True


def hooks_are_sync_or_async(app: ASGIApp) -> None:
    JWTMiddleware(app, key=SECRET, audience="orders", load_user=load_user, validate=validate)


def in_plain_text(connection: HTTPConnection, refusal: Refusal) -> Response:
    return PlainTextResponse(refusal.description, refusal.status)


def refusals_are_answered_by_the_app(app: ASGIApp) -> None:
    JWTMiddleware(app, key=SECRET, audience="orders", refusal_response=in_plain_text)


class TermsNotAccepted(InvalidToken):
    code = "terms_not_accepted"
    description = "The user has not accepted the terms of use."


async def workers_verify(verifier: Verifier) -> str | None:
    try:
        token = await verifier.verify("eyJ...")
    except Refusal as refusal:
        assert_type(refusal.code, str)
        assert_type(refusal.subject, str | None)
        return None
    assert_type(token, Token)
    assert_type(token.scopes, tuple[str, ...])
    assert_type(token.expires_at, int)
    assert_type(token.claims, dict[str, Any])
    return token.subject


@requires("orders:write")
async def create_order(request: Request) -> JSONResponse:
    user, auth = request.user, request.auth
    if isinstance(user, JWTUser) and isinstance(auth, JWTCredentials):
        assert_type(user.identity, str)
        assert_type(auth.token, Token | None)
    return JSONResponse({})


async def a_decorated_endpoint_keeps_its_type(request: Request) -> None:
    assert_type(await create_order(request), JSONResponse)


async def connections_are_renewed(websocket: WebSocket) -> None:
    assert_type(await renew(websocket.scope, await websocket.receive_text()), Token)


async def sessions_open_refresh_and_end(store: SessionStore) -> None:
    tokens = TokenIssuer(SECRET, audience="orders", issuer="https://login.example")
    assert_type(tokens.mint("ada", scopes=["orders:read"], claims={"team": 7}), str)
    sessions = Sessions(store, tokens)
    grant = await sessions.open("ada", scopes=["orders:read"], device="laptop")
    assert_type(grant, Grant)
    assert_type((await sessions.refresh(grant.refresh_token)).access_token, str)
    for session in await sessions.list("ada"):
        assert_type(session, Session)
    await sessions.revoke(session=grant.session_id)
    await sessions.revoke(subject="ada")


def the_stores_are_stores() -> list[SessionStore]:
    return [MemoryStore(), SQLiteStore("sessions.db"), RedisStore("redis://127.0.0.1:6379/0")]


def another_service_sees_revocations(app: ASGIApp) -> ASGIApp:
    view = RevocationView(RedisStore("redis://127.0.0.1:6379/0"))
    return JWTMiddleware(app, jwks="https://login.example/keys", audience="orders", revocations=view)


class Hasher:
    def hash(self, password: str, /) -> str:
        return password

    def verify(self, password: str, hash: str, /) -> bool:
        return password == hash


def routes_log_users_in(sessions: Sessions, users: dict[str, User]) -> list[Route]:
    return auth_routes(
        sessions,
        authenticate=password_check(users.get, Hasher()),
        throttle=Throttle(trusted_proxies=["10.0.0.0/8"]),
        cookies="all",
    )


def tests_mint_tokens() -> None:
    with IdentityProvider(algorithm="RS256") as provider:
        assert_type(provider.mint(aud="orders"), str)
        assert_type(provider.issuer, str)
