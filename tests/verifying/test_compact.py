import json
from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jwt_middleware.errors import EncryptedToken, MalformedToken, Refusal
from jwt_middleware.verifying.compact import (
    MAX_DEPTH,
    base64url_decode,
    base64url_encode,
    decode,
    decode_header,
    encode,
    json_object,
)

from ..support import b64

HEADER = b'{"alg":"HS256"}'


def raw(header: bytes = HEADER, payload: bytes = b"{}", signature: bytes = b"signature") -> bytes:
    return b".".join(b64(part) for part in (header, payload, signature))


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


def test_a_token_is_taken_apart() -> None:
    token = decode(raw(b'{"alg":"HS256","kid":"2026","typ":"JWT"}', b'{"sub":"ada"}', b"\xff\x00"))
    assert token.header.json == b'{"alg":"HS256","kid":"2026","typ":"JWT"}'
    assert token.header.algorithm == "HS256"
    assert token.header.kid == "2026"
    assert token.payload == b'{"sub":"ada"}'
    assert token.signature == b"\xff\x00"
    assert token.signing_input == b64(b'{"alg":"HS256","kid":"2026","typ":"JWT"}') + b"." + b64(b'{"sub":"ada"}')


def test_a_token_without_a_kid_has_none() -> None:
    assert decode(raw()).header.kid is None


def test_empty_payloads_and_signatures_are_for_others_to_judge() -> None:
    token = decode(raw(payload=b"", signature=b""))
    assert (token.payload, token.signature) == (b"", b"")


@pytest.mark.parametrize(
    ("spelling", "refusal"),
    [
        pytest.param(b"", MalformedToken, id="nothing"),
        pytest.param(b64(HEADER), MalformedToken, id="one segment"),
        pytest.param(b64(HEADER) + b".e30", MalformedToken, id="two segments"),
        pytest.param(b"..", MalformedToken, id="three empty segments"),
        pytest.param(b".e30.c2ln", MalformedToken, id="an empty header"),
        pytest.param(raw() + b".", MalformedToken, id="a dot at the end"),
        pytest.param(b"." + raw(), MalformedToken, id="a dot at the start"),
        pytest.param(raw() + b".c2ln", MalformedToken, id="four segments"),
        pytest.param(b"....", EncryptedToken, id="five empty segments"),
        pytest.param(raw() + b".aXY.dGFn", EncryptedToken, id="five segments"),
        pytest.param(raw() + b".aXY.dGFn.e30", MalformedToken, id="six segments"),
        pytest.param(b"." * 16384, MalformedToken, id="dots alone"),
        pytest.param(b'{"payload":"e30","signatures":[]}', MalformedToken, id="the JSON serialisation"),
    ],
)
def test_a_token_has_three_segments(spelling: bytes, refusal: type[Refusal]) -> None:
    with pytest.raises(Refusal) as refused:
        decode(spelling)
    assert type(refused.value) is refusal


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"{}", id="no alg"),
        pytest.param(b'{"alg":null}', id="alg is null"),
        pytest.param(b'{"alg":256}', id="alg is a number"),
        pytest.param(b'{"alg":["HS256"]}', id="alg is a list"),
        pytest.param(b'{"alg":{"HS256":1}}', id="alg is an object"),
        pytest.param(b'{"ALG":"HS256"}', id="alg in capitals"),
        pytest.param(b'{"alg":"HS256","kid":7.0}', id="kid is a fraction"),
        pytest.param(b'{"alg":"HS256","kid":-9223372036854775809}', id="kid has more than 64 bits"),
        pytest.param(b'{"alg":"HS256","kid":true}', id="kid is a boolean"),
        pytest.param(b'{"alg":"HS256","kid":["2026"]}', id="kid is a list"),
        pytest.param(b'{"alg":"HS256","kid":{}}', id="kid is an object"),
        pytest.param(b'{"alg":"HS256","typ":1}', id="typ is a number"),
        pytest.param(b'{"alg":"HS256","crit":["exp"],"exp":1}', id="crit"),
        pytest.param(b'{"alg":"HS256","crit":[]}', id="an empty crit"),
        pytest.param(b'{"alg":"HS256","crit":null}', id="crit is null"),
        pytest.param(b'{"alg":"HS256","b64":false}', id="b64 without crit"),
        pytest.param(b'{"alg":"HS256","b64":true}', id="b64 that changes nothing"),
        pytest.param(b'{"alg":"HS256","b64":false,"crit":["b64"]}', id="b64 with crit"),
        pytest.param(b'{"alg":"none","alg":"HS256"}', id="alg twice"),
        pytest.param(b'{"alg":"HS256","kid":"a","kid":"a"}', id="kid twice"),
        pytest.param(b'{"alg":"HS256","\\u0061lg":"HS256"}', id="alg twice, once with an escape"),
        pytest.param(b'["HS256"]', id="a list"),
        pytest.param(b'"HS256"', id="a string"),
    ],
)
def test_a_header_that_could_mean_two_things_is_refused(header: bytes) -> None:
    with pytest.raises(MalformedToken):
        decode(raw(header))


