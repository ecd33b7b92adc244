import gc
import os
import sys
from typing import Any

import pytest
from hypothesis import settings

from .support.virtual_time import virtual_time

pytest_plugins = ["jwt_middleware.pytest_plugin", "tests.support.secrets"]

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite takes every processor; a part of it runs in this process, where a debugger can see it."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    if sys.flags.dev_mode:
        # Other processes inherit the environment, and no `-X dev`.
        os.environ["PYTHONDEVMODE"] = "1"
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", 0)) or os.cpu_count() or 1


def pytest_collection_finish() -> None:
    # Thousands of tests are no garbage: the collector need not look at them again and again.
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    backend: str = request.param
    return virtual_time(backend) if request.node.get_closest_marker("virtual_time") else backend


@pytest.fixture
def backend(anyio_backend_name: str) -> str:
    """The event loop that a TestClient runs on: every test that takes it runs twice."""
    return anyio_backend_name
