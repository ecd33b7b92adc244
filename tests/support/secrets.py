"""Does anything that others can read hold a token, a secret or a password? A plugin for pytest: it watches every test.

It searches log records, exceptions, warnings, responses that refuse, and the repr of every object that the package
makes, events included. A test in which a token is meant to be seen says so: ``@pytest.mark.shows_tokens("why")``.
"""

import logging
import re
import sys
import types
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from .keys import SECRET_64
from .tokens import SECRET

TOKEN = re.compile(r"\beyJ[\w-]{12,}")
"""A JSON object in base64url: the header or the payload of a token."""

PRIVATE_KEY = re.compile(r"PRIVATE KEY-----|[\"']d[\"']: ?[\"'][\w-]{20,}")

PASSWORDS = ("hunter2", "lovelace", "builder")
"""The passwords of those who log in, here and in the examples, and the beginning of more secrets."""


def spellings(secret: bytes) -> set[str]:
    """How ``secret`` can stand in a text."""
    encoded = (b64encode(secret).rstrip(b"=").decode(), urlsafe_b64encode(secret).rstrip(b"=").decode())
    return {secret.decode(), secret.hex(), *encoded}


SECRETS = re.compile("|".join(map(re.escape, {*spellings(SECRET.encode()), *spellings(SECRET_64), *PASSWORDS})))


def leaks(text: str) -> list[str]:
    """What in ``text`` nobody should see."""
    return [match[0] for pattern in (TOKEN, PRIVATE_KEY, SECRETS) for match in pattern.finditer(text)]


class Watch(logging.Handler):
    """Collects every place at which something leaked since it was asked last."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def look(self, place: str, text: str) -> None:
        """Remember ``place`` if ``text``, which stands there, holds what it must not."""
        if leaked := leaks(text):
            self.found.append(f"{place}: {leaked[0]!r} in {text[:1000]!r}")

    def emit(self, record: logging.LogRecord) -> None:
        extra = {name: value for name, value in vars(record).items() if name not in ("exc_info", "exc_text")}
        self.look(f"a log record of {record.name}", f"{record.getMessage()} {extra}")
        error = record.exc_info[1] if record.exc_info else None
        while error is not None:
            self.look(f"an exception in a log record of {record.name}", f"{error} {error!r}")
            error = error.__cause__ or error.__context__

    def see_made(self, code: types.CodeType, offset: int, returned: object) -> None:
        """An ``__init__`` of the package has returned."""
        made = sys._getframe(1).f_locals.get(code.co_varnames[0])
        initialize = getattr(type(made), "__init__", None)
        # A base class initializes first: the object is not complete before its own class has.
        if getattr(initialize, "__code__", None) is code:
            self.look(f"the repr of a {type(made).__name__}", f"{made!r} {made}")

    def see_raised(self, code: types.CodeType, offset: int, error: BaseException) -> None:
        """Anything was raised, anywhere."""
        if isinstance(error, Warning) or type(error).__module__.startswith("jwt_middleware"):
            self.look(f"a {type(error).__name__}", f"{error} {error!r} {vars(error)}")

    def see_response(self, response: httpx2.Response) -> None:
        if response.status_code < 400:
            return
        text = f"{response.headers}"
        if response.is_closed or response.is_stream_consumed:
            text += response.text
        self.look(f"a response with {response.status_code}", text)


WATCH = Watch()


def watch_objects() -> None:
    """See what the package makes and raises, where Python can tell: from 3.12 on (PEP 669)."""
    if sys.version_info < (3, 12):
        return
    monitoring = sys.monitoring
    if monitoring.get_tool(monitoring.OPTIMIZER_ID) is None:
        monitoring.use_tool_id(monitoring.OPTIMIZER_ID, "secrets")
        monitoring.register_callback(monitoring.OPTIMIZER_ID, monitoring.events.PY_RETURN, WATCH.see_made)
        monitoring.register_callback(monitoring.OPTIMIZER_ID, monitoring.events.RAISE, WATCH.see_raised)
        monitoring.set_events(monitoring.OPTIMIZER_ID, monitoring.events.RAISE)
    for initialize in initializers():
        monitoring.set_local_events(monitoring.OPTIMIZER_ID, initialize.__code__, monitoring.events.PY_RETURN)


def initializers() -> Iterator[types.FunctionType]:
    """The ``__init__`` of every class of the package that was imported."""
    for name, module in list(sys.modules.items()):
        # What stands in for an identity provider in tests shows what it was asked.
        if name.partition(".")[0] == "jwt_middleware" and not name.startswith("jwt_middleware.testing"):
            for value in vars(module).values():
                if isinstance(value, type) and value.__module__ == name:
                    initialize = vars(value).get("__init__")
                    if isinstance(initialize, types.FunctionType):
                        yield initialize


def watch_responses() -> None:
    """See the responses of every client, that of the TestClient among them."""
    plain, plain_async = httpx2.Client.send, httpx2.AsyncClient.send

    def send(self: httpx2.Client, *arguments: Any, **options: Any) -> httpx2.Response:
        response = plain(self, *arguments, **options)
        WATCH.see_response(response)
        return response

    async def send_async(self: httpx2.AsyncClient, *arguments: Any, **options: Any) -> httpx2.Response:
        response = await plain_async(self, *arguments, **options)
        WATCH.see_response(response)
        return response

    httpx2.Client.send, httpx2.AsyncClient.send = send, send_async  # type: ignore[method-assign]  # to see all


def pytest_configure(config: pytest.Config) -> None:
    logging.getLogger().addHandler(WATCH)
    watch_responses()


def pytest_collection_finish(session: pytest.Session) -> None:
    watch_objects()


def pytest_warning_recorded(warning_message: Any) -> None:
    WATCH.look("a warning", str(warning_message.message))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    WATCH.found.clear()
    result = yield
    found = WATCH.found[:]
    WATCH.found.clear()
    if found and item.get_closest_marker("shows_tokens") is None:
        pytest.fail("\n".join(["This shows what nobody should see:", *found]), pytrace=False)
    return result
