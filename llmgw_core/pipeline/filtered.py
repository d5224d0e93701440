"""Streams that plugins look at before the client does.

A filtered stream keeps the one contract of all streams, counted after the filters: nothing has
happened to the client until the first content leaves the last filter. As long as the filters
hold everything, a failing upstream goes back to the attempts loop, and a filter's rejection is
an ordinary error reply. What an upstream used is read from what it sent, before the filters.

Events are taken one by one, however the upstream's bytes were cut into pieces, and what was let
through before a rejection is handed over before it is told: chunking changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.backends.transport.port import TransportError
from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.reply import Reply
from llmgw_core.pipeline.endings import broken, drain, end_of
from llmgw_core.pipeline.failures import classified, let_go
from llmgw_core.wire.sse import EventSplitter, event_data
from llmgw_core.wire.stream_event import UNREADABLE, StreamEvent, read_event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.backends.port import StreamReader
    from llmgw_core.backends.transport.port import UpstreamReply
    from llmgw_core.hooks.filters import FilterChain
    from llmgw_core.hooks.judging import StreamJudges
    from llmgw_core.pipeline.endings import Held
    from llmgw_core.pipeline.exchange import Exchange


class FilteredStream:
    """One stream of one attempt on its way through a chain of filters."""

    __slots__ = (
        "_chain",
        "_clock",
        "_committed",
        "_exchange",
        "_held",
        "_limit",
        "_reader",
        "_reply",
        "_splitter",
        "_start_reply",
        "_substantial",
    )

    def __init__(
        self,
        exchange: Exchange,
        reply: UpstreamReply,
        reader: StreamReader,
        chain: FilterChain,
        *,
        start: Callable[[], Awaitable[None]],
        held: Held,
        clock: Callable[[], float],
    ) -> None:
        """`start` sends the head of the reply."""
        self._exchange = exchange
        self._reply = reply
        self._reader = reader
        self._chain = chain
        self._start_reply = start
        self._clock = clock
        self._splitter = EventSplitter()
        self._limit = held
        self._held: list[bytes] = []
        self._substantial = False
        self._committed = False

    async def deliver(self) -> None:
        """Hand the stream over. Before the content commit it raises what a stream without
        filters raises, and `GatewayError` when a filter rejects; after it, `GatewayError` only,
        with the books settled."""
        exchange, reader = self._exchange, self._reader
        try:
            marker = await self._filtered()
        except GatewayError as error:
            self._reply.abort()
            await self._hand_over()
            exchange.ticket.stopped(error, committed=self._committed, replied=exchange.replied)
            raise
        if marker is None:
            return
        if not self._committed:  # a reply without content
            await self._start()
        exchange.ticket.complete(reader, gone=exchange.sink.gone)
        await exchange.sink.finish(self._taken() + marker)
        exchange.work_on_when_gone()
        await drain(self._reply)

    async def _filtered(self) -> bytes | None:
        """Everything up to the end marker, which is returned; None when the stream broke after
        the content commit and the client has been told."""
        reply, reader = self._reply, self._reader
        try:
            try:
                while not reader.done and (data := await reply.chunk()):
                    await self._take(reader.feed(data))
                    await self._hand_over()
                tail = reader.end()
            except TransportError as error:
                tail = end_of(reader, error)
            rest, marker = split_end(tail)
            await self._take(rest)
            await self._take_left()
            await self._chain.finish(self._let_out)
        except (TransportError, UpstreamFailure) as error:
            if not self._committed:
                raise
            await self._break(error)
            return None
        return marker

    async def _take(self, block: bytes) -> None:
        """Whole events of the upstream into the chain."""
        for raw in self._splitter.feed(block) if block else ():
            await self._take_event(raw)

    async def _take_left(self) -> None:
        """An event whose last line end might have been half of one."""
        raw = self._splitter.flush()
        if raw.strip():
            await self._take_event(raw)

    async def _take_event(self, raw: bytes) -> None:
        try:
            event = read_event(raw)
        except UNREADABLE:
            raise UpstreamFailure("protocol", "an event of the stream is not valid") from None
        if event is None:
            self._held.append(raw)  # a comment, which is nobody's business
        else:
            await self._chain.feed(event, self._let_out)

    def _let_out(self, event: StreamEvent) -> None:
        self._held.append(event.raw)
        self._substantial = self._substantial or event.substantial

    async def _hand_over(self) -> None:
        """Give the client what has left the chain; before the first content, nothing."""
        if not self._committed:
            limit = self._limit
            small = sum(map(len, self._held)) <= limit.size and len(self._held) <= limit.events
            if not self._substantial and small:
                return
            await self._start()
        if self._held:
            await self._exchange.sink.write(self._taken())

    async def _start(self) -> None:
        self._committed = True
        self._exchange.ticket.first_content = self._clock()
        if self._exchange.trial is not None:
            self._exchange.trial()
        await self._start_reply()

    def _taken(self) -> bytes:
        taken = b"".join(self._held)
        self._held.clear()
        return taken

    async def _break(self, error: TransportError | UpstreamFailure) -> None:
        """The upstream broke after the content commit. What it had said is judged to its end."""
        failure = error if isinstance(error, UpstreamFailure) else classified(error)
        let_go(error)
        self._reply.abort()
        try:
            await self._take(self._reader.pending())
            await self._chain.finish(self._let_out)
        except UpstreamFailure:
            pass  # the failure that is told already
        await broken(self._exchange, self._taken(), failure)


def split_end(tail: bytes) -> tuple[bytes, bytes]:
    """The last events of a stream, and its end marker in the upstream's own spelling."""
    events = EventSplitter().feed(tail)
    marker = (
        events.pop() if events and (event_data(events[-1]) or b"").strip() == b"[DONE]" else b""
    )
    return tail[: len(tail) - len(marker)], marker


async def judged_whole(
    judges: StreamJudges,
    reply: UpstreamReply,
    reader: StreamReader,
    *,
    usage_wanted: bool,
    reply_bytes: int,
) -> bytes:
    """A stream for plugins of which at least one can judge complete replies only: read to its
    end marker, through all plugins, as events again. Raises `GatewayError`, `UpstreamFailure` and
    `TransportError`; the client has seen nothing."""
    events = bytearray()
    try:
        while not reader.done and (data := await reply.chunk()):
            events += reader.feed(data)
            if len(events) > reply_bytes:
                raise UpstreamFailure("protocol", "the stream is too large to be judged whole")
        tail = reader.end()
    except TransportError as error:
        tail = end_of(reader, error)
    rest, _ = split_end(tail)
    events += rest
    answer = Reply(b"", reader.usage, reader.output_bytes)
    return await judges.judge(answer, bytes(events), usage_wanted=usage_wanted)
