from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jwt_middleware.keys import load_keys
from jwt_middleware.signatures import ALGORITHMS, verifier

from .keys import SIGNERS, signature

INPUT = b"header.payload"
KEYS = {algorithm: load_keys(signer)[0].material for algorithm, signer in SIGNERS.items()}
GOOD = {algorithm: signature(algorithm, INPUT, signer) for algorithm, signer in SIGNERS.items()}
VERIFY = {algorithm: verifier(algorithm, key) for algorithm, key in KEYS.items()}


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
    changed = CHANGES[change](GOOD[algorithm])
    good = VERIFY[algorithm](INPUT, changed)
    assert good is pyjwt(algorithm, INPUT, changed)
    assert good is (change == "nothing")


@given(st.sampled_from(sorted(SIGNERS)), st.data())
def test_verdicts_are_pyjwts(algorithm: str, data: Any) -> None:
    good = GOOD[algorithm]
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    changed = good[:start] + data.draw(st.binary(max_size=end - start + 2)) + good[end:]
    signing_input = data.draw(st.sampled_from([INPUT, b"", INPUT + b"\0", INPUT[:-1]]))
    verdict = VERIFY[algorithm](signing_input, changed)
    assert verdict is pyjwt(algorithm, signing_input, changed)
    # ES256 and its like can be signed by more than one number, which nobody finds by chance.
    assert verdict is (signing_input == INPUT and changed == good)


@pytest.mark.parametrize("algorithm", [name for name in SIGNERS if name.startswith("ES")])
def test_an_ecdsa_signature_with_a_leading_zero_keeps_its_length(algorithm: str) -> None:
    half = len(GOOD[algorithm]) // 2
    signed = GOOD[algorithm]
    while signed[half]:
        signed = signature(algorithm, INPUT, SIGNERS[algorithm])
    assert VERIFY[algorithm](INPUT, signed)
    assert not VERIFY[algorithm](INPUT, signed[:half] + signed[half:].lstrip(b"\0"))


def test_one_secret_verifies_in_many_threads_at_once() -> None:
    verdicts: set[tuple[bool, bool]] = set()

    def verify(number: int) -> None:
        mine = b"%d" % number
        good = signature("HS256", mine, SIGNERS["HS256"])
        verdicts.update((VERIFY["HS256"](mine, good), VERIFY["HS256"](INPUT, good)) for _ in range(500))

    threads = [Thread(target=verify, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {(True, False)}
