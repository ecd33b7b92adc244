import random
import time
from itertools import count
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from jwt_middleware.errors import AlgorithmNotAllowed, ConfigurationError, Refusal, UnknownKey
from jwt_middleware.keys.algorithms import ALGORITHMS, check_algorithms
from jwt_middleware.keys.key_set import MAX_TRIES, Key, KeySet, load_foreign_keys, load_keys
from jwt_middleware.keys.material import UnusableKey

from ..support import SECRET, b64
from ..support.keys import ED448, ED25519, RSA, SECRET_64, SIGNERS, jwk, pem, private_pem, public_forms, signature

RSA_1024 = rsa.generate_private_key(65537, 1024)

RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


def secret(**members: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": b64(SECRET_64).decode(), **members}


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_what_is_signed_by_an_algorithm_is_verified_by_it_and_by_no_other(algorithm: str) -> None:
    (key,) = load_keys(SIGNERS[algorithm])
    good = signature(algorithm, b"header.payload", SIGNERS[algorithm])
    assert algorithm in key.algorithms
    assert key.verifies(algorithm, b"header.payload", good)
    assert not key.verifies(algorithm, b"header.payloae", good)
    assert not key.verifies(algorithm, b"header.payload", good[:-1] + bytes([good[-1] ^ 1]))
    twins = {"EdDSA", "Ed25519", "Ed448"}
    for other in set(key.algorithms) - {algorithm}:
        assert key.verifies(other, b"header.payload", good) == (algorithm in twins and other in twins)


@pytest.mark.parametrize("algorithm", SIGNERS)
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0", id="one NUL"),
        pytest.param(bytes(32), id="32 NULs"),
        pytest.param(bytes(64), id="64 NULs"),
        pytest.param(bytes(132), id="132 NULs"),
        pytest.param(bytes(256), id="256 NULs"),
        pytest.param(b"\0" * 255 + b"\1", id="one"),
        pytest.param(b"\xff" * 64, id="more than the order"),
        pytest.param(b"\xff" * 256, id="more than the modulus"),
        pytest.param(b"\0" * 31 + b"\1" + b"\0" * 31 + b"\1", id="r and s are one"),
        pytest.param(b"\xff" * 10_000, id="very long"),
    ],
)
def test_a_signature_of_any_bytes_is_bad_and_nothing_else(algorithm: str, bad: bytes) -> None:
    (key,) = load_keys(SIGNERS[algorithm])
    assert not key.verifies(algorithm, b"header.payload", bad)


def test_a_signature_in_der_is_not_one_of_jose() -> None:
    (key,) = load_keys(SIGNERS["ES256"])
    in_der = SIGNERS["ES256"].sign(b"header.payload", ec.ECDSA(SHA256()))
    assert not key.verifies("ES256", b"header.payload", in_der)


