from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.routing.course import Course
from llmgw_core.routing.plan import Candidates, Dropped, Rights, Round, candidates, plan
from llmgw_core.routing.state import Obstacle, RoutingMemory
from llmgw_core.routing.strategies.round_robin import RoundRobin
from llmgw_core.testing.rosters import a_call, roster_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

CALL = a_call()
ZONES = ("onprem", "eu", "world")


def model(name: str, *zones: str, fallbacks: tuple[str, ...] = ()) -> Model:
    return Model(
        name,
        tuple(
            Deployment(f"{name}/{index}", name, "canonical", zone, name)
            for index, zone in enumerate(zones)
        ),
        fallbacks=fallbacks,
    )


def rights(
    *, models: Collection[str], zones: Collection[str] = ZONES, unpriced: Collection[str] = ()
) -> Rights:
    return Rights(
        lambda name: None if name in models else "not granted",
        lambda zone: None if zone in zones else f"zone {zone}",
        lambda name, deployment: "unpriced" if deployment in unpriced else None,
    )


def compiled(
    name: str, models: Mapping[str, Model], rights: Rights, memory: RoutingMemory | None = None
) -> Candidates:
    return candidates(name, models, rights, roster_of(models, RoundRobin(), memory))


def ids(found: Candidates) -> list[str]:
    rounds = plan(CALL, found, RoutingMemory(lambda: 0.0))
    return [deployment.id for round in rounds for deployment in round.ordered(CALL)]


MODELS = {
    "a": model("a", "onprem", "world", fallbacks=("b", "c")),
    "b": model("b", "eu", fallbacks=("c",)),
    "c": model("c", "world"),
}


def test_the_models_own_deployments_come_first_then_each_fallback_in_its_order() -> None:
    assert ids(compiled("a", MODELS, rights(models="abc"))) == ["a/0", "a/1", "b/0", "c/0"]


def test_the_fallbacks_of_a_fallback_are_not_tried() -> None:
    two = {"a": model("a", "eu", fallbacks=("b",)), "b": MODELS["b"], "c": MODELS["c"]}
    assert ids(compiled("a", two, rights(models="abc"))) == ["a/0", "b/0"]


def test_a_fallback_that_is_not_granted_is_dropped_with_its_reason() -> None:
    found = compiled("a", MODELS, rights(models="ac"))
    assert ids(found) == ["a/0", "a/1", "c/0"]
    assert found.dropped == (Dropped("b/0", "not granted"),)


def test_a_deployment_outside_the_zones_is_dropped_with_its_reason() -> None:
    found = compiled("a", MODELS, rights(models="abc", zones=["onprem", "eu"]))
    assert ids(found) == ["a/0", "b/0"]
    assert found.dropped == (Dropped("a/1", "zone world"), Dropped("c/0", "zone world"))


def test_a_deployment_without_a_price_is_dropped_with_its_reason() -> None:
    found = compiled("b", MODELS, rights(models="b", unpriced=["b/0"]))
    assert found.tiers == ()
    assert found.dropped[0] == Dropped("b/0", "unpriced")


def test_models_can_be_taken_out() -> None:
    found = compiled("a", MODELS, rights(models="abc"))
    assert ids(found.without(["b"])) == ["a/0", "a/1", "c/0"]
    assert found.without([]) is found


def test_a_fallback_that_is_named_twice_is_tried_once() -> None:
    twice = {"a": model("a", "eu", fallbacks=("c", "a", "c")), "c": MODELS["c"]}
    assert ids(compiled("a", twice, rights(models="ac"))) == ["a/0", "c/0"]


@given(
    st.sets(st.sampled_from("abc")),
    st.sets(st.sampled_from(ZONES)),
    st.sets(st.sampled_from(["a/0", "a/1", "b/0", "c/0"])),
)
def test_every_deployment_is_either_a_candidate_with_every_right_or_dropped(
    granted: set[str], zones: set[str], unpriced: set[str]
) -> None:
    found = compiled("a", MODELS, rights(models=granted, zones=zones, unpriced=unpriced))
    kept = [d for tier in found.tiers for d in tier.deployments]
    assert all(d.model in granted and d.zone in zones and d.id not in unpriced for d in kept)
    assert sorted([d.id for d in kept] + [d.deployment for d in found.dropped]) == [
        "a/0",
        "a/1",
        "b/0",
        "c/0",
    ]
    assert ids(found) == [d.id for d in kept]
    assert found.count == len(kept)


