"""What is in a stream that went well: its bytes, its usage, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    chat_events,
    completion,
)
from llmgw_core.testing.upstream import Peer, http_reply

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted


async def test_a_stream_goes_through_byte_for_byte_without_the_usage_that_nobody_asked_for(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    reply = await here.client.chat("m", stream=True)
    *body, _, end = server.events
    assert reply.body == b"".join(body) + end
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    record = await here.only_record()
    assert (record.status, record.usage.source, record.stream) == ("completed", "provider", True)
    assert record.charge == 7 * INPUT_PRICE + 3 * OUTPUT_PRICE
    assert 0 < record.first_content_us <= record.duration_us


async def test_usage_is_shown_to_whom_asks_for_it(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)]})
    options = {"include_usage": True, "other": 1}
    reply = await here.client.chat("m", stream=True, stream_options=options)
    assert reply.body == b"".join(server.events)
    assert server.bodies[0]["stream_options"] == options


async def test_other_stream_options_survive(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)]})
    options = {"include_usage": False, "other": 1}
    reply = await here.client.chat("m", stream=True, stream_options=options)
    assert server.bodies[0]["stream_options"] == {"include_usage": True, "other": 1}
    assert b"prompt_tokens" not in reply.body


async def test_a_stream_without_usage_is_estimated_from_what_was_delivered(
    installed: Install, server: ModelServer
) -> None:
    server.events = [one for one in chat_events(["word "] * 100) if b'"usage"' not in one]
    here = await installed({"m": [at(server)]})
    await here.client.chat("m", stream=True)
    record = await here.only_record()
    assert (record.status, record.usage.source) == ("completed", "estimated")
    assert record.usage.output_tokens == pytest.approx(125, abs=5)
    assert record.charge == (
        record.usage.input_tokens * INPUT_PRICE + record.usage.output_tokens * OUTPUT_PRICE
    )


@pytest.mark.parametrize("usage_wanted", [False, True])
async def test_one_document_in_answer_to_a_stream_request_becomes_a_stream(
    installed: Install, scripted: Scripted, usage_wanted: bool
) -> None:
    async def document(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(200, msgspec.json.encode(completion("Whole")), JSON))

    here = await installed({"m": [at(await scripted(document))]})
    options = {"include_usage": usage_wanted}
    reply = await here.client.chat("m", stream=True, stream_options=options)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.endswith(DONE)
    chunks = reply.chunks()
    assert chunks[0]["choices"][0]["delta"]["content"] == "Whole"
    assert chunks[0]["choices"][0]["finish_reason"] == "stop"
    assert [bool(one.get("usage")) for one in chunks] == [False, True][: 1 + usage_wanted]
    assert (await here.only_record()).usage.source == "provider"


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[7],"usage":{"prompt_tokens":1}}',
        b'{"choices":[{"message":"text"}],"usage":{"prompt_tokens":1}}',
        b'{"choices":[{"message":{"tool_calls":7}}],"usage":{"prompt_tokens":1}}',
        b'{"choices":[{"message":{"tool_calls":[7]}}],"usage":{"prompt_tokens":1}}',
    ],
)
async def test_a_document_that_cannot_become_a_stream_is_a_failure(
    installed: Install, scripted: Scripted, server: ModelServer, body: bytes
) -> None:
    async def document(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(200, body, JSON))

    odd = at(await scripted(document), "odd", weight=9)
    here = await installed({"m": [odd, at(server, "good")]})
    assert (await here.client.chat("m", stream=True)).status == 200
    record = await here.only_record()
    assert [attempt.outcome for attempt in record.attempts] == ["protocol", "ok"]


async def test_the_end_marker_leaves_after_the_record_is_in_the_journal(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await installed({"m": [at(server)]})
    seen: list[str] = []
    append = here.gateway.journal.append_usage

    def appended(record: Any) -> None:
        append(record)
        seen.append("record")

    monkeypatch.setattr(here.gateway.journal, "append_usage", appended)

    async def written(data: bytes) -> None:
        seen.append("end" if b"[DONE]" in data else "piece")

    await here.client.chat("m", stream=True, sink=MemorySink(written))
    assert seen[-2:] == ["record", "end"]
    assert set(seen[:-2]) == {"piece"}
    seen.clear()
    await here.client.chat("m", sink=MemorySink(written))
    assert seen == ["record", "piece"]
