"""The same prompt or session to the same deployment, within bounds."""

from __future__ import annotations

from collections import Counter
from math import ceil
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.deployment import Deployment
from llmgw_core.routing.balance import BalancerContext
from llmgw_core.routing.strategies.affinity import (
    PrefixAffinity,
    PrefixOptions,
    SessionAffinity,
    SessionOptions,
    home,
)
from llmgw_core.routing.strategies.affinity_keys import prefix_key
from llmgw_core.testing.rosters import a_call, members_of, turn

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.routing.balance import Member

LOOSE = 1e9
"""A bound that nothing reaches."""


def members(*weights: int) -> tuple[Member, ...]:
    return members_of(
        [
            Deployment(f"m/{index}", "m", "canonical", "onprem", "m", weight=weight)
            for index, weight in enumerate(weights)
        ]
    )


def chat(*messages: tuple[str, str], **fields: object) -> Call:
    listed = [{"role": role, "content": text} for role, text in messages]
    return a_call(msgspec.json.encode({"model": "m", "messages": listed, **fields}))


def prefix(**options: object) -> PrefixAffinity:
    given = msgspec.convert({"explore": 0.0, **options}, PrefixOptions)
    return PrefixAffinity(BalancerContext(given, random=Random(1)))


def session(header: str = "", **fields: object) -> Call:
    body = msgspec.json.encode({"model": "m", "messages": [{}], **fields})
    return a_call(body, ((b"x-session-id", header.encode()),) if header else ())


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_homes_are_shared_out_by_weight(weights: list[int]) -> None:
    crowd, random = members(*weights), Random(7)
    picks = Counter(home(random.getrandbits(64), crowd, LOOSE, 0) for _ in range(4000))
    for member in crowd:
        assert picks[member] / 4000 == pytest.approx(member.weight / sum(weights), abs=0.04)


def test_who_comes_or_goes_moves_only_its_own_keys() -> None:
    crowd, random = members(1, 1, 1, 1), Random(3)
    for _ in range(500):
        key = random.getrandbits(64)
        before = home(key, crowd, LOOSE, 0)
        after = home(key, crowd[:3], LOOSE, 0)
        assert after is before or before is crowd[3]


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 30)), min_size=1, max_size=6),
    st.floats(1.0, 3.0),
    st.integers(0, 5),
)
def test_affinity_yields_at_its_bound(
    key: int, loads: list[tuple[int, int]], bound: float, always: int
) -> None:
    """Nobody is lifted above its bound, whatever its keys; and somebody always takes the call."""
    crowd = members(*(weight for weight, _ in loads))
    for member, (_, calls) in zip(crowd, loads, strict=True):
        member.state.in_flight = calls
    chosen = home(key, crowd, bound, always)
    share = chosen.weight / sum(member.weight for member in crowd)
    total = sum(calls for _, calls in loads) + 1
    assert chosen.state.in_flight < max(always, ceil(bound * total * share + 1e-9))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=120), st.integers(2, 5))
def test_one_key_alone_starves_nobody_else(keys: list[int], count: int) -> None:
    """However unevenly keys are asked for, calls in flight stay within the bound everywhere."""
    crowd = members(*[1] * count)
    for total, key in enumerate(keys, start=1):
        member = home(key, crowd, 1.25, 0)
        member.state.in_flight += 1
        assert member.state.in_flight <= ceil(1.25 * total / count)


def test_a_key_that_has_to_yield_goes_to_the_same_next_home_every_time() -> None:
    crowd, key = members(1, 1, 1, 1), 12345
    first = home(key, crowd, 1.25, 0)
    first.state.in_flight = 5
    second = home(key, crowd, 1.25, 0)
    assert second is not first
    assert {home(key, crowd, 1.25, 0) for _ in range(5)} == {second}
    first.state.in_flight = 0
    assert home(key, crowd, 1.25, 0) is first


