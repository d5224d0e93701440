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
from llmgw_core.limits.budget_counts import Count, Counter, Measure
from llmgw_core.limits.periods import period_at
from llmgw_core.store import budget_queries as queries
from llmgw_core.store.known_calls import known_calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.accounting.mover import Mover
    from llmgw_core.accounting.summaries import Used
    from llmgw_core.accounting.unmoved import Summed
    from llmgw_core.domain.access import LevelKind
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
    groups: defaultdict[tuple[LevelKind, str, str], set[str]] = defaultdict(set)
    for (kind, id), measures in wanted.items():
        for measure in measures:
            groups[kind, measure.period, measure.timezone].add(id)
    sums: dict[tuple[str, str, str], dict[str, tuple[int, int]]] = {}
    for (kind, period, timezone), ids in groups.items():
        span = period_at(period, timezone, now_ns)  # type: ignore[arg-type]
        sums[kind, period, timezone] = await queries.spent(connection, kind, ids, span)
    told = await _told(connection, {id for _, id in wanted})
    loaded: dict[Owner, list[Counter]] = {}
    for owner, measures in wanted.items():
        kind, id = owner
        counters = loaded[owner] = []
        for measure in measures:
            span = period_at(measure.period, measure.timezone, now_ns)
            charge, tokens = sums[kind, measure.period, measure.timezone].get(id, (0, 0))
            marks = told.get((kind, id, *measure, span.start_ns), ())
            spent = charge if measure.unit == "money" else tokens
            counters.append(Counter(measure, Count(span, spent, marks)))
    return loaded


async def _told(
    connection: AsyncConnection, ids: Collection[str]
) -> dict[tuple[Any, ...], set[tuple[int, int]]]:
    found: defaultdict[tuple[Any, ...], set[tuple[int, int]]] = defaultdict(set)
    for id, details in await queries.told(connection, ids):
        told = msgspec.convert(details, Told)
        key = (told.level, id, told.unit, told.period, told.timezone, told.start_ns)
        found[key].add((told.amount, told.percent))
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
