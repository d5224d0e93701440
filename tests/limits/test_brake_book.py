"""The brake: any interleaving of calls keeps the bounds, nothing leaks, memory is bounded, and what
is usual is learned of usual times only."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmgw_core.domain.brake import NO_BRAKE, Brake
from llmgw_core.domain.brake_rules import BOUNDS, problems
from llmgw_core.limits.brake_book import BrakeBook, Braked, BrakeEvent
from llmgw_core.limits.brake_rules import BrakeRules, rules_of
from llmgw_core.limits.brake_runs import Runs
from llmgw_core.limits.velocity import WINDOW, History, Pace
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.usage_records import usage_record

OWNER: Any = ("key", "key_1")
IDLE = 100.0


def rules(**fields: Any) -> BrakeRules:
    found = rules_of(OWNER, [Brake(**fields)])
    assert found is not None
    return found


class Bench:
    """A book, and calls in it."""

    def __init__(self, **sizes: int) -> None:
        self.clock, self.events = FakeClock(600_000.0), list[BrakeEvent]()
        self.book = BrakeBook(self.clock, self.clock, self.events.append, Runs(IDLE, **sizes))
        self.calls = 0

    def begin(
        self, rules: BrakeRules, session: int | None = 1, body: bytes = b"", need: int = 0
    ) -> str:
        self.calls += 1
        self.book.begin(rules, f"c{self.calls}", session, body, need)
        return f"c{self.calls}"

    def end(self, id: str, charge: int = 0) -> None:
        self.book.settled(usage_record(call_id=id, charge=charge))

    def call(self, rules: BrakeRules, charge: int = 0, **fields: Any) -> None:
        self.end(self.begin(rules, **fields), charge)

    def refused(self, rules: BrakeRules, **fields: Any) -> Braked:
        with pytest.raises(Braked) as caught:
            self.begin(rules, **fields)
        return caught.value


def test_of_several_levels_the_tightest_bound_holds_and_shadow_beside_it() -> None:
    found = rules_of(
        OWNER,
        [
            Brake(key_calls=9, session_seconds=5.0),
            Brake(key_calls=3, shadow=("key_calls",)),
            Brake(key_calls=7, velocity_floor=5, lifted_until=8.0),
        ],
    )
    assert found is not None
    assert [(each.limit, each.shadow) for each in found.key] == [(7, False), (3, True)]
    assert [(each.bound, each.limit) for each in found.session] == [("seconds", 5.0)]
    assert ([each.floor for each in found.speeds], found.lifted_until) == ([5], 8.0)
    assert rules_of(OWNER, [NO_BRAKE, Brake(lifted_until=5.0)]) is None


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_can_be_wrong(name: Any) -> None:
    def wrong(**fields: Any) -> list[str]:
        return [field for field, _ in problems(msgspec.structs.replace(NO_BRAKE, **fields))]

    assert wrong(**{name: 0}) == wrong(**{name: True}) == [name]
    assert wrong(shadow=(name,)) == ["shadow"]
    assert wrong(**{name: 2}, shadow=(name,)) == []


def test_factors_and_unknown_names_are_refused() -> None:
    assert [field for field, _ in problems(Brake(velocity_factor=0.5))] == ["velocity_factor"]
    assert [field for field, _ in problems(Brake(shadow=("rpm",)))] == ["shadow"]


def test_calls_under_way_hold_what_they_may_cost() -> None:
    bench, held = Bench(), rules(session_money=100)
    first = bench.begin(held, need=60)
    second = bench.begin(held, need=60)
    error = bench.refused(held, need=1)
    assert (error.bound, error.end) == ("money", None)
    bench.end(first, 10)
    third = bench.begin(held, need=60)
    bench.end(second, 10)
    bench.end(third, 80)
    error = bench.refused(held)
    assert error.end == bench.clock.now + IDLE
    bench.clock.now = error.end
    bench.call(held)


def test_a_run_has_a_duration_from_its_first_call() -> None:
    bench, held = Bench(), rules(key_seconds=250.0)
    for _ in range(3):
        bench.call(held)
        bench.clock.now += 90
    error = bench.refused(held)
    assert error.end is not None
    assert error.end - bench.clock.now == pytest.approx(10)


def test_a_call_that_did_not_happen_counts_nowhere() -> None:
    bench, held = Bench(), rules(key_calls=2, key_repeats=2, session_money=10)
    bench.call(held, body=b"x")
    id = bench.begin(held, body=b"x", need=9)
    bench.book.cancel(id)
    bench.call(held, body=b"x")
    assert bench.refused(held, body=b"y").bound == "calls"
    [state] = bench.book.states()
    assert (state.calls, state.reserved, state.sessions) == (2, 0, 1)


def test_what_a_plugin_calls_is_a_part_of_the_call_around_it() -> None:
    bench, held = Bench(), rules(session_money=100, session_calls=1)
    parent = bench.begin(held, need=10)
    bench.book.join(held, "sub", parent)
    bench.book.join(held, "subsub", "sub")
    bench.end("subsub", 30)
    bench.end("sub", 20)
    bench.end(parent, 5)
    bench.book.join(held, "late", parent)
    bench.end("late", 7)
    bench.book.join(held, "never", parent)
    bench.book.cancel("never")
    [key] = bench.book.runs.known()
    [session] = key.sessions.values()
    assert (session.money, session.calls, session.reserved, session.open) == (55, 1, 0, 0)
    assert (key.run.money, key.run.calls, key.run.open) == (62, 1, 0)
    bench.end("unknown", 9)


def test_asking_what_would_be_counts_nothing() -> None:
    bench, held = Bench(), rules(session_calls=1)
    bench.book.examine(held, 1, b"")
    bench.call(held)
    with pytest.raises(Braked):
        bench.book.examine(held, 1, b"")
    bench.book.examine(held, 2, b"")
    assert (bench.events, bench.book.refused, len(bench.book.runs)) == ([], {}, 1)


def test_memory_is_bounded_whatever_clients_invent() -> None:
    bench = Bench(sessions=50, sessions_of_key=20, keys=5)
    for number in range(500):
        owner: Any = ("key", f"k{number % 9}")
        held = rules_of(owner, [Brake(session_calls=1)])
        assert held is not None
        bench.call(held, session=number)
        runs = bench.book.runs
        assert len(runs) <= 50
        assert len(runs.known()) <= 5
        assert sum(len(key.sessions) for key in runs.known()) == len(runs)
        assert all(len(key.sessions) <= 20 for key in runs.known())
    bench.clock.now += IDLE
    for _ in range(30):
        bench.call(rules(session_calls=90))
    assert len(bench.book.runs) == 1


def test_a_key_that_was_forgotten_is_known_by_what_is_usual_for_it() -> None:
    bench, held = Bench(keys=1), rules(velocity_floor=10)
    bench.call(held, 5)
    bench.clock.now += WINDOW
    other = rules_of(("key", "other"), [Brake(velocity_floor=10)])
    assert other is not None
    bench.book.runs.known()[0].pace.recent(bench.clock.now)
    bench.call(other, 1)
    assert bench.book.runs.histories() == {OWNER: History(5.0, 1.0)}
    bench.call(held)
    [state] = bench.book.states()
    assert (state.id, state.usual) == ("key_1", 5)


def test_far_above_the_usual_is_told_at_half_of_it_and_refused_then() -> None:
    bench, held = Bench(), rules(velocity_floor=100, velocity_factor=4.0)
    for _ in range(20):
        bench.call(held, 50)
        bench.clock.now += 2 * WINDOW
    bench.events.clear()
    bench.call(held, 99)
    assert bench.events == []
    bench.call(held, 1)
    assert [event.kind for event in bench.events] == ["fast"]
    bench.call(held, 100)
    error = bench.refused(held)
    assert error.bound == "velocity"
    assert error.limit == pytest.approx(200)
    assert [event.kind for event in bench.events] == ["fast", "refused"]
    assert error.end is not None
    bench.clock.now = error.end - 0.01
    assert bench.refused(held).end == error.end
    bench.clock.now = error.end
    bench.call(held)


def test_what_was_refused_for_its_velocity_does_not_become_usual_unless_it_was_lifted() -> None:
    bench, held = Bench(), rules(velocity_floor=100)
    lifted = held._replace(lifted_until=bench.clock.now + 10 * WINDOW)
    [key] = [bench.book.runs.key(OWNER, bench.clock.now)]
    bench.call(held, 150)
    bench.refused(held)
    bench.clock.now += 3 * WINDOW
    assert (key.pace.recent(bench.clock.now), key.pace.history.usual) == (0, 0)
    bench.call(lifted, 150)
    bench.call(lifted, 150)
    bench.clock.now += 3 * WINDOW
    assert (key.pace.recent(bench.clock.now), key.pace.history.usual) == (0, 300)


def test_shadow_tells_and_lets_through() -> None:
    bench = Bench()
    held = rules(velocity_floor=10, key_calls=1, shadow=("velocity_floor", "key_calls"))
    for _ in range(5):
        bench.call(held, 20)
    assert bench.book.refused == {("key", "velocity", True): 4, ("key", "calls", True): 4}
    assert [(event.kind, event.bound, event.shadow) for event in bench.events] == [
        ("fast", "velocity", True),
        ("refused", "calls", True),
        ("refused", "velocity", True),
    ]


@given(st.lists(st.tuples(st.integers(1, 10**12), st.floats(0, 2000)), max_size=60))
@settings(max_examples=50)
def test_the_last_ten_minutes_are_never_undercounted(spent: list[tuple[int, float]]) -> None:
    pace, now, all_spent = Pace(), 600_000.0, list[tuple[float, int]]()
    for amount, pause in spent:
        now += pause
        pace.add(amount, now)
        all_spent.append((now, amount))
        exact = sum(each for at, each in all_spent if now - WINDOW < at)
        loose = sum(each for at, each in all_spent if now - WINDOW - 60 <= at)
        assert exact <= pace.recent(now) <= loose
        end = pace.below(1.0, now)
        assert now < end <= now + WINDOW + 60


class BrakeMachine(RuleBasedStateMachine):
    """Calls of two sessions in any order; nothing gets beyond its bound by more than one call."""

    MONEY, CALLS, REPEATS = 100, 8, 3

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.held = rules(
            session_money=self.MONEY, session_calls=self.CALLS, key_repeats=self.REPEATS
        )
        self.open: list[tuple[str, int]] = []
        self.ends: list[tuple[float | None, float]] = []

    @rule(session=st.integers(1, 2), body=st.sampled_from([b"a", b"b"]), need=st.integers(0, 60))
    def begin(self, session: int, body: bytes, need: int) -> None:
        try:
            id = self.bench.begin(self.held, session, body, need)
        except Braked as error:
            self.ends.append((error.end, self.bench.clock.now))
        else:
            self.open.append((id, need))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cheaper=st.integers(0, 60))
    def end(self, data: st.DataObject, cheaper: int) -> None:
        id, need = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.bench.end(id, max(0, need - cheaper))

    @precondition(lambda self: self.open)
    @rule()
    def cancel(self) -> None:
        id, _ = self.open.pop()
        self.bench.book.cancel(id)

    @rule(seconds=st.floats(0, 150))
    def wait(self, seconds: float) -> None:
        self.bench.clock.now += seconds

    @invariant()
    def bounds_hold(self) -> None:
        assert all(end is None or end > at for end, at in self.ends)
        assert set(self.bench.book.open) == {id for id, _ in self.open}
        for key in self.bench.book.runs.known():
            assert key.run.open == len(self.open)
            assert key.run.reserved == sum(need for _, need in self.open)
            assert key.run.repeats <= self.REPEATS
            for run in key.sessions.values():
                assert run.money + run.reserved < self.MONEY + 60
                assert 0 <= run.calls <= self.CALLS


TestBrakeMachine = BrakeMachine.TestCase
TestBrakeMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
