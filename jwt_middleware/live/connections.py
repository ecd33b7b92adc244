"""When do open connections end? When their token does: WebSockets, and responses that are streamed."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from traceback import walk_tb
from typing import Any, TypeAlias

import anyio
from anyio import CancelScope, Event
from anyio.lowlevel import RunVar, checkpoint
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from .._support.background import Background
from ..errors import Expired, InvalidClaim, MalformedToken, MissingToken, Refusal, Revoked, WrongIssuer
from ..identity import JWTCredentials
from ..refuser import Refuser
from ..revocation.revoked import Revocations
from ..verifying.claims import Token
from ..verifying.verifier import Clock

logger = logging.getLogger("jwt_middleware")

TICK = 0.25
"""Seconds between two looks at what is open; a revocation takes half a second to get here, and has one in all."""

PATIENCE = 30
"""Seconds that ending one connection may take. Some servers wait for the client's answer, and give up earlier."""

SLICE = 10
"""Connections that are ended at once, before others on the event loop have their turn."""

LOOKS = 500
"""Connections whose revocation is looked up at once."""

Authenticate: TypeAlias = Callable[[str | bytes], Awaitable[tuple[Token, Any]]]
"""Gives the token that a text spells, and its user; raises a ``Refusal``."""

_KEY = "jwt_middleware.connection"


async def renew(scope: Scope, new_token: str | bytes) -> Token:
    """Let the open connection of ``scope`` live on with ``new_token``, of the same provider and subject.

    It is verified in full, ``load_user`` included; ``scope["auth"]`` and ``scope["user"]`` are its own then, and the
    connection ends when it does. Its scopes may be others, which nobody asks for again. Raises a ``Refusal`` otherwise,
    and leaves everything as it was.
    """
    if _KEY not in scope:
        raise RuntimeError(
            "renew() found no open connection: it is for WebSockets behind JWTMiddleware, and for other requests where "
            "close_streams_on_expiry=True"
        )
    connection: Connection | None = scope[_KEY]
    if connection is None:
        raise MissingToken
    if not isinstance(new_token, str | bytes):
        # It comes from the client, and may be any JSON.
        raise MalformedToken
    await connection.renew(new_token, scope)
    return connection.token


