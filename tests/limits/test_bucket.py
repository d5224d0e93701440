"""A bucket never lets through more than its capacity at once and its rate in the long run."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.limits.bucket import Bucket
from llmgw_core.limits.port import MeterSpec, MeterState


def spec(limit: int, capacity: int, window: float = 60.0) -> MeterSpec:
    return MeterSpec("b", "key", "tokens", limit, window, shape="bucket", capacity=capacity)


Steps = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 40), st.integers(0, 60), st.booleans()), max_size=40
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(limit=st.integers(1, 500), capacity=st.integers(1, 80), steps=Steps)
def test_no_stretch_of_time_admits_more_than_the_rate_and_the_burst(
    limit: int, capacity: int, steps: list[tuple[float, int, int, bool]]
) -> None:
    """What calls used, counted where they were admitted, and what they used beyond their
    reservation where that became known."""
    meter, now = spec(limit, capacity), 1000.0
    bucket = Bucket(meter, now)
    running: list[tuple[int, int, int]] = []
    admitted: list[tuple[Fraction, int]] = []
    beyond: list[tuple[Fraction, int]] = []
    for pause, amount, used, ends in steps:
        now += pause
        if bucket.wait(meter, amount, now) == 0.0:
            running.append((bucket.count(amount, now), amount, len(admitted)))
            admitted.append((Fraction(int(now * 10**9), 10**9), amount))
        if ends and running:
            booking, held, index = running.pop(0)
            bucket.end(booking, held, used, now)
            admitted[index] = (admitted[index][0], min(held, used))
            beyond.append((Fraction(int(now * 10**9), 10**9), max(0, used - held)))
    rate = Fraction(limit, 60)
    for first, (start, _) in enumerate(admitted):
        total = 0
        for at, amount in admitted[first:]:
            total += amount
            allowed = capacity + rate * (at - start)
            extra = sum(more for when, more in beyond if start <= when <= at)
            assert total <= allowed + extra


def test_nothing_drifts_in_many_steps() -> None:
    meter = spec(7, 3)
    bucket, now, admitted = Bucket(meter, 0.0), 0.0, 0
    for step in range(200_000):
        now = step * 0.37
        if bucket.wait(meter, 1, now) == 0.0:
            bucket.count(1, now)
            admitted += 1
    assert admitted == 3 + math.floor(Fraction(7, 60) * Fraction(int(now * 10**9), 10**9))


@pytest.mark.parametrize(("limit", "capacity"), [(7, 3), (60, 10), (999, 50)])
def test_the_wait_that_is_told_is_enough_and_no_longer(limit: int, capacity: int) -> None:
    meter = spec(limit, capacity)
    bucket = Bucket(meter, 5.0)
    bucket.count(capacity, 5.0)
    wait = bucket.wait(meter, 1, 5.0)
    assert wait == pytest.approx(60 / limit, abs=1e-5)
    assert bucket.wait(meter, 1, 5.0 + wait - 0.001) > 0
    assert bucket.wait(meter, 1, 5.0 + wait) == 0.0
    assert bucket.wait(meter, capacity + 1, 5.0) == math.inf


def test_many_pourings_are_remembered_in_bounded_memory_and_give_back_no_more() -> None:
    meter = spec(1, 10**6)
    bucket = Bucket(meter, 0.0)
    bookings = [bucket.count(1, 0.0) for _ in range(1000)]
    for booking in bookings:
        bucket.end(booking, 1, 0, 0.0)
    left = bucket.state(meter, 0.0).remaining
    assert 10**6 - 1000 <= left <= 10**6
    assert bucket.state(meter, 10**6).remaining == 10**6


def test_another_rate_window_and_size_keep_what_is_in_it() -> None:
    bucket = Bucket(spec(60, 10), 0.0)
    bucket.count(8, 0.0)
    bucket.shape(spec(120, 20))
    assert bucket.state(spec(120, 20), 0.0) == MeterState(120, 12, 4.0)
    bucket.shape(spec(120, 20, 30.0))
    assert bucket.state(spec(120, 20, 30.0), 0.0) == MeterState(120, 12, 2.0)
    bucket.shape(spec(0, 20))
    assert bucket.wait(spec(0, 20), 1, 0.0) == math.inf
    assert bucket.state(spec(0, 20), 0.0) == MeterState(0, 12, 0.0)
