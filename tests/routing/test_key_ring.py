from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.credential import Credential
from llmgw_core.routing.key_ring import KeyRing

ONE, TWO, THREE = Credential("one"), Credential("two"), Credential("three")
TIMES = {"first": 2.0, "longest": 60.0}


def test_calls_take_turns() -> None:
    ring = KeyRing([ONE, TWO, THREE])
    assert [ring.pick(0.0) for _ in range(4)] == [ONE, TWO, THREE, ONE]
    assert (len(ring), ring.number(TWO), ring.number(Credential("four"))) == (3, 2, 0)


def test_one_that_is_rate_limited_has_no_turn_until_its_time_is_over() -> None:
    ring = KeyRing([ONE, TWO])
    ring.cool(ONE, 0.0, 10.0, **TIMES)
    assert [ring.pick(9.0) for _ in range(2)] == [TWO, TWO]
    assert {ring.pick(10.0), ring.pick(10.0)} == {ONE, TWO}


def test_a_refused_one_rests_until_its_secret_changes_or_its_time_is_over() -> None:
    secret = Credential("old")
    ring = KeyRing([secret, TWO])
    ring.refuse(secret, "old", 0.0, 300.0)
    assert ring.pick(1.0) is TWO
    assert ring.pick(2.0) is TWO
    secret.value = "new"
    assert {id(ring.pick(3.0)), id(ring.pick(3.0))} == {id(secret), id(TWO)}
    ring.refuse(TWO, "two", 0.0, 300.0)
    assert ring.usable(3.0)
    assert ring.pick(300.0) in (secret, TWO)


def test_a_secret_that_changed_while_it_was_refused_does_not_rest() -> None:
    secret = Credential("new")
    ring = KeyRing([secret])
    ring.refuse(secret, "old", 0.0, 300.0)
    assert ring.usable(0.0)


def test_a_refused_one_that_is_served_all_the_same_rests_no_more() -> None:
    secret = Credential("old")
    ring = KeyRing([secret, TWO])
    ring.refuse(secret, "old", 10.0, 300.0)
    ring.refuse(TWO, "two", 11.0, 300.0)
    assert ring.refusals
    ring.accept(secret, "old", 9.0)  # a long stream, that began when it was good
    ring.accept(TWO, "another", 12.0)
    assert not ring.usable(13.0)
    ring.accept(secret, "old", 12.0)
    assert ring.usable(13.0)
    assert ring.refusals
    assert [ring.pick(13.0) for _ in range(2)] == [secret, secret]
    ring.accept(TWO, "two", 12.0)
    assert not ring.refusals


def test_when_all_rest_the_one_that_is_soonest_free_is_used() -> None:
    ring = KeyRing([ONE, TWO, THREE])
    ring.cool(ONE, 0.0, 30.0, **TIMES)
    ring.cool(TWO, 0.0, 10.0, **TIMES)
    ring.refuse(THREE, "three", 0.0, 20.0)
    assert not ring.usable(5.0)
    assert ring.free_at(5.0) == 10.0
    assert ring.pick(5.0) is TWO


def test_without_a_time_a_rest_doubles_while_limits_go_on_and_begins_anew_after_a_while() -> None:
    ring = KeyRing([ONE])
    now, rests = 0.0, []
    for _ in range(7):
        ring.cool(ONE, now, None, **TIMES)
        rests.append(ring.free_at(now) - now)
        now = ring.free_at(now)
    assert rests == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    now += 121.0
    ring.cool(ONE, now, None, **TIMES)
    assert ring.free_at(now) - now == 2.0


def test_a_moment_that_is_over_says_nothing() -> None:
    ring = KeyRing([ONE])
    ring.cool(ONE, 0.0, 0.0, **TIMES)
    assert ring.free_at(0.0) == 2.0


def test_of_many_calls_that_are_limited_at_once_the_first_says_it() -> None:
    ring = KeyRing([ONE])
    for _ in range(20):
        ring.cool(ONE, 0.0, None, **TIMES)
    assert ring.free_at(0.0) == 2.0


def test_nobody_rests_longer_than_the_longest_and_a_shorter_time_takes_nothing_back() -> None:
    ring = KeyRing([ONE])
    ring.cool(ONE, 0.0, 1e9, **TIMES)
    assert ring.free_at(0.0) == 60.0
    ring.cool(ONE, 0.0, 1.0, **TIMES)
    assert ring.free_at(0.0) == 60.0


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 50.0), st.booleans()), max_size=30))
def test_whoever_rests_is_never_picked_while_another_does_not(
    troubles: list[tuple[int, float, bool]],
) -> None:
    keys = [Credential(str(index)) for index in range(4)]
    ring = KeyRing(keys)
    resting: dict[int, float] = {}
    for now, (index, seconds, refused) in enumerate(troubles):
        if refused:
            ring.refuse(keys[index], keys[index].value, now, now + seconds)
        else:
            ring.cool(keys[index], now, seconds, first=1.0, longest=60.0)
        resting[index] = max(resting.get(index, 0.0), now + seconds)
        picked = keys.index(ring.pick(float(now)))
        if any(resting.get(each, 0.0) <= now for each in range(4)):
            assert resting.get(picked, 0.0) <= now


def test_the_same_secret_of_a_later_configuration_is_the_same_one() -> None:
    ring = KeyRing([ONE, TWO])
    ring.refuse(Credential("one"), "one", 0.0, 300.0)
    ring.cool(Credential("two"), 0.0, 60.0, **TIMES)
    assert ring.number(Credential("two")) == 2
    assert not ring.usable(0.0)
