"""What is counted, as a Prometheus text parser and OpenTelemetry's SDK receive it."""

import importlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Security
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from jwt_middleware import ConfigurationError, JWTMiddleware, JWTUser, Refusal, RevocationView, Token, renew, requires
from jwt_middleware.events import (
    Advice,
    LoginFailed,
    LoginSucceeded,
    LoginThrottled,
    RequestRefused,
    SessionEnded,
    SessionRefreshed,
)
from jwt_middleware.fastapi import Auth
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer
from jwt_middleware.metrics.counts import MAX_SERIES, METRICS, Counts
from jwt_middleware.metrics.opentelemetry import OpenTelemetryMetrics
from jwt_middleware.metrics.prometheus import PrometheusMetrics
from jwt_middleware.testing import IdentityProvider

from ..support import NOW, SECRET, bare_client, bearer, client, echo, token
from ..support.processes import ROOT

Seen = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@requires("admin")
async def admin(request: Request) -> Response:
    return PlainTextResponse("ok")


async def helper(request: Request) -> Response:
    return await admin(request)


@requires("admin")
async def guarded(websocket: WebSocket) -> None: ...


async def open_to_all(request: Request) -> Response:
    return PlainTextResponse("ok")


GUARDED = Starlette(
    routes=[
        Route("/admin", admin),
        Route("/helper", helper),
        Route("/open", open_to_all),
        WebSocketRoute("/live", guarded),
    ]
)


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
    # Metrics keep no middleware alive.
    watched: list[JWTMiddleware] = []
    with IdentityProvider() as provider:
        for metrics in (PrometheusMetrics(registry), OpenTelemetryMetrics(MeterProvider([reader]))):
            watched.append(JWTMiddleware(echo, issuer=provider.issuer, audience="orders", on_event=metrics))
            with bare_client(watched[-1]) as one:
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


def test_new_tokens_are_timed_and_remembered_ones_are_not() -> None:
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    use(PrometheusMetrics(registry))
    use(OpenTelemetryMetrics(MeterProvider([reader])))
    assert scraped(registry)["jwt_middleware_tokens_verification_duration_seconds_count", ()] == 1
    point = collected(reader)["jwt_middleware.tokens.verification.duration", ()]
    assert point.count == 1
    assert point.explicit_bounds[0] < 0.001


def test_a_new_token_whose_check_waits_is_not_timed() -> None:
    async def validate(token: Token) -> bool:
        return True

    metrics = PrometheusMetrics(registry := CollectorRegistry())
    assert client(validate=validate, on_event=metrics).get("/", headers=bearer(token())).status_code == 200
    assert scraped(registry)["jwt_middleware_tokens_verification_duration_seconds_count", ()] == 0


def test_every_unit_is_one_of_ucum_and_every_label_has_a_standard_name() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"s|\{[a-z]+\}", metric.unit)
        assert set(metric.labels) <= {"error.type", "provider", "state", "outcome"}


class Exported(MetricExporter):
    """Keeps what it is to export as JSON."""

    texts: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.texts = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **options: Any) -> MetricExportResult:
        self.texts.append(metrics_data.to_json())
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **options: Any) -> None: ...


def test_an_exporter_of_opentelemetry_gets_the_numbers() -> None:
    exporter = Exported()
    meters = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)])
    use(OpenTelemetryMetrics(meters))
    meters.force_flush()
    (text,) = exporter.texts
    for name in ("requests.refused", "tokens.verified", "tokens.verification.duration"):
        assert f'"jwt_middleware.{name}"' in text
    meters.shutdown()


REFUSALS = {
    "the middleware": ("GET", "/", {}, "requests_refused", "missing_token"),
    "a public path": ("GET", "/open", bearer(token(exp=1)), "tokens_ignored", "expired"),
    "requires": ("GET", "/admin", bearer(token()), "requests_refused", "insufficient_scope"),
    "an endpoint in an endpoint": ("GET", "/helper", bearer(token()), "requests_refused", "insufficient_scope"),
    "a websocket": ("WS", "/live", bearer(token()), "requests_refused", "insufficient_scope"),
    "a websocket without a token": ("WS", "/live", {}, "requests_refused", "missing_token"),
}


