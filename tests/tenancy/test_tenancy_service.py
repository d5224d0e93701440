from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import json

from llmgw_core.access import keys
from llmgw_core.domain.limits import Limits
from llmgw_core.store.engine import Store
from llmgw_core.tenancy.errors import Conflict, NotFound, TenancyError
from llmgw_core.tenancy.records import KEY, KINDS, ORGANIZATION, TEAM, USER, Kind, LevelInfo
from llmgw_core.tenancy.service import Tenancy

if TYPE_CHECKING:
    from llmgw_core.store.principals import StorePrincipals
    from llmgw_core.testing.tenants import Tenant

ME = "root"
NOW = 1_800_000_000.0


async def works(principals: StorePrincipals, key: str) -> bool:
    return await principals.find(keys.digest(key)) is not None


async def test_objects_come_back_as_they_were_made(tenancy: Tenancy) -> None:
    limits = Limits(rpm=1, tpm=2, parallel=3)
    organization = await tenancy.create_organization(
        "acme", models=["gpt-*", "tag:x"], zones=["eu"], limits=limits, actor=ME
    )
    assert organization.models == ("gpt-*", "tag:x")
    assert organization.zones == ("eu",)
    assert organization.limits == limits
    assert (organization.disabled, organization.created) == (False, NOW)
    team = await tenancy.create_team("acme", "research", models=[], actor=ME)
    assert (team.models, team.zones, team.limits) == ((), None, Limits())
    user = await tenancy.create_user("acme", "ada", email="ada@example.org", actor=ME)
    assert user.email == "ada@example.org"
    key, _ = await tenancy.create_key(user="ada", name="laptop", expires_at=NOW + 1, actor=ME)
    assert (key.organization_id, key.team_id, key.user_id) == (organization.id, None, user.id)
    assert (key.name, key.expires_at, key.revoked) == ("laptop", NOW + 1, False)
    kinds: list[tuple[Kind[Any], LevelInfo]] = [
        (ORGANIZATION, organization),
        (TEAM, team),
        (USER, user),
        (KEY, key),
    ]
    for kind, made in kinds:
        assert await tenancy.find_all(kind) == [made]
        assert await tenancy.get(kind, made.id) == made
        assert await tenancy.get(kind, made.name) == made


async def test_ids_tell_their_kind(tenant: Tenant) -> None:
    assert tenant.organization_id.startswith("org_")
    assert tenant.team_id.startswith("team_")
    assert tenant.user_id.startswith("user_")
    assert tenant.key_id.startswith("key_")
    assert {len(tenant.key_id), len(tenant.organization_id)} == {4 + 22}
    assert set(KINDS) == {"organization", "team", "user", "key"}


async def test_a_key_is_shown_once_and_stored_as_digest_and_hint(
    tenancy: Tenancy, tenant: Tenant, url: str, store: Store
) -> None:
    info = await tenancy.get(KEY, tenant.key_id)
    assert info.hint == tenant.key[-4:]
    shown = json.encode([info, await tenancy.list_audit()])
    assert tenant.key.encode() not in shown
    assert keys.digest(tenant.key).hex().encode() not in shown
    await store.aclose()
    with open(url.removeprefix("sqlite:///"), "rb") as file:  # noqa: PTH123 - the url is text
        stored = file.read()
    assert tenant.key.encode() not in stored
    assert keys.digest(tenant.key) in stored


async def test_names_are_unique_per_parent(tenancy: Tenancy) -> None:
    for name in ("one", "two"):
        await tenancy.create_organization(name, actor=ME)
        await tenancy.create_team(name, "team", actor=ME)
        await tenancy.create_user(name, "ada", actor=ME)
        await tenancy.create_key(organization=name, name="key", actor=ME)
        await tenancy.create_key(user="ada", organization=name, name="key", actor=ME)
    with pytest.raises(Conflict):
        await tenancy.create_organization("one", actor=ME)
    with pytest.raises(Conflict):
        await tenancy.create_team("one", "team", actor=ME)
    with pytest.raises(Conflict):
        await tenancy.create_user("one", "ada", actor=ME)
    with pytest.raises(Conflict):
        await tenancy.create_key(organization="one", name="key", actor=ME)
    with pytest.raises(Conflict):
        await tenancy.update(ORGANIZATION, "one", name="two", actor=ME)
    assert len(await tenancy.find_all(KEY)) == 4


async def test_the_name_of_a_revoked_key_is_free_again(tenancy: Tenancy, tenant: Tenant) -> None:
    first, _ = await tenancy.create_key(team="team", name="ci", actor=ME)
    await tenancy.revoke_key("ci", actor=ME)
    second, _ = await tenancy.create_key(team="team", name="ci", actor=ME)
    assert (await tenancy.get(KEY, "ci")).id == second.id
    assert (await tenancy.get(KEY, first.id)).revoked
    other, _ = await tenancy.create_key(team="team", name="cd", actor=ME)
    with pytest.raises(Conflict, match="'ci' already"):
        await tenancy.update(KEY, other.id, name="ci", actor=ME)
    assert (await tenancy.update(KEY, "ci", name="ci", actor=ME)).id == second.id


