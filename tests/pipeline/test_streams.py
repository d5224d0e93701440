"""Streams: what goes elsewhere before the first content, and how they end after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema import RequestLimits
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.pipeline.endings import Held
from llmgw_core.testing.client import MemorySink, error_code
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at
from llmgw_core.testing.model_server import (
    DONE,
    ROLE,
    STOP,
    WORD,
    chat_chunk,
    chat_events,
    event,
    usage_object,
)
from llmgw_core.testing.stream_filters import Gate, streaming

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted

COMMENT = b": keep-alive\n\n"
ERROR = event({"error": {"message": "pw-of-the-upstream"}})


@pytest.mark.parametrize(
    ("pieces", "ending", "outcome"),
    [
        ([], "end", "cut"),
        ([], "cut", "cut"),
        ([ROLE], "end", "cut"),
        ([ROLE], "cut", "cut"),
        ([COMMENT, ROLE, COMMENT], "cut", "cut"),
        ([ERROR], "end", "server"),
        ([ROLE, ERROR], "end", "server"),
        ([ROLE, b"event: error\ndata: {}\n\n"], "end", "server"),
        ([ROLE, b"data: <html>\n\n"], "end", "protocol"),
        ([ROLE, COMMENT], "stuck", "timeout"),
    ],
)
async def test_before_the_first_content_a_failure_goes_to_the_sibling_unseen(
    installed: Install,
    scripted: Scripted,
    server: ModelServer,
    *,
    pieces: list[bytes],
    ending: str,
    outcome: str,
) -> None:
    upstream = await scripted(streaming(*pieces, ending=ending))
    bad = at(upstream, "bad", weight=9, timeouts=Timeouts(idle=0.05))
    here = await installed({"m": [bad, at(server, "good")]})
    reply = await here.client.chat("m", stream=True)
    *body, _, end = server.events
    assert (reply.status, reply.body) == (200, b"".join(body) + end)
    record = await here.only_record()
    assert [attempt.outcome for attempt in record.attempts] == [outcome, "ok"]
    assert (record.status, record.deployment) == ("completed", "m/good")


async def test_before_the_first_content_a_failure_alone_is_an_http_error(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(streaming(ROLE, COMMENT, ending="cut"))
    here = await installed({"m": [at(upstream)]})
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_error")
    assert (await here.only_record()).status == "failed"


@pytest.mark.parametrize(
    ("pieces", "ending", "outcome"),
    [
        ([ROLE, WORD, b""], "cut", "cut"),
        ([ROLE, WORD, b""], "end", "cut"),
        ([ROLE, WORD, b"data: {"], "end", "cut"),
        ([ROLE, WORD, ERROR], "end", "server"),
        ([ROLE, WORD, ERROR], "stuck", "server"),
        ([ROLE + WORD, WORD + ERROR], "end", "server"),
        ([ROLE, WORD, b'data: {"usage":\n\n'], "end", "protocol"),
        ([ROLE, WORD, b""], "stuck", "timeout"),
    ],
)
async def test_after_content_the_end_is_truthful_and_nobody_else_is_tried(
    installed: Install,
    scripted: Scripted,
    server: ModelServer,
    *,
    pieces: list[bytes],
    ending: str,
    outcome: str,
) -> None:
    gate = Gate()
    upstream = await scripted(streaming(*pieces, ending=ending, gate=gate))
    bad = at(upstream, "bad", weight=9, timeouts=Timeouts(idle=0.05))
    here = await installed({"m": [bad, at(server, "good")]})
    reply = await here.client.chat("m", stream=True, sink=gate)
    assert reply.status == 200
    assert reply.body.startswith(ROLE + WORD)
    assert b"pw-of-the-upstream" not in reply.body
    assert error_code(reply) == "stream_cut"
    assert b"[DONE]" not in reply.body
    assert server.requests == []
    record = await here.only_record()
    assert (record.status, record.http_status) == ("incomplete", 200)
    assert record.error_code == "stream_cut"
    assert [attempt.outcome for attempt in record.attempts] == [outcome]
    assert record.usage.source == "estimated"
    assert record.charge == (
        record.usage.input_tokens * INPUT_PRICE + record.usage.output_tokens * OUTPUT_PRICE
    )
    assert record.usage.output_tokens > 0


async def test_an_event_accepted_in_the_same_piece_as_an_error_is_delivered(
    installed: Install, scripted: Scripted
) -> None:
    gate = Gate()
    upstream = await scripted(streaming(ROLE + WORD, WORD + ERROR, gate=gate))
    here = await installed({"m": [at(upstream)]})
    reply = await here.client.chat("m", stream=True, sink=gate)
    assert reply.body.startswith(ROLE + WORD + WORD)


async def test_an_incomplete_stream_is_charged_as_reported_where_it_was_reported(
    installed: Install, scripted: Scripted
) -> None:
    reported = event({**chat_chunk({"content": "x"}), "usage": usage_object(11, 4)})
    gate = Gate()
    upstream = await scripted(streaming(WORD, reported, b"", ending="cut", gate=gate))
    here = await installed({"m": [at(upstream)]})
    await here.client.chat("m", stream=True, sink=gate)
    record = await here.only_record()
    assert (record.status, record.usage.source) == ("incomplete", "provider")
    assert record.charge == 11 * INPUT_PRICE + 4 * OUTPUT_PRICE


async def test_what_a_failed_attempt_reported_is_paid_as_well(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    usage_first = event({**chat_chunk({"role": "assistant"}), "usage": usage_object(11, 1)})
    upstream = await scripted(streaming(usage_first, ending="cut"))
    here = await installed({"m": [at(upstream, "bad", weight=9), at(server, "good")]})
    assert (await here.client.chat("m", stream=True)).status == 200
    record = await here.only_record()
    charges = [11 * INPUT_PRICE + 1 * OUTPUT_PRICE, 7 * INPUT_PRICE + 3 * OUTPUT_PRICE]
    assert [attempt.charge for attempt in record.attempts] == charges
    assert record.charge == sum(charges)
    assert (record.usage.input_tokens, record.usage.output_tokens) == (18, 4)


async def test_comments_before_content_wait_for_it(installed: Install, scripted: Scripted) -> None:
    upstream = await scripted(streaming(COMMENT, ROLE, COMMENT, WORD, STOP, DONE))
    here = await installed({"m": [at(upstream)]})
    pieces: list[bytes] = []

    async def noted(data: bytes) -> None:
        pieces.append(data)

    reply = await here.client.chat("m", stream=True, sink=MemorySink(noted))
    assert reply.body == COMMENT + ROLE + COMMENT + WORD + STOP + DONE
    assert WORD in pieces[0]


@pytest.mark.parametrize(
    "pieces",
    [
        (ROLE, WORD, STOP),
        (ROLE + WORD + STOP,),
        (ROLE, WORD, event(chat_chunk({"content": "."}, "stop"))),
        (WORD, STOP, event({"choices": [], "usage": usage_object()})),
        (event(chat_chunk({"content": "all"}, "stop")),),
        (event(chat_chunk({"content": "all"}, "stop")).strip(),),
    ],
)
async def test_a_stream_that_only_forgets_its_end_marker_is_complete(
    installed: Install, scripted: Scripted, pieces: tuple[bytes, ...]
) -> None:
    upstream = await scripted(streaming(*pieces))
    here = await installed({"m": [at(upstream)]})
    reply = await here.client.chat("m", stream=True)
    assert reply.body.endswith(DONE)
    assert reply.body.count(b"[DONE]") == 1
    assert (await here.only_record()).status == "completed"


@pytest.mark.parametrize("marker", [DONE, b"data:[DONE]\n\n", b"data: [DONE]", b"data:[DONE]"])
async def test_a_stream_of_nothing_but_an_end_is_delivered_as_that(
    installed: Install, scripted: Scripted, marker: bytes
) -> None:
    upstream = await scripted(streaming(ROLE, marker))
    here = await installed({"m": [at(upstream)]})
    reply = await here.client.chat("m", stream=True)
    assert reply.events()[-1] == b"[DONE]"
    assert reply.body.count(b"[DONE]") == 1
    assert (await here.only_record()).status == "completed"


async def test_events_without_content_are_held_up_to_a_bound(
    installed: Install, scripted: Scripted
) -> None:
    filler = b": " + b"x" * 1000 + b"\n\n"
    count = Held().size // len(filler) + 2
    upstream = await scripted(streaming(*[filler] * count, ending="cut"))
    here = await installed({"m": [at(upstream)]})
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, error_code(reply)) == (200, "stream_cut")
    assert reply.body.startswith(filler * (count - 1))
    assert (await here.only_record()).status == "incomplete"


async def test_a_stream_in_one_byte_pieces_arrives_whole(
    installed: Install, scripted: Scripted
) -> None:
    whole = b"".join(chat_events(["äöü", "[DONE]", "漢字"]))
    upstream = await scripted(streaming(*[whole[at : at + 1] for at in range(len(whole))]))
    here = await installed({"m": [at(upstream)]})
    reply = await here.client.chat("m", stream=True, stream_options={"include_usage": True})
    assert reply.body == whole


async def test_the_connection_of_a_stream_is_used_again(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    for _ in range(3):
        await here.client.chat("m", stream=True)
    assert server.accepted == 1


async def test_an_upstream_that_never_ends_after_its_end_marker_holds_nobody_up(
    installed: Install, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgw_core.pipeline.endings.DRAIN_SECONDS", 0.01)
    upstream = await scripted(streaming(*chat_events(), ending="stuck"))
    here = await installed({"m": [at(upstream)]})
    for _ in range(2):
        assert (await here.client.chat("m", stream=True)).body.endswith(DONE)
    assert upstream.accepted == 2


async def test_a_stream_may_be_larger_than_the_cap_of_documents(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, requests=RequestLimits(reply_bytes=100))
    assert (await here.client.chat("m", stream=True)).body.endswith(DONE)
