"""What Prometheus reads: this process's requests, and how the rows stand at the moment of the scrape."""

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one application; two of them in one process do not share any."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "netwright_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "netwright_http_request_seconds",
            "Time to the end of the answer, event streams left out.",
            ["method", "route"],
            registry=self.registry,
        )

    def render(self, counted: Mapping[str, Mapping[str, float]], plain: Mapping[str, tuple[str, float]]) -> bytes:
        """The exposition. counted: rows per state by noun (`search`, …). plain: (explanation, value) by gauge name.

        What the process itself counts is part of it: its memory, and the predictions where the runtime lives in it.
        """
        rows = CollectorRegistry()
        for noun, states in counted.items():
            gauge = Gauge(f"netwright_{noun}_count", f"Rows of {noun} per state.", ["state"], registry=rows)
            for state, count in states.items():
                gauge.labels(state).set(count)
        for name, (explanation, value) in plain.items():
            Gauge(f"netwright_{name}", explanation, registry=rows).set(value)
        return generate_latest(self.registry) + generate_latest(rows) + generate_latest(REGISTRY)
