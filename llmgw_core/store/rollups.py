"""The tables of sums, kept up to date in the transaction that inserts rows.

What sums are kept apart by is written down once, in `usage_groups`; the sums themselves are narrow
rows of numbers. A group never changes, so its id can be remembered, but not before the transaction
is through that may have created it.
"""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from llmgw_core.store.ledger_tables import (
    COARSE,
    GROUP,
    SUMS,
    ledger,
    touched_hours,
    usage_day_totals,
    usage_days,
    usage_groups,
    usage_hours,
    usage_months,
)
from llmgw_core.store.many_rows import Rows
from llmgw_core.store.usage_plan import month_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Dialect, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.contributions import Key

    Ids = dict[Key, tuple[int, int]]
    """Of groups: their id, and the id of the coarser one."""
    _Keyed = dict[tuple[int, int], Sequence[int]]
    """Sums by period and group."""

_COMMON: Final = 6
"""So many sums at the beginning, and the amounts at the end, are those that most groups have."""
_USUAL: Final = (*SUMS[:_COMMON], *SUMS[-2:])
_IS_COARSE: Final = tuple(name in COARSE for name in GROUP)
_REMEMBERED: Final = 200_000


class RollUps:
    """Adds contributions to the sums. One per process; ids of groups are remembered."""

    def __init__(self) -> None:
        self._known: Ids = {}
        self._statements: _Statements | None = None

    async def add(self, connection: AsyncConnection, sums: Mapping[Key, Sequence[int]]) -> Ids:
        """Add `sums`, by hour and group, to all tables, and say which hours were touched. Returns
        the ids of groups, to `remember` when the transaction is through."""
        if self._statements is None:
            self._statements = _Statements(connection.dialect)
        statements = self._statements
        ids = await self._ids(connection, statements, {key[1:] for key in sums})
        hours: _Keyed = {}
        wider: dict[int, int] = {}
        for key, values in sums.items():
            group, wider_group = ids[key[1:]]
            hours[key[0], group] = values
            wider[group] = wider_group
        days = _sum((hour // 24, group, values) for (hour, group), values in hours.items())
        months = _sum((month_of(day), group, values) for (day, group), values in days.items())
        totals = _sum((day, wider[group], values) for (day, group), values in days.items())
        await statements.hours.add(connection, hours)
        await statements.days.add(connection, days)
        await statements.months.add(connection, months)
        await statements.totals.add(connection, totals)
        await self._touch(connection, {hour for hour, _ in hours})
        return ids

    def remember(self, ids: Ids) -> None:
        """These groups are in the database for good."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        self._known.update(ids)

    def forget(self) -> None:
        """The database failed: who knows which one it is when it comes back."""
        self._known.clear()

    async def _touch(self, connection: AsyncConnection, hours: Iterable[int]) -> None:
        assert self._statements is not None
        cursor = await connection.scalar(select(func.max(ledger.c.cursor)))
        values = [value for hour in hours for value in (hour, cursor)]
        await self._statements.touched.execute(connection, values)

    async def _ids(
        self, connection: AsyncConnection, statements: _Statements, groups: Collection[Key]
    ) -> Ids:
        """The id of each group, and of the coarser one that it is a part of."""
        ids = {group: self._known[group] for group in groups if group in self._known}
        new = {group: coarse(group) for group in groups if group not in ids}
        if new:
            values = [value for group in {*new, *new.values()} for value in group]
            found = await statements.groups.execute(connection, values)
            numbers = {tuple(group): id for id, *group in found}
            ids |= {group: (numbers[group], numbers[wider]) for group, wider in new.items()}
        return ids


class _Statements:
    def __init__(self, dialect: Dialect) -> None:
        self.hours = _Sums(dialect, usage_hours)
        self.days = _Sums(dialect, usage_days)
        self.months = _Sums(dialect, usage_months)
        self.totals = _Sums(dialect, usage_day_totals)
        # An update without effect, because only what is written is returned.
        names = ", ".join(GROUP)
        found = f" ON CONFLICT ({names}) DO UPDATE SET price = excluded.price RETURNING id, {names}"
        self.groups = Rows(dialect, usage_groups, GROUP, found)
        later = " ON CONFLICT (hour) DO UPDATE SET cursor = excluded.cursor"
        self.touched = Rows(dialect, touched_hours, ("hour", "cursor"), later)


class _Sums:
    """Adds to one table. Most groups have none of the rarer tokens, and do not pay for them."""

    def __init__(self, dialect: Dialect, table: Table) -> None:
        self._usual = Rows(dialect, table, *_addition(table, _USUAL))
        self._all = Rows(dialect, table, *_addition(table, SUMS))

    async def add(self, connection: AsyncConnection, sums: _Keyed) -> None:
        """Add `sums`, by period and group."""
        usual: list[int] = []
        whole: list[int] = []
        for key, values in sums.items():
            if any(values[_COMMON:-2]):
                whole += key
                whole += values
            else:
                usual += key
                usual += values[:_COMMON]
                usual += values[-2:]
        await self._usual.execute(connection, usual)
        await self._all.execute(connection, whole)


def _addition(table: Table, sums: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The columns and the ending of an INSERT that adds `sums`."""
    keys = tuple(column.name for column in table.primary_key)
    added = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in sums)
    return (*keys, *sums), f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"


def coarse(group: Key) -> Key:
    """The group of which `group` is a part in the totals of days."""
    return tuple(map(_only, _IS_COARSE, group))


def _only(kept: bool, value: str) -> str:
    return value if kept else ""


def _sum(
    items: Iterable[tuple[int, int, Sequence[int]]],
) -> _Keyed:
    """Sums by period and group."""
    sums: _Keyed = {}
    for period, group, values in items:
        before = sums.get((period, group))
        sums[period, group] = values if before is None else list(map(add, before, values))
    return sums
