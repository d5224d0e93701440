"""Retention: single calls and sums by the hour leave the books when they are old enough.

What is deleted is in coarser sums for ever, which were made in the transaction that made the rows.
First it is written down from which moment on everything is still there, and then what is older is
deleted in small steps, so that writers never wait long and a restart goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, func, select, text

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.store.ledger_tables import (
    ledger,
    pruned,
    touched_hours,
    usage_day_totals,
    usage_days,
    usage_groups,
    usage_hours,
)
from llmgw_core.store.statement_tables import statements
from llmgw_core.store.usage_plan import first_day, month_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.config.schema_retention import RetentionConfig
    from llmgw_core.store.engine import Store

log = logging.getLogger(__name__)

_HOUR_NS: Final = 3_600 * 10**9
_DAY_NS: Final = 24 * _HOUR_NS
_STEP: Final = 2_000
"""Rows per transaction."""
_PAUSE: Final = 0.05
"""Seconds between two transactions."""
_FREE_SHARE: Final = 0.1
"""Of the file; if more is free, some of it is given back."""
_PAGES: Final = 1_000
INTERVAL: Final = 3_600.0


class Retention:
    """Deletes from `store` what `config` says. `clock_ns` is in nanoseconds since the epoch."""

    def __init__(self, store: Store, config: RetentionConfig, clock_ns: Callable[[], int]) -> None:
        self.config = config
        self.deleted: Counter[str] = Counter()
        """Rows deleted since the start, by table."""
        self._store = store
        self._clock_ns = clock_ns
        self._task: asyncio.Task[None] | None = None

    def start(self, interval: float = INTERVAL) -> None:
        """Begin to delete in the background, every `interval` seconds."""
        self._task = asyncio.create_task(self._run(interval), name="llmgw retention")

    async def aclose(self) -> None:
        """Stop, where it is. May be repeated."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def prune(self, pause: float = _PAUSE) -> None:
        """Delete what is old enough. Raises `StoreUnavailable`."""
        for table, before_ns in (await self._decide()).items():
            for one in (table, *_TOGETHER.get(table, ())):
                while count := await self._step(one, before_ns):
                    self.deleted[one.name] += count
                    await self._give_back()
                    await asyncio.sleep(pause)

    async def _run(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await self.prune()
            except StoreUnavailable as error:
                log.warning("nothing was deleted from the books: %s", error)

    async def _decide(self) -> dict[Table, int]:
        """Write down what goes and return it: the first moment that stays, by table."""
        now, config = self._clock_ns(), self.config
        async with self._store.begin() as connection:
            found = {}
            if config.rows:
                found[ledger] = await closed_until(connection, now - config.rows * _DAY_NS)
            if config.hours:
                hours = await closed_until(connection, now - config.hours * _DAY_NS)
                found[usage_hours] = hours // _DAY_NS * _DAY_NS
                if config.days:
                    days = min(now - config.days * _DAY_NS, hours) // _DAY_NS
                    found[usage_days] = first_day(month_of(days)) * _DAY_NS
            return {
                table: await _write_down(connection, table, before)
                for table, before in found.items()
                if before > 0
            }

    async def _step(self, table: Table, before_ns: int) -> int:
        which: ColumnElement[bool]
        if table is ledger:
            old = select(ledger.c.cursor).where(ledger.c.started_ns < before_ns)
            which = ledger.c.cursor.in_(old.order_by(ledger.c.started_ns).limit(_STEP))
        else:
            period = next(iter(table.primary_key))
            end = before_ns // (_HOUR_NS if period.name == "hour" else _DAY_NS)
            which = period == select(func.min(period)).where(period < end).scalar_subquery()
        async with self._store.begin() as connection:
            result = await connection.execute(delete(table).where(which))
            return result.rowcount

    async def _give_back(self) -> None:
        """Free pages are used again; only when there are many does the file become smaller, and
        only if it was made so that it can."""
        async with self._store.begin() as connection:
            if connection.dialect.name != "sqlite":
                return
            free = await connection.scalar(text("PRAGMA freelist_count")) or 0
            pages = await connection.scalar(text("PRAGMA page_count")) or 0
            if free > pages * _FREE_SHARE:
                # As a script, because as a statement it ends after the first page; the script
                # commits, and there is nothing in this transaction.
                raw = await connection.get_raw_connection()
                driver: Any = raw.driver_connection
                await driver.executescript(f"PRAGMA incremental_vacuum({_PAGES})")


_TOGETHER: Final[dict[Table, tuple[Table, ...]]] = {
    usage_hours: (touched_hours,),
    usage_days: (usage_day_totals,),
}


async def closed_until(connection: AsyncConnection, before_ns: int) -> int:
    """The last moment up to `before_ns` before which every statement that there should be is
    closed: `before_ns` itself as long as no statement was ever made, else the end of one."""
    rows = (await connection.execute(select(statements))).all()
    if not rows:
        return before_ns
    oldest = await connection.scalar(select(func.min(ledger.c.started_ns)))
    if oldest is None:
        return 0
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        if row.state == "closed" and row.end_ns <= before_ns:
            spans.setdefault(row.scope, []).append((row.start_ns, row.end_ns))
    everybody = spans.pop("", [])
    owners = await connection.scalars(select(usage_groups.c.organization_id).distinct())
    return min(_covered(oldest, [*everybody, *spans.get(owner, ())]) for owner in owners)


def _covered(start: int, spans: Iterable[tuple[int, int]]) -> int:
    """How far `spans` reach from `start` on without a gap; 0 if not at all."""
    reached = start
    for first, end in sorted(spans):
        if first > reached:
            break
        reached = max(reached, end)
    return reached if reached > start else 0


async def _write_down(connection: AsyncConnection, table: Table, before_ns: int) -> int:
    """What is gone stays gone, whatever the configuration says later."""
    query = select(pruned.c.before_ns).where(pruned.c.name == table.name)
    known: Any = await connection.scalar(query)
    if known is None:
        await connection.execute(pruned.insert().values(name=table.name, before_ns=before_ns))
    elif before_ns > known:
        changed = pruned.update().where(pruned.c.name == table.name)
        await connection.execute(changed.values(before_ns=before_ns))
    return max(before_ns, known or 0)
