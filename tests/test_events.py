"""What is an operator told, and how?"""

import logging
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest

from jwt_middleware import ConfigurationError, events
from jwt_middleware.errors import WrongAudience
from jwt_middleware.events import (
    Advice,
    Detail,
    Event,
    KeysExpired,
    RequestAccepted,
    RequestRefused,
    RevocationsUnread,
    SessionEnded,
)
from jwt_middleware.telling import MAX_KINDS, MAX_TEXT, SECONDS_BETWEEN_LINES, Events, describe_refusal, escape

from .support.processes import ROOT

KINDS = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event and not kind.__name__.startswith("_")
]

VALUES: dict[str, Any] = {
    "str": "text",
    "str | None": None,
    "int": 3,
    "int | None": None,
    "float": 1.5,
    "float | None": None,
    "bool": True,
    "tuple[str | None, ...]": ("a", None),
    "EndReason": "logout",
}


def example(kind: type[Event]) -> Event:
    values: dict[str, Any] = {}
    for field in fields(kind):
        name = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        values[field.name] = VALUES.get(str(field.type), VALUES.get(name, "logout"))
    return kind(**values)


def expired(n: int = 0) -> RequestRefused:
    return RequestRefused(code="expired", status=401, provider=f"p{n}")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "jwt_middleware")
    return caplog


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_is_a_frozen_value_with_a_sentence_and_a_logger_of_its_subject(
    kind: type[Event], log: pytest.LogCaptureFixture
) -> None:
    event = example(kind)
    for field in fields(event):
        with pytest.raises(FrozenInstanceError):
            setattr(event, field.name, None)
        with pytest.raises(FrozenInstanceError):
            delattr(event, field.name)
    Events().tell(event)
    (record,) = log.records
    assert record.name == f"jwt_middleware.{event.about}"
    assert record.levelno == event.level
    assert record.getMessage() == str(event) != ""
    assert record.__dict__["event"] == kind.__name__
    for field in fields(event):
        assert record.__dict__[field.name] == getattr(event, field.name)


@pytest.mark.parametrize("kind", KINDS)
def test_events_with_the_same_fields_are_equal(kind: type[Event]) -> None:
    event = example(kind)
    values = asdict(event)
    alike = kind(**dict(reversed(values.items())))
    assert event == alike
    assert hash(event) == hash(alike)
    assert repr(event) == f"{kind.__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"
    for name, value in values.items():
        if isinstance(value, str):
            assert replace(event, **{name: "another"}) != event


def test_events_of_two_classes_are_not_equal() -> None:
    assert Advice(text="a") != Detail(text="a")
    assert Advice(text="a") != "a"


@pytest.mark.parametrize("values", [{}, {"text": "a", "more": 1}])
def test_an_event_has_all_fields_and_no_others(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"Advice\(\) takes text, not"):
        Advice(**values)


def test_a_handler_gets_every_event() -> None:
    heard: list[Event] = []
    teller = Events(heard.append)
    for _ in range(3):
        teller.tell(expired())
    assert heard == [expired()] * 3


def test_several_handlers_get_every_event() -> None:
    first: list[Event] = []
    second: list[Event] = []
    Events([first.append, second.append]).tell(expired())
    assert first == second == [expired()]
    with pytest.raises(ConfigurationError, match="on_event must be callable"):
        Events([first.append, "print"])  # type: ignore[list-item]  # not a function


def test_a_handler_that_is_added_twice_is_called_once() -> None:
    heard: list[Event] = []
    hear = heard.append
    teller = Events(hear)
    teller.add_handlers(hear)
    teller.tell(expired())
    assert heard == [expired()]


async def coroutine_function(event: Event) -> None: ...


class Coroutine:
    async def __call__(self, event: Event) -> None: ...


