from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.routing.retry_budget import WINDOW, RetryBudget


def spent(budget: RetryBudget, times: int, calls: int, now: float, **rules: float) -> int:
    return sum(budget.spend(calls, now, **rules) for _ in range(times))


def test_low_traffic_may_retry() -> None:
    assert spent(RetryBudget(), 100, 1, 0.0, share=0.0, minimum=5.0) == 5 * WINDOW


def test_nothing_is_granted_where_nothing_is_configured() -> None:
    budget = RetryBudget()
    assert spent(budget, 10, 1000, 0.0, share=0.0, minimum=0.0) == 0
    assert spent(budget, 10, 9000, 1.0, share=0.0, minimum=0.0) == 0


def test_retries_are_a_share_of_the_calls() -> None:
    budget = RetryBudget()
    budget.spend(0, 0.0, share=0.5, minimum=0.0)
    granted, calls = 0, 0
    for second in range(1, 101):
        calls += 100
        granted += spent(budget, 100, calls, float(second), share=0.5, minimum=0.0)
    assert 4800 <= granted <= 5000


def test_what_was_not_used_expires() -> None:
    budget = RetryBudget()
    budget.spend(0, 0.0, share=1.0, minimum=0.0)
    budget.spend(1000, 1.0, share=1.0, minimum=0.0)
    assert spent(budget, 5000, 1000, 1.0 + WINDOW / 2, share=1.0, minimum=0.0) <= 500
    assert spent(budget, 10, 1000, 1.0 + 2 * WINDOW, share=1.0, minimum=0.0) == 0


def test_of_a_long_quiet_time_only_the_last_window_counts() -> None:
    budget = RetryBudget()
    budget.spend(0, 0.0, share=1.0, minimum=0.0)
    assert spent(budget, 5000, 3600, 3600.0, share=1.0, minimum=0.0) == WINDOW


def test_it_counts_what_it_grants() -> None:
    budget = RetryBudget()
    assert spent(budget, 100, 1, 0.0, share=0.0, minimum=1.0) == budget.granted == WINDOW


@given(
    st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(0, 300), st.integers(0, 50))),
    st.floats(0.0, 1.0),
    st.floats(0.0, 10.0),
)
def test_no_history_gets_more_than_its_share_and_its_minimum(
    history: list[tuple[float, int, int]], share: float, minimum: float
) -> None:
    budget, now, calls = RetryBudget(), 0.0, 0
    for elapsed, new, asked in history:
        now += elapsed
        calls += new
        spent(budget, asked, calls, now, share=share, minimum=minimum)
    assert budget.granted <= share * calls + minimum * (now + WINDOW) + 1e-6
