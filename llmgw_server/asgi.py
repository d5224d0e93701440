"""ASGI to the core's HTTP-shaped entrance: one `Exchange` per call is its body and its sink.

Rules of this file: nothing here allocates a task or a timer for a call that is answered at once;
`receive()` is watched for the client's departure only after the request body has been drained
(`send()` does not report it on any common server); whatever was started for a call has ended
when the call has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llmgw_core.domain.call import ClientGone, Head
from llmgw_core.domain.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from llmgw_core.domain.call import Body, Headers, Sink

    Handle = Callable[[Head, Body, Sink], Awaitable[object]]

SWEEP_INTERVAL = 0.25
"""Seconds between two looks at the calls in flight."""
SMALL_BODY = 64 * 1024
"""Bytes of an unread request body that a server swallows by itself before a connection ends."""
WRITE_SECONDS = 300.0
"""How long a client may take nothing of its reply, unless somebody says otherwise."""
WRITE_BUFFER = 64 * 1024
"""Bytes not taken by a client, beyond which writers wait; under TLS that would be 512 KiB."""
PIECE = 64 * 1024
"""Bytes of a reply that are handed to the server at once: of what is held while a client stalls,
every layer below would otherwise have a copy."""
LINGER_SECONDS = 2.0
"""How long the rest of an unwanted body is read, so that its sender gets to see the refusal."""


class Exchange:
    """One HTTP exchange: the `Body` and the `Sink` of one call."""

    __slots__ = (
        "_body_ended",
        "_broken_off",
        "_finished",
        "_held",
        "_reader",
        "_receive",
        "_scope",
        "_seen",
        "_send",
        "_sending",
        "_sent",
        "_stuck",
        "ended",
        "gone",
        "on_gone",
        "task",
        "watcher",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.watcher: asyncio.Task[None] | None = None
        self.task = asyncio.current_task()
        self.ended = False
        """The server ended this call; its cancellation is no failure."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._body_ended = False
        self._broken_off = False
        self._finished = False
        self._held: dict[str, Any] | None = None
        self._reader: asyncio.Task[object] | None = None
        self._seen = 0.0
        self._sending = False
        self._sent = 0
        self._stuck = (0, 0.0)

    # ------------------------------------------------------------------ body

    async def read(self, limit: int) -> bytes:
        """The whole request body; see `Body.read`."""
        if self._announced_length() > limit:
            raise too_large(limit)
        self._reader = asyncio.current_task()
        try:
            return await self._assemble(limit)
        except asyncio.CancelledError:
            if self._broken_off and self._reader is not None and self._reader.uncancel() == 0:
                raise too_slow() from None
            raise
        finally:
            self._reader = None

    async def _assemble(self, limit: int) -> bytes:
        receive = self._receive
        body = b""
        rest: list[bytes] | None = None
        size = 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                self.gone = True
                raise ClientGone
            data = event.get("body", b"")
            size += len(data)
            if size > limit:
                raise too_large(limit)
            if not body:
                body = data
            elif data:
                if rest is None:
                    rest = [body]
                rest.append(data)
            if not event.get("more_body", False):
                self._body_ended = True
                return body if rest is None else b"".join(rest)

    def _announced_length(self) -> int:
        """`content-length`, or 0 if there is none (the count while reading decides then)."""
        for name, value in self._scope["headers"]:
            if name == b"content-length":
                return int(value) if value.isdigit() else 0
        return 0

    # ------------------------------------------------------------------ sink

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of the reply, or keep it until the body begins; see `Sink.start`."""
        if self.gone:
            return
        if not self._body_ended and self._http1() and (self._broken_off or self._owes_body()):
            # Nobody wants the rest of the body. HTTP/2 has no such header field.
            headers = [*headers, (b"connection", b"close")]
        head = {"type": "http.response.start", "status": status, "headers": headers}
        for name, value in headers:
            if name == b"content-length" or value.startswith(b"text/event-stream"):
                break
        else:
            # If all of the body comes next, its length goes into the head.
            self._held = head
            return
        try:
            await self._send(head)
        except OSError:
            self._left()

    async def write(self, data: bytes) -> None:
        """Send a part of a stream; the first one starts the watch for the client's departure."""
        if self.gone:
            return
        if self.watcher is None:
            self.watch()
        self._sending = True
        try:
            if self._held is not None:
                head, self._held = self._held, None
                await self._send(head)
            if len(data) > PIECE:
                data = await self._send_all_but_last(data)
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError:
            self._left()
        self._sending = False
        self._sent += 1

    async def finish(self, data: bytes = b"") -> None:
        """Send the last part and end the reply."""
        if self.gone or self._finished:
            return
        # Before the last send, because servers report a disconnect after a complete reply, too.
        self._finished = True
        self._sending = True
        try:
            if self._held is not None:
                if data or self._scope["method"] != "HEAD":
                    length = (b"content-length", b"%d" % len(data))
                    self._held["headers"] = [*self._held["headers"], length]
                await self._send(self._held)
            # Even a small one, or Hypercorn ends a connection that the client means to use again.
            if not self._body_ended and not self._broken_off and self._announced(above=0):
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
                await self._linger()
                data = b""
            if len(data) > PIECE:
                data = await self._send_all_but_last(data)
            await self._send({"type": "http.response.body", "body": data, "more_body": False})
        except OSError:
            self.gone = True
        self._sending = False

    async def _send_all_but_last(self, data: bytes) -> bytes:
        """A large part goes piece by piece, which shows whether its client takes any of it."""
        view = memoryview(data)
        while len(view) > PIECE:
            piece = bytes(view[:PIECE])
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            self._sent += 1
            view = view[PIECE:]
        return bytes(view)

    def _owes_body(self) -> bool:
        """Whether a good part of the request body may still be on its way.

        A server that ends the connection under a client that is still sending resets it, and
        the reply is lost with it.
        """
        return self._announced(above=SMALL_BODY)

    def _announced(self, *, above: int) -> bool:
        """Whether the request has a body of more than so many bytes, or of unknown size."""
        if self._scope["method"] in {"GET", "HEAD"}:
            return False
        for name, value in self._scope["headers"]:
            if name == b"content-length":
                return value.isdigit() and int(value) > above
            if name == b"transfer-encoding":
                return True
        return not self._http1()

    def _http1(self) -> bool:
        return bool(self._scope.get("http_version", "1.1")[0] == "1")

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._body_ended:
                    event = await self._receive()
                    self._body_ended = not event.get("more_body", False)
        except TimeoutError:
            return

    # ------------------------------------------------------------------ the client's departure

    def watch(self) -> None:
        """Start waiting for the client's departure; only once its body has been read."""
        if self._body_ended or self._scope["method"] in {"GET", "HEAD"}:
            self.watcher = asyncio.create_task(self._watch(), name="llmgw client watch")

    async def _watch(self) -> None:
        receive = self._receive
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left()

    def _left(self) -> None:
        if self.gone or self._finished:
            return
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    def look(self, now: float, body_seconds: float, write_seconds: float) -> None:
        """The sweep's look at this call; `now` is monotonic."""
        if self._sending:
            self._look_at_writing(now, write_seconds)
        if self.watcher is not None or self._broken_off:
            return
        if not self._seen:
            self._seen = now
        elif self._body_ended:
            self.watch()
        elif self._reader is not None and now - self._seen >= body_seconds:
            self._broken_off = True
            self._reader.cancel()

    def _look_at_writing(self, now: float, write_seconds: float) -> None:
        """End a call whose client takes nothing any more: it holds a slot and an upstream."""
        sent, since = self._stuck
        if sent != self._sent or not since:
            self._stuck = (self._sent, now)
        elif now - since >= write_seconds:
            if self.on_gone is None or self._finished:
                self.end()
            self._left()

    def end(self) -> None:
        """Cancel the call, because the server cannot wait for it."""
        self.ended = True
        if self.task is not None:
            self.task.cancel()

    async def aclose(self) -> None:
        """End the watch. Idempotent."""
        watcher = self.watcher
        if watcher is not None and not watcher.done():
            watcher.cancel()
            await asyncio.wait((watcher,))


