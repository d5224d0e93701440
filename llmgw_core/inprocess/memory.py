"""A request and a reply that lie in memory: the simplest `Body` and `Sink`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.domain.errors import GatewayError
from llmgw_core.wire.sse import EventSplitter, event_data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.domain.call import Headers


class MemoryBody:
    """A request body that lies in memory. `reads` counts how often it was asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.reads = 0

    async def read(self, limit: int) -> bytes:
        """See `Body`."""
        self.reads += 1
        if len(self._data) > limit:
            raise GatewayError(413, "request_too_large", "The request body is too large.")
        return self._data


class MemorySink:
    """Keeps the reply. `leave()` plays a client that goes away; `on_write`, if given, is awaited
    with every piece before it is kept, as a slow client would make it wait."""

    def __init__(self, on_write: Callable[[bytes], Awaitable[None]] | None = None) -> None:
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.finished = False
        self._on_write = on_write

    async def start(self, status: int, headers: Headers) -> None:
        """See `Sink`."""
        assert not self.status, "the head of the reply was sent twice"
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}

    async def write(self, data: bytes) -> None:
        """See `Sink`."""
        assert self.status, "a body came before the head of the reply"
        assert not self.finished, "a part of the body came after the end of the reply"
        if self._on_write is not None:
            await self._on_write(data)
        if not self.gone:
            self.body += data

    async def finish(self, data: bytes = b"") -> None:
        """See `Sink`."""
        await self.write(data)
        self.finished = True

    def leave(self) -> None:
        """The client goes away."""
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    def json(self) -> Any:
        """The decoded body."""
        return msgspec.json.decode(self.body)

    def events(self) -> list[bytes]:
        """The data of the streamed events."""
        found = (event_data(event) for event in EventSplitter().feed(self.body))
        return [data for data in found if data is not None]

    def chunks(self) -> list[Any]:
        """The decoded events but the end marker."""
        return [msgspec.json.decode(data) for data in self.events() if data != b"[DONE]"]
