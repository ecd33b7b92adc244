"""Sizes and forms: what is refused before a key is looked for."""

import json
from base64 import b64encode
from typing import Any

import pytest

from jwt_middleware import Provider, Verifier
from jwt_middleware.errors import AlgorithmNotAllowed, BadSignature, EncryptedToken, MalformedToken, TokenTooLarge
from jwt_middleware.verifying.verifier import MAX_TOKEN_SIZE

from ..support import NOW, SECRET, b64, claims, provider, signed, token
from ..support.keys import ED25519, RSA, SECRET_64, certificate, jwk, token_by
from .asking import GOOD, one_loop, refused, verify

pytestmark = pytest.mark.anyio


# Size.


@pytest.mark.parametrize(
    "raw", ["x" * (MAX_TOKEN_SIZE + 1), "\xe9" * (MAX_TOKEN_SIZE + 1), b"." * (MAX_TOKEN_SIZE + 1), b"\xff" * 1_000_000]
)
async def test_a_token_that_is_too_large_is_not_looked_at(raw: str | bytes) -> None:
    await refused(TokenTooLarge, raw)


async def test_the_largest_token_is_looked_at() -> None:
    raw = token(padding="x" * 12_000)
    size = len(raw)
    assert (await Verifier(provider(), clock=lambda: NOW, max_token_size=size).verify(raw)).subject == "ada"
    with pytest.raises(TokenTooLarge) as error:
        await Verifier(provider(), clock=lambda: NOW, max_token_size=size - 1).verify(raw)
    assert (error.value.expected, error.value.found) == (f"{size - 1} bytes at most", f"{size} bytes")


# Form.


@one_loop
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("", id="nothing"),
        pytest.param("token", id="a word"),
        pytest.param("a.b.c", id="three characters"),
        pytest.param("\N{SNOWMAN}" + token(), id="a snowman"),
        pytest.param("\udc80" + token(), id="a surrogate"),
        pytest.param(token() + "\n", id="a line's end"),
        pytest.param(" " + token(), id="a space in front"),
        pytest.param("Bearer " + token(), id="the scheme"),
        pytest.param(token() + "=", id="padding"),
        pytest.param(token() + "==", id="more padding"),
        pytest.param(token()[:-1], id="a character less"),
        pytest.param(token() + ".", id="four segments"),
        pytest.param(f'"{token()}"', id="quotes"),
        pytest.param(json.dumps({"payload": "e30", "signatures": []}), id="the JSON serialisation"),
        pytest.param(token().encode() + b"\xff", id="a byte over 127"),
        pytest.param(token().encode("utf-16"), id="UTF-16"),
    ],
)
async def test_a_token_has_one_spelling(raw: str | bytes) -> None:
    await refused(MalformedToken, raw)


async def test_an_encrypted_token_is_said_to_be_one() -> None:
    await refused(EncryptedToken, token() + ".aXY.dGFn")


async def test_the_last_character_cannot_be_exchanged_for_its_neighbour() -> None:
    # The last of 43 characters carries four bits: three neighbours decode to the same bytes.
    good = token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(good[-1])
    assert last % 4 == 0
    for neighbour in alphabet[last + 1 : last + 4]:
        await refused(MalformedToken, good[:-1] + neighbour)


HEADERS = [
    pytest.param(b'{"alg":"HS256","alg":"HS256"}', id="alg twice"),
    pytest.param(b'{"alg":"HS256","x":{"a":1,"a":1}}', id="a nested name twice"),
    pytest.param(b'{"alg":"HS256","crit":["exp"]}', id="crit"),
    pytest.param(b'{"alg":"HS256","b64":false,"crit":["b64"]}', id="b64"),
    pytest.param(b'{"alg":"HS256","b64":true}', id="b64 that is true"),
    pytest.param(b'{"alg":"HS256","kid":true}', id="a kid that is true"),
    pytest.param(b'{"alg":"HS256","kid":4.0}', id="a kid that is a fraction"),
    pytest.param(b'{"alg":"HS256","kid":18446744073709551616}', id="a kid of more than 64 bits"),
    pytest.param(b'{"alg":"HS256","kid":["a"]}', id="a kid that is a list"),
    pytest.param(b'{"alg":"HS256","typ":5}', id="a typ that is a number"),
    pytest.param(b'{"alg":null}', id="an alg that is null"),
    pytest.param(b'{"alg":"HS256","crit":null}', id="a crit that is null"),
    pytest.param(b'{"alg":"HS256","b64":null}', id="a b64 that is null"),
    pytest.param(b'{"alg":"HS256","x":NaN}', id="NaN"),
    pytest.param(b'{"alg":"HS256","x":1e999}', id="1e999"),
    pytest.param(b'{"alg":"HS256"} {}', id="trailing JSON"),
    pytest.param(b'{"alg":"HS256",}', id="a trailing comma"),
    pytest.param(b'{"alg":"HS256","x":"\\ud800"}', id="an unpaired surrogate"),
    pytest.param(b'{"alg":"HS256","x":' + b"[" * 32 + b"]" * 32 + b"}", id="33 levels"),
    pytest.param(b'\xef\xbb\xbf{"alg":"HS256"}', id="a byte order mark"),
    pytest.param('{"alg":"HS256"}'.encode("utf-16"), id="UTF-16"),
    pytest.param('{"alg":"HS256"}'.encode("utf-32-le"), id="UTF-32"),
    pytest.param(b'["HS256"]', id="a list"),
    pytest.param(b"{}", id="no alg"),
    pytest.param(b'{"alg":["HS256"]}', id="alg in a list"),
]


