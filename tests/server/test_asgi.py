"""The adapter over real sockets, on both servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from llmgw_core.domain.call import ClientGone
from llmgw_core.domain.errors import GatewayError

from .conftest import PLAIN, Entrance, read_head, read_reply, reply, running, watchers

if TYPE_CHECKING:
    from llmgw_core.domain.call import Body, Head, Sink


@pytest.fixture(params=["hypercorn", "uvicorn", PLAIN])
def kind(request: pytest.FixtureRequest) -> str:
    """Also uvicorn as any ASGI server, without our way around ASGI."""
    return cast("str", request.param)


def post(body: bytes, path: str = "/v1/x", extra: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: a\r\n{extra}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )


def void(_value: object) -> None:
    """For callbacks that must return nothing."""


async def echo(head: Head, body: Body, sink: Sink) -> None:
    await reply(sink, await body.read(1 << 30))


class Forever:
    """Answers nothing (or a stream without end) until the client leaves."""

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.begun = asyncio.Event()
        self.sink: Sink | None = None

    async def __call__(self, head: Head, body: Body, sink: Sink) -> None:
        await body.read(1 << 20)
        self.sink = sink
        gone = asyncio.Event()
        sink.on_gone = gone.set
        if self.stream:
            await sink.start(200, [(b"content-type", b"text/event-stream")])
            await sink.write(b"data: 1\n\n")
        self.begun.set()
        await gone.wait()
        await sink.write(b"unheard")
        await sink.finish(b"unheard")


async def test_a_body_in_any_number_of_pieces_arrives_whole(kind: str) -> None:
    entrance = Entrance(echo)
    async with running(entrance.application(), kind) as server:
        assert (await server.exchange(post(b"hello")))[2] == b"hello"
        assert (await server.exchange(post(b"")))[2] == b""
        reader, writer = await server.send(
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for piece in (b"ab", b"c", b"def"):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        assert (await read_reply(reader))[2] == b"abcdef"
        big = bytes(range(256)) * 8192
        assert (await server.exchange(post(big)))[2] == big


async def test_the_head_reaches_the_core_as_it_was(kind: str) -> None:
    heads: list[Head] = []

    async def keep(head: Head, body: Body, sink: Sink) -> None:
        heads.append(head)
        await reply(sink, b"ok")

    async with running(Entrance(keep).application(), kind) as server:
        await server.exchange(
            b"GET /v1/models/a%2Fb?x=1&y=2 HTTP/1.1\r\nHost: a\r\nX-Thing: One\r\n\r\n"
        )
    [head] = heads
    assert (head.method, head.path, head.query) == ("GET", "/v1/models/a/b", b"x=1&y=2")
    assert head.get(b"x-thing") == b"One"
    assert head.client == "127.0.0.1"


async def test_an_announced_length_beyond_the_cap_is_refused_before_the_body_is_sent(
    kind: str,
) -> None:
    async def small(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100)

    async with running(Entrance(small).application(), kind) as server:
        status, headers, text = await server.exchange(
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 101\r\n\r\n"
        )
    assert status == 413
    assert b"request_too_large" in text
    assert headers["x-should-retry"] == "false"


async def test_a_body_that_grows_beyond_the_cap_is_refused_and_its_sender_hears_it(
    kind: str,
) -> None:
    async def small(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100_000)

    async with running(Entrance(small).application(), kind) as server:
        reader, writer = await server.send(
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(64):
            writer.write(b"10000\r\n%b\r\n" % bytes(0x10000))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        status, headers, _ = await read_reply(reader)
        assert status == 413
        assert headers["connection"] == "close"
        assert await reader.read() == b""


async def test_a_refusal_before_the_body_is_heard_by_a_client_that_still_sends(kind: str) -> None:
    async def refuse(head: Head, body: Body, sink: Sink) -> None:
        raise GatewayError(401, "invalid_api_key", "No.")

    async with running(Entrance(refuse).application(), kind) as server:
        reader, writer = await server.send(
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 8388608\r\n\r\n"
        )
        for _ in range(128):
            writer.write(bytes(65536))
            await writer.drain()
        status, headers, _ = await read_reply(reader)
        assert status == 401
        assert headers["connection"] == "close"
        assert await reader.read() == b""
        # A small body is not worth the connection.
        reader, writer = await server.send(post(b"tiny"))
        assert (await read_reply(reader))[0] == 401
        writer.write(post(b"tiny"))
        assert (await read_reply(reader))[0] == 401


async def test_a_small_body_may_come_after_its_refusal_and_the_next_request_after_it(
    kind: str,
) -> None:
    """Many clients send head and body in two writes, and keep the connection for the next."""

    async def refuse(head: Head, body: Body, sink: Sink) -> None:
        raise GatewayError(401, "invalid_api_key", "No.")

    async with running(Entrance(refuse).application(), kind) as server:
        request = post(b"tiny")
        reader, writer = await server.send(request.removesuffix(b"tiny"))
        for _ in range(3):
            status, headers, _ = await read_reply(reader)
            assert status == 401
            assert "connection" not in headers
            writer.write(b"tiny")
            await writer.drain()
            writer.write(request.removesuffix(b"tiny"))


async def test_a_body_that_does_not_come_is_a_408_and_ends_the_connection(kind: str) -> None:
    entrance = Entrance(echo, body_seconds=0.1)
    async with running(entrance.application(), kind) as server:
        reader, _ = await server.send(
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc"
        )
        status, headers, text = await read_reply(reader)
        assert status == 408
        assert b"request_timeout" in text
        assert headers["connection"] == "close"
        assert await reader.read() == b""
    failure = await entrance.ended.get()
    assert isinstance(failure, GatewayError)


async def test_a_client_that_leaves_before_its_body_is_complete_is_gone(kind: str) -> None:
    reading = asyncio.Event()

    async def read(head: Head, body: Body, sink: Sink) -> None:
        reading.set()
        await body.read(1000)

    entrance = Entrance(read)
    async with running(entrance.application(), kind) as server:
        _, writer = await server.send(
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc"
        )
        await reading.wait()
        writer.close()
        assert isinstance(await entrance.ended.get(), ClientGone)


@pytest.mark.parametrize("size", [2, 200_000], ids=["short", "long"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "complete reply"])
async def test_a_client_that_leaves_a_long_call_is_noticed_and_writes_become_silent(
    kind: str, stream: bool, size: int
) -> None:
    call = Forever(stream=stream)
    entrance = Entrance(call)
    async with running(entrance.application(), kind) as server:
        _, writer = await server.send(post(b"x" * size))
        await call.begun.wait()
        writer.close()
        assert await asyncio.wait_for(entrance.ended.get(), 10) is None
        assert call.sink is not None
        assert call.sink.gone
    assert watchers() == []


async def test_a_call_that_its_owner_cancels_when_the_client_left_ends_quietly(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def cancelled(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100)
        task = asyncio.current_task()
        assert task is not None
        sink.on_gone = lambda: void(task.cancel())
        await sink.start(200, [])
        await sink.write(b"x")
        begun.set()
        await asyncio.Event().wait()

    entrance = Entrance(cancelled)
    async with running(entrance.application(), kind) as server:
        _, writer = await server.send(post(b"{}"))
        await begun.wait()
        writer.close()
        assert isinstance(await entrance.ended.get(), asyncio.CancelledError)
    assert watchers() == []
    assert caplog.records == []


async def test_a_stream_arrives_chunk_by_chunk_and_the_connection_stays(kind: str) -> None:
    step = asyncio.Event()

    async def stream(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100)
        await sink.start(200, [(b"content-type", b"text/event-stream")])
        await sink.write(b"one")
        await step.wait()
        await sink.finish(b"two")
        assert not sink.gone

    entrance = Entrance(stream)
    async with running(entrance.application(), kind) as server:
        reader, writer = await server.send(post(b"{}"))
        status, headers = await read_head(reader)
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert await reader.readexactly(8) == b"3\r\none\r\n"
        step.set()
        assert await reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"
        writer.write(post(b"{}"))
        assert (await read_reply(reader))[2] == b"onetwo"
        await entrance.ended.get()
        await entrance.ended.get()
    assert watchers() == []


async def test_a_prompt_complete_reply_costs_no_task(kind: str) -> None:
    seen: list[int] = []

    async def prompt(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100)
        seen.append(len(watchers()))
        await reply(sink, b"ok")
        seen.append(len(watchers()))

    async with running(Entrance(prompt).application(), kind) as server:
        await server.exchange(post(b"{}"))
    assert seen == [0, 0]
