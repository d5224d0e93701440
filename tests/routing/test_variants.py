"""Variants by hash: shares hold, and nobody moves who need not."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.alias import Variant
from llmgw_core.routing.variants import (
    Lots,
    in_share,
    lots_of_canary,
    lots_of_variant,
    pick,
)

MARKS = [f"user {index}" for index in range(10_000)]


class Choice:
    """A variant with a name, as a lane has one."""

    def __init__(self, name: str, weight: int, alias: str = "chat") -> None:
        self.name = name
        self.weight = weight
        self.lots = lots_of_variant(alias, name)


def picks(*choices: tuple[str, int]) -> list[str]:
    listed = [Choice(name, weight) for name, weight in choices]
    return [pick(mark, listed).name for mark in MARKS]


def moved(before: list[str], after: list[str]) -> Counter[tuple[str, str]]:
    return Counter(pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])


@pytest.mark.parametrize("weights", [(95, 5), (1, 1), (50, 30, 20), (1, 10, 100)])
def test_each_variant_has_its_share(weights: tuple[int, ...]) -> None:
    """Within four standard deviations."""
    counts = Counter(picks(*((f"m{index}", weight) for index, weight in enumerate(weights))))
    for index, weight in enumerate(weights):
        share = weight / sum(weights)
        deviation = (len(MARKS) * share * (1 - share)) ** 0.5
        assert abs(counts[f"m{index}"] - share * len(MARKS)) < 4 * deviation


def test_a_weight_that_grows_takes_from_the_others_and_moves_nobody_else() -> None:
    before = picks(("a", 50), ("b", 30), ("c", 20))
    changes = moved(before, picks(("a", 50), ("b", 30), ("c", 60)))
    assert {after for _, after in changes} == {"c"}
    assert {before for before, _ in changes} == {"a", "b"}


def test_of_two_variants_only_the_difference_moves() -> None:
    before, after = picks(("old", 95), ("new", 5)), picks(("old", 75), ("new", 25))
    changes = moved(before, after)
    assert set(changes) == {("old", "new")}
    assert after.count("new") - before.count("new") == changes["old", "new"]


def test_a_variant_that_goes_leaves_the_others_where_they_are() -> None:
    before = picks(("a", 50), ("b", 30), ("c", 20))
    assert {was for was, _ in moved(before, picks(("a", 50), ("b", 30)))} == {"c"}


def test_the_order_in_the_configuration_does_not_matter() -> None:
    assert picks(("a", 2), ("b", 1)) == picks(("b", 1), ("a", 2))


def test_aliases_are_shared_out_independently() -> None:
    """Who is in the small share of one alias is no likelier to be in that of another."""
    one, other = ([Choice("a", 90, alias), Choice("b", 10, alias)] for alias in ("x", "y"))
    both = sum(pick(mark, one).name == pick(mark, other).name == "b" for mark in MARKS)
    assert 50 < both < 160


@given(st.floats(0.1, 99.9), st.floats(0.1, 99.9), st.text())
def test_who_is_in_a_share_stays_in_it_when_it_grows(one: float, other: float, mark: str) -> None:
    small, large = sorted((one, other))
    lots = lots_of_canary("a", "m")
    assert not in_share(lots, mark, small) or in_share(lots, mark, large)


def test_a_share_of_a_canary_holds_and_all_is_everybody() -> None:
    lots = lots_of_canary("chat", "new")
    assert 400 < sum(in_share(lots, mark, 5.0) for mark in MARKS) < 600
    assert all(in_share(lots, mark, 100.0) for mark in MARKS)


def test_texts_that_only_look_alike_when_joined_are_different() -> None:
    assert Lots("ab", "c").number("d") != Lots("a", "bc").number("d")
    assert Lots("ab").number("c") != Lots("a").number("bc")
    # Half of a surrogate pair, which a request may hold.
    assert Lots("\udcff").number("\udcff") != Lots("\udcff").number("\udcfe")


def test_other_processes_decide_alike() -> None:
    """Whatever the seed of Python's own hashes is; and the numbers never change."""
    code = (
        "from llmgw_core.routing.variants import lots_of_variant;"
        " print([lots_of_variant('chat', 'new').number(f'user {i}') for i in range(5)])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    lots = lots_of_variant("chat", "new")
    assert told == {f"{[lots.number(f'user {i}') for i in range(5)]}\n"}
    assert lots.number("user 0") == pytest.approx(PINNED, rel=1e-15)


def test_without_variants_there_is_nothing_to_pick() -> None:
    with pytest.raises(ValueError, match="empty"):
        pick("user", [])


def test_a_variant_says_its_model_and_weight() -> None:
    assert Variant("a").weight == 1


PINNED = 0.5820900627845511
