"""How does a client of python-socketio authenticate, and when does its connection end?

A Socket.IO connection can be many HTTP requests, and its client sends a header with the first one only. So the paths
of the server are public for the middleware, and ``authenticate`` in the ``connect`` handler decides.
"""

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import anyio
from socketio.exceptions import ConnectionRefusedError as SocketIORefusal

from .demand import middleware_of
from .errors import MalformedToken, MissingToken, Refusal
from .live.connections import Connections
from .verifying.token import Token


async def authenticate(server: Any, sid: str, environ: dict[str, Any], auth: Any, *, namespace: str = "/") -> Token:
    """The verified token of a client that connects, for the ``connect`` handler of a Socket.IO server.

    Every namespace needs such a handler, with its own ``namespace``: a client can connect to one of them alone.

    1. A header of the handshake, or any other source that the page itself fills, may have the token.
    2. Otherwise it is ``auth["token"]``, which clients send as ``auth={"token": ...}``.
    3. Otherwise it is that of a cookie. The handshake must come from an allowed origin, as that of any WebSocket, also
       if it is a GET: ``cross_site``. See ``origins`` of ``JWTMiddleware``.

    The client is disconnected when its token expires or is revoked. The session of the client gets ``user`` and
    ``token``: ``(await server.get_session(sid))["user"]``.

    Raises ``socketio.exceptions.ConnectionRefusedError``, which refuses the connection with our code as its message.
    """
    scope = environ["asgi.scope"]
    middleware = middleware_of(scope)
    connections = middleware.connections
    token, user = scope["auth"].token, scope["user"]
    raw = auth.get("token") if isinstance(auth, dict) else None
    try:
        presented = None if token is None else middleware.presented(scope)
        is_ambient = presented is not None and presented.is_ambient
        if token is None or (is_ambient and raw is not None):
            if raw is None:
                raise MissingToken
            if not isinstance(raw, str | bytes):
                # It comes from the client and can be any JSON value.
                raise MalformedToken(found=f"a value of the type {type(raw).__name__}")
            token, user = await connections.authenticate(raw, scope)
        elif is_ambient and scope["type"] == "http":
            # The middleware takes a GET for one that changes nothing. This one opens a connection.
            middleware.check_origin(scope)
    except Refusal as refusal:
        connections.refuser.tell(refusal, scope)
        raise SocketIORefusal(refusal.code) from None
    async with server.session(sid, namespace=namespace) as session:
        session["user"], session["token"] = user, token
    verified: Token = token
    _clients.setdefault(server, _Clients()).add(_Client(server, sid, namespace, verified, connections))
    return verified


_SETTLED_AFTER = 60
"""Seconds that a ``connect`` handler may take before its client counts as gone."""


class _Client:
    """A client as the timer of open connections sees it."""

    def __init__(self, server: Any, sid: str, namespace: str, token: Token, connections: Connections) -> None:
        self.token: Token | None = token
        self.good_until = connections.good_until(token)
        self._background = connections.background
        self._disconnect = partial(server.disconnect, sid, namespace=namespace)
        self._is_connected = partial(server.manager.is_connected, sid, namespace)
        self._began = anyio.current_time()
        self._timer = connections.timer()
        self._number: int | None = self._timer.watch(self)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to end. A client is not connected before its ``connect`` handler has returned."""
        is_settled = anyio.current_time() > self._began + _SETTLED_AFTER
        return self._number is None or (is_settled and not self._is_connected())

    def forget(self) -> None:
        """Leave the timer."""
        if self._number is not None:
            self._timer.forget(self._number)
            self._number = None

    def block(self, refusal: Refusal) -> None:
        """Do nothing: ``close`` follows at once, and no message of the client passes through here."""

    def close(self) -> None:
        """Disconnect the client."""
        self.forget()
        self._background.start(self._disconnect)


class _Clients:
    """The clients of one server. It does not say when one has gone, so they are swept whenever their number doubles."""

    def __init__(self) -> None:
        self._clients: list[_Client] = []
        self._sweep_at = 64

    def add(self, client: _Client) -> None:
        if len(self._clients) >= self._sweep_at:
            for gone in filter(lambda client: client.is_over, self._clients):
                gone.forget()
            self._clients = [client for client in self._clients if not client.is_over]
            self._sweep_at = max(64, 2 * len(self._clients))
        self._clients.append(client)


_clients: WeakKeyDictionary[Any, _Clients] = WeakKeyDictionary()
