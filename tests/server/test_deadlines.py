"""Heads, bodies, idle connections, their number and size: every one has an end on both servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema import TlsConfig

from .conftest import Authority, Entrance, Running, read_head, read_reply, reply, running

if TYPE_CHECKING:
    from llmgw_core.domain.call import Body, Head, Sink

GET = b"GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n"
HALF = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf"
SOON = 0.2
"""A deadline of a test; what must not end has one that no test reaches."""
NEVER = 600.0


async def ok(head: Head, body: Body, sink: Sink) -> None:
    await body.read(1000)
    await reply(sink, b"ok")


async def dribble(writer: asyncio.StreamWriter) -> None:
    """Byte by byte, for ever."""
    writer.write(b"GET /v1/x HTTP/1.1\r\nx: ")
    while True:
        await asyncio.sleep(0.01)
        writer.write(b"a")


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the connection ends."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("beginning", [b"", b"GET /v1/x HTTP/1.1\r\nhost"])
async def test_half_a_head_ends_within_its_deadline(kind: str, beginning: bytes) -> None:
    entrance = Entrance(ok, head_seconds=SOON, keep_alive_seconds=NEVER)
    async with running(entrance.application(), kind) as server:
        reader, _ = await server.send(beginning)
        assert await ends(reader) == b""


@pytest.mark.parametrize("first", [True, False])
async def test_a_head_that_dribbles_in_ends_within_its_deadline(kind: str, first: bool) -> None:
    entrance = Entrance(ok, head_seconds=SOON, keep_alive_seconds=NEVER)
    async with running(entrance.application(), kind) as server:
        reader, writer = await server.connect()
        if not first:
            writer.write(GET)
            await read_reply(reader)
        dribbling = asyncio.create_task(dribble(writer))
        assert await ends(reader) == b""
        dribbling.cancel()


async def test_half_a_body_ends_within_its_deadline(kind: str) -> None:
    entrance = Entrance(ok, body_seconds=SOON)
    async with running(entrance.application(), kind) as server:
        reader, _ = await server.send(HALF)
        status, headers, body = await read_reply(reader)
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["error"]["code"] == "request_timeout"
        assert await ends(reader) == b""


async def test_a_connection_with_nothing_to_do_ends_and_a_busy_one_does_not(kind: str) -> None:
    go_on = asyncio.Event()

    async def slow(head: Head, body: Body, sink: Sink) -> None:
        await body.read(1000)
        await sink.start(200, [(b"content-type", b"text/event-stream")])
        await sink.write(b"begun")
        await go_on.wait()
        await sink.finish(b"ended")

    entrance = Entrance(slow, head_seconds=SOON, keep_alive_seconds=SOON)
    async with running(entrance.application(), kind) as server:
        reader, _ = await server.send(GET)
        await read_head(reader)
        idle, _ = await server.connect()
        assert await ends(idle) == b""  # so the time is over for both
        go_on.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).count(b"ended") == 1
        assert await ends(reader) == b""


async def test_between_requests_a_connection_may_rest_longer_than_a_head(kind: str) -> None:
    entrance = Entrance(ok, head_seconds=SOON, keep_alive_seconds=NEVER)
    async with running(entrance.application(), kind) as server:
        reader, writer = await server.send(GET)
        await read_reply(reader)
        half, _ = await server.send(b"GET")
        assert await ends(half) == b""
        writer.write(GET)
        assert (await read_reply(reader))[2] == b"ok"


async def test_a_handshake_that_does_not_come_ends(kind: str, authority: Authority) -> None:
    certificate, key = authority.issue("server")
    entrance = Entrance(ok, port=0, head_seconds=SOON, tls=TlsConfig(certificate, key))
    async with running(entrance.application(), kind, configured=True) as server:
        reader, _ = await server.connect()
        assert await ends(reader) == b""


async def test_half_a_handshake_does_not_hold_up_the_end(kind: str, authority: Authority) -> None:
    certificate, key = authority.issue("server")
    tls = TlsConfig(certificate, key)
    entrance = Entrance(ok, port=0, head_seconds=NEVER, tls=tls)
    async with running(
        entrance.application(), kind, configured=True, drain_seconds=NEVER
    ) as server:
        reader, _ = await server.connect()
        made, _ = await server.connect(ssl=authority.trusting())
        server.stop.set()
        assert await ends(reader) == b""
        assert await ends(made) == b""


# ------------------------------------------------------------------------ sizes


@pytest.mark.parametrize("path", ["/v1/x", "/health/live"])
async def test_a_head_may_be_as_large_as_it_may_be_and_no_larger(kind: str, path: str) -> None:
    entrance = Entrance(ok, head_bytes=4096)
    async with running(entrance.application(), kind) as server:
        for size, statuses in ((3800, {200}), (4200, {431}), (40_000, {431})):
            raw = f"GET {path} HTTP/1.1\r\nhost: a\r\nx: {'y' * size}\r\n\r\n"
            reader, _ = await server.send(raw.encode())
            status, headers, body = await read_reply(reader)
            assert status in statuses
            if status == 431 and body:
                error = json.loads(body)["error"]
                assert error["code"] == "request_head_too_large"
                assert error["request_id"] == headers["x-request-id"]


async def test_many_small_headers_are_one_large_head(kind: str) -> None:
    entrance = Entrance(ok, head_bytes=4096)
    async with running(entrance.application(), kind) as server:
        fields = "".join(f"x-{number}: y\r\n" for number in range(1000))
        reader, _ = await server.send(f"GET /v1/x HTTP/1.1\r\nhost: a\r\n{fields}\r\n".encode())
        assert (await read_reply(reader))[0] == 431


# ------------------------------------------------------------------------ number


async def test_one_connection_too_many_hears_503_and_the_others_go_on(kind: str) -> None:
    entrance = Entrance(ok, max_connections=2)
    async with running(entrance.application(), kind) as server:
        held = [await server.send(GET) for _ in range(2)]
        for reader, _ in held:
            await read_reply(reader)
        for _ in range(3):
            refused, _ = await server.send(GET)
            status, headers, body = await read_reply(refused)
            assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
            error = json.loads(body)["error"]
            assert error["code"] == "too_many_connections"
            assert error["request_id"] == headers["x-request-id"]
            assert await ends(refused) == b""
        held[0][1].write(GET)
        assert (await read_reply(held[0][0]))[2] == b"ok"
        held[1][1].close()
        async with asyncio.timeout(10):
            while (await answered(server)) != 200:  # noqa: ASYNC110 -- clients ask again
                await asyncio.sleep(0.01)


async def test_connections_that_come_all_at_once_are_no_more_than_may_be(kind: str) -> None:
    async with running(Entrance(ok, max_connections=2).application(), kind) as server:
        with contextlib.ExitStack() as stack:
            clients = [
                # Without giving the loop its turn, so that all of them lie ready to be accepted.
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                for _ in range(6)
            ]
            for client in clients:
                client.send(GET)
                client.setblocking(False)
            loop = asyncio.get_running_loop()
            statuses = [(await loop.sock_recv(client, 100))[9:12] for client in clients]
    assert statuses == [b"200"] * 2 + [b"503"] * 4


async def answered(server: Running) -> int:
    reader, writer = await server.send(GET)
    try:
        return (await read_reply(reader))[0]
    finally:
        writer.close()


async def test_a_handshake_counts_as_a_connection_and_beyond_there_is_none(
    kind: str, authority: Authority
) -> None:
    certificate, key = authority.issue("server")
    entrance = Entrance(ok, port=0, max_connections=1, tls=TlsConfig(certificate, key))
    async with running(entrance.application(), kind, configured=True) as server:
        first, writer = await server.connect()
        second, _ = await server.connect()
        assert await ends(second) == b""
        writer.close()
        assert await ends(first) == b""
        async with asyncio.timeout(10):
            while True:
                try:
                    answer = await server.exchange(GET, ssl=authority.trusting())
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    break
        assert answer[2] == b"ok"


async def test_when_there_are_no_file_descriptors_left_it_waits_and_says_so_once(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmgw_server.accepting.PAUSE_SECONDS", 0.01)
    caplog.set_level(logging.WARNING, "llmgw_server.accepting")
    import errno
    import socket

    accept, failures = socket.socket.accept, [errno.EMFILE, errno.EMFILE, errno.EPROTO]

    def short(self: socket.socket) -> object:
        if failures:
            raise OSError(failures.pop(0), "no more")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", short)
    async with running(Entrance(ok).application(), kind) as server:
        assert (await server.exchange(GET))[2] == b"ok"
    assert caplog.text.count("No connection can be accepted: no more.") == 1
    assert caplog.text.count("A connection could not be accepted: no more.") == 1
