"""Models with a tokenizer: usage that nobody reports is counted, within bounds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema_tokenizer import TokenizerConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.limits import Limits
from llmgw_core.domain.usage import Usage
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.pipeline import estimates
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import DONE, SSE, chat_chunk, chat_events, completion, event
from llmgw_core.testing.upstream import Peer, chunk, chunked_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Upstream

    Script = Callable[[Peer], Awaitable[None]]
    Scripted = Callable[[Script], Awaitable[Upstream]]

WORDS = [f"word{n} " for n in range(12)]
TEMPLATE = 4
"""Tokens around the one message of a request."""


class Words:
    """Every word is a token."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def count(self, text: str) -> int:
        if "fail" in text:
            raise RuntimeError("no")
        return len(text.split())


class Counting:
    def __init__(self, config: None, context: Any) -> None:
        pass

    @hookimpl
    def register_tokenizers(self) -> Any:
        return {"words": Words}


PLUGINS = [("counting", Counting)]


def counted(server: Any, **settings: Any) -> Any:
    return served_by(at(server), tokenizer=TokenizerConfig("words", **settings))


def silent(words: list[str]) -> list[bytes]:
    """A stream that reports nothing."""
    return [*chat_events(words)[:-2], DONE]


def exactly(input: int, output: int) -> Usage:
    return Usage(input, output, source="estimated", method="tokenizer:words")


async def test_what_nobody_reports_is_counted(installed: Install, server: ModelServer) -> None:
    server.events = silent(WORDS)
    document = completion("".join(WORDS))
    del document["usage"]
    server.reply = msgspec.json.encode(document)
    here = await installed({"m": counted(server)}, plugins=PLUGINS)
    for stream in (True, False):
        await here.client.chat("m", stream=stream)
    assert {record.usage for record in await here.records()} == {exactly(1 + TEMPLATE, 12)}


async def test_what_is_reported_is_not_counted(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": counted(server)}, plugins=PLUGINS)
    await here.client.chat("m", stream=True)
    await here.client.chat("m")
    assert {record.usage for record in await here.records()} == {Usage(7, 3)}


async def test_a_stream_that_breaks_is_counted_as_far_as_it_came(
    installed: Install, scripted: Scripted
) -> None:
    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE))
        for word in WORDS[:5]:
            await peer.send(chunk(event(chat_chunk({"content": word}))))

    here = await installed({"m": counted(await scripted(cut))}, plugins=PLUGINS)
    await here.client.chat("m", stream=True)
    [record] = await here.records()
    assert (record.status, record.usage) == ("incomplete", exactly(1 + TEMPLATE, 5))


async def test_a_client_that_leaves_pays_for_what_was_counted(
    installed: Install, scripted: Scripted
) -> None:
    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE))
        for word in WORDS[:3]:
            await peer.send(chunk(event(chat_chunk({"content": word}))))
        await peer.gone()

    here = await installed({"m": counted(await scripted(endless))}, plugins=PLUGINS)
    sink = MemorySink()
    call = asyncio.ensure_future(here.client.chat("m", stream=True, sink=sink))
    async with asyncio.timeout(10):
        while WORDS[2].encode() not in sink.body:  # noqa: ASYNC110 -- the sink has no event
            await asyncio.sleep(0)
    sink.leave()
    await call
    [record] = await here.records()
    assert (record.status, record.usage) == ("client_left", exactly(1 + TEMPLATE, 3))


async def test_a_tokenizer_that_fails_leaves_the_estimate_to_the_ratio(
    installed: Install, server: ModelServer
) -> None:
    server.events = silent(["fail"])
    here = await installed({"m": counted(server)}, plugins=PLUGINS)
    assert (await here.client.chat("m", stream=True)).status == 200
    [record] = await here.records()
    assert (record.usage.source, record.usage.method) == ("estimated", "ratio")


async def test_requests_are_counted_before_they_are_admitted_where_that_is_wanted(
    installed: Install, server: ModelServer
) -> None:
    """By the ratio, a request of 30 short words has over a hundred tokens."""
    text = "a " * 30
    messages = [{"role": "user", "content": text}]
    here = await installed(
        {
            "counted": served_by(
                at(server),
                tokenizer=TokenizerConfig("words", admission=True),
                limits=Limits(tpm=40),
            ),
            "guessed": served_by(
                at(server), tokenizer=TokenizerConfig("words"), limits=Limits(tpm=20)
            ),
        },
        plugins=PLUGINS,
    )
    fits = await here.client.chat("counted", messages=messages, max_tokens=5)
    assert fits.status == 200
    again = await here.client.chat("counted", messages=messages, max_tokens=30)
    assert again.status == 400  # 34 and 30 tokens never fit
    guessed = await here.client.chat("guessed", messages=messages, max_tokens=1)
    assert guessed.status == 400


async def test_what_is_very_large_is_not_decoded_to_be_counted(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "LARGEST_DECODED", 400)
    document = completion("".join(WORDS) * 10)
    del document["usage"]
    server.reply = msgspec.json.encode(document)
    server.events = silent(WORDS * 4)
    here = await installed({"m": counted(server)}, plugins=PLUGINS)
    large = [{"role": "user", "content": "a " * 300}]
    await here.client.chat("m")
    await here.client.chat("m", stream=True)
    await here.client.chat("m", messages=large)
    records = sorted(await here.records(), key=lambda record: record.started_ns)
    reply, stream, request = [record.usage for record in records]
    assert reply.method == "tokenizer:words"
    assert stream.method == "tokenizer:words"
    assert 38 <= stream.output_tokens <= 58  # 48: from the first words and the size of them all
    assert request.method == "ratio"


async def test_a_tokenizer_is_made_once_and_only_if_a_model_names_it(
    installed: Install, server: ModelServer
) -> None:
    Words.made = 0
    here = await installed({"m": served_by(at(server))}, plugins=PLUGINS)
    assert Words.made == 0
    models = {"m": counted(server), "n": counted(server)}
    config = msgspec.structs.replace(here.gateway.config, models=models)
    for _ in range(2):
        await here.gateway.reload(config)
        config = msgspec.structs.replace(config, models={**models, "o": counted(server)})
    assert Words.made == 1


@pytest.mark.parametrize(
    ("tokenizer", "sentence"),
    [
        (TokenizerConfig("word"), "no tokenizer `word` is registered"),
        (TokenizerConfig(""), "name one that an enabled plugin registers"),
        (TokenizerConfig("words", max_bytes=0), "must be greater than 0"),
    ],
)
async def test_a_tokenizer_that_cannot_be_is_an_error_with_its_path(
    installed: Install, server: ModelServer, tokenizer: TokenizerConfig, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        await installed({"m": served_by(at(server), tokenizer=tokenizer)}, plugins=PLUGINS)
    assert "models.m.tokenizer." in str(caught.value)
