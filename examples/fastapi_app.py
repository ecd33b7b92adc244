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
from jwt_middleware.issuing import TokenIssuer, auth_routes

hasher = PasswordHash.recommended()
password_hash = hasher.hash("lovelace")


@dataclass(frozen=True)
class User:
    identity: str
    scopes: tuple[str, ...]


def check_password(username: str, password: str) -> User | None:
    good = hasher.verify(password, password_hash)
    return User("ada", ("orders:read",)) if good and username == "ada" else None


tokens = TokenIssuer(secrets.token_urlsafe(64), audience="orders")
# The middleware checks the token; this tells OpenAPI where to get one.
login = OAuth2PasswordBearer("auth/login", auto_error=False)

app = FastAPI()
app.mount("/auth", Router(auth_routes(tokens, authenticate=check_password)))
app.add_middleware(JWTMiddleware, providers=tokens.provider(), public=["/auth/*", "/docs", "/docs/*", "/openapi.json"])


@app.get("/me", dependencies=[Security(login)])
def me(request: Request) -> dict[str, str]:
    return {"user": request.user.identity}


@app.get("/orders", dependencies=[Security(login)])
@requires("orders:read")
def orders() -> list[str]:
    return ["tea", "biscuits"]
