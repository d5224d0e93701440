"""Both transports keep the promises of the port through a forward proxy, too."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import TYPE_CHECKING

import pytest
import uvloop

from llmgw_core.backends.transport.aiohttp_transport import AiohttpTransport
from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.backends.transport.port import TransportError
from llmgw_core.backends.transport.tunnel import MAX_HEAD, _Answer
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Origin
from llmgw_core.domain.outgoing import Outgoing, Proxy
from llmgw_core.testing.forward_proxy import ForwardProxy
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
from llmgw_core.testing.transport_cases.cancelling import one_exchange, slow
from llmgw_core.testing.transport_cases.encrypted import EncryptedCases
from llmgw_core.testing.transport_cases.flow import FlowCases
from llmgw_core.testing.transport_cases.framing import FramingCases
from llmgw_core.testing.transport_cases.pooling import PoolingCases
from llmgw_core.testing.transport_suite import Setup, TlsFiles, TransportSuite
from llmgw_core.testing.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.backends.transport.port import Transport

USER, PASSWORD = "gate way", "s3cret:pässword"


def through(proxy: ForwardProxy) -> Outgoing:
    """Everything goes through `proxy`."""
    way = Proxy("http", proxy.host, proxy.port, USER, Credential(PASSWORD))
    return Outgoing(way, way)


class ThroughAProxy(TransportCases):
    """What goes wrong between the proxy and an origin without TLS is a reply of the proxy."""

    proxy: ForwardProxy

    @pytest.fixture(autouse=True)
    async def _proxy(self) -> AsyncIterator[None]:
        async with ForwardProxy(user=USER, password=PASSWORD) as self.proxy:
            yield

    def make_transport(self, setup: Setup) -> Transport:
        return HttptoolsTransport(
            max_connections=setup.max_connections,
            keepalive=setup.keepalive,
            max_head=setup.max_head,
            high_water=setup.high_water,
            outgoing=through(self.proxy),
        )

    def check_pool(self, transport: Transport, origin: Origin, *, idle: int) -> None:
        if isinstance(transport, HttptoolsTransport):
            counts = transport.counts(origin)
            assert (counts.connections, counts.idle, counts.waiting) == (idle, idle, 0)

    async def test_nobody_listening_is_refused(self, transport: Transport) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            error = await failure(
                transport.send(Origin("https", "127.0.0.1", port), get(), PATIENT)
            )
            assert (error.kind, error.phase) == ("refused", "connect")
            reply = await transport.send(Origin("http", "127.0.0.1", port), get(), PATIENT)
            assert reply.status == 502
            await reply.read(1000)


class TestHttptoolsThroughAProxyOnUvloop(ThroughAProxy, TransportSuite):
    """All cases."""

    loop_factory = staticmethod(uvloop.new_event_loop)


class TestHttptoolsThroughAProxyOnAsyncio(
    ThroughAProxy, FramingCases, FlowCases, PoolingCases, EncryptedCases
):
    """All but the many cancellations."""

    async def test_cancelled_while_the_tunnel_is_opened(self, tls: TlsFiles) -> None:
        async with Upstream(slow, ssl_context=tls.server) as upstream:
            origin = origin_of(upstream, ca_file=tls.ca)
            for after in range(0, 1500, 83):
                transport = self.make_transport(Setup(max_connections=1))
                task = asyncio.ensure_future(one_exchange(transport, origin, post()))
                await turns(after)
                task.cancel()
                await asyncio.wait([task])
                assert await fetch(transport, origin, post()) == b"ab"
                self.check_pool(transport, origin, idle=1)
                await transport.aclose()


class TestAiohttpThroughAProxy(ThroughAProxy, FramingCases, FlowCases, EncryptedCases):
    """As much of it as concerns the way."""

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
            outgoing=through(self.proxy),
        )


async def test_a_tunnel_that_nobody_waits_for_any_more_ends_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = _Answer(asyncio.get_running_loop())
    answer.connection_lost(None)
    del answer
    gc.collect()
    assert not caplog.records


async def test_an_answer_to_connect_that_is_too_long_is_refused_although_it_ends() -> None:
    answer = _Answer(asyncio.get_running_loop())
    answer.data_received(b"HTTP/1.1 200 OK\r\nx: " + b"a" * MAX_HEAD + b"\r\n\r\n")
    with pytest.raises(TransportError, match="too long"):
        await answer.head
