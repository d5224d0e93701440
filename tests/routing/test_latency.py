from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.routing.latency import DECAY, PeakEwma

seconds = st.floats(0.001, 100.0)


def test_nothing_is_known_at_first_which_is_not_zero() -> None:
    estimate = PeakEwma()
    assert estimate.seconds is None
    assert estimate.toward(0.7, 50.0) == 0.7


@given(st.lists(st.tuples(seconds, st.floats(0.0, 30.0)), min_size=1, max_size=30))
def test_bad_news_is_believed_at_once_and_good_news_never_overshoots(
    news: list[tuple[float, float]],
) -> None:
    estimate, now = PeakEwma(), 0.0
    for took, pause in news:
        now += pause
        before = estimate.seconds
        estimate.observe(took, now)
        assert estimate.seconds is not None
        assert estimate.seconds >= took or estimate.seconds == pytest.approx(took)
        assert before is None or estimate.seconds <= max(before, took) + 1e-9


def test_good_news_moves_the_estimate_by_how_much_time_has_passed() -> None:
    burst, later = PeakEwma(), PeakEwma()
    for estimate in (burst, later):
        estimate.observe(5.0, 0.0)
    for number in range(100):  # a burst of fast answers within a millisecond
        burst.observe(0.1, number * 1e-5)
    later.observe(0.1, 3 * DECAY)
    assert burst.seconds == pytest.approx(5.0, rel=0.01)
    assert later.seconds == pytest.approx(0.1 + 4.9 * 0.0498, rel=0.01)


@given(seconds, seconds, st.floats(0.0, 100.0))
def test_what_is_old_tells_less_and_less(slow: float, other: float, age: float) -> None:
    estimate = PeakEwma()
    estimate.observe(slow, 0.0)
    expected = estimate.toward(other, age)
    assert min(slow, other) - 1e-9 <= expected <= max(slow, other) + 1e-9
    assert estimate.toward(other, 0.0) == pytest.approx(slow)
    assert estimate.toward(other, 100 * DECAY) == pytest.approx(other)