class TestPrefixKeys:
    def test_every_turn_of_a_conversation_has_the_same_key(self) -> None:
        turns = [("system", "You are terse."), ("user", "What is a gateway?")]
        keys = set()
        for number in range(4):
            keys.add(prefix_key(chat(*turns), 1024, ""))
            turns += [("assistant", f"Answer {number}."), ("user", f"And {number}?")]
        assert len(keys) == 1

    @given(st.integers(900, 1100))
    def test_also_when_the_first_question_is_about_as_long_as_what_is_looked_at(
        self, length: int
    ) -> None:
        first = ("user", "x" * length)
        later = (first, ("assistant", "Yes."), ("user", "Why?"))
        assert prefix_key(chat(first), 1024, "") == prefix_key(chat(*later), 1024, "")

    def test_a_long_common_beginning_makes_the_key_whatever_is_asked_about_it(self) -> None:
        document = "All about gateways. " * 100
        questions = ("Why?", "How?", "When?")
        keys = {prefix_key(chat(("user", document + each)), 1024, "") for each in questions}
        assert len(keys) == 1

    def test_other_beginnings_and_other_tools_have_other_keys(self) -> None:
        tools = [{"type": "function", "function": {"name": "f"}}]
        calls = [chat(("user", "a")), chat(("user", "b")), chat(("user", "a"), tools=tools)]
        assert len({prefix_key(call, 1024, "") for call in calls}) == 3

    def test_a_call_may_say_itself_what_it_has_in_common_with_others(self) -> None:
        one = chat(("user", "a"), prompt_cache_key="k")
        other = chat(("user", "b"), prompt_cache_key="k")
        field = "prompt_cache_key"
        assert prefix_key(one, 1024, field) == prefix_key(other, 1024, field)
        assert prefix_key(one, 1024, "") != prefix_key(other, 1024, "")

    def test_messages_in_a_form_that_nobody_expects_have_a_key_too(self) -> None:
        assert prefix_key(a_call(b'{"model":"m","messages":["odd"]}'), 1024, "") is not None

    def test_a_request_without_a_prompt_has_none(self) -> None:
        call = a_call()
        call.request.fields.clear()
        assert prefix_key(call, 1024, "") is None


def test_the_same_prompt_goes_to_the_same_deployment_until_that_is_too_busy() -> None:
    crowd, balancer = members(1, 1, 1), prefix(always=1)
    call = chat(("user", "Tell me about gateways."))
    homes = {turn(balancer, call, crowd) for _ in range(20)}
    assert len(homes) == 1
    homes.pop().state.in_flight = 4
    assert turn(balancer, call, crowd).state.in_flight == 0


def test_so_many_calls_in_flight_are_never_too_many() -> None:
    crowd, balancer = members(1, 1, 1), prefix(always=4)
    call = chat(("user", "Tell me about gateways."))
    at_home = turn(balancer, call, crowd)
    for calls in range(4):
        at_home.state.in_flight = calls
        assert balancer.pick(call, crowd) is at_home
    at_home.state.in_flight = 4
    assert balancer.pick(call, crowd) is not at_home


def test_a_share_of_the_calls_explores() -> None:
    crowd, balancer = members(1, 1), prefix(explore=0.2)
    call = chat(("user", "Tell me about gateways."))
    at_home = Counter(turn(balancer, call, crowd) for _ in range(2000)).most_common(1)[0]
    assert at_home[1] / 2000 == pytest.approx(0.9, abs=0.03)  # exploring is in turns


class TestSessions:
    def homes(self, *calls: Call, **options: object) -> list[Member]:
        crowd = members(1, 1, 1, 1, 1, 1, 1, 1)
        kind = msgspec.convert(options, SessionOptions)
        balancer = SessionAffinity(BalancerContext(kind, random=Random(1)))
        return [turn(balancer, call, crowd) for call in calls]

    def test_a_session_stays_where_it_is_whatever_is_asked(self) -> None:
        calls = [session("s1", n=number + 1) for number in range(10)]
        assert len(set(self.homes(*calls))) == 1

    def test_the_header_goes_before_the_field(self) -> None:
        calls = [session("s1", user=f"u{number}") for number in range(10)]
        assert len(set(self.homes(*calls))) == 1

    def test_the_user_is_a_session_where_no_header_is(self) -> None:
        assert len(set(self.homes(*[session(user="u7")] * 5))) == 1

    def test_header_and_field_are_configured(self) -> None:
        call = a_call(
            b'{"model":"m","messages":[{}],"safety_identifier":"i"}', ((b"x-thread", b"t"),)
        )
        assert len(set(self.homes(*[call] * 5, header="X-Thread"))) == 1
        assert len(set(self.homes(*[call] * 5, field="safety_identifier"))) == 1

    def test_who_names_no_session_is_shared_out_evenly(self) -> None:
        for call in (session(), session(user=None), session(user="")):
            assert len(set(self.homes(*[call] * 8))) == 8
