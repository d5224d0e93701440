"""The brake for loops as Prometheus metrics, with few labels: never ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from llmgw_core.gateway import Gateway


class BrakeCollector(Collector):
    """Looks at the brake on every scrape."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Refusals, how often spending was fast, and the sessions in memory."""
        book = self._gateway.brakes
        refused = CounterMetricFamily(
            "llmgw_brake_exceeded",
            "Calls for which a bound of the brake was reached; with shadow they were let through.",
            labels=("scope", "bound", "shadow"),
        )
        for (scope, bound, shadow), calls in book.refused.items():
            refused.add_metric((scope, bound, "yes" if shadow else "no"), calls)
        yield refused
        fast = CounterMetricFamily(
            "llmgw_brake_fast", "How often the spending of a key came near what velocity refuses."
        )
        fast.add_metric((), book.fast)
        yield fast
        sessions = GaugeMetricFamily("llmgw_brake_sessions", "Sessions that the brake remembers.")
        sessions.add_metric((), len(book.runs))
        yield sessions
