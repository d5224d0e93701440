"""The test that takes a canary out: how soon, and how seldom for nothing. Simulations are seeded;
where a number of calls is promised, the chances are added up exactly."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.alias import CanaryRules
from llmgw_core.routing.canary import THRESHOLD, Baseline, CanaryJudge, Median, ShareTest

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = CanaryRules()


def judge_with_baseline(failing: float = 0.0, calls: int = 2000) -> CanaryJudge:
    judge = CanaryJudge(RULES)
    every = round(1 / failing) if failing else 0
    for index in range(calls):
        bad = bool(every) and index % every == every // 2
        judge.baseline(failed=bad, stream=True, first=None if bad else 0.2)
    return judge


def chances_of_being_out(failing: float, usual: float, calls: int) -> list[float]:
    """The chance that a canary that fails so often is out after 1, 2, ... calls, beside a baseline
    whose share is known: the distribution of the sum, step by step, in cells of a thousandth."""
    bad = round(1000 * math.log((usual + 0.1) / usual))
    good = round(1000 * math.log((0.9 - usual) / (1 - usual)))
    limit = math.ceil(1000 * THRESHOLD) + 1  # rounding may only make it later
    sums, out, found = {0: 1.0}, 0.0, []
    for call in range(1, calls + 1):
        following: dict[int, float] = {}
        for value, chance in sums.items():
            for step, likely in ((bad, failing), (good, 1 - failing)):
                new = max(0, value + step)
                following[new] = following.get(new, 0.0) + chance * likely
        sums = following
        if call >= RULES.minimum_calls:
            gone = [value for value in sums if value >= limit]
            out += sum(sums.pop(value) for value in gone)
        found.append(out)
    return found


def test_a_canary_that_fails_20_percent_is_out_within_100_calls() -> None:
    chances = chances_of_being_out(0.2, 0.01, 100)
    assert chances[18] == 0.0  # nothing is decided before the minimum
    assert chances[27] >= 0.5
    assert chances[99] >= 0.999


@pytest.mark.parametrize(("failing", "calls"), [(0.15, 250), (0.3, 60), (0.5, 30), (1.0, 20)])
def test_the_worse_a_canary_is_the_sooner_it_is_out(failing: float, calls: int) -> None:
    assert chances_of_being_out(failing, 0.01, calls)[-1] >= 0.999


def test_the_judge_does_what_was_added_up() -> None:
    """1,000 canaries that fail 20 %, each beside the calls of its baseline that come meanwhile."""
    rng = random.Random(4)
    needed = sorted(calls_until_out(rng, 0.2, usual=0.005) for _ in range(1000))
    assert needed[499] <= 35
    assert needed[-2] <= 120


def calls_until_out(rng: random.Random, failing: float, *, usual: float) -> int:
    judge = judge_with_baseline(usual)
    for call in range(1, 1000):
        for _ in range(4):
            judge.baseline(failed=rng.random() < usual, stream=True, first=0.2)
        if judge.canary(failed=rng.random() < failing, stream=True, first=0.2):
            return call
    return 1000


@pytest.mark.parametrize("usual", [0.0, 0.02, 0.1, 0.3])
def test_a_canary_as_good_as_its_baseline_stays(usual: float) -> None:
    """40 of them, 1,000 calls each: less than one false alarm in two such rows is to be expected,
    and there is none in these."""
    rng = random.Random(f"stays {usual}")

    def call() -> dict[str, Any]:
        failed = rng.random() < usual
        return {"failed": failed, "stream": True, "first": rng.lognormvariate(-1, 1)}

    for _ in range(40):
        judge = CanaryJudge(RULES)
        for _ in range(200):
            judge.baseline(**call())
        for _ in range(1000):
            judge.baseline(**call())
            assert judge.canary(**call()) is None


def test_an_outage_of_everything_is_not_taken_for_the_canarys_fault() -> None:
    """19 of 20 calls are the baseline's; then everything fails."""
    judge = judge_with_baseline(0.001)
    for _ in range(500):
        for _ in range(19):
            judge.baseline(failed=True, stream=True, first=None)
        assert judge.canary(failed=True, stream=True, first=None) is None


