"""How streams end: truthfully where they broke, and with their connection given back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.transport.port import TransportError
from llmgw_core.domain.errors import upstream_failed
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.pipeline.failures import report
from llmgw_core.wire.envelope import error_event

if TYPE_CHECKING:
    from llmgw_core.backends.port import StreamReader
    from llmgw_core.backends.transport.port import UpstreamReply
    from llmgw_core.pipeline.exchange import Exchange

END = b"data: [DONE]\n\n"
_BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")
DRAIN_SECONDS = 1.0
"""How long the end of an upstream's body is waited for after the client has everything, so that
its connection can be used again."""


class Held(msgspec.Struct, frozen=True):
    """How much of leading events without content is held (`size` in bytes); beyond it a stream
    is handed over as it is."""

    size: int = 64 * 1024
    events: int = 512

    def exceeded(self, held: bytes) -> bool:
        """Whether these are too many. Events are counted by their blank lines."""
        size = len(held)
        if not self.events < size <= self.size:
            return size > self.size
        return max(map(held.count, _BLANK_LINES)) > self.events


async def broken(exchange: Exchange, accepted: bytes, failure: UpstreamFailure) -> None:
    """The upstream broke after the content commit: say so, and no end marker. `accepted` is what
    is still to be handed over."""
    settlement = exchange.ticket
    exchange.cut = failure.kind
    if settlement.attempt is not None:
        report(exchange.call.id, settlement.attempt.deployment.id, failure)
    error = upstream_failed("The stream was cut by the model's backend.", code="stream_cut")
    settlement.incomplete(failure.kind, error.code)
    await exchange.sink.finish(accepted + error_event(error, exchange.call.id))


def end_of(reader: StreamReader, error: TransportError) -> bytes:
    """The end of a stream whose connection broke with `error`: nothing is missing when the model
    had said that it was finished. Raises `error` otherwise."""
    try:
        return reader.end()
    except UpstreamFailure:
        raise error from None


async def drain(reply: UpstreamReply) -> None:
    """Read the rest of a body that has nothing to say any more, or give its connection up."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while await reply.chunk():
                pass
    except (TransportError, TimeoutError):
        reply.abort()
