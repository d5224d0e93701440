"""Whose cost centre holds at an instant: the nearest level that has one."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.access.cost_centers import clipped, merged
from llmgw_core.domain.cost_center import FOREVER, CostCenters, CostChoice, CostSpan

IDS = st.sampled_from(["a", "b", "c"])


@st.composite
def levels(draw: st.DrawFn) -> list[list[CostSpan]]:
    """Three levels; the spans of each do not overlap."""
    found = []
    for _ in range(3):
        instants = sorted(draw(st.sets(st.integers(0, 20), max_size=8)))
        pairs = zip(instants[::2], instants[1::2], strict=False)
        found.append([CostSpan(since, until, draw(IDS)) for since, until in pairs])
    return found


@given(levels(), st.integers(-1, 21))
def test_the_calendar_says_at_every_instant_what_the_nearest_level_says(
    given: list[list[CostSpan]], instant: int
) -> None:
    calendar = merged(given)
    holding = [
        span.id for level in given for span in level if span.since_ns <= instant < span.until_ns
    ]
    assert CostCenters(calendar).at(instant) == (holding[-1] if holding else "")
    for earlier, later in itertools.pairwise(calendar):
        assert earlier.until_ns <= later.since_ns
        assert earlier.until_ns < later.since_ns or earlier.id != later.id


def test_a_cost_centre_holds_only_while_it_is_valid() -> None:
    assert clipped([CostSpan(0, 10, "a")], 5, FOREVER) == [CostSpan(5, 10, "a")]
    assert clipped([CostSpan(0, 10, "a")], 10, FOREVER) == []


def test_what_is_offered_may_be_chosen_while_it_is_valid_and_so_may_what_holds_anyhow() -> None:
    centers = CostCenters(
        (CostSpan(0, 10, "own"),), (CostChoice("CC-9", 5, 7, "nine"),), (("own", "CC-1"),)
    )
    assert centers.chosen("CC-9", 5) == "nine"
    assert centers.chosen("CC-9", 7) == ""
    assert centers.chosen("CC-1", 9) == "own"
    assert centers.chosen("CC-1", 10) == ""
    assert centers.chosen("CC-2", 5) == ""


def test_one_that_an_application_names_holds_at_all_times() -> None:
    centers = CostCenters.always("x")
    assert {centers.at(instant) for instant in (-5, 0, 10**18)} == {"x"}
