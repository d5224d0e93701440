"""Random histories of a waiting room: nobody is forgotten, no slot is given out twice."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.testing.slots import Slots, settled

SLOTS = ("a", "b")


class Steps:
    """Calls that come, wait, work and leave in an order that hypothesis chooses."""

    def __init__(self) -> None:
        self.slots = Slots(a=2, b=1)
        self.tasks: list[asyncio.Task[str | None]] = []
        self.working: list[str] = []

    async def take(self, step: tuple[str, int]) -> None:
        what, number = step
        if what == "come":
            pool = (("a",), ("b",), SLOTS)[number % 3]
            name = "xyz"[number % 3]
            call = self.slots.wait(name, slots=pool, length=4, priority=number % 2)
            self.tasks.append(asyncio.ensure_future(call))
        elif what == "end" and self.working:
            self.slots.end(self.working.pop(number % len(self.working)))
        elif what == "leave" and self.tasks:
            self.tasks[number % len(self.tasks)].cancel()
        if number % 4:
            await settled()
            self.collect()

    def collect(self) -> None:
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled() and task.exception() is None:
                slot = task.result()
                assert slot is not None
                self.working.append(slot)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("come", "come", "end", "leave")), st.integers(0, 60)),
        max_size=60,
    )
)
def test_whatever_happens_no_slot_is_given_twice_and_nobody_is_forgotten(
    steps: list[tuple[str, int]],
) -> None:
    async def run() -> None:
        here = Steps()
        slots = here.slots
        for step in steps:
            await here.take(step)
            assert all(slots.taken[slot] <= slots.caps[slot] for slot in SLOTS)
        await settled()
        here.collect()
        # Nobody waits for a slot that is free.
        assert not any(slots.free(str(slot)) for wanted in slots.room._groups for slot in wanted)
        assert len(slots.room) == len(here.tasks) == slots.stats.waiting
        # When everybody works on, everybody comes in.
        for _ in range(len(here.tasks) + len(here.working)):
            if here.working:
                slots.end(here.working.pop())
            await settled()
            here.collect()
        assert (len(slots.room), here.tasks) == (0, [])
        for slot in here.working:
            slots.end(slot)
        assert slots.taken.total() == 0

    asyncio.run(run())
