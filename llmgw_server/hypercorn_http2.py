"""HTTP/2 on Hypercorn, where one bad request must not end the others of its connection.

Behind a proxy that shares its connections, those others belong to other clients. Hypercorn fails
as a whole, with a traceback, for a request that it cannot translate and for a body that goes on
behind its reply; here that is the end of one stream (RFC 9113, sections 8.1 and 8.1.1). And a
client that opens no window for a stream holds back who writes to it.

It relies on names of `H2Protocol` (`connection`, `streams`, `stream_buffers`, `_handle_events`) and
of its buffers, which is why the extra `server` bounds Hypercorn's version.
"""

from __future__ import annotations

import contextlib
from typing import Any

from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from h2.exceptions import StreamClosedError
from hypercorn.protocol.events import Body
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol, StreamBuffer


class StrictHttp2(H2Protocol):
    """Hypercorn's protocol, which goes on after a stream that is wrong."""

    in_head = False
    """What came last was no whole frame or head. While no request runs, only a head can be long
    enough for that."""

    async def _handle_events(self, events: list[Any]) -> None:
        self.in_head = not events
        for event in events:
            if isinstance(event, RequestReceived) and not _plain(event):
                self.connection.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            elif isinstance(event, DataReceived) and event.stream_id not in self.streams:
                self._refuse_rest(event)
            else:
                await super()._handle_events([event])
        await self._flush()

    async def stream_send(self, event: Any) -> None:
        """As Hypercorn, which goes on filling the buffer of a stream whose client opens no window:
        there it takes a look at the buffer for room in it."""
        await super().stream_send(event)
        if isinstance(event, Body):
            buffer = self.stream_buffers.get(event.stream_id)
            while buffer is not None and not _has_room(buffer):
                await buffer._paused.clear()
                await buffer._paused.wait()

    async def _close_stream(self, stream_id: int) -> None:
        """As Hypercorn; and whoever waits for room in the buffer waits no longer."""
        await super()._close_stream(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.close()

    def _refuse_rest(self, event: DataReceived) -> None:
        """The stream has had its reply; the window of the connection is for the others."""
        size = event.flow_controlled_length
        self.connection.acknowledge_received_data(size, event.stream_id)
        if event.stream_ended is None:
            with contextlib.suppress(StreamClosedError):  # reset by the frame before
                self.connection.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)


def _has_room(buffer: StreamBuffer) -> bool:
    """Whether more may be put in, or nothing will be any more."""
    return buffer._complete or len(buffer.buffer) < BUFFER_HIGH_WATER


def _plain(request: RequestReceived) -> bool:
    """Whether method and path are what Hypercorn takes for granted; CONNECT without a path is for
    forward proxies."""
    fields = {bytes(name): bytes(value) for name, value in request.headers if name[:1] == b":"}
    return b":path" in fields and fields[b":path"].isascii() and fields[b":method"].isascii()
