"""What this process has taken out by itself is written down, if need be until the store answers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from llmgw_core.domain.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.routing.rollouts import Rollout

log = logging.getLogger("llmgw.rollouts")

RETRY_SECONDS: Final = 1.0


class TakenOut:
    """A queue that is mostly empty. `write`, to be set before the first call, stores one rollout;
    it raises `StoreUnavailable`. `sleep` waits that many seconds."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.write: Callable[[Rollout], Awaitable[None]] | None = None
        self._sleep = sleep
        self._waiting: dict[str, Rollout] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, ended: Rollout) -> None:
        """Have `ended` written down. Needs a running loop. Nothing happens after `aclose`."""
        if self._closed:
            return
        self._waiting[ended.alias] = ended
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="llmgw rollouts")

    async def written(self) -> None:
        """Wait until the store has everything."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        """Give up what could not be written until now. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        assert self.write is not None
        while self._waiting:
            alias, ended = next(iter(self._waiting.items()))
            try:
                await self.write(ended)
            except StoreUnavailable:
                log.warning("that the canary of %s is out could not be stored yet", alias)
                await self._sleep(RETRY_SECONDS)
                continue
            if self._waiting.get(alias) is ended:
                del self._waiting[alias]
