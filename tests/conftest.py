import asyncio.constants
import asyncio.format_helpers
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from .support.virtual_time import virtual_time

if TYPE_CHECKING:
    from .support.chromium import Chromium

pytest_plugins = ["jwt_middleware.pytest_plugin", "tests.support.secrets"]

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


# A shell that starts the suite in the background ignores Ctrl-C for it. The programs that tests start and interrupt
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# In development mode asyncio keeps the stack in which each callback, future and task was made, which is a third of the
# suite's time. No test reads those stacks. The warning about a coroutine that was never awaited still says where it was
# made.
setattr(asyncio.constants, "DEBUG_STACK_DEPTH", 1)  # noqa: B010  # for the type checker, it is Final
asyncio.format_helpers.extract_stack = lambda f=None, limit=None: traceback.StackSummary()
# Futures that are written in C call this one, without a limit.
traceback.extract_stack.__defaults__ = (None, 1)

# Files that take ten seconds or more, the slowest first. They drive browsers and servers, and mostly wait.
SLOW = (
    "test_demo_page.py",
    "test_session_faults.py",
    "test_shutdown.py",
    "test_other_frameworks.py",
    "test_live_servers.py",
    "test_examples.py",
    "test_shown_frameworks.py",
    "test_page_script.py",
    "test_documentation.py",
    "test_sql_faults.py",
    "test_outages.py",
    "test_sqlite_store.py",
    "test_sqlite_files.py",
    "test_throttle_servers.py",
    "test_authorize.py",
    "test_oauth_clients.py",
    "test_servers.py",
    "test_redis_store.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in one process more than there are processors, because some of its time is waiting.

    A part of the suite runs in this process, where a debugger can see it.
    """
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    if sys.flags.dev_mode:
        # Other processes inherit the environment, and no `-X dev`.
        os.environ["PYTHONDEVMODE"] = "1"
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", 0)) or (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow files, and put them first, so that no process is left alone with one of them at the end."""
    rank = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.name, len(SLOW)))
    for item in items:
        if item.path.name in rank:
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    # Thousands of tests are no garbage: the collector need not look at them again and again.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Some frameworks configure logging when an app of theirs is made; no other test shall see it."""
    loggers = [logging.getLogger(), logging.getLogger("jwt_middleware"), *loggers_below("jwt_middleware")]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate, logger.disabled) for logger in loggers]
    yield
    for logger, level, handlers, propagate, disabled in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate, logger.disabled = propagate, disabled


def loggers_below(name: str) -> list[logging.Logger]:
    return [logging.getLogger(known) for known in logging.root.manager.loggerDict if known.startswith(f"{name}.")]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    backend: str = request.param
    return virtual_time(backend) if request.node.get_closest_marker("virtual_time") else backend


@pytest.fixture
def backend(anyio_backend_name: str) -> str:
    """The event loop that a TestClient runs on: every test that takes it runs twice."""
    return anyio_backend_name


@pytest.fixture(scope="module")
def browser_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Chromium"]:
    # Imported here, because few tests need a browser.
    from .support.chromium import chromium

    with chromium(tmp_path_factory.mktemp("browser"), "--host-resolver-rules=MAP demo.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def browser(browser_of_module: "Chromium") -> Iterator["Chromium"]:
    """A Chromium without open pages. The name demo.example leads to this machine."""
    yield browser_of_module
    # As long as a page is open, it may count down and send requests.
    browser_of_module.close_pages()
