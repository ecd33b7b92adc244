"""What else checks a token in an ASGI app? Each peer set up as its documentation says, with its key loaded once.

A peer that is a framework, or comes with one, stands against that framework's own bare app. Peers are imported by name
when they are built: one that is not installed is reported as missing, and type checkers need none of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

import jwt
from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.security import OAuth2PasswordBearer
from harness import Contestant, bare_app, installed_version
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
)
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from tokens import AUDIENCE, ISSUER, Issuer

Decode = Callable[[str], Any]


@dataclass(frozen=True)
class Peer:
    name: str
    package: str
    build: Callable[[Issuer], tuple[ASGIApp, ASGIApp]]
    """Gives the app that checks tokens of an issuer, and its bare app."""
    algorithms: Sequence[str] = ("HS256", "RS256", "ES256", "EdDSA")

    def contestant(self, issuer: Issuer) -> Contestant:
        return Contestant(self.name, *self.build(issuer))


def installed() -> tuple[list[Peer], list[Peer]]:
    """The peers that are installed, and those that are not."""
    there = [peer for peer in PEERS if installed_version(peer.package)]
    return there, [peer for peer in PEERS if peer not in there]


def starlette_pyjwt(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://www.starlette.io/authentication/
    decode = _pyjwt(issuer)

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
            if "Authorization" not in conn.headers:
                return None
            scheme, _, token = conn.headers["Authorization"].partition(" ")
            if scheme.lower() != "bearer":
                return None
            try:
                claims = decode(token)
            except jwt.InvalidTokenError:
                raise AuthenticationError("Invalid token") from None
            return AuthCredentials(claims.get("scope", "").split()), SimpleUser(claims["sub"])

    return AuthenticationMiddleware(bare_app, backend=Backend(), on_error=_unauthorized_response), bare_app


def _unauthorized_response(conn: HTTPConnection, error: Exception) -> Any:
    return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})


def pure_pyjwt(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    return _PureASGI(_pyjwt(issuer), jwt.InvalidTokenError), bare_app


def _pyjwt(issuer: Issuer) -> Decode:
    # https://pyjwt.readthedocs.io/en/stable/usage.html
    key, algorithms = issuer.verifying_key, [issuer.algorithm]
    return lambda token: jwt.decode(token, key, algorithms=algorithms, audience=AUDIENCE)


def pure_joserfc(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://jose.authlib.org/en/guide/jwt/
    jose, jose_jwt, jwk = (import_module(f"joserfc.{name}") for name in ("errors", "jwt", "jwk"))
    kind = {"HS256": "oct", "RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}[issuer.algorithm]
    key, algorithms = jwk.import_key(issuer.text, kind), [issuer.algorithm]
    rules = jose_jwt.JWTClaimsRegistry(aud={"essential": True, "value": AUDIENCE}, exp={"essential": True})

    def decode(token: str) -> Any:
        claims = jose_jwt.decode(token, key, algorithms=algorithms).claims
        rules.validate(claims)
        return claims

    return _PureASGI(decode, jose.JoseError), bare_app


def pure_ryjwt(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://rogerthomas.github.io/ryjwt/
    ryjwt = import_module("ryjwt")
    kind = ryjwt.SecretKey if issuer.algorithm == "HS256" else ryjwt.PublicKey
    key = kind(issuer.text, algorithms=[issuer.algorithm], audience=AUDIENCE)
    return _PureASGI(key.decode, ryjwt.InvalidTokenError), bare_app


def pure_oxyjwt(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://oxyjwt.queryahub.com/
    oxyjwt = import_module("oxyjwt")
    load = {"HS256": "from_secret", "RS256": "from_rsa_pem", "ES256": "from_ec_pem", "EdDSA": "from_ed_pem"}
    key, algorithms = getattr(oxyjwt.DecodingKey, load[issuer.algorithm])(issuer.text), [issuer.algorithm]
    return (
        _PureASGI(
            lambda token: oxyjwt.decode(token, key, algorithms=algorithms, audience=AUDIENCE), oxyjwt.InvalidTokenError
        ),
        bare_app,
    )


class _PureASGI:
    """What people write by hand: as little as can be around ``decode``, and the claims as the user."""

    def __init__(self, decode: Decode, invalid: type[Exception]) -> None:
        self.decode = decode
        self.invalid = invalid

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            value = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            scheme, _, token = value.decode("latin-1").partition(" ")
            try:
                if scheme.lower() != "bearer":
                    raise self.invalid
                scope["user"] = self.decode(token)
            except self.invalid:
                await Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await bare_app(scope, receive, send)


def fastapi_pyjwt(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://fastapi.tiangolo.com/tutorial/security/oauth2-jwt/
    decode = _pyjwt(issuer)
    oauth2_scheme = OAuth2PasswordBearer(tokenUrl="token")

    async def current_user(token: Annotated[str, Depends(oauth2_scheme)]) -> Any:
        try:
            return decode(token)
        except jwt.InvalidTokenError:
            raise HTTPException(401, "Could not validate credentials", {"WWW-Authenticate": "Bearer"}) from None

    return _fastapi_app(current_user)


def fastapi_users(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://fastapi-users.github.io/fastapi-users/latest/configuration/full-example/
    users, authentication = import_module("fastapi_users"), import_module("fastapi_users.authentication")

    class Database:
        """In place of SQLAlchemy's: a user for any id, at no cost."""

        async def get(self, id: UUID) -> Any:
            return SimpleNamespace(id=id, is_active=True, is_verified=True, is_superuser=False)

    manager_type = type("UserManager", (users.UUIDIDMixin, users.BaseUserManager), {})

    async def get_manager() -> Any:
        return manager_type(Database())

    def get_strategy() -> Any:
        return authentication.JWTStrategy(secret=issuer.text, lifetime_seconds=3600, token_audience=[AUDIENCE])

    backend = authentication.AuthenticationBackend(
        name="jwt", transport=authentication.BearerTransport(tokenUrl="auth/jwt/login"), get_strategy=get_strategy
    )
    return _fastapi_app(users.FastAPIUsers(get_manager, [backend]).current_user(active=True))


