"""The short way for calls on uvicorn: from its HTTP parser straight into the core, without ASGI.

ASGI's dictionaries, its checks of every header and its two writes per reply cost more than the
rest of the adapter. uvicorn lets one choose its HTTP protocol class, so this one subclasses its
own: parsing, pipelining, flow control and shutdown stay uvicorn's; a request below `/v1/` gets a
`CallCycle` in place of uvicorn's request-response cycle, and everything else goes the usual way.
The keep-alive time is also the deadline of a head.

It relies on the names that `HttpToolsProtocol` uses of a cycle (`body`, `more_body`,
`message_event`, `response_complete`, `disconnected`, `keep_alive`), which is why the extra `fast`
bounds uvicorn's version.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmgw_core.domain.call import ClientGone, Head
from llmgw_server.asgi import LINGER_SECONDS, SMALL_BODY, too_large, too_slow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.domain.call import Body, Headers, Sink

    Handle = Callable[[Head, Body, Sink], Awaitable[None]]

CALLS = b"/v1/"
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}
_GRAIN = 0.01
"""Seconds that a timer may be early."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class CallCycle:
    """One call: the `Body` and the `Sink` of the core, and what uvicorn's protocol needs of a
    cycle. The head of a reply leaves with the first part of its body, in one write."""

    __slots__ = (
        "_chunked",
        "_head",
        "_owed",
        "_protocol",
        "_waiter",
        "body",
        "disconnected",
        "ended",
        "gone",
        "head",
        "keep_alive",
        "message_event",
        "more_body",
        "on_gone",
        "response_complete",
        "task",
        "waiting_for_100_continue",
    )

    def __init__(self, protocol: CallProtocol, head: Head, *, keep_alive: bool) -> None:
        self.head = head
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.ended = False
        """The server ended this call; its cancellation is no failure."""
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.waiting_for_100_continue = False
        self.message_event = self
        """uvicorn tells by `message_event.set()` that one of the above has changed."""
        self._protocol = protocol
        self._head = b""
        self._chunked = False
        self._owed = 0
        self._waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def set(self) -> None:
        """Something has changed: more of the body, its end, or the client's departure."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.disconnected and not self.gone and not self.response_complete:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()

    async def run(self, handle: Handle) -> None:
        """Answer the request."""
        try:
            await handle(self.head, self, self)
        except asyncio.CancelledError:
            # Asked for by the call itself or by `end`.
            if not (self.gone or self.ended):
                raise
        finally:
            if not self.response_complete:
                self.response_complete = True
                self._protocol.transport.close()
            self._protocol.ended(self)

    def end(self) -> None:
        """Cancel the call, because the server cannot wait for it."""
        self.ended = True
        if self.task is not None:
            # One that has not begun to run never comes to its own end.
            self.task.add_done_callback(lambda _: self._protocol.ended(self))
            self.task.cancel()

    # ------------------------------------------------------------------ body

    async def read(self, limit: int) -> bytes:
        """See `Body.read`."""
        if self.more_body or len(self.body) > limit:
            await self._receive(limit)
        body, self.body = bytes(self.body), bytearray()
        return body

    async def _receive(self, limit: int) -> None:
        protocol = self._protocol
        self._owed = announced_length(self.head)
        if self._owed > limit:
            raise too_large(limit)
        if self.waiting_for_100_continue:
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
        self._waiter = self._protocol.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # ------------------------------------------------------------------ sink

    async def start(self, status: int, headers: Headers) -> None:
        """See `Sink.start`."""
        lines = [name + b": " + value for name, value in headers]
        if self.more_body and self._unread():
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close")
        lines.append(b"")
        head = b"\r\n".join(lines)
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
            raise ValueError("a header of the reply contains a line end")
        self._head = _STATUS_LINES[status] + head

    async def write(self, data: bytes) -> None:
        """See `Sink.write`."""
        if self.gone or not data:
            return
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        if not self._chunked:
            self._chunked = True
            chunk = self._head + b"transfer-encoding: chunked\r\n\r\n" + chunk
        protocol = self._protocol
        protocol.transport.write(chunk)
        if protocol.flow.write_paused:
            await protocol.flow.drain()

    async def finish(self, data: bytes = b"") -> None:
        """See `Sink.finish`."""
        if self.gone or self.response_complete:
            return
        if not self._chunked:
            reply = b"%bcontent-length: %d\r\n\r\n%b" % (self._head, len(data), data)
        elif data:
            reply = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        else:
            reply = b"0\r\n\r\n"
        protocol = self._protocol
        if self.more_body and not self.keep_alive:
            protocol.transport.write(reply)
            await self._linger()
        else:
            protocol.outbox.put(protocol.transport, reply)
        self.response_complete = True
        protocol.replied(keep_alive=self.keep_alive)

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
                    self.body.clear()
                    self._protocol.flow.resume_reading()
                    await self._changed()
        except TimeoutError:
            return


class Outbox:
    """Ends of replies that leave together at the end of this turn of the event loop: a client
    process with many calls is woken once for all of them, which under load saves the machine
    more than it costs."""

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data` before the loop waits again."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Write now."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            transport.write(data)


class CallProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with the short way. Use a subclass made by `protocol_class`."""

    handle: Handle
    body_seconds: float
    cycles: set[CallCycle]
    outbox: Outbox
    _running: CallCycle | None = None
    _waiting_since: float | None = None
    """Since when the next whole head is waited for (loop time); None while a call runs."""

    def connection_made(self, transport: Any) -> None:
        """As uvicorn; and from now on the first head has to come."""
        super().connection_made(transport)
        self._await_head()

    def _await_head(self) -> None:
        # One timer for the life of the connection, which looks at the time when it fires:
        # arming and cancelling one for every request costs more than parsing it.
        self._waiting_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self._look_at_time
            )

    def _look_at_time(self) -> None:
        self.timeout_keep_alive_task = None
        since = self._waiting_since
        if since is None:
            return
        left = since + self.timeout_keep_alive - self.loop.time()
        if left <= _GRAIN:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left, self._look_at_time)

    def _unset_keepalive_if_required(self) -> None:
        """Nothing: a part of a head must not prolong the wait for all of it."""

    def on_response_complete(self) -> None:
        """As uvicorn, but for the timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._await_head()

    def on_message_begin(self) -> None:
        """As uvicorn, but the scope is made only for requests that go the usual way."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Choose the way. HTTP/1.0, which knows no chunks, goes the usual one."""
        parser, url = self.parser, self.url
        self._waiting_since = None
        method = parser.get_method()
        if (
            not url.startswith(CALLS)
            or method not in (b"POST", b"GET")
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
        ):
            headers, expected = self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expected
            self.headers.extend(headers)
            super().on_headers_complete()
            return
        raw_path, _, query = url.partition(b"?")
        path = raw_path.decode("latin-1")
        client = self.client
        head = Head(
            method.decode(),
            unquote(path) if "%" in path else path,
            self.headers,
            query=query,
            client=client[0] if client else "",
        )
        before: Any = self.cycle
        cycle: Any = CallCycle(self, head, keep_alive=parser.should_keep_alive())
        cycle.waiting_for_100_continue = self.expect_100_continue
        self.cycle = cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            # Pipelined: its turn comes when the reply before has been sent.
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, CallCycle):
            self._running = None
            super()._start_asgi_task(cycle, app)
            return
        self._running = cycle
        self.cycles.add(cycle)
        cycle.task = self.loop.create_task(cycle.run(type(self).handle))
        self.tasks.add(cycle.task)

    def ended(self, cycle: CallCycle) -> None:
        """The task of a call is about to end."""
        self.cycles.discard(cycle)
        if cycle.task is not None:
            self.tasks.discard(cycle.task)

    def replied(self, *, keep_alive: bool) -> None:
        """The reply of the running call has been written."""
        self._running = None
        if not keep_alive:
            self.outbox.flush()
            self.transport.close()
        self.on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn, which tells only the newest of pipelined requests."""
        running = self._running
        if running is not None:
            self._running = None
            newest: Any = self.cycle
            if running is not newest and not running.response_complete:
                running.disconnected = True
                running.set()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)


def protocol_class(
    handle: Handle, *, body_seconds: float, cycles: set[CallCycle]
) -> type[CallProtocol]:
    """A protocol class that hands calls to `handle`; `cycles` holds those in flight, so that
    whoever ends the server can end them."""
    attributes = {
        "handle": staticmethod(handle),
        "body_seconds": body_seconds,
        "cycles": cycles,
        "outbox": Outbox(),
    }
    return type("GatewayProtocol", (CallProtocol,), attributes)


def announced_length(head: Head) -> int:
    """`content-length`, or 0 if there is none."""
    value = head.get(b"content-length")
    return int(value) if value is not None and value.isdigit() else 0
