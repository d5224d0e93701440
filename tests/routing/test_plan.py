from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.routing.balance import SmoothRoundRobin
from llmgw_core.routing.plan import Candidates, Dropped, Rights, candidates

if TYPE_CHECKING:
    from collections.abc import Collection

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
    return [d.id for d in found.order(SmoothRoundRobin())]


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
        next(a.order(balancer))
        picks.append(next(b.order(balancer)).id)
    assert picks == ["b/0", "b/1", "b/0", "b/1"]
