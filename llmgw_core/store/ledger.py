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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import AttemptRecord, Usage, UsageDetails, UsageRecord
from llmgw_core.store import usage_report
from llmgw_core.store.ledger_queries import EVERYTHING, conditions
from llmgw_core.store.ledger_tables import ledger, usage_hours

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.usage import DeliveryRecord
    from llmgw_core.store.engine import Store
    from llmgw_core.store.ledger_queries import CallFilter
    from llmgw_core.store.usage_report import Dimension, UsageRow

log = logging.getLogger(__name__)

_HOUR_NS: Final = 3_600 * 10**9
_ABSURD: Final = 10**15
"""What is left of a figure that does not fit 64 bits: thousands of them still can be added."""
_KEYS: Final = tuple(column.name for column in usage_hours.primary_key)
_SUMS: Final = tuple(column.name for column in usage_hours.c if not column.primary_key)
_COLUMNS: Final = [column for column in ledger.c if column.name != "cursor"]
_BLOCKS: Final = (250, 50, 10, 1)
"""Rows per statement: few different statements, so that each stays prepared, and less than the
32,766 parameters that SQLite takes."""
_LOOKED_AT: Final = 100_000
_QUESTION: Final = 500
"""Ids per question: far below every database's limit on parameters."""

_call_id = attrgetter("call_id")
_encode_attempts = msgspec.json.Encoder().encode
_decode_details = msgspec.json.Decoder(UsageDetails).decode
_decode_attempts = msgspec.json.Decoder(tuple[AttemptRecord, ...]).decode


class LedgerRow(msgspec.Struct, frozen=True):
    """A stored record; `cursor` grows with every commit and is never reused."""

    cursor: int
    record: UsageRecord


