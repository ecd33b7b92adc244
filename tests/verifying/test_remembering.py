"""A token that was verified before is checked for everything that can change."""

import json
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from jwt_middleware import Refusal, Token, Verifier
from jwt_middleware.errors import BadSignature, Expired, InvalidClaim, MalformedToken, NotYetValid, UnknownKey
from jwt_middleware.keys.key_set import KeySet, load_keys
from jwt_middleware.verifying.memory import MAX_HEADERS

from ..support import NOW, SECRET, Clock, b64, claims, provider, token
from ..support.keys import pem
from .asking import Rotating, named, one_loop

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("cache_size", [0, 1, 16])
async def test_a_token_seen_again_is_judged_by_the_time_it_is_then(cache_size: int) -> None:
    clock = Clock()
    verifier = Verifier(provider(max_token_age=600), clock=clock, cache_size=cache_size)
    raw = token(nbf=NOW, exp=NOW + 300)
    moments: list[tuple[float, type[Refusal] | None]] = [
        (NOW, None),
        (NOW + 304.9, None),
        (NOW + 305, Expired),
        (NOW - 5, None),
        (NOW - 5.1, NotYetValid),
        (NOW + 100, None),
        (NOW + 10_000, Expired),
    ]
    for now, refusal in moments:
        clock.now = now
        if refusal is None:
            assert (await verifier.verify(raw)).subject == "ada"
            continue
        with pytest.raises(refusal) as error:
            await verifier.verify(raw)
        assert (error.value.provider, error.value.subject) == ("jwt", "ada")


async def test_a_token_that_was_good_once_is_refused_when_its_key_is_gone() -> None:
    rotated = provider()
    keys = KeySet(load_keys(named("a")))
    rotated.keys = source = Rotating(keys, keys)
    verifier = Verifier(rotated, clock=lambda: NOW)
    raw = token(header={"kid": "a"})
    assert await verifier.verify(raw)
    source.current = source.after = KeySet(load_keys(named("b")))
    assert verifier.recall(raw.encode()) is None
    with pytest.raises(UnknownKey):
        await verifier.verify(raw)


async def test_bad_tokens_are_not_remembered() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW)
    for raw in (token(SECRET[::-1]), token(exp=NOW - 100), token(aud="stock")):
        with pytest.raises(Refusal):
            await verifier.verify(raw)
        assert verifier.recall(raw.encode()) is None


async def test_a_good_token_is_remembered_until_it_is_not_good() -> None:
    clock = Clock()
    verifier = Verifier(provider(), clock=clock)
    raw = token().encode()
    assert verifier.recall(raw) is None
    await verifier.verify(raw)
    remembered = verifier.recall(raw)
    assert remembered is not None
    assert remembered.subject == "ada"
    clock.now = NOW + 905
    assert verifier.recall(raw) is None


async def test_where_validate_is_to_be_asked_memory_does_not_have_the_last_word() -> None:
    asked: list[str | None] = []

    def only_once(token: Token) -> bool:
        asked.append(token.subject)
        return len(asked) == 1

    verifier = Verifier(provider(validate=only_once), clock=Clock())
    assert await verifier.verify(token())
    raw = token().encode()
    recalled = verifier.recall(raw)
    assert recalled is not None
    assert verifier.must_admit
    for outcome in (verifier.judge(raw, raw), verifier.admit(recalled)):
        assert not isinstance(outcome, Token)
        with pytest.raises(InvalidClaim):
            await outcome
    assert asked == ["ada"] * 3


async def test_where_nothing_else_is_to_be_asked_memory_has_the_last_word() -> None:
    verifier = Verifier(provider(), clock=Clock())
    assert not verifier.must_admit
    raw = token().encode()
    for _ in range(2):
        assert isinstance(verifier.judge(raw, raw), Token)


async def test_a_header_that_was_seen_lets_no_other_payload_pass() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW)
    assert await verifier.verify(token())
    header, _, good = token().split(".")
    for payload in (b'{"sub":"eve"}', b"\xff", b"[]"):
        with pytest.raises((BadSignature, MalformedToken)):
            await verifier.verify(f"{header}.{b64(payload).decode()}.{good}")


async def test_a_remembered_token_is_recalled_by_its_whole_key_only() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW)
    raw = token().encode()
    await verifier.verify(raw, key=b"Bearer " + raw)
    assert verifier.recall(b"Bearer " + raw) is not None
    for key in (
        b"bearer " + raw,
        b"Bearer  " + raw,
        b"Basic " + raw,
        b"Beare" + raw,
        raw,
        raw[-32:],
        b"",
        b"Bearer " + raw[1:],
    ):
        assert verifier.recall(key) is None


async def test_the_claims_of_one_request_are_no_other_requests() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW)
    first = await verifier.verify(token(roles=["a"]))
    first.claims["roles"].append("admin")
    first.claims["sub"] = "eve"
    second = await verifier.verify(token(roles=["a"]))
    assert (second.claims["roles"], second.claims["sub"], second.subject) == (["a"], "ada", "ada")


@pytest.mark.parametrize("order", [pytest.param([0, 1, 0, 1], id="first"), pytest.param([1, 0, 1, 0], id="second")])
async def test_two_good_tokens_with_one_signature_are_not_taken_for_each_other(order: list[int]) -> None:
    raws, key = twins("ada", "eve")
    verifier = Verifier(provider(key=key), clock=lambda: NOW)
    assert raws[0].rpartition(".")[2] == raws[1].rpartition(".")[2]
    assert raws[0] != raws[1]
    for number in order:
        assert (await verifier.verify(raws[number])).subject == ("ada", "eve")[number]
        for remembered in map(verifier.recall, [raw.encode() for raw in raws]):
            assert remembered is None or remembered.subject == ("ada", "eve")[order[0]]


def twins(*subjects: str) -> tuple[list[str], bytes]:
    """Two tokens with the very same ES256 signature, and the key that verifies both: made by who may choose the key."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    header = b64(b'{"alg":"ES256"}')
    inputs = [header + b"." + b64(json.dumps(claims(sub=subject)).encode()) for subject in subjects]
    first, second = (int.from_bytes(sha256(each).digest()) for each in inputs)
    # With the nonces k and -k, r is the same; s is so too for one private key.
    r = ec.derive_private_key(2**200 + 1, ec.SECP256R1()).public_key().public_numbers().x % order
    private = -(first + second) * pow(2 * r, -1, order) % order
    s = (first + r * private) * pow(2**200 + 1, -1, order) % order
    signature = b64(r.to_bytes(32) + s.to_bytes(32))
    return [(each + b"." + signature).decode() for each in inputs], pem(ec.derive_private_key(private, ec.SECP256R1()))


@one_loop
async def test_any_number_of_headers_can_be_seen() -> None:
    verifier = Verifier(provider(), clock=lambda: NOW, cache_size=0)
    for number in range(MAX_HEADERS + 2):
        assert (await verifier.verify(token(header={"kid": str(number)}))).kid == str(number)