@pytest.mark.parametrize(
    "kid",
    ["", "a" * 10_000, "\0", "../../../dev/null", "' OR 1=1 --", "2026\n", "\N{SNOWMAN}", "https://evil.example/"],
)
def test_a_kid_is_any_string(kid: str) -> None:
    assert decode(raw(json.dumps({"alg": "HS256", "kid": kid}).encode())).header.kid == kid


def test_keys_and_addresses_in_the_header_are_only_text() -> None:
    members = {"jku": "https://evil.example/", "jwk": {"kty": "oct", "k": "QQ"}, "x5u": 1, "x5c": ["QQ"], "x5t": None}
    assert decode(raw(json.dumps({"alg": "HS256", **members}).encode())).header.algorithm == "HS256"


SPELLINGS = [
    pytest.param(b"e30=", id="padding"),
    pytest.param(b"e30==", id="too much padding"),
    pytest.param(b"e3=0", id="padding inside"),
    pytest.param(b"====", id="padding alone"),
    pytest.param(b"e30\n", id="a line's end"),
    pytest.param(b" e30", id="a space in front"),
    pytest.param(b"e 30", id="a space inside"),
    pytest.param(b"e30\0", id="NUL"),
    pytest.param(b"e30\t", id="a tab"),
    pytest.param(b"--_+", id="a plus"),
    pytest.param(b"--_/", id="a slash"),
    pytest.param(b"e3!A", id="an exclamation mark"),
    pytest.param(b"e30*", id="an asterisk"),
    pytest.param(b"e3\xb00", id="a byte over 127"),
    pytest.param("e\N{FULLWIDTH DIGIT THREE}0".encode(), id="a wide digit"),
    pytest.param(b"e31", id="stray bits after two bytes"),
    pytest.param(b"e33", id="all stray bits after two bytes"),
    pytest.param(b"QR", id="stray bits after one byte"),
    pytest.param(b"Qf", id="all stray bits after one byte"),
    pytest.param(b"e30A0", id="one character over"),
    pytest.param(b"e", id="one character"),
    pytest.param(b"%65%33", id="percent encoding"),
]


@pytest.mark.parametrize("segment", SPELLINGS)
def test_base64url_has_one_spelling(segment: bytes) -> None:
    with pytest.raises(MalformedToken):
        base64url_decode(segment)


@pytest.mark.parametrize("segment", SPELLINGS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_segment_has_one_spelling(segment: bytes, position: int) -> None:
    segments = raw().split(b".")
    segments[position] = segment
    with pytest.raises(MalformedToken):
        decode(b".".join(segments))


@pytest.mark.parametrize(
    ("segment", "data"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"QQ", b"A", id="a remainder of two"),
        pytest.param(b"QUI", b"AB", id="a remainder of three"),
        pytest.param(b"QUJD", b"ABC", id="no remainder"),
        pytest.param(b"-_-_", b"\xfb\xff\xbf", id="the characters of its own"),
    ],
)
def test_base64url_of_every_length_is_read(segment: bytes, data: bytes) -> None:
    assert base64url_decode(segment) == data
    assert base64url_encode(data) == segment


@given(st.binary())
def test_base64url_is_read_as_it_is_written(data: bytes) -> None:
    assert base64url_decode(urlsafe_b64encode(data).rstrip(b"=")) == data


