"""The health and the load of deployments as Prometheus metrics, read when somebody scrapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from llmgw_core.gateway import Gateway

_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}
_LABELS: Final = ["deployment"]


class HealthCollector(Collector):
    """What is remembered about the deployments of calls that begin now."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Every metric of breakers, probes and engines. Deployments without a breaker, without
        probes or without a report of their load have no samples of it."""
        breaker = _gauge("llmgw_deployment_breaker", "0 closed, 1 half-open, 2 open (ejected).")
        ready = _gauge("llmgw_deployment_ready", "1 when probes found it ready.")
        in_flight = _gauge("llmgw_deployment_in_flight", "Attempts that run on it.")
        running = _gauge("llmgw_engine_running", "Requests that the engine computes.")
        waiting = _gauge("llmgw_engine_waiting", "Requests queued in the engine.")
        kv_use = _gauge("llmgw_engine_kv_use", "Share of the engine's KV cache in use, 0 to 1.")
        ejections = CounterMetricFamily(
            "llmgw_deployment_ejections", "Ejections by the circuit breaker.", labels=_LABELS
        )
        health = self._gateway.health
        for deployment, state in health.states(self._gateway.catalog.values()):
            labels = [deployment.id]
            in_flight.add_metric(labels, state.in_flight)
            if state.breaker is not None:
                breaker.add_metric(labels, _STATES[state.breaker.state.value])
                ejections.add_metric(labels, health.ejections.get(deployment.id, 0))
            if state.ready is not None:
                ready.add_metric(labels, int(state.ready))
            if state.load is not None:
                running.add_metric(labels, state.load.running)
                waiting.add_metric(labels, state.load.waiting)
                if state.load.kv_use is not None:
                    kv_use.add_metric(labels, state.load.kv_use)
        yield from (breaker, ejections, ready, in_flight, running, waiting, kv_use)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=_LABELS)
