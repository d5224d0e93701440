"""Cases about time, pressure and giving up."""
# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.transport_cases.base import (
    PATIENT,
    TransportCases,
    failure,
    fetch,
    get,
    origin_of,
    post,
    turns,
)
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply, repeating

if TYPE_CHECKING:
    from llmgw_core.backends.transport.port import Transport

LARGE = b"0123456789abcdef" * (8 * 65536)


async def endless(peer: Peer) -> None:
    """A script: a head, one piece, nothing more."""
    await peer.request()
    await peer.send(chunked_head() + chunk(b"x"))
    await peer.gone()


class FlowCases(TransportCases):
    """Deadlines, backpressure, early replies, abort."""

    async def test_a_silent_upstream_times_out_before_the_head(self, transport: Transport) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.gone()

        async with Upstream(script) as upstream:
            origin = origin_of(upstream)
            for timeouts in (Timeouts(first_byte=0.05), Timeouts(total=0.5)):
                error = await failure(transport.send(origin, post(), timeouts))
                assert (error.kind, error.phase) == ("timeout", "head")
            self.check_pool(transport, origin, idle=0)
            await upstream.until(lambda: upstream.open == 0)

    async def test_a_handshake_that_stalls_times_out(self, transport: Transport) -> None:
        async with Upstream(Peer.gone) as upstream:
            origin = origin_of(upstream, ca_file="")
            error = await failure(transport.send(origin, post(), Timeouts(connect=0.1)))
            assert (error.kind, error.phase) == ("timeout", "connect")
            self.check_pool(transport, origin, idle=0)

    async def test_an_upstream_that_does_not_read_times_out_while_sending(
        self, transport: Transport
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.stall()

        async with Upstream(script) as upstream:
            timeouts = Timeouts(total=0.5)
            error = await failure(transport.send(origin_of(upstream), post(LARGE * 4), timeouts))
            assert error.kind == "timeout"
            assert error.phase in {"send", "head"}
            upstream.release()

    async def test_a_body_that_stops_times_out(self, transport: Transport) -> None:
        async with Upstream(endless) as upstream:
            reply = await transport.send(origin_of(upstream), get(), Timeouts(idle=0.05))
            assert await reply.chunk() == b"x"
            error = await failure(reply.chunk())
            assert (error.kind, error.phase) == ("timeout", "body")
            await upstream.until(lambda: upstream.open == 0)

    @pytest.mark.parametrize("whole", [True, False])
    async def test_the_total_time_holds_for_whole_bodies_and_not_for_streams(
        self, transport: Transport, whole: bool
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked_head())
            for _ in range(8):
                await peer.send(chunk(b"x"))
                await asyncio.sleep(0.1)
            await peer.send(chunk(b""))
            await peer.gone()

        async with Upstream(script) as upstream:
            timeouts = Timeouts(total=0.5, idle=10.0)
            reply = await transport.send(origin_of(upstream), get(), timeouts)
            if whole:
                error = await failure(reply.read(1000))
                assert (error.kind, error.phase) == ("timeout", "body")
            else:
                body = b""
                while data := await reply.chunk():
                    body += data
                assert body == b"x" * 8

    async def test_a_body_larger_than_wanted_is_refused(self, transport: Transport) -> None:
        async with Upstream(repeating(http_reply(200, b"12345"))) as upstream:
            origin = origin_of(upstream)
            reply = await transport.send(origin, get(), PATIENT)
            error = await failure(reply.read(4))
            assert (error.kind, error.phase) == ("too_large", "body")
            reply = await transport.send(origin, get(), PATIENT)
            assert await reply.read(5) == b"12345"

    async def test_large_bodies_arrive_whole_in_both_directions(self, transport: Transport) -> None:
        async with Upstream(repeating(http_reply(200, LARGE))) as upstream:
            for _ in range(2):
                assert await fetch(transport, origin_of(upstream), post(LARGE)) == LARGE
        assert [request.body == LARGE for request in upstream.requests] == [True, True]
        assert upstream.accepted == 1

    @pytest.mark.parametrize("then_cut", [False, True])
    async def test_a_reply_before_the_end_of_the_request_is_delivered(
        self, transport: Transport, then_cut: bool
    ) -> None:
        async def script(peer: Peer) -> None:
            head = await peer.head()
            if peer.number:
                await peer.rest(head)
            await peer.send(http_reply(413, b"too much"))
            if then_cut and not peer.number:
                peer.half_close()
            await peer.stall()

        async with Upstream(script) as upstream:
            origin = origin_of(upstream)
            reply = await transport.send(origin, post(LARGE * 4), PATIENT)
            assert (reply.status, await reply.read(100)) == (413, b"too much")
            self.check_pool(transport, origin, idle=0)
            assert await fetch(transport, origin, post()) == b"too much"
            upstream.release()
        assert upstream.accepted == 2

    async def test_a_reader_that_waits_makes_the_upstream_wait(self, transport: Transport) -> None:
        total = 64
        sent = 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(chunked_head())
            for _ in range(total):
                await peer.send(chunk(LARGE[: 1 << 20]))
                sent += 1
            await peer.send(chunk(b""))
            await peer.gone()

        async with Upstream(script) as upstream:
            reply = await transport.send(origin_of(upstream), get(), PATIENT)
            await turns(2000)
            assert sent < total // 2
            size = 0
            while data := await reply.chunk():
                size += len(data)
            assert size == total << 20

    async def test_abort_closes_the_connection_at_once(self, transport: Transport) -> None:
        async with Upstream(endless) as upstream:
            origin = origin_of(upstream)
            unread = await transport.send(origin, get(), PATIENT)
            read = await transport.send(origin, get(), PATIENT)
            assert await read.chunk() == b"x"
            for reply in (unread, read):
                reply.abort()
                reply.abort()
                assert (await failure(reply.chunk())).phase == "body"
                assert (await failure(reply.read(10))).phase == "body"
            self.check_pool(transport, origin, idle=0)
            await upstream.until(lambda: upstream.open == 0)

    async def test_abort_ends_a_read_that_waits(self, transport: Transport) -> None:
        async with Upstream(endless) as upstream:
            reply = await transport.send(origin_of(upstream), get(), PATIENT)
            assert await reply.chunk() == b"x"
            waiting = asyncio.create_task(reply.chunk())
            await turns(2)
            reply.abort()
            assert (await failure(waiting)).phase == "body"

    async def test_abort_after_the_end_keeps_the_connection(self, transport: Transport) -> None:
        async with Upstream(repeating(http_reply(200, b"x"))) as upstream:
            origin = origin_of(upstream)
            for read_first in (True, False):
                reply = await transport.send(origin, get(), PATIENT)
                if read_first:
                    await reply.read(10)
                reply.abort()
            self.check_pool(transport, origin, idle=1)
            await fetch(transport, origin, get())
        assert upstream.accepted == 1

    async def test_a_forgotten_reply_warns_and_closes(self, transport: Transport) -> None:
        async with Upstream(endless) as upstream:
            replies = [await transport.send(origin_of(upstream), get(), PATIENT)]
            with pytest.warns(ResourceWarning, match="neither read to its end nor aborted"):
                replies.clear()
            gc.collect()
            await upstream.until(lambda: upstream.open == 0)
            self.check_pool(transport, origin_of(upstream), idle=0)
