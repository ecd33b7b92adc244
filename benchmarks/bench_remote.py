"""What becomes of good requests when the identity provider has a bad day? The same faults, for us and for others."""

import asyncio
import time
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from math import inf
from typing import Any

import anyio
import jwt
from harness import installed_version, publish, table

from jwt_middleware import Provider, RemoteKeys, Verifier
from jwt_middleware.testing.identity_provider import IdentityProvider, signing_key

AUDIENCE = "orders"
OURS = "asgi-jwt-middleware"
PEER = "pyjwt-key-fetcher"

Verify = Callable[[str], Awaitable[object]]


@dataclass(frozen=True)
class Contestant:
    """How a package verifies a token of a provider; ``short`` asks for short lives of keys, where that can be said."""

    name: str
    package: str
    build: Callable[[IdentityProvider, bool], Verify]


def ours(provider: IdentityProvider, short: bool) -> Verify:
    address = provider.jwks_uri
    keys = RemoteKeys(address, cooldown=1, refresh_after=1) if short else RemoteKeys(address)
    return Verifier(Provider(issuer=provider.issuer, audience=AUDIENCE, jwks=keys)).verify


def py_jwk_client(provider: IdentityProvider, short: bool) -> Verify:
    # https://pyjwt.readthedocs.io: as its documentation says, and in a worker thread, since it blocks.
    client = jwt.PyJWKClient(provider.jwks_uri, timeout=5, lifespan=1 if short else 300)

    def verify(token: str) -> object:
        key = client.get_signing_key_from_jwt(token)
        return jwt.decode(token, key, ["ES256"], audience=AUDIENCE, issuer=provider.issuer)

    async def in_thread(token: str) -> object:
        return await anyio.to_thread.run_sync(verify, token, abandon_on_cancel=True)

    return in_thread


def pyjwt_key_fetcher(provider: IdentityProvider, short: bool) -> Verify:
    # https://github.com/ioxiocom/pyjwt-key-fetcher
    fetcher = import_module("pyjwt_key_fetcher").AsyncKeyFetcher(
        valid_issuers=[provider.issuer],
        static_issuer_config={provider.issuer: {"jwks_uri": provider.jwks_uri}},
        cache_ttl=1 if short else 3600,
    )

    async def verify(token: str) -> object:
        key = await fetcher.get_key(token)
        return jwt.decode(token, key=key.key, algorithms=["ES256"], audience=AUDIENCE, issuer=provider.issuer)

    return verify


CONTESTANTS = [
    Contestant(OURS, OURS, ours),
    Contestant("PyJWKClient", "PyJWT", py_jwk_client),
    Contestant(PEER, PEER, pyjwt_key_fetcher),
]


@dataclass
class Outcome:
    """What was seen. Durations are seconds."""

    good: int = 0
    refused: int = 0
    """Good tokens that were refused."""
    durations: list[float] = field(default_factory=list)
    stall: float = 0
    """The longest that the event loop did nothing else."""
    fetches: int = 0
    tried: int = 0
    note: str = ""

    async def ask(self, verify: Verify, token: str) -> bool:
        """Whether a good ``token`` was taken for one."""
        start = time.perf_counter()
        good = await accepted(verify, token)
        self.durations.append(time.perf_counter() - start)
        self.good += good
        self.refused += not good
        return good

    async def begin(self) -> None:
        """Everything is prepared: what comes now is measured."""
        await asyncio.sleep(0.01)
        self.stall = 0

    async def watch(self) -> None:
        """Measures stalls, until it is cancelled."""
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            self.stall = max(self.stall, time.perf_counter() - start - 0.001)

    @property
    def p99(self) -> float:
        return sorted(self.durations)[int(len(self.durations) * 0.99)] if self.durations else inf


async def accepted(verify: Verify, token: str) -> bool:
    """Whether ``token``, good or bad, was taken for a good one."""
    with anyio.move_on_after(PATIENCE):
        try:
            await verify(token)
        except Exception:  # noqa: BLE001 - each package refuses in its own way
            return False
        return True
    return False


async def steady(outcome: Outcome, verify: Verify, token: str, seconds: float, rate: float = 100) -> None:
    """Good requests at ``rate`` a second, none of which waits for the one before."""
    async with anyio.create_task_group() as group:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            group.start_soon(outcome.ask, verify, token)
            await asyncio.sleep(1 / rate)


