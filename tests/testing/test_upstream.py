"""The scriptable upstream does what its script says and reports what it saw."""

from __future__ import annotations

import asyncio

import pytest

from llmgw_core.testing.upstream import (
    Peer,
    Upstream,
    chunk,
    chunked_head,
    http_reply,
    repeating,
)

CHUNKED_REQUEST = (
    b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2;ext=1\r\nab\r\n3\r\ncde\r\n0\r\ntrailer: x\r\n\r\n"
)


async def test_requests_are_recorded_byte_for_byte() -> None:
    async with Upstream(repeating(http_reply(200, b"one"), http_reply(404, b"two"))) as upstream:
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(CHUNKED_REQUEST)
        assert await reader.readuntil(b"one") == http_reply(200, b"one")
        for _ in range(2):
            writer.write(b"GET /y HTTP/1.1\r\n\r\n")
            assert await reader.readuntil(b"two") == http_reply(404, b"two")
        writer.close()
        await writer.wait_closed()
    first, second, _ = upstream.requests
    assert (first.method, first.target, first.body) == ("POST", "/x", b"abcde")
    assert first.header(b"host") == b"h"
    assert first.header(b"missing") is None
    assert first.head == CHUNKED_REQUEST[: CHUNKED_REQUEST.index(b"2;ext")]
    assert (second.connection, second.body, upstream.accepted) == (0, b"", 1)


async def test_a_failed_assertion_of_the_script_is_raised_at_the_end() -> None:
    async def script(peer: Peer) -> None:
        raise AssertionError("the script's own")

    async def talk() -> None:
        async with Upstream(script) as upstream:
            reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
            assert await reader.read() == b""
            writer.close()
            await upstream.until(lambda: upstream.open == 0)

    with pytest.raises(AssertionError, match="the script's own"):
        await talk()


async def test_a_script_that_still_runs_is_stopped_at_the_end() -> None:
    async with Upstream(Peer.stall) as upstream:
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        await upstream.until(lambda: upstream.open == 1)
    assert upstream.open == 0
    assert await reader.read() == b""
    writer.close()


async def test_a_reset_is_a_reset_and_a_cut_is_an_end() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.trickle(chunked_head(headers=[(b"a", b"b")]) + chunk(b"xyz"))
        if peer.number:
            peer.reset()
        else:
            assert peer.buffered() == 0
            peer.cut()

    async with Upstream(script) as upstream:
        for hard in (False, True):
            reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.readuntil(b"xyz\r\n")).endswith(b"a: b\r\n\r\n3\r\nxyz\r\n")
            if hard:
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            else:
                assert await reader.read() == b""
            writer.close()


async def test_a_script_waits_for_a_reader_that_does_not_read() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"x" * (64 << 20))

    async with Upstream(script) as upstream:
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        await upstream.until(lambda: upstream.open == 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert upstream.open == 1
        size = 0
        while data := await reader.read(1 << 20):
            size += len(data)
        assert size == 64 << 20
        writer.close()
