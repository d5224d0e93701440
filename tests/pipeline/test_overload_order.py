"""Whose turn it is among the calls that wait: tenants, priorities, models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema_streams import QueueRule
from llmgw_core.testing.busy_engine import ONE, Engine, asking, queued, waits
from llmgw_core.testing.installation import at, served_by

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.upstream import Scripted


async def test_a_tenant_with_many_waiting_calls_does_not_starve_another(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]}, routing=queued())
    modest = await here.another("modest")
    greedy = [asking(here, f"g{number}") for number in range(12)]
    await waits(here, 11)
    late = [asking(here, f"m{number}", modest) for number in range(3)]
    await waits(here, 14)
    engine.answer(15)
    await asyncio.gather(*greedy, *late)
    assert [text for text in engine.order[:8] if text[0] == "m"] == ["m0", "m1", "m2"]


@pytest.mark.parametrize(
    "rule",
    [
        QueueRule(organization="vip", priority="high"),
        QueueRule(organization="vip", team="people", priority="high"),
        QueueRule(organization="vip", key="key of vip", priority="high"),
    ],
    ids=["organization", "team", "key"],
)
async def test_who_is_named_in_a_rule_goes_first(
    installed: Install, scripted: Scripted, engine: Engine, rule: QueueRule
) -> None:
    here = await installed(
        {"m": [at(await scripted(engine), caps=ONE)]},
        routing=queued(rules=(QueueRule(organization="nobody", priority="low"), rule)),
    )
    tenancy = here.gateway.tenancy
    await tenancy.create_organization("vip", models=["*"], actor="test")
    await tenancy.create_team("vip", "people", actor="test")
    _, key = await tenancy.create_key(
        organization="vip", team="people", name="key of vip", actor="test"
    )
    vip = type(here.client)(here.gateway, key)
    calls = [asking(here, text) for text in "abc"]
    await waits(here, 2)
    urgent = asking(here, "vip", vip)
    await waits(here, 3)
    engine.answer(4)
    await asyncio.gather(*calls, urgent)
    assert engine.order == ["a", "vip", "b", "c"]


async def test_calls_of_a_model_with_a_tag_may_be_less_urgent(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    upstream = await scripted(engine)
    rule = QueueRule(tag="batch", priority="low")
    here = await installed(
        {
            "m": served_by(at(upstream)),
            "night": served_by(at(upstream), tags=("batch",)),
        },
        routing=queued(in_flight=1, rules=(rule,)),
    )
    first = asking(here, "a")
    await engine.has(1)
    messages = [{"role": "user", "content": "batch"}]
    batch = asyncio.ensure_future(here.client.chat("night", messages=messages))
    await waits(here, 1)
    urgent = asking(here, "b")
    await waits(here, 2)
    engine.answer(3)
    await asyncio.gather(first, batch, urgent)
    assert engine.order == ["a", "b", "batch"]
