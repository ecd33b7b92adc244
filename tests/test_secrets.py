"""The watch over every test finds what it looks for."""

import logging
import sys

import pytest
from starlette.responses import PlainTextResponse

from jwt_middleware import ConfigurationError
from jwt_middleware.events import RequestRefused

from .support import SECRET, bare_client, token
from .support.keys import RSA, private_pem
from .support.secrets import WATCH, leaks

pytestmark = pytest.mark.shows_tokens("to see that it is found")

from_python_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python tells from 3.12 on (PEP 669)")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"Bearer {token()}", id="a token"),
        pytest.param(token().split(".")[1], id="a payload"),
        pytest.param(f"key={SECRET!r}", id="a secret"),
        pytest.param(SECRET.encode().hex(), id="a secret in hexadecimal"),
        pytest.param(private_pem(RSA).decode(), id="a private key"),
        pytest.param('{"kty": "OKP", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}', id="a private JWK"),
        pytest.param("ada:lovelace", id="a password"),
    ],
)
def test_what_leaks_is_found(text: str) -> None:
    assert leaks(text)


@pytest.mark.parametrize("text", ["", "eye", "a key of 2048 bits", '{"kty": "OKP", "x": "11qYAYKxCrfVS_7TyWQHOg"}'])
def test_what_anybody_may_see_is_not_found(text: str) -> None:
    assert leaks(text) == []


@pytest.mark.parametrize("extra", [{}, {"raw": token()}])
def test_log_records_are_searched_with_their_fields(extra: dict[str, str]) -> None:
    logging.getLogger("anybody").warning("refused %s", "a token" if extra else token(), extra=extra)
    assert WATCH.found


def test_exceptions_in_log_records_are_searched() -> None:
    try:
        raise LookupError from ValueError(token())
    except LookupError:
        logging.getLogger("anybody").exception("failed")
    assert WATCH.found


@from_python_3_12
def test_exceptions_of_ours_are_searched() -> None:
    with pytest.raises(ConfigurationError):
        raise ConfigurationError(f"key must not be {SECRET}")
    assert WATCH.found


@from_python_3_12
def test_the_repr_of_our_objects_is_searched() -> None:
    RequestRefused(code=token(), status=401)
    assert WATCH.found


def test_refusals_are_searched() -> None:
    assert bare_client(PlainTextResponse(token())).get("/").status_code == 200
    assert not WATCH.found
    assert bare_client(PlainTextResponse(token(), 401)).get("/").status_code == 401
    assert bare_client(PlainTextResponse("", 401, {"x-token": token()})).get("/").status_code == 401
    assert len(WATCH.found) == 2
