"""The usage report: sums over the hourly sums, with the names that ids have today.

Who was deleted shows the id. Amounts are added up in two parts, units and nano-units, because
SQLite's sum of 64-bit integers ends at about nine thousand million units.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from sqlalchemy import ColumnElement, FromClause, Table, func, select

from llmgw_core.store.ledger_tables import usage_groups, usage_hours
from llmgw_core.store.tenancy_tables import api_keys, organizations, teams, users

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Row, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

Dimension = Literal[
    "organization", "team", "user", "key", "model", "served_model", "deployment", "day", "hour"
]
"""What a report can be grouped and filtered by. Days and hours are UTC, written `2026-01-31`
and `2026-01-31T09`."""

_NANO: Final = 10**9
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_HOUR: Final = dt.timedelta(hours=1)

_COLUMNS: Final[dict[str, ColumnElement[Any]]] = {
    "organization": usage_groups.c.organization_id,
    "team": usage_groups.c.team_id,
    "user": usage_groups.c.user_id,
    "key": usage_groups.c.key_id,
    "model": usage_groups.c.model,
    "served_model": usage_groups.c.served_model,
    "deployment": usage_groups.c.deployment,
    "day": usage_hours.c.hour.op("/")(24),
    "hour": usage_hours.c.hour,
}
_NAMED: Final[dict[str, Table]] = {
    "organization": organizations,
    "team": teams,
    "user": users,
    "key": api_keys,
}
_COUNTS: Final = (
    "calls",
    "estimated_calls",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "reasoning_tokens",
)
_AMOUNTS: Final = ("cost", "charge")


class UsageRow(msgspec.Struct, frozen=True):
    """One line of the report. `ids` and `names` are in the order of the dimensions asked for;
    "" is "none", e.g. a call without a team. `cost` and `charge` are nano-units."""

    ids: tuple[str, ...]
    names: tuple[str, ...]
    calls: int
    estimated_calls: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    cost: int
    charge: int


async def usage(
    connection: AsyncConnection,
    by: Sequence[Dimension],
    since: dt.datetime | None,
    until: dt.datetime | None,
    filters: Mapping[Dimension, str],
) -> list[UsageRow]:
    """The report; without dimensions it is one line, with zeros if there was no call."""
    query = _query(by)
    for condition in _conditions(since, until, filters):
        query = query.where(condition)
    return [_line(by, row) for row in await connection.execute(query)]


def _query(by: Sequence[Dimension]) -> Select[Any]:
    source: FromClause = usage_hours.join(usage_groups, usage_groups.c.id == usage_hours.c.group_id)
    groups: list[ColumnElement[Any]] = []
    names: list[ColumnElement[Any]] = []
    for dimension in by:
        column = _COLUMNS[dimension]
        groups.append(column)
        table = _NAMED.get(dimension)
        if table is None:
            names.append(column)
        else:
            source = source.outerjoin(table, table.c.id == column)
            names.append(func.coalesce(func.max(table.c.name), column))
    counts = [func.coalesce(func.sum(usage_hours.c[name]), 0) for name in _COUNTS]
    amounts = [
        func.coalesce(func.sum(usage_hours.c[name].op(operator)(_NANO)), 0)
        for name in _AMOUNTS
        for operator in ("/", "%")
    ]
    query = select(*groups, *names, *counts, *amounts).select_from(source)
    return query.group_by(*groups).order_by(*groups) if groups else query


def _conditions(
    since: dt.datetime | None, until: dt.datetime | None, filters: Mapping[Dimension, str]
) -> list[ColumnElement[bool]]:
    hour = usage_hours.c.hour
    conditions: list[ColumnElement[bool]] = []
    if since is not None:
        conditions.append(hour >= (since - _EPOCH) // _HOUR)
    if until is not None:
        conditions.append(hour < -((_EPOCH - until) // _HOUR))
    for dimension, value in filters.items():
        conditions.append(_COLUMNS[dimension] == _stored(dimension, value))
    return conditions


def _stored(dimension: Dimension, value: str) -> str | int:
    """`value` as the column has it. Raises `ValueError` for what is no day or hour."""
    if dimension not in {"day", "hour"}:
        return value
    form, length = ("%Y-%m-%d", 24) if dimension == "day" else ("%Y-%m-%dT%H", 1)
    moment = dt.datetime.strptime(value, form).replace(tzinfo=dt.UTC)
    return (moment - _EPOCH) // (length * _HOUR)


def _shown(dimension: Dimension, value: str | int) -> str:
    if isinstance(value, str):
        return value
    form, length = ("%Y-%m-%d", 24) if dimension == "day" else ("%Y-%m-%dT%H", 1)
    return (_EPOCH + value * length * _HOUR).strftime(form)


def _line(by: Sequence[Dimension], row: Row[Any]) -> UsageRow:
    width = len(by)
    values: list[Any] = list(row)
    shown = [_shown(by[index % width], values[index]) for index in range(2 * width)]
    cost, cost_rest, charge, charge_rest = values[-4:]
    return UsageRow(
        ids=tuple(shown[:width]),
        names=tuple(shown[width:]),
        cost=cost * _NANO + cost_rest,
        charge=charge * _NANO + charge_rest,
        **dict(zip(_COUNTS, values[2 * width : -4], strict=True)),
    )
