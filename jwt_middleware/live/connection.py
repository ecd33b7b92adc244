"""What happens to one open connection when its token is no longer good?"""

from abc import ABC, abstractmethod
from math import inf
from traceback import walk_tb
from typing import Any

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from ..errors import Refusal
from ..events import ConnectionEnded, ConnectionRenewed, Detail, UnexpectedError
from ..identity import JWTCredentials
from ..telling import escape
from ..verifying.token import Token
from .connections import Connections

KEY = "jwt_middleware.connection"
"""The key of the ``Connection`` in a scope. ``renew`` looks it up."""


class Ended(OSError):
    """The connection was closed because its token is no longer good."""


class Connection(ABC):
    """A connection as the app sees it. Its ``receive`` and ``send`` work until its token is no longer good.

    1. After ``block``, nothing passes any more in either direction.
    2. ``close`` wakes up the app if it waits in ``receive``, and starts to tell the client.
    3. ``receive`` returns a disconnect, and ``send`` raises ``OSError``, as ASGI 2.4 says of closed connections.
    4. The client is told once the message that the app is sending at that moment is out, or after ``patience`` seconds.

    ``token`` is None if the client has not authenticated yet.
    """

    def __init__(self, connections: Connections, token: Token | None, receive: Receive, send: Send) -> None:
        self.token = token
        self.good_until = inf if token is None else connections.good_until(token)
        self._connections = connections
        self._timer = connections.timer()
        self._is_open = False
        self._number: int | None = None
        self._receive = receive
        self._send = send
        self._receiving: set[anyio.CancelScope] = set()
        self._sending: set[anyio.CancelScope] = set()
        self._refusal: Refusal | None = None
        self._app_knows = False
        self._nothing_is_sent: anyio.Event | None = None
        self._closed: anyio.Event | None = None

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        """Call ``app``. Exceptions that it raises only because its connection was closed do not propagate."""
        scope[KEY] = self
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            if not self._app_knows:
                raise
            if not _is_about_disconnect(error):
                event = UnexpectedError(where="serving a closed connection", error=type(error).__name__)
                self._connections.events.tell(event, exc_info=error)
        finally:
            self._leave()
            if self._refusal is not None:
                # Wait, because the server closes the connection with another code as soon as the app returns.
                await self.close().wait()
            # The server's objects hold the scope, which holds this object: together they would form a cycle.
            self._receive, self._send = _receive_nothing, _send_nothing

    async def receive(self) -> Message:
        """The server's next message; a disconnect once the connection is blocked."""
        if self._refusal is None:
            waiting = anyio.CancelScope()
            self._receiving.add(waiting)
            message: Message | None = None
            try:
                with waiting:
                    message = await self._receive()
            finally:
                self._receiving.discard(waiting)
            # A message that arrives at the moment of the end is too late.
            if self._refusal is None and message is not None:
                self._after_receive(message)
                return message
        self._app_knows = True
        return self._disconnect()

    async def send(self, message: Message) -> None:
        """Send ``message``; raises ``OSError`` once the connection is blocked."""
        if self._refusal is not None:
            self._app_knows = True
            raise Ended(f"the connection was closed: {self._refusal.code}")
        message = self._before_send(message)
        sending = anyio.CancelScope()
        self._sending.add(sending)
        try:
            with sending:
                await self._send(message)
        finally:
            self._sending.discard(sending)
            if not self._sending and self._nothing_is_sent is not None:
                self._nothing_is_sent.set()
        if sending.cancelled_caught:
            self._app_knows = True
            raise Ended("the connection was closed, and its client took no more data")
        # Only now: a message that the server did not take has ended nothing.
        self._after_send(message)

    def adopt(self, token: Token, user: Any, scope: Scope) -> None:
        """Go on with another token. Raises the ``Refusal`` for which the connection is blocked, if it already is."""
        if self._refusal is not None:
            raise self._refusal
        self.token, self.good_until = token, self._connections.good_until(token)
        if self._number is not None:
            self._timer.reschedule(self._number)
        elif self._is_open:
            self._number = self._timer.watch(self)
        scope["auth"], scope["user"] = JWTCredentials(token, self._connections.refuser), user
        subject = None if token.subject is None else escape(token.subject)
        self._connections.events.tell(ConnectionRenewed(provider=token.provider, subject=subject))

    async def authenticate(self, raw: str | bytes, scope: Scope) -> tuple[Token, Any]:
        """Return the token in ``raw`` and its user. Raises a ``Refusal``."""
        return await self._connections.authenticate(raw, scope)

    def block(self, refusal: Refusal) -> None:
        """Let nothing pass from now on, for the reason of ``refusal``."""
        if self._refusal is None:
            self._refusal = refusal

    def close(self) -> "anyio.Event":
        """Tell app and client that the connection is blocked. Returns an event that is set when the client knows."""
        if self._closed is not None:
            return self._closed
        self._leave()
        self._closed = anyio.Event()
        if self._sending:
            self._nothing_is_sent = anyio.Event()
        for waiting in self._receiving:
            waiting.cancel()
        self._connections.background.start(self._tell_client, ended=self._finish, at_most=self._connections.patience)
        return self._closed

    def _open(self) -> None:
        """From now on the connection ends with its token."""
        if self._is_open:
            return
        self._is_open = True
        if self.good_until < inf:
            self._number = self._timer.watch(self)

    def _leave(self) -> None:
        """From now on the connection does not end with its token, because it is over, or because it never began."""
        self._is_open = False
        if self._number is not None:
            self._timer.forget(self._number)
            self._number = None

    async def _tell_client(self) -> None:
        assert self._refusal is not None
        about = self.token
        event = ConnectionEnded(
            code=self._refusal.code,
            provider=None if about is None else about.provider,
            subject=None if about is None or about.subject is None else escape(about.subject),
        )
        self._connections.events.tell(event)
        if self._nothing_is_sent is not None:
            await self._nothing_is_sent.wait()
        try:
            await self._send_end(self._refusal)
        except Exception as error:  # noqa: BLE001  # the client may have gone; servers say so in many ways
            self._connections.events.tell(Detail(text="a connection was gone before it was closed"), exc_info=error)

    def _finish(self) -> None:
        assert self._closed is not None
        self._closed.set()
        # A client that takes no data would hold the app for good.
        for sending in self._sending:
            sending.cancel()

    @abstractmethod
    async def _send_end(self, refusal: Refusal) -> None:
        """Tell the client."""

    @abstractmethod
    def _disconnect(self) -> Message:
        """The message that tells the app."""

    @abstractmethod
    def _after_receive(self, message: Message) -> None:
        """Leave if ``message``, which comes from the server, says that the connection is over."""

    def _before_send(self, message: Message) -> Message:
        """Return what to send for ``message``, which comes from the app, and open if it says so."""
        return message

    @abstractmethod
    def _after_send(self, message: Message) -> None:
        """Leave if ``message``, which the server has taken, says that the connection is over."""


def _is_about_disconnect(error: BaseException) -> bool:
    """Whether apps raise ``error`` because a connection is closed, and not by their own mistake."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_about_disconnect, error.exceptions))
    if isinstance(error, Ended | WebSocketDisconnect | ClientDisconnect):
        return True
    # Starlette raises it for a message after the close. Many apps close in a `finally`.
    return isinstance(error, RuntimeError) and _raised_by(error).startswith("starlette.")


def _raised_by(error: BaseException) -> str:
    """The name of the module that raised ``error``."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


async def _receive_nothing() -> Message:
    raise Ended("the connection is over")


async def _send_nothing(message: Message) -> None:
    raise Ended("the connection is over")
