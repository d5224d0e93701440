"""One call in motion: what the steps of the pipeline hand to each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call, Headers, Sink
    from llmgw_core.limits.port import Reservation
    from llmgw_core.pipeline.lane import Lane, Lanes
    from llmgw_core.pipeline.settlement import Settlement


class Exchange:
    """A call with its sink, its rights and its settlement.

    `reserved` is the number of tokens in the reservation; `metered` are the fallback models whose
    own meters have joined it; `replied` turns true when the head of a reply has been sent.
    """

    __slots__ = (
        "_cancelled",
        "_task",
        "call",
        "lane",
        "lanes",
        "metered",
        "replied",
        "reservation",
        "reserved",
        "settlement",
        "sink",
    )

    def __init__(self, call: Call, sink: Sink) -> None:
        self.call = call
        self.sink = sink
        self.lanes: Lanes | None = None
        self.lane: Lane | None = None
        self.reservation: Reservation | None = None
        self.reserved = 0
        self.metered: set[str] = set()
        self.settlement: Settlement | None = None
        self.replied = False
        self._task: asyncio.Task[object] | None = None
        self._cancelled = False

    @property
    def ticket(self) -> Settlement:
        """The settlement of a call that has been admitted."""
        assert self.settlement is not None
        return self.settlement

    def stop_when_gone(self) -> None:
        """From now on a client that leaves cancels this call, and with it the upstream's work."""
        self._task = asyncio.current_task()
        self.sink.on_gone = self._cancel
        if self.sink.gone:
            self._cancel()

    def work_on_when_gone(self) -> None:
        """From now on the call goes on without its client, until its usage is known."""
        self.sink.on_gone = None

    def _cancel(self) -> None:
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def stopped_by_client(self) -> bool:
        """Whether the cancellation that is being handled is ours; if so, it is taken back, so
        that the task's owner does not see it."""
        if self._cancelled and self._task is not None:
            self._task.uncancel()
            return True
        return False

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of the reply."""
        self.replied = True
        await self.sink.start(status, headers)
