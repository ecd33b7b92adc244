"""Every stateful part works on every event loop that asks it, and keeps nothing of those that have ended."""

import gc
import weakref
from collections.abc import Callable
from secrets import token_hex
from typing import Any
from weakref import WeakSet

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket

from jwt_middleware import JWTMiddleware, Provider, ProviderResolver, Token, Verifier
from jwt_middleware._support.background import Background
from jwt_middleware._support.hooks import Hook
from jwt_middleware.issuing import MemoryStore, Sessions, Throttle, TokenIssuer

from .support import NOW, SECRET, bare_client, bearer, http, sent, token, websocket
from .support.lives import LIVES, Job, a_loop_that_is_closed_at_once

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


class Loops:
    """The event loops that were seen, without keeping them."""

    def __init__(self) -> None:
        self._seen: list[weakref.ref[object]] = []

    def see(self) -> None:
        self._seen.append(weakref.ref(anyio.lowlevel.current_token().native_token))

    @property
    def alive(self) -> int:
        gc.collect()
        return len({id(loop) for ref in self._seen if (loop := ref()) is not None})


def hook() -> Job:
    """A sync function of the app's, in a worker thread."""
    call = Hook(lambda: "done")

    async def job() -> None:
        assert await call() == "done"

    return job


def background() -> Job:
    """Work that ends by itself, and work that does not."""
    detached = Background("test")

    async def job() -> None:
        over = anyio.Event()
        detached.start(anyio.lowlevel.checkpoint, ended=over.set)
        detached.start(anyio.sleep_forever)
        with anyio.fail_after(5):
            await over.wait()

    return job


def stopped_background() -> Job:
    detached = Background("test")

    async def job() -> None:
        became: list[str] = []
        detached.start(anyio.sleep_forever, ended=lambda: became.append("over"))
        with anyio.fail_after(5):
            await detached.stop()
        assert became == ["over"]

    return job


def load_user() -> Job:
    """A request whose user is loaded in a worker thread."""
    app = middleware(load_user=lambda found: found)

    async def job() -> None:
        messages = await sent(app, http("/", *authorization()))
        assert messages[0]["status"] == 200

    return job


def open_websocket() -> Job:
    """A WebSocket that its app leaves open, until it is revoked."""
    app, revoked = middleware(listen, revocations=Revoking()), {"type": "websocket.close", "code": 3000}

    async def job() -> None:
        messages: list[Message] = []
        into, out_of = anyio.create_memory_object_stream[Message](1)
        into.send_nowait({"type": "websocket.connect"})

        async def send(message: Message) -> None:
            messages.append(message)

        with into, out_of, anyio.fail_after(5):
            await app(websocket("/", *authorization()), out_of.receive, send)
        assert messages[-1] == {**revoked, "reason": "revoked"}

    return job


def resolver() -> Job:
    """A token of an issuer that is asked about for the first time."""

    def resolve(issuer: str) -> Provider:
        return Provider(name="tenant", issuer=issuer, key=SECRET, audience="orders")

    verifier = Verifier(ProviderResolver(resolve), clock=lambda: NOW)

    async def job() -> None:
        verified = await verifier.verify(token(iss=f"https://login.example/{token_hex(4)}"))
        assert verified.provider == "tenant"

    return job


def sessions() -> Job:
    """A session that is opened, refreshed, used and revoked, and the log of revocations that each request looks at."""
    tokens = TokenIssuer(SECRET, audience="orders")
    opened = Sessions(MemoryStore(), tokens)
    app = JWTMiddleware(answer, providers=tokens.provider(), revocations=opened)

    async def status(access_token: str) -> int:
        messages = await sent(app, http("/", f"Bearer {access_token}".encode()))
        found: int = messages[0]["status"]
        return found

    async def job() -> None:
        subject = token_hex(4)
        grant = await opened.open(subject)
        assert await status(grant.access_token) == 200
        newer = await opened.refresh(grant.refresh_token)
        await opened.revoke(subject=subject)
        assert await status(newer.access_token) == 401

    return job


def throttle() -> Job:
    """A login that is counted, and forgiven."""
    counted = Throttle()

    async def job() -> None:
        scope = {"type": "http", "client": ("203.0.113.9", 4711), "headers": []}
        for _ in range(20):
            await counted.forgive(await counted.attempt("ada", scope))

    return job


class Revoking:
    """``Revocations`` by which every token is revoked as soon as it has been accepted."""

    def __init__(self) -> None:
        self._accepted: WeakSet[Token] = WeakSet()

    def is_revoked(self, found: Token) -> bool:
        was_accepted = found in self._accepted
        self._accepted.add(found)
        return was_accepted

    async def catch_up(self) -> None: ...

    async def stop(self) -> None: ...


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def listen(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


def middleware(app: Any = answer, **options: Any) -> JWTMiddleware:
    return JWTMiddleware(app, key=SECRET, audience="orders", clock=lambda: NOW, **options)


def authorization() -> tuple[bytes]:
    return (f"Bearer {token()}".encode(),)


# Keys that are fetched, SQLite, Redis and PostgreSQL lead these lives beside their other tests.
PARTS = [hook, background, stopped_background, load_user, open_websocket, resolver, sessions, throttle]


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_works_on_every_loop_and_keeps_none(part: Callable[[], Job], life: Any, backend: str) -> None:
    work, loops = part(), Loops()

    async def job() -> None:
        loops.see()
        await work()

    life(job, backend)
    # What refers to the last loop is dropped when another one asks. Of a loop that is closed with tasks pending, anyio
    # itself keeps the tasks whose cancel scopes were never left.
    assert loops.alive <= 1 or life is a_loop_that_is_closed_at_once


def test_a_test_client_without_with_keeps_no_loop(backend: str) -> None:
    loops = Loops()

    async def feed(connection: WebSocket) -> None:
        loops.see()
        await connection.accept()
        await connection.receive_text()

    app = middleware(Starlette(routes=[WebSocketRoute("/", feed)]), load_user=lambda found: found)
    client = bare_client(app, backend=backend)
    for _ in range(5):
        with client.websocket_connect("/", headers=bearer(token())) as connection:
            connection.send_text("hello")
    assert app.open_connections == 0
    assert loops.alive <= 1