def test_the_reason_says_what_was_counted() -> None:
    judge = judge_with_baseline()
    reasons = [judge.canary(failed=True, stream=False, first=None) for _ in range(20)]
    assert reasons[:19] == [None] * 19
    assert reasons[19] == "20 of 20 calls failed; of the baseline's 1.0% or less."


@pytest.mark.parametrize("stream", [True, False])
def test_a_canary_that_is_three_times_as_slow_is_out(stream: bool) -> None:
    rng, judge = random.Random(7), CanaryJudge(RULES)
    for _ in range(500):
        judge.baseline(failed=False, stream=stream, first=rng.lognormvariate(-1, 0.5))
    reasons = (
        judge.canary(failed=False, stream=stream, first=3 * rng.lognormvariate(-1, 0.5))
        for _ in range(60)
    )
    reason = next(filter(None, reasons))
    what = "streams" if stream else "complete replies"
    assert f"{what} were slower to their first token than 2 times the baseline's" in reason


def test_streams_are_not_compared_with_complete_replies() -> None:
    """Which take as long as all of their text."""
    judge = CanaryJudge(RULES)
    for _ in range(200):
        judge.baseline(failed=False, stream=True, first=0.2)
    assert not any(judge.canary(failed=False, stream=False, first=9.0) for _ in range(300))


def test_rules_may_look_for_one_thing_only() -> None:
    slow = CanaryJudge(CanaryRules(errors=None))
    failing = CanaryJudge(CanaryRules(slower=None))
    for judge in (slow, failing):
        for _ in range(200):
            judge.baseline(failed=False, stream=True, first=0.1)
    assert not any(slow.canary(failed=True, stream=True, first=None) for _ in range(200))
    assert not any(failing.canary(failed=False, stream=True, first=9.0) for _ in range(200))
    assert any(slow.canary(failed=False, stream=True, first=9.0) for _ in range(200))
    assert any(failing.canary(failed=True, stream=True, first=None) for _ in range(200))


def test_nothing_is_slow_before_there_is_a_median() -> None:
    judge = CanaryJudge(RULES)
    for _ in range(RULES.minimum_calls - 1):
        judge.baseline(failed=False, stream=True, first=0.001)
    assert not any(judge.canary(failed=False, stream=True, first=60.0) for _ in range(200))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_no_history_gives_a_verdict_before_the_minimum(history: list[tuple[bool, bool]]) -> None:
    judge, calls = CanaryJudge(RULES), 0
    for canary, failed in history:
        if canary:
            calls += 1
            reason = judge.canary(failed=failed, stream=True, first=0.1)
            assert reason is None or calls >= RULES.minimum_calls
        else:
            judge.baseline(failed=failed, stream=True, first=0.1)
    assert judge.errors.calls == calls


@given(st.lists(st.booleans(), max_size=400))
def test_a_share_is_a_share_and_the_sum_never_negative(history: list[bool]) -> None:
    baseline, test = Baseline(), ShareTest(0.1)
    for bad in history:
        baseline.add(bad=bad)
        test.baseline.add(bad=not bad)
        test.add(bad=bad)
        assert 0.01 <= baseline.share <= 1.0
        assert test.score >= 0.0


def test_a_baseline_forgets_what_was_long_ago() -> None:
    baseline = Baseline()
    for bad in (*[True] * 3000, *[False] * 30_000):
        baseline.add(bad=bad)
    assert baseline.share < 0.02


def recent(values: list[float], count: int) -> Iterator[list[float]]:
    for end in range(1, len(values) + 1):
        yield sorted(values[max(0, end - count) : end])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=500), st.integers(1, 300))
def test_the_median_is_that_of_the_last_two_hundred(values: list[float], minimum: int) -> None:
    median = Median(minimum)
    for value, expected in zip(values, recent(values, 200), strict=True):
        median.add(value)
        enough = len(expected) >= min(minimum, 200)
        assert median.value == (expected[len(expected) // 2] if enough else None)
