from collections.abc import Iterator

import pytest

from ..support.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests that leave it as it was; each has tables of its own."""
    with postgres_server("log_statement=all") as running:
        yield running
