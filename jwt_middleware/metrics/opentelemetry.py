"""How does OpenTelemetry get the metrics? Through its API (extra ``otel``)."""

from collections.abc import Callable, Iterable
from functools import partial

from ..errors import ConfigurationError
from .counts import BUCKETS, METRICS, Counts, Metric, merged

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
except ImportError as error:
    raise ConfigurationError(
        "jwt_middleware.metrics.opentelemetry needs opentelemetry-api; install asgi-jwt-middleware[otel]"
    ) from error


class OpenTelemetryMetrics(Counts):
    """Metrics for OpenTelemetry: ``JWTMiddleware(app, ..., on_event=OpenTelemetryMetrics())``.

    ``meter_provider``
        Default: the one of the process.

    Instruments are observable: the numbers are read when the SDK collects. Fetches and new tokens are histograms.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        super().__init__()
        provider = get_meter_provider() if meter_provider is None else meter_provider
        meter = provider.get_meter("jwt_middleware")
        self._histograms = {
            metric: meter.create_histogram(
                _name(metric),
                unit=metric.unit,
                description=metric.description,
                explicit_bucket_boundaries_advisory=bounds,
            )
            for metric, bounds in BUCKETS.items()
        }
        for metric in METRICS:
            if metric.kind == "histogram":
                continue
            create: Callable[..., object] = (
                meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            )
            callbacks = [partial(self._observe, metric)]
            create(_name(metric), callbacks=callbacks, unit=metric.unit, description=metric.description)

    def record(self, metric: Metric, seconds: float, *labels: tuple[str, str]) -> None:
        """See ``Counts``."""
        self._histograms[metric].record(seconds, {name: text for name, text in labels if text})

    def _observe(self, metric: Metric, options: CallbackOptions) -> Iterable[Observation]:
        for labels, value in merged(self.read())[metric].items():
            yield Observation(value, {name: text for name, text in labels if text})


def _name(metric: Metric) -> str:
    return f"jwt_middleware.{metric.name}"
