"""HTTP/2 on Hypercorn, where one bad request must not end the others of its connection.

Behind a proxy that shares its connections, those others belong to other clients. Hypercorn fails
as a whole, with a traceback, for a request that it cannot translate and for a body that goes on
behind its reply; here that is the end of one stream (RFC 9113, sections 8.1 and 8.1.1).

It relies on names of `H2Protocol` (`connection`, `streams`, `_handle_events`), which is why the
extra `server` bounds Hypercorn's version.
"""

from __future__ import annotations

import contextlib
from typing import Any

from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from h2.exceptions import StreamClosedError
from hypercorn.protocol.h2 import H2Protocol


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

    def _refuse_rest(self, event: DataReceived) -> None:
        """The stream has had its reply; the window of the connection is for the others."""
        size = event.flow_controlled_length
        self.connection.acknowledge_received_data(size, event.stream_id)
        if event.stream_ended is None:
            with contextlib.suppress(StreamClosedError):  # reset by the frame before
                self.connection.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)


def _plain(request: RequestReceived) -> bool:
    """Whether method and path are what Hypercorn takes for granted; CONNECT without a path is for
    forward proxies."""
    fields = {bytes(name): bytes(value) for name, value in request.headers if name[:1] == b":"}
    return b":path" in fields and fields[b":path"].isascii() and fields[b":method"].isascii()
