from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.access import decide
from llmgw_core.access.decide import Access
from llmgw_core.domain.access import Level, LevelKind, Principal

TAGS = {"a": ("cheap",), "b": ("cheap", "eu"), "ab": (), "c": ("eu",)}
MODELS = [*TAGS, "unknown"]
ZONES = ["onprem", "eu", "world"]
KINDS: tuple[LevelKind, ...] = ("organization", "team", "user", "key")

grants = st.none() | st.lists(
    st.sampled_from(["a", "b", "ab", "c", "a*", "*b", "*", "tag:cheap", "tag:eu"]), max_size=3
).map(tuple)
zones = st.none() | st.lists(st.sampled_from(ZONES), max_size=3).map(tuple)
lists = st.lists(st.tuples(grants, zones), min_size=1, max_size=4)
Lists = list[tuple[tuple[str, ...] | None, tuple[str, ...] | None]]


def access(levels: Lists) -> Access:
    made = tuple(
        Level(kind, f"{kind}_1", models, allowed)
        for kind, (models, allowed) in zip(KINDS, levels, strict=False)
    )
    return Access(Principal(levels=made, organization_id="organization_1"), TAGS)


def models_of(levels: Lists) -> set[str]:
    decided = access(levels)
    return {model for model in MODELS if decided.may_use(model).allowed}


def zones_of(levels: Lists) -> set[str]:
    decided = access(levels)
    return {zone for zone in ZONES if decided.zone_allowed(zone)}


@given(lists)
def test_a_lower_level_never_widens(levels: Lists) -> None:
    for depth in range(1, len(levels)):
        assert models_of(levels[: depth + 1]) <= models_of(levels[:depth])
        assert zones_of(levels[: depth + 1]) <= zones_of(levels[:depth])


@given(st.lists(st.tuples(grants, zones), min_size=1, max_size=3), st.integers(1, 3))
def test_a_level_without_lists_changes_nothing(levels: Lists, at: int) -> None:
    inherited: Lists = [*levels[:at], (None, None), *levels[at:]]
    assert models_of(inherited) == models_of(levels)
    assert zones_of(inherited) == zones_of(levels)


@given(lists)
def test_narrowing_is_the_intersection_of_all_lists(levels: Lists) -> None:
    expected = set(MODELS) if levels[0][0] is not None else set()
    for models, _ in levels:
        if models is not None:
            expected &= models_of([(models, None)])
    assert models_of(levels) == expected


@given(lists, st.integers(0, 3))
def test_an_empty_list_grants_nothing(levels: Lists, at: int) -> None:
    position = at % len(levels)
    emptied = [*levels]
    emptied[position] = ((), ())
    assert models_of(emptied) == set()
    assert zones_of(emptied) == set()


@given(lists)
def test_an_organisation_without_a_list_grants_no_model(levels: Lists) -> None:
    assert models_of([(None, None), *levels[1:]]) == set()


def test_an_organisation_without_zones_allows_all_of_them() -> None:
    assert zones_of([(("*",), None)]) == set(ZONES)


def test_zones_are_compared_exactly() -> None:
    decided = access([(("*",), ("eu", "*"))])
    assert decided.zone_allowed("eu")
    assert not decided.zone_allowed("EU")
    assert not decided.zone_allowed("world")


def test_a_principal_without_an_organisation_may_do_nothing() -> None:
    for levels in ((), (Level("key", "key_1", ("*",)),)):
        decided = Access(Principal(levels=levels, organization_id=""), TAGS)
        assert not decided.may_use("a").allowed
        assert not decided.zone_allowed("eu")


def test_the_rule_names_the_levels_and_patterns_that_decided() -> None:
    decided = access([(("a*", "tag:eu"), None), (None, None), (None, None), (("tag:cheap",), None)])
    assert decided.may_use("b").rule == "organization: tag:eu; key: tag:cheap"
    assert decided.may_use("c").rule == "key: no pattern matches"
    assert decided.may_use("unknown").rule == "organization: no pattern matches"
    assert access([(None, None)]).may_use("a").rule == "organization: grants nothing"


def test_tags_may_come_from_a_function() -> None:
    principal = Principal(
        levels=(Level("organization", "org_1", ("tag:x",)),), organization_id="org_1"
    )
    decided = Access(principal, lambda model: {"x"} if model == "m" else set())
    assert decided.may_use("m").allowed
    assert not decided.may_use("n").allowed


def test_decisions_are_made_once_and_forgotten_before_they_cost_memory() -> None:
    asked: list[str] = []

    def tags_of(model: str) -> tuple[str, ...]:
        asked.append(model)
        return ()

    principal = Principal(levels=(Level("organization", "o", ("*",)),), organization_id="o")
    decided = Access(principal, tags_of)
    first = decided.may_use("first")
    assert decided.may_use("first") is first
    assert asked == ["first"]
    for number in range(decide._CACHED_DECISIONS):
        decided.may_use(f"m{number}")
    assert len(decided._decisions) == decide._CACHED_DECISIONS
    assert decided.may_use("first") == first
    assert asked.count("first") == 2


def test_very_long_names_are_not_remembered() -> None:
    decided = access([(("*",), None)])
    assert decided.may_use("x" * 10_000).allowed
    assert not decided._decisions
