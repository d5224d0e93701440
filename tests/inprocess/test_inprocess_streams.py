"""Streams of an application: every way out of one settles it and stops its upstream."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core import GatewayError, Reply, hookimpl
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at
from llmgw_core.testing.model_server import (
    DONE,
    SSE,
    WORD,
    chat_chunk,
    chat_events,
    event,
    usage_object,
)
from llmgw_core.testing.upstream import Peer, chunk, chunked_head

from .conftest import (
    MESSAGES,
    ends_at_once,
    follow,
    one_word,
    silent,
    two_words_and_a_cut,
    until_settled,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core import ChatStream
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted


def streamed(here: Installation, **fields: Any) -> ChatStream:
    return here.gateway.chat_stream(model="m", messages=MESSAGES, key=here.tenant.key, **fields)


async def test_a_stream_gives_every_event_as_it_came_and_its_usage_at_the_end(
    installed: Install, server: ModelServer
) -> None:
    chunk_with_more = {**chat_chunk({"content": "Hello"}), "x_of_the_engine": [1]}
    server.events = [
        event(chunk_with_more),
        b": a comment\n\n",
        *chat_events([" there"])[1:],
    ]
    here = await installed({"m": [at(server)]})
    async with streamed(here) as stream:
        assert stream.request_id == stream.headers["x-request-id"]
        before = (stream.usage, stream.cost)
        found = [each async for each in stream]
    assert before == (None, Decimal(0))
    assert found[0] == chunk_with_more
    assert "".join(each.text for each in found) == "Hello there"
    assert found[-1].delta == {}
    assert stream.usage is not None
    assert (stream.usage.input_tokens, stream.usage.output_tokens) == (7, 3)
    [record] = await here.records()
    assert (record, record.call_id) == (stream.record, stream.request_id)
    assert [each async for each in stream] == []


async def test_the_usage_event_comes_when_it_is_asked_for(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    async with streamed(here, stream_options={"include_usage": True}) as stream:
        *_, last = [each async for each in stream]
    assert (last["usage"], last.text) == (usage_object(), "")


async def test_a_refused_stream_raises_where_it_is_entered(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    stream = here.gateway.chat_stream(model="x", messages=MESSAGES, key=here.tenant.key)
    with pytest.raises(GatewayError) as caught:
        async with stream:
            raise AssertionError("it was entered")
    assert (caught.value.status, caught.value.request_id) == (404, stream.request_id)


async def leave_early(here: Installation) -> None:
    async with streamed(here) as stream:
        async for each in stream:
            assert each.text == "Hello"
            break


async def raise_in_the_loop(here: Installation) -> None:
    async def fail() -> None:
        async with streamed(here) as stream:
            async for _ in stream:
                raise LookupError("the program's own")

    with pytest.raises(LookupError):
        await fail()


async def return_from_the_loop(here: Installation) -> None:
    async def first() -> str:
        async with streamed(here) as stream:
            async for each in stream:
                return each.text
        return ""

    assert await first() == "Hello"


async def time_out_in_the_loop(here: Installation) -> None:
    async def wait() -> None:
        async with streamed(here) as stream, asyncio.timeout(0.05):
            async for _ in stream:
                pass

    with pytest.raises(TimeoutError):
        await wait()


async def be_cancelled_from_outside(here: Installation) -> None:
    entered = asyncio.Event()

    async def follow() -> None:
        async with streamed(here) as stream:
            async for _ in stream:
                entered.set()

    task = asyncio.create_task(follow())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_before_the_first_event(here: Installation) -> None:
    async with streamed(here):
        pass


async def close_twice(here: Installation) -> None:
    async with streamed(here) as stream:
        await stream.aclose()
        stream.leave()
        assert await stream.batch() == []


@pytest.mark.parametrize(
    "leave",
    [
        leave_early,
        raise_in_the_loop,
        return_from_the_loop,
        time_out_in_the_loop,
        be_cancelled_from_outside,
        leave_before_the_first_event,
        close_twice,
    ],
    ids=lambda leave: leave.__name__.replace("_", " "),
)
async def test_every_way_out_settles_and_stops_the_upstream(
    installed: Install, scripted: Scripted, leave: Callable[[Installation], Awaitable[None]]
) -> None:
    upstream = await scripted(one_word)
    here = await installed({"m": [at(upstream)]})
    await leave(here)
    assert not here.gateway.books.open
    assert here.gateway.stats.in_flight == 0
    await upstream.until(lambda: upstream.open == 0)
    [record] = await here.records()
    assert (record.status, record.http_status) == ("client_left", 499)
    assert record.usage.source == "estimated"
    assert record.charge >= record.usage.input_tokens * INPUT_PRICE + OUTPUT_PRICE


async def test_a_task_that_is_cancelled_while_it_enters_a_stream_leaves_nothing(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(silent)
    here = await installed({"m": [at(upstream)]})

    async def enter() -> None:
        async with streamed(here):
            raise AssertionError("it was entered")

    task = asyncio.create_task(enter())
    await upstream.until(lambda: bool(upstream.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until(lambda: upstream.open == 0)
    [record] = await here.records()
    assert record.status == "client_left"


async def test_a_slow_reader_holds_back_the_upstream(
    installed: Install, scripted: Scripted
) -> None:
    large = chunk(event(chat_chunk({"content": "x" * 65536})))
    held = asyncio.Event()
    sent = 0

    async def fast(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(chunked_head(200, SSE))
        for _ in range(1000):
            send = asyncio.ensure_future(peer.send(large))
            done, _ = await asyncio.wait((send,), timeout=0.2)
            if not done:
                held.set()
            await send
            sent += 1
        await peer.send(chunk(event(chat_chunk({}, "stop")) + DONE) + chunk(b""))

    here = await installed({"m": [at(await scripted(fast))]})
    async with streamed(here) as stream:
        await anext(stream)
        # 64 MB were said to come; what fits into the buffers of two sockets has.
        await held.wait()
        assert sent < 500
        rest = [each async for each in stream]
    assert len(rest) == 1000
    [record] = await here.records()
    assert record.status == "completed"


async def test_leaving_a_stream_whose_call_waits_for_its_reader(
    installed: Install, scripted: Scripted
) -> None:
    """The call is held up in the middle of a write when its reader goes away."""

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE))
        while True:
            await peer.send(chunk(WORD))
            await asyncio.sleep(0)

    upstream = await scripted(endless)
    here = await installed({"m": [at(upstream)]})
    async with streamed(here) as stream:
        await anext(stream)
        for _ in range(20):
            await asyncio.sleep(0)
    assert not here.gateway.books.open
    [record] = await here.records()
    assert record.status == "client_left"


async def test_a_stream_that_breaks_off_raises_after_what_had_come(
    installed: Install, scripted: Scripted
) -> None:
    here = await installed({"m": [at(await scripted(two_words_and_a_cut))]})
    found: list[str] = []
    stream = streamed(here)
    with pytest.raises(GatewayError, match="cut") as caught:
        await follow(stream, found)
    assert found == ["Hello", "Hello"]
    assert (caught.value.status, caught.value.code) == (502, "stream_cut")
    assert caught.value.request_id == stream.request_id
    [record] = await here.records()
    assert (record.status, stream.record) == ("incomplete", record)


async def test_a_stream_may_have_no_content(installed: Install, scripted: Scripted) -> None:
    here = await installed({"m": [at(await scripted(ends_at_once))]})
    async with streamed(here) as stream:
        assert [each.text async for each in stream] == [""]
    assert stream.usage is not None


async def test_a_draining_deployment_goes_on_behind_a_stream_that_was_left(
    installed: Install, scripted: Scripted
) -> None:
    left = asyncio.Event()

    async def late(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(WORD))
        await left.wait()
        rest = [event(chat_chunk({}, "stop")), event({"choices": [], "usage": usage_object(20, 9)})]
        await peer.send(chunk(b"".join(rest) + DONE) + chunk(b""))

    here = await installed({"m": [at(await scripted(late), on_disconnect="drain")]})
    await leave_early(here)
    left.set()
    await until_settled(here.gateway)
    [record] = await here.records()
    assert (record.status, record.usage.output_tokens) == ("client_left", 9)


async def test_a_stream_that_is_open_when_the_gateway_closes_says_so(
    installed: Install, scripted: Scripted
) -> None:
    here = await installed({"m": [at(await scripted(one_word))]})
    async with streamed(here) as stream:
        await anext(stream)
        await here.gateway.calls.aclose()
        with pytest.raises(GatewayError) as caught:
            await anext(stream)
    assert caught.value.code == "gateway_closed"
    [record] = await here.records()
    assert (record.status, record.error_code) == ("incomplete", "interrupted")


async def test_a_stream_is_entered_once_and_before_it_is_read(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    stream = streamed(here)
    with pytest.raises(RuntimeError, match="Enter the stream first"):
        await anext(stream)
    assert server.requests == []
    async with stream:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        await stream.__aenter__()
    stream = streamed(here)
    stream.leave()
    await stream.aclose()


class Rejects:
    """Lets no reply through."""

    def __init__(self, config: None, context: Any) -> None:
        pass

    @hookimpl
    def post_process(self, reply: Reply) -> Reply:
        raise GatewayError(400, "content_policy", "No.", type="invalid_request_error")


async def test_a_reply_that_a_plugin_rejects_is_an_error_of_the_stream(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("rejects", Rejects)])
    with pytest.raises(GatewayError) as caught:
        await follow(streamed(here), [])
    assert (caught.value.status, caught.value.code) == (400, "content_policy")
