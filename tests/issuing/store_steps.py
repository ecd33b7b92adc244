"""Steps that the tests of every store take, with the usual terms."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import Session
from jwt_middleware.issuing.rotation import Outcome
from jwt_middleware.issuing.session_store import SessionStore
from jwt_middleware.testing.store_contract import opening, rotation


async def opened(store: SessionStore, id: str = "s", subject: str = "ada", **changes: Any) -> Session:
    """A new session, with ``changes`` of its terms."""
    session, _ = await store.open(opening(id, subject, **changes), max_sessions=10_000)
    return session


async def rotated_by(store: SessionStore, generation: int, id: str = "s", **changes: Any) -> tuple[Outcome, int | None]:
    """The outcome for ``generation`` of a session, and the generation that is good then."""
    outcome, session = await store.rotate(rotation(id, generation, **changes))
    return outcome, None if session is None else session.generation


async def timed(step: Callable[[], Awaitable[object]], taken: list[float]) -> None:
    """Add the seconds to ``taken`` that a step takes to say that the store is unavailable."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await step()
    taken.append(time.monotonic() - began)
