"""Every way to fetch keys in every life that event loops lead, over real HTTP."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import anyio
import httpx2
import pytest
from starlette.testclient import TestClient

from jwt_middleware import JWTMiddleware, Refusal, RemoteKeys, Verifier
from jwt_middleware.provider import Provider
from jwt_middleware.testing.identity_provider import IdentityProvider

from ..support import Clock, bearer, echo

HOUR = 3600


class Service:
    """A service that trusts ``identity_provider`` and fetches its keys in one of three ways."""

    def __init__(self, way: str, identity_provider: IdentityProvider, path: Path) -> None:
        self.clock = Clock(1000)
        self.identity_provider = identity_provider
        self.path = path if way == "a file" else None
        self.publish()
        options: dict[str, Any] = {"clock": self.clock}
        if way == "fetch=client.get":
            self.client = httpx2.AsyncClient()
            options["fetch"] = self.client.get
        keys = RemoteKeys(identity_provider.jwks_uri if self.path is None else self.path, **options)
        self.provider = Provider(jwks=keys, audience="orders")
        self.verifier = Verifier(self.provider)
        self.app = JWTMiddleware(echo, providers=self.provider)

    def publish(self) -> None:
        """Write what the identity provider publishes into the file, where there is one."""
        if self.path is not None:
            text = httpx2.get(self.identity_provider.jwks_uri).text
            self.path.with_suffix(".new").write_text(text)
            self.path.with_suffix(".new").replace(self.path)

    def rotate(self) -> tuple[str, str]:
        """A token by the key that is gone now, and one by the key that has come."""
        old = self.identity_provider.mint(aud="orders")
        self.identity_provider.rotate(keep=0)
        self.publish()
        return old, self.identity_provider.mint(aud="orders")

    async def verify(self, token: str) -> str:
        """``good``, or the code of the refusal."""
        try:
            await self.verifier.verify(token)
        except Refusal as refusal:
            return refusal.code
        return "good"


@pytest.fixture(params=["httpx2", "fetch=client.get", "a file"])
def service(request: pytest.FixtureRequest, identity_provider: IdentityProvider, tmp_path: Path) -> Iterator[Service]:
    service = Service(request.param, identity_provider, tmp_path / "jwks.json")
    yield service
    # The loop that its connections belonged to is gone, and nobody closes the client of a module.
    if hasattr(service, "client"):
        service.client = None  # type: ignore[assignment]  # no test uses it again


needs_client_warnings = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
pytestmark = needs_client_warnings


def test_one_loop_per_job(service: Service, backend: str) -> None:
    run = partial(anyio.run, backend=backend)
    assert run(service.verify, service.identity_provider.mint(aud="orders")) == "good"
    for _ in range(4):
        old, new = service.rotate()
        service.clock.now += 60
        assert run(service.verify, new) == "good"
        assert run(service.verify, old) == "unknown_key"
        assert service.provider.health.error is None


def test_a_test_client_without_with(service: Service, backend: str) -> None:
    client = TestClient(service.app, backend=backend)  # type: ignore[arg-type]  # a str for a Literal
    for _ in range(4):
        old, new = service.rotate()
        service.clock.now += 60
        assert client.get("/", headers=bearer(new)).status_code == 200
        assert client.get("/", headers=bearer(old)).status_code == 401


def test_a_process_that_was_frozen_for_hours_refuses_a_key_that_was_removed_meanwhile(
    service: Service, backend: str
) -> None:
    async def life() -> list[str]:
        found = [await service.verify(service.identity_provider.mint(aud="orders"))]
        old, new = await anyio.to_thread.run_sync(service.rotate)
        service.clock.now += 3 * HOUR
        return [*found, await service.verify(old), await service.verify(new)]

    assert anyio.run(life, backend=backend) == ["good", "unknown_key", "good"]


def test_threads_with_loops_of_their_own(service: Service, backend: str) -> None:
    found: list[str] = []
    together = Barrier(4)
    tokens = [service.identity_provider.mint(aud="orders")]

    async def life() -> None:
        for turn in range(3):
            await anyio.to_thread.run_sync(together.wait, 20)
            found.append(await service.verify(tokens[turn]))
            if await anyio.to_thread.run_sync(together.wait, 20) == 0:
                tokens.append(service.rotate()[1])
                service.clock.now += 60
            await anyio.to_thread.run_sync(together.wait, 20)

    threads = [Thread(target=anyio.run, args=(life,), kwargs={"backend": backend}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == ["good"] * 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork(service: Service, backend: str) -> None:
    run = partial(anyio.run, backend=backend)
    assert run(service.verify, service.identity_provider.mint(aud="orders")) == "good"
    old, new = service.rotate()
    service.clock.now += 60
    assert [in_child(lambda: [run(service.verify, new), run(service.verify, old)]) for _ in range(2)] == [True, True]
    assert run(service.verify, new) == "good"


def in_child(life: Callable[[], list[str]]) -> bool:
    """Whether in a forked process ``life()`` finds the new token good and the old one unknown."""
    pid = os.fork()
    if pid == 0:
        # Should it hang, it ends.
        signal.alarm(30)
        found: list[str] = []
        try:
            found = life()
        finally:
            os._exit(0 if found == ["good", "unknown_key"] else 1)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
@pytest.mark.parametrize("way", ["httpx2", "a file"])
def test_a_hundred_jobs_leave_no_connection_file_or_task_behind(
    way: str, identity_provider: IdentityProvider, tmp_path: Path, backend: str
) -> None:
    service = Service(way, identity_provider, tmp_path / "jwks.json")
    token = identity_provider.mint(aud="orders")
    assert anyio.run(service.verify, token, backend=backend) == "good"
    gc.collect()
    before = descriptors()
    for number in range(100):
        service.clock.now += HOUR / 3
        # Every second one ends while its refresh is under way.
        identity_provider.delay = 0.005 if number % 2 else 0
        assert anyio.run(service.verify, token, backend=backend) == "good"
    identity_provider.close()
    gc.collect()
    assert descriptors() <= before + 2


def descriptors() -> int:
    """Descriptors that this process holds."""
    return len(os.listdir("/proc/self/fd"))
