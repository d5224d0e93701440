"""Filters beside plugins that know complete replies only, and replies that are no streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import streamed_text
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, USUAL_CHARGE, at, served_by
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    STOP,
    WORD,
    chat_chunk,
    completion,
    event,
    usage_object,
)
from llmgw_core.testing.stream_filters import (
    Gate,
    Hold,
    Pass,
    RejectAtEnd,
    filtering,
    judging,
    streaming,
    suffixing,
)
from llmgw_core.testing.upstream import http_reply, repeating
from llmgw_core.wire.stream_event import StreamEvent

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted


class Raises(Pass):
    def feed(self, event: StreamEvent) -> Any:
        raise ZeroDivisionError


def appending(mark: str) -> type[Any]:
    """A plugin that appends to the text of complete replies."""

    def append(reply: Reply) -> Reply:
        document = msgspec.json.decode(reply.body)
        for choice in document["choices"]:
            choice["message"]["content"] += mark
        return Reply(msgspec.json.encode(document), None)

    return judging(append)


@pytest.mark.parametrize("filter_first", [False, True])
async def test_filters_and_judges_of_complete_replies_keep_their_order(
    installed: Install, server: ModelServer, filter_first: bool
) -> None:
    plugins = [("f", filtering(suffixing("f"))), ("j", appending("j"))]
    here = await installed({"m": [at(server)]}, plugins=plugins if filter_first else plugins[::-1])
    reply = await here.client.chat("m", stream=True)
    assert streamed_text(reply) == ("Hello therejf" if filter_first else "Hellof theref" + "j")
    assert reply.body.endswith(DONE)
    assert b"prompt_tokens" not in reply.body
    record = await here.only_record()
    assert (record.charge, record.usage.source) == (USUAL_CHARGE, "provider")


async def test_a_filter_that_fails_in_a_judged_stream_fails_the_call_or_is_left_out(
    installed: Install, server: ModelServer
) -> None:
    plugins = [("j", appending("j")), ("p", filtering(Raises))]
    here = await installed({"m": [at(server)]}, plugins=plugins)
    assert (await here.client.chat("m", stream=True)).status == 500
    assert (await here.only_record()).charge == USUAL_CHARGE
    here = await installed(
        {"m": [at(server)]}, plugins=plugins, sections=[PluginConfig("p", on_error="open")]
    )
    assert streamed_text(await here.client.chat("m", stream=True)) == "Hello therej"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_plugin_with_both_filters_streams_and_judges_replies(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    class Both(filtering(suffixing("f"))):  # type: ignore[misc]
        @hookimpl
        def post_process(self, reply: Reply) -> Reply:
            return Reply(reply.body.replace(b"there", b"judged"), None)

    here = await installed({"m": [at(server)]}, plugins=[("p", Both)])
    reply = await here.client.chat("m", stream=stream)
    if stream:
        assert streamed_text(reply) == "Hellof theref"
    else:
        assert reply.json()["choices"][0]["message"]["content"] == "Hello judged"


async def test_a_plugin_without_a_filter_for_this_stream_judges_it_whole(
    installed: Install, server: ModelServer
) -> None:
    class Both(filtering(lambda: None)):  # type: ignore[misc]
        @hookimpl
        def post_process(self, reply: Reply) -> Reply:
            return Reply(reply.body.replace(b"there", b"judged"), None)

    here = await installed({"m": [at(server)]}, plugins=[("p", Both)])
    assert streamed_text(await here.client.chat("m", stream=True)) == "Hello judged"


async def test_a_judged_stream_does_not_wait_for_more_than_its_end_marker(
    installed: Install, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgw_core.pipeline.endings.DRAIN_SECONDS", 60.0)
    client = Gate()
    upstream = await scripted(streaming(WORD, STOP, DONE, ending="stuck"))
    here = await installed({"m": [at(upstream)]}, plugins=[("p", judging(lambda reply: None))])
    call = asyncio.create_task(here.client.chat("m", stream=True, sink=client))
    await client.opened.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert streamed_text(client) == "Hello"
    [record] = await here.records()
    assert record.status == "completed"


async def test_a_plugin_that_knows_streams_only_gets_complete_replies_as_one(
    installed: Install, server: ModelServer
) -> None:
    opened: list[Pass] = []
    here = await installed(
        {"m": [at(server)]},
        plugins=[("p", filtering(suffixing("!"), opened))],
    )
    reply = await here.client.chat("m")
    document = reply.json()
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "Hello there!"}
    assert (document["object"], document["usage"]) == ("chat.completion", usage_object())
    assert [each.closed for each in opened] == [1]
    assert (await here.only_record()).charge == USUAL_CHARGE


async def test_a_complete_reply_that_a_filter_lets_pass_keeps_its_bytes(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(Hold))])
    assert (await here.client.chat("m")).body == server.reply


async def test_tool_calls_of_a_filtered_complete_reply_are_not_numbered(
    installed: Install, server: ModelServer
) -> None:
    class Again(Pass):
        def feed(self, event: StreamEvent) -> Any:
            return StreamEvent.of(event.to_dict())

    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    server.reply = msgspec.json.encode({"id": "x", "choices": [choice], "usage": usage_object()})
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(Again))])
    document = (await here.client.chat("m")).json()
    assert document["choices"] == [choice]


async def test_a_filter_rejects_a_complete_reply_and_it_is_paid(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(RejectAtEnd))])
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (418, "guarded")
    record = await here.only_record()
    assert (record.status, record.charge) == ("refused", USUAL_CHARGE)


async def test_a_complete_reply_of_which_no_stream_can_be_made_goes_to_the_sibling(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    odd = {"choices": [{"message": 7}], "usage": usage_object(5, 1)}
    server.reply = msgspec.json.encode(odd)
    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]}, plugins=[("p", filtering(Pass))]
    )
    assert (await here.client.chat("m")).body == sibling.reply
    # What the first one has reported is paid, too.
    [record] = await here.records()
    assert record.charge == USUAL_CHARGE + 5 * INPUT_PRICE + OUTPUT_PRICE


async def test_a_json_reply_to_a_stream_request_is_filtered(
    installed: Install, scripted: Scripted
) -> None:
    body = msgspec.json.encode(completion())
    upstream = await scripted(repeating(http_reply(200, body, JSON)))
    here = await installed({"m": [at(upstream)]}, plugins=[("p", filtering(suffixing("!")))])
    assert streamed_text(await here.client.chat("m", stream=True)) == "Hello there!"


class Answering:
    """Answers without any upstream, with what the configuration of the test says."""

    body = b""

    def __init__(self, config: None, context: Any) -> None:
        self.context = context

    @hookimpl
    def pre_route(self) -> Reply:
        return Reply(self.body, None)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_of_a_plugin_is_filtered_too(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    class Cache(Answering):
        body = server.reply

    here = await installed(
        {"m": [at(server)]}, plugins=[("c", Cache), ("p", filtering(suffixing("!")))]
    )
    reply = await here.client.chat("m", stream=stream)
    assert b"Hello there!" in reply.body
    assert server.requests == []


async def test_an_answer_of_a_plugin_that_is_no_chat_is_its_failure(
    installed: Install, server: ModelServer
) -> None:
    class Cache(Answering):
        body = b'{"choices":7}'

    here = await installed({"m": [at(server)]}, plugins=[("c", Cache), ("p", filtering(Pass))])
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")


async def test_a_stream_that_cannot_be_folded_for_a_judge_goes_to_the_sibling(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    server.events = [event(chat_chunk({"tool_calls": [7]})), event(chat_chunk({}, "stop")), DONE]
    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]},
        plugins=[("j", judging(lambda reply: None))],
    )
    assert streamed_text(await here.client.chat("m", stream=True)) == "Hello there"
    record = await here.only_record()
    assert [attempt.outcome for attempt in record.attempts] == ["protocol", "ok"]


async def test_what_a_filter_makes_unfit_for_a_judge_is_the_filters_failure(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    class Odd(Pass):
        def feed(self, event: StreamEvent) -> Any:
            return StreamEvent.of(chat_chunk({"tool_calls": [7]}))

    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]},
        plugins=[("j", judging(lambda reply: None)), ("f", filtering(Odd))],
    )
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")
    assert sibling.requests == []


async def test_embeddings_are_no_chat_and_pass_no_filter(
    installed: Install, server: ModelServer
) -> None:
    opened: list[Pass] = []
    here = await installed(
        {"e": served_by(at(server), kind="embedding")},
        plugins=[("p", filtering(RejectAtEnd, opened))],
    )
    assert (await here.client.embed("e")).body == server.embeddings
    assert opened == []
