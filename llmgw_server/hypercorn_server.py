"""Hypercorn's protocols behind our listeners: HTTP/1.1, and HTTP/2 by ALPN or prior knowledge.

What is Hypercorn's own stays so: parsing, flow control, one task group per connection. What is
ours: who accepts (`accepting`), how long a head may take, that a connection ends whatever its
client does, and that a reply says when it is the last one. It relies on Hypercorn's `TCPServer`
and `WorkerContext`, which is why the extra `server` bounds its version.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.typing import LifespanState

from llmgw_server.asgi import WRITE_BUFFER
from llmgw_server.hypercorn_idle import IdleTimer
from llmgw_server.hypercorn_protocol import make_strict
from llmgw_server.identity import entrance_of
from llmgw_server.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.protocol import ProtocolWrapper

    from llmgw_core.config.schema import ServerConfig
    from llmgw_server.app import Application, Surface
    from llmgw_server.listening import Listener

HTTP2_STREAMS = 1000
_CLOSE = (b"connection", b"close")


class _Config(Config):
    """Hypercorn's settings; a reply during the drain is the last one of its connection."""

    draining = False

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        headers = super().response_headers(protocol)
        return [*headers, _CLOSE] if self.draining and protocol == "h11" else headers


class _Listening:
    """What the connections of one listener share."""

    def __init__(self, listener: Listener, surface: Surface, settings: ServerConfig) -> None:
        self.listener = listener
        self.surface = surface
        self.settings = settings
        self.context = WorkerContext(None)
        self.outbox = Outbox()
        self.drained: set[Callable[[], None]] = set()
        """To be called when the drain begins."""
        self.app = ASGIWrapper(cast("Any", surface))
        self.config = _Config()
        config = self.config
        config.keep_alive_timeout = settings.keep_alive_seconds
        # It is no limit of the wait for a request, but of every pause of the client, even while
        # it listens to a stream.
        config.read_timeout = None
        config.h11_max_incomplete_size = settings.head_bytes
        config.h2_max_header_list_size = settings.head_bytes
        config.keep_alive_max_requests = 2**31
        config.h2_max_concurrent_streams = HTTP2_STREAMS
        config.include_server_header = False
        config.include_date_header = False
        config.accesslog = None
        config.errorlog = logging.getLogger("hypercorn.error")


class HypercornServer:
    """Serves `app` on connections that others accept."""

    def __init__(self, app: Application, settings: ServerConfig) -> None:
        self._app = app
        self._settings = settings
        self._listening: dict[Listener, _Listening] = {}

    def connect(self, listener: Listener, ended: Callable[[object], None]) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        shared = self._listening.get(listener)
        if shared is None:
            shared = _Listening(listener, self._app.surface(listener), self._settings)
            self._listening[listener] = shared
        return _Protocol(shared, ended)

    async def drain(self, listener: Listener) -> None:
        """No new requests on the connections of `listener`; idle ones end."""
        shared = self._listening.get(listener)
        if shared is not None:
            shared.config.draining = True
            await shared.context.terminated.set()
            for tell in tuple(shared.drained):
                tell()

    async def finished(self) -> None:
        """Wait for what outlives connections: nothing does."""


class _Protocol(asyncio.StreamReaderProtocol):
    """The transport's side of a connection."""

    def __init__(self, shared: _Listening, ended: Callable[[object], None]) -> None:
        self._shared = shared
        self._ended = ended
        self.transport: asyncio.Transport | None = None
        super().__init__(asyncio.StreamReader(), self._serve)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)
        super().connection_made(transport)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shared = self._shared
        app = shared.app
        handle = entrance_of(shared.surface, shared.listener.rules, writer)
        if handle is not None:
            app = ASGIWrapper(cast("Any", shared.surface.with_handle(handle)))
        try:
            await Connection(app, shared, reader, writer)
        finally:
            self._ended(self)

    def abort(self) -> None:
        """End the connection without waiting for anybody."""
        if self.transport is not None:
            self.transport.abort()


class Connection(TCPServer):
    """Hypercorn's connection, with deadlines of ours."""

    def __init__(
        self,
        app: ASGIWrapper,
        shared: _Listening,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        state = LifespanState({})
        super().__init__(app, loop, shared.config, shared.context, state, reader, writer)
        self._new_id = shared.surface.gateway.new_call_id
        self._idle = IdleTimer(self, shared.settings.head_seconds)
        self._write_seconds = shared.settings.write_seconds
        self.idle_task = cast("Any", self._idle)
        self._drained = shared.drained
        self._outbox = shared.outbox
        self._posted = -1
        """The turn of the outbox in which this connection has put something in."""

    @property
    def protocol(self) -> ProtocolWrapper:
        """What Hypercorn makes when the connection begins, with our HTTP/1.1."""
        return self._protocol

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        make_strict(wrapper, self._new_id)
        self._protocol = wrapper

    async def run(self) -> None:
        """See Hypercorn."""
        self._drained.add(self._idle.drain)
        try:
            await super().run()
        finally:
            self._drained.discard(self._idle.drain)

    async def protocol_send(self, event: Any) -> None:
        """As Hypercorn, but what is sent leaves together with what others send."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        outbox = self._outbox
        try:
            if self._posted == outbox.turn:
                # More than one in a turn may be without end: only the socket says when to wait.
                outbox.flush()
                self.writer.write(event.data)  # uvloop raises once the connection is closed
            else:
                self._posted = outbox.turn
                outbox.put(self.writer.transport, event.data)
            await self.writer.drain()
        except (ConnectionError, RuntimeError):
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self._idle.close()

    def end(self) -> None:
        """Close from the server's side, because no request has come in time."""
        self._task_group.spawn(self._initiate_server_close)

    def in_head(self) -> bool:
        """Whether a part of a head has come."""
        protocol: Any = self.protocol.protocol  # one of ours: see `make_strict`
        return bool(protocol.in_head)

    async def _close(self) -> None:
        """As Hypercorn, which would wait for ever for a client that reads nothing."""
        self._outbox.flush()
        abort = self.loop.call_later(self._write_seconds, self.writer.transport.abort)
        try:
            await super()._close()
        finally:
            abort.cancel()
