"""How long an attempt may take: the deadline of its call, the timeout of the first content, and the
whole length of a stream. Only attempts that have such a limit pay for it; those of single reads
and writes are the transport's.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.pipeline.endings import broken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from llmgw_core.domain.deployment import Deployment, Timeouts
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.settlement import Settlement


class Patience:
    """Of one attempt; times are of `clock`. `content_by`: when there must be content, whatever the
    reason; `end`: when a stream must have ended."""

    __slots__ = ("_clock", "_late", "_ours", "_timer", "_why", "content_by", "end", "timeouts")

    def __init__(
        self, exchange: Exchange, deployment: Deployment, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        now = clock()
        self.timeouts: Timeouts = deployment.timeouts
        self.content_by = exchange.call.deadline or math.inf
        self.end = math.inf
        self._why = "the deadline of the call has passed"
        # Who got only what others had left of the time, or its caller allowed, is not slow for it.
        self._ours = self.content_by - now < _fair(exchange)
        streaming = deployment.streaming if exchange.call.request.stream else None
        if streaming is not None:
            self.timeouts = streaming.timeouts
            self.end = now + streaming.total
            self._within(now + streaming.first_token, "the first token took too long")
            self._within(self.end, "the stream took too long")

    def _within(self, moment: float, why: str) -> None:
        if moment < self.content_by:
            self.content_by, self._why, self._ours = moment, why, False

    @asynccontextmanager
    async def held(self, exchange: Exchange) -> AsyncIterator[None]:
        """Run the attempt inside this. Raises `UpstreamFailure` of kind `timeout` when it takes
        too long; a stream that has content by then ends truthfully instead."""
        if self.content_by == math.inf:  # a stream without anything of the kind
            yield
            return
        settlement, task = exchange.ticket, asyncio.current_task()
        assert task is not None
        others = task.cancelling()
        # Not `asyncio.timeout`: it cancels a step later than it is due, and by then the call may
        # have been settled; its reply would be cut, and nobody would know.
        self._wait(asyncio.get_running_loop(), task, settlement)
        try:
            yield
        except asyncio.CancelledError:
            if not self._late:
                raise
            self._late = False
            if task.uncancel() > others:
                raise
            await self._over(exchange)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._late:  # somebody has made another error of it
                task.uncancel()

    def _wait(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object], settlement: Settlement
    ) -> None:
        left = max(0.0, self._left(settlement))
        if left < math.inf:
            self._timer = loop.call_later(left, self._look, loop, task, settlement)

    def _look(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object], settlement: Settlement
    ) -> None:
        if self._left(settlement) <= 0:
            self._late = task.cancel()
        else:
            self._wait(loop, task, settlement)

    def _left(self, settlement: Settlement) -> float:
        """Seconds until the next limit; what has been settled has none."""
        if settlement.settled:
            return math.inf
        return (self.end if settlement.first_content else self.content_by) - self._clock()

    async def _over(self, exchange: Exchange) -> None:
        settlement = exchange.ticket
        if settlement.first_content:
            await broken(exchange, b"", UpstreamFailure("timeout", "the stream took too long"))
            return
        raise UpstreamFailure("timeout", self._why, ours=self._ours) from None


def _fair(exchange: Exchange) -> float:
    """Seconds that an attempt must have had at least, so that it speaks against the deployment
    when the call's deadline ended it."""
    lane = exchange.lane
    return lane.candidates.patience() / 2 if lane is not None else 0.0
