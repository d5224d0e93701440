from __future__ import annotations

from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.deployment import Model
from llmgw_core.domain.limits import Limits
from llmgw_core.limits.port import MeterSpec
from llmgw_core.limits.specs import meters_for

PRINCIPAL = Principal(
    levels=(
        Level("organization", "o_1", limits=Limits(rpm=1000, tpm=90_000, parallel=50)),
        Level("team", "t_1", limits=Limits(tpm=5000)),
        Level("user", "u_1"),
        Level("key", "k_1", limits=Limits(parallel=0)),
    ),
    organization_id="o_1",
)


def test_every_limit_that_is_set_is_one_meter_in_the_order_of_the_levels() -> None:
    model = Model("gpt-x", (), limits=Limits(rpm=7, parallel=2))
    assert meters_for(PRINCIPAL, model) == (
        MeterSpec("organization:o_1:rpm", "organization", "requests", 1000, name="rpm"),
        MeterSpec("organization:o_1:tpm", "organization", "tokens", 90_000, name="tpm"),
        MeterSpec("organization:o_1:parallel", "organization", "parallel", 50, name="parallel"),
        MeterSpec("team:t_1:tpm", "team", "tokens", 5000, name="tpm"),
        MeterSpec("key:k_1:parallel", "key", "parallel", 0, name="parallel"),
        MeterSpec("model:gpt-x:rpm", "model", "requests", 7, name="rpm"),
        MeterSpec("model:gpt-x:parallel", "model", "parallel", 2, name="parallel"),
    )


def test_without_limits_there_are_no_meters() -> None:
    principal = Principal(levels=(Level("organization", "o_1"),), organization_id="o_1")
    assert meters_for(principal, Model("gpt-x", ())) == ()


def test_two_principals_share_the_meters_of_the_model_and_of_common_levels() -> None:
    model = Model("gpt-x", (), limits=Limits(rpm=7))
    other = Principal(
        levels=(*PRINCIPAL.levels[:2], Level("key", "k_2", limits=Limits(rpm=1))),
        organization_id="o_1",
    )
    shared = {s.id for s in meters_for(PRINCIPAL, model)} & {s.id for s in meters_for(other, model)}
    assert shared == {
        "organization:o_1:rpm",
        "organization:o_1:tpm",
        "organization:o_1:parallel",
        "team:t_1:tpm",
        "model:gpt-x:rpm",
    }
