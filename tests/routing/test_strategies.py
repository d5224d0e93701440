"""The balancers one by one: whom they pick, and that looking changes nothing."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.deployment import Deployment
from llmgw_core.routing.balance import BalancerContext
from llmgw_core.routing.strategies import BALANCERS
from llmgw_core.routing.strategies.least_outstanding import LeastOutstandingOptions
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.rosters import a_call, members_of, turn

if TYPE_CHECKING:
    from llmgw_core.routing.balance import Balancer, Member

CALL = a_call()
WHOLE = a_call(b'{"model":"m","messages":[{"role":"user","content":"Hello"}]}')


def members(*weights: int) -> tuple[Member, ...]:
    return members_of(
        [
            Deployment(f"m/{index}", "m", "canonical", "onprem", "m", weight=weight)
            for index, weight in enumerate(weights)
        ]
    )


def balancer(name: str, *, seed: int = 1, clock: FakeClock | None = None) -> Balancer:
    make = BALANCERS[name]
    kind = getattr(make, "Options", None)
    options = kind() if kind is not None else None
    return make(BalancerContext(options, clock=clock or FakeClock(), random=Random(seed)))


loads = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 9), st.integers(0, 5000), st.floats(0.01, 9.0)),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", BALANCERS)
@given(loads=loads, seed=st.integers(0, 1000), takes=st.integers(1, 5))
def test_who_only_looks_changes_nothing(
    name: str, loads: list[tuple[int, int, int, float]], seed: int, takes: int
) -> None:
    chosen = balancer(name, seed=seed)
    crowd = members(*(weight for weight, *_ in loads))
    for member, (_, calls, tokens, seconds) in zip(crowd, loads, strict=True):
        member.state.in_flight, member.state.tokens_in_flight = calls, tokens
        member.state.first_content.observe(seconds, 1.0)
    for _ in range(takes):
        seen = [chosen.pick(CALL, crowd) for _ in range(3)]
        assert seen == [turn(chosen, CALL, crowd)] * 3
        assert seen[0] in crowd


def shares(chosen: Balancer, crowd: tuple[Member, ...], calls: int) -> list[float]:
    picks = Counter(turn(chosen, CALL, crowd) for _ in range(calls))
    return [picks[member] / calls for member in crowd]


@pytest.mark.parametrize("name", sorted(set(BALANCERS) - {"prefix_affinity"}))
@given(weights=st.lists(st.integers(1, 4), min_size=2, max_size=4), seed=st.integers(0, 50))
def test_shares_follow_the_weights_where_nothing_else_speaks_against_it(
    name: str, weights: list[int], seed: int
) -> None:
    """One call after the other to deployments that nobody knows anything of. Of two that are drawn
    without replacement a heavy one cannot have more than every call."""
    found = shares(balancer(name, seed=seed), members(*weights), 2000)
    wanted = [weight / sum(weights) for weight in weights]
    for share, expected in zip(found, wanted, strict=True):
        assert share == pytest.approx(expected, abs=0.06)


class TestLeastOutstanding:
    def test_who_has_less_in_flight_for_its_weight_gets_the_call(self) -> None:
        crowd = members(1, 3)
        crowd[0].state.in_flight, crowd[1].state.in_flight = 1, 2
        assert balancer("least_outstanding").pick(CALL, crowd) is crowd[1]
        crowd[1].state.in_flight = 4
        assert balancer("least_outstanding").pick(CALL, crowd) is crowd[0]

    def test_one_long_call_weighs_more_than_two_short_ones(self) -> None:
        crowd = members(1, 1)
        crowd[0].state.in_flight, crowd[0].state.tokens_in_flight = 1, 8000
        crowd[1].state.in_flight, crowd[1].state.tokens_in_flight = 2, 100
        assert balancer("least_outstanding").pick(CALL, crowd) is crowd[1]

    def test_how_much_a_call_counts_is_configured(self) -> None:
        crowd = members(1, 1)
        crowd[0].state.in_flight, crowd[0].state.tokens_in_flight = 1, 8000
        crowd[1].state.in_flight, crowd[1].state.tokens_in_flight = 2, 100
        context = BalancerContext(LeastOutstandingOptions(call_tokens=10_000))
        assert BALANCERS["least_outstanding"](context).pick(CALL, crowd) is crowd[0]

    def test_calls_that_an_engine_has_from_elsewhere_count(self) -> None:
        crowd = members(1, 1)
        crowd[0].state.others = 3
        crowd[1].state.in_flight = 2
        assert balancer("least_outstanding").pick(CALL, crowd) is crowd[1]

    @given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
    def test_nobody_ever_has_more_in_flight_than_its_share_and_one(
        self, weights: list[int], data: st.DataObject
    ) -> None:
        chosen, crowd = balancer("least_outstanding"), members(*weights)
        for _ in range(data.draw(st.integers(1, 40))):
            member = turn(chosen, CALL, crowd)
            member.state.in_flight += 1
            calls = sum(each.state.in_flight for each in crowd)
            assert member.state.in_flight <= calls * member.weight / sum(weights) + 1


class TestPeakEwma:
    def test_the_faster_of_two_gets_the_call(self) -> None:
        crowd = members(1, 1)
        crowd[0].state.first_content.observe(2.0, 999.0)
        crowd[1].state.first_content.observe(0.2, 999.0)
        assert shares(balancer("peak_ewma"), crowd, 100) == [0.0, 1.0]

    def test_until_it_has_so_much_to_do_that_the_slower_one_is_quicker(self) -> None:
        crowd = members(1, 1)
        crowd[0].state.first_content.observe(2.0, 1000.0)
        crowd[1].state.first_content.observe(0.2, 1000.0)
        crowd[1].state.in_flight = 12
        assert shares(balancer("peak_ewma"), crowd, 50) == [1.0, 0.0]

    def test_who_has_the_larger_weight_may_have_more_in_flight(self) -> None:
        crowd = members(1, 3)
        for member, calls in zip(crowd, (3, 6), strict=True):
            member.state.first_content.observe(0.5, 1000.0)
            member.state.in_flight = calls
        assert shares(balancer("peak_ewma"), crowd, 50) == [0.0, 1.0]

    def test_streams_and_whole_replies_are_told_apart(self) -> None:
        crowd = members(1, 1)
        for member, first, whole in zip(crowd, (0.1, 0.3), (9.0, 2.0), strict=True):
            member.state.first_content.observe(first, 1000.0)
            member.state.complete.observe(whole, 1000.0)
        chosen = balancer("peak_ewma")
        assert (chosen.pick(CALL, crowd), chosen.pick(WHOLE, crowd)) == crowd

    def test_who_is_new_is_not_taken_for_the_fastest(self) -> None:
        crowd = members(1, 1, 1)
        for member in crowd[:2]:
            member.state.first_content.observe(0.5, 1000.0)
            member.state.in_flight = 1
        crowd[2].state.in_flight = 1
        found = shares(balancer("peak_ewma"), crowd, 3000)
        assert found == pytest.approx([1 / 3] * 3, abs=0.05)

    def test_who_was_slow_long_ago_is_tried_again_when_others_have_something_to_do(self) -> None:
        clock = FakeClock(1000.0)
        crowd = members(1, 1)
        crowd[0].state.first_content.observe(5.0, 1000.0)
        chosen = balancer("peak_ewma", clock=clock)
        crowd[1].state.in_flight = 3
        for seconds in (1, 5, 40):
            clock.now = 1000.0 + seconds
            crowd[1].state.first_content.observe(0.2, clock.now)
            picked = chosen.pick(CALL, crowd)
            assert picked is crowd[0 if seconds == 40 else 1]


class TestCheapest:
    def test_the_lowest_price_of_the_call_wins_however_busy(self) -> None:
        crowd = members(1, 1, 1)
        for member, price in zip(crowd, (3, 1, 2), strict=True):
            member.price = lambda call, price=price: price  # type: ignore[misc]
        crowd[1].state.in_flight = 50
        assert shares(balancer("cheapest"), crowd, 10) == [0.0, 1.0, 0.0]

    def test_among_equals_the_idlest_is_taken_in_turns(self) -> None:
        crowd = members(1, 1, 1)
        crowd[0].price = lambda call: 7
        crowd[1].state.in_flight = 1
        assert balancer("cheapest").pick(CALL, crowd) is crowd[2]
        crowd[1].state.in_flight = 0
        assert shares(balancer("cheapest"), crowd, 10) == [0.0, 0.5, 0.5]
