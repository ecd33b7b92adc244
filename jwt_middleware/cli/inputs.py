"""Where do tokens and keys come from? From standard input or a file, so that no shell history keeps them."""

import json
import sys
from collections.abc import Mapping
from typing import Any

MAX_BYTES = 1024 * 1024
"""The most bytes of a file or of standard input that are read."""


class UsageError(Exception):
    """The command was called in a way that cannot work; the message says what would."""


def read_text(value: str | None, what: str) -> str:
    """The text that ``value`` names: ``-`` or None is standard input, ``@PATH`` a file, anything else the text itself.

    Raises ``UsageError`` if it cannot be read, or if it is empty or blank.
    """
    text = _read(value, what)
    if not text.strip():
        raise UsageError(f"there is no {what}: give it on standard input or as @FILE")
    return text


def read_key(value: str) -> Any:
    """The key that ``value`` names, as ``Provider(key=)`` takes it: a JWK or JWK Set as a dict, else the text."""
    text = read_text(value, "key").strip()
    if text.startswith("{"):
        return read_object(text, "key")
    return text


def read_object(text: str, what: str) -> Mapping[str, Any]:
    """The JSON object that ``text`` holds; raises ``UsageError``."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"the {what} is not a JSON object")
    return found


def _read(value: str | None, what: str) -> str:
    if value is None or value == "-":
        if sys.stdin.isatty():
            print(f"Paste the {what}, then press Ctrl-D:", file=sys.stderr)  # noqa: T201  # a prompt
        return _decode(sys.stdin.buffer.read(MAX_BYTES + 1), what)
    if not value.startswith("@"):
        return value
    try:
        with open(value[1:], "rb") as file:
            return _decode(file.read(MAX_BYTES + 1), what)
    except OSError as error:
        raise UsageError(f"cannot read the {what}: {error.strerror}: {value[1:]}") from None


def _decode(data: bytes, what: str) -> str:
    if len(data) > MAX_BYTES:
        raise UsageError(f"the {what} has more than {MAX_BYTES} bytes")
    return data.decode("utf-8", "replace")
