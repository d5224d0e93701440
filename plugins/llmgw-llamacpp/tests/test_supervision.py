from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_llamacpp.supervision import (
    FINAL,
    TRANSITIONS,
    Action,
    Event,
    State,
    restart_delay,
    step,
)


def life(*events: Event) -> tuple[State, list[Action]]:
    state, actions = State.IDLE, []
    for event in events:
        state, action = step(state, event)
        if action is not None:
            actions.append(action)
    return state, actions


def test_an_engine_that_becomes_healthy_is_ready() -> None:
    assert life(Event.START, Event.HEALTHY) == (State.READY, [Action.SPAWN])


def test_an_engine_that_dies_during_its_first_start_has_failed() -> None:
    assert life(Event.START, Event.EXITED)[0] is State.FAILED


def test_an_engine_that_was_ready_is_started_again_for_ever() -> None:
    again = (Event.EXITED, Event.DUE)
    state, actions = life(Event.START, Event.HEALTHY, *again * 5, Event.HEALTHY)
    assert state is State.READY
    assert actions == [Action.SPAWN] + [Action.WAIT, Action.SPAWN] * 5


def test_a_first_start_that_takes_too_long_is_killed_and_has_failed() -> None:
    state, actions = life(Event.START, Event.OVERDUE, Event.EXITED)
    assert state is State.FAILED
    assert actions == [Action.SPAWN, Action.KILL]


def test_a_later_start_that_takes_too_long_is_killed_and_tried_again() -> None:
    events = (Event.START, Event.HEALTHY, Event.EXITED, Event.DUE, Event.OVERDUE, Event.EXITED)
    assert life(*events)[0] is State.BACKOFF


def test_stopping_is_polite_at_first() -> None:
    state, actions = life(Event.START, Event.HEALTHY, Event.STOP, Event.OVERDUE, Event.EXITED)
    assert state is State.STOPPED
    assert actions == [Action.SPAWN, Action.TERMINATE, Action.KILL]


@given(st.lists(st.sampled_from(Event)))
def test_no_order_of_events_leads_to_two_children_or_leaves_one(events: list[Event]) -> None:
    state, alive = State.IDLE, False
    for event in events:
        if event is Event.EXITED and not alive:
            continue  # nothing that could exit
        state, action = step(state, event)
        if event is Event.EXITED:
            alive = False
        if action is Action.SPAWN:
            assert not alive
            alive = True
    if state in FINAL or state in {State.IDLE, State.BACKOFF}:
        assert not alive
    else:
        assert alive
    state, _ = step(state, Event.STOP)
    if alive:
        state, _ = step(state, Event.EXITED)
    assert state in FINAL


def test_final_states_are_final() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] in FINAL]


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (10_000, 30.0)]
)
def test_delays_double_up_to_a_cap(failures: int, seconds: float) -> None:
    assert restart_delay(failures, 0.0) == seconds
    assert restart_delay(failures, 1.0) == seconds / 2