@pytest.mark.parametrize(
    ("source", "algorithms"),
    [
        pytest.param(SECRET_64, ("HS256", "HS384", "HS512"), id="a secret"),
        pytest.param(pem(RSA), RSA_ALGORITHMS, id="RSA"),
        pytest.param(pem(SIGNERS["ES256"]), ("ES256",), id="P-256"),
        pytest.param(pem(SIGNERS["ES384"]), ("ES384",), id="P-384"),
        pytest.param(pem(SIGNERS["ES512"]), ("ES512",), id="P-521"),
        pytest.param(pem(SIGNERS["ES256K"]), ("ES256K",), id="secp256k1"),
        pytest.param(pem(ED25519), ("EdDSA", "Ed25519"), id="Ed25519"),
        pytest.param(pem(ED448), ("EdDSA", "Ed448"), id="Ed448"),
        pytest.param({**jwk(RSA), "alg": "PS384"}, ("PS384",), id="a JWK of one algorithm"),
        pytest.param({**jwk(ED25519), "alg": "Ed25519"}, ("Ed25519",), id="a JWK of RFC 9864"),
        pytest.param({**jwk(ED448), "alg": "EdDSA"}, ("EdDSA",), id="a JWK of RFC 8037"),
        pytest.param({**jwk(RSA), "use": "sig"}, RSA_ALGORITHMS, id="a JWK for signatures"),
        pytest.param({**jwk(RSA), "key_ops": ["verify"]}, RSA_ALGORITHMS, id="a JWK that verifies"),
        pytest.param({**jwk(RSA), "key_ops": ["verify", "encrypt"]}, RSA_ALGORITHMS, id="a JWK for two things"),
        pytest.param({**jwk(RSA, private=True), "key_ops": ["sign"]}, RSA_ALGORITHMS, id="a private JWK that signs"),
        pytest.param({**jwk(RSA, private=True), "key_ops": ["verify"]}, RSA_ALGORITHMS, id="one that verifies"),
    ],
)
def test_a_key_is_for_the_algorithms_of_its_kind(source: Any, algorithms: tuple[str, ...]) -> None:
    (key,) = load_keys(source)
    assert key.algorithms == algorithms


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param({**jwk(RSA), "use": "enc"}, "the JWK's use is 'enc', not 'sig'", id="use: enc"),
        pytest.param({**jwk(RSA), "key_ops": ["sign"]}, "key_ops have no verify", id="a public JWK that signs"),
        pytest.param(secret(key_ops=["sign"]), "key_ops have no verify", id="a secret that only signs"),
        pytest.param(
            {**jwk(RSA, private=True), "key_ops": ["decrypt"]}, "key_ops have no sign or verify", id="one that decrypts"
        ),
        pytest.param({**jwk(RSA), "alg": "RSA-OAEP"}, "alg 'RSA-OAEP' is not a signature algorithm", id="encryption"),
        pytest.param({**jwk(RSA), "alg": "none"}, "alg 'none' is not a signature algorithm", id="none"),
        pytest.param({**jwk(RSA), "alg": "RSA1_5", "use": "sig"}, "alg 'RSA1_5' is not a signature", id="contrary"),
        pytest.param(secret(alg="hs256"), "alg 'hs256' is not a signature", id="small letters of a secret"),
        pytest.param({**jwk(SIGNERS["ES512"]), "alg": "ES521"}, "alg 'ES521' is not a signature", id="ES521"),
        pytest.param({**jwk(RSA), "alg": "x" * 99}, "alg 'x{32}' is not a signature algorithm", id="a long alg"),
        pytest.param(
            ec.generate_private_key(ec.SECP224R1()), "no algorithm for keys on the curve secp224r1", id="P-224"
        ),
    ],
)
def test_a_key_for_something_else_is_not_usable(source: Any, message: str) -> None:
    with pytest.raises(UnusableKey, match=message):
        load_keys(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param({**jwk(RSA), "alg": "HS256"}, "says alg 'HS256', but RSA keys are for RS256", id="RSA as HMAC"),
        pytest.param({**jwk(RSA), "alg": "ES256"}, "says alg 'ES256', but RSA keys are for RS256", id="RSA as EC"),
        pytest.param(secret(alg="RS256"), "says alg 'RS256', but oct keys are for HS256", id="a secret as RSA"),
        pytest.param(
            {**jwk(SIGNERS["ES384"]), "alg": "ES256"}, "says alg 'ES256', but secp384r1 keys are for ES384", id="curve"
        ),
        pytest.param(
            {**jwk(SIGNERS["ES256K"]), "alg": "ES256"}, "says alg 'ES256', but secp256k1 keys are for ES256K", id="k1"
        ),
        pytest.param(
            {**jwk(ED448), "alg": "Ed25519"}, "says alg 'Ed25519', but Ed448 keys are for EdDSA, Ed448", id="Ed448"
        ),
        pytest.param([], "the list is empty", id="nothing"),
        pytest.param({"keys": []}, "the JWK Set holds no key that can verify", id="an empty JWK Set"),
        pytest.param({"keys": {}}, "the 'keys' of the JWK Set are not a list", id="a JWK Set that is none"),
        pytest.param({"keys": None}, "the 'keys' of the JWK Set are not a list", id="a JWK Set of null"),
        pytest.param(
            {"keys": ["RSA"]}, "no key that can verify; key 1: it is not an object", id="a JWK Set of strings"
        ),
        pytest.param({"keys": [{"kty": "oct"}]}, "key 1: the JWK's 'k' is not base64url text", id="a broken JWK Set"),
        pytest.param([[SECRET]], "key: list is not a key; one key is needed here", id="a list in a list"),
        pytest.param([SECRET, None], "NoneType is not a key", id="None in a list"),
        pytest.param(
            [{"keys": [{**jwk(RSA), "use": "enc"}, {"kty": "AKP"}]}],
            "no key that can verify; key 1: the JWK's use is 'enc', not 'sig'; key 2: JWKs of kty 'AKP' are not known",
            id="a JWK Set for other things",
        ),
    ],
)
def test_keys_that_contradict_themselves_are_refused(source: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_keys(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("x" * 31, r"the secret has 31 bytes, HS256 needs 32 \(RFC 7518 3.2\)", id="31 bytes"),
        pytest.param(secret(k="eHg"), "the secret has 2 bytes, HS256 needs 32", id="a JWK of two bytes"),
        pytest.param(
            secret(k=b64(bytes(63)).decode(), alg="HS512"), "63 bytes, HS512 needs 64", id="63 bytes for HS512"
        ),
        pytest.param(RSA_1024, "the RSA key has 1024 bits, not 2048 or more", id="RSA with 1024 bits"),
        pytest.param(jwk(RSA_1024), "the RSA key has 1024 bits, not 2048 or more", id="a JWK with 1024 bits"),
    ],
)
def test_weak_keys_are_refused_unless_they_are_allowed(source: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_keys(source)
    assert load_keys(source, allow_weak_keys=True)


@pytest.mark.parametrize(
    ("bytes_", "algorithms"),
    [
        (32, ("HS256",)),
        (47, ("HS256",)),
        (48, ("HS256", "HS384")),
        (63, ("HS256", "HS384")),
        (64, ("HS256", "HS384", "HS512")),
    ],
)
def test_a_secret_is_for_the_hashes_that_are_no_longer_than_it(bytes_: int, algorithms: tuple[str, ...]) -> None:
    (key,) = load_keys("x" * bytes_)
    assert key.algorithms == algorithms
    (weak,) = load_keys("x" * bytes_, allow_weak_keys=True)
    assert weak.algorithms == ("HS256", "HS384", "HS512")


def modulus(bits: int) -> int:
    """A number of so many bits without small factors, which is what a modulus looks like."""
    return next(n for n in count((1 << bits - 1) + 1, 2) if all(n % divisor for divisor in range(3, 4000, 2)))


def rsa_jwk(n: int, e: int) -> dict[str, str]:
    n_bytes, e_bytes = (number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (n, e))
    return {"kty": "RSA", "n": b64(n_bytes).decode(), "e": b64(e_bytes).decode()}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(rsa_jwk(modulus(512), 65537), "has 512 bits; from 2048 to 16384 can be used", id="512 bits"),
        pytest.param(rsa_jwk(modulus(1023), 65537), "has 1023 bits; from 2048 to 16384 can be used", id="1023 bits"),
        pytest.param(rsa_jwk(modulus(2048), (1 << 64) + 1), "exponent has more than 64 bits", id="a long exponent"),
    ],
)
def test_rsa_keys_that_could_verify_nothing_are_not_even_allowed_as_weak(source: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_keys(source, allow_weak_keys=True)


@pytest.mark.parametrize("bits", [2048, 16384])
def test_rsa_keys_of_all_usual_sizes_are_good(bits: int) -> None:
    (key,) = load_keys(rsa_jwk(modulus(bits), 3))
    assert key.algorithms == RSA_ALGORITHMS


def test_the_smallest_weak_rsa_key_verifies_every_algorithm_without_an_exception() -> None:
    (key,) = load_keys(RSA_1024, allow_weak_keys=True)
    for algorithm in RSA_ALGORITHMS:
        assert not key.verifies(algorithm, b"header.payload", b"\1" * 128)


def test_algorithms_narrow_what_a_key_verifies() -> None:
    (key,) = load_keys(pem(RSA), algorithms={"PS256", "ES256"})
    assert key.algorithms == ("PS256",)


def test_a_key_that_no_allowed_algorithm_is_for_is_refused() -> None:
    with pytest.raises(UnusableKey, match="it verifies HS256, HS384, HS512, none of which algorithms= allows"):
        load_keys([RSA, SECRET], algorithms={"RS256"})


def test_a_secret_too_short_for_the_allowed_algorithm_is_weak() -> None:
    with pytest.raises(ConfigurationError, match="HS512 needs 64"):
        load_keys(SECRET, algorithms={"HS512"})


def test_the_keys_of_a_jwk_set_that_are_for_something_else_are_passed_over() -> None:
    encryption = {**jwk(RSA), "use": "enc", "kid": "a"}
    unknown = {"kty": "AKP", "kid": "b"}
    good = {**jwk(ED25519), "kid": "c"}
    assert [key.kid for key in load_keys({"keys": [encryption, unknown, good]})] == ["c"]


def test_keys_of_all_kinds_stand_in_one_list() -> None:
    keys = load_keys([SECRET, pem(RSA), {"keys": [jwk(ED25519)]}, private_pem(SIGNERS["ES256"])])
    assert [key.algorithms[0] for key in keys] == ["HS256", "RS256", "EdDSA", "ES256"]


def test_as_many_keys_without_a_kid_as_are_tried_can_be_given() -> None:
    assert len(load_keys([f"{SECRET}{n}" for n in range(MAX_TRIES)])) == MAX_TRIES


def test_more_keys_without_a_kid_than_are_tried_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="9 keys without a kid verify HS256, but a token is tried with 8"):
        load_keys([f"{SECRET}{n}" for n in range(MAX_TRIES + 1)])


