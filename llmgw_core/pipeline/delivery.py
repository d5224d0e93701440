"""Handing a good reply to the client: complete replies and streams, one contract for both.

Order is everything here. The books are settled before the last byte leaves: for a complete reply
before its first byte, for a stream before the end marker. Until the first content of a stream
has been handed over (the content commit) a failure goes back to the attempts loop; after it the
stream ends truthfully, with an error event and without an end marker.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.backends.transport.port import TransportError
from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.foreign import plugin_error
from llmgw_core.hooks.judging import StreamJudges
from llmgw_core.limits.headers import ratelimit_headers, ratelimit_lines
from llmgw_core.pipeline.endings import END, Held, broken, drain, end_of
from llmgw_core.pipeline.failures import classified, let_go
from llmgw_core.pipeline.filtered import FilteredStream, judged_whole
from llmgw_core.wire.envelope import JSON
from llmgw_core.wire.fold import unfold

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from llmgw_core.backends.port import Session, StreamReader
    from llmgw_core.backends.transport.port import UpstreamReply
    from llmgw_core.domain.call import Headers, ReplyLines, StartLines
    from llmgw_core.domain.reply import Reply
    from llmgw_core.hooks.host import Answer, PluginHost
    from llmgw_core.limits.port import Limiter
    from llmgw_core.pipeline.estimates import Estimates
    from llmgw_core.pipeline.exchange import Exchange


class Kind:
    """A kind of reply: its header fields, and the same as lines of an HTTP/1.1 head."""

    def __init__(self, *fields: tuple[bytes, bytes]) -> None:
        self.fields = fields
        self.lines = b"".join(b"%b: %b\r\n" % field for field in fields)


_JSON = Kind(JSON)
_SSE = Kind(
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Delivery:
    """Delivers replies; one per gateway."""

    def __init__(
        self,
        *,
        host: PluginHost,
        limiter: Limiter,
        reply_bytes: int,
        held: Held,
        clock: Callable[[], float],
        estimates: Estimates | None = None,
    ) -> None:
        """`estimates`: where any model has a tokenizer."""
        self._host = host
        self._limiter = limiter
        made: Callable[[Any], bytes] | None = getattr(limiter, "lines", None)
        self._rate_lines = made or self._state_lines
        self._reply_bytes = reply_bytes
        self._held = held
        self._clock = clock
        self._estimates = estimates

    def deliver(
        self, exchange: Exchange, session: Session, reply: UpstreamReply
    ) -> Awaitable[None] | None:
        """Read a 2xx reply and hand it over, in the way that the request asked for. Returns what
        is to be awaited, None when it is done."""
        if not exchange.call.request.stream:
            body = None if self._host.judges else reply.whole(self._reply_bytes)
            if body is None:
                return self._document(exchange, session, reply)
            return self._finish(exchange, session.reply(reply.status, reply.headers, body))
        reader = session.stream(reply.status, reply.headers)
        if reader is None:
            return self._unfolded(exchange, session, reply)
        if self._estimates is not None and exchange.ticket.attempt is not None:
            reader = self._estimates.kept(exchange.ticket.attempt.deployment.model, reader)
        if self._host.judges:
            return self._judged(exchange, reply, reader)
        return self._stream(exchange, reply, reader)

    async def hand_over(self, exchange: Exchange, answer: Answer) -> None:
        """A reply that a hook gave instead of any upstream; nothing was used for it."""
        request, reply = exchange.call.request, answer.reply
        if answer.judges:
            try:
                reply = await self._host.run_post_process(
                    reply, exchange.call, self._reply_bytes, answer.judges
                )
            except UpstreamFailure:  # a plugin's own answer, of which no stream can be made
                raise plugin_error() from None
        body, kind = reply.body, _JSON
        if request.stream:
            try:
                body, kind = unfold(body, usage_wanted=request.usage_wanted) + END, _SSE
            except msgspec.DecodeError:
                raise plugin_error() from None
        exchange.ticket.answered()
        await self._start(exchange, kind)
        await exchange.sink.finish(body)

    def rate_headers(self, exchange: Exchange) -> Sequence[tuple[bytes, bytes]]:
        """What every reply says once it is known what is asked for: `x-ratelimit-*` of the
        tightest meters, and what is announced of the model."""
        lane = exchange.lane
        if lane is None:
            return ()
        return [*ratelimit_headers(*self._limiter.state(lane.bound)), *lane.headers]

    async def start_stream(self, exchange: Exchange) -> None:
        """Send the head of a stream before there is anything in it (the status commit)."""
        await self._send_head(exchange, _SSE)

    async def _start(self, exchange: Exchange, kind: Kind) -> None:
        """Send the head of a good reply, unless a comment has brought it already."""
        if exchange.comments is not None:
            await exchange.comments.stop()
            if exchange.replied:
                return
        await self._send_head(exchange, kind)

    async def _send_head(self, exchange: Exchange, kind: Kind) -> None:
        exchange.replied = True
        sink = exchange.sink
        start_lines: StartLines | None = getattr(sink, "start_lines", None)
        if start_lines is not None:
            start_lines(200, self._lines(exchange, kind))
            return
        await sink.start(200, self._headers(exchange, kind))

    def _headers(self, exchange: Exchange, kind: Kind) -> Headers:
        """The head of a good reply."""
        id = exchange.call.id.encode()
        return [*kind.fields, (b"x-request-id", id), *self.rate_headers(exchange)]

    def _lines(self, exchange: Exchange, kind: Kind) -> bytes:
        """The same as lines."""
        lane = exchange.lane
        assert lane is not None
        rates, id = self._rate_lines(lane.bound), exchange.call.id.encode()
        return b"%bx-request-id: %b\r\n%b%b" % (kind.lines, id, rates, lane.lines)

    def _state_lines(self, bound: Any) -> bytes:
        return ratelimit_lines(*self._limiter.state(bound))

    async def _document(self, exchange: Exchange, session: Session, reply: UpstreamReply) -> None:
        answer = session.reply(reply.status, reply.headers, await reply.read(self._reply_bytes))
        if self._host.judges:
            processed = await self._processed(exchange, answer)
            exchange.ticket.complete(answer, gone=exchange.sink.gone)
            await self._reply(exchange, processed.body)
            return
        waiting = self._finish(exchange, answer)
        if waiting is not None:
            await waiting

    def _finish(self, exchange: Exchange, answer: Reply) -> Awaitable[None] | None:
        """Settle and hand over a complete reply. Returns what is to be awaited."""
        sink, settlement = exchange.sink, exchange.settlement
        assert settlement is not None
        settlement.complete(answer, gone=sink.gone)
        reply_lines: ReplyLines | None = getattr(sink, "reply_lines", None)
        if reply_lines is None or not reply_lines(200, self._lines(exchange, _JSON), answer.body):
            return self._reply(exchange, answer.body)
        exchange.replied = True
        return None

    async def _reply(self, exchange: Exchange, body: bytes) -> None:
        await self._start(exchange, _JSON)
        await exchange.sink.finish(body)

    async def _unfolded(self, exchange: Exchange, session: Session, reply: UpstreamReply) -> None:
        body = await reply.read(self._reply_bytes)
        await self._finish_unfolded(exchange, session.reply(reply.status, reply.headers, body))

    async def _processed(self, exchange: Exchange, answer: Reply) -> Reply:
        """The answer after the plugins; one that rejects it is still paid for."""
        if not self._host.judges:
            return answer
        exchange.ticket.received(answer)
        try:
            return await self._host.run_post_process(answer, exchange.call, self._reply_bytes)
        except GatewayError as error:
            exchange.ticket.rejected(answer, error)
            raise

    async def _finish_unfolded(self, exchange: Exchange, answer: Reply) -> None:
        """A complete reply for a client that asked for a stream."""
        processed = await self._processed(exchange, answer)
        try:
            events = unfold(processed.body, usage_wanted=exchange.call.request.usage_wanted)
        except msgspec.DecodeError:
            if processed is answer:
                raise UpstreamFailure("protocol", "the reply cannot be made a stream") from None
            error = plugin_error()
            exchange.ticket.rejected(answer, error)
            raise error from None
        exchange.ticket.complete(answer, gone=exchange.sink.gone)
        await self._start(exchange, _SSE)
        await exchange.sink.finish(events + END)

    async def _judged(self, exchange: Exchange, reply: UpstreamReply, reader: StreamReader) -> None:
        """A stream that plugins may change or reject: event by event if all of them can, else
        read whole first. Never skipped."""
        settlement = exchange.ticket
        settlement.watch(reader)
        judges = StreamJudges(exchange.call)
        try:
            await self._host.open_stream(judges, self._reply_bytes)
            chain = judges.chain
            if chain is None:
                events = await judged_whole(
                    judges,
                    reply,
                    reader,
                    usage_wanted=exchange.call.request.usage_wanted,
                    reply_bytes=self._reply_bytes,
                )
            elif judges.links:
                start = partial(self._start, exchange, _SSE)
                await FilteredStream(
                    exchange,
                    reply,
                    reader,
                    chain,
                    start=start,
                    held=self._held,
                    clock=self._clock,
                ).deliver()
                return
        except GatewayError as error:
            settlement.stopped(error, committed=False, replied=exchange.replied)
            raise
        finally:
            judges.close()
        if chain is not None:
            await self._stream(exchange, reply, reader)
            return
        settlement.complete(reader, gone=exchange.sink.gone)
        await self._start(exchange, _SSE)
        await exchange.sink.finish(events + END)
        exchange.work_on_when_gone()
        await drain(reply)

    async def _stream(self, exchange: Exchange, reply: UpstreamReply, reader: StreamReader) -> None:
        settlement = exchange.ticket
        settlement.watch(reader)
        held = await self._until_content(reply, reader)
        settlement.first_content = self._clock()
        if exchange.trial is not None:
            exchange.trial()
        sink = exchange.sink
        await self._start(exchange, _SSE)
        if held:
            await sink.write(held)
        chunk, feed, write = reply.chunk, reader.feed, sink.write
        try:
            try:
                while not reader.done and (data := await chunk()):
                    out = feed(data)
                    if out:
                        await write(out)
                tail = reader.end()
            except TransportError as error:
                tail = end_of(reader, error)
        except TransportError as error:
            failure = classified(error)
            let_go(error)
            await broken(exchange, reader.pending(), failure)
            return
        except UpstreamFailure as failure:
            let_go(failure)
            reply.abort()
            await broken(exchange, reader.pending(), failure)
            return
        settlement.complete(reader, gone=sink.gone)
        await sink.finish(tail)
        # The client has everything: that it closes its connection now is no news.
        exchange.work_on_when_gone()
        await drain(reply)

    async def _until_content(self, reply: UpstreamReply, reader: StreamReader) -> bytes:
        """The leading events up to and including the first content. What fails here has not been
        seen by the client."""
        held = b""
        while not (reader.content or reader.done):
            data = await reply.chunk()
            if not data:
                # An end without any content: legitimate only if the reader says so.
                return held + reader.end().removesuffix(END)
            held += reader.feed(data)
            if self._held.exceeded(held):
                break
        return held
