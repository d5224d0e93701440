"""The use cases of cost centres, on a real store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.access import Principal, Subject
from llmgw_core.store import statement_queries
from llmgw_core.tenancy.costing import Costing
from llmgw_core.tenancy.errors import Conflict, NotFound, TenancyError

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store
    from llmgw_core.store.principals import StorePrincipals
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.tenants import Tenant

NOW = 1_800_000_000
NS = 10**9
BY = "test"


@pytest.fixture
def costing(store: Store) -> Costing:
    return Costing(store, clock=lambda: float(NOW))


async def read(principals: StorePrincipals, tenant: Tenant) -> Principal:
    found = await principals.find_subject(Subject(key=tenant.key_id))
    assert found is not None
    return found


async def at(principals: StorePrincipals, tenant: Tenant, seconds: int) -> str:
    centers = (await read(principals, tenant)).cost_centers
    return "" if centers is None else centers.at(seconds * NS)


async def test_callers_without_any_assignment_carry_nothing(
    tenant: Tenant, principals: StorePrincipals, costing: Costing
) -> None:
    await costing.create("CC-1", actor=BY)
    assert (await read(principals, tenant)).cost_centers is None


async def test_the_key_goes_before_its_team_and_the_team_before_the_organisation(
    tenant: Tenant, principals: StorePrincipals, costing: Costing
) -> None:
    ids = {code: (await costing.create(code, actor=BY)).id for code in ("O", "T", "K")}
    await costing.assign("O", "organization", tenant.organization_id, actor=BY)
    assert await at(principals, tenant, NOW) == ids["O"]
    await costing.assign("T", "team", tenant.team_id, actor=BY)
    assert await at(principals, tenant, NOW) == ids["T"]
    await costing.assign("K", "key", tenant.key_id, actor=BY)
    assert await at(principals, tenant, NOW) == ids["K"]
    await costing.unassign("key", tenant.key_id, since_ns=(NOW + 5) * NS, actor=BY)
    assert await at(principals, tenant, NOW + 4) == ids["K"]
    assert await at(principals, tenant, NOW + 5) == ids["T"]


async def test_a_later_assignment_ends_the_earlier_one_at_its_instant(
    tenant: Tenant, principals: StorePrincipals, costing: Costing
) -> None:
    ids = {code: (await costing.create(code, actor=BY)).id for code in ("A", "B", "C")}
    await costing.assign("A", "team", tenant.team_id, actor=BY)
    await costing.assign("B", "team", tenant.team_id, since_ns=(NOW + 100) * NS, actor=BY)
    since, until = (NOW + 40) * NS, (NOW + 60) * NS
    await costing.assign("C", "team", tenant.team_id, since_ns=since, until_ns=until, actor=BY)
    expected = {0: "A", 39: "A", 40: "C", 59: "C", 60: "A", 99: "A", 100: "B", 10**6: "B"}
    for seconds, code in expected.items():
        assert await at(principals, tenant, NOW + seconds) == ids[code], seconds
    view = await costing.view("team", tenant.team_id)
    assert [each.code for each in view.assignments] == ["A", "C", "A", "B"]


async def test_one_that_is_not_valid_leaves_the_call_to_the_level_above(
    tenant: Tenant, principals: StorePrincipals, costing: Costing
) -> None:
    above = await costing.create("O", actor=BY)
    own = await costing.create("T", valid_until_ns=(NOW + 10) * NS, actor=BY)
    await costing.assign("O", "organization", tenant.organization_id, actor=BY)
    await costing.assign("T", "team", tenant.team_id, actor=BY)
    assert await at(principals, tenant, NOW + 9) == own.id
    assert await at(principals, tenant, NOW + 10) == above.id
    await costing.update("T", valid_until_ns=None, actor=BY)
    assert await at(principals, tenant, NOW + 10) == own.id


async def test_a_key_offers_its_own_list_and_else_that_of_its_team(
    tenant: Tenant, principals: StorePrincipals, costing: Costing
) -> None:
    for code in ("A", "B"):
        await costing.create(code, actor=BY)
    await costing.allow("team", tenant.team_id, ["A", "B"], actor=BY)

    async def codes() -> list[str]:
        centers = (await read(principals, tenant)).cost_centers
        return [] if centers is None else [choice.code for choice in centers.choices]

    assert await codes() == ["A", "B"]
    await costing.allow("key", tenant.key_id, ["B"], actor=BY)
    assert await codes() == ["B"]
    await costing.allow("key", tenant.key_id, [], actor=BY)
    assert await codes() == ["A", "B"]


async def test_every_change_is_audited_and_tells_the_caches(
    tenant: Tenant, tenancy: Tenancy, principals: StorePrincipals, costing: Costing
) -> None:
    before = await principals.version()
    await costing.create("CC-1", owner="Finance", actor=BY)
    await costing.update("CC-1", name="Research", actor=BY)
    await costing.assign("CC-1", "team", tenant.team_id, actor=BY)
    await costing.allow("key", tenant.key_id, ["CC-1"], actor=BY)
    await costing.unassign("team", tenant.team_id, actor=BY)
    assert await principals.version() == before + 5
    actions = [entry.action for entry in await tenancy.list_audit(limit=5)]
    assert actions == ["unassign", "allow", "assign", "update", "create"]


@pytest.mark.parametrize("code", ["", "-1", "=A1", "a b", "ü", "x" * 41, "cc_" + "a" * 22])
async def test_codes_are_what_headers_and_spreadsheets_can_carry(
    costing: Costing, code: str
) -> None:
    with pytest.raises(TenancyError):
        await costing.create(code, actor=BY)


async def test_what_cannot_be_is_refused_with_a_sentence(
    tenant: Tenant, tenancy: Tenancy, costing: Costing
) -> None:
    await costing.create("CC-1", actor=BY)
    with pytest.raises(Conflict):
        await costing.create("CC-1", actor=BY)
    with pytest.raises(NotFound, match="no cost centre 'CC-2'"):
        await costing.assign("CC-2", "team", tenant.team_id, actor=BY)
    with pytest.raises(TenancyError, match="an organisation, a team or a key"):
        await costing.assign("CC-1", "user", tenant.user_id, actor=BY)  # type: ignore[arg-type]
    with pytest.raises(TenancyError, match="behind the beginning"):
        await costing.assign("CC-1", "team", tenant.team_id, until_ns=NOW * NS, actor=BY)
    with pytest.raises(TenancyError, match="1970"):
        await costing.assign("CC-1", "team", tenant.team_id, since_ns=-1, actor=BY)
    with pytest.raises(NotFound, match="no cost centre of its own"):
        await costing.unassign("team", tenant.team_id, actor=BY)
    with pytest.raises(TenancyError, match="Nothing to change"):
        await costing.update("CC-1", actor=BY)
    with pytest.raises(TenancyError, match="owner"):
        await costing.update("CC-1", owner=" x", actor=BY)
    with pytest.raises(TenancyError, match="a team or a key"):
        await costing.allow("organization", tenant.organization_id, [], actor=BY)
    with pytest.raises(TenancyError, match="at most"):
        await costing.allow("team", tenant.team_id, ["CC-1"] * 101, actor=BY)


async def test_the_time_of_a_closed_statement_does_not_change_any_more(
    tenant: Tenant, store: Store, costing: Costing
) -> None:
    await costing.create("CC-1", actor=BY)
    values = {
        "id": "st_1",
        "scope": "",
        "period": "2026-12",
        "timezone": "UTC",
        "start_ns": (NOW - 200) * NS,
        "end_ns": (NOW - 100) * NS,
        "state": "closed",
        "cursor": 0,
        "summary": "{}",
        "digest": "",
        "created_ns": 0,
        "created_by": BY,
    }
    async with store.begin() as connection:
        await statement_queries.put(connection, values)
    since = (NOW - 101) * NS
    with pytest.raises(TenancyError, match=r"2026-12 is closed for good; date the change 2027-01-"):
        await costing.assign("CC-1", "team", tenant.team_id, since_ns=since, actor=BY)
    with pytest.raises(TenancyError, match="closed for good"):
        await costing.unassign("team", tenant.team_id, since_ns=since, actor=BY)
    await costing.assign("CC-1", "team", tenant.team_id, since_ns=(NOW - 100) * NS, actor=BY)


async def test_a_cost_centre_is_found_by_its_code_and_may_have_another_one(
    tenant: Tenant, costing: Costing
) -> None:
    made = await costing.create("CC-1", actor=BY)
    await costing.assign("CC-1", "team", tenant.team_id, actor=BY)
    changed = await costing.update("CC-1", code="CC-2", name="Two", valid_from_ns=5, actor=BY)
    assert (changed.id, changed.code, changed.name, changed.valid_from_ns) == (
        made.id, "CC-2", "Two", 5,
    )  # fmt: skip
    assert await costing.get(made.id) == await costing.get("CC-2") == changed
    assert [each.code for each in await costing.assigned("CC-2")] == ["CC-2"]
    await costing.create("CC-1", actor=BY)
    with pytest.raises(Conflict):
        await costing.update("CC-1", code="CC-2", actor=BY)
