"""Remote keys on event loops that end early: one loop per job, a frozen process, a fork, threads."""

import asyncio
import json
from typing import Any

import anyio
import pytest

from jwt_middleware.errors import AlgorithmNotAllowed, KeysUnavailable, UnknownKey
from jwt_middleware.keys.key_set import Key, KeySet, load_keys
from jwt_middleware.keys.remote import RemoteKeys
from jwt_middleware.keys.source import ProviderKeys, StaticKeys
from jwt_middleware.testing.identity_provider import signing_key

from ..support.clock import Clock
from .test_remote import ADDRESS, Answer

LEAKED, GOOD = signing_key(kid="leaked"), signing_key(kid="good")
HOUR = 3600


class Provider:
    """Answers after ``delay`` seconds of real time, which a job that does nothing never lives to see."""

    def __init__(self) -> None:
        self.keys = [LEAKED, GOOD]
        self.delay = 0.02
        self.status = 200
        self.asked = 0
        self.answered = 0

    async def __call__(self, url: str) -> Answer:
        self.asked += 1
        await anyio.sleep(self.delay)
        self.answered += 1
        return Answer(self.status, json.dumps({"keys": [key.jwk for key in self.keys]}).encode())


class Jobs:
    """Jobs with an event loop of their own, which end as soon as they know their keys."""

    def __init__(self, backend: str, **options: Any) -> None:
        self.backend = backend
        self.provider = Provider()
        self.clock = Clock(1000)
        self.keys = RemoteKeys(ADDRESS, fetch=self.provider, clock=self.clock, **options)

    def run(self, kid: str) -> bool:
        """Whether a token with this ``kid`` is accepted, as the verifier asks."""

        async def job() -> bool:
            try:
                return bool(self._find(kid))
            except (UnknownKey, AlgorithmNotAllowed):
                pass
            try:
                return bool((await self.keys.refreshed(kid, "ES256")).find(kid, "ES256"))
            except (UnknownKey, AlgorithmNotAllowed):
                return False

        return anyio.run(job, backend=self.backend)

    def run_for(self, seconds: float, kid: str) -> bool | None:
        """As ``run``, or None where the job is cancelled after ``seconds``."""

        async def job() -> bool | None:
            with anyio.move_on_after(seconds):
                _ = self.keys.current
                return (await self.keys.refreshed(kid, "ES256")).knows(kid)
            return None

        return anyio.run(job, backend=self.backend)

    def _find(self, kid: str) -> list[Key]:
        return list(self.keys.current.find(kid, "ES256"))


def test_a_removed_key_dies_within_an_hour_where_every_job_is_shorter_than_a_fetch(backend: str) -> None:
    jobs = Jobs(backend)
    assert jobs.run("leaked")
    jobs.provider.keys = [GOOD]
    removed = jobs.clock.now
    while jobs.run("leaked"):
        assert jobs.clock.now - removed <= HOUR
        jobs.clock.now += 300
    assert jobs.run("good")


def test_keys_over_an_hour_old_are_waited_for_once_and_then_used_while_the_provider_is_down(backend: str) -> None:
    jobs = Jobs(backend)
    assert jobs.run("good")
    fetched = jobs.clock.now
    jobs.clock.now += 2 * HOUR
    jobs.provider.status = 500
    assert jobs.run("good")
    assert jobs.provider.answered == 2
    assert (jobs.keys.health.error or "").endswith("answered 500")
    # The next job does not wait again.
    jobs.clock.now += 300
    assert jobs.run("good")
    assert jobs.provider.answered == 2
    jobs.clock.now = fetched + 24 * HOUR
    with pytest.raises(KeysUnavailable):
        jobs.run("good")


def test_a_job_that_is_cancelled_while_it_waits_uses_no_old_keys(backend: str) -> None:
    jobs = Jobs(backend)
    assert jobs.run("leaked")
    jobs.provider.keys = [GOOD]
    jobs.clock.now += 2 * HOUR
    jobs.provider.delay = 60
    for _ in range(3):
        # However often: each continues what the one before could not end.
        jobs.clock.now += 1
        assert jobs.run_for(0.02, "leaked") is None
    jobs.provider.delay = 0
    assert not jobs.run("leaked")


def test_a_provider_that_hangs_is_waited_for_once(backend: str) -> None:
    jobs = Jobs(backend, timeout=0.3)
    jobs.provider.delay = 0
    assert jobs.run("good")
    jobs.clock.now += 2 * HOUR
    jobs.provider.delay = 60
    assert jobs.run("good")
    assert jobs.keys.health.keys == 2
    asked = jobs.provider.asked
    jobs.clock.now += 10
    assert jobs.run("good")
    assert jobs.provider.asked == asked


def test_an_unknown_kid_is_unavailable_where_the_attempt_for_old_keys_fails(backend: str) -> None:
    jobs = Jobs(backend)
    assert jobs.run("good")
    jobs.clock.now += 2 * HOUR
    jobs.provider.status = 500
    with pytest.raises(KeysUnavailable):
        jobs.run("unknown")
    assert jobs.run("good")


def test_keys_that_wait_for_a_refresh_are_good_keys_to_a_probe(backend: str) -> None:
    jobs = Jobs(backend)
    assert jobs.run("good")
    jobs.clock.now += 2 * HOUR

    async def look() -> int:
        assert not jobs.keys.current.keys
        return jobs.keys.health.keys

    assert anyio.run(look, backend=backend) == 2


def test_an_attempt_that_asked_nothing_starts_no_cooldown() -> None:
    jobs = Jobs("asyncio", cooldown=30)

    async def begin() -> None:
        _ = jobs.keys.current

    # The loop ends before the attempt has taken its first step.
    asyncio.run(begin())
    assert jobs.provider.asked == 0
    assert jobs.run("good")
    assert jobs.provider.answered == 1


def test_static_keys_beside_withheld_ones_wait_for_nothing(backend: str) -> None:
    jobs = Jobs(backend)
    (static,) = load_keys(signing_key(kid="static").jwk)
    both = ProviderKeys(jobs.keys, StaticKeys([static]), None)

    async def find(kid: str) -> KeySet:
        keys = both.current
        return keys if keys.knows(kid) else await both.refreshed(kid, "ES256")

    first = anyio.run(find, "good", backend=backend)
    assert first.knows("good")
    jobs.clock.now += 2 * HOUR
    assert anyio.run(find, "static", backend=backend).knows("static")
    assert jobs.provider.answered == 1
    # What the keys have verified stays verified.
    assert anyio.run(find, "good", backend=backend) is first
    assert jobs.provider.answered == 2
