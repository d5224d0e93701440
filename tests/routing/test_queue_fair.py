"""The queue: priorities, fairness among organisations, order of arrival, and its bound."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmgw_core.routing.queue import Waiting
from llmgw_core.routing.queue_fair import PASSES, FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable

Pool = tuple[str, ...]
A, B, C = "abc"
POOLS: tuple[Pool, ...] = ((A,), (B,), (A, B), (B, C))
MANY = 1_000_000


def always(call: Waiting) -> bool:
    return True


def one_of(*free: str) -> Callable[[Waiting], bool]:
    return lambda call: not set(free).isdisjoint(pool_of(call))


def pool_of(call: Waiting) -> Pool:
    assert isinstance(call.pool, tuple)
    return call.pool


def waiting(organization: str, pool: Pool = (A,), **fields: Any) -> Waiting:
    return Waiting(organization, pool, **fields)


def filled(*calls: Waiting) -> FairQueue:
    queue = FairQueue()
    for call in calls:
        assert queue.put(call, MANY) is None
    return queue


def everybody(queue: FairQueue) -> list[Waiting]:
    """All of them in turn."""
    found = []
    while (call := queue.take(always)) is not None:
        found.append(call)
    assert len(queue) == 0
    return found


def test_calls_of_one_organisation_go_in_the_order_in_which_they_came() -> None:
    calls = [waiting("a", pool) for pool in POOLS * 3]
    assert everybody(filled(*calls)) == calls


def test_a_thousand_waiting_calls_of_one_organisation_do_not_hold_up_another() -> None:
    first = [waiting("greedy") for _ in range(1000)]
    queue = filled(*first)
    for call in first[:10]:
        assert queue.take(always) is call
    late = [waiting("modest") for _ in range(3)]
    for call in late:
        queue.put(call, MANY)
    served = [queue.take(always) for _ in range(6)]
    assert [call for call in served if call in late] == late


def test_twice_the_weight_is_twice_the_slots() -> None:
    queue = filled(
        *(waiting("heavy", weight=2.0) for _ in range(60)), *(waiting("light") for _ in range(60))
    )
    served = Counter(call.organization for call in everybody(queue)[:30])
    assert abs(served["heavy"] - 20) <= 1


def test_who_was_away_has_saved_nothing_up() -> None:
    queue = filled(*(waiting("busy") for _ in range(100)), waiting("away"))
    for _ in range(50):
        queue.take(always)
    for _ in range(50):
        queue.put(waiting("away"), MANY)
    served = [queue.take(always) for _ in range(20)]
    names = Counter(call.organization for call in served if call is not None)
    assert abs(names["away"] - names["busy"]) <= 1


def test_who_could_not_be_served_for_a_while_is_first_once_and_not_more() -> None:
    queue = filled(
        *(waiting("a", (A,)) for _ in range(100)), *(waiting("b", (B,)) for _ in range(9))
    )
    for _ in range(50):
        assert queue.take(one_of(A)) is not None
    for _ in range(50):
        queue.put(waiting("b", (A,)), MANY)
    names = [call.organization for call in (queue.take(always) for _ in range(20)) if call]
    assert names[0] == "b"
    assert abs(names.count("a") - names.count("b")) <= 2


def test_only_who_fits_is_served() -> None:
    first, second = waiting("a", (A,)), waiting("a", (B, C))
    queue = filled(first, second)
    assert queue.take(one_of(C)) is second
    assert queue.take(one_of(C)) is None
    assert queue.take(always) is first


def test_more_urgent_calls_go_first() -> None:
    low, normal, high = (waiting("a", priority=priority) for priority in (2, 1, 0))
    assert everybody(filled(low, normal, high)) == [high, normal, low]


def test_a_class_is_passed_over_a_bounded_number_of_times() -> None:
    queue = filled(*(waiting("a", priority=0) for _ in range(100)))
    low = [waiting("a", priority=2) for _ in range(3)]
    for call in low:
        queue.put(call, MANY)
    served = everybody(queue)
    places = [served.index(call) for call in low]
    assert places == [PASSES, 2 * PASSES + 1, 3 * PASSES + 2]


def test_a_class_that_nobody_fits_in_is_not_passed_over() -> None:
    queue = filled(*(waiting("a", (A,), priority=0) for _ in range(30)), waiting("a", (B,)))
    for _ in range(20):
        call = queue.take(one_of(A))
        assert call is not None
        assert call.pool == (A,)


def test_whoever_leaves_is_not_served() -> None:
    calls = [waiting(name) for name in "abc"]
    queue = filled(*calls)
    queue.leave(calls[0])
    queue.leave(calls[0])
    queue.leave(waiting("a"))
    queue.leave(waiting("x", priority=7))
    assert everybody(queue) == calls[1:]
    queue.leave(calls[1])
    assert len(queue) == 0


def test_a_full_queue_turns_away_a_newcomer_of_whoever_has_the_most_in_it() -> None:
    queue = filled(*(waiting("a") for _ in range(3)))
    late = waiting("a")
    assert queue.put(late, 3) is late
    assert len(queue) == 3


def test_a_full_queue_makes_room_for_those_who_have_less_in_it() -> None:
    greedy = [waiting("greedy", pool) for pool in (POOLS * 2)[:6]]
    queue = filled(*greedy)
    assert queue.put(waiting("b"), 6) is greedy[-1]
    assert queue.put(waiting("b"), 6) is greedy[-2]
    assert queue.put(waiting("c"), 6) is greedy[-3]
    assert len(queue) == 6


def test_equal_shares_are_not_changed_for_nothing() -> None:
    queue = filled(waiting("a"), waiting("b"))
    late = waiting("c")
    assert queue.put(late, 2) is late


def test_a_class_that_is_full_takes_nothing_from_another() -> None:
    queue = filled(*(waiting("a", priority=2) for _ in range(5)))
    urgent = waiting("a", priority=0)
    assert queue.put(urgent, 5) is None
    assert len(queue) == 6


def test_without_any_place_nobody_waits() -> None:
    call = waiting("a")
    queue = FairQueue()
    assert queue.put(call, 0) is call
    assert queue.take(always) is None


def test_organisations_that_are_gone_are_forgotten() -> None:
    queue = filled(*(waiting("stays") for _ in range(2000)))
    for number in range(500):
        queue.put(waiting(f"o{number}"), MANY)
        queue.take(always)
        queue.take(always)
    [own] = queue._classes.values()
    assert len(own._tags) < 300
    everybody(queue)
    assert not own._tags


names = st.sampled_from("abcd")
weights = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 0.5}


@settings(max_examples=60)
@given(st.lists(names, min_size=1, max_size=60))
def test_among_those_who_wait_all_the_time_shares_differ_by_less_than_two_slots(
    arrivals: list[str],
) -> None:
    queue = FairQueue()
    left: Counter[str] = Counter()
    for name in arrivals:
        for _ in range(20):  # enough to be there until the end
            queue.put(waiting(name, (A,), weight=weights[name]), MANY)
            left[name] += 1
    served: Counter[str] = Counter()
    while all(left.values()):
        call = queue.take(always)
        assert call is not None
        served[call.organization] += 1
        left[call.organization] -= 1
    due = [served[name] / weights[name] for name in left]
    assert max(due) - min(due) <= 2 / min(weights[name] for name in left)


class Machine(RuleBasedStateMachine):
    """The queue beside a plain list of who waits."""

    @initialize()
    def start(self) -> None:
        self.queue = FairQueue()
        self.model: list[Waiting] = []
        self.missed: Counter[Waiting] = Counter()

    @rule(
        name=names,
        pool=st.sampled_from(POOLS),
        priority=st.integers(0, 2),
        limit=st.integers(0, 6),
    )
    def put(self, name: str, pool: Pool, priority: int, limit: int) -> None:
        call = waiting(name, pool, priority=priority)
        same = [one for one in self.model if one.priority == priority]
        leaving = self.queue.put(call, limit)
        if len(same) < limit:
            assert leaving is None
        else:
            assert leaving is not None
            assert leaving is call or leaving in same
            organizations = {one.organization for one in same} | {name}
            mine = sum(one.organization == name for one in same)
            if mine + 1 < len(same) // len(organizations):
                assert leaving is not call
        self.model.append(call)
        if leaving is not None:
            self.model.remove(leaving)

    @rule(free=st.sets(st.sampled_from((A, B, C))))
    def take(self, free: set[str]) -> None:
        fits = one_of(*free)
        fitting = [one for one in self.model if fits(one)]
        call = self.queue.take(fits)
        assert (call is None) == (not fitting)
        if call is None:
            return
        assert call in fitting
        earlier = self.model[: self.model.index(call)]
        assert not any(
            (one.organization, one.priority) == (call.organization, call.priority)
            for one in earlier
            if fits(one)
        )
        self.model.remove(call)
        for one in fitting:
            self.missed[one] += one is not call
        # Each class gets a slot at least every PASSES + 2 times, in which each organisation of
        # the four is first once before another is twice.
        assert all(
            self.missed[one] <= (PASSES + 3) * 5 * (1 + self._before(one)) for one in self.model
        )

    def _before(self, call: Waiting) -> int:
        return sum(
            (one.organization, one.priority) == (call.organization, call.priority)
            for one in self.model[: self.model.index(call)]
        )

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.model:
            call = data.draw(st.sampled_from(self.model))
            self.queue.leave(call)
            self.model.remove(call)

    @invariant()
    def as_many_as_in_the_model(self) -> None:
        assert len(self.queue) == len(self.model)


TestQueueAsAMachine = Machine.TestCase
TestQueueAsAMachine.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)


def test_one_call_of_each_organisation_and_pool_is_asked_about() -> None:
    queue = filled(*(waiting(f"o{number % 50}", POOLS[number % 4]) for number in range(4000)))
    asked: list[Waiting] = []

    def fits(call: Waiting) -> bool:
        asked.append(call)
        return False

    assert queue.take(fits) is None
    assert len(asked) == len({(call.organization, call.pool) for call in asked}) == 100
