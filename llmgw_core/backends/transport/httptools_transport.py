"""The default transport: asyncio protocols with httptools (llhttp) as the parser.

An exchange on an idle connection takes no task, no lock and no timer: the request is one
`write`, and only waiting for the reply suspends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgw_core.backends.transport.pool import OriginPool, PoolCounts, PoolLimits
from llmgw_core.backends.transport.port import HttpRequest, TransportError
from llmgw_core.backends.transport.reply import HttptoolsReply
from llmgw_core.backends.transport.reply_parsing import HEAD, Caps
from llmgw_core.domain.outgoing import DIRECT

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from llmgw_core.domain.deployment import Origin, Timeouts
    from llmgw_core.domain.outgoing import Outgoing


class HttptoolsTransport:
    """See `Transport`. Belongs to the event loop that it is first used in.

    Per origin: at most `max_connections` connections, of which at most `max_idle` wait for up
    to `keepalive` seconds for the next request. Per reply: a head of at most `max_head` bytes
    and `max_headers` lines; about `high_water` bytes of body are buffered before reading from
    the socket is paused. `outgoing`: proxy and TLS.
    """

    def __init__(
        self,
        *,
        max_connections: int = 10_000,
        max_idle: int = 1000,
        keepalive: float = 15.0,
        max_head: int = 65536,
        max_headers: int = 256,
        high_water: int = 65536,
        outgoing: Outgoing = DIRECT,
    ) -> None:
        self._outgoing = outgoing
        self._limits = PoolLimits(max_connections, max_idle, keepalive)
        self._caps = Caps(max_head, max_headers, high_water)
        self._pools: dict[Origin, OriginPool] = {}
        self._retired: set[OriginPool] = set()
        self._closed = False

    async def send(
        self,
        origin: Origin,
        request: HttpRequest,
        timeouts: Timeouts,
        *,
        fresh: bool = False,
        on_sent: Callable[[], None] | None = None,
    ) -> HttptoolsReply:
        """See `Transport.send`."""
        pool = self._pools.get(origin) or self._open_pool(origin)
        head = pool.encoder.encode(request)
        started = pool.loop.time()
        connection = None if fresh else pool.take()
        if connection is None:
            wait = min(timeouts.connect, timeouts.total)
            connection = await pool.acquire(started + wait, fresh=fresh)
        if on_sent is not None:
            on_sent()
        connection.start(head, request.body, request.method == "HEAD", timeouts, started)
        if connection.phase == HEAD and connection.failure is None:
            connection.waiter = waiter = pool.loop.create_future()
            try:
                await waiter
            except BaseException:
                connection.waiter = None
                connection.give_up()
                raise
        if connection.failure is not None and connection.phase == HEAD:
            raise connection.error()
        headers = tuple(connection.headers)
        return HttptoolsReply(connection, connection.status, headers, connection.reused)

    def counts(self, origin: Origin) -> PoolCounts:
        """How full the pool of `origin` is."""
        pool = self._pools.get(origin)
        return PoolCounts(0, 0, 0) if pool is None else pool.counts()

    def retain(self, origins: Set[Origin]) -> None:
        """See `Transport.retain`."""
        self._retired = {pool for pool in self._retired if pool.counts().connections}
        for origin in [origin for origin in self._pools if origin not in origins]:
            pool = self._pools.pop(origin)
            pool.retire()
            self._retired.add(pool)

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        self._closed = True
        pools = (*self._pools.values(), *self._retired)
        await asyncio.gather(*(pool.aclose() for pool in pools))

    def _open_pool(self, origin: Origin) -> OriginPool:
        if self._closed:
            raise TransportError("pool", "connect", "the transport is closed")
        pool = self._pools[origin] = OriginPool(origin, self._limits, self._caps, self._outgoing)
        return pool
