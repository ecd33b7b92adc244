"""How does a text differ from a well-formed token? Nothing of the text is shown."""

import pytest

from jwt_middleware.errors import MalformedToken
from jwt_middleware.verifying.misspelling import encode_ascii, find_misspelling

from ..support import b64, signed, token

HEADER, PAYLOAD, SIGNATURE = token().encode().split(b".")


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        pytest.param(b"", "an empty text", id="empty"),
        pytest.param("Bürger".encode(), "characters that are not ASCII", id="letters"),
        pytest.param(signed({"alg": "HS256", "kid": True}, {}).encode(), "a kid or a typ", id="kid is a boolean"),
        pytest.param(signed({"alg": "HS256", "typ": 3}, {}).encode(), "a kid or a typ", id="typ is a number"),
        pytest.param(signed({"alg": "HS256", "b64": False}, {}).encode(), "an extension in the header", id="b64"),
        pytest.param(b".".join((HEADER, PAYLOAD, b"A")), "a signature that is not", id="cut signature"),
        pytest.param(b".".join((HEADER, b64(b"\xff"), SIGNATURE)), "a payload that is not", id="not UTF-8"),
        pytest.param(b".".join((HEADER, b64(b"[" * 5000), SIGNATURE)), "a payload that is not", id="deep"),
        pytest.param(b"." * 16_000, "16001 segments instead of three", id="dots"),
        pytest.param(b"a\x00b", "an opaque text", id="a null character"),
    ],
)
def test_the_first_mistake_is_named_without_showing_the_text(raw: bytes, found: str) -> None:
    misspelling = find_misspelling(raw)
    assert misspelling.found.startswith(found)
    assert misspelling.cure.endswith(".")
    assert not raw or len(raw) < 5 or raw.decode("latin-1") not in f"{misspelling}"


def test_a_text_that_is_not_ascii_is_no_token() -> None:
    assert encode_ascii("a.b.c") == b"a.b.c"
    with pytest.raises(MalformedToken) as refused:
        encode_ascii("Bürger")
    assert refused.value.found == "characters that are not ASCII"
