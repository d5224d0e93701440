"""What was learned is kept over restarts: saved every now and then, and once more at the end.

It is a convenience and no part of the books: a store that is down costs what was learned in the
meantime, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from typing import Final

from llmgw_core.domain.errors import StoreUnavailable

log = logging.getLogger(__name__)

SAVE_SECONDS: Final = 60.0
"""Between two looks whether there is something to save."""
CLOSE_SECONDS: Final = 2.0
"""For the store to take what was learned when the gateway closes."""


class Keeping(ABC):
    """Saves in the background, every `interval` seconds. `what` was learned, for the log."""

    def __init__(self, what: str, interval: float) -> None:
        self._what = what
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def save(self) -> int:
        """Store what has changed since the last time; returns of how many that was. Raises
        `StoreUnavailable`."""

    def start(self) -> None:
        """Begin to save in the background. Needs a running loop."""
        self._task = asyncio.create_task(self._run(), name=f"llmgw keeps {self._what}")

    async def aclose(self) -> None:
        """End, and save what can be saved soon. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.save()
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("%s could not be saved: %s", self._what, error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            with contextlib.suppress(StoreUnavailable):  # said by those who need the store
                await self.save()
