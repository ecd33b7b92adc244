"""What logs may say of what others wrote."""

import pytest

from jwt_middleware._support.redaction import describe_error, redact, redact_address


def test_a_text_is_shown_in_one_line_without_the_secrets_of_its_addresses() -> None:
    text = "no way to https://ada:s3@cret@h:1/j?key=s3cret\r\nnor http://h#s3cret, nor socks5://a:s3cret@p; why?"
    assert redact(text) == "no way to https://h:1/j nor http://h nor socks5://p; why?"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("https://ada:s3cret@h:1/j?key=s3cret#s3cret", "https://h:1/j", id="all that an address can hold"),
        pytest.param("ada:s3cret@h", "h", id="no scheme"),
        pytest.param("https://h/\x1b[31m\n2026 forged", "https://h/\\x1b[31m\\n2026 forged", id="control characters"),
        pytest.param("https://h/" + "a" * 1000, "https://h/" + "a" * 190, id="long"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact_address(url) == shown


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x9b", "\u202e", "\u2028", "\ud800"])
def test_control_characters_in_an_exception_do_not_reach_the_log(character: str) -> None:
    shown = describe_error(ValueError(f"before{character}after"))
    assert shown.isprintable()
    assert shown.startswith("ValueError: before")
    assert shown.endswith("after")


def test_an_exception_without_a_text_is_described_by_its_cause() -> None:
    error = ValueError()
    error.__cause__ = OSError("the network is down")
    assert describe_error(error) == "ValueError: the network is down"
    assert describe_error(ValueError()) == "ValueError: "