class CallEndpoint:
    """The raw ASGI endpoint of every call: hands it to `handle` and looks after its client.

    `body_seconds` bounds the receipt of a request body, and a client that takes nothing of its
    reply for `write_seconds` is given up, both with the precision of `sweep_interval` (seconds).
    """

    def __init__(
        self,
        handle: Handle,
        *,
        body_seconds: float,
        write_seconds: float = WRITE_SECONDS,
        sweep_interval: float = SWEEP_INTERVAL,
    ) -> None:
        self.handle = handle
        self.body_seconds = body_seconds
        self._write_seconds = write_seconds
        self._interval = sweep_interval
        self._calls: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return len(self._calls)

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, handle: Handle | None = None
    ) -> None:
        """Answer one HTTP request, with `handle` in place of the endpoint's own if given."""
        exchange = Exchange(scope, receive, send)
        path: str = scope["path"]
        root = scope.get("root_path", "")
        if root and path.startswith(root):
            path = path[len(root) :]
        client = scope.get("client")
        head = Head(
            scope["method"],
            path,
            scope["headers"],
            query=scope["query_string"],
            client=client[0] if client else "",
        )
        self._calls.add(exchange)
        if self._timer is None:
            self._arm()
        try:
            await (handle or self.handle)(head, exchange, exchange)
        except asyncio.CancelledError:
            # Asked for by the call itself or by `end_calls`; a server would log it as a crash.
            if not (exchange.gone or exchange.ended):
                raise
        finally:
            self._calls.discard(exchange)
            if exchange.watcher is not None:
                await exchange.aclose()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for call in self._calls:
            call.look(now, self.body_seconds, self._write_seconds)
        if self._calls:
            self._arm()

    def end_calls(self) -> None:
        """Cancel every call in flight; for a server whose drain is over."""
        for call in self._calls:
            call.end()

    def close(self) -> None:
        """Stop looking; for the end of the application."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def too_large(limit: int) -> GatewayError:
    """413: the body is larger than `limit` bytes."""
    return GatewayError(
        413,
        "request_too_large",
        f"The request body is larger than the {limit} bytes that are allowed.",
        should_retry=False,
    )


def too_slow() -> GatewayError:
    """408: the body did not arrive within its deadline."""
    return GatewayError(
        408, "request_timeout", "The request body did not arrive in time.", should_retry=True
    )
