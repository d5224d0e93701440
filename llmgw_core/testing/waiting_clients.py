"""For tests of clients that wait for the first content: what they get until then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.config.schema_streams import StreamsConfig
from llmgw_core.pipeline.keep_alive import COMMENT
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.model_server import ROLE, SSE
from llmgw_core.testing.upstream import Peer, chunk, chunked_head

if TYPE_CHECKING:
    from llmgw_core.testing.upstream import Script

KEPT: Final = RoutingConfig(streams=StreamsConfig(keep_alive_seconds=0.005))
"""Comments in quick succession."""


class Listening(MemorySink):
    """Knows how many comments have come."""

    def __init__(self) -> None:
        self.comments = 0
        self._more = asyncio.Event()
        super().__init__(self._noted)

    async def _noted(self, data: bytes) -> None:
        self.comments += data == COMMENT
        self._more.set()

    async def more(self) -> None:
        """Wait until something has come."""
        self._more.clear()
        await self._more.wait()

    async def heard(self, comments: int) -> None:
        """Wait for so many."""
        while self.comments < comments:
            await self.more()


def without_comments(sink: MemorySink) -> bytes:
    """The body but the comments."""
    return sink.body.replace(COMMENT, b"")


def error_of(sink: MemorySink) -> Any:
    """The error in the last event, which no end marker follows."""
    assert b"[DONE]" not in sink.body
    return msgspec.json.decode(sink.events()[-1])["error"]


def after(sink: Listening, *pieces: bytes, ending: str = "end", at: str = "head") -> Script:
    """An upstream that sends `pieces` when its client has heard two comments: the head as well
    (`at="head"`), or the head and a role before."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if at == "role":
            await peer.send(chunked_head(200, SSE) + chunk(ROLE))
        await sink.heard(sink.comments + 2)
        if at == "head":
            await peer.send(chunked_head(200, SSE))
        for piece in pieces:
            await peer.send(chunk(piece))
        if ending == "end":
            await peer.send(chunk(b""))

    return script
