"""The ledger on SQL: rows for ever, or as long as retention says, and sums of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import func, select

from llmgw_core.store import usage_report
from llmgw_core.store.booking import AlreadyBooked, Booking
from llmgw_core.store.engine import unhurried
from llmgw_core.store.ledger_queries import EVERYTHING, conditions
from llmgw_core.store.ledger_tables import ledger
from llmgw_core.store.price_sheets import has_other_currency, read_sheets
from llmgw_core.store.row_values import LedgerRow, ledger_row

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import (
        AsyncIterator,
        Callable,
        Collection,
        Coroutine,
        Iterable,
        Mapping,
        Sequence,
    )

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.domain.usage import DeliveryRecord, UsageRecord
    from llmgw_core.store.engine import Store
    from llmgw_core.store.ledger_queries import CallFilter
    from llmgw_core.store.usage_report import Dimension, UsageRow

T = TypeVar("T")

_LOOKED_AT: Final = 100_000
_PAGE: Final = 1_000


class Ledger:
    """Implements `accounting.port.LedgerPort` on an open store. Every method raises
    `StoreUnavailable` when the database does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._booking = Booking(store)
        self._turn = asyncio.Lock()

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        """Store records, sums and deliveries in one transaction; returns how many rows are new.
        Calls that are stored already stay as they are, deliveries update them. Raises
        `RecordsRefused` when one of them cannot be stored at all."""
        return await self._booking.insert(records, deliveries)

    async def correct(self, entries: Sequence[UsageRecord]) -> bool:
        """Store reversals and rebookings that follow from what was read before, in one transaction:
        all of them, or none where somebody else has corrected one of the calls meanwhile. Returns
        whether it did. Raises `RecordsRefused` when one of them cannot be stored at all."""
        try:
            await self._booking.correct(entries)
        except AlreadyBooked:
            return False
        return True

    async def usage(
        self,
        by: Sequence[Dimension],
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        filters: Mapping[Dimension, str | Collection[str]] | None = None,
    ) -> list[UsageRow]:
        """Sums by the dimensions `by`, over the hours that touch [`since`, `until`), of what has
        one of the ids in `filters`. Sorted by group. Where retention has deleted the hours of a
        day, the whole day counts."""
        async with self._store.connect() as connection:
            return await usage_report.usage(connection, by, since, until, filters or {})

    async def rows(
        self, after: int = 0, limit: int = 1000, wanted: CallFilter = EVERYTHING
    ) -> list[LedgerRow]:
        """The first `limit` rows behind the cursor `after`, in the order of commits: going on
        from the last one's cursor misses nothing and repeats nothing.

        That holds because one writer commits at a time, which SQLite sees to. A database with
        several writers at once needs a lock around inserting and committing, or a later cursor
        may be visible before an earlier one."""
        query = select(ledger).where(ledger.c.cursor > after, *conditions(wanted))
        query = query.order_by(ledger.c.cursor).limit(limit)
        async with self._store.connect() as connection:
            return [ledger_row(row) for row in await connection.execute(query)]

    async def export(
        self, after: int = 0, wanted: CallFilter = EVERYTHING, page: int = _PAGE
    ) -> AsyncIterator[LedgerRow]:
        """Every row behind the cursor `after` that is there when it is asked for, in the order of
        commits, `page` of them in memory at a time. Between two pages nothing is held open, so a
        slow reader keeps no writer waiting; who stops goes on from the last cursor."""
        async with self._store.connect() as connection:
            last = await connection.scalar(select(func.max(ledger.c.cursor))) or 0
        while after < last:
            rows = await self.rows(after, page, wanted)
            for row in rows:
                if row.cursor > last:
                    return
                yield row
            if len(rows) < page:
                return
            after = rows[-1].cursor

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

    async def sheets(self, ids: Iterable[str]) -> dict[str, PriceSheet]:
        """The price sheets with these ids, by id, as far as there are any."""
        async with self._store.connect() as connection:
            return await read_sheets(connection, ids)

    async def apart(self, work: Callable[[Ledger], Coroutine[Any, Any, T]]) -> T:
        """The result of `work` on a ledger of the same database, in a thread with a connection and
        an event loop of its own: sums of hundreds of thousands of groups keep no call waiting. One
        after the other, each to its end, so that those who ask again and again get no more of the
        processor than one."""

        async def session() -> T:
            store = self._store.another()
            await store.open_as_it_is()
            try:
                return await work(Ledger(store))
            finally:
                await store.aclose()

        async with self._turn:
            return await unhurried(asyncio.to_thread(lambda: asyncio.run(session())))

    async def has_other_currency(self, currency: str) -> bool:
        """Whether something may be booked in another currency than this one."""
        async with self._store.connect() as connection:
            return await has_other_currency(connection, currency)

    async def count(self) -> int:
        """How many calls are on the books."""
        async with self._store.connect() as connection:
            return (await connection.execute(select(func.count()).select_from(ledger))).scalar_one()
