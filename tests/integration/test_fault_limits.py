"""Every form in which an upstream says when it can be asked again, and what a client hears of it:
seconds in `retry-after`, never less than the upstream wants and never years."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.testing.faults.catalog import FAULTS
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.installation import at

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install

WAITS = {
    "429": {1, 2},
    "429-seconds": {1},
    "429-ms": {1},
    "429-date": {1, 2},
    "429-past": {1, 2},
    "429-reset": {1},
    "429-epoch": {1, 2},
    "429-nonsense": {1, 2},
    "429-absurd": {600},  # routing.cooldown_max_seconds
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [name for name in FAULTS if name.startswith("429")])
async def test_a_client_hears_when_to_come_again_and_nobody_else_comes_before(
    installed: Install, name: str, stream: bool
) -> None:
    async with FaultServer([name, "ok"]) as limited, FaultServer() as other:
        routing = RoutingConfig(retries=0)
        here = await installed(
            {"alone": [at(limited)], "two": [at(limited, weight=9), at(other, "b")]},
            routing=routing,
        )
        reply = await here.client.chat("alone", stream=stream)
        assert reply.status == 429
        assert int(reply.headers["retry-after"]) in WAITS[name]
        await limited.use([name, "ok"])
        for _ in range(3):
            assert (await here.client.chat("two", stream=stream)).status == 200
        assert [call.fault for call in limited.calls] == [name, name]
        records = [record for record in await here.records() if record.model == "two"]
    assert [len(record.attempts) for record in records] == [2, 1, 1]
