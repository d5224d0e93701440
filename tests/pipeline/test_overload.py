"""More calls than slots: who waits, who is refused, who leaves, and what the books say of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.config.schema_streams import OverloadConfig, StreamsConfig
from llmgw_core.domain.limits import Limits
from llmgw_core.domain.usage import NO_USAGE
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.busy_engine import ONE, Engine, asking, queued, waits
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at
from llmgw_core.testing.waiting_clients import Listening, error_of

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.reply import Reply
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted


async def test_a_call_waits_for_a_slot_of_a_deployment_at_its_cap(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]}, routing=queued())
    calls = [asking(here, text) for text in "abc"]
    await engine.has(1)
    await waits(here, 2)
    engine.answer(3)
    replies = await asyncio.gather(*calls)
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert (engine.order, engine.most) == (["a", "b", "c"], 1)
    records = await here.records()
    assert [len(record.attempts) for record in records] == [1, 1, 1]
    assert dict(here.gateway.stats.waits) == {"served": 2}


async def test_without_a_queue_a_call_too_many_is_refused(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]})
    first = asking(here, "a")
    await engine.has(1)
    reply = await here.client.chat("m")
    assert reply.status == 429
    assert int(reply.headers["retry-after"]) >= 1
    engine.answer()
    await first


async def test_who_waits_too_long_gets_503_and_is_on_the_books(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    routing = queued(wait_seconds=0.02)
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]}, routing=routing)
    first = asking(here, "a")
    await engine.has(1)
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (503, "queue_timeout")
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["x-should-retry"] == "true"
    engine.answer()
    assert (await first).status == 200
    late, served = sorted(await here.records(), key=lambda record: record.status, reverse=True)
    assert (late.status, late.http_status, late.error_code) == ("failed", 503, "queue_timeout")
    assert (late.usage, late.attempts, late.charge) == (NO_USAGE, (), 0)
    assert served.status == "completed"
    assert engine.order == ["a"]


async def test_when_too_many_wait_the_next_is_refused_at_once(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]}, routing=queued(length=1))
    calls = [asking(here, text) for text in "ab"]
    await waits(here, 1)
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (503, "queue_full")
    assert reply.headers["retry-after"] == "30"
    engine.answer(2)
    await asyncio.gather(*calls)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_the_queue_costs_nothing_and_holds_nobody_up(
    installed: Install, scripted: Scripted, engine: Engine, *, stream: bool
) -> None:
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]}, routing=queued())
    first = asking(here, "a")
    await engine.has(1)
    sink = MemorySink()
    leaving = asking(here, "b", sink=sink, stream=stream)
    last = asking(here, "c")
    await waits(here, 2)
    sink.leave()
    await leaving
    assert sink.status == 0
    await waits(here, 1)
    engine.answer(2)
    assert [(await call).status for call in (first, last)] == [200, 200]
    assert engine.order == ["a", "c"]
    [record] = [one for one in await here.records() if one.status != "completed"]
    assert (record.status, record.http_status) == ("client_left", 499)
    assert (record.usage, record.attempts) == (NO_USAGE, ())
    assert here.gateway.stats.waits["left"] == 1


async def test_a_client_that_leaves_when_its_turn_has_come_passes_it_on(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]}, routing=queued())
    first = asking(here, "a")
    await engine.has(1)
    sink = MemorySink()

    class LeavesThen(MemorySink):
        async def finish(self, data: bytes = b"") -> None:
            sink.leave()  # in the moment in which the slot is given on
            await super().finish(data)

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    other = asking(here, "b", sink=LeavesThen())
    await engine.has(2)
    leaving, last = asking(here, "c", sink=sink), asking(here, "d")
    await waits(here, 2)
    engine.answer(3)
    await asyncio.gather(other, leaving, last)
    assert engine.order[-1] == "d"
    assert "c" not in engine.order


async def test_a_waiting_call_holds_its_reservation(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed(
        {"m": [at(await scripted(engine), caps=ONE)]},
        routing=queued(),
        tenant={"limits": Limits(parallel=2)},
    )
    calls = [asking(here, text) for text in "ab"]
    await waits(here, 1)
    assert (await here.client.chat("m")).status == 429
    engine.answer(2)
    await asyncio.gather(*calls)


async def test_the_whole_gateway_serves_no_more_than_it_is_told_to(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed({"m": [at(await scripted(engine))]}, routing=queued(in_flight=2))
    calls = [asking(here, text) for text in "abcde"]
    await engine.has(2)
    await waits(here, 3)
    engine.answer(5)
    assert {reply.status for reply in await asyncio.gather(*calls)} == {200}
    assert (engine.order, engine.most) == (list("abcde"), 2)
    assert here.gateway._foundation.doors.serving == 0


async def test_without_a_queue_a_full_gateway_refuses(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    routing = queued("none", in_flight=1)
    here = await installed({"m": [at(await scripted(engine))]}, routing=routing)
    first = asking(here, "a")
    await engine.has(1)
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (503, "queue_full")
    assert int(reply.headers["retry-after"]) >= 1
    engine.answer()
    await first


async def test_a_model_whose_engine_is_busy_takes_no_places_of_others(
    installed: Install, scripted: Scripted, server: ModelServer, engine: Engine
) -> None:
    here = await installed(
        {"m": [at(await scripted(engine), caps=ONE)], "other": [at(server)]},
        routing=queued(in_flight=2),
    )
    calls = [asking(here, text) for text in "abcd"]
    await waits(here, 3)
    assert (await here.client.chat("other")).status == 200
    engine.answer(4)
    await asyncio.gather(*calls)


async def test_a_stream_in_the_queue_gets_comments_and_a_truthful_end(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    routing = RoutingConfig(
        overload=OverloadConfig(queue="fair", wait_seconds=0.05),
        streams=StreamsConfig(keep_alive_seconds=0.005),
    )
    here = await installed({"m": [at(await scripted(engine), caps=ONE)]}, routing=routing)
    first = asking(here, "a")
    await engine.has(1)
    sink = Listening()
    await asking(here, "b", sink=sink, stream=True)
    assert (sink.status, sink.comments > 0) == (200, True)
    assert error_of(sink)["code"] == "queue_timeout"
    engine.answer()
    await first
    late = next(one for one in await here.records() if one.stream)
    assert (late.status, late.http_status, late.error_code) == ("failed", 200, "queue_timeout")


async def test_after_a_failure_the_sibling_at_its_cap_is_waited_for(
    installed: Install, scripted: Scripted, server: ModelServer, engine: Engine
) -> None:
    server.status = 500
    bad, good = at(server, "bad"), at(await scripted(engine), "good", caps=ONE)
    here = await installed({"m": [bad, good], "n": [good]}, routing=queued())
    messages = [{"role": "user", "content": "x"}]
    holding = asyncio.ensure_future(here.client.chat("n", messages=messages))
    await engine.has(1)
    engine.answer()
    assert (await holding).status == 200
    outcomes: set[str] = set()
    for _ in range(2):  # whichever the balancer begins with
        call = asking(here, "y")
        engine.answer()
        assert (await call).status == 200
    for record in await here.records():
        outcomes.update(attempt.outcome for attempt in record.attempts)
    assert outcomes >= {"ok", "server"}


async def test_a_plugins_own_call_needs_no_place_of_its_own(
    installed: Install, server: ModelServer
) -> None:
    class Asks:
        def __init__(self, config: None, context: Any) -> None:
            self.context = context

        @hookimpl
        async def post_process(self, reply: Reply, call: Call) -> None:
            body = {"model": "m", "messages": [{"role": "user", "content": "Is it good?"}]}
            await self.context.chat(call, body)

    routing = queued(in_flight=1, wait_seconds=0.5)
    here = await installed({"m": [at(server)]}, plugins=[("asks", Asks)], routing=routing)
    reply = await here.client.chat("m")
    assert reply.status == 200
    assert len(await here.records()) == 2


async def test_whatever_comes_and_goes_an_engine_never_has_more_than_its_cap(
    installed: Install, scripted: Scripted, engine: Engine
) -> None:
    here = await installed(
        {"m": [at(await scripted(engine), caps=Limits(parallel=3))]},
        routing=queued(in_flight=4, length=25),
    )
    clients = [here.client, await here.another("b"), await here.another("c")]
    sinks = [MemorySink() for _ in range(60)]
    calls = [
        asking(here, str(number), clients[number % 3], sink=sink, stream=False)
        for number, sink in enumerate(sinks)
    ]
    for number in range(60):
        engine.answer()
        await asyncio.sleep(0)
        if number % 7 == 0:
            sinks[59 - number].leave()
    engine.answer(60)
    await asyncio.gather(*calls)
    assert engine.most <= 3
    records = await here.records()
    assert len(records) == 60
    assert {record.status for record in records} <= {"completed", "client_left", "failed"}
    stats, doors = here.gateway.stats, here.gateway._foundation.doors
    assert (stats.waiting, stats.in_flight, doors.serving) == (0, 0, 0)
    # The slots are all there again.
    more = [asking(here, "x") for _ in range(3)]
    engine.answer(3)
    assert [reply.status for reply in await asyncio.gather(*more)] == [200, 200, 200]