@one_loop
@pytest.mark.parametrize("header", HEADERS)
async def test_a_header_that_is_not_plain_is_refused_whatever_its_signature(header: bytes) -> None:
    await refused(MalformedToken, signed(header, claims()))


@one_loop
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(GOOD.replace(b"ada", b"\xe9"), id="Latin-1"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, id="a byte order mark"),
        pytest.param(GOOD.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(GOOD.decode().encode("utf-16-be"), id="UTF-16 without a mark"),
        pytest.param(GOOD.decode().encode("utf-32"), id="UTF-32"),
        pytest.param(GOOD[:-1] + b',"sub":"ada"}', id="sub twice"),
        pytest.param(GOOD[:-1] + b',"o":[{"a":1,"a":1}]}', id="a nested name twice"),
        pytest.param(GOOD[:-1] + b',"x":NaN}', id="NaN"),
        pytest.param(GOOD[:-1] + b',"x":-Infinity}', id="-Infinity"),
        pytest.param(GOOD[:-1] + b',"x":1e999}', id="1e999"),
        pytest.param(GOOD[:-1] + b',"x":' + b"1" * 5000 + b"}", id="5,000 digits"),
        pytest.param(GOOD[:-1] + b',"x":"\\udc00"}', id="an unpaired surrogate"),
        pytest.param(GOOD[:-1] + b',"x":' + b"[" * 32 + b"]" * 32 + b"}", id="33 levels"),
        pytest.param(GOOD[:-1] + b',"x":"\0"}', id="NUL in a string"),
        pytest.param(GOOD[:-1] + b",}", id="a trailing comma"),
        pytest.param(GOOD + b"x", id="trailing text"),
        pytest.param(GOOD[:-1], id="an open object"),
        pytest.param(b"[" + GOOD + b"]", id="a list"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b"5", id="a number"),
        pytest.param(b"null", id="null"),
    ],
)
async def test_a_payload_that_is_not_plain_json_is_refused_whatever_its_signature(payload: bytes) -> None:
    await refused(MalformedToken, signed({"alg": "HS256"}, payload))
    forged = b".".join((b64(b'{"alg":"HS256"}'), b64(payload), b64(bytes(32))))
    await refused(MalformedToken, forged)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b" \t\r\n" + GOOD + b"\n", id="white space"),
        pytest.param(GOOD[:-1] + b',"x":' + b"[" * 31 + b"]" * 31 + b"}", id="32 levels"),
        pytest.param(GOOD[:-1] + b',"x":"\\ud83d\\ude00"}', id="a surrogate pair"),
    ],
)
async def test_json_of_other_spelling_is_accepted(payload: bytes) -> None:
    assert (await verify(signed({"alg": "HS256"}, payload))).claims == json.loads(payload)


# Keys in the header.


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"jwk": {"kty": "oct", "k": b64(SECRET_64).decode()}}, id="a secret"),
        pytest.param({"jwk": jwk(ED25519)}, id="a public key"),
        pytest.param({"jku": "https://evil.example/jwks.json"}, id="an address of keys"),
        pytest.param({"x5u": "https://evil.example/certificate.pem"}, id="an address of a certificate"),
        pytest.param({"x5c": [b64encode(certificate(RSA)).decode()]}, id="a certificate"),
        pytest.param({"jwk": 5, "jku": None, "x5u": [], "x5c": {}, "x5t": 1, "cty": None}, id="wrong types"),
    ],
)
async def test_a_key_that_the_token_brings_is_not_used_and_not_in_the_way(members: dict[str, Any]) -> None:
    assert (await verify(token(header=members))).header["alg"] == "HS256"
    await refused(BadSignature, token(SECRET_64, header=members))
    await refused(AlgorithmNotAllowed, token_by("EdDSA", header=members))


@pytest.mark.parametrize("raw", [None, 5, [b"a.b.c"], bytearray(b"a.b.c"), memoryview(b"a.b.c")])
async def test_what_is_neither_text_nor_bytes_is_the_callers_error(raw: Any) -> None:
    with pytest.raises(TypeError, match="a token is str or bytes"):
        await Verifier(Provider(key=SECRET, audience="orders")).verify(raw)
