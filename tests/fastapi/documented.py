"""An app with a route of every kind, whose documentation the tests read."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Security
from pydantic import BaseModel

from jwt_middleware import JWTUser, Token, requires
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import MemoryStore, Sessions, Throttle, TokenIssuer

from ..support import SECRET


class Order(BaseModel):
    item: str
    count: int = 1


class User:
    identity = "ada"
    scopes = ("orders:read", "orders:write")


def authenticate(username: str, password: str) -> User | None:
    return User() if (username, password) == ("ada", "lovelace") else None


def make_app() -> FastAPI:
    """The app; a login as ada with the password lovelace gets both scopes."""
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, "orders"))
    auth = Auth(sessions=sessions, scopes={"orders:read": "See orders", "orders:write": "Change orders"})
    app = FastAPI(title="Orders", version="1")
    auth.install(app, public=["/health", "/search", "/search/mine"], docs=True)
    throttle = Throttle(account_failures=1000, address_failures=10_000)
    app.include_router(auth_router(sessions, authenticate=authenticate, throttle=throttle), prefix="/auth")

    @app.get("/health")
    async def health() -> str:
        return "well"

    @app.get("/bare")
    async def bare() -> str:
        return "bare"

    @app.get("/me")
    async def me(caller: Annotated[JWTUser, Depends(auth)]) -> str:
        return caller.identity

    @app.get("/orders/{id}")
    async def read(id: int, token: Annotated[Token, Security(auth.token, scopes=["orders:read"])]) -> Order:
        return Order(item=str(token.subject), count=id % 10)

    @app.post("/orders", status_code=201, responses={403: {"description": "You cannot."}})
    async def write(caller: Annotated[JWTUser, Security(auth, scopes=["orders:write"])], order: Order) -> Order:
        return order

    @app.get("/search")
    async def search(word: str, guest: Annotated[JWTUser | None, Depends(auth.optional)]) -> list[str]:
        return [word, *([] if guest is None else [guest.identity])]

    @app.get("/search/mine")
    async def search_mine(word: str, caller: Annotated[JWTUser, Depends(auth)]) -> list[str]:
        return [word, caller.identity]

    @app.get("/reports/{id}")
    @requires("orders:read", any_of=["admin", "orders:write"])
    async def report(id: int) -> str:
        return f"report {id}"

    @app.put("/reports/{id}", dependencies=[Depends(requires("orders:write"))])
    async def replace_report(id: int, text: Annotated[str, Body()]) -> str:
        return text

    admin = APIRouter(prefix="/admin", dependencies=[Security(auth.any_of("admin", "auditor"))])

    @admin.put("/{name}")
    async def administrate(
        name: str, caller: Annotated[JWTUser, Security(auth, scopes=["orders:write"])], value: Annotated[Any, Body()]
    ) -> str:
        return name

    app.include_router(admin)
    return app
