"""The usage report: sums over the tables of sums, with the names that ids have today.

Who was deleted shows the id. Sums are exact, however large.
"""

from __future__ import annotations

import datetime as dt
from operator import add, sub
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec
from sqlalchemy import func, select

from llmgw_core.store.cost_tables import cost_centers
from llmgw_core.store.ledger_tables import (
    SUMS,
    pruned,
    usage_days,
    usage_hours,
    usage_months,
)
from llmgw_core.store.price_sheets import read_sheets
from llmgw_core.store.tenancy_tables import api_keys, organizations, teams, users
from llmgw_core.store.usage_plan import Kept, Period, first_day, month_of, plan
from llmgw_core.store.usage_sources import Sources

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.usage_plan import Part

Dimension = Literal[
    "organization",
    "team",
    "user",
    "key",
    "cost_center",
    "endpoint",
    "model",
    "served_model",
    "deployment",
    "price",
    "month",
    "day",
    "hour",
    "currency",
]
"""What a report can be grouped and filtered by. Months, days and hours are UTC, written `2026-01`,
`2026-01-31` and `2026-01-31T09`. `price` is the id of a price sheet. `currency`, that of the price
sheet, "" where there is none, is no filter."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_HOUR: Final = dt.timedelta(hours=1)
_HOUR_NS: Final = 3_600 * 10**9

_FORMS: Final[dict[str, str]] = {"month": "%Y-%m", "day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H"}
_COLUMNS: Final[dict[str, str]] = {
    **{name: f"{name}_id" for name in ("organization", "team", "user", "key")},
    **{name: name for name in ("cost_center", "endpoint", "model", "served_model")},
    **{name: name for name in ("deployment", "price")},
    "currency": "price",
}
_NAMED: Final[dict[str, Table]] = {
    "organization": organizations,
    "team": teams,
    "user": users,
    "key": api_keys,
    "cost_center": cost_centers,
}
_NOTHING: Final = (0,) * len(SUMS)
_QUESTION: Final = 500
"""Ids per question: far below every database's limit on parameters."""


class UsageRow(msgspec.Struct, frozen=True):
    """One line of the report. `ids` and `names` are in the order of the dimensions asked for;
    "" is "none", e.g. a call without a team. `cost` and `charge` are nano-units. What is named
    input is part of `input_tokens`, everything else of `output_tokens`."""

    ids: tuple[str, ...]
    names: tuple[str, ...]
    calls: int
    estimated_calls: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    cache_write_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    image_input_tokens: int
    image_output_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    images: int
    cost: int
    charge: int


