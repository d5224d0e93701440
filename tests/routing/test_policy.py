from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from llmgw_core.domain.failure import FailureKind
from llmgw_core.routing.policy import Step, next_step

KINDS: tuple[FailureKind, ...] = get_args(FailureKind)


@pytest.mark.parametrize(
    ("kind", "stale", "committed", "attempts", "budget", "left", "step"),
    [
        ("cut", False, False, 1, 5, 1, "next"),
        ("cut", False, False, 1, 5, 0, "stop"),
        ("cut", False, False, 5, 5, 1, "stop"),
        ("cut", False, False, 4, 5, 1, "next"),
        ("cut", True, False, 1, 5, 1, "again"),
        ("cut", True, False, 1, 1, 0, "again"),
        ("cut", True, True, 1, 5, 1, "stop"),
        ("client", False, False, 1, 5, 3, "stop"),
        ("client", True, False, 1, 5, 3, "stop"),
        ("rate_limited", False, False, 1, 5, 1, "next"),
        ("credentials", False, False, 2, 5, 1, "next"),
        ("timeout", False, True, 1, 5, 1, "stop"),
    ],
)
def test_what_follows_a_failure(
    *,
    kind: FailureKind,
    stale: bool,
    committed: bool,
    attempts: int,
    budget: int,
    left: int,
    step: Step,
) -> None:
    assert (
        next_step(
            kind,
            stale_connection=stale,
            committed=committed,
            attempts=attempts,
            budget=budget,
            candidates_left=left,
        )
        == step
    )


def test_nothing_goes_on_after_the_content_commit_or_beyond_the_budget() -> None:
    for kind, stale, attempts, left in product(KINDS, [False, True], range(1, 4), range(3)):
        after_content = next_step(
            kind,
            stale_connection=stale,
            committed=True,
            attempts=attempts,
            budget=3,
            candidates_left=left,
        )
        assert after_content == "stop"
        step = next_step(
            kind,
            stale_connection=stale,
            committed=False,
            attempts=attempts,
            budget=3,
            candidates_left=left,
        )
        assert step != "next" or (attempts < 3 and left > 0)
