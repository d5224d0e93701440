"""The queries of a usage report: one for each part of its plan, on the narrowest table that has
what is asked for.

A filter on few groups looks each of them up in each period; anything else reads the periods from
end to end. Amounts are added up in two parts, units and nano-units, because SQLite's sum of 64-bit
integers ends at about nine thousand million units. Where the months have none of the rarer
tokens, nothing shorter has, and they are not added up: that is a third of the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, or_, select

from llmgw_core.store.ledger_tables import (
    COARSE,
    SUMS,
    usage_day_totals,
    usage_days,
    usage_groups,
    usage_hours,
    usage_months,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import ColumnElement, FromClause, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.usage_plan import Part

NANO: Final = 10**9
COUNTS: Final = SUMS[:-2]
AMOUNTS: Final = SUMS[-2:]

_TABLES: Final[dict[str, Table]] = {"hour": usage_hours, "day": usage_days, "month": usage_months}
_USUAL: Final = 6
_FEW: Final = 4
"""To look up one group costs as much as to read so many rows on the way."""
_SEEN_AT_ONCE: Final = 5_000
"""Periods that are looked up one by one, at most: nearly fourteen years of days."""


class Sources:
    """The sums by `columns` (of the groups) of what has one of the values in `wanted`."""

    def __init__(self, columns: Sequence[str], wanted: Mapping[str, Collection[str]]) -> None:
        self._columns = columns
        used = {*columns, *wanted}
        self._grouped = bool(used)
        self._coarse = used <= set(COARSE)
        self._conditions = [usage_groups.c[name].in_(values) for name, values in wanted.items()]
        self._few = False
        self._counts: tuple[str, ...] = COUNTS

    async def look(self, connection: AsyncConnection, first: int, last: int) -> None:
        """See what there is to read in the months from `first` to `last`."""
        month = usage_months.c.month
        rare = or_(*(usage_months.c[name] != 0 for name in COUNTS[_USUAL:]))
        query = select(month).where(month >= first, month <= last, rare).limit(1)
        if await connection.scalar(query) is None:
            self._counts = COUNTS[:_USUAL]
        if self._conditions and not self._coarse:
            every = select(func.count()).select_from(usage_groups)
            groups = await connection.scalar(every) or 0
            wanted = await connection.scalar(every.where(*self._conditions)) or 0
            self._few = wanted * _FEW < groups

    async def read(
        self, connection: AsyncConnection, part: Part, *, timed: bool
    ) -> list[tuple[tuple[Any, ...], list[int]]]:
        """Key and sums, in the order of `SUMS`. If `timed`, the key begins with the period."""
        rows = await connection.execute(self._query(part, timed=timed))
        width = len(self._columns) + timed
        blank = (0,) * (len(COUNTS) - len(self._counts))
        return [(tuple(row[:width]), _whole(row[width:], blank)) for row in rows]

    def _query(self, part: Part, *, timed: bool) -> Select[Any]:
        table = _TABLES[part.period]
        if part.period == "day" and self._coarse:
            table = usage_day_totals
        period = table.c[part.period]
        groups: list[ColumnElement[Any]] = [usage_groups.c[name] for name in self._columns]
        if timed:
            groups.insert(0, period)
        source: FromClause = table
        if self._grouped:
            source = table.join(usage_groups, usage_groups.c.id == table.c.group_id)
        query = (
            select(*groups, *_sums(table, self._counts))
            .select_from(source)
            .where(*self._conditions)
        )
        if self._few and part.last - part.first <= _SEEN_AT_ONCE:
            ids = select(usage_groups.c.id).where(*self._conditions)
            query = query.where(table.c.group_id.in_(ids))
            query = query.where(period.in_(range(part.first, part.last)))
        else:
            query = query.where(period >= part.first, period < part.last)
        return query.group_by(*groups) if groups else query


def _sums(table: Table, names: Sequence[str]) -> list[ColumnElement[Any]]:
    counts = [func.coalesce(func.sum(table.c[name]), 0) for name in names]
    amounts = [
        func.coalesce(func.sum(table.c[name].op(operator)(NANO)), 0)
        for name in AMOUNTS
        for operator in ("/", "%")
    ]
    return [*counts, *amounts]


def _whole(values: Sequence[Any], blank: Sequence[int]) -> list[int]:
    cost, cost_rest, charge, charge_rest = values[-4:]
    return [*values[:-4], *blank, cost * NANO + cost_rest, charge * NANO + charge_rest]
