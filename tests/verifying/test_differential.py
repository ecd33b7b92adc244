"""What PyJWT refuses is refused here too, and whatever comes ends in a token or a refusal, in good time."""

import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jwt_middleware import ANY, Provider, Refusal, Token, Verifier
from jwt_middleware.errors import BadSignature, MalformedToken
from jwt_middleware.verifying.verifier import MAX_TOKEN_SIZE

from ..support import NOW, SECRET, b64, claims, signed
from ..support.keys import RSA, pem, signature

ISSUER = "https://login.example"


def outcome(verifier: Verifier, raw: str | bytes) -> Token | Refusal:
    """What ``verify`` ends in. With keys that are there it never waits, so it needs no event loop."""
    coroutine = verifier.verify(raw)
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        token: Token = stopped.value
        return token
    except Refusal as refusal:
        return refusal
    raise AssertionError("verify() waited")


def pyjwt_refuses(raw: bytes, **options: Any) -> bool:
    try:
        jwt.decode(raw, **options)
    except jwt.PyJWTError:
        return True
    return False


# The settings of one verifier, as Provider and as PyJWT take them.
SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"key": SECRET, "audience": "orders", "issuer": ISSUER},
        {"key": SECRET, "algorithms": ["HS256"], "audience": "orders", "issuer": ISSUER, "leeway": 5},
    ),
    (
        {"key": SECRET, "audience": ["orders", "stock"], "leeway": 0},
        {"key": SECRET, "algorithms": ["HS256"], "audience": ["orders", "stock"]},
    ),
    (
        {"key": SECRET, "audience": ANY, "issuer": [ISSUER, "joe"], "required_claims": ["sub"]},
        {"key": SECRET, "algorithms": ["HS256"], "issuer": [ISSUER, "joe"], "leeway": 5},
    ),
    (
        {"key": pem(RSA), "audience": "orders"},
        {"key": pem(RSA), "algorithms": ["RS256", "PS256"], "audience": "orders", "leeway": 5},
    ),
]
for ours, theirs in SETTINGS:
    theirs["options"] = {
        "require": ["exp", *ours.get("required_claims", ())],
        "verify_aud": ours["audience"] is not ANY,
    }

# PyJWT's clock cannot be set, so dates are relative to it, and some way off each limit.
START = int(time.time())
DATES = [START + offset for offset in (-(10**6), -(10**4), 0, 10**4, 10**6)]

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        -1,
        0.5,
        1e300,
        float("nan"),
        float("inf"),
        10**30,
        "",
        "1",
        "x",
        [],
        {},
        [None],
        {"a": 1},
    ]
)
STRINGS = st.sampled_from(["orders", "stock", "joe", ISSUER, ISSUER + "/", "ORDERS", "ada", "a\0b", "\ud800"])
NUMBERS = st.sampled_from(DATES) | st.sampled_from(DATES).map(lambda date: date + 0.5) | st.sampled_from(DATES).map(str)
VALUES = ODD | STRINGS | NUMBERS | st.lists(ODD | STRINGS, max_size=3)

GOOD = {"iss": ISSUER, "sub": "ada", "aud": "orders", "iat": START - 10**4, "exp": START + 10**4, "jti": "1"}
NAMES = st.sampled_from([*GOOD, "nbf", "x"])
CLAIMS = st.builds(
    lambda changes, without: {name: value for name, value in {**GOOD, **changes}.items() if name not in without},
    st.dictionaries(NAMES, VALUES, max_size=3),
    st.sets(NAMES, max_size=1),
)
ALGORITHMS = st.sampled_from(["HS256", "RS256", "PS256"])
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jku", "x"]),
    ODD | st.sampled_from(["HS256", "RS256", "none", "None", "HS512", ["exp"], "JWT", "at+jwt"]),
    max_size=2,
)


def replaced(data: bytes, place: int, length: int, new: bytes) -> bytes:
    start = place % (len(data) + 1)
    return data[:start] + new + data[start + length :]


# One change of a text, most often none.
Change = Callable[[bytes], bytes]
PIECES = st.binary(max_size=3) | st.sampled_from(
    [
        b".",
        b"=",
        b"==",
        b"A",
        b"-",
        b"_",
        b"+",
        b"\n",
        b" ",
        b'"',
        b"{",
        b"[",
        b",",
        b'"a":1,"a":1,',
        b"NaN",
        b"\\u0000",
        b"1e999",
    ]
)
CHANGES: st.SearchStrategy[Change] = st.just(bytes) | st.builds(
    lambda place, length, new: lambda data: replaced(data, place, length, new),
    st.integers(0, 1000),
    st.integers(0, 3),
    PIECES,
)


