"""An identity provider's bad day is not ours: rotations, outages and attacks, through the middleware and real HTTP."""

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from threading import Thread
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from jwt_middleware import ConfigurationError, JWTMiddleware, Provider, RemoteKeys, Verifier
from jwt_middleware.testing.identity_provider import IdentityProvider, signing_key

from ..support import bare_client, bearer, echo


def guarded(provider: IdentityProvider, app: Any = echo, **options: Any) -> JWTMiddleware:
    """The echo app behind a middleware that trusts ``provider``; ``options`` are those of ``RemoteKeys``."""
    jwks = RemoteKeys(provider.jwks_uri, **options)
    return JWTMiddleware(app, providers=Provider(issuer=provider.issuer, audience="orders", jwks=jwks))


@asynccontextmanager
async def visitor(app: Any) -> AsyncIterator[Callable[[str], Awaitable[httpx2.Response]]]:
    """What asks ``app`` with a token, on the running event loop."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app.example") as client:

        async def ask(token: str) -> httpx2.Response:
            return await client.get("/", headers=bearer(token))

        yield ask


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """What a server does around requests."""
    to_app, from_app = anyio.create_memory_object_stream[Any](5), anyio.create_memory_object_stream[Any](5)
    async with to_app[0], to_app[1], from_app[0], from_app[1], anyio.create_task_group() as group:
        group.start_soon(app, {"type": "lifespan"}, to_app[1].receive, from_app[0].send)
        await to_app[0].send({"type": "lifespan.startup"})
        assert (await from_app[1].receive())["type"] == "lifespan.startup.complete"
        yield
        await to_app[0].send({"type": "lifespan.shutdown"})
        assert (await from_app[1].receive())["type"] == "lifespan.shutdown.complete"


def code(response: httpx2.Response) -> str:
    found: str = response.json()["code"]
    return found


@pytest.mark.anyio
async def test_an_issuer_and_an_audience_are_all_that_is_needed(identity_provider: IdentityProvider) -> None:
    app = JWTMiddleware(echo, issuer=identity_provider.issuer, audience="orders")
    async with lifespan(app), visitor(app) as ask:
        # The keys were there before the first request.
        assert (identity_provider.discoveries, identity_provider.fetches) == (1, 1)
        response = await ask(identity_provider.mint(aud="orders"))
        assert response.json()["user"] == "ada"
        assert code(await ask(identity_provider.mint(aud="others"))) == "wrong_audience"
        assert code(await ask(identity_provider.mint(signing_key(), aud="orders"))) == "unknown_key"
        assert code(await ask(identity_provider.mint(aud="orders", iss="https://evil.example"))) == "wrong_issuer"
    assert (identity_provider.discoveries, identity_provider.fetches) == (1, 1)


@pytest.mark.anyio
async def test_two_hundred_concurrent_first_requests_are_good_after_one_fetch(
    identity_provider: IdentityProvider,
) -> None:
    identity_provider.delay = 0.1
    app = guarded(identity_provider)
    token = identity_provider.mint(aud="orders")
    answers: list[int] = []

    async with visitor(app) as ask, anyio.create_task_group() as group:

        async def request(patience: float) -> None:
            with anyio.move_on_after(patience):
                answers.append((await ask(token)).status_code)

        for number in range(250):
            # Every fifth goes away early.
            group.start_soon(request, 0.05 if number % 5 == 0 else 30)
    assert answers.count(200) >= 200
    assert set(answers) == {200}
    assert identity_provider.fetches == 1


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["stall", "drip"])
async def test_known_kids_wait_for_nothing_while_the_provider_hangs(
    identity_provider: IdentityProvider, fault: str
) -> None:
    app = guarded(identity_provider, cooldown=0.1, refresh_after=0.2, timeout=1)
    good, unknown = identity_provider.mint(aud="orders"), identity_provider.mint(signing_key(), aud="orders")
    async with lifespan(app), visitor(app) as ask:
        getattr(identity_provider, fault)()
        await anyio.sleep(0.2)
        longest, stalls = 0.0, 0.0
        async with anyio.create_task_group() as group:

            async def ask_in_vain() -> None:
                start = time.monotonic()
                assert code(await ask(unknown)) == "keys_unavailable"
                assert time.monotonic() - start < 3

            for _ in range(20):
                group.start_soon(ask_in_vain)
            end = time.monotonic() + 1.5
            while (start := time.monotonic()) < end:
                assert (await ask(good)).status_code == 200
                longest = max(longest, time.monotonic() - start)
                await anyio.sleep(0.001)
                stalls = max(stalls, time.monotonic() - start - 0.001)
        # Half of what a fetch takes: generous, on a machine with much else to do, and no room for waiting.
        assert longest < 0.5
        assert stalls < 0.5
        assert identity_provider.fetches > 1
        identity_provider.recover()


FAULTS: dict[str, Callable[[IdentityProvider], None]] = {
    "refused": lambda provider: provider.refuse(),
    "timeout": lambda provider: provider.stall(),
    "500": lambda provider: provider.fail(),
    "HTML": lambda provider: provider.answer(b"<!doctype html><title>Sign in</title>"),
    "truncated": lambda provider: provider.answer(b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "'),
    "no keys": lambda provider: provider.answer(b'{"keys": []}'),
    "100 MB": lambda provider: provider.flood(),
    "a gzip bomb": lambda provider: provider.gzip_bomb(),
    "10,000 keys": lambda provider: provider.jwks.update(keys=[provider.signing_key.jwk] * 10_000),
    "another host": lambda provider: provider.redirect("https://evil.example/jwks"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("fault", FAULTS)
async def test_known_kids_go_on_through_every_fault_and_the_keys_recover_by_themselves(
    identity_provider: IdentityProvider, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = guarded(identity_provider, cooldown=0.05, refresh_after=0.1, timeout=0.5)
    old = identity_provider.mint(aud="orders")
    async with lifespan(app), visitor(app) as ask:
        assert (await ask(old)).status_code == 200
        FAULTS[fault](identity_provider)
        for _ in range(10):
            await anyio.sleep(0.05)
            assert (await ask(old)).status_code == 200
        with anyio.fail_after(5):
            while app.verifier.health()["jwt"].error is None:
                await anyio.sleep(0.02)
                assert (await ask(old)).status_code == 200
        identity_provider.jwks.clear()
        identity_provider.recover()
        identity_provider.rotate()
        await becomes(ask, identity_provider.mint(aud="orders"), 200)
        assert app.verifier.health()["jwt"].error is None
    assert sum("could not be fetched" in record.getMessage() for record in caplog.records) == 1


async def becomes(ask: Callable[[str], Awaitable[httpx2.Response]], token: str, status: int) -> None:
    with anyio.fail_after(10):
        while True:
            if (await ask(token)).status_code == status:
                return
            await anyio.sleep(0.02)


@pytest.mark.anyio
async def test_keys_that_could_not_be_fetched_for_too_long_are_no_longer_good(
    identity_provider: IdentityProvider,
) -> None:
    app = guarded(identity_provider, cooldown=0.1, keys_max_stale=0.5, refresh_after=0.1)
    token = identity_provider.mint(aud="orders")
    async with visitor(app) as ask:
        assert (await ask(token)).status_code == 200
        identity_provider.fail()
        await becomes(ask, token, 503)
        # Remembered tokens too.
        assert code(await ask(token)) == "keys_unavailable"
        identity_provider.recover()
        await becomes(ask, token, 200)


@pytest.mark.anyio
@pytest.mark.parametrize("with_lifespan", [True, False])
async def test_a_cold_start_with_the_provider_down_answers_503_until_it_is_back(
    identity_provider: IdentityProvider, with_lifespan: bool
) -> None:
    identity_provider.refuse()
    app = JWTMiddleware(echo, issuer=identity_provider.issuer, audience="orders")
    token = identity_provider.mint(aud="orders")
    async with visitor(app) as ask, lifespan(app) if with_lifespan else anyio.create_task_group():
        for _ in range(20):
            response = await ask(token)
            assert (response.status_code, code(response)) == (503, "keys_unavailable")
            assert response.headers["retry-after"] == "1"
            assert "www-authenticate" not in response.headers
        identity_provider.recover()
        back = time.monotonic()
        await becomes(ask, token, 200)
        assert time.monotonic() - back < 2
    assert identity_provider.discoveries == 1


@pytest.mark.anyio
async def test_ten_thousand_unknown_kids_make_no_storm(identity_provider: IdentityProvider) -> None:
    app = guarded(identity_provider, cooldown=30)
    good = identity_provider.mint(aud="orders")
    async with lifespan(app), visitor(app) as ask:
        stranger = signing_key()
        for number in range(2000):
            token = identity_provider.mint(stranger, header={"kid": f"unknown {number}"}, aud="orders")
            with pytest.raises(Exception, match="unknown_key"):
                await app.verifier.verify(token)
        assert (await ask(good)).status_code == 200
    assert identity_provider.fetches == 1


@pytest.mark.anyio
async def test_a_rotation_refuses_no_good_token(identity_provider: IdentityProvider) -> None:
    app = guarded(identity_provider, cooldown=0.2, refresh_after=60)
    first = identity_provider.mint(aud="orders")
    async with lifespan(app), visitor(app) as ask:
        assert (await ask(first)).status_code == 200
        identity_provider.rotate()
        second = identity_provider.mint(aud="orders")
        await anyio.sleep(0.2)
        # The first request with the new key fetches it.
        assert (await ask(second)).status_code == 200
        assert (await ask(first)).status_code == 200
        identity_provider.keys.pop()
        # Its key is gone: refused after the next good fetch, though it is remembered.
        assert (await ask(first)).status_code == 200
        await anyio.sleep(0.2)
        assert code(await ask(identity_provider.mint(signing_key(), aud="orders"))) == "unknown_key"
        assert code(await ask(first)) == "unknown_key"
        assert (await ask(second)).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("kid", ["the same", None], ids=["under the same kid", "without a kid"])
async def test_another_key_in_the_place_of_one_is_accepted_within_a_cooldown(
    identity_provider: IdentityProvider, kid: str | None
) -> None:
    identity_provider.rotate(keep=0, kid=kid)
    app = guarded(identity_provider, cooldown=0.3, refresh_after=60)
    old = identity_provider.mint(aud="orders")
    async with lifespan(app), visitor(app) as ask:
        assert (await ask(old)).status_code == 200
        identity_provider.rotate(keep=0, kid=kid)
        new = identity_provider.mint(aud="orders")
        start = time.monotonic()
        await becomes(ask, new, 200)
        assert time.monotonic() - start < 3
        assert code(await ask(old)) == "bad_signature"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "lie",
    [
        pytest.param({"issuer": "https://evil.example"}, id="another issuer"),
        pytest.param({"jwks_uri": "http://login.example/jwks"}, id="plain http"),
        pytest.param({"jwks_uri": "file:///etc/passwd"}, id="a file"),
    ],
)
async def test_metadata_that_lies_changes_no_keys(identity_provider: IdentityProvider, lie: dict[str, str]) -> None:
    jwks = RemoteKeys(issuer=identity_provider.issuer, cooldown=0.05, refresh_after=0.1)
    app = JWTMiddleware(echo, issuer=identity_provider.issuer, audience="orders", jwks=jwks)
    token = identity_provider.mint(aud="orders")
    async with lifespan(app), visitor(app) as ask:
        assert (await ask(token)).status_code == 200
        identity_provider.metadata.update(lie)
        with anyio.fail_after(5):
            while app.verifier.health()["jwt"].error is None:
                assert (await ask(token)).status_code == 200
                await anyio.sleep(0.02)
        fetches = identity_provider.fetches
        await anyio.sleep(0.3)
        assert identity_provider.fetches == fetches
        assert (await ask(token)).status_code == 200


@pytest.mark.anyio
async def test_an_issuer_that_differs_by_a_slash_is_refused_and_the_log_says_so_once(
    identity_provider: IdentityProvider, caplog: pytest.LogCaptureFixture
) -> None:
    app = guarded(identity_provider)
    async with visitor(app) as ask:
        for _ in range(3):
            token = identity_provider.mint(aud="orders", iss=f"{identity_provider.issuer}/")
            assert code(await ask(token)) == "wrong_issuer"
    assert sum("trailing slash" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.anyio
async def test_a_token_of_one_provider_waits_for_no_other(identity_provider: IdentityProvider) -> None:
    identity_provider.stall()
    own = signing_key(kid="own")
    app = JWTMiddleware(
        echo,
        providers=[
            Provider(name="remote", jwks=RemoteKeys(identity_provider.jwks_uri, timeout=3), audience="orders"),
            Provider(name="static", key=own.jwk, audience="orders"),
        ],
    )
    async with visitor(app) as ask:
        with anyio.fail_after(2):
            assert (await ask(identity_provider.mint(own, aud="orders"))).json()["provider"] == "static"
    assert set(app.verifier.health()) == {"remote", "static"}
    assert app.verifier.health()["static"].keys == 1
    await app.verifier.stop()


@pytest.mark.anyio
async def test_static_keys_stand_beside_remote_ones(identity_provider: IdentityProvider) -> None:
    own = signing_key(kid=None)
    app = JWTMiddleware(
        echo, key=own.jwk, jwks=identity_provider.jwks_uri, issuer=identity_provider.issuer, audience="orders"
    )
    async with visitor(app) as ask:
        # The static key has no kid, so it fits this token too: only then the remote ones are asked for.
        assert (await ask(identity_provider.mint(aud="orders"))).status_code == 200
        assert (await ask(identity_provider.mint(own, aud="orders"))).status_code == 200


def test_a_test_client_without_lifespan_leaves_nothing_behind(
    identity_provider: IdentityProvider, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = bare_client(guarded(identity_provider, cooldown=0, refresh_after=0.001), backend=backend)
    for number in range(20):
        # Its event loop ends while a refresh is under way.
        identity_provider.delay = 0.2 if number % 2 else 0
        assert client.get("/", headers=bearer(identity_provider.mint(aud="orders"))).status_code == 200
        time.sleep(0.002)
    gc.collect()
    assert [record.getMessage() for record in caplog.records if "destroyed" in record.getMessage()] == []
    assert identity_provider.fetches > 5


def test_a_mounted_app_gets_its_keys_without_lifespan(identity_provider: IdentityProvider, backend: str) -> None:
    app = Starlette(routes=[Mount("/api", guarded(identity_provider))])
    with bare_client(app, backend=backend) as client:
        assert client.get("/api/", headers=bearer(identity_provider.mint(aud="orders"))).status_code == 200


@pytest.mark.anyio
async def test_what_an_app_raises_on_lifespan_is_raised_on_and_requests_are_served_all_the_same(
    identity_provider: IdentityProvider,
) -> None:
    error = ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")

    async def django(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise error
        await echo(scope, receive, send)

    app = guarded(identity_provider, django)

    async def never(*_: Any) -> Any:
        raise AssertionError("nobody asked for it")

    with pytest.raises(ValueError, match="Django") as raised:
        await app({"type": "lifespan"}, never, never)
    assert raised.value is error
    async with visitor(app) as ask:
        assert (await ask(identity_provider.mint(aud="orders"))).status_code == 200


@pytest.mark.anyio
async def test_shutdown_ends_the_refreshing(identity_provider: IdentityProvider) -> None:
    app = guarded(identity_provider, cooldown=0.01, refresh_after=0.02, refresh_limits=(0.01, 1))
    async with lifespan(app):
        await anyio.sleep(0.5)
    # What was under way may still arrive.
    await anyio.sleep(0.5)
    asked = len(identity_provider.requests)
    assert asked > 2
    await anyio.sleep(0.5)
    assert len(identity_provider.requests) == asked


@pytest.mark.anyio
async def test_a_provider_that_hangs_does_not_keep_the_app_from_starting(identity_provider: IdentityProvider) -> None:
    identity_provider.stall()
    app = guarded(identity_provider, timeout=0.3)
    start = time.monotonic()
    async with lifespan(app):
        assert time.monotonic() - start < 3


def test_event_loops_in_several_threads_share_keys_and_fetches(identity_provider: IdentityProvider) -> None:
    identity_provider.delay = 0.2
    app = guarded(identity_provider, cooldown=30)
    token = identity_provider.mint(aud="orders")
    answers: list[int] = []

    async def requests() -> None:
        async with visitor(app) as ask, anyio.create_task_group() as group:

            async def request() -> None:
                answers.append((await ask(token)).status_code)

            for _ in range(25):
                group.start_soon(request)

    running = [Thread(target=anyio.run, args=(requests,), kwargs={"backend": name}) for name in ("asyncio", "trio") * 2]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(20)
    assert answers == [200] * 100
    assert identity_provider.fetches == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_workers_that_are_forked_after_the_first_use_are_well(
    identity_provider: IdentityProvider, backend: str
) -> None:
    app = guarded(identity_provider, cooldown=0.1)

    async def request(token: str) -> int:
        async with lifespan(app), visitor(app) as ask:
            return (await ask(token)).status_code

    assert anyio.run(request, identity_provider.mint(aud="orders"), backend=backend) == 200
    identity_provider.rotate()
    time.sleep(0.1)
    token = identity_provider.mint(aud="orders")
    workers = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            # Should it hang, it ends.
            signal.alarm(30)
            status = 0
            try:
                status = anyio.run(request, token, backend=backend)
            finally:
                os._exit(0 if status == 200 else 1)
        workers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0, 0, 0]


@pytest.mark.anyio
async def test_a_thousand_cancelled_requests_leave_nothing_behind(identity_provider: IdentityProvider) -> None:
    chance = Random(3)
    app = guarded(identity_provider, cooldown=0.02, refresh_after=0.03, refresh_limits=(0.01, 1))
    identity_provider.delay = 0.01
    good, unknown = identity_provider.mint(aud="orders"), identity_provider.mint(signing_key(), aud="orders")
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    async with visitor(app) as ask:

        async def request() -> None:
            with anyio.move_on_after(chance.random() * 0.05):
                await ask(chance.choice([good, unknown]))

        for _ in range(10):
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(request)
        assert (await ask(good)).status_code == 200
    await app.verifier.stop()
    assert not any("keys of" in str(task.name) for task in anyio.get_running_tasks())
    if sys.platform == "linux":
        # The provider is in this process too: its threads take a moment to see that their clients are gone.
        for _ in range(100):
            if len(os.listdir("/proc/self/fd")) <= descriptors:
                break
            await anyio.sleep(0.1)
        assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_provider_needs_keys_of_some_kind() -> None:
    issuers: list[str | list[str] | None] = [None, "login", ["https://a.example", "https://b.example"]]
    for issuer in issuers:
        with pytest.raises(ConfigurationError, match="key is required"):
            Provider(audience="orders", issuer=issuer)
    with pytest.raises(ConfigurationError, match="give a JWK Set's address as jwks="):
        Provider(audience="orders", key="https://login.example/jwks")
    assert Verifier(Provider(audience="orders", issuer="https://a.example", key=signing_key().jwk)).remote == ()


def test_an_issuer_of_the_web_in_plain_http_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"issuer: .* must start with https://"):
        Provider(audience="orders", issuer="http://login.example")


def test_logs_hold_no_token(identity_provider: IdentityProvider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "jwt_middleware")
    token = identity_provider.mint(aud="orders")
    bare_client(guarded(identity_provider)).get("/", headers=bearer(token))
    assert token not in caplog.text
    assert token.split(".")[2] not in caplog.text
