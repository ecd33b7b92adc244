import json
import uuid
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from random import Random
from time import perf_counter
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.keys.jwk import load_jwk, public_jwk, thumbprint
from jwt_middleware.keys.loading import load, load_pem
from jwt_middleware.keys.material import Material, PrivateKey, UnusableKey

from ..support import b64
from ..support.keys import (
    ED448,
    ED25519,
    RSA,
    SIGNERS,
    certificate,
    der,
    disguised_forms,
    jwk,
    pem,
    private_forms,
    private_pem,
    public_forms,
)

KEYS: dict[str, PrivateKey] = {
    "RSA": RSA,
    **{curve: SIGNERS[curve] for curve in ("ES256", "ES384", "ES512", "ES256K")},
    "Ed25519": ED25519,
    "Ed448": ED448,
}
PUBLIC = [
    pytest.param(key, form, id=f"{name} {kind}")
    for name, key in KEYS.items()
    for kind, form in {"object": key.public_key(), **public_forms(key)}.items()
]
DISGUISED = [
    pytest.param(form, id=f"{name} {kind}") for name, key in KEYS.items() for kind, form in disguised_forms(key).items()
]
PRIVATE = [
    pytest.param(key, form, id=f"{name} {kind}")
    for name, key in KEYS.items()
    for kind, form in {"object": key, **private_forms(key)}.items()
]

# A password that must never be seen in a message, with a character that UTF-8 cannot encode.
SURROGATE = "hunter2-hunter2-hunter2-hunter2-\udc80"


def chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that a logger or a debugger could find behind it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


@pytest.mark.parametrize(("key", "form"), PUBLIC)
def test_a_public_key_is_loaded_from_every_form(key: PrivateKey, form: Any) -> None:
    material = load(form)
    assert material.public == material.value == key.public_key()


@pytest.mark.parametrize(("key", "form"), PUBLIC)
def test_a_public_key_is_loaded_from_text_as_from_bytes(key: PrivateKey, form: Any) -> None:
    if isinstance(form, bytes) and form.isascii():
        form = form.decode("ascii")
    assert load(form).public == key.public_key()


@pytest.mark.parametrize(("key", "form"), PRIVATE)
def test_of_a_private_key_the_public_half_verifies(key: PrivateKey, form: Any) -> None:
    material = load(form)
    assert isinstance(material.value, PrivateKey)
    assert material.public == key.public_key()


CANNOT_BE_READ = "the text holds a key or a certificate in a form that cannot be read; give a PEM"


@pytest.mark.parametrize("form", DISGUISED)
def test_a_public_key_in_disguise_is_no_secret(form: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match=CANNOT_BE_READ):
        load(form)


def test_a_weak_rsa_key_in_disguise_is_no_secret() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    with pytest.raises(ConfigurationError, match=CANNOT_BE_READ):
        load(weak.hex())


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("a secret", id="text"),
        pytest.param(b"a secret", id="bytes"),
        pytest.param("gehe\N{LATIN SMALL LETTER I WITH DIAERESIS}m", id="beyond ASCII"),
        pytest.param(" a secret\n", id="with white space around, which counts"),
        pytest.param("'a secret'", id="in quotes, which count"),
        pytest.param("12345678901234567890123456789012", id="digits"),
        pytest.param("null", id="a JSON constant"),
        pytest.param('["a", "secret"]', id="a JSON list"),
        pytest.param("{not json}", id="braces"),
        pytest.param(b"\0" * 64, id="NULs"),
        pytest.param(bytes(range(256)), id="every byte"),
        pytest.param("c2VjcmV0" * 8, id="base64 of text"),
        pytest.param(b64encode(bytes(range(48))), id="base64 of bytes"),
        pytest.param("AAAA" * 16, id="base64 of NULs"),
        pytest.param("0123456789abcdef" * 4, id="hexadecimal"),
        pytest.param("0" * 64, id="zeros, which start as DER does"),
        pytest.param("30:82:01:22" * 16, id="hexadecimal with colons"),
        pytest.param("%41%4" * 20, id="percent-encoding, some of it broken"),
        pytest.param(b"0\x80" + bytes(30), id="DER without a length"),
        pytest.param(b"0\x1e\x02\x01\x00" + bytes(27), id="DER that starts as a key does, and is none"),
        pytest.param(b64encode(b"0\x1e0\x01\x00" + bytes(27)), id="base64 of such DER"),
        pytest.param(b"0\x1e\x04\x1c" + bytes(28), id="DER that starts as no key does"),
        pytest.param(b"0\x84\xff\xff\xff\xff" + bytes(30), id="DER with more length than data"),
        pytest.param("ssh-my-servers-secret-of-old-times", id="the start of an OpenSSH type"),
        pytest.param("ada:password@host", id="what is nearly an address"),
        pytest.param("see secret.pem for the secret", id="the name of a file inside"),
        pytest.param("it is pretty: kty", id="a word"),
    ],
)
def test_what_is_nothing_else_is_a_secret_to_the_byte(secret: str | bytes) -> None:
    material = load(secret)
    assert material.value == material.public == (secret.encode() if isinstance(secret, str) else secret)