def test_a_fallback_that_is_not_needed_does_not_lose_its_turn() -> None:
    """Else calls to one model would decide who serves another."""
    models = {"a": model("a", "eu", fallbacks=("b",)), "b": model("b", "eu", "eu")}
    memory = RoutingMemory(lambda: 0.0)
    a = compiled("a", models, rights(models="ab"), memory)
    b = compiled("b", models, rights(models="ab"), memory)
    picks = []
    for _ in range(4):
        Course(CALL, a, memory, 0).advance()
        member = Course(CALL, b, memory, 0).advance()
        assert member is not None
        picks.append(member.deployment.id)
    assert picks == ["b/0", "b/1", "b/0", "b/1"]


def four() -> tuple[Model, RoutingMemory]:
    one = model("a", "eu", "eu", "eu", "eu")
    memory = RoutingMemory(lambda: 100.0)
    memory.adopt(one.deployments)
    memory.begin()
    return one, memory


def rounds(one: Model, memory: RoutingMemory) -> list[Round]:
    found = compiled("a", {"a": one}, rights(models="a"), memory)
    return list(plan(CALL, found, memory))


def named(round: Round) -> list[str]:
    return [deployment.id for deployment in round.ordered(CALL)]


def test_a_deployment_in_whose_way_something_stands_is_dropped_with_the_reason() -> None:
    one, memory = four()
    memory.put(one.deployments[1], Obstacle("breaker", "ejected", until=101.0))
    round, last_resort = rounds(one, memory)
    assert (named(round), named(last_resort)) == (["a/0", "a/2", "a/3"], ["a/1"])
    assert round.dropped == (Dropped("a/1", "ejected"),)


def test_what_stood_in_the_way_until_now_does_so_no_more() -> None:
    one, memory = four()
    memory.put(one.deployments[1], Obstacle("breaker", "ejected", until=100.0))
    assert [len(named(round)) for round in rounds(one, memory)] == [4]
    memory.put(one.deployments[2], Obstacle("switch", "off", hard=True))
    memory.clear(one.deployments[2], "switch")
    memory.clear(one.deployments[1], "breaker")
    assert not any(state.obstacles for state in memory.troubled.values())


def test_when_all_are_blocked_the_one_that_is_soonest_free_is_tried() -> None:
    one, memory = four()
    for number, deployment in enumerate(one.deployments):
        memory.put(deployment, Obstacle("breaker", "ejected", until=200.0 - number))
    memory.put(one.deployments[3], Obstacle("switch", "off", hard=True))
    nobody, least_bad = rounds(one, memory)
    assert named(nobody) == []
    assert {each.deployment: each.reason for each in nobody.dropped} == {
        "a/0": "ejected",
        "a/1": "ejected",
        "a/2": "ejected",
        "a/3": "off",
    }
    assert named(least_bad) == ["a/2"]


def test_a_tier_that_is_switched_off_is_passed_over() -> None:
    one, memory = four()
    for deployment in one.deployments:
        memory.put(deployment, Obstacle("switch", "off", hard=True))
    (round,) = rounds(one, memory)
    assert (named(round), len(round.dropped)) == ([], 4)


def test_a_deployment_that_is_gone_is_forgotten_with_what_stood_in_its_way() -> None:
    one, memory = four()
    gone, *left = one.deployments
    memory.put(gone, Obstacle("breaker", "ejected", until=101.0))
    memory.retain({each.identity for each in left})
    memory.put(gone, Obstacle("breaker", "ejected", until=101.0))
    memory.clear(gone, "breaker")
    assert (len(memory.states), memory.troubled) == (3, {})
