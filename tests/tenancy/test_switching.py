"""Emergency switches as administrators use them: names, reasons, expiry, and what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig, PluginConfig
from llmgw_core.config.schema_aliases import AliasConfig
from llmgw_core.domain.alias import Variant
from llmgw_core.tenancy.errors import NotFound, TenancyError
from llmgw_core.tenancy.records import TEAM
from llmgw_core.tenancy.switching import Switchable, Switching
from llmgw_core.testing.tenants import create_tenant

if TYPE_CHECKING:
    from llmgw_core.domain.switch import SwitchKind
    from llmgw_core.store.engine import Store
    from llmgw_core.store.principals import StorePrincipals
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.tenants import Tenant

NOW = 1_800_000_000.0
ME = "root"
NAMES = Switchable(
    deployments=("smart/a", "smart/b", "small/b"),
    models={"smart": "chat", "small": "chat", "vectors": "embedding", "others": "embedding"},
    plugins=("guard",),
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def switching(store: Store, clock: Clock, told: list[Any]) -> Switching:
    async def applied() -> None:
        told.append("applied")

    return Switching(store, lambda: NAMES, clock=clock, changed=told.append, applied=applied)


async def test_a_switch_is_kept_with_its_reason_and_its_end_until_it_is_taken_back(
    switching: Switching,
) -> None:
    made = await switching.off(
        "deployment", "smart/a", reason=" it burns ", expires_at=NOW + 60, actor=ME
    )
    assert await switching.find_all() == [made]
    assert (made.kind, made.name, made.reason) == ("deployment", "smart/a", "it burns")
    assert (made.actor, made.since, made.expires_at) == (ME, NOW, NOW + 60)
    assert await switching.on("deployment", "smart/a", actor=ME) == made
    assert await switching.find_all() == []


async def test_the_same_switch_again_replaces_the_first(switching: Switching) -> None:
    first = await switching.off("model", "smart", reason="one", actor=ME)
    second = await switching.off("model", "smart", reason="two", cut=True, actor=ME)
    await switching.off("deployment", "smart/a", reason="three", actor=ME)
    assert second.id > first.id
    assert [each.reason for each in await switching.find_all()] == ["three", "two"]


async def test_what_has_expired_is_gone(switching: Switching, clock: Clock) -> None:
    await switching.off("plugin", "guard", reason="x", expires_at=NOW + 60, actor=ME)
    clock.now = NOW + 60
    assert await switching.find_all() == []
    with pytest.raises(NotFound):
        await switching.on("plugin", "guard", actor=ME)
    await switching.off("plugin", "guard", reason="again", actor=ME)
    assert len(await switching.find_all()) == 1


async def test_every_change_is_audited_and_told_before_it_comes_into_force(
    switching: Switching, told: list[Any], tenancy: Tenancy, principals: StorePrincipals
) -> None:
    version = await principals.version()
    await switching.route("smart", "small", reason="cheaper", actor=ME)
    await switching.on("route", "smart", actor="other")
    first, _, second, _ = told
    assert [told[1], told[3]] == ["applied", "applied"]
    entries: list[AuditEntry] = [second, first]
    assert await tenancy.list_audit(limit=2) == entries
    assert [(entry.action, entry.kind, entry.object_id, entry.actor) for entry in entries] == [
        ("switch_on", "switch", "route:smart", "other"),
        ("route", "switch", "route:smart", ME),
    ]
    assert first.details == {
        "kind": "route",
        "name": "smart",
        "target": "small",
        "reason": "cheaper",
        "expires_at": None,
        "cut": False,
    }
    assert await principals.version() == version + 2


async def test_a_team_is_found_by_its_name_and_kept_by_its_id(
    switching: Switching, store: Store, tenant: Tenant, tenancy: Tenancy
) -> None:
    made = await switching.off("team", "team", reason="x", actor=ME)
    assert (made.name, made.label) == (tenant.team_id, "team")
    other = await create_tenant(store, "other")
    with pytest.raises(TenancyError, match="More than one team is called 'team'"):
        await switching.off("team", "team", reason="x", actor=ME)
    both = await switching.off("team", "team", organization="other", reason="y", actor=ME)
    assert both.name == other.team_id
    with pytest.raises(TenancyError, match="More than one team"):
        await switching.on("team", "team", actor=ME)
    assert (await switching.on("team", other.team_id, actor=ME)).label == "team"
    await tenancy.update(TEAM, tenant.team_id, name="renamed", actor=ME)
    assert [each.label for each in await switching.find_all()] == ["renamed"]
    assert (await switching.on("team", "renamed", actor=ME)).name == tenant.team_id
    with pytest.raises(NotFound, match=r"The team 'team_\w+' is not switched\."):
        await switching.on("team", "team", organization="other", actor=ME)


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("deployment", "smart/aa", "There is no deployment 'smart/aa'; did you mean `smart/a`"),
        ("deployment", "b", "no deployment 'b'; did you mean `smart/b` or `small/b`?"),
        ("deployment", "zzz", r"There is no deployment 'zzz'\."),
        ("model", "smrt", "There is no model 'smrt'; did you mean `smart`"),
        ("plugin", "gard", "There is no plugin 'gard'; did you mean `guard`?"),
        ("team", "teem", "There is no team 'teem'"),
        ("route", "smart", "`route` makes a route"),
    ],
)
async def test_what_does_not_exist_cannot_be_switched_off(
    switching: Switching, tenant: Tenant, kind: SwitchKind, name: str, sentence: str
) -> None:
    with pytest.raises(TenancyError, match=sentence):
        await switching.off(kind, name, reason="x", actor=ME)
    assert await switching.find_all() == []


async def test_what_is_not_switched_cannot_be_switched_on(switching: Switching) -> None:
    await switching.off("model", "smart", reason="x", actor=ME)
    with pytest.raises(NotFound, match=r"The model 'smrt' is not switched; did you mean `smart`\?"):
        await switching.on("model", "smrt", actor=ME)
    with pytest.raises(NotFound, match=r"The route of the model 'smart' is not switched\."):
        await switching.on("route", "smart", actor=ME)


@pytest.mark.parametrize(
    ("model", "target", "sentence"),
    [
        ("smrt", "small", "There is no model 'smrt'"),
        ("smart", "smal", "There is no model 'smal'; did you mean `small`"),
        ("smart", "smart", "cannot be routed to itself"),
        ("smart", "vectors", "kind chat and 'vectors' one of kind embedding"),
        ("vectors", "others", "Vectors of two models cannot be compared"),
    ],
)
async def test_a_route_leads_from_a_model_to_another_of_its_kind(
    switching: Switching, model: str, target: str, sentence: str
) -> None:
    with pytest.raises(TenancyError, match=sentence):
        await switching.route(model, target, reason="x", actor=ME)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"reason": ""}, "needs a reason"),
        ({"reason": "  "}, "needs a reason"),
        ({"reason": "a\nb"}, "printable"),
        ({"reason": "x" * 501}, "1 to 500"),
        ({"expires_at": NOW}, "must lie in the future"),
        ({"expires_at": float("nan")}, "must lie in the future"),
        ({"expires_at": 1e12}, "before the year 10000"),
        ({"organization": "acme"}, "Only a team belongs to an organisation"),
        ({"actor": ""}, "actor"),
    ],
)
async def test_what_a_switch_cannot_have_is_said(
    switching: Switching, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TenancyError, match=sentence):
        await switching.off("model", "smart", **{"reason": "x", "actor": ME, **given})
    assert await switching.find_all() == []


async def test_switching_a_plugin_off_cuts_no_calls(switching: Switching) -> None:
    with pytest.raises(TenancyError, match="takes part in calls of everybody"):
        await switching.off("plugin", "guard", reason="x", cut=True, actor=ME)


def test_the_names_of_a_configuration_are_those_of_the_gateway() -> None:
    deployments = (DeploymentConfig("a", "nothing", "eu"), DeploymentConfig("b", "nothing", "eu"))
    config = Config(
        models={"m": ModelConfig(deployments=deployments, kind="embedding")},
        aliases={"other": AliasConfig(variants=(Variant("m"),))},
        plugins=(PluginConfig("guard"),),
    )
    names = Switchable.of(config)
    assert (names.deployments, names.models) == (
        ["m/a", "m/b"],
        {"m": "embedding", "other": "embedding"},
    )
    assert list(names.plugins) == ["guard"]