async def test_an_ambiguous_name_is_refused_with_the_candidates(tenancy: Tenancy) -> None:
    ids = []
    for name in ("one", "two"):
        await tenancy.create_organization(name, actor=ME)
        ids.append((await tenancy.create_team(name, "team", actor=ME)).id)
    with pytest.raises(TenancyError) as refused:
        await tenancy.get(TEAM, "team")
    assert f"{ids[0]} (organisation one)" in str(refused.value)
    assert f"{ids[1]} (organisation two)" in str(refused.value)
    assert (await tenancy.get(TEAM, "team", organization="two")).id == ids[1]


@pytest.mark.parametrize("reference", ["nobody", "", "a\x00b", "\ud800"])
async def test_what_does_not_exist_is_not_found(tenancy: Tenancy, reference: str) -> None:
    with pytest.raises(NotFound, match="no"):
        await tenancy.get(USER, reference)


async def test_an_organisation_is_not_looked_for_inside_one(
    tenancy: Tenancy, tenant: Tenant
) -> None:
    for reference in ("acme", tenant.organization_id):
        with pytest.raises(TenancyError, match="in no other"):
            await tenancy.get(ORGANIZATION, reference, organization="acme")


async def test_an_id_of_another_organisation_is_not_found_in_this_one(
    tenancy: Tenancy, tenant: Tenant
) -> None:
    await tenancy.create_organization("other", actor=ME)
    with pytest.raises(NotFound, match="in this organisation"):
        await tenancy.get(TEAM, tenant.team_id, organization="other")
    with pytest.raises(NotFound):
        await tenancy.create_key(organization="other", team=tenant.team_id, actor=ME)
    with pytest.raises(NotFound):
        await tenancy.create_key(organization="other", user=tenant.user_id, actor=ME)
    outsider = await tenancy.create_user("other", "eve", actor=ME)
    with pytest.raises(NotFound):
        await tenancy.add_membership(tenant.team_id, outsider.id, actor=ME)


async def test_a_key_needs_an_owner(tenancy: Tenancy) -> None:
    with pytest.raises(TenancyError, match="needs an organisation"):
        await tenancy.create_key(actor=ME)


async def test_a_key_of_a_user_in_a_team_needs_the_membership(
    tenancy: Tenancy, tenant: Tenant
) -> None:
    await tenancy.create_user(tenant.organization_id, "guest", actor=ME)
    with pytest.raises(TenancyError, match="not a member"):
        await tenancy.create_key(team="team", user="guest", actor=ME)
    await tenancy.add_membership("team", "guest", role="admin", actor=ME)
    key, _ = await tenancy.create_key(team="team", user="guest", actor=ME)
    assert key.team_id == tenant.team_id


async def test_memberships_are_made_changed_and_listed(tenancy: Tenancy, tenant: Tenant) -> None:
    [made] = await tenancy.list_memberships(team="team")
    assert (made.user_id, made.role) == (tenant.user_id, "member")
    changed = await tenancy.set_role("team", "user", "admin", actor=ME)
    assert changed.role == "admin"
    assert await tenancy.list_memberships(user="user") == [changed]
    assert await tenancy.list_memberships(organization="acme") == [changed]
    with pytest.raises(Conflict, match="already"):
        await tenancy.add_membership("team", "user", actor=ME)
    with pytest.raises(TenancyError, match="role"):
        await tenancy.set_role("team", "user", "owner", actor=ME)
    await tenancy.remove_membership("team", "user", actor=ME)
    with pytest.raises(NotFound, match="not a member"):
        await tenancy.set_role("team", "user", "admin", actor=ME)
    with pytest.raises(NotFound, match="not a member"):
        await tenancy.remove_membership("team", "user", actor=ME)


async def test_removing_a_membership_ends_the_keys_that_need_it_for_good(
    tenancy: Tenancy, tenant: Tenant, principals: StorePrincipals
) -> None:
    _, personal = await tenancy.create_key(user="user", actor=ME)
    _, shared = await tenancy.create_key(team="team", actor=ME)
    assert await tenancy.remove_membership("team", "user", actor=ME) == [tenant.key_id]
    assert not await works(principals, tenant.key)
    assert await works(principals, personal)
    assert await works(principals, shared)
    await tenancy.add_membership("team", "user", actor=ME)
    assert not await works(principals, tenant.key)


