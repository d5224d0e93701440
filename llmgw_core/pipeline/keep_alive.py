"""Comments that keep a client's connection open while nothing of its reply is there yet.

A comment says nothing: it is the status commit of a stream and not its content commit. Until the
first content the call may still go to another deployment; what fails for good is told in an error
event behind the comments.

Nothing else writes while a comment is being written, and whoever has something to write says
so first (`stop`). What was started for a call has ended when the call has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmgw_core.pipeline.attempts import Attempts, Deliver
    from llmgw_core.pipeline.delivery import Delivery
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.overload import HeldBack

COMMENT: Final = b": keep-alive\n\n"


class KeepAlive:
    """The comments of one stream, one every `seconds` seconds from now on."""

    __slots__ = ("_beat", "_delivery", "_exchange", "_loop", "_seconds", "_stopped", "_timer")

    def __init__(self, exchange: Exchange, delivery: Delivery, seconds: float) -> None:
        self._exchange = exchange
        self._delivery = delivery
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._beat: asyncio.Task[None] | None = None
        self._stopped = False
        self._timer = self._loop.call_later(seconds, self._due)

    async def stop(self) -> None:
        """No further comment; returns when none is being written. Idempotent."""
        self._stopped = True
        self._timer.cancel()
        if self._beat is not None and not self._beat.done():
            await asyncio.shield(self._beat)

    async def abandon(self) -> None:
        """No further comment, and none that is being written. Idempotent."""
        self._stopped = True
        self._timer.cancel()
        if self._beat is not None and not self._beat.done():
            self._beat.cancel()
            await asyncio.wait((self._beat,))

    def _due(self) -> None:
        self._beat = self._loop.create_task(self._write(), name="llmgw keep-alive")

    async def _write(self) -> None:
        exchange = self._exchange
        if not exchange.replied:
            await self._delivery.start_stream(exchange)
        await exchange.sink.write(COMMENT)
        if not self._stopped:
            self._timer = self._loop.call_later(self._seconds, self._due)


class KeptAlive:
    """`Attempts` whose streams are kept alive."""

    def __init__(self, attempts: Attempts | HeldBack, delivery: Delivery, seconds: float) -> None:
        self._attempts = attempts
        self._delivery = delivery
        self._seconds = seconds

    async def run(self, exchange: Exchange, deliver: Deliver) -> None:
        """See `Attempts.run`."""
        if not exchange.call.request.stream or getattr(exchange.sink, "local", False):
            await self._attempts.run(exchange, deliver)
            return
        comments = exchange.comments = KeepAlive(exchange, self._delivery, self._seconds)
        try:
            await self._attempts.run(exchange, deliver)
        except asyncio.CancelledError:
            await comments.abandon()
            raise
        finally:
            await comments.stop()
            exchange.comments = None  # a reference cycle otherwise


def kept_alive(
    attempts: Attempts | HeldBack, delivery: Delivery, seconds: float | None
) -> Attempts | HeldBack | KeptAlive:
    """`attempts` as the configuration wants them."""
    return attempts if seconds is None else KeptAlive(attempts, delivery, seconds)
