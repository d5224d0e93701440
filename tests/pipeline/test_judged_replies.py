"""Plugins that judge complete replies, and streams as if they were such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import RequestLimits
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import USUAL_CHARGE, at
from llmgw_core.testing.model_server import DONE, chat_chunk, event
from llmgw_core.testing.stream_filters import TEAPOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer


class Plugin:
    """Takes no configuration."""

    def __init__(self, config: None, context: Any) -> None:
        self.context = context


def judging(judgement: Callable[[Reply], Any]) -> type[Any]:
    """A plugin whose `post_process` gives what `judgement` gives."""

    class Judging(Plugin):
        @hookimpl
        def post_process(self, reply: Reply) -> Any:
            return judgement(reply)

    return Judging


def rejecting(*arguments: Any) -> Any:
    raise TEAPOT


@pytest.mark.parametrize("stream", [False, True])
async def test_post_process_may_change_the_reply_and_the_price_stays(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    def shout(reply: Reply) -> Reply:
        return Reply(reply.body.replace(b"Hello there", b"HELLO THERE"), None)

    here = await installed({"m": [at(server)]}, plugins=[("shout", judging(shout))])
    reply = await here.client.chat("m", stream=stream)
    assert b"HELLO THERE" in reply.body
    if stream:
        assert reply.body.endswith(DONE)
        assert b"prompt_tokens" not in reply.body
    record = await here.only_record()
    assert (record.status, record.charge, record.usage.source) == (
        "completed",
        USUAL_CHARGE,
        "provider",
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_post_process_may_reject_and_the_reply_is_paid_for(
    installed: Install, server: ModelServer, sibling: ModelServer, stream: bool
) -> None:
    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]}, plugins=[("judge", judging(rejecting))]
    )
    reply = await here.client.chat("m", stream=stream)
    assert (reply.status, reply.json()["error"]["code"]) == (418, "guarded")
    assert sibling.requests == []
    record = await here.only_record()
    assert (record.status, record.http_status, record.error_code) == ("refused", 418, "guarded")
    assert (record.charge, record.attempts[0].outcome) == (USUAL_CHARGE, "rejected")


async def test_garbage_of_post_process_never_becomes_a_stream(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": [at(server)]}, plugins=[("bad", judging(lambda reply: Reply(b"[]", None)))]
    )
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")
    record = await here.only_record()
    assert (record.status, record.charge) == ("refused", USUAL_CHARGE)


@pytest.mark.parametrize(
    "events",
    [
        [event(chat_chunk({"content": "a"}))],
        [event(chat_chunk({"content": "a"})), b"data: {\n\n", DONE],
        [event(chat_chunk({"content": "a"})), b"data: []\n\n", DONE],
        [event(chat_chunk({"content": "a"})), b'data: {"choices":7}\n\n', DONE],
        [event(chat_chunk({"content": "a"})), b'data: {"choices":[{"delta":"x"}]}\n\n', DONE],
        [event(chat_chunk({"content": "a"})), b'data: {"choices":[{"index":[]}]}\n\n', DONE],
        [event(chat_chunk({"content": "a"})), event({"error": {"message": "no"}})],
        [event(chat_chunk({"content": "a" * 5000})), DONE],
    ],
)
async def test_a_stream_that_cannot_be_judged_whole_goes_to_the_sibling(
    installed: Install, server: ModelServer, sibling: ModelServer, events: list[bytes]
) -> None:
    server.events = events
    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]},
        plugins=[("judge", judging(lambda reply: None))],
        requests=RequestLimits(reply_bytes=4000),
    )
    reply = await here.client.chat("m", stream=True)
    assert reply.body.endswith(DONE)
    record = await here.only_record()
    assert [attempt.deployment for attempt in record.attempts] == ["m/a", "m/b"]


async def test_a_judged_stream_is_judged_before_its_first_byte_leaves(
    installed: Install, server: ModelServer
) -> None:
    seen: list[str] = []

    async def written(data: bytes) -> None:
        seen.append("written")

    here = await installed(
        {"m": [at(server)]}, plugins=[("judge", judging(lambda reply: seen.append("judged")))]
    )
    await here.client.chat("m", stream=True, sink=MemorySink(written))
    assert seen[0] == "judged"
