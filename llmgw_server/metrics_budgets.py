"""Budgets as Prometheus metrics, with few labels: kinds of levels and periods, never ids."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from llmgw_core.gateway import Gateway

_LABELS = ("level", "unit", "period")
_FULLNESS = ((100, "100"), (80, "80"), (50, "50"), (0, "0"))
"""The least percentage that is spent, and the label."""


class BudgetCollector(Collector):
    """Looks at every budget on every scrape."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Refusals, how many budgets are how full, and what became of the webhook's messages."""
        budgets, webhook = self._gateway.budgets, self._gateway.webhook
        refused = CounterMetricFamily(
            "llmgw_budget_exceeded",
            "Calls for which a budget had no room; with shadow they were let through.",
            labels=(*_LABELS, "shadow"),
        )
        for (level, unit, period, shadow), calls in budgets.book.refused.items():
            refused.add_metric((level, unit, period, "yes" if shadow else "no"), calls)
        yield refused
        full = GaugeMetricFamily(
            "llmgw_budgets",
            "Budgets by the percentage that is spent, at least.",
            labels=(*_LABELS, "percent"),
        )
        found: Counter[tuple[str, ...]] = Counter()
        for each in budgets.states():
            least = next(
                label for least, label in _FULLNESS if each.spent * 100 >= least * each.amount
            )
            found[each.level, each.unit, each.period, least] += 1
        for labels, number in found.items():
            full.add_metric(labels, number)
        yield full
        messages = CounterMetricFamily(
            "llmgw_webhook_messages", "Messages of the webhook.", labels=("outcome",)
        )
        messages.add_metric(("delivered",), webhook.delivered)
        messages.add_metric(("dropped",), webhook.dropped)
        yield messages
