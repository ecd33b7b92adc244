"""FastAPI: login, protected routes, and the Authorize button.

With fastapi and uvicorn installed: uvicorn examples.fastapi_app:app, then open /docs.
"""

import secrets
from dataclasses import dataclass

from fastapi import FastAPI, Request, Security
from fastapi.security import OAuth2PasswordBearer
from pwdlib import PasswordHash
from starlette.routing import Router

from jwt_middleware import JWTMiddleware, requires
from jwt_middleware.issuing import Sessions, SQLiteStore, Throttle, TokenIssuer, auth_routes, password_check

hasher = PasswordHash.recommended()


@dataclass(frozen=True)
class User:
    identity: str
    scopes: tuple[str, ...]
    password_hash: str


users = {"ada": User("ada", ("orders:read",), hasher.hash("lovelace"))}
tokens = TokenIssuer(secrets.token_urlsafe(64), audience="orders")
sessions = Sessions(SQLiteStore("sessions.db"), tokens, reload_user=users.get)
# The middleware checks the token; this tells OpenAPI where to get one.
login = OAuth2PasswordBearer("auth/login", refreshUrl="auth/refresh", auto_error=False)

app = FastAPI()
routes = auth_routes(sessions, authenticate=password_check(users.get, hasher), throttle=Throttle())
app.mount("/auth", Router(routes))
app.add_middleware(
    JWTMiddleware,
    providers=tokens.provider(),
    revocations=sessions,
    public=["/auth/*", "/docs", "/docs/*", "/openapi.json"],
)


@app.get("/me", dependencies=[Security(login)])
def me(request: Request) -> dict[str, str]:
    return {"user": request.user.identity}


@app.get("/orders", dependencies=[Security(login)])
@requires("orders:read")
def orders() -> list[str]:
    return ["tea", "biscuits"]