async def test_a_key_whose_membership_is_gone_by_other_means_does_not_work(
    store: Store, tenant: Tenant, principals: StorePrincipals
) -> None:
    async with store.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM memberships")
    assert not await works(principals, tenant.key)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_disabled_level_stops_the_key_until_it_is_enabled(
    tenancy: Tenancy, tenant: Tenant, principals: StorePrincipals, kind: Kind[Any]
) -> None:
    id = getattr(tenant, f"{kind.level}_id")
    assert (await tenancy.disable(kind, id, actor=ME)).disabled
    assert not await works(principals, tenant.key)
    assert not (await tenancy.enable(kind, id, actor=ME)).disabled
    assert await works(principals, tenant.key)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_deleted_level_takes_all_below_with_it(
    tenancy: Tenancy, tenant: Tenant, principals: StorePrincipals, kind: Kind[Any]
) -> None:
    id = getattr(tenant, f"{kind.level}_id")
    assert (await tenancy.delete(kind, id, actor=ME)).id == id
    assert not await works(principals, tenant.key)
    assert await tenancy.find_all(KEY) == []
    assert bool(await tenancy.list_memberships()) == (kind is KEY)
    [entry] = await tenancy.list_audit(limit=1)
    assert (entry.action, entry.object_id) == ("delete", id)


async def test_revoking_is_final(
    tenancy: Tenancy, tenant: Tenant, principals: StorePrincipals
) -> None:
    assert (await tenancy.revoke_key(tenant.key_id, actor=ME)).revoked
    assert not await works(principals, tenant.key)
    for change in (tenancy.enable, tenancy.disable):
        with pytest.raises(Conflict, match="final"):
            await change(KEY, tenant.key_id, actor=ME)
    with pytest.raises(Conflict, match="final"):
        await tenancy.revoke_key(tenant.key_id, actor=ME)
    with pytest.raises(Conflict, match="final"):
        await tenancy.update(KEY, tenant.key_id, models=None, actor=ME)
    assert not await works(principals, tenant.key)


async def test_updating_sets_what_is_given_and_leaves_the_rest(
    tenancy: Tenancy, tenant: Tenant, principals: StorePrincipals
) -> None:
    before = await tenancy.get(KEY, tenant.key_id)
    await tenancy.update(KEY, tenant.key_id, models=["a"], zones=["eu"], actor=ME)
    await tenancy.update(KEY, tenant.key_id, limits=Limits(rpm=5), actor=ME)
    await tenancy.update(KEY, tenant.key_id, models=None, expires_at=NOW + 5, actor=ME)
    after = await tenancy.get(KEY, tenant.key_id)
    assert (after.models, after.zones, after.limits) == (None, ("eu",), Limits(rpm=5))
    assert (after.name, after.created, after.hint) == (before.name, before.created, before.hint)
    principal = await principals.find(keys.digest(tenant.key))
    assert principal is not None
    assert principal.levels[-1].zones == ("eu",)
    assert principal.levels[-1].limits == Limits(rpm=5)
    assert principal.expires_at == NOW + 5
    assert (await tenancy.update(USER, "user", email="u@example.org", actor=ME)).email


async def test_what_a_kind_does_not_have_cannot_be_set(tenancy: Tenancy, tenant: Tenant) -> None:
    with pytest.raises(TenancyError, match="A team has no email"):
        await tenancy.update(TEAM, "team", email="x@example.org", actor=ME)
    with pytest.raises(TenancyError, match="A user has no expires_at"):
        await tenancy.update(USER, "user", expires_at=NOW + 1, actor=ME)
    with pytest.raises(TenancyError, match="Nothing to change"):
        await tenancy.update(USER, "user", actor=ME)


async def test_lists_are_narrowed_to_an_owner(tenancy: Tenancy, tenant: Tenant) -> None:
    other = await create_second(tenancy)
    assert len(await tenancy.find_all(KEY)) == 2
    assert [key.id for key in await tenancy.find_all(KEY, organization="other")] == [other]
    assert [key.id for key in await tenancy.find_all(KEY, team="team")] == [tenant.key_id]
    assert [key.id for key in await tenancy.find_all(KEY, user="user")] == [tenant.key_id]
    assert await tenancy.find_all(TEAM, organization="other") == []
    with pytest.raises(TenancyError, match="cannot be narrowed"):
        await tenancy.find_all(USER, team="team")


async def create_second(tenancy: Tenancy) -> str:
    await tenancy.create_organization("other", actor=ME)
    return (await tenancy.create_key(organization="other", actor=ME))[0].id


async def test_changes_at_the_same_time_do_not_disturb_each_other(
    tenancy: Tenancy, url: str, principals: StorePrincipals
) -> None:
    other_store = Store(url)
    await other_store.open()
    other = Tenancy(other_store)
    results = await asyncio.gather(
        *(
            which.create_organization(f"o{n}", actor=ME)
            for n in range(10)
            for which in (tenancy, other)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Conflict) for result in results) == 10
    assert len(await tenancy.find_all(ORGANIZATION)) == 10
    assert len(await tenancy.list_audit()) == 10
    assert await principals.version() == 11
    await other_store.aclose()


async def test_the_database_itself_refuses_a_key_across_organisations(
    store: Store, tenancy: Tenancy, tenant: Tenant
) -> None:
    from sqlalchemy.exc import IntegrityError

    other = await tenancy.create_organization("other", actor=ME)

    async def move() -> None:
        async with store.begin() as connection:
            await connection.exec_driver_sql("UPDATE api_keys SET organization_id = ?", (other.id,))

    with pytest.raises(IntegrityError):
        await move()
