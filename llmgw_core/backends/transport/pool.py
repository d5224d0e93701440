"""Connections to one origin: who may have one, in which order, and how many there are.

A slot is the right to have one connection. It belongs to a connection, to whoever is opening
one, or to a waiter it was handed to; every path ends with it being passed on or given back.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.transport.connection import Connection
from llmgw_core.backends.transport.port import TransportError
from llmgw_core.backends.transport.request_bytes import ProxiedEncoder, RequestEncoder, authority
from llmgw_core.backends.transport.tls import TlsContext, TlsFiles, files_for
from llmgw_core.backends.transport.tunnel import open_tunnel

if TYPE_CHECKING:
    from llmgw_core.backends.transport.reply_parsing import Caps
    from llmgw_core.domain.deployment import Origin
    from llmgw_core.domain.outgoing import Outgoing, Proxy


class PoolLimits(msgspec.Struct, frozen=True):
    """`connections` and `idle` are numbers per origin, `keepalive` seconds of rest."""

    connections: int
    idle: int
    keepalive: float


class PoolCounts(msgspec.Struct, frozen=True):
    """`connections` counts slots in use: idle, busy and just being opened."""

    connections: int
    idle: int
    waiting: int


class OriginPool:
    """The connections to one origin; the one used last is taken first, so that the others may
    age and be closed."""

    def __init__(self, origin: Origin, limits: PoolLimits, caps: Caps, outgoing: Outgoing) -> None:
        self._proxy = outgoing.proxy_for(origin.scheme, origin.host, origin.port)
        encrypted = origin.scheme == "https"
        if self._proxy is None or encrypted:
            self.encoder = RequestEncoder(origin)
        else:
            self.encoder = ProxiedEncoder(origin, self._proxy)
        self.loop = asyncio.get_running_loop()
        self._origin = origin
        self._limits = limits
        self._caps = caps
        self._tls = TlsContext(files_for(origin, outgoing)) if encrypted else None
        self._proxy_tls = (
            TlsContext(TlsFiles(outgoing.ca_file, outgoing.system_ca))
            if self._proxy is not None and self._proxy.scheme == "https"
            else None
        )
        self._slots = 0
        self._idle: dict[Connection, None] = {}
        self._open: set[Connection] = set()
        self._waiters: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._outbox: list[tuple[asyncio.Transport, bytes]] = []
        self._closing = False
        self._retired = False
        self._emptied: asyncio.Future[None] | None = None

    def counts(self) -> PoolCounts:
        """How full the pool is."""
        return PoolCounts(self._slots, len(self._idle), len(self._waiters))

    def take(self) -> Connection | None:
        """An idle connection if there is one, without waiting."""
        return self._idle.popitem()[0] if self._idle else None

    async def acquire(self, deadline: float, *, fresh: bool) -> Connection:
        """A connection, opened or waited for in turn until `deadline` (loop time). Raises
        `TransportError` phase `connect`."""
        if self._closing:
            raise _closed()
        if fresh and self._slots >= self._limits.connections and self._idle:
            next(iter(self._idle)).give_up()
        if self._slots < self._limits.connections:
            self._slots += 1
        else:
            connection = await self._turn(deadline)
            if connection is not None:
                if connection.alive and not fresh:
                    return connection
                self._retire(connection)
        try:
            return await self._connect(deadline)
        except BaseException:
            self._free_slot()
            raise

    def retire(self) -> None:
        """Keep no connection from now on: those at rest are closed, others when they are done."""
        self._retired = True
        for connection in tuple(self._idle):
            connection.give_up()

    async def aclose(self) -> None:
        """Close every connection and wait until the sockets are gone."""
        self._closing = True
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(_closed())
        for connection in tuple(self._open):
            connection.fail("reset", "the transport was closed")
        while self._open:
            self._emptied = self._emptied or self.loop.create_future()
            await asyncio.shield(self._emptied)

    # Owner, as connections see it

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """See `connection.Owner`. The requests of one turn of the event loop leave together:
        waking the upstream's process once for all of them is what makes a difference."""
        if not self._outbox:
            self.loop.call_soon(self._flush)
        self._outbox.append((transport, data))

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        for transport, data in outbox:
            if not transport.is_closing():
                transport.write(data)

    def closed(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        self._open.discard(connection)
        if not self._open and self._emptied is not None:
            self._emptied.set_result(None)
            self._emptied = None

    def gave_up(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        self._idle.pop(connection, None)
        if connection.holds_slot:
            connection.holds_slot = False
            self._free_slot()

    def rested(self, connection: Connection) -> float | None:
        """See `connection.Owner`."""
        waiter = self._next_waiter() if self._waiters else None
        if waiter is not None:
            connection.holds_slot = False
            waiter.set_result(connection)
            return None
        idle, limits = self._idle, self._limits
        if self._closing or self._retired or len(idle) >= limits.idle:
            connection.give_up()
            return None
        idle[connection] = None
        return self.loop.time() + limits.keepalive

    # Inside

    async def _turn(self, deadline: float) -> Connection | None:
        """Wait for a slot; with it may come a connection. The caller owns the slot."""
        waiter: asyncio.Future[Connection | None] = self.loop.create_future()
        self._waiters[waiter] = None
        try:
            async with asyncio.timeout_at(deadline):
                connection = await waiter
        except BaseException as error:
            self._waiters.pop(waiter, None)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on(waiter.result())
            if isinstance(error, TimeoutError):
                raise TransportError(
                    "pool", "connect", "no connection to the upstream became free in time"
                ) from None
            raise
        if connection is not None and connection.alive:
            connection.holds_slot = True
        return connection

    def _retire(self, connection: Connection) -> None:
        connection.holds_slot = False
        connection.give_up()

    def _pass_on(self, connection: Connection | None) -> None:
        if connection is not None and connection.alive:
            connection.holds_slot = True
            deadline = self.rested(connection)
            if deadline is not None:
                connection.rest_until(deadline)
        else:
            self._free_slot()

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def _free_slot(self) -> None:
        waiter = self._next_waiter()
        if waiter is None:
            self._slots -= 1
        else:
            waiter.set_result(None)

    async def _connect(self, deadline: float) -> Connection:
        connection = Connection(self.loop, self, self._caps)
        try:
            async with asyncio.timeout_at(deadline):
                await self._open_socket(connection)
            if self._closing:
                raise _closed()
            if not connection.alive:
                raise TransportError("reset", "connect", "the upstream closed at once")
        except TimeoutError as error:
            connection.give_up()
            raise TransportError("timeout", "connect", "connecting took too long") from error
        except OSError as error:
            connection.give_up()
            raise _connect_error(error) from error
        except BaseException:
            connection.give_up()
            raise
        connection.holds_slot = True
        # Not before: of a connection whose opening was cancelled uvloop never reports the end.
        self._open.add(connection)
        return connection

    async def _open_socket(self, connection: Connection) -> None:
        context = None if self._tls is None else await self._tls.get()
        if self._proxy is not None:
            await self._open_proxied(connection, self._proxy, context)
            return
        origin = self._origin
        await self.loop.create_connection(
            lambda: connection,
            origin.host,
            origin.port,
            ssl=context,
            server_hostname=None if context is None else origin.host,
        )

    async def _open_proxied(
        self, connection: Connection, proxy: Proxy, context: ssl.SSLContext | None
    ) -> None:
        proxy_context = None if self._proxy_tls is None else await self._proxy_tls.get()
        if context is None:
            await self.loop.create_connection(
                lambda: connection,
                proxy.host,
                proxy.port,
                ssl=proxy_context,
                server_hostname=None if proxy_context is None else proxy.host,
            )
            return
        origin = self._origin
        tunnel = await open_tunnel(self.loop, proxy, authority(origin), proxy_context)
        try:
            encrypted = await self.loop.start_tls(
                tunnel, connection, context, server_hostname=origin.host
            )
        except BaseException:
            tunnel.abort()
            raise
        if encrypted is None:  # the peer was faster than the end of the handshake
            raise ConnectionResetError("closed during the handshake")
        connection.connection_made(encrypted)


def _closed() -> TransportError:
    return TransportError("pool", "connect", "the transport is closed")


def _connect_error(error: OSError) -> TransportError:
    """Where the operating system or TLS refused. An address without a route counts as refused."""
    if isinstance(error, socket.gaierror):
        return TransportError("dns", "connect", f"the upstream's name is not known: {error}")
    if isinstance(error, ssl.SSLError):
        return TransportError("tls", "connect", f"no TLS connection: {error}")
    if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return TransportError("reset", "connect", f"the connection was reset: {error}")
    return TransportError("refused", "connect", f"no connection: {error}")