@given(CLAIMS, HEADERS, ALGORITHMS, st.sampled_from(SETTINGS), CHANGES, CHANGES, CHANGES)
@settings(max_examples=400, deadline=None)
def test_what_pyjwt_refuses_is_refused(
    payload: dict[str, Any],
    header: dict[str, Any],
    algorithm: str,
    setting: tuple[dict[str, Any], dict[str, Any]],
    change_header: Change,
    change_payload: Change,
    change_token: Change,
) -> None:
    provider, options = setting
    parts = (
        change_header(json.dumps({"alg": algorithm, **header}).encode()),
        change_payload(json.dumps(payload).encode()),
    )
    signing_input = b".".join(b64(part) for part in parts)
    key = SECRET.encode() if algorithm == "HS256" else RSA
    raw = change_token(signing_input + b"." + b64(signature(algorithm, signing_input, key)))
    ended = outcome(Verifier(Provider(**provider)), raw)
    if pyjwt_refuses(raw, **options) and isinstance(ended, Token):
        plain = without_tolerances(ended.header), without_tolerances(ended.claims)
        assert plain != (ended.header, ended.claims)
        spelled = b".".join(b64(json.dumps(part).encode()) for part in plain)
        spelled += b"." + b64(signature(ended.header["alg"], spelled, key))
        assert not pyjwt_refuses(spelled, **options)


def without_tolerances(members: dict[str, Any]) -> dict[str, Any]:
    """A header or claims as PyJWT wants them: without null, and with the integers that we take for text as text."""
    plain = {name: value for name, value in members.items() if value is not None}
    for name in ("kid", "sub"):
        if type(plain.get(name)) is int:
            plain[name] = str(plain[name])
    return plain


# What is accepted here and refused by PyJWT. There is nothing else: see the test above.
TOLERANCES = [
    pytest.param({"kid": None}, {}, id="a kid that is null"),
    pytest.param({"kid": 7}, {}, id="a kid that is a number"),
    pytest.param({}, {"sub": 7}, id="a subject that is a number"),
    pytest.param({}, {"nbf": None}, id="nbf that is null"),
    pytest.param({}, {"iat": None}, id="iat that is null"),
    pytest.param({}, {"jti": None}, id="jti that is null"),
]


@pytest.mark.parametrize(("header", "changes"), TOLERANCES)
def test_each_tolerance_is_one_that_pyjwt_does_not_have(header: dict[str, Any], changes: dict[str, Any]) -> None:
    provider, options = SETTINGS[0]
    raw = signed({"alg": "HS256", **header}, {**GOOD, **changes}).encode()
    assert isinstance(outcome(Verifier(Provider(**provider)), raw), Token)
    assert pyjwt_refuses(raw, **options)


@pytest.mark.parametrize(
    ("header", "changes"),
    [
        pytest.param({"kid": True}, {}, id="a kid that is true"),
        pytest.param({"kid": 7.0}, {}, id="a kid that is a fraction"),
        pytest.param({"crit": None}, {}, id="crit that is null"),
        pytest.param({}, {"sub": True}, id="a subject that is true"),
        pytest.param({}, {"sub": 7.0}, id="a subject that is a fraction"),
        pytest.param({}, {"sub": 2**64}, id="a subject of more than 64 bits"),
        pytest.param({}, {"sub": None}, id="a subject that is null"),
        pytest.param({}, {"aud": None}, id="an audience that is null"),
        pytest.param({}, {"exp": None}, id="an expiry that is null"),
        pytest.param({}, {"iss": None}, id="an issuer that is null"),
        pytest.param({}, {"jti": 7}, id="an id that is a number"),
        pytest.param({}, {"iss": 7}, id="an issuer that is a number"),
    ],
)
def test_what_lies_beside_a_tolerance_stays_refused(header: dict[str, Any], changes: dict[str, Any]) -> None:
    provider, _ = SETTINGS[0]
    raw = signed({"alg": "HS256", **header}, {**GOOD, **changes})
    assert isinstance(outcome(Verifier(Provider(**provider)), raw), Refusal)


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_plainly_good_both_accept(setting: tuple[dict[str, Any], dict[str, Any]]) -> None:
    provider, options = setting
    algorithm = options["algorithms"][0]
    raw = jwt.encode(GOOD, SECRET if algorithm == "HS256" else RSA, algorithm=algorithm).encode()
    assert not pyjwt_refuses(raw, **options)
    assert isinstance(outcome(Verifier(Provider(**provider)), raw), Token)


VERIFIER = Verifier(
    [Provider(key=SECRET, audience="orders"), Provider(name="rsa", key=RSA, audience="orders")], clock=lambda: NOW
)

SEGMENTS = st.binary(max_size=40) | st.text('{}[]":,\\u0eE1-.NaIlg HS256\n').map(str.encode)


@given(
    st.binary()
    | st.text()
    | st.lists(SEGMENTS.map(b64) | SEGMENTS, min_size=2, max_size=6).map(b".".join)
    | st.builds(signed, st.just({"alg": "HS256"}), SEGMENTS)
    | st.builds(signed, SEGMENTS, SEGMENTS)
)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_ends_in_a_token_or_a_refusal(raw: str | bytes) -> None:
    assert isinstance(outcome(VERIFIER, raw), Token | Refusal)


