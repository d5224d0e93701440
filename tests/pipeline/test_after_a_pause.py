"""What has changed while a call paused before it comes back to a deployment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema_health import BreakerConfig
from llmgw_core.config.schema_routing import DeploymentRouting, ModelRouting, RoutingConfig
from llmgw_core.domain.limits import Limits
from llmgw_core.testing.busy_engine import ONE, Engine, asking, queued, waits
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import JSON, completion
from llmgw_core.testing.upstream import Peer, http_reply, repeating

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted

BROKEN = http_reply(500, b'{"error": {"message": "no"}}', JSON)
SOON = http_reply(429, b'{"error": {"message": "slow down"}}', (*JSON, (b"retry-after-ms", b"150")))
QUEUES = pytest.mark.parametrize("routing", [RoutingConfig(), queued(wait_seconds=0.05)])


async def pauses(here: Installation) -> None:
    """Until a call has failed and comes back to where it was."""
    async with asyncio.timeout(10):
        while not here.gateway.stats.retries["m", "same"]:  # noqa: ASYNC110 -- nobody tells of it
            await asyncio.sleep(0)


def code(reply: Any) -> str:
    found: str = reply.json()["error"]["code"]
    return found


@QUEUES
async def test_what_is_switched_off_in_the_pause_gets_nothing_more(
    installed: Install, scripted: Scripted, routing: RoutingConfig
) -> None:
    upstream = await scripted(repeating(SOON))
    here = await installed({"m": [at(upstream, "a", caps=Limits(parallel=9))]}, routing=routing)
    call = asking(here, "x")
    await pauses(here)
    await here.gateway.switches.off("deployment", "m/a", reason="it leaks", actor="root")
    reply = await call
    assert (reply.status, code(reply)) == (429, "upstream_rate_limited")
    assert len(upstream.requests) == 1
    [record] = await here.records()
    assert [attempt.outcome for attempt in record.attempts] == ["rate_limited"]


@QUEUES
async def test_when_the_caps_are_used_up_in_the_pause_the_caller_hears_what_had_failed(
    installed: Install, scripted: Scripted, routing: RoutingConfig
) -> None:
    upstream = await scripted(repeating(BROKEN))
    here = await installed({"m": [at(upstream, caps=Limits(rpm=1))]}, routing=routing)
    reply = await here.client.chat("m")
    assert (reply.status, code(reply)) == (502, "upstream_error")
    assert len(upstream.requests) == 1


@QUEUES
async def test_a_sibling_that_has_room_by_now_is_asked_first(
    installed: Install, scripted: Scripted, engine: Engine, routing: RoutingConfig
) -> None:
    limited = await scripted(repeating(SOON))
    deployments = [
        at(await scripted(engine), "busy", caps=ONE),
        at(limited, "limited", priority=1, caps=Limits(parallel=9)),
    ]
    if routing.overload.queue != "none":  # there it is waited for before anybody is asked again
        routing = queued(wait_seconds=30)
    here = await installed({"m": deployments}, routing=routing)
    first = asking(here, "first")
    await engine.has(1)
    second = asking(here, "second")
    if routing.overload.queue == "none":
        await pauses(here)
    else:
        await waits(here, 1)
    engine.answer(2)
    replies = await asyncio.gather(first, second)
    assert [reply.status for reply in replies] == [200, 200]
    assert (engine.order, len(limited.requests)) == (["first", "second"], 1)


async def test_the_slot_that_a_call_came_back_to_is_passed_on_when_it_goes_elsewhere(
    installed: Install, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks by the clock, and the call itself goes on."""
    monkeypatch.setattr("llmgw_core.pipeline.waiting._LONGEST_LOOK", 60.0)
    monkeypatch.setattr("llmgw_core.limits.meters.PARALLEL_RETRY", 60.0)
    monkeypatch.setattr("llmgw_core.limits.counters.PARALLEL_RETRY", 60.0)
    whole = http_reply(200, msgspec.json.encode(completion()), JSON)
    back, fails, ends = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def left(peer: Peer) -> None:
        await peer.request()
        await peer.send(BROKEN)
        await peer.request()
        back.set()
        await fails.wait()
        await peer.send(BROKEN)
        await peer.request()
        await peer.send(whole)

    async def taken(peer: Peer) -> None:
        await peer.request()
        await peer.send(BROKEN)
        await peer.request()
        await ends.wait()
        await peer.send(whole)

    deployments = [
        at(await scripted(left), "left", caps=ONE),
        at(await scripted(taken), "taken", priority=1, zone="world"),
    ]
    routing = msgspec.structs.replace(queued(), backoff_ms=1)
    here = await installed({"m": deployments}, routing=routing)
    first = asking(here, "first")
    await back.wait()
    second = asking(here, "second", headers=[(b"x-llmgw-zone", b"onprem")])
    await waits(here, 1)
    fails.set()
    async with asyncio.timeout(5):
        assert (await second).status == 200
    assert not first.done()
    ends.set()
    assert (await first).status == 200


async def test_a_full_meter_of_ours_is_no_reason_to_ask_with_another_credential(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    broken = await scripted(repeating(BROKEN))
    once = DeploymentRouting(retries=0)
    models = {
        "m": served_by(at(broken, "a", routing=once), fallbacks=("f",)),
        "f": served_by(at(server, "b", credentials=("one", "two")), limits=Limits(rpm=1)),
    }
    here = await installed(models)
    assert (await here.client.chat("m")).status == 200
    await here.client.chat("m")
    record = (await here.records())[-1]
    assert [attempt.outcome for attempt in record.attempts] == ["server", "rate_limited"]


async def test_nobody_waits_for_a_sibling_whose_minute_is_over_too_late(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    once = http_reply(200, server.reply, JSON)
    failing = await scripted(repeating(BROKEN, once))
    deployments = [at(server, "a", caps=Limits(rpm=1)), at(failing, "b", priority=1)]
    here = await installed({"m": deployments}, routing=queued())
    assert (await here.client.chat("m")).status == 200
    async with asyncio.timeout(10):  # and not the half minute that calls wait for a slot
        assert (await here.client.chat("m")).status == 200
    assert len(failing.requests) == 2


async def test_the_share_of_retries_is_of_all_calls_whoever_may_use_what(
    installed: Install, scripted: Scripted
) -> None:
    """Who may use a part of the deployments has the same budget as who may use all of them."""
    broken = await scripted(repeating(BROKEN))
    rules = ModelRouting(retry_share=1.0, retry_minimum=0.0, breaker=BreakerConfig(enabled=False))
    model = served_by(at(broken, "a"), at(broken, "b", zone="world"), routing=rules)
    here = await installed({"m": model}, tenant={"zones": ["onprem", "world"]})
    narrow = await here.another("narrow", zones=["onprem"])
    for _ in range(6):
        await here.client.chat("m")
    for _ in range(6):
        await narrow.chat("m")
    counts = [len(record.attempts) for record in (await here.records())[6:]]
    assert sum(counts) > 8
