"""Logins that a throttle is asked about, without an app around it."""

from typing import Any

import pytest

from jwt_middleware.issuing import Throttle
from jwt_middleware.issuing.throttle import LoginRefused


def request(address: str = "203.0.113.9", **headers: str) -> dict[str, Any]:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (address, 4711), "headers": lines}


async def fails(throttle: Throttle, username: str = "ada", address: str = "203.0.113.9") -> None:
    """A login with a wrong password that is tried."""
    await throttle.attempt(username, request(address))


async def succeeds(throttle: Throttle, username: str = "ada", address: str = "203.0.113.9") -> None:
    await throttle.forgive(await throttle.attempt(username, request(address)))


async def refused(throttle: Throttle, username: str = "ada", address: str = "203.0.113.9") -> LoginRefused:
    """Why a login is not tried."""
    with pytest.raises(LoginRefused) as info:
        await throttle.attempt(username, request(address))
    return info.value


def unanswered(refusals: list[LoginRefused]) -> int:
    """How many were refused since Redis did not answer in time, as it may not on a busy machine: they are not tried."""
    return sum(refusal.status == 503 for refusal in refusals)
