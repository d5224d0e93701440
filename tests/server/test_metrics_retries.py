"""What /metrics says about calls that were tried again, and about credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import generate_latest

from llmgw_core.testing.installation import at, served_by
from llmgw_server.metrics import registry_of

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer


async def test_steps_and_refused_credentials_are_counted(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    server.status = 401
    here = await installed(
        {
            "m": served_by(at(server, "a"), at(server, "b"), fallbacks=("n",)),
            "n": [at(sibling)],
        }
    )
    assert (await here.client.chat("m")).status == 200
    lines = generate_latest(registry_of(here.gateway)).decode().splitlines()
    assert {
        'llmgw_retries_total{model="m",step="other"} 1.0',
        'llmgw_retries_total{model="m",step="other_model"} 1.0',
        'llmgw_refused_credentials_total{deployment="m/a"} 1.0',
        'llmgw_refused_credentials_total{deployment="m/b"} 1.0',
    } <= set(lines)
