"""Clients that take nothing of their reply, and what a finished call leaves behind."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from llmgw_server.uvicorn_calls import CallCycle

from .conftest import PLAIN, Entrance, read_reply, reply, running

if TYPE_CHECKING:
    from llmgw_core.domain.call import Body, Head, Sink

GET = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("kind", ["hypercorn", "uvicorn", PLAIN])
async def test_a_client_that_takes_nothing_of_its_stream_is_given_up(kind: str) -> None:
    ended = asyncio.Event()

    async def endless(head: Head, body: Body, sink: Sink) -> None:
        task = asyncio.current_task()
        assert task is not None
        sink.on_gone = task.cancel  # type: ignore[assignment]
        try:
            await body.read(1000)
            await sink.start(200, [(b"content-type", b"text/event-stream")])
            while True:
                await sink.write(b"x" * 65536)
                await asyncio.sleep(0)  # writes to nobody do not suspend
        finally:
            assert sink.gone
            ended.set()

    application = Entrance(endless, write_seconds=0.5).application()
    async with running(application, kind) as server:
        _, writer = await server.connect()
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        writer.write(GET)
        await asyncio.wait_for(ended.wait(), 20)
        transport.abort()


@pytest.mark.parametrize("kind", ["hypercorn", "uvicorn"])
@pytest.mark.parametrize("last", [False, True], ids=["kept", "closing"])
async def test_a_client_that_takes_nothing_of_a_complete_reply_is_given_up(
    kind: str, *, last: bool
) -> None:

    ended = asyncio.Event()
    sinks: list[Sink] = []

    async def large(head: Head, body: Body, sink: Sink) -> None:
        sinks.append(sink)
        try:
            await body.read(1000)
            await reply(sink, b"x" * 32 * 1024 * 1024)
        finally:
            ended.set()

    def connected() -> bool:
        [sink] = sinks
        return isinstance(sink, CallCycle) and sink.protocol in sink.protocol.connections

    async with running(
        Entrance(large, keep_alive_seconds=1.0, write_seconds=0.5).application(), kind
    ) as server:
        _, writer = await server.connect()
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") if last else GET)
        await asyncio.wait_for(ended.wait(), 20)
        for _ in range(200):
            if not connected():
                break
            await asyncio.sleep(0.05)
        assert not connected()
        transport.abort()


@pytest.mark.parametrize("kind", ["hypercorn", "uvicorn", PLAIN])
@pytest.mark.parametrize("whole", [False, True], ids=["stream", "complete"])
async def test_a_client_that_is_slow_and_reads_is_not_given_up(kind: str, *, whole: bool) -> None:
    """It takes several times `write_seconds` for what the server wants to write at once."""
    body = b"x" * 16 * 1024 * 1024

    async def large(head: Head, body_: Body, sink: Sink) -> None:
        await body_.read(1000)
        if whole:
            await reply(sink, body)
            return
        await sink.start(200, [(b"content-type", b"text/event-stream")])
        for start in range(0, len(body), 262144):
            await sink.write(body[start : start + 262144])
        await sink.finish()

    application = Entrance(large, write_seconds=0.4).application()
    async with running(application, kind) as server:
        reader, writer = await server.connect(limit=65536)
        writer.write(GET)
        received, begun = 0, asyncio.get_running_loop().time()
        while received < len(body):
            received += len(await reader.read(1024 * 1024))
            if asyncio.get_running_loop().time() - begun < 1.5:
                await asyncio.sleep(0.05)
        assert received >= len(body)


async def test_a_call_is_no_reference_cycle() -> None:
    async def hello(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, b"hello")

    async with running(Entrance(hello).application(), "uvicorn") as server:
        reader, writer = await server.connect()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                writer.write(GET)
                await read_reply(reader)
            alive = sum(isinstance(thing, CallCycle) for thing in gc.get_objects())
        finally:
            gc.enable()
    assert alive <= 2  # the connection knows its last one
