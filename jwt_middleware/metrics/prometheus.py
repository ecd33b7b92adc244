"""How does Prometheus get the metrics? Through ``prometheus_client`` (extra ``prometheus``)."""

from collections.abc import Iterable

from ..errors import ConfigurationError
from .counts import BUCKETS, Counts, Metric, merged

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ConfigurationError(
        "jwt_middleware.metrics.prometheus needs prometheus_client; install asgi-jwt-middleware[prometheus]"
    ) from error


class PrometheusMetrics(Counts, Collector):
    """Metrics for Prometheus: ``JWTMiddleware(app, ..., on_event=PrometheusMetrics())``.

    ``registry``
        Where the metrics are registered. Default: the registry of the process.

    The numbers are read when Prometheus scrapes. A request costs no more than the counting.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        super().__init__()
        self._histograms = {
            metric: Histogram(_name(metric), metric.description, _labels(metric), buckets=bounds, registry=registry)
            for metric, bounds in BUCKETS.items()
        }
        registry.register(self)

    def record(self, metric: Metric, seconds: float, *labels: tuple[str, str]) -> None:
        """See ``Counts``."""
        histogram = self._histograms[metric]
        (histogram.labels(*(text for _, text in labels)) if labels else histogram).observe(seconds)

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """What Prometheus scrapes."""
        for metric, values in merged(self.read()).items():
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            made = family(_name(metric), metric.description, labels=_labels(metric))
            for pairs, value in values.items():
                made.add_metric([text for _, text in pairs], value)
            yield made


def _labels(metric: Metric) -> list[str]:
    return [label.replace(".", "_") for label in metric.labels]


def _name(metric: Metric) -> str:
    unit = "_seconds" if metric.unit == "s" else ""
    return f"jwt_middleware_{metric.name.replace('.', '_')}{unit}"
