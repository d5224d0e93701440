"""An upstream that breaks off at any byte of its reply, beside a sound one: the client gets the
whole answer, or, where it has begun to get it, the truth."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llmgw_core.testing.faults.performance import Ask, good
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.installation import at

if TYPE_CHECKING:
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install

STEP = {"httptools": 4, "aiohttp": 16}
"""Each byte is a place to break; these many of them are passed over, to save time."""
AT_ONCE = 32


def text_of(reply: MemorySink) -> str:
    choices = [choice for chunk in reply.chunks() for choice in chunk.get("choices") or ()]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def is_whole(reply: MemorySink, *, stream: bool) -> bool:
    if not stream:
        content: str = reply.json()["choices"][0]["message"]["content"]
        return content == "Hello there"
    return reply.events()[-1] == b"[DONE]" and text_of(reply) == "Hello there"


def is_truth(reply: MemorySink) -> bool:
    """Begun, broken off, and said so."""
    last = reply.chunks()[-1]
    said = text_of(reply)
    return (
        b"[DONE]" not in reply.body
        and last.get("error", {}).get("code") == "stream_cut"
        and bool(said)
        and "Hello there".startswith(said)
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("transport", STEP)
async def test_a_reply_that_breaks_off_anywhere_is_whole_or_says_so(
    installed: Install, transport: str, stream: bool
) -> None:
    async with FaultServer() as broken, FaultServer() as sound:
        ask = Ask(stream, broken.reply, tuple(broken.events))
        places = range(0, len(good(ask).data), STEP[transport])
        models = {
            f"m{place}": [
                at(broken, "a", model=f"fault-close@{place}", weight=9, transport=transport),
                at(sound, "b", transport=transport),
            ]
            for place in places
        }
        here = await installed(models)
        gate = asyncio.Semaphore(AT_ONCE)

        async def call(model: str) -> MemorySink:
            async with gate:
                return await here.client.chat(model, stream=stream)

        replies = dict(zip(models, await asyncio.gather(*map(call, models)), strict=True))
        records = {record.model: record for record in await here.records()}
        assert here.gateway.stats.bugs_total == 0
    assert records.keys() == replies.keys()
    begun = good(ask).data.index(b"Hello")
    for model, reply in replies.items():
        record = records[model]
        assert reply.status == 200, (model, reply.body)
        if record.status == "completed":
            assert is_whole(reply, stream=stream), (model, reply.body)
        else:
            assert stream
            assert int(model[1:]) > begun
            assert (record.status, len(record.attempts)) == ("incomplete", 1)
            assert is_truth(reply), (model, reply.body)
    # Where the content has not begun nobody sees anything, and at the end something is cut.
    assert {record.status for record in records.values()} == (
        {"completed", "incomplete"} if stream else {"completed"}
    )
    first = records["m0"]
    assert [attempt.deployment for attempt in first.attempts] == ["m0/a", "m0/b"]
