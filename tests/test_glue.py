"""What the modules for other frameworks do where no real client gets to."""

from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from socketio.exceptions import ConnectionRefusedError as SocketIORefusal

from jwt_middleware import JWTMiddleware, bearer_header, cookie
from jwt_middleware.events import RequestRefused
from jwt_middleware.socketio import authenticate
from jwt_middleware.strawberry import scope_of

from .support import NOW, SECRET, Clock, http, sent, token


def test_the_scope_of_a_strawberry_context_is_found_wherever_it_is() -> None:
    scope = {"type": "http"}
    holder = SimpleNamespace(scope=scope)
    for connection in (holder, SimpleNamespace(consumer=holder)):
        for name in ("request", "ws", "websocket", "connection"):
            assert scope_of({name: connection}) is scope
            assert scope_of(SimpleNamespace(**{name: connection})) is scope
    with pytest.raises(RuntimeError, match="give it the request"):
        scope_of({})


class Server:
    """A Socket.IO server on which no client stays."""

    def __init__(self) -> None:
        self.manager = SimpleNamespace(is_connected=lambda sid, namespace: False)
        self.left: list[str] = []

    async def disconnect(self, sid: str, namespace: str) -> None:
        self.left.append(sid)

    def session(self, sid: str, namespace: str) -> Any:
        class Session:
            async def __aenter__(self) -> dict[str, Any]:
                return {}

            async def __aexit__(self, *_: object) -> None: ...

        return Session()


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_socketio_clients_that_have_gone_are_swept_once_they_are_settled() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        server = Server()
        for number in range(200):
            await authenticate(server, str(number), {"asgi.scope": scope}, None)
        assert middleware.open_connections == 200
        await anyio.sleep(61)
        for number in range(200, 264):
            await authenticate(server, str(number), {"asgi.scope": scope}, None)
        assert middleware.open_connections < 200

    middleware = JWTMiddleware(app, key=SECRET, audience="orders", clock=Clock())
    await sent(middleware, http("/", f"Bearer {token(exp=NOW + 900)}".encode()))


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_socketio_clients_whose_token_has_expired_are_disconnected_once_and_then_swept() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        server = Server()
        for number in range(64):
            await authenticate(server, str(number), {"asgi.scope": scope}, {"token": token(exp=NOW + 30)})
        clock.now += 60
        await anyio.sleep(1)
        assert sorted(server.left, key=int) == [str(number) for number in range(64)]
        assert middleware.open_connections == 0
        for number in range(64, 128):
            await authenticate(server, str(number), {"asgi.scope": scope}, {"token": token(exp=NOW + 900)})
        await anyio.sleep(1)
        assert len(server.left) == 64
        assert middleware.open_connections == 64

    clock = Clock()
    middleware = JWTMiddleware(app, key=SECRET, audience="orders", clock=clock, public=["/socket.io/*"])
    await sent(middleware, http("/socket.io/"))


async def who_connects(auth: Any, **headers: str) -> tuple[str, list[str]]:
    """The subject of a Socket.IO client that begins with a GET, or the code of its refusal; and the codes told of."""
    found, told = list[str](), list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            found.append(f"{(await authenticate(Server(), '1', {'asgi.scope': scope}, auth)).subject}")
        except SocketIORefusal as refusal:
            found.append(str(refusal.error_args["message"]))

    middleware = JWTMiddleware(
        app,
        key=SECRET,
        audience="orders",
        clock=Clock(),
        public=["/socket.io/*"],
        sources=[bearer_header(), cookie("token")],
        origins=["https://app.example"],
        on_event=lambda event: told.append(event.code) if isinstance(event, RequestRefused) else None,
    )
    scope = http("/socket.io/")
    scope["headers"] += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await sent(middleware, scope)
    return found[0], told


COOKIE = f"token={token(sub='ada')}"
FOREIGN = {"cookie": COOKIE, "origin": "https://evil.example", "sec_fetch_site": "cross-site"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "headers",
    [FOREIGN, {"cookie": COOKIE, "sec_fetch_site": "same-site"}, {"cookie": COOKIE}],
    ids=["a foreign origin", "another host of the site", "no origin"],
)
async def test_a_cookie_opens_no_socketio_connection_for_a_foreign_page(headers: dict[str, str]) -> None:
    assert await who_connects(None, **headers) == ("cross_site", ["cross_site"])


@pytest.mark.anyio
@pytest.mark.parametrize(
    "headers", [{"origin": "https://app.example"}, {"sec_fetch_site": "same-origin"}, {"origin": "http://testserver"}]
)
async def test_a_cookie_opens_a_socketio_connection_for_an_allowed_page(headers: dict[str, str]) -> None:
    assert await who_connects({}, cookie=COOKIE, **headers) == ("ada", [])


@pytest.mark.anyio
async def test_a_token_that_a_socketio_client_sends_beats_a_cookie() -> None:
    assert await who_connects({"token": token(sub="grace")}, **FOREIGN) == ("grace", [])
    authorization = f"Bearer {token(sub='lin')}"
    assert await who_connects({"token": token(sub="grace")}, authorization=authorization, **FOREIGN) == ("lin", [])


@pytest.mark.anyio
async def test_a_socketio_client_that_is_refused_is_told_of() -> None:
    assert await who_connects(None) == ("missing_token", ["missing_token"])
    assert await who_connects({"token": "garbage"}) == ("malformed_token", ["malformed_token"])
