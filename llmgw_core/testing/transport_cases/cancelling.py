"""Cases about cancellation: at every turn of the event loop, for every kind of wait.

Each case runs an operation again and again and cancels it one turn later each time, until it
gets through. After each round a pool of one connection must serve the next request: a leaked
connection or a lost slot would make it wait for ever.
"""
# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgw_core.testing.transport_cases.base import (
    PATIENT,
    Setup,
    TlsFiles,
    TransportCases,
    fetch,
    origin_of,
    post,
    turns,
)
from llmgw_core.testing.transport_cases.flow import LARGE
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.backends.transport.port import HttpRequest, Transport
    from llmgw_core.domain.deployment import Origin

_MOST_TURNS = 3000
_AT_ONCE = 20.0


async def slow(peer: Peer) -> None:
    """A script that answers in several pieces, a turn of the loop apart."""
    while True:
        await peer.request()
        for data in (b"HTTP/1.1 100 Continue\r\n\r\n", chunked_head(), chunk(b"a"), chunk(b"b")):
            await peer.send(data)
            await turns(2)
        await peer.send(chunk(b""))


async def one_exchange(
    transport: Transport, origin: Origin, request: HttpRequest, *, fresh: bool = False
) -> bytes:
    """An exchange as the pipeline does it: whatever happens, the reply is ended."""
    reply = await transport.send(origin, request, PATIENT, fresh=fresh)
    try:
        body = await reply.chunk()
        return body + await reply.read(1 << 20)
    finally:
        reply.abort()


class CancellingCases(TransportCases):
    """Needs the fixture `tls`."""

    async def cancel_everywhere(
        self,
        origin: Origin,
        operation: Callable[[Transport], Awaitable[bytes]],
        *,
        warm: bool,
        step: int = 1,
    ) -> None:
        """The loop described at the head of this module; `warm`: with an idle connection."""
        for after in range(0, _MOST_TURNS, step):
            transport = self.make_transport(Setup(max_connections=1))
            if warm:
                assert await fetch(transport, origin, post()) == b"ab"
            task = asyncio.ensure_future(operation(transport))
            await turns(after)
            finished = task.done() or not task.cancel()
            await asyncio.wait([task])
            async with asyncio.timeout(_AT_ONCE):
                assert await fetch(transport, origin, post()) == b"ab"
            self.check_pool(transport, origin, idle=1)
            await transport.aclose()
            if finished:
                assert task.result() == b"ab"
                return
        raise AssertionError("the operation never came to its end")

    async def test_while_connecting_sending_and_reading(self) -> None:
        async with Upstream(slow) as upstream:
            origin = origin_of(upstream)
            await self.cancel_everywhere(
                origin, lambda transport: one_exchange(transport, origin, post()), warm=False
            )

    async def test_on_a_reused_connection(self) -> None:
        async with Upstream(slow) as upstream:
            origin = origin_of(upstream)
            await self.cancel_everywhere(
                origin, lambda transport: one_exchange(transport, origin, post()), warm=True
            )

    async def test_while_a_fresh_connection_replaces_an_idle_one(self) -> None:
        async with Upstream(slow) as upstream:
            origin = origin_of(upstream)
            await self.cancel_everywhere(
                origin,
                lambda transport: one_exchange(transport, origin, post(), fresh=True),
                warm=True,
            )

    async def test_while_a_large_body_is_sent(self) -> None:
        async with Upstream(slow) as upstream:
            origin = origin_of(upstream)
            await self.cancel_everywhere(
                origin, lambda transport: one_exchange(transport, origin, post(LARGE)), warm=True
            )

    async def test_while_waiting_for_a_connection(self) -> None:
        async with Upstream(slow) as upstream:
            origin = origin_of(upstream)

            async def behind_another(transport: Transport) -> bytes:
                ahead = asyncio.ensure_future(one_exchange(transport, origin, post()))
                try:
                    return await one_exchange(transport, origin, post())
                finally:
                    await asyncio.wait([ahead])

            await self.cancel_everywhere(origin, behind_another, warm=False)

    async def test_while_the_one_ahead_is_cancelled_too(self) -> None:
        async with Upstream(slow) as upstream:
            origin = origin_of(upstream)

            async def both(transport: Transport) -> bytes:
                first, second = await asyncio.gather(
                    one_exchange(transport, origin, post()),
                    one_exchange(transport, origin, post()),
                )
                assert first == second
                return first

            await self.cancel_everywhere(origin, both, warm=False)

    async def test_while_the_handshake_runs(self, tls: TlsFiles) -> None:
        async with Upstream(slow, ssl_context=tls.server) as upstream:
            origin = origin_of(upstream, ca_file=tls.ca)
            await self.cancel_everywhere(
                origin,
                lambda transport: one_exchange(transport, origin, post()),
                warm=False,
                step=3,
            )
