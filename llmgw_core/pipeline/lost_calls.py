"""Reservations expire: what a call has reserved is given back when the call is gone, even if none
of its ways out was taken.

Every way out of a call settles it; this is for the bug, or the plugin, that finds another one. A
call is lost when its task has ended and it is not settled, or when it has nothing to show at a time
at which its deadline is long over. It is settled as interrupted: what it had used is charged, its
tokens are corrected and its parallel slots are free. A process that dies takes its meters along.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmgw_core.pipeline.books import Books
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.settlement import Settlement

log = logging.getLogger("llmgw.calls")

INTERVAL = 15.0
"""Seconds between two looks."""
GRACE = 60.0
"""Seconds after its deadline in which a call may still be on its way out."""


class LostCalls:
    """Looks at the calls that are open in `books`; one per gateway."""

    def __init__(self, books: Iterable[Books], clock: Callable[[], float]) -> None:
        self._books = books
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="llmgw lost calls")

    async def aclose(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def sweep(self) -> int:
        """Settle what is lost; returns how many calls that were."""
        now = self._clock()
        lost = [
            settlement
            for books in tuple(self._books)
            for settlement, exchange in tuple(books.open.items())
            if _lost(settlement, exchange, now)
        ]
        for settlement in lost:
            log.error("call %s was lost; it is settled as interrupted", settlement.call.id)
            settlement.interrupted()
        return len(lost)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self.sweep()


def _lost(settlement: Settlement, exchange: Exchange, now: float) -> bool:
    if exchange.ended:
        return True
    deadline = settlement.call.deadline
    overdue = bool(deadline) and now > deadline + GRACE
    return overdue and not settlement.first_content
