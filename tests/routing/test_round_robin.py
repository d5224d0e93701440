from __future__ import annotations

from collections import Counter
from math import gcd

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.deployment import Deployment
from llmgw_core.routing.strategies.round_robin import RoundRobin
from llmgw_core.testing.rosters import a_call, members_of, turn

CALL = a_call()
weights = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def deployments(weights: list[int]) -> list[Deployment]:
    return [
        Deployment(f"m/{index}", "m", "canonical", "onprem", "m", weight=weight)
        for index, weight in enumerate(weights)
    ]


@given(weights, st.integers(1, 30))
def test_who_only_looks_changes_nothing(weights: list[int], calls: int) -> None:
    balancer, members = RoundRobin(), members_of(deployments(weights))
    for _ in range(calls):
        seen = balancer.pick(CALL, members)
        assert seen is turn(balancer, CALL, members)


@given(weights, st.integers(1, 5))
def test_shares_are_exact_after_every_round(weights: list[int], rounds: int) -> None:
    balancer, members = RoundRobin(), members_of(deployments(weights))
    length = sum(weights) // gcd(*weights)
    for _ in range(rounds):
        picks = Counter(turn(balancer, CALL, members) for _ in range(length))
        assert picks == {m: m.weight // gcd(*weights) for m in members}


@given(weights, st.integers(1, 100))
def test_nobody_is_ever_a_whole_pick_ahead_of_its_share(weights: list[int], picks: int) -> None:
    balancer, members = RoundRobin(), members_of(deployments(weights))
    counts: Counter[object] = Counter()
    for number in range(1, picks + 1):
        counts[turn(balancer, CALL, members)] += 1
        assert all(counts[m] - number * m.weight / sum(weights) < 1 for m in members)


def test_the_heavy_one_is_not_picked_in_bursts() -> None:
    balancer, members = RoundRobin(), members_of(deployments([5, 1, 1]))
    picks = [turn(balancer, CALL, members).deployment.id[-1] for _ in range(7)]
    assert picks == list("0010200")


@given(st.lists(st.sampled_from([(0, 1), (1, 2), (0, 1, 2)]), max_size=200))
def test_callers_with_fewer_zones_starve_nobody(subsets: list[tuple[int, ...]]) -> None:
    balancer, members = RoundRobin(), members_of(deployments([1, 1, 1]))
    for subset in subsets:
        turn(balancer, CALL, [members[index] for index in subset])
    following = Counter(turn(balancer, CALL, members) for _ in range(300))
    assert all(abs(count - 100) <= 3 for count in following.values())
    assert len(following) == 3
