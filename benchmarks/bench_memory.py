"""What stays in memory when a million different tokens come by, good ones and bad ones?"""

import asyncio
import gc
import time
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from resource import getpagesize
from statistics import median
from types import MappingProxyType
from typing import Any

from harness import publish, table
from starlette.types import Message, Receive, Scope, Send
from tokens import AUDIENCE, ISSUER, MANY_CLAIMS, SECRET, b64, forged, http_scope, issuer, subject

from jwt_middleware import JWTMiddleware
from jwt_middleware.verifying.memory import BYTES_PER_ENTRY
from jwt_middleware.verifying.verifier import CACHE_SIZE

BY = issuer("HS256", kid="key")
Figures = dict[str, float]
Ask = Callable[[bytes], Awaitable[tuple[int, str | None]]]


def asker() -> Ask:
    """Asks an app behind the middleware: the status that it answers, and the user that it saw."""
    seen: dict[str, str | None] = {}
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        user = scope["user"]
        seen["user"] = user.identity if user.identity == user.claims["sub"] else "two at once"
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = JWTMiddleware(
        app,
        key={"kty": "oct", "kid": "key", "k": b64(SECRET.encode()).decode()},
        issuer=ISSUER,
        audience=AUDIENCE,
    )

    async def ask(token: bytes) -> tuple[int, str | None]:
        sent.clear()
        seen["user"] = None
        await middleware(http_scope(token), receive, send)
        return sent[0]["status"], seen["user"]

    return ask


async def good(count: int, claims: Mapping[str, str] = MappingProxyType({})) -> Figures:
    """``count`` good tokens, each for another user; every thousandth comes again, and with a character changed."""
    # What is there by now is never looked at again, so that the difference does not drown in its noise.
    gc.collect()
    gc.freeze()
    ask = asker()
    await ask(BY.token(0))
    collection, memory, mistaken = _collection(), _memory(), 0
    for number in range(count):
        token, user = BY.token(number, **claims), subject(number)
        mistaken += await ask(token) != (200, user)
        if number % 1000 == 0:
            mistaken += await ask(token) != (200, user)
            mistaken += await ask(forged(token)) != (401, None)
    # Those that came last are remembered, if any are.
    for number in range(max(0, count - 1000), count):
        mistaken += await ask(BY.token(number, **claims)) != (200, subject(number))
    return {
        "answered as another": mistaken,
        "memory, MB more": (_memory() - memory) / 1e6,
        "full garbage collection, ms longer": (_collection() - collection) * 1e3,
    }


async def bad(count: int) -> Figures:
    """``count`` tokens, each bad in one of five ways, and no two of them alike."""
    ask = asker()
    kinds: list[Callable[[int], bytes]] = [
        lambda number: forged(BY.token(number)),
        lambda number: forged(issuer("HS256", kid="key", typ=f"JWT{number}").token(number)),
        lambda number: issuer("HS256", kid=f"key-{number}").token(number),
        lambda number: BY.token(number, iss=f"https://login-{number}.example"),
        lambda number: BY.token(number, exp=number),
    ]
    memory, accepted = 0.0, 0
    for number in range(count):
        if number == WARM_UP:
            gc.collect()
            memory = _memory()
        accepted += await ask(kinds[number % len(kinds)](number)) != (401, None)
    gc.collect()
    return {"accepted": accepted, "memory, MB more": (_memory() - memory) / 1e6}


WARM_UP = 1000
BOUND = CACHE_SIZE * BYTES_PER_ENTRY / 1e6


def _run(measure: Callable[..., Coroutine[Any, Any, Figures]], *arguments: Any) -> Figures:
    return asyncio.run(measure(*arguments))


def _memory() -> int:
    """Bytes of this process that are in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * getpagesize()
    except FileNotFoundError:
        raise SystemExit("this benchmark reads /proc, as Linux has it") from None


def _collection() -> float:
    """Seconds that a full garbage collection takes."""
    taken = []
    for _ in range(9):
        start = time.thread_time()
        gc.collect()
        taken.append(time.thread_time() - start)
    return median(taken)


def _report(title: str, measured: Figures, limits: Figures) -> str:
    rows = [
        [what, f"{value:.3g}", f"{limits[what]:.3g}", "reached" if value <= limits[what] else "missed"]
        for what, value in measured.items()
    ]
    return table(title, ["", "measured", "at most", ""], rows)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of each kind")
    options = parser.parse_args()
    few, many = options.tokens // 10, options.tokens
    good_limits: Figures = {"answered as another": 0, "memory, MB more": BOUND, "full garbage collection, ms longer": 5}
    bad_limits: Figures = {"accepted": 0, "memory, MB more": 5}
    # Each in a new process, so that none uses memory that another one has given back.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = [
            (f"{many:,} bad tokens", bad_limits, pool.submit(_run, bad, many)),
            (f"{many:,} good tokens", good_limits, pool.submit(_run, good, many)),
            (f"{few:,} good tokens of 6 KB", good_limits, pool.submit(_run, good, few, MANY_CLAIMS)),
        ]
    measured = {title: future.result() for title, _, future in runs}
    publish("memory", "\n".join(_report(title, measured[title], limits) for title, limits, _ in runs), measured, ())


if __name__ == "__main__":
    main()
