"""What does a middleware add to a request? Interleaved rounds, medians, and how they are printed and kept."""

import asyncio
import gc
import json
import os
import platform
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from operator import itemgetter
from pathlib import Path
from shutil import which
from statistics import median, quantiles
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tokens import http_scope

OURS = "asgi-jwt-middleware"
T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, eq=False)
class Contestant:
    """An app that checks tokens, and the same app without."""

    name: str
    app: ASGIApp
    bare: ASGIApp


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests with the next of ``tokens``, the same ones for each contestant; None is a request without."""

    name: str
    tokens: Iterator[bytes | None]
    contestants: Sequence[Contestant]
    expect: int = 200
    seen: Sequence[bytes] = ()
    """Tokens that come once before anything is timed."""


@dataclass(frozen=True, slots=True)
class Added:
    """Microseconds that a contestant added to a request: the median of the rounds that count, and their middle half."""

    workload: str
    contestant: str
    median: float
    low: float
    high: float
    bare: float
    """Those that its bare app took, in the same rounds."""


async def bare_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that answers; its time is taken off everything that stands in front of it."""
    if scope["type"] == "lifespan":
        for answer in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{answer}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def measure(workloads: Sequence[Workload], *, rounds: int, requests: int) -> list[Added]:
    """What each contestant adds to the requests of each workload.

    In a round each is timed once, in turn: ``requests`` requests through its bare app, the same ones through the
    contestant, and through its bare app again. A round's result is the difference, and what counts is the median over
    the quietest tenth of the rounds: those in which the bare app was fastest, before and after. So what else the
    machine does falls on all alike, and on few.

    The garbage collector is on, as always, and is run in full between the rounds. The apps are awaited in one task on
    asyncio's loop: a coroutine that is awaited costs less than one driven by ``send(None)``, whose end is an exception,
    and apps that need a running loop have one.
    """
    samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
    async with AsyncExitStack() as stack:
        for app in dict.fromkeys(
            app
            for workload in workloads
            for contestant in workload.contestants
            for app in (contestant.app, contestant.bare)
        ):
            await stack.enter_async_context(_started(app))
        for workload in workloads:
            for contestant, token in product(workload.contestants, workload.seen):
                await contestant.app(http_scope(token), _receive, _send)
        for number in range(-WARM_UP_ROUNDS, rounds):
            gc.collect()
            # Another one comes first each time: what the collector does next would always fall on the same.
            first = number % len(workloads)
            for workload in (*workloads[first:], *workloads[:first]):
                tokens = [next(workload.tokens) for _ in range(requests + WARM_UP_REQUESTS)]
                for contestant in workload.contestants:
                    before = await _seconds_per_request(contestant.bare, tokens, 200)
                    seconds = await _seconds_per_request(contestant.app, tokens, workload.expect)
                    after = await _seconds_per_request(contestant.bare, tokens, 200)
                    if number >= 0:
                        sample = (max(before, after), seconds - (before + after) / 2)
                        samples.setdefault((workload.name, contestant.name), []).append(sample)
    return [
        Added(workload.name, contestant.name, *_summary(samples[workload.name, contestant.name]))
        for workload in workloads
        for contestant in workload.contestants
    ]


WARM_UP_ROUNDS = 3
WARM_UP_REQUESTS = 10


async def _seconds_per_request(app: ASGIApp, tokens: Sequence[bytes | None], expect: int) -> float:
    # Taken off one by one, so that a request's objects are freed before the next, as a server does.
    scopes = deque(http_scope(token) for token in tokens)
    sent: list[Message] = []

    async def remember(message: Message) -> None:
        sent.append(message)

    for _ in range(WARM_UP_REQUESTS):
        await app(scopes.popleft(), _receive, remember)
    statuses = {message["status"] for message in sent if message["type"] == "http.response.start"}
    if statuses != {expect}:
        raise SystemExit(f"{app!r} answered {statuses}, not {expect}: nothing was measured")
    count, take = len(scopes), scopes.popleft
    # This thread's own time: what another process takes meanwhile is none of it.
    start = time.thread_time()
    while scopes:
        await app(take(), _receive, _send)
    return (time.thread_time() - start) / count


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    pass


@asynccontextmanager
async def _started(app: ASGIApp) -> AsyncIterator[None]:
    """Runs ``app``'s lifespan, as a server does."""
    requests: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.ensure_future(
        _as_coroutine(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, requests.get, answers.put))
    )
    await requests.put({"type": "lifespan.startup"})
    await answers.get()
    yield
    await requests.put({"type": "lifespan.shutdown"})
    await lifespan


async def _as_coroutine(awaitable: Any) -> None:
    await awaitable


def _summary(samples: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    counted = quietest([(bare, (bare, added)) for bare, added in samples], of=10)
    low, middle, high = quantiles((added * 1e6 for _, added in counted), n=4)
    return middle, low, high, median(bare * 1e6 for bare, _ in counted)


def quietest(samples: Sequence[tuple[float, T]], *, of: int) -> list[T]:
    """What was measured beside the lowest numbers, the times that a bare app took: one in ``of``, two at least."""
    ordered = sorted(samples, key=itemgetter(0))
    return [measured for _, measured in ordered[: max(2, len(ordered) // of)]]


def need(*programs: str) -> None:
    """End the benchmark if one of ``programs`` is not installed."""
    for program in programs:
        if which(program) is None:
            raise SystemExit(f"{program} is not installed: nothing was measured")


def publish(name: str, report: str, figures: dict[str, Any], packages: Iterable[str]) -> None:
    """Prints ``report`` and keeps it as ``results/<name>.txt``, with ``figures`` beside it as JSON.

    Both give the date, the commit, the machine, and the versions of ``packages`` and of those that all benchmarks use.
    """
    about = ", ".join(
        (
            f"{time.strftime('%Y-%m-%d')}, commit {_commit()}",
            f"{_processor()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        )
    )
    versions = {
        package: installed_version(package) for package in (OURS, "starlette", "PyJWT", "cryptography", *packages)
    }
    report += f"\n{about}\n{', '.join(f'{package} {installed}' for package, installed in versions.items())}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.txt").write_text(report, encoding="utf-8")
    kept = json.dumps({"about": about, "versions": versions, **figures}, indent=1, ensure_ascii=False, default=asdict)
    (RESULTS / f"{name}.json").write_text(kept + "\n", encoding="utf-8")
    print(report)


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, cwd=RESULTS.parent, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([title, "", line(head), line(["-" * width for width in widths]), *map(line, rows), ""])
