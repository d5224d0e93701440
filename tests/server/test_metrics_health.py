"""What /metrics says about breakers, probes and the load of engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import generate_latest

from llmgw_core.config.schema_health import BreakerConfig, ProbesConfig
from llmgw_core.config.schema_routing import DeploymentRouting
from llmgw_core.testing.engine_pages import EnginePages
from llmgw_core.testing.installation import at
from llmgw_core.testing.reloads import settled
from llmgw_server.metrics import registry_of

if TYPE_CHECKING:
    from llmgw_core.gateway import Gateway
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

PROBED = DeploymentRouting(probes=ProbesConfig(enabled=True, interval=0.01))
WITHOUT = DeploymentRouting(breaker=BreakerConfig(enabled=False))


def samples(gateway: Gateway) -> dict[str, float]:
    """Those of deployments and engines, by name and label."""
    lines = generate_latest(registry_of(gateway)).decode().splitlines()
    found = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {
        name: float(value)
        for name, value in found
        if name.startswith(("llmgw_deployment", "llmgw_engine"))
    }


async def test_health_and_load_are_among_the_metrics(
    installed: Install, server: ModelServer
) -> None:
    engine = EnginePages()
    engine.pages["/metrics"] = (
        200,
        b"vllm:num_requests_running 4\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc 0.5\n",
    )
    async with engine.upstream:
        here = await installed(
            {"m": [at(server, "plain", routing=WITHOUT), at(engine, "engine", routing=PROBED)]}
        )
        states = {
            each.id: state
            for each, state in here.gateway.health.states(here.gateway.catalog.values())
        }
        await settled(lambda: states["m/engine"].load is not None)
        assert samples(here.gateway) == {
            'llmgw_deployment_breaker{deployment="m/engine"}': 0,
            'llmgw_deployment_ejections_total{deployment="m/engine"}': 0,
            'llmgw_deployment_ready{deployment="m/engine"}': 1,
            'llmgw_deployment_in_flight{deployment="m/plain"}': 0,
            'llmgw_deployment_in_flight{deployment="m/engine"}': 0,
            'llmgw_engine_running{deployment="m/engine"}': 4,
            'llmgw_engine_waiting{deployment="m/engine"}': 2,
            'llmgw_engine_kv_use{deployment="m/engine"}': 0.5,
        }
        breaker = states["m/engine"].breaker
        assert breaker is not None
        for _ in range(5):
            breaker.failed(breaker.term, 0.0)
        engine.pages |= {"/health": (503, b""), "/metrics": (200, b"tgi_queue_size 1\n")}
        await settled(lambda: states["m/engine"].ready is False)
        after = samples(here.gateway)
    assert after['llmgw_deployment_breaker{deployment="m/engine"}'] == 2
    assert after['llmgw_deployment_ejections_total{deployment="m/engine"}'] == 1
    assert after['llmgw_deployment_ready{deployment="m/engine"}'] == 0
