"""What do the open connections of one middleware share?"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.types import Scope

from .._support.background import Background
from .._support.loops import PerLoop
from ..refuser import Refuser
from ..revocation.revoked import Revocations
from ..telling import Events
from ..verifying.token import Token
from ..verifying.verifier import Clock
from .timer import Timer

PATIENCE = 30
"""Seconds that closing one connection may take. Some servers wait for the client's answer, and give up earlier."""

Authenticate: TypeAlias = Callable[[str | bytes, Scope], Awaitable[tuple[Token, Any]]]
"""Verifies the token in a text for the connection of a scope, and loads its user. Raises a ``Refusal``."""


class Connections:
    """The open connections of one middleware, on whichever event loops they run.

    ``good_until``
        ``good_until(token)`` is the Unix time at which a token is no longer good.
    ``authenticate``
        Verifies the tokens that ``renew`` brings.
    ``authenticate_within``
        Seconds after which a WebSocket is closed if its client has not authenticated. None if it stays open.
    ``patience``
        Seconds that closing one connection may take.
    """

    def __init__(
        self,
        *,
        good_until: Callable[[Token], float],
        authenticate: Authenticate,
        revocations: Revocations | None,
        refuser: Refuser,
        clock: Clock,
        events: Events | None = None,
        authenticate_within: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.good_until = good_until
        self.authenticate = authenticate
        self.refuser = refuser
        self.clock = clock
        self.events = Events() if events is None else events
        self.authenticate_within = authenticate_within
        self.patience = patience
        self.background = Background("closing open connections", events=self.events)
        self._timers = PerLoop(lambda: Timer(self.background, revocations, clock, self.events))

    def __len__(self) -> int:
        return sum(len(timer) for timer in self._timers.all())

    def timer(self) -> Timer:
        """The timer of the running event loop."""
        return self._timers.get()
