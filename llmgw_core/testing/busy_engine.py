"""For tests of overload: an engine that answers when it is told to, and calls that wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.config.schema_streams import OverloadConfig
from llmgw_core.domain.limits import Limits
from llmgw_core.testing.model_server import JSON, completion
from llmgw_core.testing.upstream import Peer, http_reply

if TYPE_CHECKING:
    from llmgw_core.testing.client import Client, MemorySink
    from llmgw_core.testing.installation import Installation

ONE: Final = Limits(parallel=1)
_ANSWER: Final = http_reply(200, msgspec.json.encode(completion()), JSON)


def queued(queue: str = "fair", **fields: Any) -> RoutingConfig:
    """With this queue; `fields` are those of `OverloadConfig`."""
    return RoutingConfig(overload=OverloadConfig(queue=queue, **fields))


class Engine:
    """A script for an `Upstream` that answers when it is let; `order` are the texts of questions as
    they came, `most` is how many it worked on at once."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.working = 0
        self.most = 0
        self._answers = asyncio.Semaphore(0)
        self._come = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        while True:
            request = msgspec.json.decode((await peer.request()).body)
            self.order.append(request["messages"][0]["content"])
            self.working += 1
            self.most = max(self.most, self.working)
            self._come.set()
            try:
                await self._answers.acquire()
            finally:
                self.working -= 1
            await peer.send(_ANSWER)

    def answer(self, calls: int = 1) -> None:
        """Let it answer so many calls."""
        for _ in range(calls):
            self._answers.release()

    async def has(self, calls: int) -> None:
        """Wait until so many have come."""
        while len(self.order) < calls:
            self._come.clear()
            await self._come.wait()


def asking(
    here: Installation, text: str, client: Client | None = None, **fields: Any
) -> asyncio.Task[MemorySink]:
    """A call that has begun; its text is how it is recognised."""
    messages = [{"role": "user", "content": text}]
    call = (client or here.client).chat("m", messages=messages, **fields)
    return asyncio.ensure_future(call)


async def waits(here: Installation, calls: int) -> None:
    """Until so many wait for a slot."""
    stats = here.gateway.stats
    async with asyncio.timeout(10):
        while stats.waiting != calls:  # noqa: ASYNC110 -- nobody tells of it
            await asyncio.sleep(0)
