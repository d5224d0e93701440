"""How connections on uvicorn end whose client does not do what clients do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgw_core.domain.errors import GatewayError

from .conftest import Entrance, read_head, read_reply, reply, running

if TYPE_CHECKING:
    from llmgw_core.domain.call import Body, Head, Sink

CHUNKED = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
GET = b"GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n"
BROKEN = b"xyz\r\n"


async def test_a_broken_body_among_pipelined_requests_waits_for_the_replies_before() -> None:
    go = asyncio.Event()

    async def slow(head: Head, body: Body, sink: Sink) -> None:
        await go.wait()
        await reply(sink, await body.read(100))

    entrance = Entrance(slow)
    async with running(entrance.application(), "uvicorn") as server:
        reader, writer = await server.send(GET + CHUNKED + BROKEN)
        await asyncio.sleep(0)
        writer.write(GET)
        go.set()
        assert (await read_reply(reader))[0] == 200
        assert (await read_reply(reader))[0] == 400
        assert await reader.read() == b""


async def test_a_body_that_breaks_during_the_reply_ends_the_connection() -> None:
    async def early(head: Head, body: Body, sink: Sink) -> None:
        await sink.start(200, [(b"content-type", b"text/event-stream")])
        await sink.write(b"begun")
        await body.read(100)

    entrance = Entrance(early)
    async with running(entrance.application(), "uvicorn") as server:
        reader, writer = await server.send(CHUNKED)
        await read_head(reader)
        assert await reader.readexactly(10) == b"5\r\nbegun\r\n"
        writer.write(BROKEN)
        assert b"HTTP/1.1 400" not in await asyncio.wait_for(_rest(reader), 5)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_the_rest_of_an_unwanted_body_gets_no_second_reply() -> None:
    async def refuse(head: Head, body: Body, sink: Sink) -> None:
        raise GatewayError(401, "invalid_api_key", "No.")

    announced = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
    async with running(Entrance(refuse).application(), "uvicorn") as server:
        reader, writer = await server.send(announced)
        assert (await read_reply(reader))[0] == 401
        writer.write(b"12345rubbish\r\n\r\n")
        assert await asyncio.wait_for(_rest(reader), 5) == b""


async def test_who_has_shut_its_side_down_and_waits_too_long_has_left() -> None:
    async def wait(head: Head, body: Body, sink: Sink) -> None:
        if head.path == "/v1/slow":
            left = asyncio.Event()
            sink.on_gone = left.set
            await left.wait()
        else:
            await reply(sink, b"ok")

    async with running(Entrance(wait).application(), "uvicorn") as server:
        reader, writer = await server.send(GET)
        writer.write_eof()
        assert (await read_reply(reader))[2] == b"ok"
        assert await asyncio.wait_for(_rest(reader), 5) == b""
        reader, writer = await server.send(GET.replace(b"/x", b"/slow"))
        writer.write_eof()
        assert await asyncio.wait_for(_rest(reader), 5) == b""
