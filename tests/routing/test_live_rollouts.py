"""What a running gateway knows of rollouts, and what its calls say about them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from llmgw_core.domain.alias import CanaryRules, Variant
from llmgw_core.domain.usage import AttemptRecord
from llmgw_core.routing.rollouts import LiveRollouts, Rollout, Trial
from llmgw_core.testing.usage_records import usage_record

BASE = (Variant("old"),)
RUNNING = Rollout("chat", "new", 5.0, "running", "", BASE, "admin", 1.0, 1.0)
RULES = CanaryRules()


def attempt(model: str, outcome: str = "ok") -> AttemptRecord:
    return AttemptRecord(f"{model}/a", model, outcome, 200, 1000, 0, 0)


def record(*attempts: AttemptRecord, **fields: Any) -> Any:
    return replace(usage_record(1), attempts=attempts, first_content_us=200_000, **fields)


class Watched:
    """A live rollout with what it has taken out."""

    def __init__(self) -> None:
        self.out: list[Rollout] = []
        self.live = LiveRollouts(self.out.append)
        self.live.apply([RUNNING])
        self.canary = Trial(self.live, RUNNING, RULES, "new")
        self.baseline = Trial(self.live, RUNNING, RULES, "old")

    def fails(self, calls: int = 20) -> None:
        for _ in range(calls):
            self.canary.ended(record(attempt("new", "server"), attempt("old")))


def test_a_canary_that_fails_is_out_at_once_and_told_of_once() -> None:
    watched = Watched()
    for _ in range(100):
        watched.baseline.ended(record(attempt("old")))
    watched.fails(30)
    [ended] = watched.out
    assert (ended.state, ended.alias, ended.model) == ("aborted", "chat", "new")
    assert ended.reason.startswith("20 of 20 calls failed; of the baseline's ")
    assert watched.live.of("chat") == ended


def test_a_canary_as_good_as_the_baseline_stays() -> None:
    watched = Watched()
    for _ in range(200):
        watched.baseline.ended(record(attempt("old", "timeout")))
        watched.canary.ended(record(attempt("new", "timeout")))
    assert watched.out == []


@pytest.mark.parametrize(
    ("attempts", "counted"),
    [
        ([], 0),  # answered by a plugin, or stopped before
        (["ok"], 1),
        (["server", "ok"], 1),  # a sibling stepped in
        (["cut"], 1),
        (["client"], 0),
        (["client_left"], 0),
        (["context_window"], 0),
        (["rejected"], 0),
        (["interrupted"], 0),
    ],
)
def test_what_is_not_the_models_fault_does_not_count(attempts: list[str], counted: int) -> None:
    watched = Watched()
    watched.canary.ended(record(*(attempt("new", outcome) for outcome in attempts)))
    assert watched.live.judge(RUNNING, RULES).errors.calls == counted


def test_a_canary_without_any_deployment_to_try_has_failed() -> None:
    watched = Watched()
    watched.canary.ended(record(attempt("old")))
    assert watched.live.judge(RUNNING, RULES).errors.bad == 1


def test_the_store_may_not_have_heard_yet_of_what_was_taken_out() -> None:
    watched = Watched()
    watched.fails()
    watched.live.apply([RUNNING])
    assert watched.live.of("chat") == watched.out[0]
    stored = replace(RUNNING, state="aborted", reason="by hand")
    watched.live.apply([stored])
    assert watched.live.of("chat") == stored


def test_another_rollout_of_the_alias_is_not_held_back_by_the_last_one() -> None:
    watched = Watched()
    watched.fails()
    again = replace(RUNNING, started=2.0)
    watched.live.apply([again])
    assert watched.live.of("chat") == again
    assert watched.live.judge(again, RULES).errors.calls == 0


def test_calls_of_a_rollout_that_is_over_count_for_nobody() -> None:
    watched = Watched()
    watched.live.apply([replace(RUNNING, started=2.0)])
    watched.fails(100)
    watched.live.apply([])
    watched.fails(100)
    assert watched.out == []
    assert watched.live.of("chat") is None


def test_counts_go_on_over_a_step_and_begin_anew_with_other_rules() -> None:
    watched = Watched()
    watched.fails(10)
    stepped = replace(RUNNING, share=25.0, changed=2.0)
    watched.live.apply([stepped])
    assert watched.live.judge(stepped, RULES).errors.calls == 10
    assert watched.live.judge(stepped, CanaryRules(minimum_calls=7)).errors.calls == 0


def test_a_promotion_holds_until_the_configuration_says_something_else() -> None:
    promoted = replace(RUNNING, state="promoted")
    assert promoted.holds(BASE)
    assert not promoted.holds((Variant("new"),))
    assert RUNNING.holds((Variant("other"),))
    assert not replace(RUNNING, state="aborted").holds(BASE)
