"""What did the package log?"""

import pytest


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What we logged, and how badly; in development mode asyncio logs what was slow."""
    records = [record for record in caplog.records if record.name.partition(".")[0] == "jwt_middleware"]
    return [(record.levelno, record.getMessage()) for record in records]
