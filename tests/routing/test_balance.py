from __future__ import annotations

from collections import Counter
from math import gcd
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.deployment import Deployment
from llmgw_core.routing.balance import SmoothRoundRobin

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL = Call("c", "chat.completions", Head("POST", "/v1/chat/completions", ()), 0.0, 0)
weights = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def deployments(weights: list[int]) -> list[Deployment]:
    return [
        Deployment(f"m/{index}", "m", "canonical", "onprem", "m", weight=weight)
        for index, weight in enumerate(weights)
    ]


def turn(balancer: SmoothRoundRobin, members: list[Deployment]) -> Sequence[Deployment]:
    """The order of a call that goes to the pick."""
    order = balancer.order(CALL, members)
    balancer.took(order[0], members)
    return order


@given(weights, st.integers(1, 30))
def test_who_only_looks_changes_nothing(weights: list[int], calls: int) -> None:
    balancer, members = SmoothRoundRobin(), deployments(weights)
    for _ in range(calls):
        seen = balancer.order(CALL, members)
        assert seen == turn(balancer, members)


@given(weights, st.integers(1, 5))
def test_shares_are_exact_after_every_round(weights: list[int], rounds: int) -> None:
    balancer, members = SmoothRoundRobin(), deployments(weights)
    length = sum(weights) // gcd(*weights)
    for _ in range(rounds):
        picks = Counter(turn(balancer, members)[0].id for _ in range(length))
        assert picks == {d.id: d.weight // gcd(*weights) for d in members}


@given(weights, st.integers(1, 100))
def test_nobody_is_ever_a_whole_pick_ahead_of_its_share(weights: list[int], picks: int) -> None:
    balancer, members = SmoothRoundRobin(), deployments(weights)
    counts: Counter[str] = Counter()
    for number in range(1, picks + 1):
        counts[turn(balancer, members)[0].id] += 1
        assert all(counts[d.id] - number * d.weight / sum(weights) < 1 for d in members)


@given(weights, st.integers(1, 30))
def test_every_order_holds_everybody_once(weights: list[int], calls: int) -> None:
    balancer, members = SmoothRoundRobin(), deployments(weights)
    for _ in range(calls):
        order = turn(balancer, members)
        assert sorted(d.id for d in order) == sorted(d.id for d in members)


def test_the_heavy_one_is_not_picked_in_bursts() -> None:
    balancer, members = SmoothRoundRobin(), deployments([5, 1, 1])
    assert [turn(balancer, members)[0].id[-1] for _ in range(7)] == list("0010200")


def test_behind_the_pick_comes_the_one_whose_turn_is_nearest() -> None:
    balancer, members = SmoothRoundRobin(), deployments([1, 1, 1])
    orders = [[d.id[-1] for d in turn(balancer, members)] for _ in range(3)]
    assert [order[0] for order in orders] == ["0", "1", "2"]
    assert orders[0][1] == "1"
    assert orders[1][1] == "2"


@given(st.lists(st.sampled_from([(0, 1), (1, 2), (0, 1, 2)]), max_size=200))
def test_callers_with_fewer_zones_starve_nobody(subsets: list[tuple[int, ...]]) -> None:
    balancer, members = SmoothRoundRobin(), deployments([1, 1, 1])
    for subset in subsets:
        turn(balancer, [members[index] for index in subset])
    following = Counter(turn(balancer, members)[0].id for _ in range(300))
    assert all(abs(count - 100) <= 3 for count in following.values())
    assert len(following) == 3
