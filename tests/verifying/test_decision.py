"""The decision over plain values: one provider's, and the one that counts among several."""

import json
from itertools import permutations
from typing import Any

import pytest

from jwt_middleware.errors import (
    AlgorithmNotAllowed,
    BadSignature,
    Expired,
    KeysUnavailable,
    NotYetValid,
    Refusal,
    UnknownKey,
    WrongAudience,
)
from jwt_middleware.keys.key_set import MAX_TRIES, KeySet, load_keys
from jwt_middleware.verifying.claims import ClaimRules
from jwt_middleware.verifying.compact import decode
from jwt_middleware.verifying.decision import decide, depends_on_keys, describe, is_temporary, last_word
from jwt_middleware.verifying.token import Token

from ..support import NOW, SECRET, claims, token

RULES = ClaimRules(provider="staff", audiences=frozenset({"orders"}))


def decided(raw: str, keys: KeySet, *, now: float = NOW, max_checks: int = MAX_TRIES) -> Token:
    compact = decode(raw.encode())
    return Token(decide(compact, json.loads(compact.payload), keys, RULES, now, max_checks)[1])


def secrets(*texts: str) -> KeySet:
    return KeySet(load_keys(list(texts)))


def test_a_token_is_good_by_the_keys_and_rules_of_one_provider_at_one_moment() -> None:
    keys = secrets(SECRET[::-1], SECRET)
    good = decided(token(), keys)
    assert (good.provider, good.subject, good.good_until) == ("staff", "ada", NOW + 905)
    with pytest.raises(Expired):
        decided(token(), keys, now=NOW + 905)
    with pytest.raises(WrongAudience):
        decided(token(aud="billing"), keys)


@pytest.mark.parametrize("max_checks", [0, 1, 2, 3, 8])
def test_no_more_keys_are_tried_than_is_said(max_checks: int) -> None:
    keys = secrets(*(f"{SECRET} {number}" for number in range(5)))
    with pytest.raises(BadSignature) as refused:
        decided(token(), keys, max_checks=max_checks)
    assert refused.value.tried == min(max_checks, 5)
    assert decided(token(f"{SECRET} 4"), keys).subject == "ada"


@pytest.mark.parametrize(
    ("refusal", "subject"),
    [
        pytest.param(Expired(), "ada", id="verified"),
        pytest.param(WrongAudience(), "ada", id="verified, for another"),
        pytest.param(BadSignature(), None, id="not verified"),
        pytest.param(UnknownKey(), None, id="an unknown key"),
        pytest.param(AlgorithmNotAllowed(), None, id="another algorithm"),
        pytest.param(KeysUnavailable(), None, id="no keys"),
    ],
)
def test_a_refusal_names_the_subject_only_after_a_good_signature(refusal: Refusal, subject: str | None) -> None:
    header = decode(token(header={"kid": "k"}).encode()).header
    described = describe(refusal, RULES, header, claims())
    assert described is refusal
    assert (refusal.provider, refusal.kid, refusal.subject) == ("staff", "k", subject)


# From the one that says least of the token to the one that says most.
BY_WEIGHT: list[type[Refusal]] = [UnknownKey, BadSignature, KeysUnavailable, Expired]


@pytest.mark.parametrize("kinds", list(permutations(BY_WEIGHT)), ids=lambda kinds: " ".join(k.code for k in kinds))
def test_the_refusal_that_got_furthest_counts(kinds: tuple[type[Refusal], ...]) -> None:
    for count in range(1, len(kinds) + 1):
        first = kinds[:count]
        assert type(last_word([kind() for kind in first])) is max(first, key=BY_WEIGHT.index)


def test_of_equal_refusals_the_first_counts() -> None:
    refusals = [Expired(), WrongAudience()]
    assert last_word(refusals) is refusals[0]
    assert last_word(refusals[::-1]) is refusals[1]


@pytest.mark.parametrize(
    ("refusal", "newer_keys", "later"),
    [
        (UnknownKey(), True, False),
        (AlgorithmNotAllowed(), True, False),
        (BadSignature(), True, False),
        (KeysUnavailable(), False, True),
        (NotYetValid(), False, True),
        (Expired(), False, False),
        (WrongAudience(), False, False),
    ],
    ids=lambda value: value.code if isinstance(value, Refusal) else str(value),
)
def test_some_refusals_can_change_with_newer_keys_and_some_with_time(
    refusal: Any, newer_keys: bool, later: bool
) -> None:
    assert (depends_on_keys(refusal), is_temporary(refusal)) == (newer_keys, later)


def test_an_algorithm_that_is_not_allowed_is_named_to_the_operator() -> None:
    header = decode(token().encode()).header
    assert describe(AlgorithmNotAllowed(), RULES, header, claims()).found == "HS256"
