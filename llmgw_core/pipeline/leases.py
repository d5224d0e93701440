"""Reservations in a limiter that several processes share are renewed while their calls run, so that
those of a process that has died expire."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from llmgw_core.hooks.foreign import Foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmgw_core.limits.port import Limiter
    from llmgw_core.pipeline.books import Books

RENEWALS = 3
"""In the time of one lease."""


class Leases:
    """Renews what is open in `books`; one per gateway. A limiter without a lease costs nothing."""

    def __init__(
        self, books: Iterable[Books], sleep: Callable[[float], Any] = asyncio.sleep
    ) -> None:
        self._books = books
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    def keep(self, limiter: Limiter) -> None:
        """From now on the reservations of `limiter`, which stays the same, are renewed."""
        lease = getattr(limiter, "lease", None)
        if lease is not None and self._task is None:
            self._task = asyncio.create_task(self._run(limiter, lease), name="llmgw leases")

    async def aclose(self) -> None:
        """Renew no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, limiter: Any, lease: float) -> None:
        while True:
            await self._sleep(lease / RENEWALS)
            exchanges = [each for books in tuple(self._books) for each in books.open.values()]
            held = [each.reservation for each in exchanges if each.reservation is not None]
            if held:
                with Foreign(type(limiter).__name__, "renew", "continue"):
                    await limiter.renew(held)
