"""Calls that wait while something else happens: a reload, a failure, a deadline, a departure."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.config.schema_streams import OverloadConfig
from llmgw_core.domain.limits import NO_LIMITS, Limits
from llmgw_core.routing.queue_fair import FairQueue
from llmgw_core.testing.busy_engine import ONE, Engine, asking, queued, waits
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import JSON
from llmgw_core.testing.reloads import changed
from llmgw_core.testing.upstream import Peer, http_reply

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted, Upstream


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


async def test_who_has_to_come_back_to_a_busy_deployment_waits_for_it_again(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    async def fails_first(peer: Peer) -> None:
        if not engine.order:
            await peer.request()
            engine.order.append("failed")
            await waits(here, 1)
            await peer.send(http_reply(500, b"{}", JSON))
        await engine(peer)

    here = await installed(
        {"m": [at(await scripted(fails_first), caps=ONE)]},
        routing=RoutingConfig(backoff_ms=1, overload=OverloadConfig(queue="fair")),
    )
    first, second = asking(here, "a"), asking(here, "b")
    await engine.has(2)
    await waits(here, 1)
    engine.answer(2)
    assert [(await call).status for call in (first, second)] == [200, 200]
    assert engine.order == ["failed", "b", "a"]
    assert engine.most == 1


async def test_nobody_waits_longer_than_the_call_may_take(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    routing = RoutingConfig(overload=OverloadConfig(queue="fair"))
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]}, routing=routing)
    first = asking(here, "a")
    await engine.has(1)
    async with asyncio.timeout(10):
        reply = await here.client.chat("m", headers=((b"x-llmgw-timeout-ms", b"50"),))
    assert (reply.status, reply.json()["error"]["code"]) == (503, "queue_timeout")
    engine.answer(1)
    assert (await first).status == 200


async def test_a_slot_for_a_call_that_is_cancelled_in_that_moment_is_given_back(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed(
        {"m": [at(await scripted(engine), caps=ONE)]}, routing=queued(in_flight=1)
    )
    waiting: list[asyncio.Task[MemorySink]] = []

    class Cancels(MemorySink):
        async def finish(self, data: bytes = b"") -> None:
            [call] = waiting
            call.cancel()  # the slot has just been given to it
            await super().finish(data)

    first = asking(here, "a", sink=Cancels())
    await engine.has(1)
    waiting.append(asking(here, "b"))
    await waits(here, 1)
    engine.answer(1)
    await first
    await asyncio.gather(*waiting, return_exceptions=True)
    assert waiting[0].cancelled()
    last = asking(here, "c")
    engine.answer(1)
    assert (await last).status == 200
    assert engine.order == ["a", "c"]
    assert here.gateway._foundation.doors.serving == 0


async def test_a_queue_that_no_configuration_has_any_more_is_forgotten_with_its_room(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server, caps=ONE)]}, routing=queued())
    seen: weakref.WeakSet[FairQueue] = weakref.WeakSet()
    made = FairQueue.__init__

    def watched(self: FairQueue) -> None:
        made(self)
        seen.add(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FairQueue, "__init__", watched)
        for routing in (RoutingConfig(), queued(length=7)) * 3:
            await here.gateway.reload(changed(here, routing=routing))
    gc.collect()
    assert len(seen) == 1
