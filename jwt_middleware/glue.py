"""How does a guard answer in a framework that makes its own responses? With plain values."""

from json import dumps
from typing import NamedTuple

from starlette.types import Scope

from .demand import Demand, middleware_of


class Answer(NamedTuple):
    """The answer to a request, or a WebSocket handshake, that is refused."""

    status: int
    headers: dict[str, str]
    """The challenge, if the status is 401 or 403."""
    content: dict[str, str]
    """``error``, ``error_description`` and ``code``, for a JSON body."""
    close_code: int
    """For a WebSocket that can only be closed, with ``code`` as the reason."""

    @property
    def code(self) -> str:
        """The refusal's stable code."""
        return self.content["code"]

    @property
    def body(self) -> bytes:
        """The content as JSON."""
        return dumps(self.content, separators=(",", ":")).encode()


def check(demand: Demand, scope: Scope) -> Answer | None:
    """The answer to the request of ``scope``, in the name of its middleware. None if the request meets ``demand``."""
    refusal = demand.refusal(scope)
    if refusal is None:
        return None
    status, headers, close_code = middleware_of(scope).refuser.plain(refusal, scope)
    return Answer(status, headers, refusal.body, close_code)
