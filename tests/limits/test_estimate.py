from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.limits.estimate import TokenEstimator

REPEATABLE = settings(derandomize=True, database=None, deadline=None)


def test_before_anything_is_learned_four_bytes_are_a_token_and_the_default_is_expected() -> None:
    estimator = TokenEstimator(default_output=300)
    assert estimator.input_tokens("m", 400) == 100
    assert estimator.output_tokens("m", 401) == 101
    assert estimator.expected_output("m") == 300
    assert TokenEstimator().expected_output("m") == 256


def test_nothing_delivered_is_no_token() -> None:
    assert TokenEstimator().output_tokens("m", 0) == 0
    assert TokenEstimator().input_tokens("m", 0) == 0


def test_the_ratio_follows_what_the_provider_reports_for_that_model_and_direction() -> None:
    estimator = TokenEstimator()
    for _ in range(100):
        estimator.learn("m", 6000, 1000, 0, 0)
        estimator.learn("m", 0, 0, 2000, 1000)
    assert estimator.input_tokens("m", 6000) == pytest.approx(1000, rel=0.01)
    assert estimator.output_tokens("m", 2000) == pytest.approx(1000, rel=0.01)
    assert estimator.input_tokens("other", 6000) == 1500


def test_one_odd_sample_moves_the_estimate_only_a_little() -> None:
    estimator = TokenEstimator()
    estimator.learn("m", 5_000_000, 900, 0, 0)
    assert estimator.input_tokens("m", 4000) > 800


@REPEATABLE
@given(st.lists(st.tuples(st.integers(-5, 10**9), st.integers(-5, 10**9)), max_size=200))
def test_the_ratio_stays_within_sane_bounds_whatever_is_learned(
    samples: list[tuple[int, int]],
) -> None:
    estimator = TokenEstimator()
    for nbytes, tokens in samples:
        estimator.learn("m", nbytes, tokens, 0, 0)
        estimator.learn("m", 0, 0, nbytes, tokens)
    assert 1000 <= estimator.input_tokens("m", 16_000) <= 16_000
    assert 1000 <= estimator.output_tokens("m", 16_000) <= 16_000
    assert 1 <= estimator.expected_output("m") <= 1_000_000


@REPEATABLE
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_bytes_are_never_fewer_tokens(a: int, b: int) -> None:
    estimator = TokenEstimator()
    estimator.learn("m", 1000, 300, 0, 0)
    assert (estimator.input_tokens("m", a) <= estimator.input_tokens("m", b)) or a > b


@pytest.mark.parametrize("middle", [3.0, 5.0, 8.0])
def test_about_95_of_100_answers_stay_below_the_expected_output(middle: float) -> None:
    dice = random.Random(7)
    estimator = TokenEstimator()
    for _ in range(3000):
        tokens = max(1, round(dice.lognormvariate(middle, 0.8)))
        estimator.learn("m", 0, 0, 0, tokens)
    expected = 0
    for _ in range(4000):
        tokens = max(1, round(dice.lognormvariate(middle, 0.8)))
        expected += tokens <= estimator.expected_output("m")
        estimator.learn("m", 0, 0, 0, tokens)
    assert 0.93 < expected / 4000 < 0.97


def test_the_expected_output_follows_when_answers_become_longer() -> None:
    estimator = TokenEstimator()
    for _ in range(2000):
        estimator.learn("m", 0, 0, 0, 50)
    assert estimator.expected_output("m") < 60
    for _ in range(100):
        estimator.learn("m", 0, 0, 0, 2000)
    assert estimator.expected_output("m") > 1900


def test_usage_that_says_nothing_teaches_nothing() -> None:
    estimator = TokenEstimator()
    estimator.learn("m", 100, 0, 0, 0)
    estimator.learn("m", 0, 100, 0, 0)
    estimator.learn("m", 0, 0, 100, 0)
    assert estimator.input_tokens("m", 400) == 100
    assert estimator.output_tokens("m", 400) == 100
    assert estimator.expected_output("m") == 256
