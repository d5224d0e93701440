"""The room in which calls wait for slots: nobody is forgotten, no slot is given out twice, and who
is refused is told when to come again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.errors import GatewayError
from llmgw_core.routing.queue import NoQueue
from llmgw_core.routing.queue_fair import FairQueue
from llmgw_core.testing.slots import Slots, settled

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from llmgw_core.pipeline.waiting import Guest
    from llmgw_core.routing.queue import Fits, Waiting

SLOTS = ("a", "b")


async def refused(call: Awaitable[Any]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await call
    assert caught.value.status == 503
    assert caught.value.should_retry
    return caught.value


async def test_a_free_slot_is_given_at_once() -> None:
    slots = Slots()
    assert await slots.wait() == "a"
    assert (slots.taken["a"], len(slots.room), slots.stats.waiting) == (1, 0, 0)
    assert dict(slots.stats.waits) == {"served": 1}


async def test_a_slot_that_becomes_free_is_taken_in_the_same_moment() -> None:
    slots = Slots()
    assert slots.begin(("a",)) == "a"
    first, second = slots.waiting("o", "o")
    await settled()
    assert (len(slots.room), slots.stats.waiting) == (2, 2)
    slots.end("a")
    assert not slots.free("a")
    assert await first == "a"
    slots.end("a")
    assert await second == "a"
    assert slots.most["a"] == 1


async def test_a_call_waits_for_whichever_of_its_deployments_is_free_first() -> None:
    slots = Slots(a=1, b=1)
    slots.begin(("a",))
    slots.begin(("b",))
    only_a, both = [*slots.waiting("o"), *slots.waiting("o", slots=("a", "b"))]
    await settled()
    slots.end("b")
    assert await both == "b"
    slots.end("a")
    assert await only_a == "a"


async def test_who_waits_too_long_is_told_when_to_come_again() -> None:
    slots = Slots()
    slots.begin(("a",))
    error = await refused(slots.wait(seconds=0.01))
    assert (error.code, error.retry_after) == ("queue_timeout", 0.01)  # nothing is known yet
    assert len(slots.room) == 0
    assert dict(slots.stats.waits) == {"timeout": 1}
    slots.end("a")
    assert slots.free("a")


async def test_a_full_room_refuses_at_once_and_says_when_there_will_be_room() -> None:
    """Slots become free every two seconds, and four calls are ahead."""
    slots = Slots()
    slots.begin(("a",))
    tasks = slots.waiting(*["o"] * 7, length=7)
    await settled()
    for _ in range(4):
        slots.now += 2.0
        slots.end("a")
    await settled()
    error = await refused(slots.wait(length=3))
    assert error.code == "queue_full"
    assert error.retry_after == pytest.approx(2.0 * (3 + 1))
    for _ in range(3):
        slots.end("a")
    await asyncio.gather(*tasks)


async def test_without_a_queue_everybody_is_refused_and_told_when_to_come_again() -> None:
    slots = Slots(NoQueue())
    slots.begin(("a",))
    for _ in range(3):
        await refused(slots.wait(seconds=30.0))
        slots.now += 4.0
        slots.end("a")
        assert slots.begin(("a",)) == "a"
    error = await refused(slots.wait(seconds=30.0))
    assert error.code == "queue_full"
    assert error.retry_after == pytest.approx(4.0)
    assert dict(slots.stats.waits) == {"full": 4}


async def test_an_hour_without_anybody_waiting_says_nothing_about_the_pace() -> None:
    slots = Slots()
    slots.begin(("a",))
    for _ in range(5):
        [task] = slots.waiting("o")
        await settled()
        slots.now += 2.0
        slots.end("a")
        await task
        slots.now += 3600.0
        slots.end("a")
        slots.begin(("a",))
    error = await refused(slots.wait(seconds=0.001))
    assert error.retry_after == pytest.approx(2.0)


async def test_what_many_need_few_tokens_of_does_not_hold_up_who_needs_many() -> None:
    """Behind one that does not fit yet, nobody with the same deployments is let in."""
    slots = Slots(a=5)
    tokens = {"big": 4, "small": 1}

    def guest(name: str) -> Guest[str]:
        made = slots.guest(name)
        made.fits = lambda: slots.taken["a"] + tokens[name] <= slots.caps["a"]
        return made

    slots.taken["a"] = 3

    async def wait(name: str) -> str | None:
        return await slots.room.wait(guest(name), length=9, seconds=60.0)

    big, small = asyncio.ensure_future(wait("big")), asyncio.ensure_future(wait("small"))
    await settled()
    assert not small.done()
    slots.taken["a"] = 1
    slots.end("a")
    await asyncio.gather(big, small)


async def test_the_room_makes_place_for_who_has_less_in_it() -> None:
    slots = Slots()
    slots.begin(("a",))
    greedy = slots.waiting(*["greedy"] * 3, length=3)
    await settled()
    [modest] = slots.waiting("modest", length=3)
    error = await refused(greedy[2])
    assert error.code == "queue_full"
    assert slots.stats.waits["displaced"] == 1
    for task in (greedy[0], modest, greedy[1]):
        slots.end("a")
        assert await task == "a"


async def test_who_leaves_is_not_let_in_and_holds_nobody_up() -> None:
    slots = Slots()
    slots.begin(("a",))
    first, second = slots.waiting("o", "o")
    await settled()
    first.cancel()
    await settled()
    assert (first.cancelled(), len(slots.room)) == (True, 1)
    slots.end("a")
    assert await second == "a"
    assert slots.stats.waits["left"] == 1


async def test_a_slot_for_somebody_who_has_just_left_goes_to_the_next() -> None:
    slots = Slots()
    slots.begin(("a",))
    first, second = slots.waiting("o", "o")
    await settled()
    slots.end("a")  # for the first, which does not know it yet
    first.cancel()
    assert await second == "a"
    assert first.cancelled()
    assert slots.taken["a"] == 1


async def test_a_slot_in_the_moment_of_the_deadline_is_taken() -> None:
    slots = Slots()
    slots.begin(("a",))
    [task] = slots.waiting("o", seconds=0.02)
    await settled()
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def both() -> None:  # the deadline has passed when the loop comes to its timer
        while loop.time() < start + 0.03:
            pass
        slots.end("a")
        done.set_result(None)

    start = loop.time()
    loop.call_soon(both)
    await done
    assert await task == "a"
    assert slots.taken["a"] == 1


async def test_what_only_time_frees_is_looked_at_when_it_is_due() -> None:
    slots = Slots()
    slots.begin(("a",))
    loop = asyncio.get_running_loop()
    asked = []

    def due() -> float:
        asked.append(loop.time())
        slots.caps["a"] = 2  # nobody says so
        return 0.01

    assert await slots.wait(due=due) == "a"
    assert asked


async def test_a_turn_that_comes_to_nothing_is_told() -> None:
    slots = Slots()
    slots.begin(("a",))
    guest: Guest[str] = slots.guest()

    def switched_off() -> str | None:
        return None

    guest.begin = switched_off
    call = slots.room.wait(guest, length=9, seconds=60.0)
    task = asyncio.ensure_future(call)
    await settled()
    slots.end("a")
    assert await task is None


class Odd(FairQueue):
    """A queue of a plugin that fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = ""

    def put(self, waiting: Waiting, limit: int) -> Waiting | None:
        assert self.failing != "put"
        return super().put(waiting, limit)

    def take(self, fits: Fits) -> Waiting | None:
        assert self.failing != "take"
        return super().take(fits)

    def leave(self, waiting: Waiting) -> None:
        assert self.failing != "leave"
        super().leave(waiting)


