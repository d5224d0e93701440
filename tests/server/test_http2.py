"""The adapter under HTTP/2 (Hypercorn, prior knowledge): streams end without their connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events

from llmgw_core.domain.errors import GatewayError

from .conftest import Entrance, Running, running, watchers
from .test_asgi import Forever

if TYPE_CHECKING:
    import asyncio

    from llmgw_core.domain.call import Body, Head, Sink


class Http2:
    """A client connection: requests go out by hand, events come back in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration())
        self.h2.initiate_connection()

    def post(self, body: bytes, *, complete: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":path", "/v1/x"), (":scheme", "http"), (":authority", "a")]
        self.h2.send_headers(stream, head)
        self.h2.send_data(stream, body, end_stream=complete)
        return stream

    async def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def until(self, kind: type[h2.events.Event], stream: int) -> h2.events.Event:
        while True:
            for event in self.h2.receive_data(await self._reader.read(65536)):
                if isinstance(event, kind) and getattr(event, "stream_id", None) == stream:
                    return event


async def dial(server: Running) -> Http2:
    return Http2(*await server.connect())


async def test_a_reset_stream_is_a_client_that_left_and_the_connection_goes_on() -> None:
    call = Forever(stream=True)
    entrance = Entrance(call)
    async with running(entrance.application(), "hypercorn") as server:
        client = await dial(server)
        for _ in range(2):
            stream = client.post(b"{}")
            await client.flush()
            await client.until(h2.events.DataReceived, stream)
            client.h2.reset_stream(stream)
            await client.flush()
            assert await entrance.ended.get() is None
            assert call.sink is not None
            assert call.sink.gone
    assert watchers() == []


async def test_a_refusal_before_the_body_leaves_the_other_streams_alone() -> None:
    async def refuse(head: Head, body: Body, sink: Sink) -> None:
        raise GatewayError(401, "invalid_api_key", "No.")

    async with running(Entrance(refuse).application(), "hypercorn") as server:
        client = await dial(server)
        first = client.post(b"half", complete=False)
        await client.flush()
        await client.until(h2.events.DataReceived, first)
        client.h2.send_data(first, b"the rest", end_stream=True)
        await client.flush()
        await client.until(h2.events.StreamEnded, first)
        second = client.post(b"{}")
        await client.flush()
        event = await client.until(h2.events.ResponseReceived, second)
        assert isinstance(event, h2.events.ResponseReceived)
        assert [value for name, value in event.headers if name == b":status"] == [b"401"]
