"""The gateway's plain counters as Prometheus metrics, read when somebody scrapes.

Each application has a registry of its own, so that two gateways live in one process.
Imported by the first scrape only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from llmgw_core.pipeline.stats import DURATION_BUCKETS
from llmgw_server.metrics_brakes import BrakeCollector
from llmgw_server.metrics_budgets import BudgetCollector
from llmgw_server.metrics_health import HealthCollector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from llmgw_core.gateway import Gateway
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.pipeline.stats import Stats

NANO = 1e-9
_UNFIT = re.compile(r"[^a-zA-Z0-9_]")


class StatsCollector(Collector):
    """Translates `Stats` on every scrape."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Every metric of the gateway itself."""
        stats = self._stats
        yield _counter(
            "llmgw_requests",
            "Replies by endpoint, model and HTTP status.",
            ["endpoint", "model", "status"],
            (((e, m, str(s)), tally.calls) for (e, m, s), tally in stats.calls.items()),
        )
        tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        charges: defaultdict[tuple[str], int] = defaultdict(int)
        for (_, model, _), tally in stats.calls.items():
            tokens[model, "input"] += tally.input_tokens
            tokens[model, "output"] += tally.output_tokens
            charges[model,] += tally.charge_nano
        yield _counter("llmgw_tokens", "Tokens settled.", ["model", "direction"], tokens.items())
        yield _counter(
            "llmgw_charge",
            "Charged to tenants, in units of the installation's currency.",
            ["model"],
            ((model, nano * NANO) for model, nano in charges.items()),
        )
        yield _counter(
            "llmgw_unpriced_calls",
            "Attempts booked at zero because their model had no price.",
            ["model"],
            (((model,), n) for model, n in stats.unpriced.items()),
        )
        yield _counter(
            "llmgw_attempts",
            "Attempts on deployments by outcome.",
            ["deployment", "outcome"],
            stats.attempts.items(),
        )
        yield _counter(
            "llmgw_retries",
            "Failed attempts after which a call went on: the same deployment again, another one,"
            " or one of another model.",
            ["model", "step"],
            stats.retries.items(),
        )
        yield _counter(
            "llmgw_refused_credentials",
            "Attempts whose credential the upstream refused; anything but 0 wants somebody's eye.",
            ["deployment"],
            (((deployment,), n) for deployment, n in stats.refused_credentials.items()),
        )
        yield _counter(
            "llmgw_refusals",
            "Calls refused before admission, by error code.",
            ["code"],
            (((code,), n) for code, n in stats.refusals.items()),
        )
        yield _counter(
            "llmgw_limit_shadow_exceeded",
            "Calls that a limit in shadow mode would have refused.",
            ["scope", "unit"],
            stats.shadowed.items(),
        )
        yield GaugeMetricFamily(
            "llmgw_calls_in_flight", "Admitted calls that are not settled.", stats.in_flight
        )
        yield GaugeMetricFamily("llmgw_calls_waiting", "Calls that wait for a slot.", stats.waiting)
        yield _counter(
            "llmgw_waits",
            "Calls that waited for a slot, or could not: served, timeout, full, displaced, left.",
            ["outcome"],
            (((outcome,), n) for outcome, n in stats.waits.items()),
        )
        yield CounterMetricFamily(
            "llmgw_waited_seconds", "What calls have waited for slots.", stats.waited_seconds
        )
        yield CounterMetricFamily(
            "llmgw_bugs", "Unexpected exceptions; anything but 0 is a bug.", stats.bugs_total
        )
        yield self._durations()

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "llmgw_request_duration_seconds",
            "From receipt of the head to the end of the call.",
            labels=["endpoint"],
        )
        bounds = [*(str(bound) for bound in DURATION_BUCKETS), "+Inf"]
        calls = self._stats.calls
        for endpoint in dict.fromkeys(endpoint for endpoint, _, _ in calls):
            tallies = [tally for (other, _, _), tally in calls.items() if other == endpoint]
            counts = zip(*(tally.buckets for tally in tallies), strict=True)
            totals = accumulate(float(sum(count)) for count in counts)
            seconds = sum(tally.duration_us for tally in tallies) / 1e6
            family.add_metric([endpoint], list(zip(bounds, totals, strict=True)), seconds)
        return family


