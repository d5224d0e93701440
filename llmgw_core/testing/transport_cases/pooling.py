"""Cases about connections: how many, which one, when one may be used again."""
# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.deployment import Origin, Timeouts
from llmgw_core.testing.transport_cases.base import (
    PATIENT,
    Setup,
    TransportCases,
    failure,
    fetch,
    get,
    origin_of,
    post,
    turns,
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
    from llmgw_core.backends.transport.port import Transport


PART_OF_A_HEAD = b"HTTP/1.1 2"


class PoolingCases(TransportCases):
    """Reuse, limits, order."""

    def _wary(self) -> Setup:
        """What makes the transport safe with an upstream that says more than it was asked."""
        return Setup() if self.notices_surplus else Setup(keepalive=0.0)

    async def test_a_connection_is_used_again(self, transport: Transport) -> None:
        async with Upstream(repeating(http_reply(200, b"x"))) as upstream:
            origin = origin_of(upstream)
            first = await transport.send(origin, post(), PATIENT)
            await first.read(10)
            second = await transport.send(origin, post(), PATIENT)
            await second.read(10)
            assert (first.reused, second.reused) == (False, True)
            self.check_pool(transport, origin, idle=1)
        assert upstream.accepted == 1

    async def test_a_fresh_connection_is_fresh(self, transport: Transport) -> None:
        async with Upstream(repeating(http_reply(200, b"x"))) as upstream:
            origin = origin_of(upstream)
            await fetch(transport, origin, post())
            reply = await transport.send(origin, post(), PATIENT, fresh=True)
            assert not reply.reused
            await reply.read(10)
        assert upstream.accepted == 2

    async def test_a_fresh_connection_is_had_from_a_full_pool(self) -> None:
        transport = self.make_transport(Setup(max_connections=1))
        async with Upstream(repeating(http_reply(200, b"x"))) as upstream:
            origin = origin_of(upstream)
            for _ in range(3):
                await fetch(transport, origin, post())
                reply = await transport.send(origin, post(), PATIENT, fresh=True)
                assert not reply.reused
                await reply.read(10)
            await transport.aclose()

    @pytest.mark.parametrize(
        "reply",
        [
            http_reply(200, b"x", [(b"connection", b"close")]),
            b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx",
            http_reply(200, b"x") + http_reply(200, b"forged"),
            http_reply(200, b"x") + PART_OF_A_HEAD,
        ],
    )
    async def test_a_connection_that_cannot_be_trusted_is_not_used_again(
        self, reply: bytes
    ) -> None:
        transport = self.make_transport(self._wary())
        async with Upstream(repeating(reply)) as upstream:
            for _ in range(2):
                assert await fetch(transport, origin_of(upstream), post()) == b"x"
            self.check_pool(transport, origin_of(upstream), idle=0)
            await transport.aclose()
        assert upstream.accepted == 2

    @pytest.mark.parametrize("surplus", [b"", http_reply(200, b"forged")])
    async def test_an_idle_connection_that_ends_or_speaks_is_forgotten(
        self, surplus: bytes
    ) -> None:
        transport = self.make_transport(self._wary() if surplus else Setup())

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(http_reply(200, b"x"))
            await peer.stall()
            await peer.send(surplus)
            if not surplus:
                peer.cut()
            spoken.set()
            await peer.gone()

        spoken = asyncio.Event()

        async with Upstream(script) as upstream:
            origin = origin_of(upstream)
            await fetch(transport, origin, post())
            upstream.release()
            await spoken.wait()
            await turns(20)
            assert await fetch(transport, origin, post()) == b"x"
            await transport.aclose()
        assert upstream.accepted == 2

    @pytest.mark.parametrize("hard", [False, True])
    async def test_a_reused_connection_that_dies_unheard_says_so(
        self, transport: Transport, hard: bool
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(http_reply(200, b"x"))
            if peer.number == 0:
                await peer.request()
                if hard:
                    peer.reset()

        async with Upstream(script) as upstream:
            origin = origin_of(upstream)
            await fetch(transport, origin, post())
            error = await failure(transport.send(origin, post(), PATIENT))
            assert (error.kind, error.phase) == ("reset", "head")
            assert (error.reused, error.received) == (True, False)
            self.check_pool(transport, origin, idle=0)
            reply = await transport.send(origin, post(), PATIENT, fresh=True)
            assert await reply.read(10) == b"x"

    async def test_a_connection_that_dies_within_a_head_was_heard(
        self, transport: Transport
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-")

        async with Upstream(script) as upstream:
            error = await failure(transport.send(origin_of(upstream), post(), PATIENT))
            assert (error.kind, error.phase, error.reused) == ("reset", "head", False)
            assert error.received == self.knows_partial_heads

    async def test_no_more_connections_than_allowed_and_first_come_first_served(self) -> None:
        transport = self.make_transport(Setup(max_connections=2))
        done: list[int] = []
        gates = [asyncio.Event() for _ in range(8)]

        async def script(peer: Peer) -> None:
            while True:
                request = await peer.request()
                await gates[int(request.target[1:])].wait()
                await peer.send(http_reply(200, b"x"))

        async def one(origin: Origin, number: int) -> None:
            await fetch(transport, origin, post(b"", f"/{number}"))
            done.append(number)

        async with Upstream(script) as upstream:
            origin = origin_of(upstream)
            tasks = []
            for number in range(8):
                tasks.append(asyncio.create_task(one(origin, number)))
                await turns(1)
            await upstream.until(lambda: len(upstream.requests) == 2)
            for number in range(8):
                await upstream.until(lambda seen=number: len(upstream.requests) >= seen + 1)  # type: ignore[misc] # a default is how a lambda keeps a loop's value
                gates[number].set()
                await tasks[number]
            await transport.aclose()
        assert done == list(range(8))
        assert [request.target for request in upstream.requests] == [f"/{n}" for n in range(8)]
        assert upstream.accepted == 2

    async def test_an_aborted_reply_makes_room(self) -> None:
        transport = self.make_transport(Setup(max_connections=1))

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked_head() + chunk(b"x"))
            await peer.gone()

        async with Upstream(script) as upstream:
            origin = origin_of(upstream)
            reply = await transport.send(origin, get(), PATIENT)
            waiting = asyncio.create_task(transport.send(origin, get(), PATIENT))
            await turns(3)
            assert not waiting.done()
            reply.abort()
            reply = await waiting
            assert await reply.chunk() == b"x"
            reply.abort()
            await transport.aclose()

    async def test_waiting_for_a_connection_ends_in_time(self) -> None:
        transport = self.make_transport(Setup(max_connections=1))

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked_head())
            await peer.gone()

        async with Upstream(script) as upstream:
            origin = origin_of(upstream)
            reply = await transport.send(origin, get(), PATIENT)
            error = await failure(transport.send(origin, get(), Timeouts(connect=0.05)))
            assert (error.kind, error.phase) == ("pool", "connect")
            reply.abort()
            await transport.aclose()

    async def test_an_idle_connection_is_closed_after_its_rest(self) -> None:
        transport = self.make_transport(Setup(keepalive=0.05))
        left = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(http_reply(200, b"x"))
            await peer.gone()
            left.set()

        async with Upstream(script) as upstream:
            await fetch(transport, origin_of(upstream), get())
            await left.wait()
            self.check_pool(transport, origin_of(upstream), idle=0)
            await transport.aclose()

    async def test_nobody_listening_is_refused(self, transport: Transport) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            origin = Origin("http", "127.0.0.1", closed.getsockname()[1])
            error = await failure(transport.send(origin, get(), PATIENT))
        assert (error.kind, error.phase, error.reused) == ("refused", "connect", False)

    async def test_closing_ends_idle_and_busy_connections_and_those_who_wait(self) -> None:
        transport = self.make_transport(Setup(max_connections=2))

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked_head() + chunk(b"x"))
            await peer.gone()

        async with Upstream(script) as upstream:
            origin = origin_of(upstream)
            reply = await transport.send(origin, get(), PATIENT)
            assert await reply.chunk() == b"x"
            reading = asyncio.create_task(reply.chunk())
            other = await transport.send(origin, get(), PATIENT)
            waiting = asyncio.create_task(transport.send(origin, get(), PATIENT))
            await turns(3)
            await transport.aclose()
            await upstream.until(lambda: upstream.open == 0)
            assert (await failure(reading)).phase == "body"
            assert (await failure(waiting)).phase in {"connect", "send"}
            other.abort()
            assert (await failure(transport.send(origin, get(), PATIENT))).kind == "pool"
            await transport.aclose()
