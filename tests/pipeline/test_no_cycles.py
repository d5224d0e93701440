"""What a call was sent is let go with its end, however it ends: a reference cycle would hold it
until the garbage collector comes, which under load is after thousands of calls."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.config.schema_streams import OverloadConfig, StreamsConfig
from llmgw_core.domain.call import Call
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    SSE,
    STOP,
    WORD,
    completion,
)
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.upstream import Scripted

HEAD = chunked_head(200, SSE)
REPLIES = {
    "complete": http_reply(200, msgspec.json.encode(completion()), JSON),
    "stream": HEAD + chunk(WORD) + chunk(STOP) + chunk(DONE) + chunk(b""),
    "refused": http_reply(400, b'{"error": {"message": "no"}}', JSON),
    "failed": http_reply(500, b"{}", JSON),
    "html": http_reply(200, b"<html>", [(b"content-type", b"text/html")]),
    "cut before content": HEAD,
    "cut after content": HEAD + chunk(WORD),
    "broken after content": HEAD + chunk(WORD) + chunk(b"data: {]}\n\n"),
    "silent": b"",
}
STREAMS = ("stream", "cut before content", "cut after content", "broken after content")
KEPT = ("complete", "stream", "refused", "failed", "html")
"""Whose connections can be used again, and are closed after one reply, or two, or three."""
ROUTINGS = {
    "plain": RoutingConfig(backoff_ms=1),
    "kept alive": RoutingConfig(backoff_ms=1, streams=StreamsConfig(keep_alive_seconds=60.0)),
    "queue": RoutingConfig(backoff_ms=1, overload=OverloadConfig(queue="fair", in_flight=10)),
}


def calls() -> list[Call]:
    """Those there are, without what is frozen."""
    return [each for each in gc.get_objects() if isinstance(each, Call)]


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("name", REPLIES)
async def test_a_call_that_has_ended_is_held_by_nothing(
    installed: Install, scripted: Scripted, name: str, routing: str
) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(1 + peer.number % 3 if name in KEPT else 1):
            await peer.request()
            await peer.send(REPLIES[name])
            if name == "silent":
                await peer.hold()

    here = await installed({"m": [at(await scripted(script))]}, routing=ROUTINGS[routing])
    headers = [(b"x-llmgw-timeout-ms", b"50")] if name == "silent" else []
    gc.disable()
    gc.freeze()  # What other tests have left behind.
    try:
        for _ in range(8):  # until its breaker is open, and further
            with contextlib.suppress(asyncio.CancelledError):
                await here.client.chat("m", stream=name in STREAMS, headers=headers)
        for _ in range(50):  # callbacks, and the ends of connections
            await asyncio.sleep(0)
        assert calls() == []
    finally:
        gc.unfreeze()
        gc.enable()
