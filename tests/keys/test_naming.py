"""How is a key named to an operator?"""

import pytest

from jwt_middleware.keys.naming import name_key

from ..support import SECRET
from ..support.keys import ED25519, RSA


@pytest.mark.parametrize(
    ("material", "kid", "name"),
    [
        pytest.param(SECRET.encode(), None, "the secret", id="secret"),
        pytest.param(SECRET.encode() + b"\n", "k", "the secret k, which begins or ends with white space", id="space"),
        pytest.param(b"QUFB" * 12, None, "the secret, which looks like base64", id="base64"),
        pytest.param(RSA.public_key(), "2024", "the RSA key 2024", id="RSA"),
        pytest.param(ED25519.public_key(), None, "the OKP key", id="Ed25519"),
    ],
)
def test_a_key_is_named_by_its_kind_and_kid(material: object, kid: str | None, name: str) -> None:
    assert name_key(material, kid) == name
