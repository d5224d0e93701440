"""What answers of engines mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.health import ProbeSettings
from llmgw_core.domain.load import EngineLoad
from llmgw_core.routing.readiness import (
    READY,
    Finding,
    Readiness,
    Verdict,
    foreign,
    health,
    listed,
    patience,
    too_full,
)

SILENT = Finding(Verdict.SILENT, "no answer")
LOADING = Finding(Verdict.NOT_READY, "loading")
UNKNOWN = Finding(Verdict.UNKNOWN, "no such page")


@pytest.mark.parametrize(
    ("status", "verdict", "words"),
    [
        (200, Verdict.READY, ""),
        (204, Verdict.READY, ""),
        (503, Verdict.NOT_READY, "it answers /health with status 503"),
        (500, Verdict.NOT_READY, "with status 500"),
        (429, Verdict.NOT_READY, "with status 429"),
        (302, Verdict.NOT_READY, "with status 302"),
        (404, Verdict.UNKNOWN, "it has no page /health (status 404)"),
        (501, Verdict.UNKNOWN, "it has no page /health"),
        (401, Verdict.UNKNOWN, "it does not let us see /health (status 401)"),
    ],
)
def test_an_answer_is_judged_by_its_status(status: int, verdict: Verdict, words: str) -> None:
    found = health(status, "/health")
    assert found.verdict is verdict
    assert words in found.reason


def test_who_says_so_is_not_ready_at_once_and_ready_with_the_next_good_answer() -> None:
    state = Readiness()
    assert state.found(LOADING, 3)
    assert (state.ready, state.reason) == (False, "loading")
    assert not state.found(LOADING, 3)
    assert state.found(READY, 3)
    assert (state.ready, state.reason) == (True, "")


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_only_several_silences_in_a_row_say_something(failures: int) -> None:
    state = Readiness()
    for _ in range(failures - 1):
        assert not state.found(SILENT, failures)
    assert not state.found(UNKNOWN, failures)
    for _ in range(failures - 1):
        assert not state.found(SILENT, failures)
    assert state.found(SILENT, failures)
    assert (state.ready, state.reason) == (False, "no answer")


def test_silence_does_not_make_ready() -> None:
    state = Readiness()
    state.found(LOADING, 2)
    assert not state.found(SILENT, 2)
    assert (state.ready, state.reason) == (False, "loading")
    state.found(SILENT, 2)
    assert state.reason == "no answer"


@given(st.lists(st.sampled_from([READY, SILENT, LOADING, UNKNOWN])), st.integers(1, 3))
def test_the_last_clear_word_or_the_silences_since_decide(
    findings: list[Finding], failures: int
) -> None:
    state, before = Readiness(), True
    for finding in findings:
        assert state.found(finding, failures) is (state.ready is not before)
        before = state.ready
    said = [each for each in findings if each is not SILENT]
    silences = len(findings) - max(
        (place + 1 for place, each in enumerate(findings) if each is not SILENT), default=0
    )
    assert state.ready is (said[-1:] != [LOADING] and silences < failures)


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        (None, ""),
        (frozenset({"a", "b"}), ""),
        (frozenset({"b"}), "it does not list the model `a`"),
        (frozenset(), "it does not list the model `a`"),
    ],
)
def test_a_model_that_is_not_listed_is_named(models: frozenset[str] | None, problem: str) -> None:
    assert listed(models, "a") == problem


def test_an_engine_is_too_full_from_its_bounds_on() -> None:
    bounds = ProbeSettings(max_waiting=8, max_kv_use=0.9)
    assert too_full(EngineLoad(20, 7, 0.89, 0.0), bounds) == ""
    assert too_full(EngineLoad(0, 8, None, 0.0), bounds) == "8 requests wait in front of it"
    assert too_full(EngineLoad(0, 0, 0.9, 0.0), bounds) == "90% of its KV cache is in use"
    assert too_full(EngineLoad(0, 10**6, 1.0, 0.0), ProbeSettings()) == ""


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 100))
def test_our_own_count_wins_over_the_report(running: int, waiting: int, ours: int) -> None:
    others = foreign(EngineLoad(running, waiting, None, 0.0), ours)
    assert others == max(0, running + waiting - ours)
    assert ours + others >= ours


def test_an_answer_holds_for_three_rounds() -> None:
    assert patience(ProbeSettings(interval=10.0, timeout=3.0)) == 39.0