async def nothing(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    verify, token = build(False), provider.mint(aud=AUDIENCE)
    await verify(token)
    await outcome.begin()
    await steady(outcome, verify, token, 5)


async def first_requests(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    provider.delay = 0.2
    verify, token = build(False), provider.mint(aud=AUDIENCE)
    await outcome.begin()
    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(outcome.ask, verify, token)


async def hanging(
    provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome, fault: str = "stall"
) -> None:
    verify, token = build(True), provider.mint(aud=AUDIENCE)
    await verify(token)
    getattr(provider, fault)()
    stranger = signing_key()
    unknown = [provider.mint(stranger, header={"kid": f"unknown {number}"}, aud=AUDIENCE) for number in range(10)]
    await asyncio.sleep(1.1)
    await outcome.begin()
    async with anyio.create_task_group() as group:
        for each in unknown:
            group.start_soon(accepted, verify, each)
        await steady(outcome, verify, token, 5)


async def dripping(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    await hanging(provider, build, outcome, "drip")


async def failing(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    verify, token = build(True), provider.mint(aud=AUDIENCE)
    await verify(token)
    provider.fail()
    await asyncio.sleep(1.1)
    await outcome.begin()
    await steady(outcome, verify, token, 5)


async def bomb(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    verify, token = build(True), provider.mint(aud=AUDIENCE)
    await verify(token)
    provider.gzip_bomb()
    await asyncio.sleep(1.1)
    await outcome.begin()
    await steady(outcome, verify, token, 5)


async def flood(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    verify, token = build(True), provider.mint(aud=AUDIENCE)
    await verify(token)
    provider.flood()
    await asyncio.sleep(1.1)
    await outcome.begin()
    await steady(outcome, verify, token, 5)


async def cold(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    provider.refuse()
    verify, token = build(False), provider.mint(aud=AUDIENCE)
    for _ in range(20):
        await accepted(verify, token)
        await asyncio.sleep(0.05)
    provider.recover()
    back = time.perf_counter()
    while time.perf_counter() < back + 10:
        if await outcome.ask(verify, token):
            break
        await asyncio.sleep(0.05)
    outcome.note = f"good after {time.perf_counter() - back:.1f} s" if outcome.good else "not good within 10 s"


async def unknown_kids(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    verify, token = build(False), provider.mint(aud=AUDIENCE)
    await verify(token)
    stranger = signing_key()
    tokens = [provider.mint(stranger, header={"kid": f"unknown {number}"}, aud=AUDIENCE) for number in range(10_000)]

    async def attack() -> None:
        end = time.perf_counter() + SECONDS_OF_ATTACK
        for each in tokens:
            await accepted(verify, each)
            await asyncio.sleep(SECONDS_OF_ATTACK / len(tokens) / 2)
            outcome.tried += 1
            if time.perf_counter() > end:
                break
        outcome.note = f"{outcome.tried} unknown kids"

    await outcome.begin()
    async with anyio.create_task_group() as group:
        group.start_soon(attack)
        await steady(outcome, verify, token, SECONDS_OF_ATTACK)


async def rotation(provider: IdentityProvider, build: Callable[[bool], Verify], outcome: Outcome) -> None:
    verify, old = build(True), provider.mint(aud=AUDIENCE)
    await verify(old)
    provider.rotate()
    new = provider.mint(aud=AUDIENCE)
    changed = time.perf_counter()
    added = removed = refused = inf
    await outcome.begin()
    while (now := time.perf_counter()) < changed + 8:
        await outcome.ask(verify, new)
        if outcome.good and added == inf:
            added = now - changed
            provider.keys.pop()
            removed = now
        if removed < inf and refused == inf and not await accepted(verify, old):
            refused = now - removed
        await asyncio.sleep(0.05)
    outcome.note = f"new key good after {added:.1f} s, removed one refused after {refused:.1f} s"


FAULTS: dict[str, Callable[[IdentityProvider, Callable[[bool], Verify], Outcome], Awaitable[None]]] = {
    "none": nothing,
    "200 first requests at once": first_requests,
    "hangs; 10 unknown kids": hanging,
    "a byte a second; 10 unknown kids": dripping,
    "500": failing,
    "a gzip bomb of 100 MB": bomb,
    "100 MB": flood,
    "cold start, refused, then back": cold,
    "10,000 unknown kids": unknown_kids,
    "a key added, then one removed": rotation,
}
SECONDS_OF_ATTACK = 60
PATIENCE = 10
"""Seconds after which a request counts as refused."""


async def run(contestant: Contestant, fault: str) -> Outcome:
    outcome = Outcome()
    with IdentityProvider() as provider:
        build = contestant.build
        watcher = asyncio.ensure_future(outcome.watch())
        try:
            async with asyncio.timeout(150):
                await FAULTS[fault](provider, lambda short: build(provider, short), outcome)
        except Exception as error:  # noqa: BLE001 - what a package lets through is a result too
            outcome.note = f"{type(error).__name__}"
        watcher.cancel()
        outcome.fetches = provider.fetches
    return outcome


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=FAULTS, action="append", help="only these; default: all")
    arguments = parser.parse_args()
    contestants = [contestant for contestant in CONTESTANTS if installed_version(contestant.package)]
    rows = []
    figures = []
    for fault in arguments.fault or FAULTS:
        for contestant in contestants:
            # An event loop each: nothing of one is left for the next.
            outcome = asyncio.run(run(contestant, fault))
            shown = [f"{outcome.fetches}", f"{outcome.good}", f"{outcome.refused}"]
            times = [f"{outcome.p99 * 1000:.1f}", f"{outcome.stall * 1000:.0f}"]
            rows.append([fault, contestant.name, *shown, *times, outcome.note])
            figures.append(
                {"fault": fault, "contestant": contestant.name, "p99": outcome.p99, **_without_durations(outcome)}
            )
            print("  ".join(rows[-1]), flush=True)
    head = ["fault", "", "fetches", "good", "good refused", "p99, ms", "longest stall, ms", ""]
    report = table("Good requests while the identity provider is not well", head, rows)
    missing = [contestant.name for contestant in CONTESTANTS if contestant not in contestants]
    if missing:
        report += f"\nNot installed: {', '.join(missing)}\n"
    publish("remote", report, {"outcomes": figures}, [PEER])


def _without_durations(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in vars(outcome).items() if name != "durations"}


if __name__ == "__main__":
    main()
