"""Threads for the plain functions of one plugin that would block the event loop.

Not asyncio's executor: a function that never returns would take a thread away from everybody, and
the interpreter would wait for it at its end. These threads are the plugin's own, at most `size`,
and nobody waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS: Final = 8
"""Of one plugin; further calls wait for their turn, within their timeout."""


class _Job:
    """`work` is None when nobody waits for it any more."""

    __slots__ = ("loop", "work")

    def __init__(self, function: Callable[[], Any], result: asyncio.Future[Any]) -> None:
        self.loop = result.get_loop()
        self.work: tuple[Callable[[], Any], asyncio.Future[Any]] | None = (function, result)

    def ended(self, future: asyncio.Future[Any]) -> None:
        """Keep nothing of the call: if no thread ever comes back, the queue stays."""
        self.work = None


class Threads:
    """Runs functions in threads that are started when they are needed. Used from one event loop
    at a time; `close` lets idle threads end."""

    def __init__(self, name: str, size: int = THREADS) -> None:
        self._name = name
        self._size = size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0

    def run(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """The result of `function` in a thread, with the caller's context variables. Cancelling
        the future keeps a function that waits from being called, and no other."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        self._busy += 1
        future.add_done_callback(self._left)
        job = _Job(lambda: context.run(function, *arguments), future)
        future.add_done_callback(job.ended)
        self._jobs.put(job)
        if self._threads < min(self._busy, self._size):
            self._threads += 1
            name = f"llmgw-{self._name}-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def close(self) -> None:
        """Let every thread end when it has nothing more to do."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = self._size

    def _left(self, future: asyncio.Future[Any]) -> None:
        # A thread whose caller has given up stays busy, but whoever comes next has a right to
        # another one; `size` bounds them all.
        self._busy -= 0 if future.cancelled() else 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(job)
            del job  # which would keep a call's values until the next one comes


def _do(job: _Job) -> None:
    work = job.work
    if work is None or work[1].cancelled():
        return
    function, future = work
    error: BaseException | None = None
    result: Any = None
    try:
        result = function()
    except BaseException as raised:  # noqa: BLE001 -- belongs to whoever waits for it
        error = raised
    with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
        job.loop.call_soon_threadsafe(_deliver, future, result, error)


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # which no future can hold
        future.set_exception(RuntimeError(f"raised {error!r}"))
    else:
        future.set_exception(error)
