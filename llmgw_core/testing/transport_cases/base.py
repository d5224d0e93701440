"""What the cases of the transport suite share: the transport under test and short words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.backends.transport.port import HttpRequest, Transport, TransportError
from llmgw_core.domain.deployment import Origin, Timeouts

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable

    from llmgw_core.testing.upstream import Upstream

PATIENT = Timeouts(connect=20.0, first_byte=20.0, idle=20.0, total=20.0)
"""Never reached by a test that passes."""


class Setup(msgspec.Struct, frozen=True):
    """What a case needs of the transport; see `HttptoolsTransport` for the meaning and units.
    With `keepalive=0` no connection is used twice."""

    max_connections: int = 50
    keepalive: float = 20.0
    max_head: int = 65536
    high_water: int = 65536


class TlsFiles(msgspec.Struct, frozen=True):
    """Certificates for the TLS cases; a subclass of the suite gives them as a fixture `tls`.
    Paths for the client's side, contexts for the server's."""

    ca: str
    """The CA that signed the servers' certificates."""
    other_ca: str
    """A CA that did not."""
    client_cert: str
    client_key: str
    server: ssl.SSLContext
    """For 127.0.0.1."""
    other_host: ssl.SSLContext
    """For another host, by the same CA."""
    mutual: ssl.SSLContext
    """For 127.0.0.1, asking for a certificate by the same CA."""


class TransportCases:
    """The base of every group of cases."""

    caps_whole_head = True
    """False: only single lines of a head are capped."""
    knows_partial_heads = True
    """False: `received` stays False until a head is complete."""
    notices_broken_chunks = True
    """False: the reader of a body with broken chunks learns it by the idle timeout."""
    notices_surplus = True
    """False: bytes that arrive after a reply, while the connection rests, are taken for the reply
    to the next request. The cases about such bytes then run with `keepalive=0`, which must be
    the default of such a transport."""

    def make_transport(self, setup: Setup) -> Transport:
        """The transport under test; called inside the running event loop."""
        raise NotImplementedError

    def check_pool(self, transport: Transport, origin: Origin, *, idle: int) -> None:
        """Fail unless the pool holds `idle` resting connections and nothing else. An
        implementation that cannot say is checked by what it does alone."""

    @pytest.fixture
    async def transport(self) -> AsyncIterator[Transport]:
        """A transport with the ordinary setup."""
        transport = self.make_transport(Setup())
        yield transport
        await transport.aclose()


def origin_of(upstream: Upstream, **tls: str) -> Origin:
    """Where `upstream` listens; with TLS if any of the TLS fields is given."""
    return Origin("https" if tls else "http", upstream.host, upstream.port, **tls)


def get(target: str = "/") -> HttpRequest:
    """A request without a body."""
    return HttpRequest("GET", target, ())


def post(body: bytes = b"{}", target: str = "/") -> HttpRequest:
    """A request with a body; it is never repeated by a library on its own."""
    return HttpRequest("POST", target, ((b"content-type", b"application/json"),), body)


async def fetch(transport: Transport, origin: Origin, request: HttpRequest) -> bytes:
    """Send, read to the end, give the body."""
    reply = await transport.send(origin, request, PATIENT)
    return await reply.read(1 << 30)


async def failure(awaitable: Awaitable[object]) -> TransportError:
    """The `TransportError` that `awaitable` must end with."""
    with pytest.raises(TransportError) as caught:
        await awaitable
    return caught.value


async def turns(number: int) -> None:
    """Let the event loop go round `number` times."""
    for _ in range(number):
        await asyncio.sleep(0)