def secrets(number: int) -> list[str]:
    return [f"{SECRET}{n}" for n in range(number)]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param([secret(kid="a", k=b64(text.encode()).decode()) for text in secrets(9)], id="of one kid"),
        pytest.param([{"keys": [secret(kid="a")] * 9}], id="of one kid in a JWK Set"),
        pytest.param([secret(kid="a"), *secrets(8)], id="one with a kid, and those without"),
        pytest.param([*secrets(6), secret(kid="a"), secret(kid="b"), *[secret(kid="a")] * 2], id="among others"),
        pytest.param([secret(kid=""), *secrets(8)], id="of an empty kid"),
    ],
)
def test_more_keys_for_one_kid_than_are_tried_are_refused(source: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"9 keys verify HS256 with the kid 'a?', those without a kid among"):
        load_keys(source)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param([*secrets(7), *(secret(kid=str(n)) for n in range(100))], id="of many kids"),
        pytest.param([*secrets(8), {**jwk(RSA), "kid": "a"}], id="of another algorithm"),
        pytest.param([secret(kid="a")] * 8, id="eight of one kid"),
    ],
)
def test_as_many_keys_for_each_kid_and_algorithm_as_are_tried_can_be_given(source: Any) -> None:
    assert len(load_keys(source)) == len(source)


