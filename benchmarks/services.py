"""What do the benchmarks of stores ask? The same FastAPI service over each: ``GET /``, login, refresh and logout.

    python benchmarks/services.py KIND WHERE [--pinned]

serves it with uvicorn, and prints its port. KIND is ``bare``, ``ours`` or ``fastapi-users``; WHERE is a file's path or
the address of a server. No password is hashed, so a login costs what its store costs.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib import import_module
from json import loads
from typing import Annotated, Any
from urllib.parse import urlencode

from bench_server import launched, run
from fastapi import Depends, FastAPI
from servers import store_at
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from tokens import AUDIENCE, SECRET

from jwt_middleware import JWTUser
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import Sessions, SQLStore, TokenIssuer

USERS = [f"user-{number}@shop.example" for number in range(1000)]
PASSWORD = "lovelace"
TRIES = 20
"""A store that gets no processor time for a second fails a login with a 503; it is then tried again."""


def bare(where: str) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def home() -> str:
        return "you"

    return app


def ours(where: str) -> FastAPI:
    store = store_at(where)
    # Without grace, even the newest refresh token is replaced, so each refresh writes.
    sessions = Sessions(store, TokenIssuer(SECRET, audience=AUDIENCE), grace=0)
    auth = Auth(sessions=sessions)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if isinstance(store, SQLStore):
            await store.create_tables()
        yield
        await sessions.stop()

    async def check(username: str, password: str) -> str | None:
        return username if password == PASSWORD else None

    app = FastAPI(lifespan=lifespan)
    auth.install(app)
    app.include_router(auth_router(sessions, authenticate=check), prefix="/auth")

    @app.get("/")
    async def home(user: Annotated[JWTUser, Depends(auth)]) -> str:
        return user.identity

    return app


def fastapi_users(where: str) -> FastAPI:
    # https://fastapi-users.github.io/fastapi-users/latest/configuration/authentication/strategies/database/
    users, authentication = import_module("fastapi_users"), import_module("fastapi_users.authentication")
    strategies = import_module("fastapi_users.authentication.strategy.db")
    database = import_module("fastapi_users_db_sqlalchemy")
    access_tokens = import_module("fastapi_users_db_sqlalchemy.access_token")

    class Base(DeclarativeBase): ...

    user: Any = type("User", (database.SQLAlchemyBaseUserTableUUID, Base), {})
    access_token = type("AccessToken", (access_tokens.SQLAlchemyBaseAccessTokenTableUUID, Base), {})

    class Plain:
        """Passwords as they are, in place of argon2."""

        def verify_and_update(self, plain: str, hashed: str) -> tuple[bool, str | None]:
            return plain == hashed, None

        def hash(self, password: str) -> str:
            return password

        def generate(self) -> str:
            return PASSWORD

    manager_type = type("UserManager", (users.UUIDIDMixin, users.BaseUserManager), {})
    engine = create_async_engine(where)
    open_db = async_sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with open_db() as db:
            yield db

    async def get_manager(db: Annotated[AsyncSession, Depends(get_db)]) -> Any:
        return manager_type(database.SQLAlchemyUserDatabase(db, user), Plain())

    def get_strategy(db: Annotated[AsyncSession, Depends(get_db)]) -> Any:
        return strategies.DatabaseStrategy(
            access_tokens.SQLAlchemyAccessTokenDatabase(db, access_token), lifetime_seconds=3600
        )

    async def fill(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with open_db() as db:
            db.add_all(user(email=email, hashed_password=PASSWORD) for email in USERS)
            await db.commit()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await fill(engine)
        yield
        await engine.dispose()

    backend = authentication.AuthenticationBackend(
        name="database", transport=authentication.BearerTransport(tokenUrl="auth/login"), get_strategy=get_strategy
    )
    all_users = users.FastAPIUsers(get_manager, [backend])
    app = FastAPI(lifespan=lifespan)
    app.include_router(all_users.get_auth_router(backend), prefix="/auth")

    @app.get("/")
    async def home(user: Annotated[Any, Depends(all_users.current_user(active=True))]) -> str:
        return str(user.id)

    return app


KINDS = {"bare": bare, "ours": ours, "fastapi-users": fastapi_users}


@dataclass(frozen=True)
class Service:
    """A process that serves."""

    process: int
    port: int

    def log_in(self, username: str) -> Any:
        """The answer of a login: its tokens."""
        client = HTTPConnection("127.0.0.1", self.port)
        form = urlencode({"username": username, "password": PASSWORD})
        for _ in range(TRIES):
            client.request("POST", "/auth/login", form, {"Content-Type": "application/x-www-form-urlencoded"})
            with client.getresponse() as answer:
                body = answer.read()
            if answer.status == 200:
                client.close()
                return loads(body)
        raise SystemExit("logins are refused: nothing was measured")


@contextmanager
def running(kind: str, where: str, *, is_pinned: bool = False) -> Iterator[Service]:
    with launched(__file__, kind, where, *(["--pinned"] if is_pinned else [])) as (process, port):
        yield Service(process, port)


def main() -> None:
    kind, where, *pinned = sys.argv[1:]
    run(KINDS[kind](where), is_pinned=bool(pinned))


if __name__ == "__main__":
    main()
