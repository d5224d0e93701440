"""What budgets need of the database: which there are, what was spent, what was told, and what
re-pricing has corrected. Every function takes a connection; instants are nanoseconds since the
epoch, and spent is (nano-units charged, tokens).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import ColumnElement, func, or_, select, true

from llmgw_core.domain.limits import Budget
from llmgw_core.limits.periods import EVER
from llmgw_core.store.ledger_tables import ledger, usage_days, usage_groups, usage_hours
from llmgw_core.store.row_values import ledger_row
from llmgw_core.store.tenancy_tables import LEVELS, audit, tenancy_version

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.limits.periods import Span

_HOUR: Final = 3_600 * 10**9
_DAY: Final = 24
_NAMED: Final = 300
"""Levels that are named in a question; if more are asked for, all are read."""
AUDIT_KIND: Final = "budget"
TOLD: Final = "reach"
"""The action of audit entries that say what a budget has come to."""


class BudgetRow(msgspec.Struct, frozen=True):
    """The budgets of one level."""

    kind: LevelKind
    id: str
    name: str
    organization_id: str
    budgets: tuple[Budget, ...]


async def version(connection: AsyncConnection) -> int:
    """A number that grows with every change of the tenancy."""
    return int((await connection.execute(select(tenancy_version.c.version))).scalar_one())


async def all_budgets(connection: AsyncConnection) -> list[BudgetRow]:
    """Those of all levels. Raises `msgspec.ValidationError` for what is none."""
    found = []
    for kind, table in LEVELS.items():
        inside = table.c.id if kind == "organization" else table.c.organization_id
        query = select(table.c.id, table.c.name, inside, table.c.budgets).where(
            table.c.budgets.is_not(None)
        )
        if kind == "key":
            query = query.where(table.c.revoked.is_(False))
        for id, name, organization_id, budgets in await connection.execute(query):
            if budgets:
                read = msgspec.convert(budgets, tuple[Budget, ...])
                found.append(BudgetRow(kind, id, name, organization_id, read))
    return found


async def last_cursor(connection: AsyncConnection) -> int:
    """Where the ledger ends."""
    return (await connection.scalar(select(func.max(ledger.c.cursor)))) or 0


async def spent(
    connection: AsyncConnection, kind: LevelKind, ids: Collection[str], span: Span
) -> dict[str, tuple[int, int]]:
    """What the levels with these ids have used in `span`, as far as the ledger has it. Sums by the
    hour and the day as far as they go; what a time zone cuts off an hour, row by row."""
    first, last = -(-span.start_ns // _HOUR), span.end_ns // _HOUR
    column = f"{kind}_id"
    found: dict[str, tuple[int, int]] = {}
    if first <= last:
        await _add_hours(connection, column, ids, first, last, found)
        await _add_rows(connection, column, ids, span.start_ns, first * _HOUR, found)
        if span.end_ns != EVER:
            await _add_rows(connection, column, ids, last * _HOUR, span.end_ns, found)
    else:
        await _add_rows(connection, column, ids, span.start_ns, span.end_ns, found)
    return found


async def _add_hours(
    connection: AsyncConnection,
    column: str,
    ids: Collection[str],
    first: int,
    last: int,
    found: dict[str, tuple[int, int]],
) -> None:
    first_day, last_day = -(-first // _DAY), last // _DAY
    if first_day < last_day:
        parts = [
            (usage_hours, usage_hours.c.hour, first, first_day * _DAY),
            (usage_days, usage_days.c.day, first_day, last_day),
            (usage_hours, usage_hours.c.hour, last_day * _DAY, last),
        ]
    else:
        parts = [(usage_hours, usage_hours.c.hour, first, last)]
    for table, period, start, end in parts:
        if start < end:
            owner = usage_groups.c[column]
            query = (
                select(owner, func.sum(table.c.charge), _tokens(table))
                .select_from(table.join(usage_groups, usage_groups.c.id == table.c.group_id))
                .where(period >= start, period < end, _among(owner, ids))
                .group_by(owner)
            )
            _add(found, ids, (await connection.execute(query)).all())


async def _add_rows(
    connection: AsyncConnection,
    column: str,
    ids: Collection[str],
    start_ns: int,
    end_ns: int,
    found: dict[str, tuple[int, int]],
) -> None:
    if start_ns < end_ns:
        owner = ledger.c[column]
        within = (ledger.c.started_ns >= start_ns, ledger.c.started_ns < end_ns)
        query = (
            select(owner, func.sum(ledger.c.charge), _tokens(ledger))
            .where(*within, _among(owner, ids))
            .group_by(owner)
        )
        _add(found, ids, (await connection.execute(query)).all())


def _tokens(table: Table) -> ColumnElement[Any]:
    return func.sum(table.c.input_tokens) + func.sum(table.c.output_tokens)


def _among(column: ColumnElement[Any], ids: Collection[str]) -> ColumnElement[bool]:
    return column.in_(ids) if len(ids) <= _NAMED else true()


def _add(found: dict[str, tuple[int, int]], ids: Collection[str], rows: Any) -> None:
    for id, charge, tokens in rows:
        if id in ids:
            before = found.get(id, (0, 0))
            found[id] = (before[0] + int(charge), before[1] + int(tokens))


async def told(
    connection: AsyncConnection, ids: Collection[str], since_ns: int
) -> list[tuple[str, dict[str, Any]]]:
    """What the audit log says that was told of the budgets of these levels: id and details. Of
    those with periods, `since_ns` at least: nobody needs those of all years."""
    query = select(audit.c.object_id, audit.c.details).where(
        audit.c.kind == AUDIT_KIND,
        audit.c.action == TOLD,
        _among(audit.c.object_id, ids),
        or_(audit.c.at >= since_ns / 1e9, audit.c.details["period"].as_string() == "total"),
    )
    return [(row.object_id, row.details) for row in await connection.execute(query)]


async def corrections(
    connection: AsyncConnection, after: int, until: int
) -> list[tuple[int, UsageRecord]]:
    """The reversals and rebookings that the ledger has behind the cursor `after`, up to `until`."""
    query = (
        select(ledger)
        .where(ledger.c.cursor > after, ledger.c.cursor <= until, ledger.c.entry != "call")
        .order_by(ledger.c.cursor)
    )
    rows = [ledger_row(row) for row in await connection.execute(query)]
    return [(row.cursor, row.record) for row in rows]