def test_more_keys_with_a_kid_than_are_tried_can_be_given() -> None:
    assert len(load_keys({"keys": [secret(kid=str(n)) for n in range(100)]})) == 100


HS = ("HS256",)
A, B, A_AGAIN = Key(b"a", HS, "a"), Key(b"b", HS, "b"), Key(b"a again", HS, "a")
NAMELESS, ES = Key(b"nameless", HS), Key(b"es", ("ES256",), "es")


@pytest.mark.parametrize(
    ("keys", "kid", "found"),
    [
        pytest.param([A, B], "b", [B], id="the key of that kid"),
        pytest.param([A, B], None, [A, B], id="all, without a kid"),
        pytest.param([NAMELESS, A], "a", [A, NAMELESS], id="the key of that kid before those without"),
        pytest.param([A, NAMELESS, B], None, [NAMELESS, A, B], id="those without before all others, without a kid"),
        pytest.param([NAMELESS, A], "unknown", [NAMELESS], id="those without, of an unknown kid"),
        pytest.param([NAMELESS, ES], "es", [NAMELESS], id="those without, of the kid of another algorithm"),
        pytest.param([A, A_AGAIN, B], "a", [A_AGAIN, A], id="two of one kid"),
        pytest.param([A, ES], None, [A], id="only those for the algorithm"),
    ],
)
def test_keys_are_found_by_kid_and_algorithm(keys: list[Key], kid: str | None, found: list[Key]) -> None:
    assert list(KeySet(keys).find(kid, "HS256")) == found


@pytest.mark.parametrize(
    ("keys", "kid", "algorithm", "refusal"),
    [
        pytest.param([A, B], "c", "HS256", UnknownKey, id="an unknown kid"),
        pytest.param([A, B], "", "HS256", UnknownKey, id="an empty kid"),
        pytest.param([A, B], "A", "HS256", UnknownKey, id="a kid in capitals"),
        pytest.param([A, B], "a", "HS384", AlgorithmNotAllowed, id="another algorithm"),
        pytest.param([A, ES], "a", "ES256", AlgorithmNotAllowed, id="the algorithm of another kid"),
        pytest.param([A, B], "c", "HS384", AlgorithmNotAllowed, id="an unknown kid and another algorithm"),
        pytest.param([A], None, "none", AlgorithmNotAllowed, id="none"),
        pytest.param([NAMELESS], "a", "ES256", AlgorithmNotAllowed, id="another algorithm, without a kid"),
        pytest.param([], None, "HS256", UnknownKey, id="no keys"),
    ],
)
def test_where_no_key_is_found_the_refusal_says_why(
    keys: list[Key], kid: str | None, algorithm: str, refusal: type[Refusal]
) -> None:
    with pytest.raises(refusal):
        KeySet(keys).find(kid, algorithm)


