"""The statements on the tables of statements. Values only: `statements` decides what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from llmgw_core.store.statement_tables import statement_lines, statements

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

Row = dict[str, Any]
_AT_ONCE = 500


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
