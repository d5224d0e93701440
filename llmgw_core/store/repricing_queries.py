"""The statements that re-pricing asks with: what is on the books for calls of a period."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, case, func, or_, select

from llmgw_core.store.contributions import HOUR_NS
from llmgw_core.store.ledger_tables import ledger, pruned
from llmgw_core.store.row_values import ledger_row

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.usage import UsageRecord

_PLACE = (ledger.c.started_ns, ledger.c.cursor)


class Place(NamedTuple):
    """Behind which call to go on."""

    started_ns: int
    cursor: int


class OnBooks(NamedTuple):
    """What holds for one call: `record` is the call itself or its last rebooking, of which there
    have been `rebookings`."""

    record: UsageRecord
    rebookings: int


async def whole_since(connection: AsyncConnection) -> int:
    """From when on (nanoseconds since the epoch) all rows are still there and others can be added;
    0: none was deleted. It is a whole hour: the ledger takes nothing for one that has begun to
    go."""
    query = select(pruned.c.before_ns).where(pruned.c.name == "ledger")
    return -(-(await connection.scalar(query) or 0) // HOUR_NS) * HOUR_NS


async def other_currencies(
    connection: AsyncConnection, since: int, until: int, currency: str
) -> list[str]:
    """The currencies other than `currency` that amounts of calls of [`since`, `until`) are booked
    in, and not taken back."""
    within = (ledger.c.started_ns >= since, ledger.c.started_ns < until)
    amount = or_(ledger.c.cost != 0, ledger.c.charge != 0)
    query = select(ledger.c.currency).where(*within, ledger.c.currency != currency, amount)
    held = func.sum(case((ledger.c.entry == "reversal", -1), else_=1))
    query = query.group_by(ledger.c.currency).having(held != 0).order_by(ledger.c.currency)
    return list((await connection.execute(query)).scalars())


async def on_books(
    connection: AsyncConnection, since: int, until: int, after: Place | None, limit: int
) -> tuple[list[OnBooks], Place | None]:
    """The next `limit` calls that began in [`since`, `until`), by time, and behind which to go on;
    None at the end."""
    wanted = [ledger.c.started_ns >= since, ledger.c.started_ns < until, ledger.c.entry == "call"]
    if after is not None:
        later = ledger.c.started_ns > after.started_ns
        same = and_(ledger.c.started_ns == after.started_ns, ledger.c.cursor > after.cursor)
        wanted += [ledger.c.started_ns >= after.started_ns, or_(later, same)]
    query = select(ledger).where(*wanted).order_by(*_PLACE).limit(limit)
    rows = [ledger_row(row) for row in await connection.execute(query)]
    if not rows:
        return [], None
    first, last = rows[0].record.started_ns, rows[-1].record.started_ns
    booked = {row.record.call_id: OnBooks(row.record, 0) for row in rows}
    for record in await _rebookings(connection, first, last):
        if record.corrects in booked:
            number = int(record.call_id.rpartition("~b")[2])
            if number > booked[record.corrects].rebookings:
                booked[record.corrects] = OnBooks(record, number)
    place = Place(last, rows[-1].cursor) if len(rows) == limit else None
    return list(booked.values()), place


async def corrections(connection: AsyncConnection, record: UsageRecord) -> list[UsageRecord]:
    """The reversals and rebookings of a call, in the order in which they were made."""
    same = (ledger.c.started_ns == record.started_ns, ledger.c.corrects == record.call_id)
    query = select(ledger).where(*same).order_by(ledger.c.cursor)
    return [ledger_row(row).record for row in await connection.execute(query)]


async def _rebookings(connection: AsyncConnection, first: int, last: int) -> list[UsageRecord]:
    """They have the times of their calls."""
    within = (ledger.c.started_ns >= first, ledger.c.started_ns <= last)
    query = select(ledger).where(*within, ledger.c.entry == "rebooking")
    return [ledger_row(row).record for row in await connection.execute(query)]