@pytest.mark.parametrize("handler", [coroutine_function, Coroutine()])
def test_a_coroutine_function_is_no_handler(handler: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_event must be a plain function"):
        Events(handler)


def test_a_handler_must_be_callable() -> None:
    handler: Any = "print"
    with pytest.raises(ConfigurationError, match="on_event must be callable"):
        Events(handler)


def test_what_a_handler_raises_is_logged_once_and_breaks_nothing(log: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise RuntimeError("no")

    teller = Events(fail)
    teller.add_handlers(heard.append)
    for _ in range(3):
        teller.tell(Advice(text="do"))
    assert len(heard) == 3
    errors = [record for record in log.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None
    assert errors[0].exc_info[0] is RuntimeError


def test_what_is_said_once_is_told_once() -> None:
    heard: list[Event] = []
    teller = Events(heard.append)
    for name in ("a", "b", "a"):
        teller.tell(Advice(text=name), once=name)
    assert heard == [Advice(text="a"), Advice(text="b")]


def test_what_is_said_once_is_bounded() -> None:
    heard: list[Event] = []
    teller = Events(heard.append)
    for n in range(2 * MAX_KINDS):
        teller.tell(Advice(text=str(n)), once=n)
    assert len(heard) == MAX_KINDS


def test_events_of_a_kind_are_one_line_a_minute_with_their_number(log: pytest.LogCaptureFixture) -> None:
    now = 0.0
    teller = Events(clock=lambda: now)
    for _ in range(100):
        teller.tell(expired())
    teller.tell(expired(1))
    assert len(log.records) == 2
    now = SECONDS_BETWEEN_LINES - 0.1
    teller.tell(expired())
    assert len(log.records) == 2
    now = SECONDS_BETWEEN_LINES
    teller.tell(expired())
    assert log.records[2].getMessage().endswith("(100 more of this kind since the last line)")
    now = 3 * SECONDS_BETWEEN_LINES
    teller.tell(expired())
    assert log.records[3].getMessage() == str(expired())


def test_kinds_are_bounded(log: pytest.LogCaptureFixture) -> None:
    teller = Events(clock=lambda: 0)
    for n in range(3 * MAX_KINDS):
        teller.tell(expired(n))
    assert len(log.records) == MAX_KINDS + 1


def test_an_event_that_nobody_would_see_need_not_be_made(log: pytest.LogCaptureFixture) -> None:
    log.set_level(logging.WARNING, "jwt_middleware")
    now = 0.0
    teller = Events(clock=lambda: now)
    assert teller.skips(logging.INFO, "requests", "kind")
    event = RequestRefused(code="wrong_audience", status=401)
    assert not teller.skips(logging.WARNING, "requests", event.kind)
    teller.tell(event)
    assert teller.skips(logging.WARNING, "requests", event.kind)
    now = SECONDS_BETWEEN_LINES
    assert not teller.skips(logging.WARNING, "requests", event.kind)
    teller.tell(event)
    assert log.messages[-1].endswith("(1 more of this kind since the last line)")
    teller.add_handlers(lambda event: None)
    assert not teller.skips(logging.INFO, "requests", "kind")


@pytest.mark.parametrize(
    ("event", "level"),
    [
        pytest.param(expired(), logging.INFO, id="an expired token"),
        pytest.param(RequestRefused(code="missing_token", status=401), logging.INFO, id="no token"),
        pytest.param(RequestRefused(code="missing_token", status=401, scheme="Token"), logging.WARNING, id="a scheme"),
        pytest.param(RequestRefused(code="wrong_audience", status=401), logging.WARNING, id="a wrong audience"),
        pytest.param(SessionEnded(session_id="s", subject="a", reason="theft"), logging.WARNING, id="theft"),
        pytest.param(SessionEnded(session_id="s", subject="a", reason="logout"), logging.INFO, id="logout"),
        pytest.param(RevocationsUnread(error="e", outcome="o"), logging.WARNING, id="unread"),
        pytest.param(RevocationsUnread(error="e", outcome="o", stale=True), logging.ERROR, id="stale"),
        pytest.param(KeysExpired(source="s", max_stale=1, error=None), logging.ERROR, id="keys expired"),
    ],
)
def test_levels_make_sense_in_production(event: Event, level: int) -> None:
    assert event.level == level


def test_a_refused_request_says_what_was_expected_and_what_was_found() -> None:
    event = RequestRefused(
        code="wrong_audience",
        status=401,
        claim="aud",
        expected="orders",
        found="billing",
        method="GET",
        path="/items",
        client="10.0.0.1",
    )
    assert str(event) == (
        "refused GET /items from 10.0.0.1: wrong_audience (claim=aud, expected=orders, found=billing)"
    )
    assert str(RequestRefused(code="expired", status=401)) == "refused a request: expired"
    ignored = RequestRefused(code="expired", status=401, method="GET", path="/", ignored=True)
    assert str(ignored) == "ignored the token of GET /: expired"


def test_an_accepted_request_says_whose_it_was() -> None:
    event = RequestAccepted(provider="jwt", kid=None, subject="ada", method="GET", path="/items", client="10.0.0.1")
    assert str(event) == "accepted GET /items from 10.0.0.1 (provider=jwt, subject=ada)"
    live = RequestAccepted(provider="jwt", kid="k", subject=None, path="/live")
    assert str(live) == "accepted WebSocket /live (provider=jwt, kid=k)"


def test_a_refusal_describes_itself() -> None:
    refusal = WrongAudience(provider="p", kid="a\nb", subject="ada\x1b[0m")
    described = RequestRefused(**describe_refusal(refusal))
    assert (described.code, described.status, described.provider) == ("wrong_audience", 401, "p")
    assert (described.kid, described.subject) == (r"a\nb", r"ada\x1b[0m")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("orders", "orders", id="plain"),
        pytest.param("Büro", "Büro", id="letters"),
        pytest.param("a\r\nb\x00", r"a\r\nb\x00", id="control characters"),
        pytest.param("\u202eabc", r"\u202eabc", id="direction"),
        pytest.param("x" * 300, "x" * MAX_TEXT + "...", id="long"),
    ],
)
def test_texts_from_requests_are_escaped_and_cut(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_the_docs_name_every_event() -> None:
    text = (ROOT / "docs" / "events.rst").read_text("utf-8")
    for kind in KINDS:
        assert f"``{kind.__name__}``" in text, kind.__name__


def test_a_line_rounds_seconds() -> None:
    event = RequestRefused(code="expired", status=401, seconds_off=1197.4839091300964)
    assert str(event) == "refused a request: expired (seconds_off=1197.5)"
