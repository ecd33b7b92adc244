import gc
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jwt_middleware import Provider, Verifier
from jwt_middleware.verifying.compact import Compact, Header
from jwt_middleware.verifying.memory import (
    BYTES_PER_ENTRY,
    MAX_HEADER_SIZE,
    MAX_HEADERS,
    TokenCache,
    TokenMemory,
)
from jwt_middleware.verifying.token import make_facts

from ..support import NOW, SECRET, claims, signed, token


def test_a_value_is_found_by_its_token_and_by_no_other() -> None:
    cache: TokenCache[int] = TokenCache(10)
    cache.put(b"token", 1, 1)
    cache.put(b"tokem", 2, 1)
    assert (cache.get(b"token"), cache.get(b"tokem"), cache.get(b"toke"), cache.get(b"token ")) == (1, 2, None, None)


def test_a_token_that_is_put_again_has_the_new_value_and_takes_no_more_room() -> None:
    cache: TokenCache[int] = TokenCache(2)
    cache.put(b"a", 1, 1)
    cache.put(b"b", 2, 1)
    for value in range(10):
        cache.put(b"a", value, 1)
    assert (cache.get(b"a"), cache.get(b"b"), len(cache)) == (9, 2, 2)


def test_entries_are_bounded_in_number_and_one_goes_at_a_time() -> None:
    cache: TokenCache[int] = TokenCache(100)
    for number in range(1000):
        cache.put(b"%d" % number, number, 1)
        assert cache.get(b"%d" % number) == number
        assert len(cache) == min(number + 1, 100)
    kept = [number for number in range(1000) if cache.get(b"%d" % number) is not None]
    assert len(kept) == 100


def test_entries_are_bounded_in_memory() -> None:
    cache: TokenCache[None] = TokenCache(4)
    for number in range(10):
        cache.put(b"half %d" % number, None, 2 * BYTES_PER_ENTRY)
    assert len(cache) == 2
    cache.put(b"whole", None, 4 * BYTES_PER_ENTRY)
    assert len(cache) == 1
    cache.put(b"small", None, 1)
    assert len(cache) == 1


def test_a_token_larger_than_the_whole_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache: TokenCache[int] = TokenCache(1)
    cache.put(b"small", 1, 1)
    cache.put(b"large", 2, BYTES_PER_ENTRY + 1)
    assert (cache.get(b"small"), cache.get(b"large")) == (1, None)


def test_a_cache_of_no_size_keeps_nothing() -> None:
    cache: TokenCache[int] = TokenCache(0)
    cache.put(b"token", 1, 1)
    assert len(cache) == 0


def test_a_working_set_a_little_too_large_still_mostly_hits() -> None:
    cache: TokenCache[int] = TokenCache(1000)
    hits = 0
    for turn in range(20):
        for number in range(1100):
            hits += cache.get(b"%d" % number) is not None
            cache.put(b"%d" % number, turn, 1)
    # Where the least recently used entry goes, this is 0.
    assert hits / (20 * 1100) > 0.6


@pytest.mark.parametrize("size", [8, 512])
def test_threads_share_it(size: int) -> None:
    cache: TokenCache[int] = TokenCache(size)

    def work(start: int) -> None:
        for number in range(start, start + 3000):
            token = b"%d" % (number % 700)
            value = cache.get(token)
            assert value is None or value == number % 700
            cache.put(token, number % 700, 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(0, 800, 100)))
    assert len(cache) == size


SHAPES = [
    pytest.param({}, {}, id="as most are"),
    pytest.param({"name": "\N{GRINNING FACE}" + "a" * 1200}, {}, id="a wide character"),
    pytest.param({"name": "\\ud83d\\ude00" + "a" * 1200}, {}, id="a wide character, escaped"),
    pytest.param({"scope": " ".join(f"{n:x}" for n in range(16, 272))}, {}, id="256 short scopes"),
    pytest.param({"scope": [f"{n:x}" for n in range(16, 272)]}, {}, id="a list of 256 short scopes"),
    pytest.param({"sub": "a" * 5000, "jti": "b" * 5000}, {}, id="a long subject"),
    pytest.param({}, {"kid": "c" * 8000}, id="long headers"),
]


@pytest.mark.parametrize(("changes", "header"), SHAPES)
@pytest.mark.anyio
async def test_what_verified_tokens_take_is_within_the_bound(changes: dict[str, Any], header: dict[str, Any]) -> None:
    size = 100
    verifier = Verifier(Provider(key=SECRET, audience="orders"), cache_size=size, clock=lambda: NOW)
    await verifier.verify(token())

    def one(number: int) -> bytes:
        named = {"alg": "HS256", **({"kid": f"{number}{header['kid']}"} if header else {})}
        payload = json.dumps({**claims(jti=f"{number}"), **changes}, ensure_ascii=False).replace("\\\\u", "\\u")
        return signed(named, payload.encode()).encode()

    tokens = [one(number) for number in range(2 * size)]
    tracemalloc.start()
    for raw in tokens:
        # A copy, since a server makes each header anew.
        await verifier.verify(bytes(bytearray(raw)))
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 10_000 < taken < size * BYTES_PER_ENTRY


def test_headers_are_remembered_up_to_a_number_and_a_size() -> None:
    memory = TokenMemory(10)
    facts = make_facts(provider="jwt", expires_at=NOW)
    header = Header(b"{}", "HS256", None, "")
    for number in range(3 * MAX_HEADERS):
        memory.remember(b"token", NOW, facts, 0, 0, Compact(b"%d" % number, header, b"{}", b"", b""))
        assert memory.headers[b"%d" % number] is header
        assert len(memory.headers) <= MAX_HEADERS
    large = b"x" * (MAX_HEADER_SIZE + 1)
    memory.remember(b"token", NOW, facts, 0, 0, Compact(large, header, b"{}", b"", b""))
    assert large not in memory.headers