async def usage(
    connection: AsyncConnection,
    by: Sequence[Dimension],
    since: dt.datetime | None,
    until: dt.datetime | None,
    filters: Mapping[Dimension, str | Collection[str]],
) -> list[UsageRow]:
    """The report; without dimensions it is one line, with zeros if there was no call. A filter is
    one value or several of which one fits (of months, days and hours only one can be given).
    Raises `ValueError` for what is no month, day or hour."""
    wanted = {
        name: {value} if isinstance(value, str) else set(value) for name, value in filters.items()
    }
    first, last = await _bounds(connection)
    for low, high in [_asked(since, until), *_moments(wanted)]:
        first = first if low is None else max(first, low)
        last = last if high is None else min(last, high)
    finest = _finest(by)
    parts = plan(finest or "month", first, last, await _kept(connection))
    columns = list(dict.fromkeys(_COLUMNS[name] for name in by if name not in _FORMS))
    sources = Sources(
        columns,
        {_COLUMNS[name]: values for name, values in wanted.items() if name not in _FORMS},
    )
    if parts:
        await sources.look(connection, month_of(first // 24), month_of((last - 1) // 24))
    sums = await _add_up(connection, sources, finest, parts)
    if not by:
        return [UsageRow((), (), *sums.get((), _NOTHING))]
    return await _rows(connection, by, finest, columns, sums)


async def _add_up(
    connection: AsyncConnection,
    sources: Sources,
    finest: Period | None,
    parts: Sequence[Part],
) -> dict[tuple[Any, ...], Sequence[int]]:
    """The sums by period, if there is a finest one, and the columns of the other dimensions."""
    sums: dict[tuple[Any, ...], Sequence[int]] = {}
    for part in parts:
        timed = finest is not None and part.within is None
        outside = (part.within,) if finest is not None and not timed else ()
        change = add if part.sign > 0 else sub
        for rest, values in await sources.read(connection, part, timed=timed):
            key = (*outside, *rest)
            if change is add and key not in sums:
                sums[key] = values
            else:
                sums[key] = list(map(change, sums.get(key, _NOTHING), values))
    return sums


async def _bounds(connection: AsyncConnection) -> tuple[int, int]:
    """The hours before and after which there is nothing, as far as that is to be had quickly."""
    month = usage_months.c.month
    first, last = (await connection.execute(select(func.min(month), func.max(month)))).one()
    if first is None:
        return 0, 0
    return first_day(first) * 24, first_day(last + 1) * 24


async def _kept(connection: AsyncConnection) -> Kept:
    gone: dict[str, int] = {
        row.name: row.before_ns for row in await connection.execute(select(pruned))
    }
    hour = gone.get(usage_hours.name, 0) // _HOUR_NS
    return Kept(hour, gone.get(usage_days.name, 0) // _HOUR_NS // 24)


def _asked(since: dt.datetime | None, until: dt.datetime | None) -> tuple[int | None, int | None]:
    """The hours that are touched."""
    first = None if since is None else (since - _EPOCH) // _HOUR
    return first, None if until is None else -((_EPOCH - until) // _HOUR)


def _moments(wanted: Mapping[Dimension, Collection[str]]) -> Iterable[tuple[int, int]]:
    for name, form in _FORMS.items():
        for text in wanted.get(cast("Dimension", name), ()):
            start = dt.datetime.strptime(text, form).replace(tzinfo=dt.UTC)
            hour = (start - _EPOCH) // _HOUR
            hours = {"hour": 1, "day": 24}.get(name)
            if hours is None:
                hours = first_day(month_of(hour // 24) + 1) * 24 - hour
            yield hour, hour + hours


def _finest(by: Collection[str]) -> Period | None:
    for period in ("hour", "day", "month"):
        if period in by:
            return period
    return None


async def _rows(
    connection: AsyncConnection,
    by: Sequence[Dimension],
    finest: Period | None,
    columns: Sequence[str],
    sums: Mapping[tuple[Any, ...], Sequence[int]],
) -> list[UsageRow]:
    timed = finest is not None
    order = [-1 if name in _FORMS else columns.index(_COLUMNS[name]) + timed for name in by]
    currency = by.index("currency") if "currency" in by else None
    sheets = {key[order[currency]] for key in sums} if currency is not None else set()
    currencies = {
        id: sheet.currency for id, sheet in (await read_sheets(connection, sheets)).items()
    }
    lines: dict[tuple[str, ...], Sequence[int]] = {}
    for key, values in sums.items():
        if any(values):
            shown = _shown(finest, key[0]) if finest else {}
            ids = tuple(
                shown[name] if place < 0 else key[place]
                for name, place in zip(by, order, strict=True)
            )
            if currency is None:
                lines[ids] = values
                continue
            ids = (*ids[:currency], currencies.get(ids[currency], ""), *ids[currency + 1 :])
            lines[ids] = list(map(add, lines.get(ids, _NOTHING), values))
    names = [
        await _names(connection, name, {ids[place] for ids in lines})
        for place, name in enumerate(by)
    ]
    return [
        UsageRow(
            ids, tuple(known.get(id, id) for known, id in zip(names, ids, strict=True)), *values
        )
        for ids, values in sorted(lines.items())
    ]


def _shown(period: Period, number: int) -> dict[str, str]:
    """The texts of the month, day and hour in which a period is, as far as it says."""
    if period == "month":
        return {"month": f"{number // 12:04d}-{number % 12 + 1:02d}"}
    start = _EPOCH + number * (24 if period == "day" else 1) * _HOUR
    return {name: start.strftime(form) for name, form in _FORMS.items()}


async def _names(
    connection: AsyncConnection, dimension: str, ids: Collection[str]
) -> dict[str, str]:
    table = _NAMED.get(dimension)
    names: dict[str, str] = {}
    if table is not None:
        known = sorted(ids)
        for start in range(0, len(known), _QUESTION):
            chosen = table.c.id.in_(known[start : start + _QUESTION])
            found = await connection.execute(select(table.c.id, table.c.name).where(chosen))
            names.update((row.id, row.name) for row in found)
    return names
