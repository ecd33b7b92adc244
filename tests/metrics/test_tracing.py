"""What the span of a request says about its user, as OpenTelemetry's SDK exports it."""

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from jwt_middleware import ConfigurationError, JWTMiddleware
from jwt_middleware.tracing import SpanAttributes

from ..support import NOW, SECRET, bare_client, bearer, token

KEY = "a key of pseudonyms with thirty-two bytes"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


def exported(raw: str | None, attributes: SpanAttributes | None, **options: Any) -> Mapping[str, Any]:
    """The attributes of the one span around a request with the token ``raw``."""
    exporter = InMemorySpanExporter()
    traces = TracerProvider()
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    on_event = [] if attributes is None else [attributes]
    options = {"key": SECRET, "audience": "orders", "clock": lambda: NOW, **options}
    guarded = JWTMiddleware(app, on_event=on_event, **options)
    bare_client(in_a_span(guarded, traces)).get("/open", headers={} if raw is None else bearer(raw))
    (span,) = exporter.get_finished_spans()
    return dict(span.attributes or {})


def in_a_span(app: ASGIApp, traces: TracerProvider) -> ASGIApp:
    """``app`` as the middlewares of OpenTelemetry wrap it."""

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        with traces.get_tracer("tests").start_as_current_span("GET"):
            await app(scope, receive, send)

    return traced


def test_nothing_is_set_that_is_not_named() -> None:
    assert exported(token(), None) == {}
    assert exported(token(exp=1), None) == {}
    assert exported(token(), SpanAttributes("error.type")) == {}
    assert exported(token(exp=1), SpanAttributes("enduser.id")) == {}


def test_the_user_is_set_on_request() -> None:
    assert exported(token(), SpanAttributes("enduser.id")) == {"enduser.id": "ada"}


def test_a_pseudonym_tells_users_apart_and_names_none() -> None:
    attributes = SpanAttributes(["enduser.pseudo.id"], pseudonym_key=KEY)
    pseudonym = exported(token(), attributes)["enduser.pseudo.id"]
    assert pseudonym == attributes.pseudonym("jwt", None, "ada")
    assert "ada" not in pseudonym
    assert pseudonym != exported(token(sub="bob"), attributes)["enduser.pseudo.id"]
    other = SpanAttributes("enduser.pseudo.id", pseudonym_key=KEY.encode() + b"x")
    assert pseudonym != exported(token(), other)["enduser.pseudo.id"]


def test_the_code_of_a_refusal_is_set_on_request() -> None:
    assert exported(token(exp=1), SpanAttributes("error.type")) == {"error.type": "expired"}
    assert exported(token(exp=1), SpanAttributes("error.type"), public=["/open"]) == {}


def test_a_request_without_a_user_has_none() -> None:
    assert exported(None, SpanAttributes("enduser.id"), allow_anonymous=True) == {}
    assert exported(token(sub=None), SpanAttributes("enduser.id"), subject_claim=None) == {}


@pytest.mark.parametrize(
    ("names", "key", "message"),
    [
        ("enduser.role", None, "names: 'enduser.role' is no attribute"),
        ((), None, "names must be"),
        ("enduser.pseudo.id", None, "pseudonym_key must be a secret of 32 bytes"),
        ("enduser.pseudo.id", "short", "not str|not bytes"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(names: Any, key: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SpanAttributes(names, pseudonym_key=key)
