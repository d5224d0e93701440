"""Principals as the database knows them: what the principal cache reads from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import FromClause, Select, and_, or_, select

from llmgw_core.domain.access import Level, LevelKind, Principal, Subject
from llmgw_core.domain.brake import Brake
from llmgw_core.domain.limits import Budget, Limits, limits_of
from llmgw_core.store.cost_queries import calendar
from llmgw_core.store.tenancy_tables import (
    LEVELS,
    api_keys,
    memberships,
    organizations,
    teams,
    tenancy_version,
    users,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.engine import Store

_LEVELS = tuple(LEVELS.items())
_COLUMNS = (
    "id",
    "name",
    "models",
    "zones",
    "rpm",
    "tpm",
    "parallel",
    "limits",
    "model_limits",
    "budgets",
    "brake",
)

_FIND = (
    select(
        *(table.c[name].label(f"{kind}_{name}") for kind, table in _LEVELS for name in _COLUMNS),
        api_keys.c.expires_at,
    )
    .select_from(
        api_keys.join(organizations, organizations.c.id == api_keys.c.organization_id)
        .outerjoin(teams, teams.c.id == api_keys.c.team_id)
        .outerjoin(users, users.c.id == api_keys.c.user_id)
        .outerjoin(
            memberships,
            and_(
                memberships.c.team_id == api_keys.c.team_id,
                memberships.c.user_id == api_keys.c.user_id,
            ),
        )
    )
    .where(
        api_keys.c.revoked.is_(False),
        api_keys.c.disabled.is_(False),
        organizations.c.disabled.is_(False),
        or_(api_keys.c.team_id.is_(None), teams.c.disabled.is_(False)),
        or_(api_keys.c.user_id.is_(None), users.c.disabled.is_(False)),
        or_(
            api_keys.c.team_id.is_(None),
            api_keys.c.user_id.is_(None),
            memberships.c.team_id.is_not(None),
        ),
    )
)


class StorePrincipals:
    """The `PrincipalSource` of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, digest: bytes) -> Principal | None:
        """The principal of the key with this SHA-256; None when there is none, or when it or a
        level above is disabled, revoked or lacks its membership. Expiry is for the caller to
        check. Raises `StoreUnavailable`."""
        async with self._store.connect() as connection:
            found = await connection.execute(_FIND.where(api_keys.c.digest == digest))
            row = found.mappings().first()
            return None if row is None else await _principal(connection, dict(row))

    async def find_subject(self, subject: Subject) -> Principal | None:
        """The principal that `subject` names; None when there is none, or when it or a level
        above is disabled, revoked or lacks its membership. Raises `StoreUnavailable`."""
        statement = _FIND.where(api_keys.c.id == subject.key) if subject.key else _named(subject)
        async with self._store.connect() as connection:
            row = (await connection.execute(statement)).mappings().first()
            return None if row is None else await _principal(connection, dict(row))

    async def version(self) -> int:
        """A number that grows with every write to the tenancy. Raises `StoreUnavailable`."""
        async with self._store.connect() as connection:
            return int((await connection.execute(select(tenancy_version.c.version))).scalar_one())


def _named(subject: Subject) -> Select[Any]:
    """The organisation and what is named below it, by id or name: no name looks like an id."""
    tables = [organizations]
    joined: FromClause = organizations
    references = [subject.organization]
    for table, reference in ((teams, subject.team), (users, subject.user)):
        if reference:
            joined = joined.join(table, table.c.organization_id == organizations.c.id)
            tables.append(table)
            references.append(reference)
    if len(tables) == len(_LEVELS) - 1:
        both = and_(memberships.c.team_id == teams.c.id, memberships.c.user_id == users.c.id)
        joined = joined.join(memberships, both)
    named = list(zip(tables, references, strict=True))
    columns = [
        table.c[name].label(f"{kind}_{name}")
        for kind, table in _LEVELS
        for name in _COLUMNS
        if table in tables
    ]
    return (
        select(*columns)
        .select_from(joined)
        .where(*(or_(table.c.id == text, table.c.name == text) for table, text in named))
        .where(*(table.c.disabled.is_(False) for table in tables))
    )


async def _principal(connection: AsyncConnection, row: dict[str, Any]) -> Principal:
    team, key = row.get("team_id"), row.get("key_id")
    present = [kind for kind, _ in _LEVELS if row.get(f"{kind}_id") is not None]
    return Principal(
        levels=tuple(_level(kind, row) for kind in present),
        organization_id=row["organization_id"],
        team_id=team,
        user_id=row.get("user_id"),
        key_id=key,
        expires_at=row.get("expires_at"),
        cost_centers=await calendar(connection, row["organization_id"], team, key),
    )


def _level(kind: LevelKind, row: dict[str, Any]) -> Level:
    models, zones = row[f"{kind}_models"], row[f"{kind}_zones"]
    return Level(
        kind=kind,
        id=row[f"{kind}_id"],
        models=None if models is None else tuple(models),
        zones=None if zones is None else tuple(zones),
        limits=limits_of(
            row[f"{kind}_rpm"], row[f"{kind}_tpm"], row[f"{kind}_parallel"], row[f"{kind}_limits"]
        ),
        name=row[f"{kind}_name"],
        model_limits=msgspec.convert(
            row[f"{kind}_model_limits"] or (), tuple[tuple[str, Limits], ...]
        ),
        budgets=msgspec.convert(row[f"{kind}_budgets"] or (), tuple[Budget, ...]),
        brake=msgspec.convert(row[f"{kind}_brake"] or {}, Brake),
    )
