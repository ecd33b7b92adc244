"""Remote keys: when they are fetched, who waits, what is kept. The fetcher and the clock are arguments."""

import asyncio
import json
import logging
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm

from jwt_middleware import Provider, Verifier
from jwt_middleware.errors import AlgorithmNotAllowed, ConfigurationError, KeysUnavailable, UnknownKey
from jwt_middleware.keys.jwk import public_jwk
from jwt_middleware.keys.key_set import KeySet, load_keys
from jwt_middleware.keys.remote import RemoteKeys
from jwt_middleware.keys.source import KeysHealth, ProviderKeys, StaticKeys
from jwt_middleware.testing.identity_provider import SigningKey, signing_key

from ..support import Clock, token
from ..support.logs import records
from ..support.waiting import most_between_turns, until

ADDRESS = "https://login.example/jwks"
OLD, NEW = signing_key(kid="old"), signing_key(kid="new")


@dataclass
class Answer:
    status_code: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Fetcher:
    """Gives a JWK Set of ``keys``, when ``gate`` is open, and counts how often."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys: list[Any] = [key.jwk for key in keys]
        self.status = 200
        self.headers: dict[str, str] = {}
        self.gate: anyio.Event | None = None
        self.asked: list[str] = []

    async def __call__(self, url: str) -> Answer:
        self.asked.append(url)
        if self.gate is not None:
            await self.gate.wait()
        return Answer(self.status, json.dumps({"keys": self.keys}).encode(), self.headers)


def remote(fetch: Fetcher, **options: Any) -> RemoteKeys:
    return RemoteKeys(ADDRESS, fetch=fetch, **options)


async def settled(keys: RemoteKeys) -> KeySet:
    """The keys after whatever ``current`` began is over."""
    _ = keys.current
    await until(lambda: not any(str(task.name).startswith("keys of") for task in anyio.get_running_tasks()))
    return keys.current


def kids(keys: KeySet) -> list[str | None]:
    return [key.kid for key in keys.keys]


@pytest.mark.anyio
async def test_two_hundred_first_requests_make_one_fetch() -> None:
    fetch = Fetcher(OLD)
    fetch.gate = anyio.Event()
    keys, good = remote(fetch), []

    async def request() -> None:
        assert kids(keys.current) == []
        good.append((await keys.refreshed("old", "ES256")).find("old", "ES256"))

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(request)
        await anyio.sleep(0.05)
        fetch.gate.set()
    assert (len(good), len(fetch.asked)) == (200, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("cancelled", [0, 1, 4], ids=["the one that began it", "one that joined", "the last"])
async def test_a_cancelled_request_harms_no_other(cancelled: int) -> None:
    fetch = Fetcher(OLD)
    fetch.gate = anyio.Event()
    keys, good = remote(fetch), []
    scopes = [anyio.CancelScope() for _ in range(5)]

    async def request(number: int) -> None:
        with scopes[number]:
            await keys.refreshed("old", "ES256")
            good.append(number)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(request, number)
        await anyio.sleep(0.05)
        scopes[cancelled].cancel()
        await anyio.sleep(0.05)
        fetch.gate.set()
    assert sorted(good) == [number for number in range(5) if number != cancelled]
    assert len(fetch.asked) == 1


@pytest.mark.anyio
async def test_a_fetch_goes_on_when_all_who_wait_for_it_are_cancelled() -> None:
    fetch = Fetcher(OLD)
    fetch.gate = anyio.Event()
    keys = remote(fetch)
    with anyio.move_on_after(0.05):
        await keys.refreshed("old", "ES256")
    fetch.gate.set()
    assert kids(await settled(keys)) == ["old"]
    assert len(fetch.asked) == 1


@pytest.mark.anyio
async def test_a_known_kid_waits_for_nothing() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock)
    await keys.prefetch()
    clock.now += 700
    fetch.gate = anyio.Event()
    with anyio.fail_after(1):
        # A refresh is under way, and an unknown kid waits for it.
        async with anyio.create_task_group() as group:
            group.start_soon(keys.refreshed, "unknown", "ES256")
            await anyio.sleep(0.05)
            assert len(fetch.asked) == 2
            assert keys.current.find("old", "ES256")
            # A bad signature of a known key looks like this.
            assert kids(await keys.refreshed("old", "ES256")) == ["old"]
            fetch.gate.set()


@pytest.mark.anyio
async def test_an_unknown_kid_waits_for_the_fetch_that_brings_it() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock)
    await keys.prefetch()
    fetch.keys.append(NEW.jwk)
    clock.now += 30
    assert (await keys.refreshed("new", "ES256")).find("new", "ES256")
    assert len(fetch.asked) == 2


@pytest.mark.anyio
async def test_within_the_cooldown_unknown_kids_are_unknown_and_ask_for_nothing() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock, cooldown=30)
    await keys.prefetch()
    for number in range(1000):
        clock.now += 0.061
        found = await keys.refreshed(f"unknown {number}", "ES256")
        with pytest.raises(UnknownKey):
            found.find(f"unknown {number}", "ES256")
    # A minute has gone by: the first fetch, and one at each end of a cooldown.
    assert len(fetch.asked) == 3


@pytest.mark.anyio
async def test_the_first_fetch_begins_a_whole_cooldown() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock, cooldown=30)
    await keys.prefetch()
    clock.now += 29
    await keys.refreshed("unknown", "ES256")
    assert len(fetch.asked) == 1


@pytest.mark.anyio
async def test_the_cooldown_starts_with_an_attempt_that_fails_too() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock, cooldown=30)
    await keys.prefetch()
    clock.now += 30
    fetch.status = 500
    for _ in range(3):
        with pytest.raises(KeysUnavailable) as refusal:
            await keys.refreshed("new", "ES256")
        assert refusal.value.retry_after == 30
    assert len(fetch.asked) == 2
    assert kids(keys.current) == ["old"]
    clock.now += 30
    fetch.status, fetch.keys = 200, [NEW.jwk]
    assert kids(await keys.refreshed("new", "ES256")) == ["new"]


@pytest.mark.anyio
async def test_without_any_keys_an_attempt_is_made_once_a_second_at_most() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    fetch.status = 503
    keys = remote(fetch, clock=clock, cooldown=30)
    for _ in range(100):
        with pytest.raises(KeysUnavailable) as refusal:
            await keys.refreshed("old", "ES256")
        assert refusal.value.retry_after == 1
        clock.now += 0.1
    assert 9 <= len(fetch.asked) <= 11
    fetch.status = 200
    clock.now += 1
    assert kids(await keys.refreshed("old", "ES256")) == ["old"]


@pytest.mark.anyio
async def test_an_algorithm_that_no_key_can_have_asks_for_nothing() -> None:
    fetch = Fetcher(OLD)
    keys = remote(fetch)
    for algorithm in ("none", "NONE", "ES521", ""):
        with pytest.raises(AlgorithmNotAllowed):
            (await keys.refreshed(None, algorithm)).find(None, algorithm)
    assert fetch.asked == []


@pytest.mark.anyio
async def test_a_request_waits_no_longer_than_the_timeout() -> None:
    fetch = Fetcher(OLD)
    fetch.gate = anyio.Event()
    keys = remote(fetch, timeout=0.1)
    with anyio.fail_after(5), pytest.raises(KeysUnavailable):
        await keys.refreshed("old", "ES256")
    await keys.stop()
    assert keys.health.error in ("no complete answer within 0.1 s", None)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        pytest.param({}, 450, 571, id="nothing said"),
        pytest.param({"Cache-Control": "public, max-age=1000"}, 750, 951, id="within limits"),
        pytest.param({"cache-control": 'max-age="1000"'}, 750, 951, id="quoted"),
        pytest.param({"cache-control": "max-age=1000", "age": "600"}, 300, 381, id="partly used up by a cache"),
        pytest.param({"cache-control": "max-age=1"}, 45, 58, id="too short"),
        pytest.param({"cache-control": "no-store"}, 45, 58, id="not at all"),
        pytest.param({"cache-control": "no-cache, max-age=1000"}, 45, 58, id="only when asked again"),
        pytest.param({"cache-control": "max-age=86400"}, 2700, 3421, id="too long"),
        pytest.param({"cache-control": "max-age=-1"}, 450, 571, id="negative"),
        pytest.param({"cache-control": "s-maxage=1000"}, 450, 571, id="for shared caches"),
        pytest.param({"cache-control": "x-max-age=1000, max-age=oops"}, 450, 571, id="nonsense"),
        pytest.param({"cache-control": "max-age=1000", "age": "oops"}, 750, 951, id="a nonsense age"),
    ],
)
async def test_keys_are_refreshed_before_they_expire(headers: dict[str, str], least: float, most: float) -> None:
    fetch, clock = Fetcher(OLD), Clock()
    fetch.headers = headers
    keys = remote(fetch, clock=clock)
    start = clock.now
    first = await settled(keys)
    clock.now = start + least - 1
    assert await settled(keys) is first
    assert len(fetch.asked) == 1
    clock.now = start + most
    # The same keys are the same object still: what was verified with them stays verified.
    assert await settled(keys) is first
    assert len(fetch.asked) == 2


@pytest.mark.anyio
async def test_processes_do_not_refresh_all_at_once() -> None:
    moments = set()
    for _ in range(5):
        fetch, clock = Fetcher(OLD), Clock()
        keys = remote(fetch, clock=clock)
        await keys.prefetch()
        while len(fetch.asked) == 1:
            clock.now += 1
            await settled(keys)
        moments.add(clock.now)
    assert len(moments) > 1


@pytest.mark.anyio
async def test_the_last_good_keys_go_on_through_an_outage_until_they_are_too_old(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock, keys_max_stale=3600, cooldown=30)
    first = await settled(keys)
    fetch.status = 500
    start = clock.now
    while clock.now < start + 3599:
        assert await settled(keys) is first
        clock.now += 7
    attempts = len(fetch.asked)
    assert 60 < attempts <= 1 + 3600 / 30
    clock.now = start + 3600
    assert kids(keys.current) == []
    assert keys.health.keys == 0
    with pytest.raises(KeysUnavailable):
        await keys.refreshed("old", "ES256")
    assert [record.getMessage() for record in records(caplog) if record.levelname == "ERROR"] == [
        f"keys of {ADDRESS} were not fetched for 3600 s and are no longer used: tokens are answered with 503; "
        f"last error: {ADDRESS} answered 500"
    ]
    fetch.status = 200
    clock.now += 1
    assert (await keys.refreshed("old", "ES256")).find("old", "ES256")
    assert keys.health.error is None


@pytest.mark.anyio
async def test_keys_that_are_good_for_less_than_a_refresh_are_refreshed_in_time() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock, keys_max_stale=100, cooldown=30)
    first = await settled(keys)
    clock.now += 51
    assert await settled(keys) is first
    assert len(fetch.asked) == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("published", "same"),
    [
        pytest.param([OLD, NEW], True, id="nothing"),
        pytest.param([NEW, OLD], True, id="their order"),
        pytest.param([OLD], False, id="one is gone"),
        pytest.param([OLD, OLD], False, id="one in the place of another"),
        pytest.param([OLD, NEW, signing_key()], False, id="one is added"),
        pytest.param([OLD, signing_key(kid="new")], False, id="another key under an old kid"),
        pytest.param([OLD, SigningKey(NEW.private, "ES256", {**NEW.jwk, "kid": "newer"})], False, id="another kid"),
    ],
)
async def test_the_key_set_is_another_object_when_keys_have_changed(published: list[SigningKey], same: bool) -> None:
    fetch, clock = Fetcher(OLD, NEW), Clock()
    keys = remote(fetch, clock=clock)
    first = await settled(keys)
    fetch.keys = [key.jwk for key in published]
    clock.now += 600
    second = await settled(keys)
    assert len(fetch.asked) == 2
    assert (second is first) is same
    assert sorted(map(str, kids(second))) == sorted(key.jwk["kid"] for key in published)


@pytest.mark.anyio
async def test_a_key_that_stood_twice_and_gave_a_place_to_another_is_a_change() -> None:
    fetch, clock = Fetcher(OLD, OLD), Clock()
    keys = remote(fetch, clock=clock)
    await settled(keys)
    fetch.keys = [OLD.jwk, NEW.jwk]
    clock.now += 600
    assert kids(await settled(keys)) == ["old", "new"]


@pytest.mark.anyio
async def test_a_bad_signature_of_a_known_kid_begins_a_refresh_once_a_cooldown() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock)
    first = await settled(keys)
    fetch.keys = [signing_key(kid="old").jwk]
    assert await keys.refreshed("old", "ES256") is first
    clock.now += 30
    assert await keys.refreshed("old", "ES256") is first
    assert await settled(keys) is not first
    assert len(fetch.asked) == 2


@pytest.mark.anyio
async def test_a_refresh_that_is_not_wanted_any_more_is_tried_again_after_its_cooldown() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock)
    first = await settled(keys)
    fetch.gate = anyio.Event()
    clock.now += 600
    assert keys.current is first
    await anyio.sleep(0.01)
    await keys.stop()
    assert keys.current is first
    assert len(fetch.asked) == 2
    fetch.gate.set()
    clock.now += 30
    assert await settled(keys) is first
    assert len(fetch.asked) == 3


@pytest.mark.anyio
async def test_who_waits_for_a_fetch_that_is_cut_short_goes_on_with_it() -> None:
    fetch = Fetcher(OLD)
    fetch.gate = anyio.Event()
    keys, good = remote(fetch), []

    async def request() -> None:
        good.append(kids(await keys.refreshed("old", "ES256")))

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(request)
        await anyio.sleep(0.05)
        await keys.stop()
        fetch.gate.set()
    assert good == [["old"]] * 10
    assert len(fetch.asked) == 2


@pytest.mark.anyio
async def test_an_attempt_whose_event_loop_never_said_that_it_ended_is_given_up() -> None:
    fetch, clock = Fetcher(OLD), Clock()
    fetch.gate = anyio.Event()
    keys = remote(fetch, clock=clock, timeout=5, cooldown=1)
    _ = keys.current
    await until(lambda: len(fetch.asked) == 1)
    clock.now += 5.9
    _ = keys.current
    await anyio.sleep(0.01)
    assert len(fetch.asked) == 1
    clock.now += 0.2
    _ = keys.current
    await until(lambda: len(fetch.asked) == 2)
    fetch.gate.set()
    assert kids(await settled(keys)) == ["old"]
    await anyio.sleep(0.05)
    await keys.stop()


def test_threads_with_event_loops_of_their_own_make_one_fetch() -> None:
    good: list[list[str | None]] = []

    class Slow(Fetcher):
        async def __call__(self, url: str) -> Answer:
            answer = await super().__call__(url)
            await anyio.sleep(0.3)
            return answer

    fetch = Slow(OLD)
    keys = remote(fetch)

    async def requests() -> None:
        async def request() -> None:
            good.append(kids(await keys.refreshed("old", "ES256")))

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(request)

    running = [Thread(target=anyio.run, args=(requests,), kwargs={"backend": name}) for name in ("asyncio", "trio") * 2]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(20)
    assert good == [["old"]] * 200
    assert len(fetch.asked) == 1


def test_a_fetch_of_an_event_loop_that_ends_is_gone_on_with_by_another() -> None:
    good: list[list[str | None]] = []

    class Stuck(Fetcher):
        async def __call__(self, url: str) -> Answer:
            answer = await super().__call__(url)
            if len(self.asked) == 1:
                await anyio.sleep_forever()
            return answer

    fetch = Stuck(OLD)
    keys = remote(fetch)

    async def begin() -> None:
        _ = keys.current
        await anyio.sleep(0.3)

    async def join() -> None:
        with anyio.fail_after(4):
            good.append(kids(await keys.refreshed("old", "ES256")))

    first = Thread(target=anyio.run, args=(begin,))
    first.start()
    while not fetch.asked:
        time.sleep(0.01)
    second = Thread(target=anyio.run, args=(join,), kwargs={"backend": "trio"})
    second.start()
    first.join(20)
    second.join(20)
    assert good == [["old"]]
    assert len(fetch.asked) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("moment", ["after the first use", "while a fetch is under way"])
def test_a_forked_process_fetches_for_itself(moment: str, backend: str) -> None:
    fetch, clock = Fetcher(OLD), Clock()
    keys = remote(fetch, clock=clock)
    if moment == "after the first use":
        anyio.run(keys.prefetch, backend=backend)
    else:
        # Private: as if a thread of the parent held the lock at the moment of the fork. No public name leads to it, and
        # a real thread holds it for too short a time to be met.
        keys._process.lock.acquire()

    async def child() -> bool:
        clock.now += 700
        fetch.keys = [NEW.jwk]
        found = await keys.refreshed("new", "ES256")
        return kids(found) == ["new"]

    pid = os.fork()
    if pid == 0:
        # Should it hang, it ends.
        signal.alarm(30)
        good = False
        try:
            good = anyio.run(child, backend=backend)
        finally:
            os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.anyio
async def test_a_process_with_another_id_waits_for_no_attempt_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = Fetcher(OLD)
    fetch.gate = anyio.Event()
    keys, parent = remote(fetch), os.getpid()
    _ = keys.current
    await until(lambda: len(fetch.asked) == 1)
    # As in a fork: the parent's attempt never ends here.
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    fetch.gate = None
    with anyio.fail_after(4):
        assert kids(await keys.refreshed("old", "ES256")) == ["old"]
    assert len(fetch.asked) == 2
    await keys.stop()


@pytest.mark.anyio
async def test_a_fetch_that_is_cut_short_again_and_again_is_not_gone_on_with_for_ever() -> None:
    fetch = Fetcher(OLD)
    fetch.gate = anyio.Event()
    keys = remote(fetch)

    async def cut() -> None:
        while True:
            await anyio.sleep(0.02)
            await keys.stop()

    with anyio.fail_after(4):
        async with anyio.create_task_group() as group:
            group.start_soon(cut)
            with pytest.raises(KeysUnavailable):
                await keys.refreshed("old", "ES256")
            group.cancel_scope.cancel()
    assert len(fetch.asked) <= 3


def test_outside_of_an_event_loop_nothing_can_be_fetched_and_nothing_breaks(backend: str) -> None:
    fetch = Fetcher(OLD)
    keys = remote(fetch)
    with pytest.raises(RuntimeError):
        _ = keys.current
    assert fetch.asked == []
    for _ in range(2):
        anyio.run(keys.prefetch, backend=backend)
    assert (keys.health.keys, len(fetch.asked)) == (1, 1)


@pytest.mark.anyio
async def test_what_a_fetcher_raises_is_a_failed_fetch_like_any_other() -> None:
    async def fetch(url: str) -> Answer:
        raise LookupError("the fetcher's own")

    keys = RemoteKeys(ADDRESS, fetch=fetch)
    with pytest.raises(KeysUnavailable):
        await keys.refreshed("old", "ES256")
    assert keys.health.error == "LookupError: the fetcher's own"


@pytest.mark.anyio
@pytest.mark.parametrize("document", [OLD.jwk, [OLD.jwk], [{"kty": "EC"}, OLD.jwk]])
async def test_jwks_without_the_object_of_a_set_are_read(document: Any) -> None:
    async def fetch(url: str) -> Answer:
        return Answer(200, json.dumps(document).encode())

    keys = await settled(RemoteKeys(ADDRESS, fetch=fetch))
    assert kids(keys) == ["old"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(b"", "it is not a JSON object", id="nothing"),
        pytest.param(b"<!doctype html><p>Sign in", "it is not a JSON object", id="HTML"),
        pytest.param(b'{"keys": [{"kty": "EC", "crv": "P-25', "it is not a JSON object", id="truncated"),
        pytest.param(b"[]", "the JWK Set holds no key that can verify", id="an empty list"),
        pytest.param(
            b'["a"]',
            "the JWK Set holds no key that can verify; key 1: it is not an object",
            id="a list of texts",
        ),
        pytest.param(b'"a"', "it is not a JSON object", id="a text"),
        pytest.param(
            b'{"kty": 5}',
            "the JWK Set holds no key that can verify; key 1: the JWK's 'kty' is not a string",
            id="a JWK that is none",
        ),
        pytest.param(
            b'{"issuer": "x", "jwks_uri": "https://login.example/jwks"}',
            "it is no JWK Set but an issuer's metadata: give RemoteKeys its issuer= instead of jwks",
            id="metadata",
        ),
        pytest.param(b"{}", "it is no JWK Set: it has no list of keys", id="an object of another kind"),
        pytest.param(b'{"keys": {}}', "it is no JWK Set: it has no list of keys", id="keys are no list"),
        pytest.param(b'{"keys": []}', "the JWK Set holds no key that can verify", id="no keys"),
        pytest.param(
            json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).encode(),
            "the JWK Set holds no key that can verify; key 1: it is a secret or private key, and published",
            id="a secret that everybody can read",
        ),
        pytest.param(
            json.dumps({"keys": [OLD.jwk] * 101}).encode(), "the JWK Set has 101 keys, more than 100", id="101 keys"
        ),
        pytest.param(
            json.dumps({"keys": [{"kty": "EC"}] * 10000}).encode(),
            "the JWK Set has 10000 keys, more than 100",
            id="10,000 keys",
        ),
        pytest.param(b" " * 512 * 1024 + b" ", "it has more than 512 KiB", id="one byte too many"),
        pytest.param(b'{"keys": ' + b"[" * 100_000, "it is not a JSON object", id="nested deeply"),
    ],
)
async def test_an_answer_that_holds_no_keys_changes_none(content: bytes, error: str) -> None:
    good = json.dumps({"keys": [OLD.jwk]}).encode()
    answers = [Answer(200, good), Answer(200, content), Answer(200, b"\xef\xbb\xbf" + good)]

    async def fetch(url: str) -> Answer:
        return answers.pop(0)

    clock = Clock()
    keys = RemoteKeys(ADDRESS, fetch=fetch, clock=clock)
    first = await settled(keys)
    clock.now += 600
    assert await settled(keys) is first
    assert keys.health.error == error
    clock.now += 60
    assert await settled(keys) is first
    assert keys.health.error is None


@pytest.mark.anyio
async def test_every_key_that_is_not_used_is_named_with_its_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    several = signing_key("RS256", kid="rsa", use=None, alg=None)
    secret = {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "secret"}
    fetch, clock = Fetcher(OLD, several), Clock()
    fetch.keys += [
        {**OLD.jwk, "kid": "encryption", "use": "enc"},
        {"kty": "AKP", "kid": "unknown type"},
        {**OLD.jwk, "x": "!!", "kid": "broken"},
        "no key at all",
        secret,
        {**ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True), "kid": "private"},
        {**OLD.jwk, "kid": 7.5},
        signing_key("EdDSA", alg="Ed25519", kid="ed").jwk,
        NEW.jwk,
        signing_key(kid="new").jwk,
        signing_key(kid=None).jwk,
    ]
    keys = remote(fetch, clock=clock)
    first = await settled(keys)
    assert kids(first) == ["old", "rsa", "ed", "new", "new", None]
    assert [key.algorithms for key in first.find("ed", "Ed25519")] == [("Ed25519",)]
    assert len(first.find("rsa", "PS256")) == 1
    # Two of the same kid, and the one without.
    assert len(first.find("new", "ES256")) == 3
    assert len(first.find(None, "ES256")) == 4
    clock.now += 600
    assert await settled(keys) is first
    reasons = {
        "key 3 (kid 'encryption'): the JWK's use is 'enc', not 'sig'": logging.INFO,
        "key 4 (kid 'unknown type'): JWKs of kty 'AKP' are not known; oct, RSA, EC and OKP are": logging.INFO,
        "key 5 (kid 'broken'): the JWK's 'x' is not base64url text": logging.WARNING,
        "key 6: it is not an object": logging.WARNING,
        "key 7 (kid 'secret'): it is a secret or private key, and published": logging.WARNING,
        "key 8 (kid 'private'): it is a secret or private key, and published": logging.WARNING,
        "key 9: the JWK's 'kid' is not a string": logging.WARNING,
    }
    assert keys.health.skipped == tuple(reasons)
    assert [
        (record.levelno, record.getMessage()) for record in records(caplog) if "skipped" in record.getMessage()
    ] == [(level, f"keys of {ADDRESS}: skipped {reason}") for reason, level in reasons.items()]


@pytest.mark.anyio
async def test_weak_keys_are_skipped_unless_they_are_allowed() -> None:
    weak = {**public_jwk(rsa.generate_private_key(65537, 1024).public_key()), "kid": "weak"}
    fetch = Fetcher(OLD)
    fetch.keys.append(weak)
    assert kids(await settled(remote(fetch))) == ["old"]
    assert kids(await settled(remote(fetch, allow_weak_keys=True))) == ["old", "weak"]


@pytest.mark.anyio
async def test_the_log_has_a_line_for_each_change_of_state_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fetch, clock = Fetcher(OLD), Clock()
    keys = RemoteKeys(ADDRESS + "?password=hunter2", fetch=fetch, clock=clock)
    for status, published in (
        (500, [OLD]),
        (404, [OLD]),
        (200, [OLD]),
        (200, [OLD]),
        (301, [OLD]),
        (500, [OLD]),
        (200, [OLD]),
        (200, [NEW, OLD]),
    ):
        fetch.status, fetch.keys = status, [key.jwk for key in published]
        await settled(keys)
        for _ in range(5):
            _ = keys.current
        clock.now += 600
    assert [(record.levelname, record.getMessage()) for record in records(caplog)] == [
        (level, f"keys of {ADDRESS} {text}")
        for level, text in (
            ("WARNING", f"could not be fetched: {ADDRESS} answered 500; no keys: tokens are answered with 503"),
            ("INFO", f"fetched, after: {ADDRESS} answered 404; in force: 'old'"),
            (
                "WARNING",
                f"could not be fetched: {ADDRESS} answered 301: redirects are not followed; "
                "the keys fetched before stay in force",
            ),
            ("INFO", f"fetched, after: {ADDRESS} answered 500; in force: 'old'"),
            ("INFO", "changed; in force: 'new', 'old'"),
        )
    ]


@pytest.mark.anyio
async def test_health_says_when_keys_were_fetched_how_old_they_are_and_what_went_wrong() -> None:
    fetch, clock = Fetcher(OLD, NEW), Clock()
    keys = remote(fetch, clock=clock)
    assert keys.health == KeysHealth(keys=0, fetched_at=None, age=None, error=None)
    await keys.prefetch()
    fetched_at = keys.health.fetched_at
    assert fetched_at is not None
    clock.now += 700
    fetch.status = 500
    await settled(keys)
    health = keys.health
    assert health.next_attempt is not None
    assert 0 < health.next_attempt <= 60
    assert replace(health, next_attempt=None) == KeysHealth(
        keys=2, fetched_at=fetched_at, age=700, error=f"{ADDRESS} answered 500"
    )
    clock.now += 24 * 3600
    asked = len(fetch.asked)
    assert keys.health.keys == 0
    assert len(fetch.asked) == asked


@pytest.mark.anyio
async def test_keep_refreshes_without_any_request() -> None:
    fetch = Fetcher(OLD)
    keys = remote(fetch, cooldown=0.02, refresh_after=0.05, refresh_limits=(0.01, 10))
    with anyio.move_on_after(1):
        await keys.keep()
    assert 3 < len(fetch.asked) < 40
    fetch.status = 500
    asked = len(fetch.asked)
    with anyio.move_on_after(1):
        await keys.keep()
    assert len(fetch.asked) > asked + 3
    fetch.status, fetch.keys = 200, [NEW.jwk]
    with anyio.move_on_after(0.5):
        await keys.keep()
    assert keys.health.error is None


@pytest.mark.anyio
async def test_remote_keys_stand_beside_static_ones() -> None:
    (static,) = load_keys(signing_key(kid="static").jwk)
    fetch, clock = Fetcher(OLD), Clock()
    keys = ProviderKeys(remote(fetch, clock=clock), StaticKeys([static]), None)
    assert kids(keys.current) == ["static"]
    # What verifies with the static key asks for nothing; what does not, does.
    assert kids(await keys.refreshed("static", "ES256")) == ["static"]
    assert kids(await keys.refreshed("old", "ES256")) == ["static", "old"]
    both = keys.current
    clock.now += 600
    assert keys.current is both
    fetch.status = 500
    clock.now += 600
    with pytest.raises(KeysUnavailable):
        await keys.refreshed("new", "ES256")
    assert keys.current is both


@pytest.mark.anyio
async def test_remote_keys_are_narrowed_to_the_algorithms_of_the_provider() -> None:
    fetch = Fetcher(OLD, signing_key("RS256", alg=None, kid="rsa"))
    keys = ProviderKeys(remote(fetch), StaticKeys(()), frozenset({"PS256"}))
    found = await keys.refreshed("rsa", "PS256")
    assert [(key.kid, key.algorithms) for key in found.keys] == [("rsa", ("PS256",))]
    with pytest.raises(AlgorithmNotAllowed):
        (await keys.refreshed("old", "ES256")).find("old", "ES256")


@pytest.mark.anyio
async def test_a_file_is_read_at_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path, clock = tmp_path / "jwks.json", Clock()
    path.write_text(json.dumps({"keys": [OLD.jwk, {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "secret"}]}))
    keys = RemoteKeys(path, clock=clock)
    first = keys.current
    assert kids(first) == ["old", "secret"]
    clock.now += 5
    assert await settled(keys) is first
    path.write_text(json.dumps({"keys": [NEW.jwk]}))
    clock.now += 5
    assert kids(await settled(keys)) == ["new"]
    path.write_text("half a fi")
    clock.now += 5
    assert kids(await settled(keys)) == ["new"]
    assert keys.health.error == "it is not a JSON object"
    path.unlink()
    clock.now += 5
    assert kids(await settled(keys)) == ["new"]
    assert keys.health.error == "it cannot be read (No such file or directory)"
    (tmp_path / "next").write_text(json.dumps({"keys": [OLD.jwk]}))
    (tmp_path / "next").rename(path)
    clock.now += 5
    assert kids(await keys.refreshed("old", "ES256")) == ["old"]
    assert keys.health.error is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({}, "jwks: RemoteKeys needs the address or path of a JWK Set, or issuer=", id="nothing"),
        pytest.param({"jwks": ADDRESS, "issuer": "https://login.example"}, "but not both", id="both"),
        pytest.param({"jwks": ""}, "jwks must be an address, the path of a file or RemoteKeys", id="empty"),
        pytest.param(
            {"jwks": 7}, "jwks must be an address, the path of a file or RemoteKeys(...), not int", id="a number"
        ),
        pytest.param({"jwks": "http://login.example/jwks"}, "must start with https://", id="plain http"),
        pytest.param({"jwks": "file:///etc/passwd"}, "names no host", id="a file's address"),
        pytest.param({"jwks": "file:/no/file"}, "jwks: file:/no/file: it cannot be read", id="a file's short address"),
        pytest.param({"jwks": "ftp://login.example/jwks"}, "must start with https://", id="ftp"),
        pytest.param({"jwks": "https:///jwks"}, "names no host", id="no host"),
        pytest.param({"jwks": "ftp://127.0.0.1/jwks"}, "must start with https://", id="ftp on loopback"),
        pytest.param({"jwks": "https://ada:pw@login.example/jwks"}, "a user in it", id="a user"),
        pytest.param({"jwks": "https://login.example:99999/"}, "is not an address", id="a port"),
        pytest.param({"jwks": "https://lögin.example/"}, "printable ASCII", id="not ASCII"),
        pytest.param({"jwks": "https://login.example\\@evil.example/"}, "printable ASCII", id="a backslash"),
        pytest.param({"jwks": " https://login.example/"}, "printable ASCII", id="a space"),
        pytest.param({"issuer": "login.example"}, "names no host", id="an issuer without a scheme"),
        pytest.param({"issuer": "https://login.example?x"}, "query", id="an issuer with a query"),
        pytest.param({"issuer": "https://login.example#"}, "fragment", id="an issuer with a fragment"),
        pytest.param({"jwks": "no/such/file.json"}, "jwks: no/such/file.json: it cannot be read", id="no file"),
        pytest.param({"jwks": "."}, "jwks: .: it", id="a directory"),
        pytest.param({"jwks": "file.json", "fetch": Fetcher()}, "is the path of a file", id="fetch for a file"),
        pytest.param({"jwks": ADDRESS, "fetch": 1}, "fetch must be callable as (url)", id="fetch"),
        pytest.param({"jwks": ADDRESS, "cooldown": -1}, "cooldown", id="cooldown"),
        pytest.param({"jwks": ADDRESS, "refresh_after": "1"}, "refresh_after", id="refresh_after"),
        pytest.param({"jwks": ADDRESS, "refresh_limits": 60}, "refresh_limits", id="one limit"),
        pytest.param({"jwks": ADDRESS, "refresh_limits": (60, 1)}, "the least and then the most", id="limits"),
        pytest.param({"jwks": ADDRESS, "keys_max_stale": True}, "keys_max_stale", id="keys_max_stale"),
        pytest.param({"jwks": ADDRESS, "timeout": float("nan")}, "timeout", id="timeout"),
        pytest.param({"jwks": ADDRESS, "timeout": 0}, "timeout must be more than 0", id="no time"),
        pytest.param({"jwks": ADDRESS, "allow_weak_keys": 1}, "allow_weak_keys", id="allow_weak_keys"),
        pytest.param({"jwks": ADDRESS, "clock": 1}, "clock", id="clock"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RemoteKeys(**arguments)
    assert message in str(refused.value)
    assert "pw" not in str(refused.value)


def test_a_repr_shows_no_query() -> None:
    assert repr(RemoteKeys(ADDRESS + "?password=hunter2")) == f"RemoteKeys('{ADDRESS}')"


@pytest.mark.anyio
async def test_a_thousand_cancelled_requests_leave_nothing_behind() -> None:
    chance = random.Random(7)

    class Flaky(Fetcher):
        async def __call__(self, url: str) -> Answer:
            await anyio.sleep(chance.random() * 0.01)
            self.status = chance.choice([200, 200, 500])
            return await super().__call__(url)

    fetch = Flaky(OLD)
    keys = remote(fetch, cooldown=0.005, refresh_after=0.005, refresh_limits=(0, 1))

    async def request(kid: str) -> None:
        with anyio.move_on_after(chance.random() * 0.01):
            try:
                _ = keys.current
                await keys.refreshed(kid, "ES256")
            except KeysUnavailable:
                pass

    for _ in range(20):
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(request, chance.choice(["old", "unknown"]))
    await keys.stop()
    assert not any(str(task.name).startswith("keys of") for task in anyio.get_running_tasks())
    with anyio.fail_after(5):
        while True:
            try:
                assert (await keys.refreshed("old", "ES256")).find("old", "ES256")
                break
            except KeysUnavailable:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("stale", [0, 5, 60])
def test_keys_outlive_the_cooldown(stale: float) -> None:
    with pytest.raises(ConfigurationError, match="keys_max_stale must be more than twice the cooldown"):
        RemoteKeys(ADDRESS, fetch=Fetcher(OLD), keys_max_stale=stale)


@pytest.mark.parametrize("clock", [lambda: None, lambda: "now"])
def test_the_clock_gives_numbers(clock: Any) -> None:
    with pytest.raises(ConfigurationError, match="clock"):
        RemoteKeys(ADDRESS, fetch=Fetcher(OLD), clock=clock)


class Given(BaseException):
    pass


@pytest.mark.parametrize("raised", [SystemExit, Given, asyncio.CancelledError])
@pytest.mark.anyio
async def test_whatever_a_fetcher_raises_is_a_fetch_that_failed(
    raised: type[BaseException], anyio_backend: str
) -> None:
    if anyio_backend == "asyncio" and raised is asyncio.CancelledError:
        return  # there it says that the attempt itself is cancelled

    async def fetch(url: str) -> Answer:
        raise raised

    keys = RemoteKeys(ADDRESS, fetch=fetch)
    with pytest.raises(KeysUnavailable):
        await keys.refreshed("new", "ES256")
    assert raised.__name__ in (keys.health.error or "")


@pytest.mark.anyio
async def test_an_attempt_that_was_given_up_for_lost_brings_nothing_back() -> None:
    """It lands after another one, from an event loop that stood still."""
    clock, late = Clock(), anyio.Event()
    asked = 0

    async def fetch(url: str) -> Answer:
        nonlocal asked
        asked += 1
        if asked == 1:
            with anyio.CancelScope(shield=True):
                await late.wait()
            return Answer(200, json.dumps({"keys": [OLD.jwk]}).encode())
        return Answer(200, json.dumps({"keys": [NEW.jwk]}).encode())

    keys = RemoteKeys(ADDRESS, fetch=fetch, clock=clock, cooldown=1, timeout=1)
    async with anyio.create_task_group() as group:
        group.start_soon(keys.prefetch)
        await anyio.sleep(1.2)
        clock.now += 5
        assert (await keys.refreshed("new", "ES256")).knows("new")
        late.set()
    await anyio.sleep(0.1)
    assert keys.current.knows("new")
    assert not keys.current.knows("old")
    assert keys.health.error is None


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_waits_for_several_providers_do_not_add_up() -> None:
    async def fetch(url: str) -> Answer:
        await anyio.sleep(60)
        raise AssertionError

    options: Any = {"fetch": fetch, "timeout": 1.5, "clock": anyio.current_time}
    slow = [Provider(name=f"{n}", audience="orders", jwks=RemoteKeys(ADDRESS, **options)) for n in range(4)]
    verifier = Verifier(slow)
    begun = anyio.current_time()
    await verifier.start()
    with pytest.raises(KeysUnavailable):
        await verifier.verify(token())
    # One timeout each. One after the other, those after the first would be attempts of their own.
    assert anyio.current_time() - begun < 4.5
    await verifier.stop()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_hundreds_of_tenants_start_in_groups_between_which_other_work_gets_its_turn() -> None:
    begun: set[int] = set()

    def tell_time(number: int) -> float:
        if is_built:
            begun.add(number)
        return time.monotonic()

    async def fetch(url: str) -> Answer:
        raise OSError("gone")

    is_built = False
    tenants = [
        Provider(
            name=f"{n}",
            issuer=f"https://{n}.example",
            audience="orders",
            jwks=RemoteKeys(ADDRESS, fetch=fetch, clock=partial(tell_time, n)),
        )
        for n in range(120)
    ]
    verifier = Verifier(tenants)
    is_built = True
    # Two groups at once, because trio gives turns in random order.
    assert await most_between_turns(verifier.start, lambda: len(begun)) <= 100
    assert len(begun) == len(tenants)
    await verifier.stop()


@pytest.mark.anyio
async def test_what_a_fetcher_says_of_its_address_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    async def fetch(url: str) -> Answer:
        raise ValueError("404\nfor url 'https://user:s3cret@login.example/jwks?api_key=s3cret#s3cret'")

    keys = RemoteKeys(ADDRESS, fetch=fetch)
    with pytest.raises(KeysUnavailable):
        await keys.refreshed("new", "ES256")
    assert "https://login.example/jwks" in (keys.health.error or "")
    assert "s3cret" not in f"{keys.health.error}{caplog.text}"
    assert "\n" not in (keys.health.error or "")
