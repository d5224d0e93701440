"""Streams are asked for their usage, except of upstreams that refuse to be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.usage import Usage
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    SSE,
    chat_chunk,
    chat_events,
    event,
    usage_object,
)
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Script, Scripted, Upstream

ASKED = {"stream_options": {"include_usage": True}}


def strict(status: int, words: str) -> Script:
    """An upstream that does not know `stream_options`."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if b"stream_options" in request.body:
                error = msgspec.json.encode({"error": {"message": words}})
                await peer.send(http_reply(status, error, JSON))
                continue
            await peer.send(chunked_head(200, SSE))
            for piece in [*chat_events()[:-2], DONE, b""]:
                await peer.send(chunk(piece))

    return script


def sent(upstream: Upstream) -> list[dict[str, Any]]:
    return [msgspec.json.decode(request.body) for request in upstream.requests]


@pytest.mark.parametrize("body", [{}, {"stream_options": None}, ASKED])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "Unrecognized request argument supplied: stream_options"),
        (422, "extra_forbidden: body.stream_options: Extra inputs are not permitted"),
        (400, "unknown field include_usage"),
    ],
)
async def test_an_upstream_that_refuses_to_be_asked_is_not_asked_again(
    installed: Install, scripted: Scripted, status: int, words: str, body: dict[str, Any]
) -> None:
    upstream = await scripted(strict(status, words))
    here = await installed({"m": [at(upstream)]})
    for _ in range(2):
        reply = await here.client.chat("m", stream=True, **body)
        assert reply.status == 200
        assert reply.body.endswith(DONE)
    asked = ["stream_options" in each for each in sent(upstream)]
    assert asked == [True, False, False]
    for record in await here.records():
        assert (record.status, len(record.attempts)) == ("completed", 1)
        assert (record.usage.source, record.usage.method) == ("estimated", "ratio")


async def test_a_refusal_of_something_else_is_the_callers(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(strict(400, "max_tokens is too large"))
    here = await installed({"m": [at(upstream)]})
    assert (await here.client.chat("m", stream=True)).status == 400
    assert len(upstream.requests) == 1


async def test_an_upstream_can_be_spared_the_question(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server, ask_usage=False)]})
    bodies: list[dict[str, Any]] = [{}, ASKED]
    for body in bodies:
        assert (await here.client.chat("m", stream=True, **body)).status == 200
    assert not any("stream_options" in each for each in server.bodies)
    assert {record.usage for record in await here.records()} == {Usage(7, 3)}  # it says it unasked


async def test_usage_in_every_chunk_is_not_asked_for_with_the_usage(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    options = {"continuous_usage_stats": True, "x": 1}
    await here.client.chat("m", stream=True, stream_options=options)
    await here.client.chat("m", stream=True, stream_options={"include_usage": True, **options})
    assert [each["stream_options"] for each in server.bodies] == [
        {"include_usage": True, "x": 1},
        {"include_usage": True, **options},
    ]


async def test_usage_that_text_has_made_out_of_date_is_not_booked_as_exact(
    installed: Install, server: ModelServer
) -> None:
    """The first chunk says what the input was, and nobody says what came of it."""
    early = {**chat_chunk({"role": "assistant", "content": ""}), "usage": usage_object(9, 0)}
    words = [event(chat_chunk({"content": word})) for word in ("Hello ", "there ", "you ")]
    server.events = [event(early), *words, event(chat_chunk({}, "stop")), DONE]
    here = await installed({"m": [at(server)]})
    assert (await here.client.chat("m", stream=True)).status == 200
    [record] = await here.records()
    assert (record.usage.source, record.usage.method) == ("estimated", "ratio")
    assert record.usage.output_tokens >= 4


async def test_input_that_the_client_sent_as_tokens_is_known_without_being_reported(
    installed: Install, server: ModelServer
) -> None:
    server.embeddings = msgspec.json.encode({"object": "list", "data": []})
    here = await installed({"m": served_by(at(server), kind="embedding")})
    assert (await here.client.embed("m", [[1, 2, 3], [4, 5]])).status == 200
    [record] = await here.records()
    assert record.usage == Usage(5, 0, source="estimated", method="tokens")


def echoing(words: str) -> Script:
    """An upstream that knows `stream_options`, and quotes what it does not like."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if words.encode() in request.body:
                error = msgspec.json.encode({"detail": [{"input": msgspec.Raw(request.body)}]})
                await peer.send(http_reply(422, error, JSON))
                continue
            await peer.send(chunked_head(200, SSE))
            for piece in [*chat_events(), b""]:
                await peer.send(chunk(piece))

    return script


@pytest.mark.parametrize("body", [{"odd": 1}, {"stream_options": {"odd": 1}}])
async def test_no_caller_can_have_the_streams_of_others_estimated(
    installed: Install, scripted: Scripted, body: dict[str, Any]
) -> None:
    upstream = await scripted(echoing('"odd"'))
    here = await installed({"m": [at(upstream)]})
    await here.client.chat("m", stream=True, **body)
    assert (await here.client.chat("m", stream=True)).status == 200
    assert "stream_options" in sent(upstream)[-1]
    assert (await here.records())[-1].usage.source == "provider"
