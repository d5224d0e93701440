"""One call in motion: what the steps of the pipeline hand to each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgw_core.domain.call import ClientGone, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.call import Call, Headers, Sink
    from llmgw_core.domain.errors import GatewayError
    from llmgw_core.domain.failure import FailureKind
    from llmgw_core.limits.port import Reservation
    from llmgw_core.pipeline.keep_alive import KeepAlive
    from llmgw_core.pipeline.lane import Lane, Lanes
    from llmgw_core.pipeline.overload import Turn
    from llmgw_core.pipeline.settlement import Settlement


class Exchange(State):
    """A call with its sink, its rights and its settlement.

    `reserved` is the number of tokens in the reservation; `metered` are the fallback models whose
    own meters have joined it; `replied` turns true when the head of a reply has been sent,
    `stopped` when the call was cancelled because its client has left, which `leaving` does.
    `comments` keep the connection of a waiting client open, if it gets any; `turn` is the call's
    place where calls are held back. `cut`: how its stream broke after the content commit.
    `trial`, if there is one, wants to know of the first content. `ending` is
    what the client is told when an operator has ended the call. `held_back`: a plugin or a switch
    keeps it from the variant of an alias that it was meant for, which is not the variant's fault.
    """

    call: Call
    sink: Sink
    lanes: Lanes | None = None
    lane: Lane | None = None
    reservation: Reservation | None = None
    reserved: int = 0
    metered: tuple[str, ...] = ()
    settlement: Settlement | None = None
    replied: bool = False
    comments: KeepAlive | None = None
    turn: Turn | None = None
    cut: FailureKind | None = None
    trial: Callable[[], None] | None = None
    held_back: bool = False
    stopped: bool = False
    ending: GatewayError | None = None
    leaving: asyncio.Handle | None = None
    _task: asyncio.Task[object] | None = None
    _others: int = 0

    @property
    def ticket(self) -> Settlement:
        """The settlement of a call that has been admitted."""
        assert self.settlement is not None
        return self.settlement

    @property
    def ended(self) -> bool:
        """Whether the task of the call, if it is known, has ended."""
        return self._task is not None and self._task.done()

    def stop_when_gone(self) -> None:
        """From now on a client that leaves cancels this call, and with it the upstream's work.
        Raises `ClientGone` when it has left already."""
        if self.sink.gone:
            raise ClientGone
        if self._task is None:
            # Asking asyncio costs a system call (CPython 3.11 looks whether it has been forked).
            self._task = getattr(self.sink, "task", None) or asyncio.current_task()
            self._others = self._task.cancelling() if self._task is not None else 0
        self.sink.on_gone = self._left

    def work_on_when_gone(self) -> None:
        """From now on the call goes on without its client, until its usage is known."""
        self.sink.on_gone = None
        if self.leaving is not None:
            self.leaving.cancel()

    def _left(self) -> None:
        # Not at once: a sink may notice in the middle of a write by this very task, where a
        # cancellation would wait for the next suspension, perhaps that of the task's owner.
        if self.leaving is None:
            self.leaving = asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self.stopped = self._task.cancel()

    def end(self, error: GatewayError) -> None:
        """An operator ends the call: its client hears `error`."""
        if self._task is not None and self.leaving is None and not self.stopped:
            self.ending = error
            self._cancel()

    def take_back(self) -> bool:
        """Take our cancellation back, if there was one, so that the task's owner does not see
        it. False when somebody else has cancelled the task too. Idempotent."""
        if not self.stopped or self._task is None:
            return True
        self.stopped = False
        return self._task.uncancel() <= self._others

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of the reply."""
        self.replied = True
        await self.sink.start(status, headers)
