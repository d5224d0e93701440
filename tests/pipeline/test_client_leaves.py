"""Clients that go away: their work is stopped or finished, and what was used is charged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.call import ClientGone, Head
from llmgw_core.domain.usage import NO_USAGE
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    ROLE,
    SSE,
    STOP,
    WORD,
    completion,
    event,
    usage_object,
)
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted
    from llmgw_core.wire.request import RequestView

USAGE = event({"choices": [], "usage": usage_object(20, 10)})
FULL = 20 * INPUT_PRICE + 10 * OUTPUT_PRICE


async def leaves_after(sink: MemorySink, call: Awaitable[Any], moment: Awaitable[Any]) -> None:
    """Run `call`, let the client leave at `moment`, and wait until the call has ended."""
    task = asyncio.ensure_future(call)
    await moment
    sink.leave()
    await task
    assert task.cancelled() is False
    assert task.cancelling() == 0


async def test_a_client_that_leaves_before_the_answer_stops_the_upstreams_work(
    installed: Install, scripted: Scripted
) -> None:
    gone = asyncio.Event()

    async def patient(peer: Peer) -> None:
        await peer.request()
        await peer.gone()
        gone.set()

    upstream = await scripted(patient)
    here = await installed({"m": [at(upstream)]})
    sink = MemorySink()
    await leaves_after(
        sink, here.client.chat("m", sink=sink), upstream.until(lambda: bool(upstream.requests))
    )
    await gone.wait()
    assert sink.status == 0
    record = await here.only_record()
    assert (record.status, record.http_status) == ("client_left", 499)
    assert [attempt.outcome for attempt in record.attempts] == ["client_left"]
    assert record.usage.source == "estimated"
    assert record.charge == record.usage.input_tokens * INPUT_PRICE > 0
    assert record.usage.output_tokens == 0


async def test_a_client_that_leaves_before_the_first_content_is_charged_for_the_input(
    installed: Install, scripted: Scripted
) -> None:
    sent = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(ROLE))
        sent.set()
        await peer.gone()

    here = await installed({"m": [at(await scripted(slow))]})
    sink = MemorySink()
    await leaves_after(sink, here.client.chat("m", stream=True, sink=sink), sent.wait())
    assert sink.status == 0
    record = await here.only_record()
    assert (record.status, record.usage.output_tokens, record.first_content_us) == (
        "client_left",
        0,
        0,
    )


class Leaving(MemorySink):
    """Leaves when it is handed a piece that holds `mark`."""

    def __init__(self, mark: bytes) -> None:
        super().__init__(self._look)
        self._mark = mark
        self.left = asyncio.Event()

    async def _look(self, data: bytes) -> None:
        if self._mark in data:
            self.leave()
            self.left.set()


@pytest.mark.parametrize("waits", [True, False])
async def test_a_client_that_leaves_in_the_middle_is_charged_for_what_was_used(
    installed: Install, scripted: Scripted, waits: bool
) -> None:
    sink = Leaving(b"Hello")
    gone = asyncio.Event()

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(ROLE))
        try:
            while waits or not sink.gone:
                await peer.send(chunk(WORD))
                await asyncio.sleep(0)
            await peer.gone()
        finally:
            gone.set()

    here = await installed({"m": [at(await scripted(endless))]})
    await here.client.chat("m", stream=True, sink=sink)
    await gone.wait()
    record = await here.only_record()
    assert (record.status, record.http_status) == ("client_left", 499)
    assert record.usage.source == "estimated"
    assert record.usage.input_tokens > 0
    assert record.usage.output_tokens > 0
    assert b"[DONE]" not in sink.body


async def test_a_client_that_leaves_between_settlement_and_end_is_noted_behind_its_record(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    started = asyncio.Event()

    async def hangs(data: bytes) -> None:
        if b"[DONE]" in data or b'chat.completion"' in data:
            started.set()
            await asyncio.Event().wait()

    for stream in (True, False):
        started.clear()
        sink = MemorySink(hangs)
        await leaves_after(sink, here.client.chat("m", stream=stream, sink=sink), started.wait())
    for record in await here.records():
        assert (record.status, record.usage.source) == ("client_left", "provider")
        assert [attempt.outcome for attempt in record.attempts] == ["ok"]
        assert record.charge == 7 * INPUT_PRICE + 3 * OUTPUT_PRICE
    assert len(await here.records()) == 2


async def test_a_client_that_closes_after_the_end_has_not_left(
    installed: Install, scripted: Scripted
) -> None:
    async def lingering(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(WORD + STOP + USAGE + DONE))
        await finished.wait()
        sink.leave()
        await peer.send(chunk(b""))

    finished = asyncio.Event()

    class Finishing(MemorySink):
        async def finish(self, data: bytes = b"") -> None:
            await super().finish(data)
            finished.set()

    sink = Finishing()
    here = await installed({"m": [at(await scripted(lingering))]})
    await here.client.chat("m", stream=True, sink=sink)
    assert sink.body.endswith(DONE)
    assert (await here.only_record()).status == "completed"


async def test_draining_goes_on_to_the_usage_after_the_client_has_left(
    installed: Install, scripted: Scripted
) -> None:
    sink = Leaving(b"Hello")

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(WORD))
        await sink.left.wait()
        await peer.send(chunk(WORD) + chunk(STOP + USAGE + DONE) + chunk(b""))

    here = await installed({"m": [at(await scripted(slow), on_disconnect="drain")]})
    await here.client.chat("m", stream=True, sink=sink)
    record = await here.only_record()
    assert (record.status, record.http_status) == ("client_left", 499)
    assert (record.usage.source, record.charge) == ("provider", FULL)
    assert [attempt.outcome for attempt in record.attempts] == ["ok"]
    assert sink.body == b""


async def test_draining_a_complete_reply(installed: Install, scripted: Scripted) -> None:
    left = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await left.wait()
        body = event(completion(input=20, output=10))[6:-2]
        await peer.send(http_reply(200, body, JSON))

    upstream = await scripted(slow)
    here = await installed({"m": [at(upstream, on_disconnect="drain")]})
    sink = MemorySink()
    task = asyncio.ensure_future(here.client.chat("m", sink=sink))
    await upstream.until(lambda: bool(upstream.requests))
    sink.leave()
    left.set()
    await task
    record = await here.only_record()
    assert (record.status, record.charge, sink.body) == ("client_left", FULL, b"")


async def test_nobody_is_asked_after_the_client_has_left(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    """A drained attempt that fails is not worth another one."""
    sink = MemorySink()

    async def fails(peer: Peer) -> None:
        await peer.request()
        sink.leave()
        await peer.send(http_reply(500, b"{}", JSON))

    drained = at(await scripted(fails), "x", weight=9, on_disconnect="drain")
    here = await installed({"m": [drained, at(server, "y", on_disconnect="drain")]})
    await here.client.chat("m", sink=sink)
    assert server.requests == []
    record = await here.only_record()
    assert record.status == "client_left"
    assert [attempt.outcome for attempt in record.attempts] == ["server", "client_left"]
    assert record.charge == 0


async def test_a_client_that_has_left_before_admission_costs_no_upstream(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    for stream in (False, True):
        sink = MemorySink()
        sink.leave()
        await here.client.chat("m", stream=stream, sink=sink)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)
    assert server.requests == []
    records = await here.records()
    assert [(record.status, record.usage) for record in records] == [
        ("client_left", NO_USAGE),
        ("client_left", NO_USAGE),
    ]


async def test_a_client_that_leaves_while_it_sends_its_body_leaves_no_trace(
    installed: Install, server: ModelServer
) -> None:
    class Broken:
        async def read(self, limit: int) -> bytes:
            raise ClientGone

    here = await installed({"m": [at(server)]})
    headers = [(b"authorization", b"Bearer " + here.tenant.key.encode())]
    sink = MemorySink()
    await here.gateway.handle(Head("POST", "/v1/chat/completions", headers), Broken(), sink)
    assert (sink.status, await here.records()) == (0, [])


async def test_a_client_that_leaves_in_a_hook_is_charged_nothing(
    installed: Install, server: ModelServer
) -> None:
    waiting = asyncio.Event()

    class Slow:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        async def pre_route(self, request: RequestView) -> None:
            waiting.set()
            await asyncio.Event().wait()

    here = await installed({"m": [at(server)]}, plugins=[("slow", Slow)])
    sink = MemorySink()
    await leaves_after(sink, here.client.chat("m", sink=sink), waiting.wait())
    record = await here.only_record()
    assert (record.status, record.usage, record.attempts) == ("client_left", NO_USAGE, ())


async def test_a_client_that_leaves_while_its_reply_is_judged_pays_what_was_reported(
    installed: Install, server: ModelServer
) -> None:
    judging = asyncio.Event()

    class Judge:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        async def post_process(self) -> None:
            judging.set()
            await asyncio.Event().wait()

    here = await installed({"m": [at(server)]}, plugins=[("judge", Judge)])
    sink = MemorySink()
    await leaves_after(sink, here.client.chat("m", sink=sink), judging.wait())
    record = await here.only_record()
    assert (record.status, record.usage.source) == ("client_left", "provider")
    assert record.charge == 7 * INPUT_PRICE + 3 * OUTPUT_PRICE


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hook_that_swallows_the_cancellation_leaves_none_behind(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    waiting = asyncio.Event()

    class Stubborn:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        async def pre_route(self, request: RequestView) -> None:
            waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

    here = await installed({"m": [at(server)]}, plugins=[("stubborn", Stubborn)])
    sink = MemorySink()
    await leaves_after(sink, here.client.chat("m", stream=stream, sink=sink), waiting.wait())
    record = await here.only_record()
    assert record.status == "client_left"
    assert server.requests == []


@pytest.mark.parametrize("status", [400, 500])
async def test_a_client_that_leaves_while_it_is_told_of_an_error_hurts_nobody(
    installed: Install, server: ModelServer, status: int
) -> None:
    server.status, server.reply = status, b"{}"
    here = await installed({"m": [at(server)]})
    told, gone = asyncio.Event(), asyncio.Event()

    async def slow(data: bytes) -> None:
        told.set()
        await gone.wait()

    sink = MemorySink(slow)
    task = asyncio.ensure_future(here.client.chat("m", sink=sink))
    await told.wait()
    sink.leave()
    await asyncio.sleep(0)
    gone.set()
    await task
    assert (await here.only_record()).http_status in {400, 502}
