"""The short way for calls on uvicorn, in front of clients that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import uvloop

from llmgw_core.domain.call import ClientGone
from llmgw_core.domain.errors import GatewayError
from llmgw_server.outbox import Outbox
from llmgw_server.uvicorn_calls import CallCycle

from .conftest import Entrance, read_reply, reply, running

if TYPE_CHECKING:
    from llmgw_core.domain.call import Body, Head, Sink

GET = b"GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n"
HEAD_BYTES = 64 * 1024
CHUNKED = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


async def hello(head: Head, body: Body, sink: Sink) -> None:
    await body.read(1 << 20)
    await reply(sink, b"hello")


async def refuse(head: Head, body: Body, sink: Sink) -> None:
    raise GatewayError(401, "invalid_api_key", "No.")


@pytest.mark.parametrize("loop_of", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_client_that_leaves_costs_the_others_of_the_same_turn_nothing(loop_of: type) -> None:
    async def scene() -> bytes:
        loop, outbox = asyncio.get_running_loop(), Outbox()
        made: asyncio.Queue[asyncio.Transport] = asyncio.Queue()

        class Accept(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.put_nowait(transport)  # type: ignore[arg-type]

        async with await loop.create_server(Accept, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            _, leaver = await asyncio.open_connection("127.0.0.1", port)
            first = await made.get()
            reader, stayer = await asyncio.open_connection("127.0.0.1", port)
            second = await made.get()
            first.close()  # as both loops do when the peer has closed
            outbox.put(first, b"unheard")
            outbox.put(second, b"hello")
            try:
                return await asyncio.wait_for(reader.readexactly(5), 5)
            finally:
                second.close()
                for writer in (leaver, stayer):
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()

    with asyncio.Runner(loop_factory=loop_of) as runner:
        assert runner.run(scene()) == b"hello"


@pytest.mark.parametrize("beginning", [b"GET /v1/x HTTP/1.1\r\nx: ", b"GET /v1/"])
async def test_a_head_without_end_is_refused(beginning: bytes) -> None:
    async with running(Entrance(hello).application(), "uvicorn") as server:
        reader, writer = await server.send(beginning)
        for _ in range(64):
            writer.write(b"a" * HEAD_BYTES)
            if reader.at_eof():
                break
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer[:12] in (b"", b"HTTP/1.1 431")


async def test_trailers_without_end_end_the_connection() -> None:
    entrance = Entrance(hello)
    async with running(entrance.application(), "uvicorn") as server:
        reader, writer = await server.send(CHUNKED + b"0\r\nx: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(16):
                writer.write(b"a" * HEAD_BYTES)
                await writer.drain()
            assert await asyncio.wait_for(reader.read(), 5) == b""
        assert isinstance(await asyncio.wait_for(entrance.ended.get(), 5), ClientGone)


async def test_a_trailer_is_no_header() -> None:
    seen: list[bytes] = []

    async def look(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100)
        seen.extend(name for name, _ in head.headers)
        await reply(sink, b"")

    async with running(Entrance(look).application(), "uvicorn") as server:
        await server.exchange(CHUNKED + b"1\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    assert seen == [b"host", b"transfer-encoding"]


async def test_a_small_body_in_very_many_chunks_is_no_endless_framing() -> None:
    async with running(Entrance(hello).application(), "uvicorn") as server:
        reader, writer = await server.send(CHUNKED)
        for _ in range(8):
            writer.write(b"1\r\na\r\n" * (HEAD_BYTES // 6))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        assert (await read_reply(reader))[2] == b"hello"


async def test_after_a_refusal_instead_of_100_continue_the_connection_ends() -> None:
    """Else the next request would be read as the body that never came."""
    async with running(Entrance(refuse).application(), "uvicorn") as server:
        head = (
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 40\r\n\r\n"
        )
        reader, writer = await server.send(head)
        status, headers, _ = await read_reply(reader)
        assert (status, headers.get("connection")) == (401, "close")
        writer.write(GET)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_status_without_a_name_passes() -> None:
    async def strange(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, b"{}", 430)

    async with running(Entrance(strange).application(), "uvicorn") as server:
        assert (await server.exchange(GET))[0] == 430


async def test_who_asks_on_and_reads_nothing_is_not_served_on() -> None:
    served = 0

    async def large(head: Head, body: Body, sink: Sink) -> None:
        nonlocal served
        served += 1
        await reply(sink, b"x" * 100_000)

    async with running(Entrance(large).application(), "uvicorn") as server:
        reader, writer = await server.connect()
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        requests = 1000
        writer.write(GET * requests)
        before = -1
        while served != before:  # until nothing moves any more
            before = served
            await asyncio.sleep(0.05)
        assert served < requests
        transport.resume_reading()
        for _ in range(requests):
            assert len((await read_reply(reader))[2]) == 100_000


async def test_a_reply_that_is_ready_when_the_server_ends_is_sent() -> None:
    async def end_at_once(head: Head, body: Body, sink: Sink) -> None:
        assert isinstance(sink, CallCycle)
        await reply(sink, b"hello")
        sink.protocol.shutdown()

    async with running(Entrance(end_at_once).application(), "uvicorn") as server:
        assert (await server.exchange(GET))[2] == b"hello"


async def test_rubbish_behind_a_request_does_not_overtake_its_reply() -> None:
    async def rubbish_comes(head: Head, body: Body, sink: Sink) -> None:
        assert isinstance(sink, CallCycle)
        await reply(sink, b"hello")
        sink.protocol.data_received(b"rubbish\r\n\r\n")

    async with running(Entrance(rubbish_comes).application(), "uvicorn") as server:
        reader, _ = await server.send(GET)
        assert (await read_reply(reader))[2] == b"hello"
        assert (await read_reply(reader))[0] == 400


async def echo(head: Head, body: Body, sink: Sink) -> None:
    await reply(sink, await body.read(100))


@pytest.mark.parametrize("wish", [b"h2c", b"websocket"])
@pytest.mark.parametrize("pause", [False, True])
async def test_a_wish_for_another_protocol_is_ignored_and_the_body_stays_a_body(
    wish: bytes, pause: bool
) -> None:
    """Java's client asks for HTTP/2 with every first request. The body must neither get lost nor
    be taken for a request."""
    async with running(Entrance(echo).application(), "uvicorn") as server:
        head = b"POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\n"
        head += b"upgrade: %b\r\nhttp2-settings: x\r\ncontent-length: %d\r\n\r\n" % (wish, len(GET))
        for _ in range(2):
            reader, writer = await server.send(head + GET * (not pause))
            if pause:
                await asyncio.sleep(0.05)
                writer.write(GET)
            assert (await read_reply(reader))[2] == GET
            writer.write(GET)
            assert (await read_reply(reader))[2] == b""


async def test_connect_is_refused() -> None:
    async with running(Entrance(echo).application(), "uvicorn") as server:
        reader, _ = await server.send(b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n" + GET)
        assert (await read_reply(reader))[0] == 400
        assert await reader.read() == b""


async def test_requests_that_wait_are_answered_before_more_of_them_are_read() -> None:
    arrived: asyncio.Queue[Sink] = asyncio.Queue()
    go = asyncio.Semaphore(0)

    async def slow(head: Head, body: Body, sink: Sink) -> None:
        arrived.put_nowait(sink)
        await go.acquire()
        await reply(sink, b"ok")

    async with running(Entrance(slow).application(), "uvicorn") as server:
        reader, writer = await server.connect()
        writer.write(GET * 200_000)
        sink = await arrived.get()
        assert isinstance(sink, CallCycle)
        waiting = sink.protocol.pipeline
        most = len(waiting)
        assert most > 100
        for _ in range(20):
            go.release()
            await read_reply(reader)
            await arrived.get()
        assert len(waiting) == most - 20
        writer.transport.abort()
        for _ in range(200_000):
            go.release()


@pytest.mark.parametrize(
    ("version", "status", "ways"),
    [(b"1.1", b"200", ["CallCycle"]), (b"1.0", b"200", ["Exchange"]), (b"2.0", b"400", [])],
)
@pytest.mark.parametrize("wish", [b"connection", b"proxy-connection"])
async def test_who_asks_to_be_kept_is_not_taken_for_a_newer_client(
    version: bytes, status: bytes, ways: list[str], wish: bytes
) -> None:
    taken: list[str] = []

    async def look(head: Head, body: Body, sink: Sink) -> None:
        taken.append(type(sink).__name__)
        await reply(sink, b"hello")

    lines = b"GET /v1/x HTTP/%b\r\nhost: a\r\n%b: keep-alive\r\n\r\n" % (version, wish)
    async with running(Entrance(look).application(), "uvicorn") as server:
        reader, _ = await server.send(lines)
        answer = await asyncio.wait_for(reader.readline(), 5)
    assert answer[9:12] == status
    assert taken == ways
