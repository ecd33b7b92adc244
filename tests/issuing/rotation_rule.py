"""Does a store that decides by a script or a statement of its own do what ``rotation.rotate`` says?"""

import time
from random import Random

import anyio
import pytest

from jwt_middleware.issuing.rotation import Outcome, Rotation, rotate
from jwt_middleware.issuing.session_store import SessionStore
from jwt_middleware.testing.store_contract import REALM

from .store_steps import opened


async def check_rotations(store: SessionStore, steps: int) -> None:
    """Rotate sessions at random, ``steps`` times, and compare each answer of ``store`` with that of the rule."""
    random = Random(9)
    seen: set[Outcome] = set()
    id = ""
    for number in range(steps):
        if number % 50 == 1:
            # The lifetime without use that the last step gave, 1 ms, must not end between the two calls below.
            await anyio.sleep(0.01)
        started = time.monotonic()
        session, now = await store.read(id, REALM)
        if session is None:
            id = f"s{number}"
            await opened(store, id, idle_lifetime=random.choice([500, 1e6]), session_lifetime=5000)
            session, now = await store.read(id, REALM)
            assert session is not None
        presented = Rotation(
            id=random.choice([id] * 9 + ["none"]),
            realm=REALM,
            generation=session.generation + random.choice([-2, -1, -1, -1, 0, 0, 0, 0, 0, 0, 1, 2]),
            grace=random.choice([0, 1e6]),
            idle_lifetime=random.choice([50, 700, 1e6]) if number % 50 else 0.001,
            access_lifetime=random.randrange(1, 1000),
            deadline=now + random.choice([-1, 60, 60, 60, 60]),
            reuse_until_used=random.choice([True, True, False]),
        )
        # No clock was set here, so steady time is that of the clock.
        expected, moved = rotate(session if presented.id == id else None, presented, now, now)
        outcome, found = await store.rotate(presented)
        passed = time.monotonic() - started + 0.01
        assert outcome is expected, (session, presented)
        seen.add(outcome)
        assert (found is None) == (moved is None)
        if found is not None and moved is not None:
            for name in ("generation", "parent", "is_used", "ends_at", "opened_at", "subject", "realm"):
                assert getattr(found, name) == getattr(moved, name), (name, session, presented)
            for name in ("rotated_at", "used_at", "expires_at", "access_until"):
                assert getattr(found, name) == pytest.approx(getattr(moved, name), abs=passed)
    assert seen == set(Outcome)
