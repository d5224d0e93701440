"""A scriptable upstream on a real socket: a test says byte for byte what each connection does.

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(200, b"hello"))
        peer.reset()

    async with Upstream(script) as upstream:
        ...connect to upstream.host, upstream.port...
    assert upstream.requests[0].target == "/v1/models"

The script runs once per connection and the connection is closed when it returns. An exception
that it raises (a failed assertion, say) is raised again when the `async with` block ends; a peer
that has gone away is not an error. It knows HTTP's framing and nothing of what is said in it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Self

from llmgw_core.testing.recorded_request import RecordedRequest, parse_head, read_body

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    Script = Callable[["Peer"], Awaitable[None]]
    """What an upstream does with each connection."""
    Scripted = Callable[[Script], Awaitable["Upstream"]]
    """Opens an upstream (a fixture of tests)."""

_READ_LIMIT = 16 * 1024 * 1024


def http_reply(
    status: int, body: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """A complete reply with `content-length`."""
    lines = [b"HTTP/1.1 %d Status" % status, b"content-length: %d" % len(body)]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", body])


def chunked_head(status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The head of a reply whose body comes in chunks."""
    lines = [b"HTTP/1.1 %d Status" % status, b"transfer-encoding: chunked"]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", b""])


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; empty data is the end of the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Peer:
    """One accepted connection, as its script sees it. Every waiting method ends with
    `ConnectionError` or `asyncio.IncompleteReadError` when the client goes away, which a script
    need not catch."""

    def __init__(
        self,
        upstream: Upstream,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.number = number
        """Counts accepted connections from 0."""
        self._upstream = upstream
        self._reader = reader
        self._writer = writer

    async def request(self) -> RecordedRequest:
        """Read one whole request and record it."""
        return await self.rest(await self.head())

    async def head(self) -> bytes:
        """Read up to the end of a request head and no further; nothing is recorded yet."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def rest(self, head: bytes) -> RecordedRequest:
        """Read the body that belongs to `head` and record the request."""
        method, target, headers = parse_head(head)
        body = await read_body(self._reader, headers)
        return self._upstream.record(
            RecordedRequest(self.number, method, target, headers, head, body)
        )

    async def send(self, data: bytes) -> None:
        """Send, and return when the socket has taken all of it."""
        if self._writer.transport.is_closing():
            raise ConnectionResetError("the client has closed the connection")
        self._writer.write(data)
        await self._writer.drain()

    async def trickle(self, data: bytes, size: int = 1) -> None:
        """Send in pieces of `size` bytes, each in a segment of its own as far as TCP allows."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(0)

    def cut(self) -> None:
        """Close after what was sent (FIN)."""
        self._writer.close()

    def half_close(self) -> None:
        """Send no more, but go on reading (plain TCP only)."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Close at once with RST; what the client has not read yet may be lost. A client that
        was faster has closed the connection already."""
        _reset(self._writer)

    async def stall(self) -> None:
        """Do nothing until `Upstream.release()`."""
        await self._upstream.released.wait()

    async def hold(self) -> None:
        """Do nothing until the client has closed the connection, or `Upstream.release()`; what
        the client still sends is dropped."""
        both = {
            asyncio.ensure_future(self.gone()),
            asyncio.ensure_future(self._upstream.released.wait()),
        }
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()

    async def gone(self) -> None:
        """Return when the client has closed the connection; what it still sends is dropped."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            return

    def buffered(self) -> int:
        """Bytes sent that the socket has not taken yet."""
        return self._writer.transport.get_write_buffer_size()


class Upstream:
    """The server; an asynchronous context manager. `ssl_context` makes it speak TLS; port 0 is
    any that is free, and `port` says which one it is."""

    def __init__(
        self,
        script: Callable[[Peer], Awaitable[None]],
        *,
        ssl_context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.host = host
        self.port = port
        self.requests: list[RecordedRequest] = []
        """Every request that was read to its end."""
        self.accepted = 0
        """Connections accepted so far."""
        self.open = 0
        """Connections whose script is still running."""
        self.released = asyncio.Event()
        self._script = script
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None
        self._closed: socket.socket | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._failures: list[Exception] = []
        self._changed = asyncio.Event()

    def release(self) -> None:
        """End every `Peer.stall()`, present and future."""
        self.released.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition()` holds; it is looked at after every accepted connection,
        recorded request and ended script."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def record(self, request: RecordedRequest) -> RecordedRequest:
        """Note a request (scripts call `Peer.request` instead)."""
        self.requests.append(request)
        self._changed.set()
        return request

    def refuse(self) -> None:
        """From now on connections are refused, and those that are open are reset. The port stays
        ours, so that `listen` can have it again. Idempotent."""
        if self._server is None or self._closed is not None:
            return
        self._server.close()
        for writer in self._tasks.values():
            _reset(writer)
        # Bound, but not listening: the kernel refuses for us, and gives the port to nobody else.
        self._closed = socket.socket(self._family())
        self._closed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._closed.bind((self.host, self.port))

    async def listen(self) -> None:
        """Accept connections again after `refuse`. Idempotent."""
        if self._closed is not None:
            sock, self._closed = self._closed, None
            await self._listen(sock)

    async def _listen(self, sock: socket.socket) -> None:
        self._server = await asyncio.start_server(
            self._accept, sock=sock, ssl=self._ssl_context, limit=_READ_LIMIT, backlog=1024
        )

    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    async def __aenter__(self) -> Self:
        sock = socket.create_server((self.host, self.port), family=self._family(), backlog=1024)
        self.port = sock.getsockname()[1]
        await self._listen(sock)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        if self._closed is not None:
            self._closed.close()
        tasks = dict(self._tasks)
        for task, writer in tasks.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        if self._failures and error is None:
            raise self._failures[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, self.accepted, reader, writer)
        self.accepted += 1
        self.open += 1
        task = asyncio.ensure_future(self._run(peer, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._ended)
        self._changed.set()

    async def _run(self, peer: Peer, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        # Else small pieces would wait for acknowledgements and arrive joined.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self.open -= 1
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, Exception):
                self._failures.append(error)
        self._changed.set()


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.transport.is_closing():
        return
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def repeating(*replies: bytes) -> Callable[[Peer], Awaitable[None]]:
    """A script that answers the requests of all connections with `replies` in turn, the last
    one for ever."""
    queue = list(replies)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(queue.pop(0) if len(queue) > 1 else queue[0])

    return script
