"""Every limit of a level is set, listed, in the audit log, and what a call by it meets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.access import keys
from llmgw_core.domain.limits import Limits
from llmgw_core.tenancy import rules
from llmgw_core.tenancy.errors import TenancyError
from llmgw_core.tenancy.records import KEY, TEAM

if TYPE_CHECKING:
    from llmgw_core.store.principals import StorePrincipals
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.tenants import Tenant

ME = "root"
EVERYTHING = Limits(
    rpm=1,
    tpm=2,
    parallel=3,
    rpd=4,
    tpd=5,
    input_tpm=6,
    output_tpm=7,
    input_tpd=8,
    output_tpd=9,
    burst=2.5,
    shadow=("rpm", "tpd"),
)
ON_MODELS = (("gpt-*", Limits(rpm=5, burst=60.0)), ("tag:big", Limits(tpd=1000, shadow=("tpd",))))


async def test_all_limits_come_back_and_reach_the_principal(
    tenancy: Tenancy, tenant: Tenant, principals: StorePrincipals
) -> None:
    await tenancy.update(KEY, tenant.key_id, limits=EVERYTHING, model_limits=ON_MODELS, actor=ME)
    made = await tenancy.create_team(
        tenant.organization_id, "new", limits=EVERYTHING, model_limits=ON_MODELS, actor=ME
    )
    for info in (await tenancy.get(KEY, tenant.key_id), await tenancy.get(TEAM, made.id), made):
        assert (info.limits, info.model_limits) == (EVERYTHING, ON_MODELS)
    principal = await principals.find(keys.digest(tenant.key))
    assert principal is not None
    assert principal.levels[-1].limits == EVERYTHING
    assert principal.levels[-1].model_limits == ON_MODELS


async def test_a_change_of_limits_is_in_the_audit_log_with_what_was_before(
    tenancy: Tenancy, tenant: Tenant
) -> None:
    await tenancy.update(KEY, tenant.key_id, limits=Limits(rpd=4), actor=ME)
    await tenancy.update(KEY, tenant.key_id, model_limits=ON_MODELS[:1], actor=ME)
    await tenancy.update(KEY, tenant.key_id, limits=Limits(), model_limits=(), actor=ME)
    entries = await tenancy.list_audit(object_id=tenant.key_id, limit=3)
    assert entries[2].details["limits"] == {"rpd": 4}
    assert entries[1].details["model_limits"] == [["gpt-*", {"rpm": 5, "burst": 60.0}]]
    assert entries[0].details["limits"] is None
    assert entries[0].details["before"]["limits"] == {"rpd": 4}
    assert entries[0].details["before"]["model_limits"] == entries[1].details["model_limits"]
    info = await tenancy.get(KEY, tenant.key_id)
    assert (info.limits, info.model_limits) == (Limits(), ())


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(rpd=0), "The limit rpd is a whole number from 1"),
        (Limits(output_tpd=-4), "The limit output_tpd is a whole number"),
        (Limits(tpd=True), "The limit tpd is a whole number"),
        (Limits(rpd=5, burst=5.0), "The limit burst shapes limits by the minute, and there is n"),
        (Limits(rpm=5, burst=0.0), "The limit burst is a number of seconds above 0"),
        (Limits(rpm=5, burst=float("nan")), "The limit burst is a number of seconds"),
        (Limits(rpm=5, burst=7200.0), "The limit burst is a number of seconds above 0, up to 3600"),
        (Limits(rpm=5, burst=True), "The limit burst is a number of seconds"),
        (Limits(rpm=5, shadow=("rpw",)), "The limit shadow knows no `rpw`; limits are rpm, tpm"),
        (Limits(rpm=5, shadow=("tpm",)), "The limit shadow names tpm, which is not set"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(limits: Limits, says: str) -> None:
    with pytest.raises(TenancyError) as refused:
        rules.limits(limits)
    assert str(refused.value).startswith(says)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([("a b", Limits(rpm=1))], "'a b' cannot be limited: a model pattern consists of"),
        ([("a", Limits(rpm=1)), ("a", Limits(tpm=1))], "There are two limits on 'a'; only one"),
        ([("a", Limits())], "No limit on 'a' was given."),
        ([("a", Limits(rpm=0))], "Of the limits on 'a', the limit rpm is a whole number"),
        ([(f"m{n}", Limits(rpm=1)) for n in range(1001)], "There can be limits on at most 1000"),
    ],
)
def test_limits_on_models_that_cannot_be_meant_are_refused(
    values: list[tuple[str, Limits]], says: str
) -> None:
    with pytest.raises(TenancyError) as refused:
        rules.model_limits(values)
    assert str(refused.value).startswith(says)