@given(st.binary() | st.binary().map(b64encode) | st.text("AQgw-_=+/ \n").map(str.encode))
def test_no_two_spellings_are_the_same_bytes(segment: bytes) -> None:
    try:
        data = base64url_decode(segment)
    except MalformedToken:
        return
    assert urlsafe_b64encode(data).rstrip(b"=") == segment


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" ", id="a space"),
        pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
        pytest.param(b"\xff{}", id="not UTF-8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="a surrogate in UTF-8"),
        pytest.param(b'{"a":"\xc0\x80"}', id="an overlong NUL"),
        pytest.param('{"a":1}'.encode("utf-16"), id="UTF-16"),
        pytest.param('{"a":1}'.encode("utf-16-le"), id="UTF-16 without a mark"),
        pytest.param('{"a":1}'.encode("utf-32"), id="UTF-32"),
        pytest.param('{"a":1}'.encode("utf-32-be"), id="UTF-32 without a mark"),
        pytest.param(b'{"a":1,"a":1}', id="a name twice"),
        pytest.param(b'{"a":1,"\\u0061":1}', id="a name twice, once with an escape"),
        pytest.param(b'{"o":{"a":1,"a":2}}', id="a name twice in a nested object"),
        pytest.param(b'{"l":[{"a":1,"a":2}]}', id="a name twice in a list"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":Infinity}', id="Infinity"),
        pytest.param(b'{"a":-Infinity}', id="-Infinity"),
        pytest.param(b'{"a":1e999}', id="a number that floats cannot hold"),
        pytest.param(b'{"a":[-1e999]}', id="a negative number that floats cannot hold"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", id="a number of 5,000 digits"),
        pytest.param(b'{"a":01}', id="a leading zero"),
        pytest.param(b'{"a":+1}', id="a plus"),
        pytest.param(b'{"a":.5}', id="no digit before the point"),
        pytest.param(b'{"a":1.}', id="no digit after the point"),
        pytest.param(b'{"a":0x1}', id="hexadecimal"),
        pytest.param(b'{"a":1_0}', id="an underscore"),
        pytest.param(b"{}{}", id="two objects"),
        pytest.param(b"{}x", id="trailing text"),
        pytest.param(b"{}\0", id="a trailing NUL"),
        pytest.param(b'{"a":1,}', id="a trailing comma"),
        pytest.param(b'{"a":[1,]}', id="a trailing comma in a list"),
        pytest.param(b"{'a':1}", id="single quotes"),
        pytest.param(b"{a:1}", id="a name without quotes"),
        pytest.param(b'{"a":1/**/}', id="a comment"),
        pytest.param(b'{"a":"\n"}', id="a line's end in a string"),
        pytest.param(b'{"a":"\\x41"}', id="an unknown escape"),
        pytest.param(b'{"a":"b', id="an open string"),
        pytest.param(b'{"a":"\\', id="an open escape"),
        pytest.param(b'{"a"', id="an open object"),
        pytest.param(b'{"a":"\\ud800"}', id="an unpaired surrogate"),
        pytest.param(b'{"a":"\\udc00\\ud800"}', id="surrogates in the wrong order"),
        pytest.param(b'{"\\ud800":1}', id="an unpaired surrogate in a name"),
        pytest.param(b"\xc2\xa0{}", id="a space that is not JSON's"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"a"', id="a string"),
        pytest.param(b"1", id="a number"),
        pytest.param(b"true", id="a boolean"),
        pytest.param(b"null", id="null"),
    ],
)
def test_what_is_not_one_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedToken):
        json_object(data)


SPACE = [pytest.param(space, id=repr(space)) for space in ["", " ", "\t", "\n", "\r", " \r\n\t "]]


@pytest.mark.parametrize("space", SPACE)
@pytest.mark.parametrize(
    "first",
    [
        pytest.param('"a":1', id="a number"),
        pytest.param('"a":"b"', id="a string"),
        pytest.param('"a":":"', id="a colon"),
        pytest.param('"a":"\\":"', id="a quote and a colon"),
        pytest.param('"a":"{"', id="a brace"),
        pytest.param('"a":[]', id="a list"),
        pytest.param('"a":{}', id="an object"),
        pytest.param('"b":"","a":{"a":1,"b":2}', id="other names"),
    ],
)
def test_a_name_that_stands_twice_is_found_whatever_stands_between(first: str, space: str) -> None:
    json_object(f"{{{first}}}".encode())
    for second in (f'"a"{space}:1', f'"a"{space}:{space}":"', f'"c":"","a"{space}:1'):
        for text in (f"{first},{second}", f"{second},{first}"):
            with pytest.raises(MalformedToken):
                json_object(f"{{{text}}}".encode())


@pytest.mark.parametrize(
    ("data", "value"),
    [
        pytest.param(b"{}", {}, id="nothing in it"),
        pytest.param(b' \t\r\n{ "a" : 1 }\n', {"a": 1}, id="white space"),
        pytest.param(b'{"a":-0.5e-3}', {"a": -0.0005}, id="a fraction"),
        pytest.param(b'{"a":1e308}', {"a": 1e308}, id="a large number"),
        pytest.param(b'{"a":"\\ud83d\\ude00"}', {"a": "\N{GRINNING FACE}"}, id="a surrogate pair"),
        pytest.param('{"a":"\N{GRINNING FACE}"}'.encode(), {"a": "\N{GRINNING FACE}"}, id="four bytes of UTF-8"),
        pytest.param(b'{"a":"\\u0000"}', {"a": "\0"}, id="NUL"),
        pytest.param(b'{"a":{"a":1}}', {"a": {"a": 1}}, id="one name in two objects"),
        pytest.param(b'{"a":1,"A":2}', {"a": 1, "A": 2}, id="names that differ in case"),
    ],
)
def test_a_json_object_is_read(data: bytes, value: dict[str, Any]) -> None:
    assert json_object(data) == value


@pytest.mark.parametrize(
    "deepest",
    [
        pytest.param(nested(MAX_DEPTH - 1), id="lists"),
        pytest.param(nested(MAX_DEPTH - 2, '{"a":', "}").replace(":}", ":{}}", 1), id="objects"),
        pytest.param('"' + "[" * 100 + '"', id="brackets in a string"),
        pytest.param('"\\"' + "[{" * 100 + '"', id="brackets behind an escaped quote"),
        pytest.param('["\\\\",' + '"]",' * 100 + "[]]", id="brackets in many strings"),
        pytest.param("[" + ",".join(["[]"] * 100) + "]", id="many lists side by side"),
    ],
)
def test_as_many_levels_as_allowed_are_read(deepest: str) -> None:
    assert json_object(b'{"a":' + deepest.encode() + b"}") == {"a": json.loads(deepest)}


@pytest.mark.parametrize(
    "too_deep",
    [
        pytest.param(nested(MAX_DEPTH), id="lists"),
        pytest.param(nested(MAX_DEPTH - 1, '{"a":', "}").replace(":}", ":{}}", 1), id="objects"),
        pytest.param('["]]]]]]]]",' + nested(MAX_DEPTH - 1) + "]", id="closing brackets in a string"),
        pytest.param("[" * 8000, id="never closed"),
        pytest.param(nested(4000), id="very deep"),
    ],
)
def test_one_level_more_is_refused(too_deep: str) -> None:
    with pytest.raises(MalformedToken):
        json_object(b'{"a":' + too_deep.encode() + b"}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), JSON))
@settings(max_examples=30)
def test_what_json_writes_is_read(value: dict[str, Any]) -> None:
    try:
        data = json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        with pytest.raises(MalformedToken):
            json_object(json.dumps(value).encode())
    else:
        assert json_object(data) == json_object(json.dumps(value).encode()) == value


@given(st.binary() | st.text('{}[]":,\\u0e1-.NaIty \n').map(str.encode))
def test_any_bytes_are_an_object_or_malformed(data: bytes) -> None:
    try:
        value = json_object(data)
    except MalformedToken:
        return
    # Whatever is accepted can be written again.
    assert json_object(json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")) == value


def test_a_token_is_encoded_as_it_is_decoded() -> None:
    spelled = encode({"alg": "HS256"}, {"sub": "Åda"}, lambda signing_input: signing_input[::-1])
    token = decode(spelled.encode("ascii"))
    assert token.header.json == b'{"alg":"HS256"}'
    assert json_object(token.payload) == {"sub": "Åda"}
    assert token.signature == token.signing_input[::-1]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(float("nan"), id="NaN"),
        pytest.param(float("inf"), id="infinity"),
        pytest.param("\ud800", id="an unpaired surrogate"),
        pytest.param({1, 2}, id="a set"),
        pytest.param(b"bytes", id="bytes"),
    ],
)
def test_what_json_cannot_hold_is_not_encoded(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode({"alg": "HS256"}, {"value": value}, bytes)


def test_two_tokens_joined_by_a_comma_are_no_encrypted_token() -> None:
    with pytest.raises(MalformedToken):
        decode(raw() + b", Bearer " + raw())


@pytest.mark.parametrize(
    ("parameters", "kid", "typ"),
    [
        pytest.param(b'"kid":"7"', "7", "", id="a text"),
        pytest.param(b'"kid":7', "7", "", id="a number"),
        pytest.param(b'"kid":-7', "-7", "", id="a negative number"),
        pytest.param(b'"kid":18446744073709551615', "18446744073709551615", "", id="64 bits"),
        pytest.param(b'"kid":null', None, "", id="null"),
        pytest.param(b'"kid":""', "", "", id="an empty text"),
        pytest.param(b'"typ":null', None, "", id="a typ that is null"),
        pytest.param(b'"typ":"JWT"', None, "JWT", id="a typ"),
    ],
)
def test_a_kid_may_be_a_number_and_kid_and_typ_may_be_null(parameters: bytes, kid: str | None, typ: str) -> None:
    header = decode_header(b64(b'{"alg":"HS256",' + parameters + b"}"))
    assert (header.kid, header.typ) == (kid, typ)


def test_a_repr_shows_nothing_of_the_token() -> None:
    compact = decode(b".".join((b64(b'{"alg":"HS256","x":"hunter2"}'), b64(b'{"sub":"hunter2"}'), b64(b"hunter2"))))
    assert "hunter2" not in repr(compact) + repr(compact.header)
    assert b64(b"hunter2").decode() not in repr(compact)
