"""The statements on the tenancy tables. Values only: what is allowed is decided in `tenancy`.

Every function takes the connection of a transaction; rows are dictionaries by column name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Table, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from llmgw_core.store.tenancy_tables import (
    api_keys,
    audit,
    memberships,
    organizations,
    teams,
    tenancy_version,
    users,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.access import LevelKind

Row = dict[str, Any]


class NameTaken(Exception):
    """The parent has another row of that name."""


_TABLES: dict[LevelKind, Table] = {
    "organization": organizations,
    "team": teams,
    "user": users,
    "key": api_keys,
}


async def by_id(connection: AsyncConnection, kind: LevelKind, id: str) -> Row | None:
    """The row with this id, or None."""
    table = _TABLES[kind]
    return next(iter(await _rows(connection, table, table.c.id == id)), None)


async def by_name(
    connection: AsyncConnection, kind: LevelKind, name: str, organization_id: str | None
) -> list[Row]:
    """All rows of that name, in one organisation if given. Revoked keys have no name."""
    table = _TABLES[kind]
    conditions = [table.c.name == name]
    if organization_id is not None:
        conditions.append(table.c.organization_id == organization_id)
    if kind == "key":
        conditions.append(api_keys.c.revoked.is_(False))
    return await _rows(connection, table, *conditions)


async def listed(connection: AsyncConnection, kind: LevelKind, **where: str | None) -> list[Row]:
    """All rows whose columns have the values `where` (None: any), by name."""
    return await _rows(connection, _TABLES[kind], *_equal(_TABLES[kind], where))


async def add(connection: AsyncConnection, kind: LevelKind, values: Row) -> None:
    """Insert a row. Raises `NameTaken`."""
    try:
        await connection.execute(insert(_TABLES[kind]).values(values))
    except IntegrityError as error:
        raise NameTaken from error


async def change(connection: AsyncConnection, kind: LevelKind, id: str, values: Row) -> None:
    """Set columns of one row. Raises `NameTaken`."""
    table = _TABLES[kind]
    try:
        await connection.execute(update(table).where(table.c.id == id).values(values))
    except IntegrityError as error:
        raise NameTaken from error


async def remove(connection: AsyncConnection, kind: LevelKind, id: str) -> dict[str, int]:
    """Delete a row and all that belongs to it; how many teams, users and keys went with it."""
    column = f"{kind}_id"
    lost = {}
    for table in (teams, users, api_keys):
        if column in table.c:
            counted = select(func.count()).select_from(table).where(table.c[column] == id)
            lost[table.name] = (await connection.execute(counted)).scalar_one()
    table = _TABLES[kind]
    await connection.execute(delete(table).where(table.c.id == id))
    return lost


async def membership(connection: AsyncConnection, team_id: str, user_id: str) -> Row | None:
    """The membership of a user in a team, or None."""
    found = await connection.execute(select(memberships).where(_member(team_id, user_id)))
    row = found.mappings().first()
    return None if row is None else dict(row)


async def listed_memberships(connection: AsyncConnection, **where: str | None) -> list[Row]:
    """All memberships whose columns have the values `where` (None: any)."""
    statement = (
        select(memberships)
        .where(*_equal(memberships, where))
        .order_by(memberships.c.team_id, memberships.c.user_id)
    )
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


async def add_membership(connection: AsyncConnection, values: Row) -> None:
    """Insert a membership."""
    await connection.execute(insert(memberships).values(values))


async def set_role(connection: AsyncConnection, team_id: str, user_id: str, role: str) -> None:
    """Change the role of a membership."""
    await connection.execute(update(memberships).where(_member(team_id, user_id)).values(role=role))


async def remove_membership(connection: AsyncConnection, team_id: str, user_id: str) -> list[str]:
    """Delete a membership and revoke the keys that need it; their ids."""
    dependent = and_(
        api_keys.c.team_id == team_id,
        api_keys.c.user_id == user_id,
        api_keys.c.revoked.is_(False),
    )
    ids = (await connection.execute(select(api_keys.c.id).where(dependent))).scalars().all()
    await connection.execute(update(api_keys).where(dependent).values(revoked=True))
    await connection.execute(delete(memberships).where(_member(team_id, user_id)))
    return list(ids)


async def record(connection: AsyncConnection, entry: Row) -> int:
    """Write the audit entry of a change and tell caches about it: part of every change.
    Returns the entry's id."""
    id = await note(connection, entry)
    await connection.execute(update(tenancy_version).values(version=tenancy_version.c.version + 1))
    return id


async def note(connection: AsyncConnection, entry: Row) -> int:
    """Write an audit entry of something that no cache has to know. Returns its id."""
    key = (await connection.execute(insert(audit).values(entry))).inserted_primary_key
    assert key is not None
    return int(key[0])


async def listed_audit(
    connection: AsyncConnection, limit: int, before: int | None, object_id: str | None
) -> list[Row]:
    """The newest `limit` audit entries older than the entry `before`, newest first."""
    statement = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(audit.c.id < before)
    if object_id is not None:
        statement = statement.where(audit.c.object_id == object_id)
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


async def audit_after(
    connection: AsyncConnection, kind: str, after: int | None
) -> tuple[int, list[Row]]:
    """The id of the newest audit entry, and the entries of one kind behind the entry `after`, the
    oldest first; none for None."""
    newest = (await connection.execute(select(func.max(audit.c.id)))).scalar() or 0
    if after is None or newest <= after:
        return newest, []
    statement = select(audit).where(audit.c.id > after, audit.c.kind == kind).order_by(audit.c.id)
    return newest, [dict(row) for row in (await connection.execute(statement)).mappings()]


async def _rows(
    connection: AsyncConnection, table: Table, *conditions: ColumnElement[bool]
) -> list[Row]:
    statement = select(table).where(*conditions).order_by(table.c.name, table.c.id)
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


def _equal(table: Table, where: dict[str, str | None]) -> list[ColumnElement[bool]]:
    return [table.c[name] == value for name, value in where.items() if value is not None]


def _member(team_id: str, user_id: str) -> ColumnElement[bool]:
    return and_(memberships.c.team_id == team_id, memberships.c.user_id == user_id)
