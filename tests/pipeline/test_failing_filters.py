"""Stream filters that raise, hang or return rubbish, and clients that leave while one holds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import PluginConfig, RequestLimits
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.client import MemorySink, error_code, streamed_text
from llmgw_core.testing.installation import USUAL_CHARGE, at
from llmgw_core.testing.model_server import (
    DONE,
    ROLE,
    SSE,
    STOP,
    WORD,
    chat_events,
)
from llmgw_core.testing.stream_filters import (
    TEAPOT,
    Hold,
    Pass,
    filtering,
    streaming,
    suffixing,
)
from llmgw_core.testing.upstream import Peer, chunk, chunked_head

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted
    from llmgw_core.wire.stream_event import StreamEvent


class Raises(Pass):
    def feed(self, event: StreamEvent) -> Any:
        raise ZeroDivisionError


class RaisesAtEnd(Hold):
    def finish(self) -> Any:
        raise ZeroDivisionError


class Hangs(Pass):
    async def feed(self, event: StreamEvent) -> Any:
        await asyncio.Event().wait()


class Rubbish(Pass):
    def feed(self, event: StreamEvent) -> Any:
        return [event, "text"]


class Bytes(Pass):
    def feed(self, event: StreamEvent) -> Any:
        return event.raw


class Cancelled(Pass):
    async def feed(self, event: StreamEvent) -> Any:
        raise asyncio.CancelledError


class Closing(Pass):
    def feed(self, event: StreamEvent) -> Any:
        raise ZeroDivisionError

    def close(self) -> None:
        raise ZeroDivisionError


BAD = [Raises, RaisesAtEnd, Hangs, Rubbish, Bytes, Cancelled, Closing]


@pytest.mark.parametrize("make", BAD)
async def test_a_filter_that_fails_before_content_is_an_error_reply(
    installed: Install, server: ModelServer, make: type[Pass]
) -> None:
    here = await installed(
        {"m": [at(server)]},
        plugins=[("p", filtering(make))],
        sections=[PluginConfig("p", timeout=0.05)],
    )
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")
    record = await here.only_record()
    assert (record.status, record.error_code) == ("refused", "plugin_error")
    assert record.charge > 0
    assert here.gateway.host.failures["p", "open_stream"] == (2 if make is Closing else 1)


@pytest.mark.parametrize("make", BAD)
async def test_a_filter_that_may_fail_is_left_out_and_loses_nothing(
    installed: Install, server: ModelServer, make: type[Pass]
) -> None:
    here = await installed(
        {"m": [at(server)]},
        plugins=[("one", filtering(suffixing("!"))), ("p", filtering(make))],
        sections=[PluginConfig("p", timeout=0.05, on_error="open")],
    )
    reply = await here.client.chat("m", stream=True)
    assert streamed_text(reply) == "Hello! there!"
    assert reply.body.endswith(STOP + DONE)
    assert (await here.only_record()).status == "completed"
    assert here.gateway.host.failures["p", "open_stream"] >= 1


@pytest.mark.parametrize("opened", ["a filter", 7])
async def test_what_is_no_filter_is_the_plugins_failure(
    installed: Install, server: ModelServer, opened: object
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(lambda: opened))])
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")


async def test_a_plugin_may_refuse_to_open_a_stream_and_those_opened_are_closed(
    installed: Install, server: ModelServer
) -> None:
    opened: list[Pass] = []

    def refuse() -> Any:
        raise TEAPOT

    here = await installed(
        {"m": [at(server)]},
        plugins=[("no", filtering(refuse)), ("yes", filtering(Pass, opened))],
    )
    reply = await here.client.chat("m", stream=True)
    assert reply.status == 418
    assert [each.closed for each in opened] == [1]
    assert (await here.only_record()).status == "refused"


class FailsHolding(Hold):
    """Gives out the first two events together, holds one and fails on the next one."""

    def feed(self, event: StreamEvent) -> Any:
        super().feed(event)
        if self.fed == 4:
            raise ZeroDivisionError
        return self.held if self.fed == 2 else None


async def test_what_a_filter_gave_out_before_it_failed_is_not_given_out_again(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": [at(server)]},
        plugins=[("p", filtering(FailsHolding))],
        sections=[PluginConfig("p", on_error="open")],
    )
    reply = await here.client.chat("m", stream=True)
    assert streamed_text(reply) == "Hello there"
    assert len(reply.chunks()) == 4
    assert here.gateway.host.failures["p", "open_stream"] == 1


async def test_what_a_filter_has_given_out_does_not_count_as_held(
    installed: Install, scripted: Scripted
) -> None:
    class EverySecond(Hold):
        def feed(self, event: StreamEvent) -> Any:
            super().feed(event)
            if len(self.held) == 2:
                out, self.held = self.held, []
                return out
            return None

    upstream = await scripted(streaming(*[WORD] * 20, STOP, DONE))
    here = await installed(
        {"m": [at(upstream)]},
        plugins=[("p", filtering(EverySecond))],
        requests=RequestLimits(reply_bytes=10 * len(WORD)),
    )
    assert streamed_text(await here.client.chat("m", stream=True)) == "Hello" * 20


async def test_a_rejection_stops_the_upstream_before_a_slow_client_has_heard_of_it(
    installed: Install, scripted: Scripted
) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(WORD + WORD))
        await peer.gone()
        gone.set()

    class Second(Pass):
        def feed(self, event: StreamEvent) -> Any:
            self.fed += 1
            if self.fed == 2:
                raise TEAPOT
            return event

    async def wait(data: bytes) -> None:
        await gone.wait()

    here = await installed({"m": [at(await scripted(script))]}, plugins=[("p", filtering(Second))])
    reply = await here.client.chat("m", stream=True, sink=MemorySink(wait))
    assert (streamed_text(reply), error_code(reply)) == ("Hello", "guarded")


class OddShape(Pass):
    def feed(self, event: StreamEvent) -> Any:
        document = event.to_dict()
        for choice in document["choices"]:
            choice["message"] = "text"
        return event.of(document)


async def test_a_filter_that_makes_a_reply_of_an_odd_shape_has_failed(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(OddShape))])
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")
    assert (await here.only_record()).charge == USUAL_CHARGE


class AsyncClose(Pass):
    async def close(self) -> None:  # type: ignore[override]
        raise AssertionError


async def test_a_filter_whose_close_nobody_would_await_is_no_filter(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(AsyncClose))])
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")


async def test_a_filter_that_swallows_its_cancellation_does_not_keep_the_upstream_at_work(
    installed: Install, scripted: Scripted
) -> None:
    fed, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(WORD))
        await peer.gone()
        gone.set()

    class Stubborn(Pass):
        async def feed(self, event: StreamEvent) -> Any:
            fed.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    here = await installed(
        {"m": [at(await scripted(script))]}, plugins=[("p", filtering(Stubborn))]
    )
    sink = MemorySink()
    call = asyncio.create_task(here.client.chat("m", stream=True, sink=sink))
    await fed.wait()
    sink.leave()
    await call
    await gone.wait()
    assert (await here.only_record()).status == "client_left"


@pytest.mark.parametrize("way", ["leaves", "is cancelled"])
async def test_a_client_that_goes_while_a_filter_holds_is_settled_once_and_filters_are_closed(
    installed: Install, scripted: Scripted, way: str
) -> None:
    fed = asyncio.Event()

    class Holding(Hold):
        def feed(self, event: StreamEvent) -> Any:
            super().feed(event)
            if len(self.held) == 2:
                fed.set()

    opened: list[Pass] = []
    upstream = await scripted(streaming(ROLE, WORD, ending="stuck"))
    here = await installed({"m": [at(upstream)]}, plugins=[("p", filtering(Holding, opened))])
    sink = MemorySink()
    call = asyncio.create_task(here.client.chat("m", stream=True, sink=sink))
    await fed.wait()
    if way == "leaves":
        sink.leave()
        await call
    else:
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert [(each.finished, each.closed) for each in opened] == [(0, 1)]
    record = await here.only_record()
    assert record.status == ("client_left" if way == "leaves" else "failed")
    assert record.charge > 0


async def test_a_client_that_leaves_while_a_filter_thinks_stops_it(
    installed: Install, server: ModelServer
) -> None:
    asked, stopped = asyncio.Event(), asyncio.Event()

    class Thinking(Pass):
        async def finish(self) -> Any:
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped.set()
                raise

    opened: list[Pass] = []
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(Thinking, opened))])
    sink = MemorySink()
    call = asyncio.create_task(here.client.chat("m", stream=True, sink=sink))
    await asked.wait()
    sink.leave()
    await call
    assert stopped.is_set()
    assert opened[0].closed == 1
    record = await here.only_record()
    assert (record.status, record.charge) == ("client_left", USUAL_CHARGE)


async def test_a_drained_stream_goes_on_through_its_filters_without_its_client(
    installed: Install, scripted: Scripted
) -> None:
    first, go_on = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(ROLE + WORD))
        await go_on.wait()
        await peer.send(chunk(STOP + chat_events()[-2] + DONE) + chunk(b""))

    async def written(data: bytes) -> None:
        first.set()

    opened: list[Pass] = []
    upstream = await scripted(script)
    here = await installed(
        {"m": [at(upstream, on_disconnect="drain")]}, plugins=[("p", filtering(Pass, opened))]
    )
    sink = MemorySink(written)
    call = asyncio.create_task(here.client.chat("m", stream=True, sink=sink))
    await first.wait()
    sink.leave()
    go_on.set()
    await call
    assert [(each.fed, each.finished, each.closed) for each in opened] == [(3, 1, 1)]
    record = await here.only_record()
    assert (record.status, record.charge) == ("client_left", USUAL_CHARGE)


async def test_a_slow_upstream_behind_a_holding_filter_times_out_and_the_sibling_answers(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    upstream = await scripted(streaming(ROLE, WORD, ending="stuck"))
    bad = at(upstream, "bad", weight=9, timeouts=Timeouts(idle=0.05))
    here = await installed({"m": [bad, at(server, "good")]}, plugins=[("p", filtering(Hold))])
    assert streamed_text(await here.client.chat("m", stream=True)) == "Hello there"
    record = await here.only_record()
    assert [attempt.outcome for attempt in record.attempts] == ["timeout", "ok"]