@pytest.mark.parametrize("closes", [False, True], ids=["denied", "closed"])
@pytest.mark.parametrize("place", REFUSALS)
def test_each_refusal_is_counted_once_wherever_it_happens(place: str, closes: bool) -> None:
    method, path, headers, name, code = REFUSALS[place]
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    refusals: Any = "close" if closes else "deny"
    one = client(GUARDED, on_event=[metrics, metrics], public=["/open"], websocket_refusals=refusals)
    if method == "WS":
        with (
            pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
            one.websocket_connect(path, headers=headers) as websocket,
        ):
            websocket.receive_text()
    else:
        one.get(path, headers=headers)
    counted = {
        (sample, dict(labels)["error_type"]): value
        for (sample, labels), value in scraped(registry).items()
        if sample.endswith(("refused_total", "ignored_total"))
    }
    assert counted == {(f"jwt_middleware_{name}_total", code): 1}


def test_a_refused_renewal_and_a_refused_dependency_are_counted_once() -> None:
    registry = CollectorRegistry()
    auth = Auth(key=SECRET, audience="orders", clock=lambda: NOW, on_event=PrometheusMetrics(registry))
    app = FastAPI()
    auth.install(app)

    @app.get("/admin")
    def admin(user: Annotated[JWTUser, Security(auth, scopes=["admin"])]) -> None: ...

    @app.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await renew(websocket.scope, token(sub="eve"))
        except Refusal as refusal:
            await websocket.send_text(refusal.code)

    one = bare_client(app)
    assert one.get("/admin", headers=bearer(token())).status_code == 403
    refused = "jwt_middleware_requests_refused_total"
    expected = {(refused, (("error_type", "insufficient_scope"), ("provider", "jwt"))): 1.0}
    assert {key: value for key, value in scraped(registry).items() if key[0] == refused} == expected
    # The app decides what a refused renewal means: no request was refused.
    with one.websocket_connect("/live", headers=bearer(token())) as websocket:
        assert websocket.receive_text() == "invalid_claim"
    assert {key: value for key, value in scraped(registry).items() if key[0] == refused} == expected


def test_counters_never_fall() -> None:
    registry = CollectorRegistry()
    accepts = True
    one = client(on_event=PrometheusMetrics(registry), load_user=lambda token: JWTUser(token) if accepts else None)
    for _ in range(3):
        one.get("/", headers=bearer(token()))
    remembered = "jwt_middleware_tokens_verified_total", (("state", "remembered"),)
    before = scraped(registry)[remembered]
    accepts = False
    for n in range(5):
        one.get("/", headers=bearer(token(sub=f"user {n}")))
    assert scraped(registry)[remembered] == before == 2


def test_series_are_bounded() -> None:
    metrics = Counts()
    for n in range(2 * MAX_SERIES):
        metrics(RequestRefused(code="expired", status=401, provider=f"tenant {n}"))
    seen = {labels: value for metric, labels, value in metrics.read() if metric.name == "requests.refused"}
    assert len(seen) == MAX_SERIES + 1
    assert seen[("error.type", "expired"), ("provider", "other")] == MAX_SERIES


def test_nothing_from_a_request_becomes_a_label() -> None:
    registry = CollectorRegistry()
    one = client(on_event=PrometheusMetrics(registry))
    for n in range(20):
        one.get(f"/secret-{n}", headers={**bearer(token(sub=f"user-{n}", exp=NOW - 9, header={"kid": f"kid-{n}"}))})
    text = generate_latest(registry).decode()
    for said in ("secret-", "user-", "kid-"):
        assert said not in text


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads((ROOT / "docs" / "_static" / "grafana.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = set(re.findall(r"jwt_middleware_\w+", " ".join(expressions)))
    endings = {"counter": "_total", "gauge": "", "histogram": "_bucket"}
    assert names == {
        f"jwt_middleware_{metric.name.replace('.', '_')}{'_seconds' * (metric.unit == 's')}{endings[metric.kind]}"
        for metric in METRICS
    }
    labels = {label for by in re.findall(r"by \(([^)]*)\)", " ".join(expressions)) for label in by.split(", ")}
    assert labels <= {"le", *(label.replace(".", "_") for metric in METRICS for label in metric.labels)}


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("jwt_middleware.metrics.prometheus", "prometheus_client", "prometheus"),
        ("jwt_middleware.metrics.opentelemetry", "opentelemetry.metrics", "otel"),
        ("jwt_middleware.tracing", "opentelemetry.trace", "otel"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(
    module: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=rf"asgi-jwt-middleware\[{extra}\]"):
        importlib.import_module(module)


def test_the_docs_name_every_metric() -> None:
    text = Path(ROOT / "docs" / "events.rst").read_text()
    for metric in METRICS:
        assert f"``{metric.name}``" in text, metric.name
