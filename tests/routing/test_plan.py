from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.routing.balance import SmoothRoundRobin
from llmgw_core.routing.plan import Candidates, Dropped, Rights, Round, candidates, plan
from llmgw_core.routing.state import Obstacle, RoutingMemory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

CALL = Call("c", "chat.completions", Head("POST", "/v1/chat/completions", ()), 0.0, 0)
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


def ids(found: Candidates) -> list[str]:
    return [d.id for d in ordered(found, SmoothRoundRobin())]


def ordered(found: Candidates, balancer: SmoothRoundRobin) -> Iterator[Deployment]:
    for round in plan(CALL, found, RoutingMemory(lambda: 0.0), balancer):
        balancer.took(round.ordered[0], round.eligible)
        yield from round.ordered


MODELS = {
    "a": model("a", "onprem", "world", fallbacks=("b", "c")),
    "b": model("b", "eu", fallbacks=("c",)),
    "c": model("c", "world"),
}


def test_the_models_own_deployments_come_first_then_each_fallback_in_its_order() -> None:
    assert ids(candidates("a", MODELS, rights(models="abc"))) == ["a/0", "a/1", "b/0", "c/0"]


def test_the_fallbacks_of_a_fallback_are_not_tried() -> None:
    two = {"a": model("a", "eu", fallbacks=("b",)), "b": MODELS["b"], "c": MODELS["c"]}
    assert ids(candidates("a", two, rights(models="abc"))) == ["a/0", "b/0"]


def test_a_fallback_that_is_not_granted_is_dropped_with_its_reason() -> None:
    found = candidates("a", MODELS, rights(models="ac"))
    assert ids(found) == ["a/0", "a/1", "c/0"]
    assert found.dropped == (Dropped("b/0", "not granted"),)


def test_a_deployment_outside_the_zones_is_dropped_with_its_reason() -> None:
    found = candidates("a", MODELS, rights(models="abc", zones=["onprem", "eu"]))
    assert ids(found) == ["a/0", "b/0"]
    assert found.dropped == (Dropped("a/1", "zone world"), Dropped("c/0", "zone world"))


def test_a_deployment_without_a_price_is_dropped_with_its_reason() -> None:
    found = candidates("b", MODELS, rights(models="b", unpriced=["b/0"]))
    assert found.tiers == ()
    assert found.dropped[0] == Dropped("b/0", "unpriced")


def test_models_can_be_taken_out() -> None:
    found = candidates("a", MODELS, rights(models="abc"))
    assert ids(found.without(["b"])) == ["a/0", "a/1", "c/0"]
    assert found.without([]) is found


def test_a_fallback_that_is_named_twice_is_tried_once() -> None:
    twice = {"a": model("a", "eu", fallbacks=("c", "a", "c")), "c": MODELS["c"]}
    assert ids(candidates("a", twice, rights(models="ac"))) == ["a/0", "c/0"]


@given(
    st.sets(st.sampled_from("abc")),
    st.sets(st.sampled_from(ZONES)),
    st.sets(st.sampled_from(["a/0", "a/1", "b/0", "c/0"])),
)
def test_every_deployment_is_either_a_candidate_with_every_right_or_dropped(
    granted: set[str], zones: set[str], unpriced: set[str]
) -> None:
    found = candidates("a", MODELS, rights(models=granted, zones=zones, unpriced=unpriced))
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
    balancer = SmoothRoundRobin()
    a = candidates("a", models, rights(models="ab"))
    b = candidates("b", models, rights(models="ab"))
    picks = []
    for _ in range(4):
        next(ordered(a, balancer))
        picks.append(next(ordered(b, balancer)).id)
    assert picks == ["b/0", "b/1", "b/0", "b/1"]


def four() -> tuple[Model, RoutingMemory]:
    one = model("a", "eu", "eu", "eu", "eu")
    memory = RoutingMemory(lambda: 100.0)
    memory.adopt(one.deployments)
    return one, memory


def rounds(one: Model, memory: RoutingMemory) -> list[Round]:
    found = candidates("a", {"a": one}, rights(models="a"))
    return list(plan(CALL, found, memory, SmoothRoundRobin()))


def test_a_deployment_in_whose_way_something_stands_is_dropped_with_the_reason() -> None:
    one, memory = four()
    memory.put(one.deployments[1], Obstacle("breaker", "ejected", until=101.0))
    (round,) = rounds(one, memory)
    assert [each.id for each in round.ordered] == ["a/0", "a/2", "a/3"]
    assert round.dropped == (Dropped("a/1", "ejected"),)


def test_what_stood_in_the_way_until_now_does_so_no_more() -> None:
    one, memory = four()
    memory.put(one.deployments[1], Obstacle("breaker", "ejected", until=100.0))
    assert [len(round.ordered) for round in rounds(one, memory)] == [4]
    memory.put(one.deployments[2], Obstacle("switch", "off", hard=True))
    memory.clear(one.deployments[2], "switch")
    memory.clear(one.deployments[1], "breaker")
    assert not memory.troubled


def test_when_all_are_blocked_the_one_that_is_soonest_free_is_tried() -> None:
    one, memory = four()
    for number, deployment in enumerate(one.deployments):
        memory.put(deployment, Obstacle("breaker", "ejected", until=200.0 - number))
    memory.put(one.deployments[3], Obstacle("switch", "off", hard=True))
    (round,) = rounds(one, memory)
    assert [each.id for each in round.ordered] == ["a/2"]
    assert {each.deployment: each.reason for each in round.dropped} == {
        "a/0": "ejected",
        "a/1": "ejected",
        "a/3": "off",
    }


def test_a_tier_that_is_switched_off_is_passed_over() -> None:
    one, memory = four()
    for deployment in one.deployments:
        memory.put(deployment, Obstacle("switch", "off", hard=True))
    (round,) = rounds(one, memory)
    assert (round.ordered, len(round.dropped)) == ((), 4)


def test_a_deployment_that_is_gone_is_forgotten_with_what_stood_in_its_way() -> None:
    one, memory = four()
    gone, *left = one.deployments
    memory.put(gone, Obstacle("breaker", "ejected", until=101.0))
    memory.retain({each.identity for each in left})
    memory.put(gone, Obstacle("breaker", "ejected", until=101.0))
    memory.clear(gone, "breaker")
    assert (len(memory.states), memory.troubled) == (3, {})
