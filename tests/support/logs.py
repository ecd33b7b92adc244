"""What did the package log?"""

import logging

import pytest


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records of our loggers. In development mode asyncio logs too, whenever something was slow."""
    return [record for record in caplog.records if record.name.partition(".")[0] == "jwt_middleware"]


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """The level and the message of every record of ours."""
    return [(record.levelno, record.getMessage()) for record in records(caplog)]
