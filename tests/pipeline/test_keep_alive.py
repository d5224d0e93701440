"""Comments to clients that wait: a status commit that is no content commit, and truthful ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.config.schema_streams import StreamsConfig
from llmgw_core.domain.errors import GatewayError
from llmgw_core.pipeline.keep_alive import COMMENT
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    ROLE,
    SSE,
    STOP,
    WORD,
    completion,
)
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply
from llmgw_core.testing.waiting_clients import (
    KEPT,
    Listening,
    after,
    error_of,
    without_comments,
)

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted


@pytest.mark.parametrize("place", ["head", "role"])
async def test_a_client_that_waits_gets_comments_and_then_its_stream(
    installed: Install, scripted: Scripted, place: str
) -> None:
    sink = Listening()
    upstream = await scripted(after(sink, WORD, STOP, DONE, at=place))
    here = await installed({"m": [at(upstream)]}, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    role = ROLE if place == "role" else b""
    assert sink.status == 200
    assert sink.headers["content-type"].startswith("text/event-stream")
    assert sink.body == COMMENT * sink.comments + role + WORD + STOP + DONE
    assert sink.comments >= 2
    record = await here.only_record()
    assert (record.status, record.http_status) == ("completed", 200)


async def test_after_the_first_content_there_are_no_comments(
    installed: Install, scripted: Scripted
) -> None:
    sink = Listening()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(WORD))
        while WORD not in sink.body:
            await sink.more()
        before = sink.comments
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await sink.heard(before + 1)
        await peer.send(chunk(STOP) + chunk(DONE) + chunk(b""))

    here = await installed({"m": [at(await scripted(slow))]}, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    assert without_comments(sink) == WORD + STOP + DONE


async def test_a_stream_that_begins_at_once_has_no_comments(
    installed: Install, server: ModelServer
) -> None:
    kept = RoutingConfig(streams=StreamsConfig(keep_alive_seconds=60.0))
    here = await installed({"m": [at(server)]}, routing=kept)
    reply = await here.client.chat("m", stream=True)
    assert COMMENT not in reply.body
    assert reply.body.endswith(DONE)


async def test_without_the_setting_nothing_is_sent_before_the_first_content(
    installed: Install, scripted: Scripted
) -> None:
    sink = Listening()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(ROLE))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await sink.heard(1)
        assert sink.status == 0
        await peer.send(chunk(WORD) + chunk(DONE) + chunk(b""))

    here = await installed({"m": [at(await scripted(slow))]})
    await here.client.chat("m", stream=True, sink=sink)
    assert sink.body == ROLE + WORD + DONE


async def test_after_a_comment_a_failure_still_goes_to_the_sibling(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    sink = Listening()
    bad = at(await scripted(after(sink, ending="cut", at="role")), "bad", weight=9)
    here = await installed({"m": [bad, at(server, "good")]}, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    *body, _, end = server.events
    assert without_comments(sink) == b"".join(body) + end
    record = await here.only_record()
    assert [attempt.outcome for attempt in record.attempts] == ["cut", "ok"]
    assert (record.status, record.http_status) == ("completed", 200)


async def test_after_a_comment_a_failure_for_good_is_an_error_event_and_no_end_marker(
    installed: Install, scripted: Scripted
) -> None:
    sink = Listening()
    upstream = await scripted(after(sink, ending="cut", at="role"))
    here = await installed({"m": [at(upstream)]}, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    assert (sink.status, sink.finished) == (200, True)
    assert ROLE not in sink.body
    assert error_of(sink)["code"] == "upstream_error"
    record = await here.only_record()
    assert (record.status, record.http_status) == ("failed", 200)
    assert record.error_code == "upstream_error"
    assert record.first_content_us == 0


async def test_after_a_comment_the_upstreams_refusal_is_an_error_event(
    installed: Install, scripted: Scripted
) -> None:
    sink = Listening()

    async def refuses(peer: Peer) -> None:
        await peer.request()
        await sink.heard(1)
        body = b'{"error":{"message":"max_tokens is\\ntoo large","code":"too_large"}}'
        await peer.send(http_reply(400, body, JSON))

    here = await installed({"m": [at(await scripted(refuses))]}, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    assert sink.status == 200
    assert error_of(sink)["message"] == "max_tokens is\ntoo large"
    record = await here.only_record()
    assert (record.status, record.http_status) == ("refused", 200)
    assert record.error_code == "upstream_refused"


async def test_a_document_in_answer_to_a_stream_request_follows_the_comments(
    installed: Install, scripted: Scripted
) -> None:
    sink = Listening()

    async def document(peer: Peer) -> None:
        await peer.request()
        await sink.heard(1)
        await peer.send(http_reply(200, msgspec.json.encode(completion("Whole")), JSON))

    here = await installed({"m": [at(await scripted(document))]}, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    assert sink.comments
    assert sink.chunks()[0]["choices"][0]["delta"]["content"] == "Whole"
    assert sink.body.endswith(DONE)


async def test_a_client_that_leaves_between_comments_stops_the_upstreams_work(
    installed: Install, scripted: Scripted
) -> None:
    sink = Listening()
    gone = asyncio.Event()

    async def patient(peer: Peer) -> None:
        await peer.request()
        await sink.heard(2)
        sink.leave()
        await peer.gone()
        gone.set()

    here = await installed({"m": [at(await scripted(patient))]}, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    await gone.wait()
    record = await here.only_record()
    assert (record.status, record.http_status) == ("client_left", 499)


async def test_a_client_that_takes_no_comment_ends_with_its_call(
    installed: Install, scripted: Scripted
) -> None:
    """The comment is still being written when the client leaves."""
    stuck = asyncio.Event()

    async def takes_nothing(data: bytes) -> None:
        stuck.set()
        await asyncio.Event().wait()

    async def patient(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    sink = MemorySink(takes_nothing)
    here = await installed({"m": [at(await scripted(patient))]}, routing=KEPT)
    call = asyncio.ensure_future(here.client.chat("m", stream=True, sink=sink))
    await stuck.wait()
    sink.leave()
    await call
    assert (await here.only_record()).status == "client_left"
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "llmgw keep-alive"]


async def test_what_comes_first_waits_for_the_comment_that_is_being_written(
    installed: Install, scripted: Scripted
) -> None:
    writing, go_on, together = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(data: bytes) -> None:
        if writing.is_set() and not go_on.is_set():
            together.set()
        if data == COMMENT:
            writing.set()
            await go_on.wait()

    async def upstream_script(peer: Peer) -> None:
        await peer.request()
        await writing.wait()
        await peer.send(chunked_head(200, SSE) + chunk(WORD) + chunk(DONE) + chunk(b""))
        await peer.gone()

    sink = MemorySink(slowly)
    upstream = await scripted(upstream_script)
    here = await installed({"m": [at(upstream)]}, routing=KEPT)
    call = asyncio.ensure_future(here.client.chat("m", stream=True, sink=sink))
    await writing.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await together.wait()
    go_on.set()
    await call
    assert sink.body == COMMENT + WORD + DONE


async def test_complete_replies_and_callers_in_the_process_get_no_comments(
    installed: Install, scripted: Scripted
) -> None:
    async def slow(peer: Peer) -> None:
        while True:
            request = await peer.request()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await peer.stall()
            if b'"stream":true' in request.body:
                await peer.send(http_reply(500, b"{}", JSON))
            else:
                body = msgspec.json.encode(completion("Whole"))
                await peer.send(http_reply(200, body, JSON))

    here = await installed({"m": [at(await scripted(slow))]}, routing=KEPT)
    assert (await here.client.chat("m")).json()["choices"][0]["message"]["content"] == "Whole"
    messages = [{"role": "user", "content": "Hi"}]
    stream = here.gateway.chat_stream(model="m", messages=messages, key=here.tenant.key)
    with pytest.raises(GatewayError) as caught:
        async with stream:
            pass
    assert caught.value.status == 502
