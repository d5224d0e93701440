"""Finding what an administrator means by an id or a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmgw_core.store import tenancy_queries as queries
from llmgw_core.tenancy.errors import NotFound, TenancyError
from llmgw_core.tenancy.records import ORGANIZATION

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.tenancy_queries import Row
    from llmgw_core.tenancy.records import Kind


async def find(
    connection: AsyncConnection, kind: Kind[Any], reference: str, organization_id: str | None = None
) -> Row:
    """The row that `reference` (an id, else a name) means, within one organisation if given.
    Raises `NotFound`, or `TenancyError` when several have the name."""
    if organization_id is not None and kind is ORGANIZATION:
        raise TenancyError("An organisation lies in no other one; name it alone.")
    if not reference.isprintable():
        raise NotFound(f"There is no such {kind.word}.")
    row = await queries.by_id(connection, kind.level, reference)
    if row is not None and organization_id in {None, row.get("organization_id")}:
        return row
    rows = await queries.by_name(connection, kind.level, reference, organization_id)
    if not rows:
        where = " in this organisation" if organization_id else ""
        raise NotFound(f"There is no {kind.word} '{reference[:100]}'{where}.")
    if len(rows) > 1:
        raise TenancyError(
            f"More than one {kind.word} is called '{reference}': "
            f"{', '.join([await _described(connection, row) for row in rows])}. Use the id."
        )
    return rows[0]


async def organization_id(connection: AsyncConnection, reference: str | None) -> str | None:
    """The id of the organisation that `reference` means; None for None."""
    if reference is None:
        return None
    return str((await find(connection, ORGANIZATION, reference))["id"])


async def _described(connection: AsyncConnection, row: Row) -> str:
    parent = await queries.by_id(connection, "organization", row["organization_id"])
    return f"{row['id']} (organisation {parent['name'] if parent else row['organization_id']})"
