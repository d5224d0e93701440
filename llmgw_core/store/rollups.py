"""The tables of sums, kept up to date in the transaction that inserts rows.

What sums are kept apart by is written down once, in `usage_groups`; the sums themselves are narrow
rows of numbers. A group never changes, so its id can be remembered, but not before the transaction
is through that may have created it.
"""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from llmgw_core.store.ledger_tables import (
    GROUP,
    SUMS,
    ledger,
    touched_hours,
    usage_days,
    usage_groups,
    usage_hours,
)
from llmgw_core.store.many_rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Dialect, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.contributions import Key

_COMMON: Final = 6
"""So many sums at the beginning, and the amounts at the end, are those that most groups have."""
_USUAL: Final = (*SUMS[:_COMMON], *SUMS[-2:])
_REMEMBERED: Final = 200_000


class RollUps:
    """Adds contributions to the sums. One per process; ids of groups are remembered."""

    def __init__(self) -> None:
        self._known: dict[Key, int] = {}
        self._statements: _Statements | None = None

    async def add(
        self, connection: AsyncConnection, sums: Mapping[Key, Sequence[int]]
    ) -> dict[Key, int]:
        """Add `sums`, by hour and group, to all tables, and say which hours were touched. Returns
        the ids of groups, to `remember` when the transaction is through."""
        if self._statements is None:
            self._statements = _Statements(connection.dialect)
        statements = self._statements
        ids = await self._ids(connection, statements, {key[1:] for key in sums})
        hours = {(key[0], ids[key[1:]]): values for key, values in sums.items()}
        await statements.hours.add(connection, hours)
        await statements.days.add(connection, _coarser(hours, 24))
        cursor = await connection.scalar(select(func.max(ledger.c.cursor)))
        touched = [value for hour in {key[0] for key in sums} for value in (hour, cursor)]
        await statements.touched.execute(connection, touched)
        return ids

    def remember(self, ids: Mapping[Key, int]) -> None:
        """These groups are in the database for good."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        self._known.update(ids)

    def forget(self) -> None:
        """The database failed: who knows which one it is when it comes back."""
        self._known.clear()

    async def _ids(
        self, connection: AsyncConnection, statements: _Statements, groups: Iterable[Key]
    ) -> dict[Key, int]:
        known = self._known
        ids: dict[Key, int] = {}
        new: list[Any] = []
        for group in groups:
            if group in known:
                ids[group] = known[group]
            else:
                new += group
        for id, *found in await statements.groups.execute(connection, new):
            ids[tuple(found)] = id
        return ids


class _Statements:
    def __init__(self, dialect: Dialect) -> None:
        self.hours = _Sums(dialect, usage_hours)
        self.days = _Sums(dialect, usage_days)
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

    async def add(
        self, connection: AsyncConnection, sums: Mapping[tuple[int, int], Sequence[int]]
    ) -> None:
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


def _coarser(
    sums: Mapping[tuple[int, int], Sequence[int]], periods: int
) -> dict[tuple[int, int], Sequence[int]]:
    """`sums` by periods that are so many times as long."""
    coarser: dict[tuple[int, int], Sequence[int]] = {}
    for (period, group), values in sums.items():
        key = (period // periods, group)
        before = coarser.get(key)
        coarser[key] = values if before is None else list(map(add, before, values))
    return coarser
