"""For tests of reloads: other configurations of an installation, and calls that wait half-way.

held = HeldStreams()
async with held.upstream as upstream:
here = await installed({"m": [at(upstream)]})
task, sink = await begun(here.client, "m")
await here.gateway.reload(with_models(here, n=[at(upstream)]))
held.going_on.set()
await task
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import served_by
from llmgw_core.testing.model_server import chat_events
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.config.schema import Config
    from llmgw_core.testing.client import Client
    from llmgw_core.testing.installation import Installation


def changed(here: Installation, **sections: Any) -> Config:
    """The configuration of now with other sections."""
    return msgspec.structs.replace(here.gateway.config, **sections)


def with_models(here: Installation, **models: Any) -> Config:
    """The configuration of now with other models."""
    return changed(
        here,
        models={
            name: model if hasattr(model, "deployments") else served_by(*model)
            for name, model in models.items()
        },
    )


class HeldStreams:
    """An upstream whose streams wait in the middle until the test lets them go on."""

    def __init__(self) -> None:
        self.going_on = asyncio.Event()
        self.upstream = Upstream(self._script)

    async def _script(self, peer: Peer) -> None:
        while True:
            await peer.request()
            first, second, *rest = chat_events()
            await peer.send(chunked_head(200, [(b"content-type", b"text/event-stream")]))
            await peer.send(chunk(first + second))
            await self.going_on.wait()
            await peer.send(chunk(b"".join(rest)) + chunk(b""))


class Watched(MemorySink):
    """Tells when the first part of a reply has come."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        super().__init__(self._note)

    async def _note(self, data: bytes) -> None:
        self.begun.set()


async def begun(client: Client, model: str) -> tuple[asyncio.Task[MemorySink], Watched]:
    """A stream of which the client has seen the beginning."""
    sink = Watched()
    task = asyncio.create_task(client.chat(model, sink=sink, stream=True))
    await sink.begun.wait()
    return task, sink


async def settled(condition: Callable[[], bool]) -> None:
    """Give the loop its turns until `condition` holds."""
    while not condition():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
