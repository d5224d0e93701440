"""Connections of one listener: accepted, counted, shaken hands with, and known until they end.

Done here and not by the servers, so that both have the same limit, the same deadline for
handshakes, certificates that can change, and an end of accepting that is immediate. Beyond
`limit` a connection is refused: on a plain listener with 503 in OpenAI's envelope, on one with TLS
without a word, because a handshake is what costs most.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import uuid
from typing import TYPE_CHECKING, Protocol

from llmgw_core.domain.errors import overloaded
from llmgw_core.wire.envelope import error_body, error_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_server.listening import Listener

logger = logging.getLogger(__name__)

AT_ONCE = 64
"""Connections that are accepted before the event loop gets its turn, and refusals that are seen
through at the same time; beyond, connections are closed without a word."""
PAUSE_SECONDS = 0.5
"""How long nothing is accepted when the process has no file descriptors left."""
REFUSAL_SECONDS = 2.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Connection(Protocol):
    """A server's protocol object for one connection."""

    def abort(self) -> None:
        """End the connection without waiting for anybody."""


class Factory(Protocol):
    """Makes the protocol of a new connection; it calls `ended` when the connection is no more."""

    def __call__(self, ended: Callable[[object], None]) -> asyncio.BaseProtocol:
        """The protocol; it has `abort`."""


class Acceptor:
    """Accepts on `listener`, which listens. `limit` bounds the connections, `handshake` (seconds)
    a TLS handshake."""

    def __init__(
        self, listener: Listener, factory: Factory, *, limit: int, handshake: float
    ) -> None:
        self.listener = listener
        self._factory = factory
        self._limit = limit
        self._handshake = handshake
        self._loop = asyncio.get_running_loop()
        self._socket = listener.socket
        self._open: set[object] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusals = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._pause: asyncio.TimerHandle | None = None
        self._short = False
        self._loop.add_reader(self._socket, self._accept)

    @property
    def connections(self) -> int:
        """Open ones, those in a handshake included."""
        return len(self._open)

    def close(self) -> None:
        """Accept no more. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self.listener.close()

    async def ended(self) -> None:
        """Wait until there is no connection left."""
        await self._empty.wait()

    def drop_handshakes(self) -> None:
        """End the connections that are only being made: they would come too late."""
        for task in self._tasks:
            task.cancel()

    def abort(self) -> None:
        """End what is left."""
        self.drop_handshakes()
        for connection in list(self._open):
            connection.abort()  # type: ignore[attr-defined]

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._failed(error)
                return
            self._short = False
            accepted.setblocking(False)
            if len(self._open) < self._limit:
                # Counted here: of all that are accepted in one go none has begun to be made.
                protocol = self._factory(self._ended)
                self._open.add(protocol)
                self._empty.clear()
                self._spawn(self._connect(accepted, protocol))
            elif self.listener.certificates is None and self._refusals < AT_ONCE:
                self._spawn(self._refuse(accepted))
            else:
                accepted.close()

    def _failed(self, error: OSError) -> None:
        if error.errno not in _EXHAUSTED:
            logger.warning("A connection could not be accepted: %s.", error.strerror)
            return
        if not self._short:
            self._short = True
            logger.error(
                "No connection can be accepted: %s. Lower server.max_connections or raise the"
                " limit of open files.",
                error.strerror,
            )
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, accepted: socket.socket, protocol: asyncio.BaseProtocol) -> None:
        certificates = self.listener.certificates
        try:
            if certificates is None:
                await self._loop.connect_accepted_socket(lambda: protocol, accepted)
            else:
                await self._loop.connect_accepted_socket(
                    lambda: protocol,
                    accepted,
                    ssl=certificates.context,
                    ssl_handshake_timeout=self._handshake,
                )
        except (OSError, asyncio.CancelledError) as error:
            # Whoever does not shake hands is no news, but whoever sets up certificates asks.
            logger.debug("A connection was not made: %s", error)
            accepted.close()
            self._ended(protocol)

    def _ended(self, protocol: object) -> None:
        self._open.discard(protocol)
        if not self._open:
            self._empty.set()

    async def _refuse(self, accepted: socket.socket) -> None:
        """Answer before anything is asked, and read on until the client has seen it: closing
        with its request unread would reset the connection."""
        self._refusals += 1
        try:
            async with asyncio.timeout(REFUSAL_SECONDS):
                with contextlib.suppress(OSError):
                    await self._loop.sock_sendall(accepted, full(uuid.uuid4().hex))
                    accepted.shutdown(socket.SHUT_WR)
                    while await self._loop.sock_recv(accepted, 65536):
                        pass
        except TimeoutError:
            pass
        finally:
            self._refusals -= 1
            accepted.close()


def full(request_id: str) -> bytes:
    """The reply to a connection that is one too many."""
    error = overloaded(
        "The gateway has as many connections as it may have.",
        retry_after=1.0,
        code="too_many_connections",
    )
    body = error_body(error, request_id)
    fields = [*error_headers(error, request_id), (b"connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    return b"HTTP/1.1 503 Service Unavailable\r\n%bcontent-length: %d\r\n\r\n%b" % (
        head,
        len(body),
        body,
    )
