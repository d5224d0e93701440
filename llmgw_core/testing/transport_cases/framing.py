"""Cases about heads and bodies: every legal way to frame a reply, and the illegal ones."""
# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llmgw_core.backends.transport.port import HttpRequest, Transport
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.transport_cases.base import (
    PATIENT,
    Setup,
    TransportCases,
    failure,
    fetch,
    get,
    origin_of,
    post,
)
from llmgw_core.testing.upstream import (
    Peer,
    Upstream,
    chunk,
    chunked_head,
    http_reply,
    repeating,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHUNKED = chunked_head() + chunk(b"hello ") + chunk(b"wor") + chunk(b"ld") + chunk(b"")
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"

BROKEN_HEADS = {
    "not http": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n",
    "an upgrade nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\n"
    b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
}


def once(data: bytes) -> Callable[[Peer], Awaitable[None]]:
    """A script: one request, `data`, end of the connection."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)

    return script


class FramingCases(TransportCases):
    """Bytes of requests and replies."""

    async def test_a_request_carries_exactly_what_was_asked_for(self, transport: Transport) -> None:
        async with Upstream(repeating(http_reply(200))) as upstream:
            origin = origin_of(upstream)
            await fetch(transport, origin, post(b'{"a": 1}', "/v1/x?y=%20z"))
            await fetch(transport, origin, HttpRequest("POST", "/", ()))
            await fetch(transport, origin, get())
        first, empty, plain = upstream.requests
        host = b"127.0.0.1:%d" % upstream.port
        common = {(b"host", host), (b"accept-encoding", b"identity")}
        assert (first.method, first.target, first.body) == ("POST", "/v1/x?y=%20z", b'{"a": 1}')
        assert sorted(first.headers) == sorted(
            common | {(b"content-length", b"8"), (b"content-type", b"application/json")}
        )
        assert sorted(empty.headers) == sorted(common | {(b"content-length", b"0")})
        assert sorted(plain.headers) == sorted(common)

    async def test_status_and_headers_of_the_reply_are_given(self, transport: Transport) -> None:
        reply = b"HTTP/1.1 418 Teapot\r\nX-A:  1 \r\nx-a: 2\r\nx-e:\r\ncontent-length: 1\r\n\r\n!"
        async with Upstream(once(reply)) as upstream:
            answer = await transport.send(origin_of(upstream), get(), PATIENT)
            assert answer.status == 418
            assert answer.headers[:3] == ((b"x-a", b"1"), (b"x-a", b"2"), (b"x-e", b""))
            assert await answer.read(10) == b"!"
            assert await answer.read(10) == b""
            assert await answer.chunk() == b""

    @pytest.mark.parametrize("data", [CHUNKED, http_reply(200, b"hello world")])
    async def test_a_reply_split_anywhere_is_the_same_reply(
        self, transport: Transport, data: bytes
    ) -> None:
        data = INTERIM + data

        async def script(peer: Peer) -> None:
            for cut in range(1, len(data)):
                await peer.request()
                await peer.send(data[:cut])
                await asyncio.sleep(0)
                await peer.send(data[cut:])

        async with Upstream(script) as upstream:
            for _ in range(1, len(data)):
                assert await fetch(transport, origin_of(upstream), post()) == b"hello world"
        assert upstream.accepted == 1

    async def test_a_reply_may_come_byte_by_byte(self, transport: Transport) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.trickle(INTERIM + CHUNKED)

        async with Upstream(script) as upstream:
            reply = await transport.send(origin_of(upstream), get(), PATIENT)
            body = b""
            while data := await reply.chunk():
                body += data
            assert body == b"hello world"

    async def test_chunks_are_handed_out_as_they_come(self, transport: Transport) -> None:
        told = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked_head() + chunk(b"one"))
            await told.wait()
            await peer.send(chunk(b"two") + chunk(b""))
            await peer.gone()

        async with Upstream(script) as upstream:
            reply = await transport.send(origin_of(upstream), get(), PATIENT)
            assert await reply.chunk() == b"one"
            told.set()
            assert await reply.chunk() == b"two"
            assert await reply.chunk() == b""
            assert await reply.chunk() == b""
            self.check_pool(transport, origin_of(upstream), idle=1)

    async def test_a_body_may_end_with_the_connection(self, transport: Transport) -> None:
        async with Upstream(once(b"HTTP/1.1 200 OK\r\n\r\nto the end")) as upstream:
            assert await fetch(transport, origin_of(upstream), get()) == b"to the end"
            self.check_pool(transport, origin_of(upstream), idle=0)

    @pytest.mark.parametrize("status", [204, 304])
    async def test_these_statuses_have_no_body(self, transport: Transport, status: int) -> None:
        head = b"HTTP/1.1 %d Status\r\n\r\n" % status
        async with Upstream(repeating(head)) as upstream:
            for _ in range(2):
                assert await fetch(transport, origin_of(upstream), get()) == b""
        assert upstream.accepted == 1

    async def test_a_reply_to_head_has_no_body_whatever_it_says(self, transport: Transport) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
        async with Upstream(repeating(head, head, http_reply(200, b"body"))) as upstream:
            origin = origin_of(upstream)
            assert await fetch(transport, origin, HttpRequest("HEAD", "/", ())) == b""
            assert await fetch(transport, origin, HttpRequest("HEAD", "/", ())) == b""
            assert await fetch(transport, origin, get()) == b"body"
        assert upstream.accepted == 1

    async def test_trailers_are_read_and_dropped(self, transport: Transport) -> None:
        data = chunked_head() + chunk(b"x") + b"0\r\na: b\r\nc: d\r\n\r\n"
        async with Upstream(repeating(data)) as upstream:
            for _ in range(2):
                assert await fetch(transport, origin_of(upstream), get()) == b"x"
        assert upstream.accepted == 1

    @pytest.mark.parametrize("name", BROKEN_HEADS)
    async def test_a_broken_head_is_a_protocol_error(self, transport: Transport, name: str) -> None:
        async with Upstream(once(BROKEN_HEADS[name])) as upstream:
            error = await failure(fetch(transport, origin_of(upstream), post()))
            assert (error.kind, error.received) == ("protocol", True)
            self.check_pool(transport, origin_of(upstream), idle=0)

    @pytest.mark.parametrize("framing", [b"zz\r\nx\r\n", b"-1\r\nx\r\n", b"1\r\nxy\r\n0\r\n\r\n"])
    async def test_broken_chunks_are_a_protocol_error(
        self, transport: Transport, framing: bytes
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked_head() + chunk(b"good"))
            await peer.stall()
            await peer.send(framing)
            await peer.gone()

        async with Upstream(script) as upstream:
            timeouts = PATIENT if self.notices_broken_chunks else Timeouts(idle=0.1)
            reply = await transport.send(origin_of(upstream), get(), timeouts)
            assert await reply.chunk() == b"good"
            upstream.release()
            error = await failure(reply.read(100))
            assert error.kind == ("protocol" if self.notices_broken_chunks else "timeout")
            assert error.phase == "body"
            self.check_pool(transport, origin_of(upstream), idle=0)

    @pytest.mark.parametrize(
        "start",
        [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart", chunked_head() + b"9\r\npart"],
    )
    @pytest.mark.parametrize("hard", [False, True])
    async def test_a_cut_body_is_a_reset_after_what_came(
        self, transport: Transport, start: bytes, hard: bool
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(start)
            await peer.stall()
            if hard:
                peer.reset()
            else:
                peer.cut()

        async with Upstream(script) as upstream:
            reply = await transport.send(origin_of(upstream), get(), PATIENT)
            assert await reply.chunk() == b"part"
            upstream.release()
            error = await failure(reply.chunk())
            assert (error.kind, error.phase, error.received) == ("reset", "body", True)
            again = await failure(reply.chunk())
            assert (again.kind, again.phase) == ("reset", "body")
            reply.abort()
            self.check_pool(transport, origin_of(upstream), idle=0)

    async def test_a_long_head_within_the_cap_is_accepted(self, transport: Transport) -> None:
        async with Upstream(once(http_reply(200, b"x", [(b"a", b"v" * 60000)]))) as upstream:
            assert await fetch(transport, origin_of(upstream), get()) == b"x"

    @pytest.mark.parametrize("complete", [False, True])
    async def test_a_head_beyond_the_cap_is_too_large(self, complete: bool) -> None:
        transport = self.make_transport(Setup(max_head=2000))
        data = http_reply(200, b"x", [(b"a", b"v" * 3000)])
        async with Upstream(once(data if complete else data[:2500])) as upstream:
            error = await failure(transport.send(origin_of(upstream), post(), PATIENT))
            assert (error.kind, error.phase) == ("too_large", "head")
            self.check_pool(transport, origin_of(upstream), idle=0)
            await transport.aclose()

    async def test_many_lines_do_not_get_round_the_cap(self) -> None:
        transport = self.make_transport(Setup(max_head=2000))
        for lines in (100, 300):
            data = http_reply(200, b"x", [(b"a", b"v" * (9000 // lines))] * lines)
            async with Upstream(once(data)) as upstream:
                if lines == 100 and not self.caps_whole_head:
                    assert await fetch(transport, origin_of(upstream), post()) == b"x"
                    continue
                error = await failure(transport.send(origin_of(upstream), post(), PATIENT))
                assert error.phase == "head"
                assert error.kind == ("too_large" if self.caps_whole_head else "protocol")
        await transport.aclose()

    @pytest.mark.parametrize(
        "request_",
        [
            HttpRequest("GET", "/a b", ()),
            HttpRequest("GET", "/\r\nx: y", ()),
            HttpRequest("GET", "/\0", ()),
            HttpRequest("GET", "relative", ()),
            HttpRequest("GE T", "/", ()),
            HttpRequest("GET", "/", ((b"a", b"b\r\nc: d"),)),
            HttpRequest("GET", "/", ((b"a", b"b\nc"),)),
            HttpRequest("GET", "/", ((b"a", b"b\rc"),)),
            HttpRequest("GET", "/", ((b"a", b"b\0c"),)),
            HttpRequest("GET", "/", ((b"a\r\nb", b"c"),)),
            HttpRequest("GET", "/", ((b"a b", b"c"),)),
            HttpRequest("GET", "/", ((b"", b"c"),)),
            HttpRequest("GET", "/", ((b"Upper", b"c"),)),
            HttpRequest("GET", "/", ((b"host", b"c"),)),
            HttpRequest("GET", "/", ((b"content-length", b"0"),)),
            HttpRequest("GET", "/", ((b"transfer-encoding", b"chunked"),)),
        ],
    )
    async def test_a_request_that_could_forge_another_is_refused_unsent(
        self, transport: Transport, request_: HttpRequest
    ) -> None:
        async with Upstream(once(b"")) as upstream:
            error = await failure(transport.send(origin_of(upstream), request_, PATIENT))
            assert (error.kind, error.phase) == ("protocol", "connect")
        assert upstream.accepted == 0
