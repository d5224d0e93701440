from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.limits.window import MAX_SLOTS, Window, tick_of
from llmgw_core.testing.limiter_log import Booking, Log

REPEATABLE = settings(derandomize=True, database=None, deadline=None)

SHORT = 2.0
"""A window of five slots, so that the ring is gone round many times."""

Step = tuple[int, int, int]
STEPS = st.lists(
    st.tuples(st.integers(0, 2 * 64), st.integers(0, 20), st.integers(-20, 20)), max_size=80
)


@REPEATABLE
@given(STEPS, st.floats(0, 1e6))
def test_the_sum_is_what_an_exact_log_says_within_a_slot(steps: list[Step], start: float) -> None:
    now = math.floor(start * 64) / 64
    window, log = Window(SHORT, tick_of(now)), Log(SHORT, 0.5)
    last: Booking | None = None
    for wait, amount, wanted in steps:
        now += wait / 64
        window.advance(tick_of(now))
        if last is not None:
            change = max(wanted, -last.least)
            window.correct(tick_of(last.at), change)
            log.correct(last, change, now)
        window.add(amount)
        last = log.book(now, amount)
        assert log.least(now) <= window.total <= log.most(now)
        soonest, latest = log.resets(now)
        assert soonest <= window.time_until_empty(now) <= latest


@REPEATABLE
@given(STEPS, st.integers(1, 60), st.floats(0, 1e8), st.sampled_from([0.3, 1.0, 7.7, 300.0]))
def test_who_waits_as_told_finds_room_and_just_before_there_was_none(
    steps: list[Step], limit: int, now: float, seconds: float
) -> None:
    window = Window(seconds, tick_of(now))
    for wait, amount, _ in steps:
        now += wait / 190 * seconds
        window.advance(tick_of(now))
        window.add(amount)
    told = window.time_until_room(1, limit, now)
    assert (told == 0.0) == (window.total + 1 <= limit)
    assert told <= seconds + window.precision + 1e-5
    if told > 1e-4:
        window.advance(tick_of(now + told - 1e-4))
        assert window.total + 1 > limit
    window.advance(tick_of(now + told))
    assert window.total + 1 <= limit


def test_a_wait_is_true_in_spite_of_rounding() -> None:
    for n in range(5000):
        now = 1e6 + n * 0.1037
        window = Window(60.0, tick_of(now))
        window.add(1)
        window.advance(tick_of(now + window.time_until_room(1, 1, now)))
        assert window.total == 0


def test_room_comes_exactly_when_the_oldest_slots_have_left() -> None:
    window = Window(60.0, tick_of(100.0))
    for at, amount in ((100.2, 10), (110.7, 20), (130.0, 30)):
        window.advance(tick_of(at))
        window.add(amount)
    assert window.time_until_room(40, 100, 130.0) == 0.0
    assert window.time_until_room(41, 100, 130.0) == pytest.approx(160.5 - 130.0, abs=1e-5)
    assert window.time_until_room(50, 100, 130.0) == pytest.approx(160.5 - 130.0, abs=1e-5)
    assert window.time_until_room(51, 100, 130.0) == pytest.approx(171.0 - 130.0, abs=1e-5)
    assert window.time_until_room(100, 100, 130.0) == pytest.approx(190.5 - 130.0, abs=1e-5)
    assert window.time_until_room(101, 100, 130.0) == math.inf
    assert window.time_until_empty(130.0) == pytest.approx(60.5)


def test_a_slot_is_reused_clean_after_a_round_of_the_ring() -> None:
    window = Window(SHORT, 0)
    for tick in range(100):
        window.advance(tick)
        window.add(1)
        assert window.total == min(tick + 1, 5)


def test_after_a_pause_of_exactly_the_ring_nothing_is_left() -> None:
    window = Window(SHORT, 0)
    window.add(3)
    window.advance(4)
    assert window.total == 3
    window.advance(5)
    assert window.total == 0
    window.add(1)
    window.advance(10)
    assert window.total == 0


def test_a_long_window_has_wide_slots_and_forgets_only_when_one_is_over() -> None:
    window = Window(3600.0, 0)
    window.add(1)
    window.advance(1)
    window.add(1)
    assert window.time_until_empty(0.5) == 3600 + 16 - 0.5
    window.advance(tick_of(3600.0 + 15.5))
    assert window.total == 2
    window.advance(tick_of(3600.0 + 16))
    assert window.total == 0


def test_an_earlier_tick_changes_nothing() -> None:
    window = Window(SHORT, 10)
    window.add(3)
    window.advance(2)
    assert (window.tick, window.total) == (10, 3)


def test_a_correction_into_an_empty_later_slot_is_what_the_reset_waits_for() -> None:
    window = Window(60.0, 0)
    window.add(5)
    window.advance(20)
    booked = window.tick
    window.add(0)
    window.advance(60)
    assert window.time_until_empty(30.0) == 30.5
    window.correct(booked, 7)
    assert window.time_until_empty(30.0) == 40.5
    window.correct(booked, -7)
    assert window.time_until_empty(30.0) == 30.5
    window.correct(0, -5)
    assert window.time_until_empty(30.0) == 0.0


def test_a_slot_never_goes_below_zero() -> None:
    window = Window(60.0, 0)
    window.add(5)
    assert window.correct(0, -9) == -5
    assert window.total == 0


@pytest.mark.parametrize("seconds", [0.1, 1.0, 60.0, 61.3, 119.0, 3600.0, 86_400.0])
def test_no_window_has_more_slots_than_allowed_and_its_precision_is_about_one(
    seconds: float,
) -> None:
    window = Window(seconds, 0)
    assert 0 < window.precision <= max(1.0, 3 * seconds / MAX_SLOTS)
    window.add(1)
    window.advance(tick_of(seconds))
    assert window.total == 1
    window.advance(tick_of(seconds + window.precision + 0.5))
    assert window.total == 0


def test_reshaping_keeps_what_still_counts_in_the_new_length() -> None:
    window = Window(60.0, 0)
    for tick in range(100):
        window.advance(tick)
        window.add(1)
    window.reshape(10.0)
    assert window.total == 21
    window.reshape(3600.0)
    assert window.total == 21
    window.advance(tick_of(3600.0))
    assert window.total == 21
    window.reshape(60.0)
    assert window.total == 0
