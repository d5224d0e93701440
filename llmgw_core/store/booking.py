"""Putting records on the books: rows and sums, in one transaction.

A batch is inserted as it is. Only if the database says that a call is known already (a replay
after a crash), or twice in the batch, is it asked which ones: the usual case pays for no question.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from llmgw_core.accounting.port import RecordsRefused
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.store.contributions import HOUR_NS, contributions
from llmgw_core.store.known_calls import known_calls
from llmgw_core.store.ledger_tables import ledger, pruned
from llmgw_core.store.many_rows import BLOCK, Rows
from llmgw_core.store.rollups import RollUps
from llmgw_core.store.row_values import COLUMNS, PLAIN, all_values, cut, plain_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.usage import DeliveryRecord, UsageRecord
    from llmgw_core.store.contributions import Contributions, Key
    from llmgw_core.store.engine import Store
    from llmgw_core.store.rollups import Ids

log = logging.getLogger(__name__)

_LARGE: Final = 2**53
"""What one batch adds to one sum is less, or a figure in it is absurd. The sums themselves have 64
bits, and must not come near their end."""


_Known = Literal["skip", "refuse"]


class AlreadyBooked(Exception):
    """One of the records is on the books; nothing was inserted."""


class Booking:
    """Inserts into the ledger of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._compiled: _Compiled | None = None
        self._rollups = RollUps()

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        """As `accounting.port.LedgerPort` says."""
        return await self._inserted(records, deliveries, "skip")

    async def correct(self, records: Sequence[UsageRecord]) -> None:
        """Insert all of `records`, or, raising `AlreadyBooked`, nothing."""
        await self._inserted(records, (), "refuse")

    async def _inserted(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord], known: _Known
    ) -> int:
        try:
            return await self._insert_missing(records, deliveries, known)
        except OverflowError:
            # One absurd figure from a provider must not keep all other calls off the books.
            log.exception("a number in a usage record is too large for the ledger and is cut")
            small = [cut(record) for record in records]
            return await self._insert_missing(small, deliveries, known, True)
        except (StoreUnavailable, RecordsRefused):
            self._rollups.forget()
            raise

    async def _insert_missing(
        self,
        records: Sequence[UsageRecord],
        deliveries: Sequence[DeliveryRecord],
        known: _Known,
        is_cut: bool = False,
    ) -> int:
        try:
            try:
                return await self._insert(records, deliveries, is_cut)
            except IntegrityError:
                return await self._insert(records, deliveries, is_cut, known)
        except IntegrityError as error:
            raise RecordsRefused(str(error.orig)) from error
        except UnicodeEncodeError as error:
            raise RecordsRefused("a text that is no Unicode") from error

    async def _insert(
        self,
        records: Sequence[UsageRecord],
        deliveries: Sequence[DeliveryRecord],
        is_cut: bool,
        known: _Known | None = None,
    ) -> int:
        """`known`: what becomes of a call that is there already, None if none is expected."""
        groups: Ids = {}
        async with self._store.begin() as connection:
            if known is not None:
                first = {record.call_id: record for record in reversed(records)}
                there = await known_calls(connection, first)
                if there and known == "refuse":
                    raise AlreadyBooked
                records = [each for id, each in reversed(first.items()) if id not in there]
            if self._compiled is None:
                self._compiled = _Compiled.of(connection)
            if records:
                sums = await _insert_rows(connection, self._compiled, records)
                if not is_cut and any(max(v) > _LARGE or min(v) < -_LARGE for v in sums.values()):
                    raise OverflowError("a sum of this batch")
                await _refuse_pruned(connection, sums)
                groups = await self._rollups.add(connection, sums)
            if deliveries:
                changes = [(d.status, d.duration_us, d.call_id) for d in deliveries]
                await connection.exec_driver_sql(self._compiled.delivery, changes)
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
) -> Contributions:
    """Returns what they add to the sums."""
    rare: list[UsageRecord] = []
    sums: Contributions = {}
    for start in range(0, len(records), BLOCK):
        # Block by block, so that the event loop gets its turn in between; and both at once, because
        # records that were made a second ago are slow to get at.
        block = records[start : start + BLOCK]
        contributions(block, sums)
        await statements.plain.execute(connection, plain_values(block, rare))
    for start in range(0, len(rare), BLOCK):
        values = [value for record in rare[start : start + BLOCK] for value in all_values(record)]
        await statements.whole.execute(connection, values)
    return sums


async def _refuse_pruned(connection: AsyncConnection, sums: Mapping[Key, object]) -> None:
    """Of a time whose rows have been deleted nobody can say any more whether it is there."""
    query = select(pruned.c.before_ns).where(pruned.c.name == ledger.name)
    before = await connection.scalar(query)
    if before is not None and any(key[0] * HOUR_NS < before for key in sums):
        raise RecordsRefused("the ledger no longer keeps the time of a record")
