"""Both transports keep the promises of the port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvloop

from llmgw_core.backends.transport.aiohttp_transport import AiohttpTransport
from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.testing.transport_cases.base import fetch, origin_of, post, turns
from llmgw_core.testing.transport_suite import Setup, TransportSuite
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

if TYPE_CHECKING:
    from llmgw_core.backends.transport.port import Transport
    from llmgw_core.domain.deployment import Origin


class TestHttptoolsOnAsyncio(TransportSuite):
    def make_transport(self, setup: Setup) -> Transport:
        return HttptoolsTransport(
            max_connections=setup.max_connections,
            keepalive=setup.keepalive,
            max_head=setup.max_head,
            high_water=setup.high_water,
        )

    def check_pool(self, transport: Transport, origin: Origin, *, idle: int) -> None:
        assert isinstance(transport, HttptoolsTransport)
        counts = transport.counts(origin)
        assert (counts.connections, counts.idle, counts.waiting) == (idle, idle, 0)


class TestHttptoolsOnUvloop(TestHttptoolsOnAsyncio):
    loop_factory = staticmethod(uvloop.new_event_loop)


class TestAiohttp(TransportSuite):
    caps_whole_head = False
    knows_partial_heads = False
    notices_broken_chunks = False
    notices_surplus = False

    def make_transport(self, setup: Setup) -> Transport:
        return AiohttpTransport(
            max_connections=setup.max_connections,
            keepalive=setup.keepalive,
            max_head=setup.max_head,
            high_water=setup.high_water,
        )

    async def test_unless_told_to_it_never_uses_a_connection_twice(self) -> None:
        transport = AiohttpTransport()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(http_reply(200, b"yours"))
            await peer.stall()
            await peer.send(http_reply(200, b"for somebody else"))
            spoken.set()
            await peer.gone()

        spoken = asyncio.Event()

        async with Upstream(script) as upstream:
            assert await fetch(transport, origin_of(upstream), post()) == b"yours"
            upstream.release()
            await spoken.wait()
            await turns(20)
            assert await fetch(transport, origin_of(upstream), post()) == b"yours"
            await transport.aclose()
        assert upstream.accepted == 2
