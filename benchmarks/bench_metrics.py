"""What do metrics, traces and handlers add to a request? Metrics must not add more than 1 µs to a remembered one."""

import asyncio
from argparse import ArgumentParser
from collections.abc import Iterator
from itertools import repeat
from typing import Any

from harness import Added, Contestant, Workload, bare_app, measure, publish
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from tokens import AUDIENCE, issuer

from jwt_middleware import JWTMiddleware
from jwt_middleware.events import Event
from jwt_middleware.metrics.opentelemetry import OpenTelemetryMetrics
from jwt_middleware.metrics.prometheus import PrometheusMetrics
from jwt_middleware.tracing import SpanAttributes

WITHOUT = "without"


def workloads() -> list[Workload]:
    signer = issuer("HS256")

    def contestants() -> list[Contestant]:
        def contestant(name: str, **options: Any) -> Contestant:
            return Contestant(name, JWTMiddleware(bare_app, key=signer.text, audience=AUDIENCE, **options), bare_app)

        meters = MeterProvider([InMemoryMetricReader()])
        return [
            contestant(WITHOUT),
            contestant("Prometheus", on_event=PrometheusMetrics(CollectorRegistry())),
            contestant("OpenTelemetry", on_event=OpenTelemetryMetrics(meters)),
            contestant("enduser.id", on_event=SpanAttributes("enduser.id")),
            contestant("a handler", on_event=_hear),
            contestant("a handler, tell_accepted", on_event=_hear, tell_accepted=True),
        ]

    def new() -> Iterator[bytes | None]:
        yield from signer.new_tokens()

    return [
        Workload("remembered", repeat(signer.token(0)), contestants()),
        Workload("new", new(), contestants()),
        Workload("no token, refused", repeat(None), contestants(), expect=401),
    ]


def _hear(event: Event) -> None:
    pass


def report(added: list[Added]) -> str:
    """Microseconds that each adds to a request, above the middleware without it."""
    base = {one.workload: one.median for one in added if one.contestant == WITHOUT}
    lines = ["Microseconds above the middleware alone, by median", ""]
    for one in added:
        shown = f"{one.median:8.2f} in all" if one.contestant == WITHOUT else f"{one.median - base[one.workload]:+8.2f}"
        lines.append(f"{one.workload:<20}{one.contestant:<28}{shown}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="default: 300")
    parser.add_argument("--requests", type=int, default=100, help="in each round; default: 100")
    arguments = parser.parse_args()
    measured = asyncio.run(measure(workloads(), rounds=arguments.rounds, requests=arguments.requests))
    publish("metrics", report(measured), {"added": measured}, ["prometheus_client", "opentelemetry-sdk"])
