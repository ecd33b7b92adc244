import pytest

pytest_plugins = ["jwt_middleware.pytest_plugin"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def backend(anyio_backend: str) -> str:
    """The event loop that a TestClient runs on: every test that takes it runs twice."""
    return anyio_backend
