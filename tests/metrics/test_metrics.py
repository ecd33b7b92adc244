"""What is counted, as a Prometheus text parser and OpenTelemetry's SDK receive it."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.websockets import WebSocket

from jwt_middleware import ConfigurationError, JWTMiddleware, RevocationView
from jwt_middleware.events import Advice, LoginFailed, LoginSucceeded, LoginThrottled, SessionEnded, SessionRefreshed
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer
from jwt_middleware.metrics.counts import METRICS, Counts
from jwt_middleware.metrics.opentelemetry import OpenTelemetryMetrics
from jwt_middleware.metrics.prometheus import PrometheusMetrics
from jwt_middleware.testing import IdentityProvider

from ..support import NOW, SECRET, bare_client, bearer, client, echo, token
from ..support.processes import ROOT

Seen = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(registry: CollectorRegistry) -> Seen:
    """The samples that a scrape gives, by name and labels."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def collected(reader: InMemoryMetricReader) -> dict[tuple[str, tuple[tuple[str, Any], ...]], Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        (metric.name, tuple(sorted((point.attributes or {}).items()))): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def use(metrics: Counts) -> None:
    """Three good requests, one of them with a new token; one without a token; two refused."""
    one = client(on_event=metrics)
    for _ in range(3):
        assert one.get("/", headers=bearer(token())).status_code == 200
    one.get("/")
    for _ in range(2):
        one.get("/", headers=bearer(token(aud="billing")))


def test_prometheus_reads_what_happened() -> None:
    registry = CollectorRegistry()
    use(PrometheusMetrics(registry))
    seen = scraped(registry)
    refused = "jwt_middleware_requests_refused_total"
    assert seen[refused, (("error_type", "missing_token"), ("provider", ""))] == 1
    assert seen[refused, (("error_type", "wrong_audience"), ("provider", "jwt"))] == 2
    assert seen["jwt_middleware_tokens_verified_total", (("state", "new"),)] == 1
    assert seen["jwt_middleware_tokens_verified_total", (("state", "remembered"),)] == 2
    assert seen["jwt_middleware_keys_count", (("provider", "jwt"),)] == 1
    assert seen["jwt_middleware_connections_open", ()] == 0


def test_opentelemetry_reads_what_happened() -> None:
    reader = InMemoryMetricReader()
    use(OpenTelemetryMetrics(MeterProvider([reader])))
    seen = collected(reader)
    refused = "jwt_middleware.requests.refused"
    assert seen[refused, (("error.type", "missing_token"),)].value == 1
    assert seen[refused, (("error.type", "wrong_audience"), ("provider", "jwt"))].value == 2
    assert seen["jwt_middleware.tokens.verified", (("state", "new"),)].value == 1
    assert seen["jwt_middleware.tokens.verified", (("state", "remembered"),)].value == 2


def test_fetches_and_the_age_of_keys_are_measured() -> None:
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    with IdentityProvider() as provider:
        for metrics in (PrometheusMetrics(registry), OpenTelemetryMetrics(MeterProvider([reader]))):
            middleware = JWTMiddleware(echo, issuer=provider.issuer, audience="orders", on_event=metrics)
            with bare_client(middleware) as one:
                assert one.get("/", headers=bearer(provider.mint(aud="orders"))).status_code == 200
        provider.fail()
        failing = JWTMiddleware(echo, issuer=provider.issuer, audience="orders", on_event=metrics)
        with bare_client(failing):
            pass
        provider.recover()
        seen, points = scraped(registry), collected(reader)
    assert seen["jwt_middleware_keys_fetch_duration_seconds_count", (("error_type", ""),)] == 1
    assert 0 <= seen["jwt_middleware_keys_age_seconds", (("provider", "jwt"),)] < 60
    fetches = "jwt_middleware.keys.fetch.duration"
    good, failed = points[fetches, ()], points[fetches, (("error.type", "failed"),)]
    assert isinstance(good, HistogramDataPoint)
    assert (good.count, failed.count) == (1, 1)
    assert good.explicit_bounds[0] == 0.01


def test_sessions_and_logins_are_counted() -> None:
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    for event in (
        SessionRefreshed(session_id="s", subject="ada", generation=1),
        SessionEnded(session_id="s", subject="ada", reason="theft"),
        SessionEnded(session_id="s", subject="ada", reason="logout"),
        LoginSucceeded(subject="ada"),
        LoginFailed(),
        LoginThrottled(by="account"),
        Advice(text="x"),
    ):
        metrics(event)
    seen = scraped(registry)
    assert seen["jwt_middleware_sessions_refreshes_total", ()] == 1
    assert seen["jwt_middleware_sessions_thefts_total", ()] == 1
    outcomes = [
        seen["jwt_middleware_logins_total", (("outcome", name),)] for name in ("succeeded", "failed", "throttled")
    ]
    assert outcomes == [1, 1, 1]


async def live(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return await echo(scope, receive, send)
    websocket = WebSocket(scope, receive, send)
    await websocket.accept()
    await websocket.receive()
    return None


def test_open_connections_and_the_lag_of_revocations_are_gauges() -> None:
    registry = CollectorRegistry()
    tokens = TokenIssuer(SECRET, audience="orders")
    sessions = Sessions(MemoryStore(), tokens)
    view = RevocationView(MemoryStore())
    for revocations in (sessions, view):
        metrics = PrometheusMetrics(registry := CollectorRegistry())
        app = JWTMiddleware(live, providers=tokens.provider(), revocations=revocations, on_event=metrics)
        with bare_client(app) as one, one.websocket_connect("/", headers=bearer(tokens.mint("ada"))):
            assert scraped(registry)["jwt_middleware_connections_open", ()] == 1
            assert 0 <= scraped(registry)["jwt_middleware_revocations_lag_seconds", ()] < 5


def test_nothing_from_a_request_becomes_a_label() -> None:
    registry = CollectorRegistry()
    one = client(on_event=PrometheusMetrics(registry))
    for n in range(20):
        one.get(f"/secret-{n}", headers={**bearer(token(sub=f"user-{n}", exp=NOW - 9, header={"kid": f"kid-{n}"}))})
    text = generate_latest(registry).decode()
    for said in ("secret-", "user-", "kid-"):
        assert said not in text


def test_the_dashboard_shows_metrics_that_exist() -> None:
    registry = CollectorRegistry()
    use(metrics := PrometheusMetrics(registry))
    metrics.record_fetch(0.1, "")
    for event in (SessionRefreshed(session_id="s", subject="a", generation=1), LoginFailed()):
        metrics(event)
    metrics(SessionEnded(session_id="s", subject="a", reason="theft"))
    text = generate_latest(registry).decode()
    dashboard = json.loads((ROOT / "docs" / "_static" / "grafana.json").read_text())
    names = {
        word
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for word in target["expr"].replace("(", " ").replace("[", " ").replace("{", " ").replace(")", " ").split()
        if word.startswith("jwt_middleware_")
    }
    assert len(names) >= 8
    for name in names - {"jwt_middleware_keys_age_seconds", "jwt_middleware_revocations_lag_seconds"}:
        assert name in text, name


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("jwt_middleware.metrics.prometheus", "prometheus_client", "prometheus"),
        ("jwt_middleware.metrics.opentelemetry", "opentelemetry.metrics", "otel"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(
    module: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=rf"asgi-jwt-middleware\[{extra}\]"):
        importlib.import_module(module)


def test_the_docs_name_every_metric() -> None:
    text = Path(ROOT / "docs" / "events.rst").read_text()
    for metric in METRICS:
        assert f"``{metric.name}``" in text, metric.name
