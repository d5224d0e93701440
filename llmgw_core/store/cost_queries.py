"""The statements on the tables of cost centres. Values only: `tenancy` decides what is allowed.

Every function takes the connection of a transaction; rows are dictionaries by column name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, insert, literal, null, or_, select, true, union_all, update
from sqlalchemy.exc import IntegrityError

from llmgw_core.access.cost_centers import clipped, merged
from llmgw_core.domain.cost_center import FOREVER, CostCenters, CostChoice, CostSpan
from llmgw_core.store.cost_tables import cost_assignments, cost_centers, cost_choices
from llmgw_core.store.tenancy_queries import NameTaken

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

Row = dict[str, Any]
Owner = tuple[str, str]
"""A level and the id of the object there."""

_LEVELS = ("organization", "team", "key")


async def center(connection: AsyncConnection, reference: str) -> Row | None:
    """The cost centre with this id or code, or None: no code looks like an id."""
    wanted = or_(cost_centers.c.id == reference, cost_centers.c.code == reference)
    row = (await connection.execute(select(cost_centers).where(wanted))).mappings().first()
    return None if row is None else dict(row)


async def all_centers(connection: AsyncConnection) -> list[Row]:
    """Every cost centre, by code."""
    found = await connection.execute(select(cost_centers).order_by(cost_centers.c.code))
    return [dict(row) for row in found.mappings()]


async def add_center(connection: AsyncConnection, values: Row) -> None:
    """Insert one. Raises `NameTaken` when another one has its code."""
    try:
        await connection.execute(insert(cost_centers).values(values))
    except IntegrityError as error:
        raise NameTaken from error


async def change_center(connection: AsyncConnection, id: str, values: Row) -> None:
    """Set columns of one. Raises `NameTaken`."""
    try:
        await connection.execute(update(cost_centers).where(cost_centers.c.id == id).values(values))
    except IntegrityError as error:
        raise NameTaken from error


async def assignments(
    connection: AsyncConnection, owner: Owner | None = None, center_id: str | None = None
) -> list[Row]:
    """The assignments of one object or of one cost centre that hold, by time; with the code."""
    query = (
        select(cost_assignments, cost_centers.c.code)
        .join(cost_centers, cost_centers.c.id == cost_assignments.c.center_id)
        .where(cost_assignments.c.replaced_ns.is_(None))
    )
    if owner is not None:
        query = query.where(_of(cost_assignments, owner))
    if center_id is not None:
        query = query.where(cost_assignments.c.center_id == center_id)
    query = query.order_by(
        cost_assignments.c.level, cost_assignments.c.object_id, cost_assignments.c.since_ns
    )
    return [dict(row) for row in (await connection.execute(query)).mappings()]


async def cut_assignments(
    connection: AsyncConnection, owner: Owner, since_ns: int, until_ns: int | None, now_ns: int
) -> None:
    """Make room between two instants: what lies inside goes, what reaches into it is cut."""
    end = FOREVER if until_ns is None else until_ns
    for row in await assignments(connection, owner):
        first, last = row["since_ns"], FOREVER if row["until_ns"] is None else row["until_ns"]
        if last <= since_ns or first >= end:
            continue
        replaced = update(cost_assignments).where(cost_assignments.c.id == row["id"])
        await connection.execute(replaced.values(replaced_ns=now_ns))
        for start, stop in ((first, min(last, since_ns)), (max(first, end), last)):
            if start < stop:
                await add_assignment(connection, owner, row["center_id"], start, stop)


async def add_assignment(
    connection: AsyncConnection, owner: Owner, center_id: str, since_ns: int, until_ns: int | None
) -> None:
    """Insert one, for which there is room."""
    values = {
        "level": owner[0],
        "object_id": owner[1],
        "center_id": center_id,
        "since_ns": since_ns,
        "until_ns": None if until_ns == FOREVER else until_ns,
    }
    await connection.execute(insert(cost_assignments).values(values))


async def choices(connection: AsyncConnection, owner: Owner) -> list[str]:
    """The ids that the object's calls may choose."""
    query = select(cost_choices.c.center_id).where(_of(cost_choices, owner))
    return list((await connection.execute(query.order_by(cost_choices.c.center_id))).scalars())


async def set_choices(connection: AsyncConnection, owner: Owner, ids: Iterable[str]) -> None:
    """Replace them."""
    await connection.execute(delete(cost_choices).where(_of(cost_choices, owner)))
    for id in ids:
        values = {"level": owner[0], "object_id": owner[1], "center_id": id}
        await connection.execute(insert(cost_choices).values(values))


async def calendar(
    connection: AsyncConnection, organization: str, team: str | None, key: str | None
) -> CostCenters | None:
    """What holds for a caller, when; None for one without any assignment and choice."""
    ids = (organization, team, key)
    owners = [(kind, id) for kind, id in zip(_LEVELS, ids, strict=True) if id is not None]
    about = (cost_centers.c.code, cost_centers.c.valid_from_ns, cost_centers.c.valid_until_ns)
    parts = []
    for kind, table in (("span", cost_assignments), ("choice", cost_choices)):
        times = (table.c.since_ns, table.c.until_ns) if kind == "span" else (null(), null())
        holding = table.c.replaced_ns.is_(None) if kind == "span" else true()
        parts.append(
            select(literal(kind), table.c.level, table.c.center_id, *times, *about)
            .join(cost_centers, cost_centers.c.id == table.c.center_id)
            .where(holding, or_(*(_of(table, owner) for owner in owners)))
        )
    rows = [tuple(row) for row in await connection.execute(union_all(*parts))]
    return _calendar(rows) if rows else None


async def ever_assigned(
    connection: AsyncConnection, organization: str, team: str | None, key: str | None
) -> set[str]:
    """The ids of all cost centres that the levels of a caller have ever had."""
    ids = zip(_LEVELS, (organization, team, key), strict=True)
    owners = [_of(cost_assignments, (kind, id)) for kind, id in ids if id is not None]
    query = select(cost_assignments.c.center_id).where(or_(*owners)).distinct()
    return set((await connection.execute(query)).scalars())


def _calendar(rows: Sequence[tuple[Any, ...]]) -> CostCenters:
    spans: dict[str, list[CostSpan]] = {level: [] for level in _LEVELS}
    offered: dict[str, list[CostChoice]] = {level: [] for level in _LEVELS}
    codes = {}
    for kind, level, id, since, until, code, valid_from, valid_until in rows:
        valid_end = FOREVER if valid_until is None else valid_until
        if kind == "choice":
            offered[level].append(CostChoice(code, valid_from, valid_end, id))
            continue
        codes[id] = code
        span = CostSpan(since, FOREVER if until is None else until, id)
        spans[level] += clipped([span], valid_from, valid_end)
    nearest = next((offered[level] for level in reversed(_LEVELS) if offered[level]), [])
    return CostCenters(
        merged([spans[level] for level in _LEVELS]),
        tuple(sorted(nearest, key=lambda choice: choice.code)),
        tuple(sorted(codes.items())),
    )


def _of(table: Table, owner: Owner) -> ColumnElement[bool]:
    return and_(table.c.level == owner[0], table.c.object_id == owner[1])
