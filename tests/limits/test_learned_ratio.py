"""The bound of an estimate: a ratio that was learned never leaves what was seen."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.limits.estimate import FIRST_RATIO, Lengths, TokenEstimator

samples = st.lists(
    st.tuples(st.integers(1, 100_000), st.floats(1.0, 16.0)).map(
        lambda pair: (math.ceil(pair[0] * pair[1]), pair[0])
    ),
    min_size=1,
    max_size=40,
)


@given(samples, st.integers(0, 1_000_000), st.floats(0.0, 1.0))
def test_an_estimate_is_off_by_no_more_than_the_texts_of_the_model_differ(
    learned: list[tuple[int, int]], nbytes: int, place: float
) -> None:
    """With all texts between L and H bytes per token, an estimate is between L/H and H/L of the
    true number, and one token for rounding."""
    estimator = TokenEstimator()
    for size, tokens in learned:
        estimator.learn("m", size, tokens, size, tokens)
    ratios = [min(16.0, max(1.0, size / tokens)) for size, tokens in learned]
    low, high = min(ratios), max(ratios)
    true = nbytes / (low + place * (high - low))
    slack = 1 + 1e-9 * nbytes
    for estimate in (estimator.input_tokens("m", nbytes), estimator.output_tokens("m", nbytes)):
        assert true * low / high - slack <= estimate <= true * high / low + slack


def test_the_first_answer_replaces_the_first_guess() -> None:
    estimator = TokenEstimator()
    estimator.learn("m", 2000, 1000, 3000, 1000)
    assert estimator.input_tokens("m", 2000) == 1000
    assert estimator.output_tokens("m", 3000) == 1000


def test_later_answers_move_it_by_a_sixteenth() -> None:
    estimator = TokenEstimator()
    for _ in range(100):
        estimator.learn("m", 2000, 1000, 0, 0)
    before = estimator.known()["m"].input_ratio
    estimator.learn("m", 4000, 1000, 0, 0)
    assert math.isclose(estimator.known()["m"].input_ratio - before, 2.0 / 16, rel_tol=0.1)


def test_what_was_learned_goes_on_where_it_ended() -> None:
    before = TokenEstimator()
    for tokens in range(100, 130):
        before.learn("m", 300, 100, tokens * 5, tokens)
    after = TokenEstimator()
    after.adopt(before.known())
    assert after.known() == before.known()
    for estimator in (before, after):
        estimator.learn("m", 700, 100, 900, 100)
    assert after.known() == before.known()


def test_half_of_what_there_is_to_know_is_no_guess_at_the_rest() -> None:
    after = TokenEstimator()
    after.adopt({"m": Lengths(FIRST_RATIO, 2.0, 256.0, 0.6)})
    after.learn("m", 700, 100, 300, 100)
    assert after.input_tokens("m", 700) == 100
    assert after.output_tokens("m", 206) == 100


def test_what_cannot_have_been_learned_is_left_out() -> None:
    estimator = TokenEstimator()
    estimator.learn("known", 200, 100, 0, 0)
    nan = float("nan")
    bad = [
        Lengths(0.0, 4.0, 256.0, 0.1),
        Lengths(4.0, 99.0, 256.0, 0.1),
        Lengths(4.0, 4.0, 0.0, 0.1),
        Lengths(4.0, 4.0, nan, 0.1),
        Lengths(nan, 4.0, 256.0, 0.1),
        Lengths(4.0, 4.0, 256.0, 0.0),
        Lengths(4.0, 4.0, 256.0, 7.0),
    ]
    estimator.adopt({f"bad {n}": each for n, each in enumerate(bad)})
    estimator.adopt({"known": Lengths(9.0, 9.0, 9.0, 0.1)})
    assert list(estimator.known()) == ["known"]
    assert estimator.input_tokens("known", 200) == 100
