"""The adapter under HTTP/2 (Hypercorn, prior knowledge): streams end without their connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import pytest

from llmgw_core.domain.errors import GatewayError

from .conftest import Entrance, Running, reply, running, watchers
from .test_asgi import Forever

if TYPE_CHECKING:
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

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()

    async def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def until(self, kind: type[h2.events.Event], stream: int) -> h2.events.Event:
        while data := await self._reader.read(65536):
            for event in self.h2.receive_data(data):
                if isinstance(event, kind) and getattr(event, "stream_id", None) == stream:
                    return event
        raise ConnectionResetError("closed")


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


async def test_a_body_that_goes_on_behind_its_reply_leaves_the_other_streams_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmgw_server.asgi.LINGER_SECONDS", 0.0)

    async def refuse(head: Head, body: Body, sink: Sink) -> None:
        raise GatewayError(401, "invalid_api_key", "No.")

    async with running(Entrance(refuse).application(), "hypercorn") as server:
        client = await dial(server)
        first = client.post(b"half", complete=False)
        await client.flush()
        await client.until(h2.events.StreamEnded, first)
        for _ in range(3):
            client.h2.send_data(first, b"more")
        second = client.post(b"{}")
        await client.flush()
        await client.until(h2.events.StreamEnded, second)
    assert not caplog.records


def request(**fields: bytes) -> list[tuple[bytes, bytes]]:
    usual = {"method": b"POST", "scheme": b"http", "authority": b"a"}
    return [(b":" + name.encode(), value) for name, value in (usual | fields).items()]


@pytest.mark.parametrize(
    "head",
    [
        request(path=b"/v1/\xff"),
        request(path=b"/v1/x", method=b"P\xff"),
        [(b":method", b"CONNECT"), (b":authority", b"a")],
    ],
    ids=["path", "method", "connect"],
)
async def test_a_request_that_means_nothing_is_the_end_of_its_stream_only(
    head: list[tuple[bytes, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, await body.read(100))

    async with running(Entrance(answer).application(), "hypercorn") as server:
        client = await dial(server)
        client.h2.config.validate_outbound_headers = False
        good = client.post(b"{}", complete=False)
        bad = client.h2.get_next_available_stream_id()
        client.h2.send_headers(bad, head)
        await client.flush()
        await client.until(h2.events.StreamReset, bad)
        client.h2.send_data(good, b"", end_stream=True)
        await client.flush()
        await client.until(h2.events.StreamEnded, good)
    assert not caplog.records


@pytest.mark.parametrize("whole", [False, True], ids=["frame", "continuation"])
async def test_a_later_head_that_does_not_come_to_its_end_ends_the_connection(
    whole: bool,
) -> None:
    async def answer(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, await body.read(100))

    entrance = Entrance(answer, head_seconds=0.4, keep_alive_seconds=60)
    async with running(entrance.application(), "hypercorn") as server:
        client = await dial(server)
        first = client.post(b"{}")
        await client.flush()
        await client.until(h2.events.StreamEnded, first)
        # HEADERS of stream 3 without END_HEADERS: nine bytes of frame header and one of payload
        frame = bytes((0, 0, 1, 1, 0, 0, 0, 0, 3, 0x82))
        client.write(frame if whole else frame[:-1])
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await client.until(h2.events.StreamEnded, 3)


@pytest.mark.parametrize("end", ["reset", "close"])
async def test_a_client_that_opens_no_window_holds_back_who_writes_until_it_has_left(
    end: str,
) -> None:
    written, ended = [], asyncio.Event()

    async def endless(head: Head, body: Body, sink: Sink) -> None:
        try:
            await body.read(1000)
            await sink.start(200, [(b"content-type", b"text/event-stream")])
            while not sink.gone:  # nobody is cancelled: it is a call that works on to its end
                await sink.write(b"x" * 16384)
                written.append(16384)
        finally:
            ended.set()

    async with running(Entrance(endless).application(), "hypercorn") as server:
        client = await dial(server)
        stream = client.post(b"{}")
        await client.flush()
        await client.until(h2.events.ResponseReceived, stream)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ended.wait()
        assert sum(written) < 256 * 1024
        if end == "reset":
            client.h2.reset_stream(stream)
            await client.flush()
        else:
            client.close()
        async with asyncio.timeout(5):
            await ended.wait()