ROOM = 11_000
"""Bytes of JSON that a token of the largest size has room for, header and signature beside it."""


def filled(start: bytes, unit: bytes, end: bytes = b"") -> bytes:
    return start + unit * ((ROOM - len(start) - len(end)) // len(unit)) + end


MANY_NAMES = b",".join(b'"%d":0' % number for number in range(1200))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(filled(b"", b"["), id="open lists"),
        pytest.param(filled(b"", b'{"":'), id="open objects"),
        pytest.param(filled(b'{"a":' + b"[" * 5000, b"]", b"}"), id="deep lists"),
        pytest.param(filled(b"{", b'"'), id="quotes"),
        pytest.param(filled(b'{"', b"\\"), id="backslashes"),
        pytest.param(filled(b'{"a":"', b'\\"'), id="escaped quotes"),
        pytest.param(filled(b'{"a":"', b'[\\"', b'"}'), id="escaped quotes and brackets"),
        pytest.param(filled(b'{"a":"[', b"["), id="brackets in an open string"),
        pytest.param(filled(b'{"a":', b'"["', b"}"), id="strings of brackets"),
        pytest.param(filled(b'{"a":"', b"\\u0061", b'"}'), id="escapes"),
        pytest.param(filled(b'{"a":"', b"\\ud800", b'"}'), id="unpaired surrogates"),
        pytest.param(filled(b'{"a":', b"1", b"}"), id="a number of 11,000 digits"),
        pytest.param(filled(b'{"exp":', b"9", b"}"), id="an expiry of 11,000 digits"),
        pytest.param(filled(b'{"a":-', b"1", b"}"), id="a negative number of 11,000 digits"),
        pytest.param(filled(b'{"a":0.', b"1", b"}"), id="a fraction of 11,000 digits"),
        pytest.param(filled(b'{"a":1e', b"1", b"}"), id="an exponent of 11,000 digits"),
        pytest.param(filled(b'{"a":[0', b"," + b"9" * 4000, b"]}"), id="numbers of 4,000 digits"),
        pytest.param(filled(b"{", b'"a":0,', b'"a":0}'), id="one name many times"),
        pytest.param(b"{" + MANY_NAMES + b"}", id="many names"),
        pytest.param(filled(b'{"a":[[]', b",[]", b"]}"), id="many lists"),
        pytest.param(filled(b'{"scope":"', b"a ", b'"}'), id="many scopes"),
        pytest.param(filled(b'{"aud":["a"', b',"a"', b"]}"), id="many audiences"),
        pytest.param(filled(b"", b" ", b"{}"), id="white space"),
        pytest.param(filled(b"{}", b" ", b"x"), id="white space before trailing text"),
        pytest.param(filled(b'{"a":"', "\N{GRINNING FACE}".encode(), b'"}'), id="four bytes each"),
        pytest.param(filled(b"", b"\xff"), id="not UTF-8"),
        pytest.param(filled(b"", b"\0"), id="NULs"),
    ],
)
@pytest.mark.parametrize("place", ["header", "payload"])
def test_the_largest_hostile_token_is_judged_within_a_second(data: bytes, place: str) -> None:
    good = json.dumps(claims()).encode()
    header, payload = (data, good) if place == "header" else (b'{"alg":"HS256"}', data)
    raw = signed(header, payload)
    assert len(raw) <= MAX_TOKEN_SIZE
    started = time.perf_counter()
    refusal = outcome(VERIFIER, raw)
    assert time.perf_counter() - started < 1
    assert isinstance(refusal, Refusal)
    assert not isinstance(refusal, BadSignature)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"." * MAX_TOKEN_SIZE, id="dots"),
        pytest.param(b"A" * MAX_TOKEN_SIZE, id="one segment"),
        pytest.param(b"=" * MAX_TOKEN_SIZE, id="padding"),
        pytest.param(b"\xff" * MAX_TOKEN_SIZE, id="bytes over 127"),
        pytest.param(b"a." * (MAX_TOKEN_SIZE // 2), id="short segments"),
        pytest.param(b64(b'{"alg":"HS256"}') + b".e30." + b"=" * 16_000, id="a signature of padding"),
        pytest.param(b64(b'{"alg":"HS256"}') + b".e3\n0." + b"A" * 16_000, id="a line's end"),
    ],
)
def test_the_largest_text_that_is_no_token_is_refused_within_a_second(raw: bytes) -> None:
    started = time.perf_counter()
    refusal = outcome(VERIFIER, raw)
    assert time.perf_counter() - started < 1
    assert type(refusal) is MalformedToken


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "PS512"])
def test_the_largest_signature_is_refused_within_a_second(algorithm: str) -> None:
    raw = b".".join((b64(json.dumps({"alg": algorithm}).encode()), b64(json.dumps(claims()).encode()), b"A" * 16_000))
    started = time.perf_counter()
    refusal = outcome(VERIFIER, raw)
    assert time.perf_counter() - started < 1
    assert type(refusal) is BadSignature