def test_a_bounded_number_of_keys_is_tried() -> None:
    keys = [Key(b"%d" % n, HS, str(n)) for n in range(100)]
    assert list(KeySet(keys).find(None, "HS256")) == keys[:MAX_TRIES]


def test_a_key_without_a_kid_is_tried_for_a_token_without_one_whatever_the_number_of_the_others() -> None:
    named = [secret(kid=str(n)) for n in range(MAX_TRIES)]
    found = KeySet(load_keys([*named, SECRET])).find(None, "HS256")
    assert found[0].material == SECRET.encode()
    assert len(found) == MAX_TRIES


def test_a_set_of_keys_that_nobody_configured_may_hold_more_of_one_kid_than_are_tried() -> None:
    keys = [Key(b"%d" % n, HS, "a") for n in range(MAX_TRIES + 1)]
    assert list(KeySet(keys).find("a", "HS256")) == keys[:0:-1]


def test_an_empty_kid_is_a_kid() -> None:
    (key,) = load_keys(secret(kid=""))
    assert list(KeySet([key]).find("", "HS256")) == [key]
    with pytest.raises(UnknownKey):
        KeySet([key]).find("a", "HS256")


@pytest.mark.parametrize("algorithms", [["HS256"], ("RS256", "Ed25519"), {"HS256"}, iter(["HS256"])])
def test_algorithms_are_known_names(algorithms: Any) -> None:
    assert check_algorithms(algorithms) <= set(ALGORITHMS)


@pytest.mark.parametrize(
    ("algorithms", "message"),
    [
        pytest.param("HS256", "must be a list of names", id="a string"),
        pytest.param([], "must be a list of names", id="nothing"),
        pytest.param(5, "must be a list of names", id="a number"),
        pytest.param(["none"], "'none' is not known; these are: HS256, ", id="none"),
        pytest.param(["NONE"], "'NONE' is not known", id="none in capitals"),
        pytest.param(["hs256"], "'hs256' is not known", id="small letters"),
        pytest.param(["HS256", "ES521"], "'ES521' is not known", id="a name of PyJWT's own"),
        pytest.param([["HS256"]], "list is not known", id="a list in a list"),
        pytest.param([None], "None is not known", id="None"),
    ],
)
def test_other_algorithms_are_refused_with_those_that_are_known(algorithms: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match="^algorithms.*" + message):
        check_algorithms(algorithms)


def test_no_repr_holds_a_secret() -> None:
    keys = load_keys([SECRET, private_pem(RSA), secret(kid="2026")])
    shown = f"{keys!r} {KeySet(keys)!r}"
    assert "2026" in shown
    for hidden in (SECRET, SECRET_64.decode(), secret()["k"], "BEGIN", "RSAPublicKey", jwk(RSA)["n"]):
        assert hidden not in shown


@pytest.mark.parametrize(
    ("algorithm", "form"),
    [
        pytest.param(algorithm, form, id=f"{algorithm} {kind}")
        for algorithm in ("RS256", "ES256", "ES384", "ES512", "ES256K", "Ed25519", "Ed448")
        for kind, form in public_forms(SIGNERS[algorithm]).items()
    ],
)
def test_the_text_of_a_public_key_never_verifies_what_is_signed_with_it_as_a_secret(algorithm: str, form: Any) -> None:
    (key,) = load_keys(form, allow_weak_keys=True)
    assert not {"HS256", "HS384", "HS512"}.intersection(key.algorithms)
    with pytest.raises(AlgorithmNotAllowed):
        KeySet([key]).find(None, "HS256")


def numeral(bits: int) -> str:
    return b64((random.getrandbits(bits) | 1 | 1 << (bits - 1)).to_bytes(bits // 8)).decode()


@pytest.mark.parametrize("published", [False, True])
def test_what_is_no_private_key_in_a_foreign_set_costs_no_time(published: bool) -> None:
    hostile = {"kty": "RSA", "kid": "slow", "n": numeral(16384), "e": "AQAB", "d": numeral(16384)}
    begun = time.perf_counter()
    keys, broken = load_foreign_keys([hostile, hostile], published=published)
    # Its primes are looked for in vain, for about four seconds each, where it is loaded.
    assert time.perf_counter() - begun < 1
    assert keys == ()
    assert len(broken) == 2