def random_sentence(random: Random, size: int) -> str:
    return " ".join(
        random.choice(("correct", "horse", "battery", "staple", "key:", "kty", "--")) for _ in range(size // 4)
    )


SPELLINGS: dict[str, Callable[[Random, int], str | bytes]] = {
    "bytes": lambda random, size: random.randbytes(size),
    "base64": lambda random, size: b64encode(random.randbytes(size)),
    "base64url": lambda random, size: urlsafe_b64encode(random.randbytes(size)).decode().rstrip("="),
    "hexadecimal": lambda random, size: random.randbytes(size).hex(),
    "hexadecimal with colons": lambda random, size: random.randbytes(size).hex(":"),
    "base64 of hexadecimal": lambda random, size: b64encode(random.randbytes(size).hex().encode()),
    "base64 in base64": lambda random, size: b64encode(b64encode(random.randbytes(size))),
    "printable": lambda random, size: bytes(random.choice(range(0x21, 0x7F)) for _ in range(size)),
    "UUIDs": lambda random, size: "".join(str(uuid.UUID(int=random.getrandbits(128))) for _ in range(0, size, 16)),
    "a sentence": random_sentence,
}


@settings(max_examples=200)
@given(st.integers(0, 2**64), st.integers(16, 512))
@pytest.mark.parametrize("spell", [pytest.param(spell, id=name) for name, spell in SPELLINGS.items()])
def test_a_random_secret_is_never_taken_for_a_key(
    spell: Callable[[Random, int], str | bytes], seed: int, size: int
) -> None:
    secret = spell(Random(seed), size)
    assert load(secret).value == (secret.encode() if isinstance(secret, str) else secret)


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(b"A" * MEGABYTE, id="base64 of NULs"),
        pytest.param(b"MII" * (MEGABYTE // 3), id="the start of DER in base64, again and again"),
        pytest.param(b"30820122" * (MEGABYTE // 8), id="the start of DER in hexadecimal, again and again"),
        pytest.param(b"0\x82\x01\x0a\x02\x82" * (MEGABYTE // 6), id="the start of DER, again and again"),
        pytest.param(b"%" * MEGABYTE, id="percent signs"),
        pytest.param(b"\\" * MEGABYTE, id="backslashes"),
        pytest.param(b"kty:" * (MEGABYTE // 4), id="kty"),
        pytest.param(b64encode(b64encode(Random(1).randbytes(MEGABYTE // 2))), id="base64 in base64"),
        pytest.param(Random(1).randbytes(MEGABYTE), id="random bytes"),
    ],
)
def test_the_look_for_keys_takes_time_in_proportion_to_the_text(secret: bytes) -> None:
    started = perf_counter()
    assert load(secret).value == secret
    # Seconds on a busy machine; were each start followed to the end, it would be hours.
    assert perf_counter() - started < 20


def other_pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


OPENSSH = ED25519.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("", "the secret is empty", id="nothing"),
        pytest.param(b"", "the secret is empty", id="no bytes"),
        pytest.param(" \n", "the secret is empty", id="white space"),
        pytest.param(None, "NoneType is not a key; give a secret", id="None"),
        pytest.param(5, "int is not a key; give a secret", id="a number"),
        pytest.param(["a secret"], "key: list is not a key; one key is needed here", id="a list"),
        pytest.param(("a secret",), "key: tuple is not a key; one key is needed here", id="a tuple"),
        pytest.param(bytearray(32), "bytearray is not a key; give a secret", id="a bytearray"),
        pytest.param(x25519.X25519PrivateKey.generate(), "X25519PrivateKey is not a key", id="an X25519 key"),
        pytest.param(SURROGATE, "not text that UTF-8 can encode", id="a surrogate"),
        pytest.param(pem(RSA)[:200], "the PEM text cannot be loaded", id="PEM, cut"),
        pytest.param(pem(RSA).replace(b"\n", b"\\n"), r"holds the two characters '\\n'", id="PEM with escaped lines"),
        pytest.param(pem(RSA).replace(b"MII", b"MIJ"), "the PEM text cannot be loaded", id="PEM of broken DER"),
        pytest.param(
            pem(RSA).replace(b"PUBLIC", b"public"), "the PEM text cannot be loaded", id="PEM with a bad label"
        ),
        pytest.param(b"-----BEGIN", "the PEM text cannot be loaded", id="PEM's first word"),
        pytest.param(
            b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----", "cannot be loaded", id="PEM of no key"
        ),
        pytest.param(pem(RSA) + pem(ED25519), "holds 2 blocks; give a list", id="two PEMs"),
        pytest.param(certificate(RSA) * 3, "holds 3 blocks; give a list", id="a chain of certificates"),
        pytest.param(
            RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")),
            "the private key is encrypted",
            id="encrypted PKCS 8",
        ),
        pytest.param(
            RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"hunter2")),
            "the private key is encrypted",
            id="encrypted traditional PEM",
        ),
        pytest.param(
            RSA.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")),
            CANNOT_BE_READ,
            id="encrypted DER",
        ),
        pytest.param(other_pem(x25519.X25519PrivateKey.generate()), "X25519PrivateKey do not sign", id="X25519 PEM"),
        pytest.param(other_pem(dsa.generate_private_key(1024)), "DSAPrivateKey do not sign", id="DSA PEM"),
        pytest.param(
            x448.X448PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "X448PublicKey do not sign",
            id="X448 DER",
        ),
        pytest.param(der(RSA).replace(b"\x02\x82", b"\x05\x82"), CANNOT_BE_READ, id="broken DER"),
        pytest.param(b64encode(der(ED25519)[:-2] + b"="), CANNOT_BE_READ, id="base64 of broken DER"),
        pytest.param(OPENSSH[:40], "OpenSSH public key cannot be loaded", id="an OpenSSH key, cut"),
        pytest.param(b"ssh-rsa nothing", "OpenSSH public key cannot be loaded", id="an OpenSSH type alone"),
        pytest.param(
            b"---- BEGIN SSH2 PUBLIC KEY ----\n" + OPENSSH.split()[1][:60] + b"\n",
            "OpenSSH public key cannot be loaded",
            id="RFC 4716, its first line",
        ),
        pytest.param(json.dumps(json.dumps(jwk(RSA))), "the JWK text is not a JSON object", id="JWK text in JSON"),
        pytest.param(str(jwk(RSA)), "the JWK text is not a JSON object", id="a JWK as Python shows it"),
        pytest.param(json.dumps([jwk(RSA)]), "the JWK text is not a JSON object", id="a list of JWKs"),
        pytest.param(json.dumps(jwk(RSA))[:-1], "the JWK text is not a JSON object", id="JWK text, cut"),
        pytest.param("kty: RSA\nn: AQAB\ne: AQAB\n", "the JWK text is not a JSON object", id="a JWK in YAML"),
        pytest.param('{"k": "v"}', "the JWK has no 'kty'; is it a JWK", id="other JSON"),
        pytest.param(json.dumps({"keys": [jwk(RSA)]}), "the text of a JWK Set; give it as a dict", id="JWK Set text"),
        pytest.param({"keys": [jwk(RSA)]}, "a JWK Set stands where one key is expected", id="a JWK Set"),
        pytest.param("https://login.example/jwks.json", "this is an address, not a key", id="an address"),
        pytest.param(" file:///etc/keys/public", "this is an address, not a key", id="a file's address"),
        pytest.param("login.example/.well-known/jwks", "this is an address, not a key", id="an address, no scheme"),
        pytest.param(
            "login.example/.well-known/jwks.json", "this is an address, not a key", id="an address that ends as a file"
        ),
        pytest.param("schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel.pem", "a file's name", id="one beyond ASCII"),
        pytest.param("keys/public.pem", "this is a file's name, not a key", id="a file's name"),
        pytest.param("jwks.json\n", "this is a file's name, not a key", id="a file's name and a line's end"),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_what_would_work(source: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        load(source)
    assert str(error.value).startswith("key: ")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(SURROGATE, id="a secret with a surrogate"),
        pytest.param({"kty": "oct", "k": "hunter2-\udc80"}, id="k with a surrogate"),
        pytest.param({"kty": "oct", "k": "hunter2-hunter2!"}, id="k that is not base64url"),
        pytest.param({"kty": "oct", "k": ["hunter2-hunter2"]}, id="k in a list"),
        pytest.param('{"kty": "oct", "k": "hunter2-hunter2", }', id="JWK text with a comma too many"),
        pytest.param('{"k": "hunter2-hunter2"}', id="JWK text without kty"),
        pytest.param({"kty": "oct", "k": "hunter2w", "use": 5}, id="a JWK with a bad use"),
        pytest.param({"kty": "oct", "k": "hunter2w", "alg": 5}, id="a JWK with a bad alg"),
        pytest.param({"kty": "oct", "k": "hunter2w", "key_ops": 5}, id="a JWK with bad key_ops"),
        pytest.param({**jwk(RSA), "d": "hunter2w"}, id="an RSA JWK with a wrong d"),
        pytest.param({**jwk(ED25519), "d": "hunter2w"}, id="an OKP JWK with a wrong d"),
        pytest.param({**jwk(SIGNERS["ES256"]), "d": "hunter2w"}, id="an EC JWK with a wrong d"),
        pytest.param("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----", id="a broken private PEM"),
        pytest.param("ssh-rsa hunter2", id="a broken OpenSSH key"),
        pytest.param("https://ada:hunter2@login.example/", id="an address with a password"),
        pytest.param("hunter2.key", id="a file's name"),
        pytest.param(["hunter2"], id="a list"),
        pytest.param(bytearray(b"hunter2"), id="a bytearray"),
    ],
)
def test_no_error_holds_the_secret(source: object) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(source)
    for shown in chain(error.value):
        assert "hunter2" not in f"{shown} {shown!r} {vars(shown)} {getattr(shown, 'doc', '')}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a secret of two lines,\nwhich is long enough", id="two lines"),
        pytest.param("a secret of two lines,\r\nwhich is long enough\n", id="Windows"),
        pytest.param("a secret of two lines,\u2028which is long enough", id="a line separator"),
    ],
)
def test_a_secret_of_several_lines_must_be_bytes(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a text of several lines is no secret.*key=text.encode\(\)"):
        load(text)
    assert load(text.encode()).value == text.encode()


def test_where_pem_is_needed_no_other_text_is_taken_for_a_secret() -> None:
    assert load_pem(pem(RSA)).value == RSA.public_key()
    with pytest.raises(ConfigurationError, match="the text is no PEM"):
        load_pem(b"a secret of thirty-two bytes, yes")


def test_the_line_end_of_a_file_makes_no_second_line() -> None:
    assert load("a secret of thirty-two bytes, yes\n").value == b"a secret of thirty-two bytes, yes\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("pub:\n    04:ab:cd:ef:01:23:45:67:89:ab\nASN1 OID: prime256v1\n", id="openssl ec -text"),
        pytest.param("ED25519 Public-Key:\npub:\n    d7:5a:98:01:82:b1:0a:b7:d5:4b\n", id="openssl pkey -text"),
        pytest.param("Public-Lines: 4\nAAAA", id="PuTTY"),
        pytest.param("-----BEGIN PGP PUBLIC KEY BLOCK-----\nmQENBF", id="PGP"),
    ],
)
def test_a_print_of_a_public_key_is_no_secret_even_as_bytes(text: str) -> None:
    for source in (text, text.encode(), b64encode(text.encode() * 3)):
        with pytest.raises(ConfigurationError):
            load(source)


def test_no_repr_holds_the_secret() -> None:
    assert "hunter2" not in repr(load("hunter2" * 8))
    assert "hunter2" not in repr(load({"kty": "oct", "k": "hunter2w"}))
    private = jwk(RSA, private=True)
    assert private["d"] not in repr(load(private))


def test_a_jwk_may_be_any_mapping() -> None:
    assert load(MappingProxyType(jwk(RSA))).public == RSA.public_key()


def test_a_jwk_of_a_secret_is_the_secret() -> None:
    assert load({"kty": "oct", "k": b64(b"a secret").decode()}).value == b"a secret"


def without(name: str, key: dict[str, Any]) -> dict[str, Any]:
    return {member: value for member, value in key.items() if member != name}


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode()


EC = jwk(SIGNERS["ES256"])
N = RSA.public_key().public_numbers().n


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        pytest.param({}, "the JWK has no 'kty'", id="nothing"),
        pytest.param({"kty": None}, "the JWK has no 'kty'", id="kty is null"),
        pytest.param({"kty": ["RSA"]}, "the JWK's 'kty' is not a string", id="kty is a list"),
        pytest.param({**jwk(RSA, private=True), "use": None}, "the JWK's 'use' is not a string", id="use is null"),
        pytest.param({**jwk(RSA), "alg": ["RS256"]}, "the JWK's 'alg' is not a string", id="alg is a list"),
        pytest.param({**jwk(RSA), "kid": True}, "the JWK's 'kid' is not a string", id="kid is a boolean"),
        pytest.param({**jwk(RSA), "kid": 4.0}, "the JWK's 'kid' is not a string", id="kid is a float"),
        pytest.param({**jwk(RSA), "kid": 2**64}, "the JWK's 'kid' is not a string", id="kid has 65 bits"),
        pytest.param({**jwk(RSA), "key_ops": "verify"}, "'key_ops' is not a list of strings", id="key_ops is a string"),
        pytest.param(
            {**jwk(RSA), "key_ops": [["verify"]]}, "'key_ops' is not a list of strings", id="lists in key_ops"
        ),
        pytest.param({"kty": "oct"}, "the JWK's 'k' is not base64url text", id="oct without k"),
        pytest.param({"kty": "oct", "k": ""}, "the JWK's 'k' is not base64url text", id="k is empty"),
        pytest.param({"kty": "oct", "k": None}, "the JWK's 'k' is not base64url text", id="k is null"),
        pytest.param({"kty": "oct", "k": b"c2VjcmV0"}, "the JWK's 'k' is not base64url text", id="k is bytes"),
        pytest.param({"kty": "oct", "k": "c2VjcmV0cw=="}, "the JWK's 'k' is not base64url text", id="k with padding"),
        pytest.param({"kty": "oct", "k": "+/+/"}, "the JWK's 'k' is not base64url text", id="k in plain base64"),
        pytest.param({"kty": "oct", "k": "QR"}, "the JWK's 'k' is not base64url text", id="k with stray bits"),
        pytest.param({"kty": "oct", "k": "\N{SNOWMAN}"}, "the JWK's 'k' is not base64url text", id="k beyond ASCII"),
        pytest.param({"kty": "RSA"}, "the RSA JWK cannot be loaded", id="RSA without numbers"),
        pytest.param(without("e", jwk(RSA)), "the RSA JWK cannot be loaded", id="RSA without e"),
        pytest.param({**jwk(RSA), "n": 5}, "the JWK's 'n' is not base64url text", id="n is a number"),
        pytest.param({**jwk(RSA), "n": ""}, "the RSA JWK cannot be loaded", id="n is empty"),
        pytest.param({**jwk(RSA), "n": "AA"}, "the RSA JWK cannot be loaded", id="n is zero"),
        pytest.param({**jwk(RSA), "e": "AA"}, "the RSA JWK cannot be loaded", id="e is zero"),
        pytest.param({**jwk(RSA), "e": "AQ"}, "the RSA JWK cannot be loaded", id="e is one"),
        pytest.param({**jwk(RSA), "e": number(65538)}, "the RSA JWK cannot be loaded", id="e is even"),
        pytest.param({**jwk(RSA), "e": number(N)}, "the RSA JWK cannot be loaded", id="e is n"),
        pytest.param({**jwk(RSA), "n": "_" * 2732}, "'n' is longer than that of any key", id="n is too long"),
        pytest.param({**jwk(RSA), "d": "_" * 2732}, "'d' is longer than that of any key", id="d is too long"),
        pytest.param({**jwk(RSA), "d": "AQ"}, "the RSA JWK cannot be loaded", id="d is one"),
        pytest.param({**jwk(RSA), "d": number(N - 2)}, "the RSA JWK cannot be loaded", id="d of another key"),
        pytest.param({**jwk(RSA, private=True), "d": None}, "the JWK's 'd' is not base64url text", id="d is null"),
        pytest.param(without("p", jwk(RSA, private=True)), "the RSA JWK cannot be loaded", id="RSA without p"),
        pytest.param({**jwk(RSA, private=True), "q": "Aw"}, "the RSA JWK cannot be loaded", id="another q"),
        pytest.param({**jwk(RSA, private=True), "oth": []}, "the RSA JWK cannot be loaded", id="RSA of many primes"),
        pytest.param(without("crv", EC), "the EC JWK cannot be loaded", id="EC without crv"),
        pytest.param({**EC, "crv": 5}, "the EC JWK cannot be loaded", id="crv is a number"),
        pytest.param({**EC, "crv": ["P-256"]}, "the EC JWK cannot be loaded", id="crv is a list"),
        pytest.param({**EC, "crv": "P-224"}, "the EC JWK cannot be loaded", id="an unknown curve"),
        pytest.param({**EC, "crv": "secp256k1"}, "the EC JWK cannot be loaded", id="a point of another curve"),
        pytest.param({**EC, "crv": "P-384"}, "the EC JWK cannot be loaded", id="a point of a shorter curve"),
        pytest.param(without("y", EC), "the EC JWK cannot be loaded", id="EC without y"),
        pytest.param({**EC, "y": EC["x"]}, "the EC JWK cannot be loaded", id="a point off the curve"),
        pytest.param({**EC, "x": "A" * 43, "y": "A" * 43}, "the EC JWK cannot be loaded", id="the point zero"),
        pytest.param({**EC, "x": EC["x"][:42]}, "is not base64url text|cannot be loaded", id="x is short"),
        pytest.param({**EC, "d": "A" * 43}, "the EC JWK cannot be loaded", id="d is zero"),
        pytest.param({**EC, "d": "_" * 42 + "8"}, "the EC JWK cannot be loaded", id="d is past the order"),
        pytest.param({**EC, "d": "A" * 42 + "E"}, "the EC JWK cannot be loaded", id="d of another point"),
        pytest.param(without("crv", jwk(ED25519)), "the OKP JWK cannot be loaded", id="OKP without crv"),
        pytest.param({**jwk(ED25519), "crv": "ed25519"}, "the OKP JWK cannot be loaded", id="crv in small letters"),
        pytest.param({**jwk(ED25519), "crv": "Ed448"}, "the OKP JWK cannot be loaded", id="an x that is too short"),
        pytest.param({**jwk(ED448), "crv": "Ed25519"}, "the OKP JWK cannot be loaded", id="an x that is too long"),
        pytest.param(without("x", jwk(ED25519)), "the OKP JWK cannot be loaded", id="OKP without x"),
        pytest.param({**jwk(ED25519), "d": "AAAA"}, "the OKP JWK cannot be loaded", id="d is too short"),
        pytest.param({**jwk(ED25519), "d": "A" * 43}, "the OKP JWK cannot be loaded", id="d of another x"),
    ],
)
def test_a_broken_jwk_is_refused(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        load_jwk(broken)
    assert not isinstance(error.value, UnusableKey)


@pytest.mark.parametrize(
    ("jwk", "message"),
    [
        pytest.param({"kty": "AKP", "alg": "ML-DSA-44"}, "kty 'AKP' are not known; oct, RSA, EC and OKP", id="kty"),
        pytest.param({"kty": "rsa"}, "kty 'rsa' are not known", id="kty in small letters"),
        pytest.param({"kty": "x" * 100}, "kty 'x{32}' are not known", id="a long kty"),
        pytest.param({**jwk(RSA), "use": "enc"}, "use is 'enc', not 'sig'", id="use: enc"),
        pytest.param({**jwk(RSA, private=True), "use": ""}, "use is '', not 'sig'", id="an empty use of a private key"),
        pytest.param({"kty": "OKP", "crv": "X25519", "x": "A" * 43}, "X25519 keys are for key agreement", id="X25519"),
        pytest.param({"kty": "OKP", "crv": "X448", "x": "A" * 75}, "X448 keys are for key agreement", id="X448"),
    ],
)
def test_a_jwk_for_something_else_can_be_told_from_a_broken_one(jwk: dict[str, Any], message: str) -> None:
    with pytest.raises(UnusableKey, match=message):
        load_jwk(jwk)


def test_an_rsa_jwk_needs_no_primes() -> None:
    private = jwk(RSA, private=True)
    assert load({name: private[name] for name in ("kty", "n", "e", "d")}).public == RSA.public_key()


@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in KEYS.items()])
def test_a_public_jwk_has_the_members_that_make_the_key_and_no_others(key: PrivateKey) -> None:
    public = public_jwk(key.public_key())
    assert public == jwk(key)
    assert load(public).public == key.public_key()


def test_a_thumbprint_is_that_of_the_key_and_not_of_what_its_jwk_says() -> None:
    key = RSA.public_key()
    assert thumbprint(key) == thumbprint(load_public({**jwk(RSA), "kid": "a", "alg": "PS256", "use": "sig"}))
    assert thumbprint(key) != thumbprint(ED25519.public_key())


def load_public(source: object) -> Any:
    return load(source).public


# What breaks parsers: each of the texts above, with some of it replaced.
TEXTS = [form for _, form in (param.values for param in PUBLIC) if isinstance(form, bytes)] + [private_pem(ED25519)]


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    text = bytearray(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        text[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(text)


@given(st.binary() | st.text() | mangled() | st.text('0123456789abcdef{}[]":,ktyn -\n'))
def test_any_text_is_a_key_or_a_configuration_error(source: str | bytes) -> None:
    try:
        material = load(source)
    except ConfigurationError:
        return
    assert isinstance(material, Material)


VALUES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        ["", "AQ", "AQAB", "A" * 43, "_" * 43, "RSA", "EC", "oct", "OKP", "P-256", "Ed25519", "sig", "RS256"]
    )
    | st.lists(st.sampled_from(["verify", "sign", "AQAB"]), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
)


@st.composite
def jwks(draw: st.DrawFn) -> dict[Any, Any]:
    start = draw(
        st.sampled_from([{}, *(jwk(key, private=private) for key in KEYS.values() for private in (False, True))])
    )
    names = st.sampled_from(
        ["kty", "use", "alg", "kid", "key_ops", "crv", "n", "e", "d", "p", "q", "dp", "dq", "qi", "x", "y", "k", "oth"]
    )
    changed = {**start, **draw(st.dictionaries(names | st.text(max_size=3), VALUES, max_size=3))}
    for name in draw(st.sets(st.sampled_from([*changed, "kty"]), max_size=2)):
        changed.pop(name, None)
    return changed


@given(jwks())
def test_any_dict_is_a_key_or_a_configuration_error(source: dict[Any, Any]) -> None:
    try:
        material = load(source)
    except ConfigurationError:
        return
    assert isinstance(material, Material)


def test_material_of_each_kind_is_told_apart() -> None:
    kinds = [rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey]
    keys = [RSA, SIGNERS["ES384"], ED25519, ED448]
    for kind, key in zip(kinds, keys, strict=True):
        assert isinstance(load(pem(key)).public, kind)
