"""Who wants to know of each accepted request? Without such a listener, this costs requests nothing."""

import logging
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from .events import RequestAccepted
from .telling import Events, escape
from .verifying.token import Token


def hear_accepted(app: ASGIApp, hear: Callable[[Token, Scope], object]) -> ASGIApp:
    """``app``, and before it a call of ``hear(token, scope)`` for each request that ``JWTMiddleware`` accepted."""

    # Not a coroutine function: that would cost each request another coroutine.
    def hearing(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] in ("http", "websocket"):
            token = scope["auth"].token
            if token is not None:
                hear(token, scope)
        return app(scope, receive, send)

    return hearing


def tell_of_accepted(events: Events, token: Token, scope: Scope) -> None:
    """Tell ``RequestAccepted`` of the request of ``scope``."""
    if events.skips(logging.DEBUG, RequestAccepted.about, None):
        return
    client = scope.get("client")
    events.tell(
        RequestAccepted(
            provider=token.provider,
            kid=None if token.kid is None else escape(token.kid),
            subject=None if token.subject is None else escape(token.subject),
            method=escape(scope["method"]) if "method" in scope else None,
            path=escape(scope["path"]),
            client=escape(str(client[0])) if client else None,
        )
    )
