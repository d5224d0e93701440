"""What the books say about a span of time, by cost centre, model and price.

Whole hours are read from the sums by the hour. Where the span begins or ends within an hour (zones
that are half an hour off), the rows of that hour are added up themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import func, select

from llmgw_core.store.contributions import contributions
from llmgw_core.store.ledger_tables import (
    GROUP,
    SUMS,
    ledger,
    pruned,
    touched_hours,
    usage_groups,
    usage_hours,
)
from llmgw_core.store.row_values import ledger_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.usage import UsageRecord

HOUR_NS: Final = 3_600 * 10**9
_NANO: Final = 10**9
_BY: Final = ("cost_center", "model", "served_model", "deployment", "price")
_AT: Final = tuple(GROUP.index(name) for name in _BY)
_AMOUNTS: Final = ("cost", "charge")
_COUNTS: Final = tuple(name for name in SUMS if name not in _AMOUNTS)


class PeriodSums(NamedTuple):
    """The sums of what was served by one deployment (of `model`, its public name) at one price.
    `rows`: of how many rounded amounts they consist at most."""

    cost_center: str
    model: str
    deployment: str
    price: str
    rows: int
    sums: dict[str, int]


async def period_sums(
    connection: AsyncConnection, start_ns: int, end_ns: int, organization: str = ""
) -> list[PeriodSums]:
    """What lies between two instants; of one organisation, if given."""
    first, last = -(-start_ns // HOUR_NS), end_ns // HOUR_NS
    found: dict[tuple[str, ...], dict[str, int]] = {}
    if first < last:
        await _add_hours(connection, found, first, last, organization)
        edges = [(start_ns, first * HOUR_NS), (last * HOUR_NS, end_ns)]
    else:
        edges = [(start_ns, end_ns)]
    for since, until in edges:
        if since < until:
            await _add_rows(connection, found, since, until, organization)
    return [_sums(key, sums) for key, sums in sorted(found.items()) if any(sums.values())]


def sums_of(records: Iterable[UsageRecord]) -> list[PeriodSums]:
    """The sums of some rows, as `period_sums`."""
    found: dict[tuple[str, ...], dict[str, int]] = {}
    _add_records(found, records)
    return [_sums(key, sums) for key, sums in sorted(found.items())]


async def sums_behind(
    connection: AsyncConnection, span: tuple[int, int], cursor: int, organization: str = ""
) -> list[PeriodSums]:
    """The sums of the rows behind a cursor, of calls that started in a span of time."""
    found: dict[tuple[str, ...], dict[str, int]] = {}
    await _add_rows(connection, found, *span, organization, cursor)
    return [_sums(key, sums) for key, sums in sorted(found.items()) if any(sums.values())]


async def whole_since(connection: AsyncConnection, table: str) -> int:
    """The first instant from which on retention has deleted nothing of a table."""
    query = select(pruned.c.before_ns).where(pruned.c.name == table)
    return int(await connection.scalar(query) or 0)


async def complete(connection: AsyncConnection, start_ns: int, end_ns: int) -> bool:
    """Whether `period_sums` of a span still has everything that it needs."""
    rows = end_ns % HOUR_NS or start_ns % HOUR_NS
    tables = ("usage_hours", "ledger") if rows else ("usage_hours",)
    return all([await whole_since(connection, table) <= start_ns for table in tables])


async def newest(connection: AsyncConnection) -> int:
    """The cursor of the last row that went into the books."""
    rows = await connection.scalar(select(func.max(ledger.c.cursor))) or 0
    hours = await connection.scalar(select(func.max(touched_hours.c.cursor))) or 0
    return max(rows, hours)


async def touched_since(
    connection: AsyncConnection, start_ns: int, end_ns: int, cursor: int
) -> bool:
    """Whether something came into the hours of a span after the row `cursor`."""
    hour = touched_hours.c.hour
    query = select(func.count()).where(
        hour >= start_ns // HOUR_NS,
        hour < -(-end_ns // HOUR_NS),
        touched_hours.c.cursor > cursor,
    )
    return bool(await connection.scalar(query))


async def _add_hours(
    connection: AsyncConnection,
    found: dict[tuple[str, ...], dict[str, int]],
    first: int,
    last: int,
    organization: str,
) -> None:
    groups = [usage_groups.c[name] for name in _BY]
    counts = [func.sum(usage_hours.c[name]) for name in _COUNTS]
    # In two parts, so that no sum exceeds what a database can hold.
    amounts = [
        func.sum(usage_hours.c[name].op(operator)(_NANO))
        for name in _AMOUNTS
        for operator in ("/", "%")
    ]
    query = (
        select(*groups, *counts, *amounts)
        .select_from(usage_hours.join(usage_groups, usage_groups.c.id == usage_hours.c.group_id))
        .where(usage_hours.c.hour >= first, usage_hours.c.hour < last)
        .group_by(*groups)
    )
    if organization:
        query = query.where(usage_groups.c.organization_id == organization)
    for row in await connection.execute(query):
        key = tuple(row[: len(_BY)])
        sums = dict(zip(_COUNTS, row[len(_BY) : -4], strict=True))
        cost, cost_rest, charge, charge_rest = row[-4:]
        sums["cost"] = cost * _NANO + cost_rest
        sums["charge"] = charge * _NANO + charge_rest
        _add(found, key, sums)


async def _add_rows(
    connection: AsyncConnection,
    found: dict[tuple[str, ...], dict[str, int]],
    since_ns: int,
    until_ns: int,
    organization: str,
    cursor: int = 0,
) -> None:
    query = select(ledger).where(ledger.c.started_ns >= since_ns, ledger.c.started_ns < until_ns)
    if cursor:
        query = query.where(ledger.c.cursor > cursor)
    if organization:
        query = query.where(ledger.c.organization_id == organization)
    async with connection.stream(query) as rows:
        async for block in rows.partitions(1000):
            _add_records(found, [ledger_row(row).record for row in block])


def _add_records(
    found: dict[tuple[str, ...], dict[str, int]], records: Iterable[UsageRecord]
) -> None:
    for (_, *group), values in contributions(records).items():
        key = tuple(group[index] for index in _AT)
        _add(found, key, dict(zip(SUMS, values, strict=True)))


def _add(
    found: dict[tuple[str, ...], dict[str, int]], key: tuple[str, ...], sums: dict[str, int]
) -> None:
    before = found.setdefault(key, dict.fromkeys(SUMS, 0))
    for name, value in sums.items():
        before[name] += value


def _sums(key: tuple[Any, ...], sums: dict[str, int]) -> PeriodSums:
    center, asked, served, deployment, price = key
    rows = abs(sums["calls"])
    if not served:
        # Failed attempts that are paid are no calls; each of them has a token at least.
        rows += abs(sums["input_tokens"]) + abs(sums["output_tokens"]) + abs(sums["images"])
    model = served or deployment.rpartition("/")[0] or asked
    return PeriodSums(center, model, deployment, price, rows, sums)