class BooksCollector(Collector):
    """The way of the books from the journal into the ledger."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Every metric of the journal and its mover."""
        journal, mover = self._gateway.journal, self._gateway.mover
        yield GaugeMetricFamily(
            "llmgw_journal_healthy", "1 while the journal can be written.", int(journal.healthy)
        )
        yield GaugeMetricFamily(
            "llmgw_journal_backlog_bytes", "Journalled, not in the ledger.", mover.backlog
        )
        yield CounterMetricFamily(
            "llmgw_ledger_moved", "Entries moved from the journal to the ledger.", mover.moved
        )
        yield GaugeMetricFamily(
            "llmgw_ledger_failures", "Moves that failed since the last success.", mover.failures
        )
        yield CounterMetricFamily(
            "llmgw_ledger_refused",
            "Records that the ledger does not take, put aside.",
            mover.refused,
        )
        yield CounterMetricFamily(
            "llmgw_ledger_bugs",
            "Moves that failed unexpectedly; anything but 0 is a bug.",
            mover.bugs,
        )
        yield _counter(
            "llmgw_retention_deleted",
            "Rows deleted from the books because of their age.",
            ["table"],
            (((table,), count) for table, count in self._gateway.retention.deleted.items()),
        )
        yield _counter(
            "llmgw_journal_damages",
            "Damaged places found in journals, by kind.",
            ["kind"],
            (((str(kind),), number) for kind, number in mover.damage.items()),
        )


class PluginCollector(Collector):
    """What plugins count themselves, and how often they failed."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def _host(self) -> PluginHost:
        return self._gateway.host

    def collect(self) -> Iterator[Metric]:
        """Every metric of and about plugins."""
        yield from self._of_hooks()
        yield _counter(
            "llmgw_plugin_records_dropped",
            "Records that an observer did not get.",
            ["plugin"],
            (((plugin,), number) for plugin, number in self._host.dropped.items()),
        )
        tasks = GaugeMetricFamily(
            "llmgw_plugin_tasks", "Background tasks of plugins that run.", labels=["plugin"]
        )
        for plugin, context in self._host.contexts.items():
            tasks.add_metric([plugin], context.tasks)
        yield tasks
        for plugin, context in self._host.contexts.items():
            for name, value in context.metrics.counters.items():
                yield CounterMetricFamily(_own(plugin, name), f"Counted by {plugin}.", value)
            for name, value in context.metrics.gauges.items():
                yield GaugeMetricFamily(_own(plugin, name), f"Measured by {plugin}.", value)

    def _of_hooks(self) -> Iterator[Metric]:
        """The meters of every hook of every plugin."""
        hooks = [((hook.plugin, hook.hook), hook) for hook in self._host.hooks()]
        labels = ["plugin", "hook"]
        yield _counter(
            "llmgw_plugin_calls",
            "Calls of plugins' hooks.",
            labels,
            ((key, hook.calls) for key, hook in hooks),
        )
        yield _counter(
            "llmgw_plugin_failures",
            "Failures of plugins' hooks: exceptions, wrong results, timeouts.",
            labels,
            ((key, hook.failures) for key, hook in hooks),
        )
        yield _counter(
            "llmgw_plugin_timeouts",
            "Those of the failures that were timeouts.",
            labels,
            ((key, hook.timeouts) for key, hook in hooks),
        )
        yield _counter(
            "llmgw_plugin_blockings",
            "How often a plugin kept the event loop from everybody else for too long.",
            labels,
            ((key, hook.blockings) for key, hook in hooks),
        )
        yield _counter(
            "llmgw_plugin_seconds",
            "Time from calls of plugins' hooks to their results, waiting included.",
            labels,
            ((key, hook.seconds) for key, hook in hooks),
        )
        slowest = GaugeMetricFamily(
            "llmgw_plugin_slowest_seconds", "The longest of these times.", labels=labels
        )
        for key, hook in hooks:
            slowest.add_metric(list(key), hook.slowest)
        yield slowest


def _own(plugin: str, name: str) -> str:
    return "llmgw_plugin_" + _UNFIT.sub("_", f"{plugin}_{name}")


def _counter(
    name: str,
    text: str,
    labels: list[str],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(list(key), value)
    return family


def registry_of(gateway: Gateway) -> CollectorRegistry:
    """A new registry with the metrics of `gateway` and of this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatsCollector(gateway.stats))
    registry.register(BooksCollector(gateway))
    registry.register(PluginCollector(gateway))
    registry.register(HealthCollector(gateway))
    registry.register(BudgetCollector(gateway))
    registry.register(BrakeCollector(gateway))
    ProcessCollector(registry=registry)
    return registry