class Connections:
    """The open connections of one middleware, on whichever event loops.

    ``good_until(token)`` tells, in Unix time, when a token ends; ``authenticate(raw)`` judges those for ``renew``.
    """

    def __init__(
        self,
        *,
        good_until: Callable[[Token], float],
        authenticate: Authenticate,
        revocations: Revocations | None,
        refuser: Refuser,
        clock: Clock,
        patience: float = PATIENCE,
    ) -> None:
        self.good_until = good_until
        self.authenticate = authenticate
        self.refuser = refuser
        self.patience = patience
        self.background = Background("ending connections")
        self._revocations = revocations
        self._clock = clock
        self._timer: RunVar[Timer] = RunVar("jwt_middleware.timer")

    async def websocket(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Call ``app`` with a WebSocket that ends with its token."""
        token = scope["auth"].token
        if token is None:
            scope[_KEY] = None
            await app(scope, receive, send)
        else:
            await _WebSocket(self, token, receive, send).serve(app, scope)

    async def stream(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Call ``app`` with a request whose response, if it says no length, ends with its token; or with no request."""
        if scope["type"] != "http":
            await app(scope, receive, send)
        elif scope["auth"].token is None:
            scope[_KEY] = None
            await app(scope, receive, send)
        else:
            await _Stream(self, scope["auth"].token, receive, send).serve(app, scope)

    def timer(self) -> "Timer":
        """The timer of the running event loop."""
        timer = self._timer.get(None)
        if timer is None:
            timer = Timer(self.background, self._revocations, self._clock)
            self._timer.set(timer)
        return timer


class Ended(OSError):
    """The connection was ended since its token was."""


class Connection(ABC):
    """A connection as the app sees it: ``receive`` and ``send``, until its token ends.

    Then the client is told, ``receive`` gives a disconnect and ``send`` raises ``OSError``, as ASGI 2.4 says of
    connections that are closed.
    """

    def __init__(self, connections: Connections, token: Token, receive: Receive, send: Send) -> None:
        self.token = token
        self.good_until = connections.good_until(token)
        self._connections = connections
        self._timer = connections.timer()
        self._place: int | None = None
        self._receive = receive
        self._send = send
        self._receiving: set[CancelScope] = set()
        self._sending: set[CancelScope] = set()
        # Why it has ended, and whether the app knows.
        self._refusal: Refusal | None = None
        self._is_told = False
        self._quiet: Event | None = None
        self._closed: Event | None = None

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        """Call ``app``; after the end of the token, what it raises is only what that has provoked."""
        scope[_KEY] = self
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            if not self._is_told:
                raise
            if not _is_of_disconnect(error):
                logger.warning("the app failed after its connection was ended", exc_info=error)
        finally:
            self.leave()
            if self._refusal is not None:
                # A server that sees the app return closes by itself, and says something else.
                await self.end().wait()
            # The server's own objects, which have the scope, are in no circle with this one.
            self._receive, self._send = _nothing, _nowhere

    async def receive(self) -> Message:
        if self._refusal is None:
            waiting = CancelScope()
            self._receiving.add(waiting)
            message: Message | None = None
            try:
                with waiting:
                    message = await self._receive()
            finally:
                self._receiving.discard(waiting)
            # What came in the moment of the end came too late.
            if self._refusal is None and message is not None:
                self._received(message)
                return message
        self._is_told = True
        return self._disconnect()

    async def send(self, message: Message) -> None:
        if self._refusal is not None:
            self._is_told = True
            raise Ended(f"the connection was ended: {self._refusal.code}")
        message = self._sends(message)
        sending = CancelScope()
        self._sending.add(sending)
        try:
            with sending:
                await self._send(message)
        finally:
            self._sending.discard(sending)
            if not self._sending and self._quiet is not None:
                self._quiet.set()
        if sending.cancelled_caught:
            self._is_told = True
            raise Ended("the connection was ended, and its client took nothing any more")
        # Only now: what the server did not take is not over.
        self._sent(message)

    def enter(self) -> None:
        """From now on it ends with its token."""
        if self._place is None:
            self._place = self._timer.add(self)

    def leave(self) -> None:
        """From now on it does not."""
        if self._place is not None:
            self._timer.discard(self._place)
            self._place = None

    def condemn(self, refusal: Refusal) -> None:
        """The token is not good any more, as ``refusal`` says: from now on nothing gets through."""
        if self._refusal is None:
            self._refusal = refusal

    def end(self) -> Event:
        """Tell the app, and the client, that it was condemned; what happens when that is done."""
        if self._closed is not None:
            return self._closed
        self.leave()
        self._closed = Event()
        if self._sending:
            self._quiet = Event()
        for waiting in self._receiving:
            waiting.cancel()
        self._connections.background.start(self._close, ended=self._over, at_most=self._connections.patience)
        return self._closed

    async def renew(self, raw: str | bytes, scope: Scope) -> None:
        """Live on with the token ``raw``, and show it in ``scope``."""
        token, user = await self._connections.authenticate(raw)
        known = {"provider": token.provider, "kid": token.kid, "subject": token.subject}
        if token.provider != self.token.provider:
            raise WrongIssuer(**known, claim="iss")
        if token.subject is None or token.subject != self.token.subject:
            raise InvalidClaim(**known, claim="sub")
        if self._refusal is not None:
            raise self._refusal
        self.token, self.good_until = token, self._connections.good_until(token)
        if self._place is not None:
            self._timer.move(self._place)
        scope["auth"], scope["user"] = JWTCredentials(token, self._connections.refuser), user

    async def _close(self) -> None:
        assert self._refusal is not None
        if self._quiet is not None:
            # After what the app is sending just now.
            await self._quiet.wait()
        try:
            await self._say(self._refusal, self._connections.refuser)
        except Exception:
            logger.debug("a connection was gone before it was ended", exc_info=True)

    def _over(self) -> None:
        assert self._closed is not None
        self._closed.set()
        # What is being sent still, to a client that takes nothing, would hold the app for good.
        for sending in self._sending:
            sending.cancel()

    @abstractmethod
    async def _say(self, refusal: Refusal, refuser: Refuser) -> None:
        """Tell the client."""

    @abstractmethod
    def _disconnect(self) -> Message:
        """What tells the app."""

    @abstractmethod
    def _received(self, message: Message) -> None:
        """Leave where ``message``, the server's, says that it is over."""

    def _sends(self, message: Message) -> Message:
        """``message``, the app's, as it is sent; enter where it says so."""
        return message

    @abstractmethod
    def _sent(self, message: Message) -> None:
        """Leave where ``message``, which the server has taken, says so."""


class _WebSocket(Connection):
    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        self.enter()
        await super().serve(app, scope)

    async def _say(self, refusal: Refusal, refuser: Refuser) -> None:
        await refuser.close(refusal, self._send)

    def _disconnect(self) -> Message:
        assert self._refusal is not None
        return {"type": "websocket.disconnect", "code": 3000, "reason": self._refusal.code}

    def _received(self, message: Message) -> None:
        if message["type"] == "websocket.disconnect":
            self.leave()

    def _sent(self, message: Message) -> None:
        if message["type"] in ("websocket.close", "websocket.http.response.start"):
            self.leave()


class _Stream(Connection):
    _has_trailers = False

    async def _say(self, refusal: Refusal, refuser: Refuser) -> None:
        await refuser.finish(refusal, self._send)
        if self._has_trailers:
            await self._send({"type": "http.response.trailers", "headers": [], "more_trailers": False})

    def _disconnect(self) -> Message:
        return {"type": "http.disconnect"}

    def _received(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self.leave()

    def _sends(self, message: Message) -> Message:
        if message["type"] == "http.response.start":
            # Any iterable will do for ASGI; the server must not find one used up.
            message = {**message, "headers": list(message.get("headers", ()))}
            self._has_trailers = message.get("trailers", False)
            # Cut short of the length that it says, a response would be an error of ours.
            if not any(name.lower() == b"content-length" for name, _ in message["headers"]):
                self.enter()
        return message

    def _sent(self, message: Message) -> None:
        # Others, such as http.response.push, say nothing of the body.
        if message["type"] in _BODIES and not message.get("more_body", False):
            self.leave()


_BODIES = frozenset({"http.response.body", "http.response.zerocopysend", "http.response.pathsend"})


class Timer:
    """The connections that are open on one event loop, by when they end. It runs while there are any."""

    def __init__(self, background: Background, revocations: Revocations | None, clock: Clock) -> None:
        self._background = background
        self._revocations = revocations
        self._clock = clock
        self._open: dict[int, Connection] = {}
        self._places = count()
        # When, and which place. Those that are gone or renewed since stay, and are skipped when it is their time.
        self._ends: list[tuple[float, int]] = []
        self._running: set[CancelScope] = set()
        self._failed = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> int:
        """End ``connection`` when it is time; its place."""
        place = next(self._places)
        self._open[place] = connection
        self.move(place)
        if not self._running:
            self._start(self._expire)
            if self._revocations is not None:
                self._start(partial(self._revoke, self._revocations))
        return place

    def move(self, place: int) -> None:
        """The connection of ``place`` has another time."""
        heappush(self._ends, (self._open[place].good_until, place))
        self._tidy()

    def discard(self, place: int) -> None:
        """The connection of ``place`` is over."""
        del self._open[place]
        self._tidy()
        if not self._open:
            self._stop()

    def _tidy(self) -> None:
        # Each open one has one entry that counts; others cost memory only.
        if len(self._ends) > 2 * len(self._open) + 64 or not self._open:
            self._ends = [(connection.good_until, place) for place, connection in self._open.items()]
            heapify(self._ends)

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        running = CancelScope()

        async def run() -> None:
            with running:
                await work()

        def ended() -> None:
            if running in self._running:
                # With its event loop, or by a mistake of ours: the next connection starts all anew.
                self._stop()

        self._running.add(running)
        self._background.start(run, ended=ended)

    def _stop(self) -> None:
        running, self._running = self._running, set()
        for scope in running:
            scope.cancel()

    async def _expire(self) -> None:
        while True:
            over = []
            while self._ends and self._ends[0][0] <= self._clock():
                good_until, place = heappop(self._ends)
                connection = self._open.get(place)
                if connection is not None and connection.good_until == good_until:
                    connection.condemn(_because(Expired, connection.token, claim="exp"))
                    over.append(connection)
            await _end(over)
            await anyio.sleep(min(TICK, max(0, self._ends[0][0] - self._clock())) if self._ends else TICK)

    async def _revoke(self, revocations: Revocations) -> None:
        while True:
            try:
                doubtful = await self._end_revoked(tuple(self._open.values()), revocations)
                if doubtful:
                    await revocations.catch_up()
                    await self._end_revoked(doubtful, revocations)
            except Refusal:
                # It cannot be told at the moment. Nothing is known against those that are open still.
                pass
            except Exception:
                if self._is_first_failure():
                    logger.exception(_FAILED)
            await anyio.sleep(TICK)

    async def _end_revoked(self, connections: Iterable[Connection], revocations: Revocations) -> list[Connection]:
        """End those that are revoked, whatever becomes of the others; those of which that cannot be told."""
        over, doubtful = [], []
        for number, connection in enumerate(connections, 1):
            try:
                revoked = revocations.is_revoked(connection.token)
            except Exception:
                if self._is_first_failure():
                    logger.exception(_FAILED)
                continue
            if revoked is None:
                doubtful.append(connection)
            elif revoked:
                connection.condemn(_because(Revoked, connection.token))
                over.append(connection)
            if number % LOOKS == 0:
                await checkpoint()
        await _end(over)
        return doubtful

    def _is_first_failure(self) -> bool:
        failed, self._failed = self._failed, True
        return not failed


_FAILED = "open connections: their revocation could not be looked up (said once)"


async def _end(connections: Iterable[Connection]) -> None:
    """End those that are condemned, one after another: it is work, and others want their turn."""
    for number, connection in enumerate(connections, 1):
        connection.end()
        if number % SLICE == 0:
            await checkpoint()


def _because(kind: type[Refusal], token: Token, claim: str | None = None) -> Refusal:
    return kind(provider=token.provider, kid=token.kid, subject=token.subject, claim=claim)


def _is_of_disconnect(error: BaseException) -> bool:
    """Whether ``error`` is what apps raise of a connection that is closed, and no mistake of their own."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_of_disconnect, error.exceptions))
    if isinstance(error, Ended | WebSocketDisconnect | ClientDisconnect):
        return True
    # Starlette's word for a message after the close: many apps close in a `finally`.
    return isinstance(error, RuntimeError) and _module(error).startswith("starlette.")


def _module(error: BaseException) -> str:
    """The module that raised ``error``."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


async def _nothing() -> Message:
    raise Ended("the connection is over")


async def _nowhere(message: Message) -> None:
    raise Ended("the connection is over")
