"""What levels have spent until now: what the ledger says of the period, and what lies in journals
and has not been moved there.

Both are read while nothing is moved. The last step, from the own journal to the accounts in force,
awaits nothing, so that every settled call is counted once: before it by what is read here, after it
by settlement.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.accounting.summaries import QUARTER_NS, summed
from llmgw_core.accounting.unmoved import unread
from llmgw_core.limits.budget_book import LEVEL_KINDS
from llmgw_core.limits.budget_counts import Count, Counter, Mark, Measure
from llmgw_core.store import budget_queries as queries
from llmgw_core.store.budget_sums import sums_of
from llmgw_core.store.known_calls import known_calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.accounting.mover import Mover
    from llmgw_core.accounting.summaries import Used
    from llmgw_core.accounting.unmoved import Summed
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.limits.budget_book import BudgetBook, Owner
    from llmgw_core.limits.budget_counts import Account
    from llmgw_core.store.engine import Store

_AT_ONCE: Final = 4000
"""Calls about which the ledger is asked at once."""

Wanted = dict["Owner", set[Measure]]
"""What has to be read for which level."""
Listener = Callable[[list["Used"]], None]


class Told(msgspec.Struct, frozen=True):
    """What an entry of the audit log says that was told of a budget."""

    level: str
    unit: str
    period: str
    timezone: str
    amount: int
    percent: int
    start_ns: int
    shadow: bool
    fallback: str = ""


async def read_budgets(
    book: BudgetBook,
    store: Store,
    mover: Mover,
    wanted: Wanted,
    now_ns: int,
    also: Listener | None = None,
) -> list[Account]:
    """Put what is `wanted` into `book`, for the periods of `now_ns`. The result keeps it there
    until somebody else does. `also` hears of all that is not in the ledger, before the first call
    is admitted. Raises `StoreUnavailable` and `OSError`."""
    async with mover.still(), store.connect() as connection:
        cursor = await queries.last_cursor(connection)
        loaded = await _from_ledger(connection, wanted, now_ns)
        moved: set[str] = set()
        for calls in _batches(mover.unmoved()):
            moved |= await known_calls(connection, [each.call_id for each in calls])
        for part in mover.orphaned():
            async for used in _unbooked(connection, part):
                _count(loaded, used)
                if also is not None:
                    also(used)
        # From here on nothing awaits: the next call that is settled finds the accounts.
        _count(loaded, summed(each for each in mover.unmoved() if each.call_id not in moved))
        return [book.put(owner, counters, cursor) for owner, counters in loaded.items()]


async def _unbooked(
    connection: AsyncConnection, part: list[UsageRecord] | Summed
) -> AsyncIterator[list[Used]]:
    """What the ledger does not have of `part`."""
    if isinstance(part, list):
        known = await known_calls(connection, [each.call_id for each in part])
        yield summed(each for each in part if each.call_id not in known)
    elif await known_calls(connection, part.summary.call_ids()):
        # The process ended between the commit and the checkpoint.
        for records in unread(part.segment, 0):
            async for used in _unbooked(connection, records):
                yield used
    else:
        yield part.summary.used


async def _from_ledger(
    connection: AsyncConnection, wanted: Wanted, now_ns: int
) -> dict[Owner, list[Counter]]:
    """Counters with what the ledger has, and with the marks of what was told."""
    found = await sums_of(connection, wanted, now_ns)
    starts = [each.span.start_ns for sums in found.values() for each in sums.values()]
    since = min(filter(None, starts), default=now_ns)
    told = await _told(connection, {id for _, id in wanted}, since)
    loaded: dict[Owner, list[Counter]] = {}
    for (kind, id), sums in found.items():
        loaded[kind, id] = [
            Counter(measure, Count(span, spent, told.get((kind, id, *measure, span.start_ns), ())))
            for measure, (span, spent) in sums.items()
        ]
    return loaded


async def _told(
    connection: AsyncConnection, ids: Collection[str], since_ns: int
) -> dict[tuple[Any, ...], set[Mark]]:
    found: defaultdict[tuple[Any, ...], set[Mark]] = defaultdict(set)
    for id, details in await queries.told(connection, ids, since_ns):
        told = msgspec.convert(details, Told)
        key = (told.level, id, told.unit, told.period, told.timezone, told.start_ns)
        found[key].add(Mark(told.amount, told.percent, bool(told.fallback), told.shadow))
    return found


def _count(loaded: Mapping[Owner, list[Counter]], used: Iterable[Used]) -> None:
    for each in used:
        ids = (each.organization_id, each.team_id, each.user_id, each.key_id)
        for kind, id in zip(LEVEL_KINDS, ids, strict=True):
            for counter in loaded.get((kind, id), ()) if id is not None else ():
                counter.put(
                    each.quarter * QUARTER_NS, each.charge, each.input_tokens + each.output_tokens
                )


def _batches(records: Iterable[UsageRecord]) -> Iterator[list[UsageRecord]]:
    left = iter(records)
    while batch := list(itertools.islice(left, _AT_ONCE)):
        yield batch
