"""What may a log say about an address, a text or an exception? Nothing secret, nothing that forges a line. Pure."""

import re

MAX_TEXT = 200
"""Characters that are shown."""


def redact_address(url: str) -> str:
    """``url``, whether it is an address or not, without user, query and fragment, which may hold secrets."""
    return _printable(re.sub(r"(?s)[?#].*", "", re.sub(r"(//|^)[^/]*@", r"\1", url))[:MAX_TEXT])


def redact(text: str) -> str:
    """``text`` in one printable line, and each address in it without user, query and fragment."""
    text = re.sub(r"(://)[^/\s]*@", r"\1", text)
    return _printable(" ".join(re.sub(r"(://[^\s?#]*)[?#]\S*", r"\1", text).split()))


def describe_error(error: BaseException) -> str:
    """The part of ``error`` that may be shown. The user's own code may have raised it."""
    name, cause = type(error).__name__, error
    # Some errors say nothing themselves and are raised from one that does.
    while not str(cause) and (cause.__cause__ or cause.__context__):
        cause = cause.__cause__ or cause.__context__ or cause
    return f"{name}: {redact(str(cause))[:MAX_TEXT]}"


def _printable(text: str) -> str:
    """``text`` with control characters escaped: they could forge lines of a log, or move the cursor of a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
