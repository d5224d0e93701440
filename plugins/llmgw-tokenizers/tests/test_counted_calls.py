"""Calls through a gateway with the plugin: what no upstream reports is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.config.schema_tokenizer import TokenizerConfig
from llmgw_core.domain.usage import Usage
from llmgw_core.testing.installation import at, install, served_by
from llmgw_core.testing.model_server import DONE, ModelServer, chat_events, completion
from llmgw_tokenizers import TokenizersPlugin

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ["The quick", " brown fox", " jumps over", " the lazy dog."]


async def test_a_stream_and_a_reply_without_usage_are_counted_alike(tmp_path: Path) -> None:
    async with ModelServer() as server:
        server.events = [*chat_events(WORDS)[:-2], DONE]
        document = completion("".join(WORDS))
        del document["usage"]
        server.reply = msgspec.json.encode(document)
        models = {"m": served_by(at(server), tokenizer=TokenizerConfig("o200k_base"))}
        plugins = [("tokenizers", TokenizersPlugin)]
        async with install(tmp_path, models, plugins=plugins) as here:
            for stream in (True, False):
                assert (await here.client.chat("m", stream=stream)).status == 200
            usages = {record.usage for record in await here.records()}
    # "Hello" is one token, and a template puts about four around a message.
    assert usages == {Usage(5, 10, source="estimated", method="tokenizer:o200k_base")}
