from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import json

from llmgw_core.tenancy.errors import Conflict, TenancyError
from llmgw_core.tenancy.records import KEY, ORGANIZATION, TEAM, USER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.store.engine import Store
    from llmgw_core.store.principals import StorePrincipals
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.tenants import Tenant

ME = "root"
NOW = 1_800_000_000.0


async def test_every_change_is_audited_with_its_actor_and_raises_the_version(
    tenancy: Tenancy, tenant: Tenant, principals: StorePrincipals
) -> None:
    changes: list[tuple[str, Callable[[str], Awaitable[object]]]] = [
        ("create organization", lambda who: tenancy.create_organization("new", actor=who)),
        ("create team", lambda who: tenancy.create_team("new", "t", actor=who)),
        ("create user", lambda who: tenancy.create_user("new", "u", actor=who)),
        ("create membership", lambda who: tenancy.add_membership("t", "u", actor=who)),
        ("update membership", lambda who: tenancy.set_role("t", "u", "admin", actor=who)),
        ("create key", lambda who: tenancy.create_key(team="t", user="u", name="k", actor=who)),
        ("update key", lambda who: tenancy.update(KEY, "k", zones=["eu"], actor=who)),
        ("disable key", lambda who: tenancy.disable(KEY, "k", actor=who)),
        ("enable key", lambda who: tenancy.enable(KEY, "k", actor=who)),
        ("revoke key", lambda who: tenancy.revoke_key("k", actor=who)),
        ("delete membership", lambda who: tenancy.remove_membership("t", "u", actor=who)),
        ("delete organization", lambda who: tenancy.delete(ORGANIZATION, "new", actor=who)),
    ]
    for number, (expected, change) in enumerate(changes):
        version = await principals.version()
        await change(f"admin {number}")
        [entry] = await tenancy.list_audit(limit=1)
        assert f"{entry.action} {entry.kind}" == expected
        assert (entry.actor, entry.at) == (f"admin {number}", NOW)
        assert await principals.version() == version + 1


async def test_a_change_that_fails_is_neither_audited_nor_announced(
    tenancy: Tenancy, tenant: Tenant, principals: StorePrincipals
) -> None:
    version, audited = await principals.version(), await tenancy.list_audit()
    with pytest.raises(Conflict):
        await tenancy.create_organization("acme", actor=ME)
    with pytest.raises(TenancyError, match="actor"):
        await tenancy.create_organization("new", actor="")
    with pytest.raises(TenancyError):
        await tenancy.update(TEAM, "team", models=["not a pattern"], actor=ME)
    assert await principals.version() == version
    assert await tenancy.list_audit() == audited


async def test_the_audit_log_says_what_changed_and_what_it_was(
    tenancy: Tenancy, tenant: Tenant
) -> None:
    await tenancy.update(TEAM, "team", models=["a"], actor=ME)
    await tenancy.update(TEAM, "team", models=["b"], name="new", actor=ME)
    newest, older = await tenancy.list_audit(object_id=tenant.team_id, limit=2)
    assert newest.details == {
        "models": ["b"],
        "name": "new",
        "before": {"models": ["a"], "name": "team"},
    }
    assert older.details == {"models": ["a"], "before": {"models": None}}
    assert [entry.action for entry in await tenancy.list_audit(before=older.id, limit=1)] == [
        "create"
    ]


async def test_erasing_a_user_leaves_no_trace_of_his_name(
    tenancy: Tenancy, store: Store, tenant: Tenant
) -> None:
    await tenancy.create_user("acme", "Zebulon", email="zeb@example.org", actor=ME)
    await tenancy.update(USER, "Zebulon", name="Zebulon II", email="z2@example.org", actor=ME)
    await tenancy.delete(USER, "Zebulon II", actor=ME)
    entries = json.encode(await tenancy.list_audit()).decode()
    assert "Zebulon" not in entries
    assert "example.org" not in entries
    assert '"delete"' in entries
