"""Calls that wait while another configuration comes into force; clients that leave in a pause."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.domain.access import NO_LIMITS, Limits
from llmgw_core.testing.busy_engine import ONE, Engine, asking, queued, waits
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at, served_by

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Peer, Upstream

    Script = Callable[[Peer], Awaitable[None]]
    Scripted = Callable[[Script], Awaitable[Upstream]]


async def reload(here: Installation, upstream: Upstream, **fields: Any) -> None:
    """Go on with another configuration of the model."""
    caps = fields.pop("caps", ONE)
    model = served_by(at(upstream, caps=caps))
    config = msgspec.structs.replace(here.gateway.config, models={"m": model}, **fields)
    await here.gateway.reload(config)


async def test_a_call_of_the_configuration_before_gets_a_slot_that_one_of_the_new_gives_back(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    upstream = await scripted(engine)
    here = await installed({"m": [at(upstream, caps=ONE)]}, routing=queued())
    before = [asking(here, text) for text in "ab"]
    await engine.has(1)
    await waits(here, 1)
    await reload(here, upstream, routing=queued(length=5))
    after = asking(here, "c")
    await waits(here, 2)
    engine.answer(3)
    assert [reply.status for reply in await asyncio.gather(*before, after)] == [200, 200, 200]
    assert (engine.order, engine.most) == (["a", "b", "c"], 1)


async def test_a_cap_that_is_raised_holds_for_calls_that_come_then_and_nobody_is_forgotten(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    upstream = await scripted(engine)
    for caps in (Limits(parallel=5), NO_LIMITS):
        engine.order.clear()
        here = await installed({"m": [at(upstream, caps=ONE)]}, routing=queued())
        first, second = asking(here, "a"), asking(here, "b")
        await engine.has(1)
        await waits(here, 1)
        await reload(here, upstream, caps=caps)
        third = asking(here, "c")
        await engine.has(2)  # the new one, which has not waited
        engine.answer(3)
        replies = await asyncio.gather(first, second, third)
        assert [reply.status for reply in replies] == [200, 200, 200]


async def test_a_client_that_leaves_in_the_pause_before_a_retry_ends_its_call(
    installed: Install, server: ModelServer
) -> None:
    server.status, server.reply = 500, b"{}"
    routing = RoutingConfig(backoff_ms=60_000, pause_max_ms=60_000)
    here = await installed({"m": [at(server)]}, routing=routing)
    sink = MemorySink()
    call = asking(here, "a", sink=sink, stream=True)
    stats = here.gateway.stats
    async with asyncio.timeout(5):
        while not stats.attempts:  # noqa: ASYNC110 -- nobody tells of it
            await asyncio.sleep(0)
    sink.leave()
    await call
    [record] = await here.records()
    assert (record.status, record.http_status) == ("client_left", 499)
    assert [attempt.outcome for attempt in record.attempts] == ["server"]
    assert len(server.requests) == 1
