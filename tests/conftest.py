from typing import Any

import pytest
from hypothesis import settings

from .support.virtual_time import virtual_time

pytest_plugins = ["jwt_middleware.pytest_plugin", "tests.support.secrets"]

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    backend: str = request.param
    return virtual_time(backend) if request.node.get_closest_marker("virtual_time") else backend


@pytest.fixture
def backend(anyio_backend_name: str) -> str:
    """The event loop that a TestClient runs on: every test that takes it runs twice."""
    return anyio_backend_name
