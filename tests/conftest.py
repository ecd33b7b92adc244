from typing import Any

import pytest

from .support.virtual_time import virtual_time

pytest_plugins = ["jwt_middleware.pytest_plugin"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    backend: str = request.param
    return virtual_time(backend) if request.node.get_closest_marker("virtual_time") else backend


@pytest.fixture
def backend(anyio_backend_name: str) -> str:
    """The event loop that a TestClient runs on: every test that takes it runs twice."""
    return anyio_backend_name
