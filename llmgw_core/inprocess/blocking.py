"""The same calls for code that waits in its own thread: scripts, notebooks, web frameworks without
an event loop.

Any number of threads may use one caller at the same time; a stream belongs to one thread at a time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Self

from llmgw_core.inprocess.replies import Accounted, ChatEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from openai import OpenAI

    from llmgw_core.inprocess.caller import Caller
    from llmgw_core.inprocess.portal import Portal
    from llmgw_core.inprocess.replies import ChatReply, EmbeddingReply, Json
    from llmgw_core.inprocess.stream import ChatStream


class BlockingCaller:
    """A `Caller` whose methods wait. They raise what those of `Caller` raise."""

    def __init__(self, caller: Caller, portal: Portal) -> None:
        self._caller = caller
        self._portal = portal

    def chat(
        self,
        *,
        model: str,
        messages: Sequence[object],
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> ChatReply:
        """See `Caller.chat`."""
        call = self._caller.chat(model=model, messages=messages, headers=headers, **fields)
        return self._portal.run(call)

    def chat_stream(
        self,
        *,
        model: str,
        messages: Sequence[object],
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> BlockingChatStream:
        """A streamed chat completion whose reply has begun: iterate over its events."""
        stream = self._caller.chat_stream(model=model, messages=messages, headers=headers, **fields)
        return BlockingChatStream(stream, self._portal)

    def embed(
        self,
        *,
        model: str,
        input: str | Sequence[object],
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> EmbeddingReply:
        """See `Caller.embed`."""
        call = self._caller.embed(model=model, input=input, headers=headers, **fields)
        return self._portal.run(call)

    def models(self, *, headers: Mapping[str, str] | None = None) -> list[Json]:
        """See `Caller.models`."""
        return self._portal.run(self._caller.models(headers=headers))

    def openai(self, **options: Any) -> OpenAI:
        """See `Caller.openai`."""
        return self._caller.blocking_client(options)


class BlockingChatStream(Accounted):
    """An iterator over the events of a `ChatStream`. It ends the call when it is closed, when its
    `with` block is left, and when nobody refers to it any more, as after a `break`."""

    def __init__(self, stream: ChatStream, portal: Portal) -> None:
        self._portal = portal
        self._stream: ChatStream | None = None
        self._events: deque[ChatEvent] = deque()
        self._stream = portal.run(stream.__aenter__())
        self.request_id = stream.request_id
        self.headers = stream.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatEvent:
        """The next event. Raises `GatewayError` when the stream breaks off."""
        if not self._events and self._stream is not None:
            self._events.extend(self._portal.run(self._stream.batch()))
            self.record = self._stream.record
        if not self._events:
            raise StopIteration
        return self._events.popleft()

    def close(self) -> None:
        """End the call and wait until it has settled. Idempotent."""
        self._events.clear()
        stream, self._stream = self._stream, None
        if stream is not None:
            self._portal.release(stream)

    def __del__(self) -> None:
        if self._stream is not None:
            # Not waiting: a finalizer may run in any thread at any moment.
            self._portal.soon(self._stream.leave)