async def test_a_queue_that_cannot_take_anybody_in_is_an_error_of_the_plugin() -> None:
    queue = Odd()
    slots = Slots(queue)
    queue.failing = "put"
    with pytest.raises(GatewayError) as caught:
        await slots.wait()
    assert caught.value.code == "plugin_error"
    assert len(slots.room) == 0


@pytest.mark.parametrize("failing", ["take", "leave"])
async def test_a_queue_that_fails_hurts_only_those_that_wait(failing: str) -> None:
    queue = Odd()
    slots = Slots(queue)
    slots.begin(("a",))
    queue.failing = failing
    [task] = slots.waiting("o", seconds=0.02)
    await settled()
    if failing == "take":
        slots.end("a")
    assert (await refused(task)).code == "queue_timeout"
    assert len(slots.room) == 0
    queue.failing = ""
    if failing == "leave":
        slots.end("a")
    assert await slots.wait() == "a"


async def test_one_tenant_with_a_thousand_calls_waiting_does_not_starve_another() -> None:
    slots = Slots()
    slots.begin(("a",))
    greedy = slots.waiting(*["greedy"] * 1000, length=1000)
    await settled()
    modest = slots.waiting(*["modest"] * 5, length=1000)
    await settled()
    for _ in range(11):
        slots.end("a")
        await settled()
    assert all(task.done() for task in modest)
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
