"""What every queue keeps, whoever it says is next: subclass this in a test module.

class TestMyQueue(QueueSuite):
def make(self) -> Queue:
return MyQueue()
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from llmgw_core.routing.queue import Waiting

if TYPE_CHECKING:
    from llmgw_core.routing.queue import Queue

_POOLS = (("a",), ("b",), ("a", "b"))
_MANY = 1000


def _always(waiting: Waiting) -> bool:
    return True


class QueueSuite(ABC):
    """The contract of `routing.queue.Queue`."""

    @abstractmethod
    def make(self) -> Queue:
        """A new queue without anybody in it."""

    def _filled(self, calls: list[Waiting]) -> Queue:
        queue = self.make()
        for call in calls:
            assert queue.put(call, _MANY) is None
        assert len(queue) == len(calls)
        return queue

    def test_whoever_came_in_comes_out_once(self) -> None:
        """Nobody is forgotten, nobody comes twice."""
        calls = [Waiting(f"o{n % 3}", _POOLS[n % 3], priority=n % 2) for n in range(30)]
        queue = self._filled(calls)
        out = [queue.take(_always) for _ in calls]
        assert {id(call) for call in out} == {id(call) for call in calls}
        assert queue.take(_always) is None
        assert len(queue) == 0

    def test_only_who_fits_comes_out(self) -> None:
        """And somebody does as long as there is one."""
        calls = [Waiting(f"o{n % 2}", _POOLS[n % 3]) for n in range(12)]
        queue = self._filled(calls)
        for left in range(8, 0, -1):
            call = queue.take(lambda waiting: "b" in waiting.pool)  # type: ignore[operator]
            assert call is not None
            assert "b" in call.pool  # type: ignore[operator]
            assert len(queue) == left + 3
        assert queue.take(lambda waiting: "b" in waiting.pool) is None  # type: ignore[operator]
        assert len(queue) == 4

    def test_who_leaves_does_not_come_out(self) -> None:
        """Leaving twice, or without having waited, does nothing."""
        calls = [Waiting("o", ("a",)) for _ in range(5)]
        queue = self._filled(calls)
        for call in (calls[1], calls[1], calls[4], Waiting("other", ("a",))):
            queue.leave(call)
        out = [queue.take(_always) for _ in range(3)]
        assert {id(call) for call in out} == {id(calls[n]) for n in (0, 2, 3)}

    def test_of_one_organisation_and_pool_the_first_comes_first(self) -> None:
        """So it is enough to ask about that one."""
        calls = [Waiting("o", ("a",)) for _ in range(10)]
        queue = self._filled(calls)
        assert [queue.take(_always) for _ in calls] == calls

    def test_no_more_wait_than_may(self) -> None:
        """Somebody leaves for whoever comes when it is full, or the newcomer does not stay."""
        queue, inside = self.make(), set()
        for number in range(50):
            call = Waiting(f"o{number % 4}", ("a",))
            leaving = queue.put(call, 5)
            inside.add(call)
            if leaving is not None:
                assert leaving in inside
                inside.remove(leaving)
            assert len(queue) == len(inside) <= 5
        assert {queue.take(_always) for _ in range(5)} == inside

    def test_random_histories_lose_nobody(self) -> None:
        """Whatever the order of coming, going and being served."""
        chance = random.Random(4)  # noqa: S311 -- the same in each run
        queue, inside = self.make(), set()
        for number in range(2000):
            step = chance.random()
            if step < 0.5:
                call = Waiting(
                    f"o{chance.randrange(5)}", chance.choice(_POOLS), priority=number % 3
                )
                assert queue.put(call, _MANY) is None
                inside.add(call)
            elif step < 0.8:
                slot = chance.choice("ab")
                found = queue.take(lambda waiting: slot in waiting.pool)  # type: ignore[operator]  # noqa: B023 -- asked at once
                fitting = [call for call in inside if slot in call.pool]  # type: ignore[operator]
                assert (found is None) == (not fitting)
                inside.discard(found)
            elif inside:
                gone = chance.choice(sorted(inside, key=id))
                queue.leave(gone)
                inside.remove(gone)
            assert len(queue) == len(inside)
