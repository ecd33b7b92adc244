"""Real processes for tests: waited for, bounded in time, ended whatever happens."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 20
END_SECONDS = 10


def python(*arguments: str, log: Path, ready: Callable[[str], bool]) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """``program`` for ``python *arguments``."""
    return program(sys.executable, *arguments, log=log, ready=ready)


@contextmanager
def program(
    *command: str, log: Path, ready: Callable[[str], bool], folder: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """``command``, run in ``folder``, once ``ready(its output)``; its output goes to ``log``."""
    # In development mode servers take twice as long to start, and no test reads what they warn about. The other two say
    # where the tests of the examples keep their data.
    left_out = {"PYTHONDEVMODE", "DATABASE_URL", "SESSIONS"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready(log.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{' '.join(command)} did not start:\n{log.read_text()}")
            time.sleep(0.02)
        yield process
    finally:
        with suppress(subprocess.TimeoutExpired):
            interrupt(process)
        # Servers have children; whatever is left of the session that we started ends here.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def interrupt(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C; the exit status."""
    process.send_signal(signal.SIGINT)
    return process.wait(END_SECONDS)


def need(program: str) -> None:
    """Skip where ``program`` is not installed; in CI that is a failure."""
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")


def run(*arguments: str) -> None:
    """``python *arguments`` from the project's root, to its end, which must be a good one and a silent one."""
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    # In development mode asyncio tells what was slow, as everything is on a busy machine.
    errors = "".join(line for line in ended.stderr.splitlines(keepends=True) if not line.startswith("Executing <"))
    assert (ended.returncode, errors) == (0, ""), f"{ended.stdout}{errors}"
