"""The short way for calls on uvicorn: from its HTTP parser straight into the core, without ASGI.

ASGI's dictionaries, its checks of every header and its two writes per reply cost more than the
rest of the adapter. uvicorn lets one choose its HTTP protocol class, so this one subclasses its
own: parsing, pipelining, flow control and shutdown stay uvicorn's; a request below `/v1/` gets a
`CallCycle` in place of uvicorn's request-response cycle, and everything else goes the usual way.

A head has a deadline of its own: the first one from the start of the connection, a later one
from when its first part was seen, with the precision of a look (`_LOOKS` of them in that time).

It relies on the names that `HttpToolsProtocol` uses of a cycle (`body`, `more_body`,
`message_event`, `response_complete`, `disconnected`, `keep_alive`), which is why the extra `fast`
bounds uvicorn's version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from llmgw_core.domain.call import Head
from llmgw_core.domain.errors import head_too_large, not_http
from llmgw_server.asgi import WRITE_BUFFER
from llmgw_server.broken_requests import origin_form
from llmgw_server.identity import entrance_of
from llmgw_server.outbox import Outbox
from llmgw_server.uvicorn_calls import CallCycle
from llmgw_server.uvicorn_endings import Broken, Endings
from llmgw_server.uvicorn_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.config.schema import CertificateRule
    from llmgw_server.app import Surface
    from llmgw_server.asgi import Handle

CALLS = b"/v1/"
PAGES = b"/v1/organization/"
_SPECIAL = frozenset((b"expect", b"transfer-encoding"))
_KEEPING = frozenset((b"connection", b"proxy-connection"))
"""Headers by which a client of another version asks that the connection be kept."""
_VERSIONS = ("1.1", "1.0")
_METHODS = {b"POST": "POST", b"GET": "GET"}
_PATHS = {path.encode(): path for path in ("/v1/chat/completions", "/v1/embeddings")}
"""What nearly all calls ask for, as it comes and as it is meant."""
_GRAIN = 0.01
"""Seconds that a timer may be early."""
_LOOKS = 4
"""Looks at a head during its time: it ends that much of the time late at most."""


class _HeadTooLarge(Exception):
    """Ends the parsing."""


class CallProtocol(Endings):
    """uvicorn's HTTP protocol with the short way. Use a subclass made by `protocol_class`."""

    handle: Handle
    rules: Sequence[CertificateRule]
    body_seconds: float
    head_seconds: float
    head_bytes: int
    """Of an incomplete head, or of trailers and other framing of a body between two parts of it."""
    cycles: set[CallCycle]
    ended_with: Callable[[object], None]
    """Called when the connection is no more."""
    _worker: Worker | None = None
    _framing = 0
    """Bytes received since the last whole head or part of a body."""
    _in_head = True
    _unsent = 0
    """Bytes of replies that the client had not taken when its keep-alive time was over."""
    _first = True
    """No head has come yet."""
    _partial_since: float | None = None
    """Since when a part of a head is there (loop time)."""
    _waiting_since: float | None = None
    """Since when the next whole head is waited for (loop time); None while a call runs."""

    def connection_made(self, transport: Any) -> None:
        """As uvicorn; and from now on the first head has to come."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        if self.rules:
            handle = entrance_of(self.surface, self.rules, transport)
            if handle is not None:
                self.handle = handle
                self.app = self.surface.with_handle(handle)
        self._partial_since = self._waiting_since = self.loop.time()
        self._arm(self.head_seconds / _LOOKS)

    def _await_head(self) -> None:
        # One timer for the life of the connection, which looks at the time when it fires:
        # arming and cancelling one for every request costs more than parsing it.
        self._waiting_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._partial_since = None
            self._arm(min(self.timeout_keep_alive, self.head_seconds / _LOOKS))

    def _arm(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._look_at_time)

    def _look_at_time(self) -> None:
        self.timeout_keep_alive_task = None
        since = self._waiting_since
        if since is None:
            return
        now = self.loop.time()
        if self._head_is_late(now, since):
            self.transport.abort()
            return
        left = since + self.timeout_keep_alive - now
        if left <= _GRAIN:
            unsent = self.transport.get_write_buffer_size()
            if not unsent:
                self.transport.close()
                return
            if unsent == self._unsent:
                # The client has taken nothing for a whole period; `close` would wait for ever.
                self.transport.abort()
                return
            self._unsent = unsent
            self._waiting_since = now
            left = float(self.timeout_keep_alive)
        self._arm(min(left, self.head_seconds / _LOOKS))

    def _head_is_late(self, now: float, waiting_since: float) -> bool:
        """Whether the head that has begun, or the first one, takes longer than it may."""
        since = self._partial_since
        if since is not None and since < waiting_since:
            since = None  # that was a head before
        if not self._framing and not self._first:
            since = None
        elif since is None:
            since = now
        self._partial_since = since
        return since is not None and now - since >= self.head_seconds - _GRAIN

    def data_received(self, data: bytes) -> None:
        """As uvicorn, which would let a head grow without end."""
        self._framing += len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                again = self._without_upgrade(data[upgrade.args[0] :])
                self.parser.feed_data(again)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            large = isinstance(error.__context__, _HeadTooLarge)
            self._reject(head_too_large() if large else not_http())
            return
        if self._framing > self.head_bytes and not self.transport.is_closing():
            self._reject(head_too_large())

    def _without_upgrade(self, rest: bytes) -> bytes:
        """The request once more, without its wish for another protocol, which nobody has to
        follow (RFC 9110, section 7.8); and a new parser for it: the old one believes that the
        body belongs to that protocol."""
        parser = self.parser
        lines = [
            b"%b %b HTTP/%b" % (parser.get_method(), self.url, parser.get_http_version().encode())
        ]
        for name, value in self.headers:
            if name not in (b"connection", b"upgrade"):
                lines.append(name + b": " + value)
            elif name == b"connection" and b"close" in value.lower():
                lines.append(b"connection: close")
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join((*lines, b"", rest))

    # The next three say what uvicorn's own would: they are called for every request, and calling
    # on to those would cost more than what they do.

    def on_message_complete(self) -> None:
        """As uvicorn."""
        cycle: Any = self.cycle
        if not (self.parser.should_upgrade() or cycle.response_complete):
            cycle.more_body = False
            if type(cycle) is not CallCycle or cycle.waiter is not None:
                cycle.message_event.set()
            if self.flow.read_paused and not self.pipeline:
                # A large body held the reading up, without which nobody sees the client leave.
                self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """As uvicorn."""
        self._framing = 0
        cycle: Any = self.cycle
        if cycle.response_complete:
            return
        if type(cycle) is not CallCycle:
            cycle.body += body
        elif cycle.body:
            cycle.take_in(body)
        else:
            cycle.body = body  # mostly all of it
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        if type(cycle) is not CallCycle or cycle.waiter is not None:
            cycle.message_event.set()

    def on_header(self, name: bytes, value: bytes) -> None:
        """As uvicorn, but a trailer is no header: it came after the caller was identified."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def _mind_special_headers(self) -> None:
        for name, value in self.headers:
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                raise ValueError("a transfer coding other than chunked")  # makes the parser refuse

    def shutdown(self) -> None:
        """As uvicorn, behind the replies that wait to be written."""
        self.outbox.flush()
        super().shutdown()

    def _unset_keepalive_if_required(self) -> None:
        """Nothing: a part of a head must not prolong the wait for all of it."""

    def on_response_complete(self) -> None:
        """As uvicorn, but for the timer, and more is read only when nothing waits."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._abort_unread()
            return
        waiting = self.pipeline.pop() if self.pipeline else None
        if self.flow.read_paused and not self.pipeline:
            # Not before: each packet can hold thousands of requests, a reply answers one.
            self.flow.resume_reading()
        if waiting is not None:
            self._start_asgi_task(*waiting)
        else:
            self._await_head()

    def on_message_begin(self) -> None:
        """As uvicorn, but the scope is made only for requests that go the usual way."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Choose the way. HTTP/1.0, which knows no chunks, goes the usual one."""
        parser, url = self.parser, self.url
        if parser.should_upgrade():
            return  # it comes again without that wish
        self._waiting_since = None
        self._first = False
        if self._framing > self.head_bytes and self._head_size() > self.head_bytes:
            raise _HeadTooLarge
        self._framing = 0
        self._in_head = False
        headers = self.headers
        # Backwards, so that of several values the first one stays.
        fields = dict(headers[::-1])
        if not _SPECIAL.isdisjoint(fields):
            self._mind_special_headers()
        method = _METHODS.get(parser.get_method())
        path, query = _PATHS.get(url, ""), b""
        keep_alive = parser.should_keep_alive()
        # Only HTTP/1.1 is kept without asking; to make the text of a version takes longer.
        plain = keep_alive and _KEEPING.isdisjoint(fields)
        if not (
            (path or (url.startswith(CALLS) and not url.startswith(PAGES)))
            and method is not None
            and (plain or parser.get_http_version() == "1.1")
        ):
            if parser.get_http_version() not in _VERSIONS:
                raise ValueError("not HTTP/1.1")  # makes the parser refuse
            if not url.startswith(b"/"):
                url = origin_form(url)
            expected = self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expected
            self.headers.extend(headers)
            super().on_headers_complete()
            return
        if not path:
            raw_path, _, query = url.partition(b"?")
            path = unquote(raw_path.decode("latin-1"))
        client = self.client
        head = Head(method, path, headers, query, client[0] if client else "", fields)
        before: Any = self.cycle
        cycle: Any = CallCycle(self, head, keep_alive, self.expect_100_continue)
        self.cycle = cycle
        if before is None or before.response_complete:
            # `_start_call`, written out: nearly every call comes through here.
            self._running = cycle
            worker = self._worker
            if worker is None:
                worker = self._worker = Worker(self.loop, self.tasks, self.cycles)
            worker.take(cycle, self.handle)
        else:
            # Pipelined: its turn comes when the reply before has been sent.
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _head_size(self) -> int:
        """About the bytes of the head."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, CallCycle):
            if isinstance(cycle, Broken):
                self._send_refusal(cycle.error)
                return
            self._running = None
            super()._start_asgi_task(cycle, app)
            return
        self._start_call(cycle)

    def _start_call(self, cycle: CallCycle) -> None:
        self._running = cycle
        if self._worker is None:
            self._worker = Worker(self.loop, self.tasks, self.cycles)
        self._worker.take(cycle, self.handle)

    def replied(self, *, keep_alive: bool) -> None:
        """The reply of the running call has been written."""
        self._running = None
        if not keep_alive:
            self.outbox.flush()
            self.transport.close()
        elif not (self.pipeline or self.flow.read_paused or self.transport.is_closing()):
            # The same as below for what is usual.
            self.server_state.total_requests += 1
            self._waiting_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._await_head()
            return
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
        if self._worker is not None:
            self._worker.close()
        self.ended_with(self)

    def abort(self) -> None:
        """End the connection without waiting for anybody."""
        if self.transport is not None:
            self.transport.abort()


def protocol_class(
    surface: Surface,
    *,
    rules: Sequence[CertificateRule],
    cycles: set[CallCycle],
    body_seconds: float,
    head_seconds: float,
    write_seconds: float,
    head_bytes: int,
) -> type[CallProtocol]:
    """A protocol class that hands calls to `surface`; `cycles` holds those in flight, so that
    whoever ends the server can end them."""
    handle = surface.handle or surface.no_calls
    attributes = {
        "handle": staticmethod(handle),
        "surface": surface,
        "rules": rules,
        "body_seconds": body_seconds,
        "head_seconds": head_seconds,
        "write_seconds": write_seconds,
        "head_bytes": head_bytes,
        "cycles": cycles,
        "outbox": Outbox(),
    }
    made = type("GatewayProtocol", (CallProtocol,), attributes)
    surface.protocols.append(made)
    return made
