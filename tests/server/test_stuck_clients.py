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
async def test_a_client_that_takes_nothing_of_its_stream_is_given_up(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgw_server.asgi.WRITE_SECONDS", 0.5)
    monkeypatch.setattr("llmgw_server.uvicorn_calls.WRITE_SECONDS", 0.5)
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

    async with running(Entrance(endless).application(), kind) as server:
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
    kind: str, *, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgw_server.asgi.WRITE_SECONDS", 0.5)
    monkeypatch.setattr("llmgw_server.hypercorn_server.WRITE_SECONDS", 0.5)
    monkeypatch.setattr("llmgw_server.uvicorn_endings.WRITE_SECONDS", 0.5)

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

    async with running(Entrance(large, keep_alive_seconds=1.0).application(), kind) as server:
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
