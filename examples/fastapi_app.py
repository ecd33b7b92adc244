"""FastAPI with a user table: sign-up, login, refresh, logout, PATCH /me, scopes. uvicorn examples.fastapi_app:app"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_urlsafe
from typing import Annotated

from anyio import to_thread
from fastapi import Body, Depends, FastAPI, HTTPException, Security
from pwdlib import PasswordHash
from sqlalchemy import exc, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jwt_middleware import Token
from jwt_middleware.errors import UserRefused
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import Sessions, SQLiteStore, Throttle, TokenIssuer, password_check

engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///users.db"))
open_db = async_sessionmaker(engine, expire_on_commit=False)
hasher = PasswordHash.recommended()


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "users"
    __table_args__ = ({"sqlite_autoincrement": True},)  # the id of a deleted user is never used again
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    scopes = ("orders:write",)  # what a login of this user may grant

    @property
    def identity(self) -> str:  # the subject of the user's tokens
        return str(self.id)


async def find_user(email: str) -> User | None:
    async with open_db() as db:
        return await db.scalar(select(User).where(User.email == email))


async def get_db() -> AsyncIterator[AsyncSession]:
    async with open_db() as db:
        yield db


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


tokens = TokenIssuer(os.environ.get("SECRET") or token_urlsafe(64), audience="orders")
sessions = Sessions(SQLiteStore(os.environ.get("SESSIONS", "sessions.db")), tokens)
auth = Auth(sessions=sessions, scopes={"orders:write": "Place orders"})
app = FastAPI(lifespan=lifespan)
auth.install(app, public=["POST /users"], docs=True)
logins = auth_router(sessions, authenticate=password_check(find_user, hasher), throttle=Throttle())
app.include_router(logins, prefix="/auth")

Db = Annotated[AsyncSession, Depends(get_db)]


async def current_user(token: Annotated[Token, Depends(auth.token)], db: Db) -> User:
    user = await db.get(User, int(token.subject))
    if user is None:
        raise UserRefused
    return user


Me = Annotated[User, Depends(current_user)]
Buyer = Annotated[User, Security(current_user, scopes=["orders:write"])]


@app.post("/users", status_code=201)
async def sign_up(email: Annotated[str, Body()], password: Annotated[str, Body()], db: Db) -> None:
    db.add(User(email=email, password_hash=await to_thread.run_sync(hasher.hash, password)))
    try:
        await db.commit()
    except exc.IntegrityError:
        raise HTTPException(409, "This address has an account.") from None


@app.get("/me")
async def read_me(user: Me) -> dict[str, str]:
    return {"email": user.email, "name": user.name}


@app.patch("/me")
async def change_me(name: Annotated[str, Body(embed=True)], user: Me, db: Db) -> None:
    user.name = name  # of the session that current_user has
    await db.commit()


@app.post("/orders", status_code=201)
async def place_order(item: Annotated[str, Body(embed=True)], buyer: Buyer) -> str:
    return f"{item} for {buyer.name}"