class Ledger:
    """Implements `accounting.port.LedgerPort` on an open store. Every method raises
    `StoreUnavailable` when the database does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._statements: _Statements | None = None

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
            return await self._insert_missing([_cut(record) for record in fresh], deliveries)

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
            return [_row(row) for row in await connection.execute(query)]

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
            found = [_row(row) for row in await connection.execute(query)]
        return found[::-1], last

    async def get(self, call_id: str) -> UsageRecord | None:
        """The record of one call."""
        query = select(ledger).where(ledger.c.call_id == call_id)
        async with self._store.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _row(row).record if row is not None else None

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
            statements = self._compiled(connection)
            sums = _Sums()
            for start in range(0, len(records), _BLOCKS[0]):
                # Block by block, so that the event loop gets its turn in between.
                block = records[start : start + _BLOCKS[0]]
                sums.add(block)
                await _execute(connection, statements.rows, _values(block), len(_COLUMNS))
            await _execute(connection, statements.hours, sums.values(), len(_KEYS) + len(_SUMS))
            if deliveries:
                changes = [(d.status, d.duration_us, d.call_id) for d in deliveries]
                await connection.exec_driver_sql(statements.delivery, changes)
        return len(records)

    def _compiled(self, connection: AsyncConnection) -> _Statements:
        """The statements as text: building them anew costs more than executing them."""
        if self._statements is None:
            dialect = connection.dialect
            update = (
                ledger.update()
                .where(ledger.c.call_id == "")
                .values({ledger.c.status: "", ledger.c.duration_us: 0})
            )
            names = [column.name for column in _COLUMNS]
            rows = str(insert(ledger).compile(dialect=dialect, column_keys=names))
            hours = str(insert(usage_hours).compile(dialect=dialect))
            added = ", ".join(f"{name} = usage_hours.{name} + excluded.{name}" for name in _SUMS)
            self._statements = _Statements(
                _blocks(rows),
                _blocks(hours, f" ON CONFLICT ({', '.join(_KEYS)}) DO UPDATE SET {added}"),
                str(update.compile(dialect=dialect)),
            )
        return self._statements


class _Statements(NamedTuple):
    """SQL text; `rows` and `hours` by the number of rows that one statement takes."""

    rows: dict[int, str]
    hours: dict[int, str]
    delivery: str


def _blocks(statement: str, ending: str = "") -> dict[int, str]:
    """An INSERT of one row as INSERTs of several."""
    head, found, row = statement.rpartition(" VALUES ")
    assert found
    return {rows: f"{head} VALUES {', '.join([row] * rows)}{ending}" for rows in _BLOCKS}


async def _execute(
    connection: AsyncConnection, statements: dict[int, str], values: list[Any], width: int
) -> None:
    """Insert the rows in `values`, `width` after `width` of them."""
    start, end = 0, len(values)
    for block in _BLOCKS:
        size = block * width
        while end - start >= size:
            part = tuple(values[start : start + size])
            await connection.exec_driver_sql(statements[block], part)
            start += size


def _values(records: Iterable[UsageRecord]) -> list[Any]:
    """The values of rows, one row after the other."""
    values: list[Any] = []
    for record in records:
        usage = record.usage
        values += (
            record.call_id,
            record.started_ns,
            record.endpoint,
            record.organization_id,
            record.team_id,
            record.user_id,
            record.key_id,
            record.model,
            record.served_model,
            record.deployment,
            record.zone,
            record.stream,
            record.status,
            record.http_status,
            record.error_code,
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.reasoning_tokens,
            usage.source,
            record.cost,
            record.charge,
            record.currency,
            record.duration_us,
            record.first_content_us,
            _encode_attempts(record.attempts).decode(),
            record.parent,
            usage.method,
            None if usage.details is None else _encode_attempts(usage.details).decode(),
            record.cost_center,
            record.entry,
            record.corrects,
        )
    return values


class _Sums:
    """Keys and sums of the hours that records fall into."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], list[int]] = {}

    def add(self, records: Iterable[UsageRecord]) -> None:
        groups = self._groups
        for record in records:
            usage = record.usage
            key = (
                record.started_ns // _HOUR_NS,
                record.organization_id,
                record.team_id or "",
                record.user_id or "",
                record.key_id or "",
                record.cost_center,
                record.endpoint,
                record.model,
                record.served_model,
                record.deployment,
                record.attempts[-1].price if record.attempts else "",
            )
            group = groups.get(key)
            if group is None:
                group = groups[key] = [0] * len(_SUMS)
            group[0] += 1
            if usage.source == "estimated":
                group[1] += 1
            group[2] += usage.input_tokens
            group[3] += usage.output_tokens
            if usage.cached_input_tokens:
                group[4] += usage.cached_input_tokens
            if usage.reasoning_tokens:
                group[5] += usage.reasoning_tokens
            if usage.details is not None:
                for index, count in enumerate(msgspec.structs.astuple(usage.details), 6):
                    group[index] += count
            group[-2] += record.cost
            group[-1] += record.charge

    def values(self) -> list[Any]:
        """The values of rows, one row after the other."""
        values: list[Any] = []
        for key, group in self._groups.items():
            values += key
            values += group
        return values


def _cut(record: UsageRecord) -> UsageRecord:
    usage = record.usage
    return msgspec.structs.replace(
        record,
        usage=Usage(
            _bounded(usage.input_tokens),
            _bounded(usage.output_tokens),
            _bounded(usage.cached_input_tokens),
            _bounded(usage.reasoning_tokens),
            usage.source,
            usage.method,
            None
            if usage.details is None
            else UsageDetails(*map(_bounded, msgspec.structs.astuple(usage.details))),
        ),
        cost=_bounded(record.cost),
        charge=_bounded(record.charge),
    )


def _bounded(value: int) -> int:
    return max(-_ABSURD, min(_ABSURD, value))


async def _known(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    known: set[str] = set()
    for start in range(0, len(ids), _QUESTION):
        query = select(ledger.c.call_id).where(ledger.c.call_id.in_(ids[start : start + _QUESTION]))
        known.update(await connection.scalars(query))
    return known


def _row(row: Row[Any]) -> LedgerRow:
    values = row._asdict()
    cursor = values.pop("cursor")
    details = values.pop("usage_details")
    usage = Usage(
        values.pop("input_tokens"),
        values.pop("output_tokens"),
        values.pop("cached_input_tokens"),
        values.pop("reasoning_tokens"),
        values.pop("usage_source"),
        values.pop("usage_method"),
        None if details is None else _decode_details(details),
    )
    attempts = _decode_attempts(values.pop("attempts"))
    return LedgerRow(cursor, UsageRecord(**values, usage=usage, attempts=attempts))
