"""The ledger on SQL: rows for ever, sums by the hour, both written in one transaction.

A batch is inserted as it is. Only if the database says that a call is known already (a replay
after a crash) is it asked which ones, so that the usual case pays for no question.

Many rows go into one statement. Row by row, the driver's thread would give up the interpreter
at every row and, beside a busy event loop, wait milliseconds to have it back: the books would
fall behind just when there is most to write.
"""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.store import usage_report
from llmgw_core.store.contributions import contributions
from llmgw_core.store.ledger_queries import EVERYTHING, conditions
from llmgw_core.store.ledger_tables import ledger
from llmgw_core.store.many_rows import BLOCK, Rows
from llmgw_core.store.rollups import RollUps
from llmgw_core.store.row_values import (
    COLUMNS,
    PLAIN,
    LedgerRow,
    all_values,
    cut,
    ledger_row,
    plain_values,
)

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.usage import DeliveryRecord, UsageRecord
    from llmgw_core.store.engine import Store
    from llmgw_core.store.ledger_queries import CallFilter
    from llmgw_core.store.rollups import Ids
    from llmgw_core.store.usage_report import Dimension, UsageRow

log = logging.getLogger(__name__)

_LOOKED_AT: Final = 100_000
_QUESTION: Final = 500
"""Ids per question: far below every database's limit on parameters."""

_call_id = attrgetter("call_id")


class Ledger:
    """Implements `accounting.port.LedgerPort` on an open store. Every method raises
    `StoreUnavailable` when the database does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._compiled: _Compiled | None = None
        self._rollups = RollUps()

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        """Store records, sums and deliveries in one transaction; returns how many rows are new.
        Calls that are stored already stay as they are, deliveries update them."""
        fresh = list(records)
        if len(set(map(_call_id, fresh))) != len(fresh):
            distinct = {record.call_id: record for record in reversed(fresh)}
            fresh = list(reversed(distinct.values()))
        try:
            return await self._insert_missing(fresh, deliveries)
        except OverflowError:
            # One absurd figure from a provider must not keep all other calls off the books.
            log.exception("a number in a usage record is too large for the ledger and is cut")
            return await self._insert_missing([cut(record) for record in fresh], deliveries)

    async def usage(
        self,
        by: Sequence[Dimension],
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        filters: Mapping[Dimension, str] | None = None,
    ) -> list[UsageRow]:
        """Sums by the dimensions `by`, over the hours that touch [`since`, `until`), of what has
        the ids in `filters`. Sorted by group."""
        async with self._store.connect() as connection:
            return await usage_report.usage(connection, by, since, until, filters or {})

    async def rows(
        self, after: int = 0, limit: int = 1000, wanted: CallFilter = EVERYTHING
    ) -> list[LedgerRow]:
        """The first `limit` rows behind the cursor `after`, in the order of commits: going on
        from the last one's cursor misses nothing and repeats nothing."""
        query = select(ledger).where(ledger.c.cursor > after, *conditions(wanted))
        query = query.order_by(ledger.c.cursor).limit(limit)
        async with self._store.connect() as connection:
            return [ledger_row(row) for row in await connection.execute(query)]

    async def latest(
        self, limit: int, wanted: CallFilter = EVERYTHING
    ) -> tuple[list[LedgerRow], int]:
        """The last `limit` rows of those that are wanted, in the order of commits, and the cursor
        to go on from. Only the last hundred thousand calls are looked at."""
        async with self._store.connect() as connection:
            last = await connection.scalar(select(func.max(ledger.c.cursor))) or 0
            within = (ledger.c.cursor > last - _LOOKED_AT, ledger.c.cursor <= last)
            query = select(ledger).where(*within, *conditions(wanted))
            query = query.order_by(ledger.c.cursor.desc()).limit(limit)
            found = [ledger_row(row) for row in await connection.execute(query)]
        return found[::-1], last

    async def get(self, call_id: str) -> UsageRecord | None:
        """The record of one call."""
        query = select(ledger).where(ledger.c.call_id == call_id)
        async with self._store.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return ledger_row(row).record if row is not None else None

    async def count(self) -> int:
        """How many calls are on the books."""
        async with self._store.connect() as connection:
            return (await connection.execute(select(func.count()).select_from(ledger))).scalar_one()

    async def _insert_missing(
        self, records: list[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        try:
            try:
                return await self._insert(records, deliveries)
            except IntegrityError:
                return await self._insert(records, deliveries, check=True)
        except IntegrityError as error:
            # Another writer was faster between question and answer: the caller tries again.
            raise StoreUnavailable(str(error)) from error

    async def _insert(
        self,
        records: list[UsageRecord],
        deliveries: Sequence[DeliveryRecord],
        *,
        check: bool = False,
    ) -> int:
        async with self._store.begin() as connection:
            if check:
                known = await _known(connection, [record.call_id for record in records])
                records = [record for record in records if record.call_id not in known]
            found = _Compiled.of(connection) if self._compiled is None else self._compiled
            self._compiled = found
            groups: Ids = {}
            if records:
                await _insert_rows(connection, found, records)
                groups = await self._rollups.add(connection, contributions(records))
            if deliveries:
                changes = [(d.status, d.duration_us, d.call_id) for d in deliveries]
                await connection.exec_driver_sql(found.delivery, changes)
        self._rollups.remember(groups)
        return len(records)


class _Compiled(NamedTuple):
    """SQL text: building it anew costs more than executing it."""

    plain: Rows
    whole: Rows
    delivery: str

    @classmethod
    def of(cls, connection: AsyncConnection) -> _Compiled:
        dialect = connection.dialect
        delivery = (
            ledger.update()
            .where(ledger.c.call_id == "")
            .values({ledger.c.status: "", ledger.c.duration_us: 0})
        )
        return cls(
            Rows(dialect, ledger, PLAIN),
            Rows(dialect, ledger, COLUMNS),
            str(delivery.compile(dialect=dialect)),
        )


async def _insert_rows(
    connection: AsyncConnection, statements: _Compiled, records: Sequence[UsageRecord]
) -> None:
    rare: list[UsageRecord] = []
    for start in range(0, len(records), BLOCK):
        # Block by block, so that the event loop gets its turn in between.
        values = plain_values(records[start : start + BLOCK], rare)
        await statements.plain.execute(connection, values)
    for start in range(0, len(rare), BLOCK):
        values = [value for record in rare[start : start + BLOCK] for value in all_values(record)]
        await statements.whole.execute(connection, values)


async def _known(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    known: set[str] = set()
    for start in range(0, len(ids), _QUESTION):
        query = select(ledger.c.call_id).where(ledger.c.call_id.in_(ids[start : start + _QUESTION]))
        known.update(await connection.scalars(query))
    return known
