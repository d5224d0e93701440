"""The statements on the tables of statements. Values only: `statements` decides what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from llmgw_core.store.ledger_tables import ledger
from llmgw_core.store.row_values import ledger_row
from llmgw_core.store.statement_tables import statement_lines, statements

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.usage import UsageRecord

Row = dict[str, Any]
_AT_ONCE = 500
_PAGE = 1000


async def closed_periods(connection: AsyncConnection) -> list[tuple[str, int, int]]:
    """Name, start and end of every closed statement."""
    query = select(statements.c.period, statements.c.start_ns, statements.c.end_ns)
    found = await connection.execute(query.where(statements.c.state == "closed"))
    return [(row.period, row.start_ns, row.end_ns) for row in found]


async def all_statements(connection: AsyncConnection) -> list[Row]:
    """Every statement, by scope and time."""
    query = select(statements).order_by(statements.c.scope, statements.c.start_ns)
    return [dict(row) for row in (await connection.execute(query)).mappings()]


async def put(connection: AsyncConnection, values: Row) -> None:
    """Insert a statement, or replace the one with its id, without its lines."""
    existing = select(func.count()).select_from(statements).where(statements.c.id == values["id"])
    if await connection.scalar(existing):
        changing = update(statements).where(statements.c.id == values["id"]).values(values)
        await connection.execute(changing)
    else:
        await connection.execute(insert(statements).values(values))


async def replace_lines(
    connection: AsyncConnection, statement_id: str, lines: Iterable[tuple[str, str]]
) -> None:
    """The lines of a statement: which statement's time each is about, and its JSON; numbered from
    1."""
    gone = delete(statement_lines).where(statement_lines.c.statement_id == statement_id)
    await connection.execute(gone)
    rows = [
        {"statement_id": statement_id, "number": number, "about": about, "line": line}
        for number, (about, line) in enumerate(lines, 1)
    ]
    for start in range(0, len(rows), _AT_ONCE):
        await connection.execute(insert(statement_lines), rows[start : start + _AT_ONCE])


async def lines(connection: AsyncConnection, statement_id: str) -> list[str]:
    """The lines of a statement, as JSON."""
    query = select(statement_lines.c.line).where(statement_lines.c.statement_id == statement_id)
    return list((await connection.execute(query.order_by(statement_lines.c.number))).scalars())


async def lines_about(connection: AsyncConnection, statement_id: str) -> list[str]:
    """Every line of closed statements that is about the time of this one, as JSON."""
    query = (
        select(statement_lines.c.line)
        .join(statements, statements.c.id == statement_lines.c.statement_id)
        .where(statement_lines.c.about == statement_id, statements.c.state == "closed")
        .order_by(statement_lines.c.statement_id, statement_lines.c.number)
    )
    return list((await connection.execute(query)).scalars())


async def booked(connection: AsyncConnection, call_ids: Sequence[str]) -> set[str]:
    """Those of the calls that are in the ledger."""
    found: set[str] = set()
    for start in range(0, len(call_ids), _AT_ONCE):
        some = ledger.c.call_id.in_(call_ids[start : start + _AT_ONCE])
        found.update(await connection.scalars(select(ledger.c.call_id).where(some)))
    return found


async def rows_of(
    connection: AsyncConnection,
    span: tuple[int, int],
    cursors: tuple[int, int],
    cost_center: str,
    organization: str,
) -> AsyncGenerator[list[UsageRecord], None]:
    """The rows of the ledger on a cost centre, of calls that started in a span of time, behind the
    first of two cursors up to the second one; in the order of commits, page by page."""
    query = select(ledger).where(
        ledger.c.cursor > cursors[0],
        ledger.c.cursor <= cursors[1],
        ledger.c.started_ns >= span[0],
        ledger.c.started_ns < span[1],
        ledger.c.cost_center == cost_center,
    )
    if organization:
        query = query.where(ledger.c.organization_id == organization)
    async with connection.stream(query.order_by(ledger.c.cursor)) as rows:
        async for block in rows.partitions(_PAGE):
            yield [ledger_row(row).record for row in block]
