"""One call on uvicorn: what `uvicorn_protocol` puts in the place of uvicorn's own cycle."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from llmgw_core.domain.call import ClientGone, State
from llmgw_server.asgi import LINGER_SECONDS, PIECE, SMALL_BODY, too_large, too_slow

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.call import Head, Headers
    from llmgw_server.uvicorn_protocol import CallProtocol

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {
    # Upstreams refuse with numbers of their own, too.
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()
    for status in range(100, 600)
}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class CallCycle(State):
    """One call: the `Body` and the `Sink` of the core, and what uvicorn's protocol needs of a
    cycle. The head of a reply leaves with the first part of its body, in one write."""

    protocol: CallProtocol
    head: Head
    keep_alive: bool
    waiting_for_100_continue: bool = False
    body: bytes | bytearray = b""
    more_body: bool = True
    gone: bool = False
    on_gone: Callable[[], None] | None = None
    ended: bool = False
    """The server ended this call; its cancellation is no failure."""
    disconnected: bool = False
    response_complete: bool = False
    waiter: asyncio.Future[None] | None = None
    """Set while the call waits for its body."""
    task: asyncio.Task[None] | None = None
    _head: bytes = b""
    _chunked: bool = False

    @property
    def begun(self) -> bool:
        """Whether a part of the reply may have reached the client."""
        return self._chunked or self.response_complete

    @property
    def message_event(self) -> CallCycle:
        """Uvicorn tells by `message_event.set()` that something has changed. No attribute: every
        call would be a reference cycle, and memory of the garbage collector's."""
        return self

    def set(self) -> None:
        """Something has changed: more of the body, its end, or the client's departure."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.disconnected and not self.gone and not self.response_complete:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()

    def close(self) -> None:
        """The call is over: without its reply, if there has been none until now."""
        if not self.response_complete:
            self.response_complete = True
            self.protocol.transport.close()

    def end(self) -> None:
        """Cancel the call, because the server cannot wait for it."""
        self.ended = True
        if self.task is not None:
            self.task.cancel()

    # ------------------------------------------------------------------ body

    def take_in(self, data: bytes) -> None:
        """Keep a part of the body. Mostly it is all of it, which is kept as it came."""
        body = self.body
        if not body:
            self.body = data
            return
        if type(body) is bytes:
            body = self.body = bytearray(body)
        body += data

    def arrived(self, limit: int) -> bytes | None:
        """See `Body`."""
        if self.more_body or len(self.body) > limit:
            return None
        body, self.body = self.body, b""
        return body if type(body) is bytes else bytes(body)

    async def read(self, limit: int) -> bytes:
        """See `Body.read`."""
        if self.more_body or len(self.body) > limit:
            await self._receive(limit)
        body, self.body = self.body, b""
        return bytes(body)

    async def _receive(self, limit: int) -> None:
        protocol = self.protocol
        if announced_length(self.head) > limit:
            raise too_large(limit)
        if self.waiting_for_100_continue and not self.disconnected:
            self.waiting_for_100_continue = False
            protocol.transport.write(_CONTINUE)
        try:
            async with asyncio.timeout(protocol.body_seconds):
                while self.more_body and len(self.body) <= limit and not self.disconnected:
                    protocol.flow.resume_reading()
                    await self._changed()
        except TimeoutError:
            self.keep_alive = False  # the rest of the body may dribble in for ever
            raise too_slow() from None
        if self.disconnected:
            self.gone = True
            raise ClientGone
        if len(self.body) > limit:
            raise too_large(limit)

    async def _changed(self) -> None:
        self.waiter = self.protocol.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    # ------------------------------------------------------------------ sink

    async def start(self, status: int, headers: Headers) -> None:
        """See `Sink.start`."""
        lines = b"".join([b"%b: %b\r\n" % field for field in headers])
        if not lines.count(b"\n") == lines.count(b"\r") == len(headers):
            raise ValueError("a header of the reply contains a line end")
        self.start_lines(status, lines)

    def start_lines(self, status: int, lines: bytes) -> None:
        """See `Sink`."""
        if self.more_body and (self.waiting_for_100_continue or self._unread()):
            # Whether a client that was not told to go on sends its body, nobody can know: its
            # next request might be taken for that body.
            self.keep_alive = False
        if not self.keep_alive:
            lines += b"connection: close\r\n"
        self._head = STATUS_LINES[status] + lines

    def reply_lines(self, status: int, lines: bytes, body: bytes) -> bool:
        """See `Sink`."""
        protocol = self.protocol
        if self.more_body or self.response_complete or self.gone or protocol.flow.write_paused:
            return False
        if not self.keep_alive:
            lines += b"connection: close\r\n"
        head = (STATUS_LINES[status], lines, len(body), body)
        reply = b"%b%bcontent-length: %d\r\n\r\n%b" % head
        protocol.outbox.put(protocol.transport, reply)
        self.response_complete = True
        protocol.replied(keep_alive=self.keep_alive)
        return True

    async def write(self, data: bytes) -> None:
        """See `Sink.write`."""
        if self.gone or not data:
            return
        if len(data) > PIECE:
            await self._write_pieces(data)
            return
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        if not self._chunked:
            self._chunked = True
            chunk = self._head + b"transfer-encoding: chunked\r\n\r\n" + chunk
        protocol = self.protocol
        protocol.transport.write(chunk)
        if protocol.flow.write_paused:
            await self._drain()

    async def _write_pieces(self, data: bytes) -> None:
        """What is held of a large part while its client stalls is held once, not in each layer."""
        for start in range(0, len(data), PIECE):
            await self.write(data[start : start + PIECE])

    async def finish(self, data: bytes = b"") -> None:
        """See `Sink.finish`."""
        if self.gone or self.response_complete:
            return
        protocol = self.protocol
        if protocol.flow.write_paused:
            # A client that asks on and reads nothing must not fill the memory with replies.
            await self._drain()
            if self.disconnected:
                return
        if not self._chunked:
            reply = b"%bcontent-length: %d\r\n\r\n%b" % (self._head, len(data), data)
        elif data:
            reply = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        else:
            reply = b"0\r\n\r\n"
        if self.more_body and not self.keep_alive:
            protocol.transport.write(reply)
            await self._linger()
        else:
            protocol.outbox.put(protocol.transport, reply)
        self.response_complete = True
        protocol.replied(keep_alive=self.keep_alive)

    async def _drain(self) -> None:
        """Wait until the client has taken what lies ready, but not for ever: a call holds its
        slot, its connection and its upstream."""
        protocol = self.protocol
        left = protocol.transport.get_write_buffer_size()
        while True:
            try:
                async with asyncio.timeout(protocol.write_seconds):
                    await protocol.flow.drain()
                    return
            except TimeoutError:
                before, left = left, protocol.transport.get_write_buffer_size()
                if left < before:
                    continue  # it is slow, and there
                protocol.transport.abort()
                self.disconnected = True
                self.set()
                return

    def _unread(self) -> bool:
        """Whether a good part of the request body may still be on its way."""
        announced = announced_length(self.head)
        chunked = self.head.get(b"transfer-encoding") is not None
        return chunked or announced - len(self.body) > SMALL_BODY

    async def _linger(self) -> None:
        """Read on for a while: to close under a client that is still sending would reset the
        connection, and the reply would be lost with it."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while self.more_body and not self.disconnected:
                    self.body = b""
                    self.protocol.flow.resume_reading()
                    await self._changed()
        except TimeoutError:
            return


def announced_length(head: Head) -> int:
    """`content-length`, or 0 if there is none."""
    value = head.get(b"content-length")
    return int(value) if value is not None and value.isdigit() else 0
