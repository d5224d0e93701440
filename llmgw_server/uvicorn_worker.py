"""The task of a connection: its calls, one after the other.

A task for every call would cost more than parsing its head. When a call still has something to do
after its reply (its upstream's last bytes), the next one does not wait for it: it gets a task of
its own, which is the connection's from then on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_server.uvicorn_calls import CallCycle

    Handle = Callable[[Head, Body, Sink], Awaitable[object]]


class Worker:
    """Works for one connection. `tasks` and `cycles` hold what runs at the moment, of all
    connections: the task of every call, and the calls."""

    __slots__ = ("_closed", "_cycles", "_handed", "_handle", "_loop", "_resting", "_task", "_tasks")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tasks: set[asyncio.Task[None]],
        cycles: set[CallCycle],
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._cycles = cycles
        self._closed = False
        self._handle: Handle
        self._task: asyncio.Task[None] | None = None
        self._resting: asyncio.Future[CallCycle | None] | None = None
        """What the task waits for while there is no call."""
        self._handed: CallCycle | None = None
        """What has been handed to the task, and not been taken up."""

    def take(self, cycle: CallCycle, handle: Handle) -> None:
        """Answer this request with `handle`: another one when there was a reload since the last."""
        self._handle = handle
        task, resting = self._task, self._resting
        if task is not None and resting is not None and not resting.done():
            resting.set_result(cycle)
        else:
            task = self._task = self._loop.create_task(self._work(cycle))
            task.add_done_callback(self._ended)
        cycle.task = task
        self._handed = cycle
        self._cycles.add(cycle)
        self._tasks.add(task)

    def close(self) -> None:
        """The connection is no more: end after what runs."""
        self._closed = True
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    async def _work(self, cycle: CallCycle | None) -> None:
        own = self._task
        while cycle is not None:
            self._handed = None
            try:
                await self._handle(cycle.head, cycle, cycle)
            except asyncio.CancelledError:
                # Asked for by the call itself or by `CallCycle.end`: the connection closes.
                if not (cycle.gone or cycle.ended):
                    raise
                return
            finally:
                # `_done`, written out: every call comes through here.
                self._cycles.discard(cycle)
                if own is not None:
                    self._tasks.discard(own)
                if not cycle.response_complete:
                    cycle.close()
            if self._task is not own or self._closed:
                return
            del cycle  # what a client sent must not stay while it is silent
            self._resting = self._loop.create_future()
            cycle = await self._resting

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task has ended, perhaps before it took up what it was handed."""
        if self._task is task:
            self._task = self._resting = None
        handed = self._handed
        if handed is not None and handed.task is task:
            self._handed = None
            self._done(handed)

    def _done(self, cycle: CallCycle) -> None:
        self._cycles.discard(cycle)
        if cycle.task is not None:
            self._tasks.discard(cycle.task)
        if not cycle.response_complete:
            cycle.close()
