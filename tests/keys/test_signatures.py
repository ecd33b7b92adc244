from collections.abc import Callable
from itertools import count
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jwt_middleware.keys.algorithms import ALGORITHMS
from jwt_middleware.keys.key_set import load_keys
from jwt_middleware.keys.signatures import prepare

from ..support.keys import SIGNERS, signature

KEYS = {algorithm: load_keys(signer)[0].material for algorithm, signer in SIGNERS.items()}
VERIFY = {algorithm: prepare(algorithm, key) for algorithm, key in KEYS.items()}


def signed(algorithm: str, wanted: Callable[[bytes], bool]) -> tuple[bytes, bytes]:
    """Something that is signed, and a signature over it such as is ``wanted``."""
    inputs = (b"header.%d" % number for number in count())
    return next(
        (signing_input, good)
        for signing_input in inputs
        if wanted(good := signature(algorithm, signing_input, SIGNERS[algorithm]))
    )


# ES512's begin with a zero more often than not.
GOOD = {algorithm: signed(algorithm, lambda good: good[0] != 0 or len(good) == 132) for algorithm in SIGNERS}


def pyjwt(algorithm: str, signing_input: bytes, signature: bytes) -> bool:
    return ALGORITHMS[algorithm].verify(signing_input, KEYS[algorithm], signature)


def test_every_algorithm_of_the_registries_is_known() -> None:
    # RFC 7518 3.1, RFC 8037 3.1, RFC 8812 3.2, RFC 9864 2.2: all but "none".
    assert set(ALGORITHMS) == set(SIGNERS)


# What is done to a good signature; each keeps to its length where it can.
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda good: good,
    "one byte less": lambda good: good[:-1],
    "one byte less before": lambda good: good[1:],
    "one byte more": lambda good: good + b"\0",
    "one byte more before": lambda good: b"\0" + good,
    "a zero more in the middle": lambda good: good[: len(good) // 2] + b"\0" + good[len(good) // 2 :],
    "a zero before each half": lambda good: b"\0" + good[: len(good) // 2] + b"\0" + good[len(good) // 2 :],
    "its halves the other way": lambda good: good[len(good) // 2 :] + good[: len(good) // 2],
    "its first half": lambda good: good[: len(good) // 2],
    "twice": lambda good: good + good,
    "all zeros": lambda good: bytes(len(good)),
    "all ones": lambda good: b"\xff" * len(good),
    "a zero R": lambda good: bytes(len(good) // 2) + good[len(good) // 2 :],
    "a zero S": lambda good: good[: len(good) // 2] + bytes(len(good) // 2),
    "nothing left": lambda good: b"",
}


@pytest.mark.parametrize("algorithm", SIGNERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_signature_is_good_where_pyjwt_says_so_and_nowhere_else(algorithm: str, change: str) -> None:
    signing_input, good = GOOD[algorithm]
    changed = CHANGES[change](good)
    verdict = VERIFY[algorithm](signing_input, changed)
    assert verdict is pyjwt(algorithm, signing_input, changed)
    assert verdict is (change == "nothing")


@given(st.sampled_from(sorted(SIGNERS)), st.data())
def test_verdicts_are_pyjwts(algorithm: str, data: Any) -> None:
    signing_input, good = GOOD[algorithm]
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    changed = good[:start] + data.draw(st.binary(max_size=end - start + 2)) + good[end:]
    said = data.draw(st.sampled_from([signing_input, b"", signing_input + b"\0", signing_input[:-1]]))
    verdict = VERIFY[algorithm](said, changed)
    assert verdict is pyjwt(algorithm, said, changed)
    assert verdict is ((said, changed) == (signing_input, good))


@pytest.mark.parametrize("algorithm", [name for name in SIGNERS if name.startswith("ES")])
def test_an_ecdsa_signature_keeps_its_leading_zeros(algorithm: str) -> None:
    half = len(GOOD[algorithm][1]) // 2
    signing_input, good = signed(algorithm, lambda good: good[half] == 0)
    assert VERIFY[algorithm](signing_input, good)
    assert not VERIFY[algorithm](signing_input, good[:half] + good[half:].lstrip(b"\0"))


@pytest.mark.parametrize("algorithm", [name for name in SIGNERS if name[:2] in ("RS", "PS")])
def test_an_rsa_signature_keeps_its_leading_zeros(algorithm: str) -> None:
    # Without them OpenSSL takes it for the same where the algorithm is a PS: one token would have two spellings.
    signing_input, good = signed(algorithm, lambda good: good[0] == 0)
    assert VERIFY[algorithm](signing_input, good)
    assert not VERIFY[algorithm](signing_input, good.lstrip(b"\0"))


def test_one_secret_verifies_in_many_threads_at_once() -> None:
    verdicts: set[tuple[bool, bool]] = set()

    def verify(number: int) -> None:
        mine = b"%d" % number
        good = signature("HS256", mine, SIGNERS["HS256"])
        verdicts.update((VERIFY["HS256"](mine, good), VERIFY["HS256"](b"another", good)) for _ in range(500))

    threads = [Thread(target=verify, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {(True, False)}
