"""Callers that an operator names: as current as keys, and nobody can take another's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.access import Subject
from llmgw_core.domain.errors import GatewayError
from llmgw_core.tenancy.records import ORGANIZATION, TEAM, USER
from llmgw_core.testing.tenants import Tenant, create_tenant

if TYPE_CHECKING:
    from llmgw_core.access.principals import PrincipalCache
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.records import Kind
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.clock import FakeClock
    from llmgw_core.testing.principal_source import CountingSource

ADMIN = "admin"


async def test_a_subject_is_named_by_id_or_name_from_the_organisation_down(
    cache: PrincipalCache, source: CountingSource, tenant: Tenant
) -> None:
    for subject, kinds in (
        (Subject(organization="acme"), ["organization"]),
        (Subject(organization=tenant.organization_id, team="team"), ["organization", "team"]),
        (Subject(organization="acme", user=tenant.user_id), ["organization", "user"]),
        (
            Subject(organization="acme", team="team", user="user"),
            ["organization", "team", "user"],
        ),
        (Subject(key=tenant.key_id), ["organization", "team", "user", "key"]),
    ):
        finds = source.finds
        for _ in range(3):
            principal = await cache.resolve_subject(subject)
            assert principal is not None
            assert [level.kind for level in principal.levels] == kinds
        assert source.finds == finds + 1
    assert principal is not None
    assert principal.key_id == tenant.key_id


@pytest.mark.parametrize(
    "subject",
    [
        Subject(organization="no-such"),
        Subject(organization="acme", team="no-such"),
        Subject(organization="other", team="team2"),
        Subject(key="key_none"),
    ],
)
async def test_nobody_is_nobody(cache: PrincipalCache, store: Store, subject: Subject) -> None:
    await create_tenant(store)
    await create_tenant(store, "other")
    assert await cache.resolve_subject(subject) is None


async def test_whatever_is_off_at_any_level_is_nobody_within_the_staleness(
    cache: PrincipalCache, clock: FakeClock, tenant: Tenant, elsewhere: Tenancy
) -> None:
    subject = Subject(organization="acme", team="team", user="user")
    levels: tuple[tuple[Kind[Any], str], ...] = (
        (ORGANIZATION, tenant.organization_id),
        (TEAM, tenant.team_id),
        (USER, tenant.user_id),
    )
    for kind, id in levels:
        assert await cache.resolve_subject(subject) is not None
        await elsewhere.disable(kind, id, actor=ADMIN)
        clock.now += 5.0
        assert await cache.resolve_subject(subject) is None
        await elsewhere.enable(kind, id, actor=ADMIN)
        clock.now += 5.0
    await elsewhere.remove_membership(tenant.team_id, tenant.user_id, actor=ADMIN)
    clock.now += 5.0
    assert await cache.resolve_subject(subject) is None
    assert await cache.resolve_subject(Subject(organization="acme", user="user")) is not None


async def test_an_expired_key_is_nobody(
    cache: PrincipalCache, wall: FakeClock, store: Store
) -> None:
    tenant = await create_tenant(store, expires_at=wall.now + 10)
    assert await cache.resolve_subject(Subject(key=tenant.key_id)) is not None
    wall.now += 10
    assert await cache.resolve_subject(Subject(key=tenant.key_id)) is None


async def test_while_the_store_is_down_known_subjects_are_served_and_others_hear_503(
    cache: PrincipalCache, clock: FakeClock, store: Store, tenant: Tenant
) -> None:
    known = Subject(key=tenant.key_id)
    assert await cache.resolve_subject(known) is not None
    await store.aclose()
    clock.now += 6.0
    assert await cache.resolve_subject(known) is not None
    with pytest.raises(GatewayError) as error:
        await cache.resolve_subject(Subject(organization="acme"))
    assert error.value.status == 503
