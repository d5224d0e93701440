"""For tests of queues: counted slots with a waiting room in front of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from llmgw_core.pipeline.stats import Stats
from llmgw_core.pipeline.waiting import Guest, WaitingRoom
from llmgw_core.routing.queue_fair import FairQueue

if TYPE_CHECKING:
    from llmgw_core.routing.queue import Queue


class Slots:
    """Slots of `a` and `b` and a room in front of them. `most` is how many were ever taken."""

    def __init__(self, queue: Queue | None = None, **caps: int) -> None:
        self.caps = caps or {"a": 1}
        self.taken: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.now = 0.0
        self.stats = Stats()
        self.room = WaitingRoom(
            FairQueue() if queue is None else queue,
            "test",
            clock=lambda: self.now,
            stats=self.stats,
        )

    def free(self, slot: str) -> bool:
        """Whether there is one."""
        return self.taken[slot] < self.caps[slot]

    def begin(self, slots: tuple[str, ...]) -> str | None:
        """Take the first that is free."""
        for slot in slots:
            if self.free(slot):
                self.taken[slot] += 1
                self.most[slot] = max(self.most[slot], self.taken[slot])
                return slot
        return None

    def end(self, slot: str) -> None:
        """Give one back."""
        self.taken[slot] -= 1
        self.room.freed(slot)

    def guest(self, name: str = "o", slots: tuple[str, ...] = ("a",), **fields: Any) -> Guest[str]:
        """Somebody who waits for one of `slots`."""
        return Guest(
            name,
            slots,
            fits=lambda: any(map(self.free, slots)),
            begin=lambda: self.begin(slots),
            give_back=self._give_back,
            **fields,
        )

    def _give_back(self, slot: str) -> None:
        self.taken[slot] -= 1

    async def wait(
        self, name: str = "o", *, length: int = 100, seconds: float = 60.0, **fields: Any
    ) -> str | None:
        """Wait for one."""
        return await self.room.wait(self.guest(name, **fields), length=length, seconds=seconds)

    def waiting(self, *names: str, **fields: Any) -> list[asyncio.Task[str | None]]:
        """Tasks that wait, one for each of the organisations."""
        return [asyncio.ensure_future(self.wait(name, **fields)) for name in names]


async def settled(*tasks: asyncio.Task[Any]) -> None:
    """Until everything has run that can."""
    for _ in range(5):
        await asyncio.sleep(0)
