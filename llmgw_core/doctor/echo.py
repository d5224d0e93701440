"""The upstream of canary calls: a server of this process on this machine that answers everything,
and the backend that leads there. Nothing that is configured is ever called."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.canonical import CanonicalSession
from llmgw_core.backends.inquiry import engine_page
from llmgw_core.domain.deployment import Origin
from llmgw_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from llmgw_core.backends.port import Backend, Session
    from llmgw_core.backends.transport.port import HttpRequest
    from llmgw_core.config.schema_prices import CatalogueEntry
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.hooks.context import PluginContext

BACKEND = "llmgw-doctor"
_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_CHAT = {
    "id": "canary",
    "object": "chat.completion",
    "created": 0,
    "model": "canary",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ok"},
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
}
_EMBEDDING = {
    "object": "list",
    "model": "canary",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.0]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


class EchoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server listens, on this machine."""

    port: int


class EchoBackend:
    """The backend of every deployment while canaries fly."""

    name = BACKEND
    Options = EchoOptions

    def origin(self, deployment: Deployment) -> Origin:
        """See the port."""
        return Origin("http", "127.0.0.1", deployment.options.port)

    def begin(self, call: Call, deployment: Deployment, credential: str) -> Session:
        """See the port."""
        return CanonicalSession(call, deployment, credential)

    def page(self, deployment: Deployment, credential: str, path: str) -> HttpRequest:
        """See the port."""
        return engine_page("/v1", path, [])

    def check(self, deployment: Deployment) -> None:
        """Nothing can be wrong."""


class EchoPlugin:
    """Registers it."""

    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    def register_backends(self) -> Sequence[Backend]:
        """See the hook."""
        return (EchoBackend(),)


def listing(prices: Mapping[str, Sequence[CatalogueEntry]]) -> type[EchoPlugin]:
    """The same plugin with a catalogue of `prices`."""

    class Listing(EchoPlugin):
        @hookimpl
        def register_prices(self) -> Mapping[str, Sequence[CatalogueEntry]]:
            return prices

    return Listing


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The port of a server that answers until the block ends."""
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        try:
            while await _answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway has closed its side
        finally:
            connections.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in tuple(connections):
            writer.close()
        await server.wait_closed()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    await reader.readexactly(length)
    document = _EMBEDDING if b"/embeddings" in head.partition(b"\r\n")[0] else _CHAT
    body = msgspec.json.encode(document)
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    await writer.drain()
    return True
