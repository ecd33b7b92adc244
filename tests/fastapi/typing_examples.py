"""How do FastAPI apps use the public API? mypy --strict and pyright read this; nothing runs it."""

from typing import Annotated, Any, assert_type

from fastapi import APIRouter, Depends, FastAPI, Request, Security, WebSocket
from starlette.testclient import TestClient

from jwt_middleware import JWTUser, Token
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer
from jwt_middleware.testing import as_user, headers_for

sessions = Sessions(MemoryStore(), TokenIssuer("a secret of thirty-two bytes, yes", audience="orders"))
auth = Auth(sessions=sessions, scopes={"orders:write": "Change orders"})
elsewhere = Auth(issuer="https://login.example", audience="orders", docs_client_id="docs", leeway=10)
wrong = Auth(issuerr="https://login.example")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class User:
    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def identity(self) -> str:
        return self.name


class Anonymous:
    id = 7


async def current_user(token: Annotated[Token, Depends(auth.token)]) -> User:
    assert_type(int(token.subject), int)
    assert_type(token.scopes, tuple[str, ...])
    return User(token.subject)


Me = Annotated[User, Depends(current_user)]
Buyer = Annotated[User, Security(current_user, scopes=["orders:write"])]
Caller = Annotated[JWTUser, Depends(auth)]
Guest = Annotated[JWTUser | None, Depends(auth.optional)]
admin = APIRouter(prefix="/admin", dependencies=[Security(auth.any_of("admin", "auditor"))])
app = FastAPI()
auth.install(app, public=["/health"], docs=True)


@app.get("/me")
async def me(user: Me, buyer: Buyer, caller: Caller, guest: Guest, request: Request) -> str:
    assert_type(user.name, str)
    assert_type(buyer, User)
    assert_type(caller.identity, str)
    assert_type(guest, JWTUser | None)
    return guest.identity  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


@app.websocket("/live")
async def live(socket: WebSocket, caller: Caller) -> None:
    assert_type(caller.scopes, tuple[str, ...])


def get_db() -> str:
    return "db"


def synchronous(username: str, password: str) -> User | None: ...
async def asynchronous(username: str, password: str, db: Annotated[str, Depends(get_db)]) -> str | None: ...
def without_identity(username: str, password: str) -> Anonymous:
    return Anonymous()


app.include_router(auth_router(sessions, authenticate=synchronous))
assert_type(auth_router(sessions, authenticate=asynchronous), APIRouter)
auth_router(sessions, authenticate=without_identity)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
auth_router(sessions, authenticate=synchronous, throtle=None)  # type: ignore[call-arg]  # pyright: ignore

overrides: dict[Any, Any] = app.dependency_overrides
overrides[auth] = as_user("ada", scopes=["orders:write"])
app.dependency_overrides[auth] = as_user("ada")
app.dependency_overrides[auth.token] = as_user("ada")
assert_type(headers_for(auth, "ada", scopes=["orders:write"]), dict[str, str])
TestClient(app, headers=headers_for(auth, "ada"))
