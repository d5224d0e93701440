"""Bringing calls that are on the books already onto the cost centres that they should be on.

An assignment that is dated in the past says that calls were on the wrong one. Rows are never
edited: a call that has to move gets a reversal on the old cost centre and a rebooking on the new
one, with its time and its prices. What a caller has chosen by itself stays where it is. It can be
broken off and done again: what has been moved is where it should be.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.accounting.repricing import Repriced
from llmgw_core.domain.cost_center import CostCenters
from llmgw_core.store.cost_queries import calendar, ever_assigned
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.repricing_queries import on_books, whole_since
from llmgw_core.store.statement_queries import closed_periods
from llmgw_core.tenancy import cost_rules
from llmgw_core.tenancy.changes import change
from llmgw_core.tenancy.correcting import correct

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.engine import Store
    from llmgw_core.store.repricing_queries import OnBooks

_PAGE: Final = 1000
_NOBODYS: Final = CostCenters()
Caller = tuple[str, str | None, str | None]
"""The ids of organisation, team and key."""


class Rebooked(msgspec.Struct, frozen=True):
    """How many calls were looked at, and how many of them moved."""

    calls: int
    moved: int


class _Calendar(msgspec.Struct):
    """What holds for a caller, and what it has ever been given: anything else it has chosen."""

    centers: CostCenters
    given: frozenset[str]

    def moves(self, record: UsageRecord) -> str | None:
        """Where a call has to go, None if it stays."""
        right = self.centers.at(record.started_ns)
        chosen = record.cost_center not in self.given
        return None if chosen or record.cost_center == right else right


async def rebook(
    store: Store,
    since_ns: int,
    until_ns: int | None = None,
    *,
    actor: str,
    clock: Callable[[], float] = time.time,
) -> Rebooked:
    """Look at every call that began in that time. Raises `TenancyError` when it reaches into the
    time of a closed statement, and `StoreUnavailable`."""
    since = cost_rules.instant(since_ns, 0)
    until = cost_rules.end(until_ns, since) or int(clock() * 1e9)
    async with store.connect() as connection:
        cost_rules.open_time(since, await closed_periods(connection), until)
        # Before that, rows are being deleted; what is left of them is not moved any more.
        since = max(since, await whole_since(connection))
    ledger, known = Ledger(store), dict[Caller, _Calendar]()
    calls = moved = 0
    place, told = None, False
    span = {"since_ns": since, "until_ns": until}
    while True:
        async with store.connect() as connection:
            page, after = await on_books(connection, since, until, place, _PAGE)
            entries = [entry for each in page for entry in await _moved(connection, each, known)]
        if entries and not told:
            # Before anything moves, so that what was broken off is in the log as well.
            await _record(store, "rebook", span, actor, clock)
            told = True
        if not await correct(ledger, entries):
            continue  # somebody else has corrected some of them: look at them anew
        calls += len(page)
        moved += len(entries) // 2
        if after is None:
            break
        place = after
    if moved:
        await _record(store, "rebooked", {**span, "moved": moved}, actor, clock)
    return Rebooked(calls, moved)


async def _record(
    store: Store, action: str, details: dict[str, int], actor: str, clock: Callable[[], float]
) -> None:
    async with change(store, actor, clock()) as doing:
        await doing.record(action, "cost_center", "*", details)


async def _moved(
    connection: AsyncConnection, booked: OnBooks, known: dict[Caller, _Calendar]
) -> tuple[UsageRecord, ...]:
    record = booked.record
    caller = (record.organization_id, record.team_id, record.key_id)
    if caller not in known:
        centers = await calendar(connection, *caller) or _NOBODYS
        offered = {choice.id for choice in centers.choices}
        given = (await ever_assigned(connection, *caller) | {""}) - offered
        known[caller] = _Calendar(centers, frozenset(given))
    right = known[caller].moves(record)
    if right is None:
        return ()
    after = msgspec.structs.replace(record, cost_center=right)
    return Repriced(record, after, {}, ()).entries(booked.rebookings + 1)
