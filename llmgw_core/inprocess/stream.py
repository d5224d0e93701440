"""A streamed chat completion, event by event.

Leaving the `async with` block, in whatever way, ends the call: what was used until then is on the
books, and the upstream has stopped (or goes on to its end in the background, where its deployment
says `on_disconnect: drain`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import msgspec

from llmgw_core.inprocess.refusal import refusal, stream_error, unreadable
from llmgw_core.inprocess.replies import Accounted, ChatEvent
from llmgw_core.wire.sse import EventSplitter, event_data

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from llmgw_core.domain.errors import GatewayError
    from llmgw_core.inprocess.calls import InProcessCall

_decode = msgspec.json.Decoder(dict).decode
_END = b"[DONE]"


class ChatStream(Accounted):
    """An asynchronous context manager and iterator. `request_id` and `headers` (names in lower
    case) are known inside the block; `usage`, `cost` and `charge` after the last event."""

    def __init__(self, begin: Callable[[], InProcessCall]) -> None:
        self.headers: dict[str, str] = {}
        self._begin = begin
        self._call: InProcessCall | None = None
        self._splitter = EventSplitter()
        self._events: deque[ChatEvent] = deque()
        self._error: GatewayError | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        """Start the call and wait until its reply begins. Raises `GatewayError`."""
        if self._call is not None:
            raise RuntimeError("A stream is entered once; every call is a new chat_stream().")
        call = self._call = self._begin()
        try:
            status, fields = await call.head()
            self.headers = dict(fields)
            self.request_id = self.headers.get("x-request-id", "")
            if status != 200:
                raise refusal(status, self.headers, await call.read_all())
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatEvent:
        """The next event. Raises `GatewayError` when the stream breaks off."""
        if not self._events and not await self._more():
            raise StopAsyncIteration
        return self._events.popleft()

    async def batch(self) -> list[ChatEvent]:
        """The events that have arrived, at least one; none at the end of the stream. Raises
        `GatewayError` when the stream breaks off."""
        if not self._events:
            await self._more()
        events = list(self._events)
        self._events.clear()
        return events

    async def aclose(self) -> None:
        """End the call. Idempotent."""
        self._ended = True
        self._events.clear()
        if self._call is not None:
            await self._call.aclose()

    def leave(self) -> None:
        """End the call without waiting until it has settled. Idempotent."""
        self._ended = True
        self._events.clear()
        if self._call is not None:
            self._call.leave()

    async def _more(self) -> bool:
        """Wait for further events; False when there are none, because the stream is over."""
        if self._call is None:
            raise RuntimeError("Enter the stream first: `async with gateway.chat_stream(...)`.")
        while not self._events:
            if self._ended:
                return False
            if self._error is None and (data := await self._call.read()):
                self._take(data)
            else:
                await self._finish(self._call)
        return True

    def _take(self, data: bytes) -> None:
        for event in self._splitter.feed(data):
            content = event_data(event)
            if content is None or content == _END:
                continue
            try:
                chunk = _decode(content)
            except (msgspec.DecodeError, RecursionError):
                self._error = unreadable(self.request_id)
                return
            if "error" in chunk and "choices" not in chunk:
                self._error = stream_error(chunk, self.request_id)
                return
            self._events.append(ChatEvent(chunk))

    async def _finish(self, call: InProcessCall) -> None:
        self._ended = True
        if self._error is not None:
            # What broke off is settled already; what we do not understand is not.
            await call.aclose()
        self.record = await call.record()
        if self._error is not None:
            raise self._error
