"""A tenant in one call, made through the same use cases that administrators use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.domain.brake import NO_BRAKE, Brake
from llmgw_core.domain.limits import NO_LIMITS, Budget, Limits
from llmgw_core.tenancy.service import Tenancy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.store.engine import Store

ACTOR = "test"


class Tenant(msgspec.Struct, frozen=True):
    """The ids of an organisation, a team of it, a member of that team and his key."""

    organization_id: str
    team_id: str
    user_id: str
    key_id: str
    key: str
    """The plaintext, as a client sends it."""


async def create_tenant(
    store: Store,
    name: str = "acme",
    *,
    models: Sequence[str] | None = ("*",),
    zones: Sequence[str] | None = None,
    limits: Limits = NO_LIMITS,
    team_models: Sequence[str] | None = None,
    team_limits: Limits = NO_LIMITS,
    user_models: Sequence[str] | None = None,
    user_limits: Limits = NO_LIMITS,
    key_models: Sequence[str] | None = None,
    key_zones: Sequence[str] | None = None,
    key_limits: Limits = NO_LIMITS,
    budgets: Sequence[Budget] = (),
    team_budgets: Sequence[Budget] = (),
    user_budgets: Sequence[Budget] = (),
    key_budgets: Sequence[Budget] = (),
    brake: Brake = NO_BRAKE,
    team_brake: Brake = NO_BRAKE,
    key_brake: Brake = NO_BRAKE,
    expires_at: float | None = None,
) -> Tenant:
    """An organisation `name` with `models`, `zones`, `limits`, `budgets`, `brake`, and one of each
    below it, narrowed as given. `store` is open; several tenants need different names."""
    tenancy = Tenancy(store)
    organization = await tenancy.create_organization(
        name, models=models, zones=zones, limits=limits, budgets=budgets, brake=brake, actor=ACTOR
    )
    team = await tenancy.create_team(
        organization.id,
        "team",
        models=team_models,
        limits=team_limits,
        budgets=team_budgets,
        brake=team_brake,
        actor=ACTOR,
    )
    user = await tenancy.create_user(
        organization.id,
        "user",
        models=user_models,
        limits=user_limits,
        budgets=user_budgets,
        actor=ACTOR,
    )
    await tenancy.add_membership(team.id, user.id, actor=ACTOR)
    info, plaintext = await tenancy.create_key(
        team=team.id,
        user=user.id,
        models=key_models,
        zones=key_zones,
        limits=key_limits,
        budgets=key_budgets,
        brake=key_brake,
        expires_at=expires_at,
        actor=ACTOR,
    )
    return Tenant(organization.id, team.id, user.id, info.id, plaintext)