def _fastapi_app(current_user: Callable[..., Any]) -> tuple[ASGIApp, ASGIApp]:
    async def protected(user: Annotated[Any, Depends(current_user)]) -> Response:
        return Response()

    async def open_to_all() -> Response:
        return Response()

    app, bare = FastAPI(), FastAPI()
    app.get("/")(protected)
    bare.get("/")(open_to_all)
    return app, bare


def litestar(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://docs.litestar.dev/2/usage/security/jwt.html
    framework, security = import_module("litestar"), import_module("litestar.security.jwt")

    async def retrieve_user(token: Any, connection: Any) -> Any:
        return SimpleNamespace(id=token.sub)

    async def home() -> None:
        return None

    auth = security.JWTAuth(
        retrieve_user_handler=retrieve_user, token_secret=issuer.text, accepted_audiences=[AUDIENCE]
    )
    route = framework.get("/", status_code=200)(home)
    # Left alone, it sets the root logger to INFO: for everything else that is measured beside it, too.
    quiet = {"logging_config": None}
    return framework.Litestar([route], on_app_init=[auth.on_app_init], **quiet), framework.Litestar([route], **quiet)


def blacksheep(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://www.neoteroi.dev/blacksheep/authentication/
    framework, security = import_module("blacksheep"), import_module("blacksheep.server.authentication.jwt")
    policies, secrets = import_module("guardpost.common"), import_module("essentials.secrets")
    authorization = import_module("guardpost")

    async def home() -> Any:
        return framework.Response(200)

    app = framework.Application(router=framework.Router())
    app.use_authentication().add(
        security.JWTBearerAuthentication(
            valid_audiences=[AUDIENCE],
            valid_issuers=[ISSUER],
            secret_key=secrets.Secret(issuer.text, direct_value=True),
            algorithms=["HS256"],
        )
    )
    app.use_authorization().with_default_policy(
        authorization.Policy("authenticated", policies.AuthenticatedRequirement())
    )
    bare = framework.Application(router=framework.Router())
    for each in (app, bare):
        each.router.add_get("/", home)
    return app, bare


def fastmcp(issuer: Issuer) -> tuple[ASGIApp, ASGIApp]:
    # https://gofastmcp.com/servers/auth/token-verification
    verifying = import_module("fastmcp.server.auth.providers.jwt")
    bearer = import_module("mcp.server.auth.middleware.bearer_auth")
    verifier = verifying.JWTVerifier(
        public_key=issuer.text, issuer=ISSUER, audience=AUDIENCE, algorithm=issuer.algorithm
    )
    app: Any = bearer.RequireAuthMiddleware(bare_app, required_scopes=[])
    for middleware in reversed(verifier.get_middleware()):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return app, bare_app


PEERS = (
    Peer("Starlette + PyJWT", "PyJWT", starlette_pyjwt),
    Peer("pure ASGI + PyJWT", "PyJWT", pure_pyjwt),
    Peer("pure ASGI + joserfc", "joserfc", pure_joserfc),
    Peer("pure ASGI + ryjwt", "ryjwt", pure_ryjwt),
    Peer("pure ASGI + oxyjwt", "oxyjwt", pure_oxyjwt),
    Peer("FastMCP JWTVerifier", "fastmcp", fastmcp),
    Peer("FastAPI dependency + PyJWT", "fastapi", fastapi_pyjwt),
    Peer("fastapi-users", "fastapi-users", fastapi_users, ["HS256"]),
    Peer("Litestar JWTAuth", "litestar", litestar, ["HS256"]),
    Peer("BlackSheep", "blacksheep", blacksheep, ["HS256"]),
)
