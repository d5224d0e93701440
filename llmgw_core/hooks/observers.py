"""Observers run off the request path: one bounded queue and one task for each. One that is slow
or raises loses its own records and disturbs nobody; losses are counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from llmgw_core.hooks.dispatch import invoke

if TYPE_CHECKING:
    from llmgw_core.hooks.compile import CompiledHook

_logger = logging.getLogger(__name__)


class Observer:
    """Hands records to one implementation of an OBSERVE hook, in order. `dropped` counts the
    records that found the queue full or were left at shutdown."""

    def __init__(self, hook: CompiledHook, size: int) -> None:
        self.hook = hook
        self.dropped = 0
        self._stopped = False
        self._queue: asyncio.Queue[Any] = asyncio.Queue(size)
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Records in the queue."""
        return self._queue.qsize()

    def observe(self, record: Any) -> None:
        """Queue `record`, or drop it when the queue is full. Never waits, never raises."""
        if self._stopped:
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(record)
        except asyncio.QueueFull:
            if not self.dropped:
                _logger.warning("Plugin %s is too slow: records are dropped.", self.hook.plugin)
            self.dropped += 1

    def start(self) -> None:
        """Begin to hand over. Idempotent."""
        if self._task is None and not self._stopped:
            name = f"llmgw-observer-{self.hook.plugin}-{self.hook.hook}"
            self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    async def _run(self) -> None:
        while not self._stopped:
            record = await self._queue.get()
            try:
                await invoke(self.hook, record)
            except asyncio.CancelledError:
                self.dropped += 1
                raise
            finally:
                self._queue.task_done()

    async def stop(self, seconds: float) -> None:
        """Wait until everything is handed over, for `seconds` at most, and end the task."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._queue.join()
            self._stopped = True
            self._task.cancel()
            _, pending = await asyncio.wait([self._task], timeout=seconds)
            if pending:
                _logger.error("Plugin %s does not let go of a record.", self.hook.plugin)
            self._task = None
        self._stopped = True
        left = self._queue.qsize()
        if left:
            self.dropped += left
            _logger.warning("Plugin %s did not take its last %d records.", self.hook.plugin, left)
