"""Which tables of sums a report adds up, so that it reads little: months where whole months are
asked for, days at their edges, hours at the edges of those. Pure decision, no I/O.

More than half of a day is the day without its other hours; likewise with months. Where retention
has deleted the hours of a day, the whole day counts, and the whole month where its days are gone.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import Final, Literal, NamedTuple

Period = Literal["hour", "day", "month"]

_EPOCH: Final = dt.date(1970, 1, 1).toordinal()
_HOURS: Final = 24
_HALF_DAY: Final = 12
_HALF_MONTH: Final = 15


class Part(NamedTuple):
    """The sums of the periods from `first` to before `last`, added or (`sign` -1) taken away. They
    are those of the longer period `within` or of a part of it; None: each stands for itself."""

    period: Period
    first: int
    last: int
    sign: int = 1
    within: int | None = None


class Kept(NamedTuple):
    """The first hour, and the first day, that retention has not deleted."""

    hour: int = 0
    day: int = 0


@lru_cache(maxsize=1000)
def month_of(day: int) -> int:
    """The month, since the year 0, in which a day since the epoch is."""
    date = dt.date.fromordinal(_EPOCH + day)
    return date.year * 12 + date.month - 1


def first_day(month: int) -> int:
    """The first day since the epoch of a month since the year 0."""
    return dt.date(month // 12, month % 12 + 1, 1).toordinal() - _EPOCH


def plan(finest: Period, first: int, last: int, kept: Kept) -> list[Part]:
    """What makes up the hours from `first` to before `last`, told apart by `finest`."""
    if first >= last:
        return []
    if finest == "hour":
        return [Part("hour", first, last)]
    first, last = _outward(first, last, kept)
    return _days(first, last) if finest == "day" else _months(first, last)


def _outward(first: int, last: int, kept: Kept) -> tuple[int, int]:
    """As near as what is kept allows."""
    for period, gone in ((_day_around, kept.hour), (_month_around, kept.day * _HOURS)):
        start, end = period(first)
        first = start if end <= gone else first
        start, end = period(last - 1)
        last = end if end <= gone else last
    return first, last


def _day_around(hour: int) -> tuple[int, int]:
    start = hour // _HOURS * _HOURS
    return start, start + _HOURS


def _month_around(hour: int) -> tuple[int, int]:
    month = month_of(hour // _HOURS)
    return first_day(month) * _HOURS, first_day(month + 1) * _HOURS


def _days(first: int, last: int) -> list[Part]:
    whole, end = -(-first // _HOURS), last // _HOURS
    if whole > end:
        return _part_of_day(end, first, last)
    parts = _part_of_day(whole - 1, first, whole * _HOURS)
    if whole < end:
        parts.append(Part("day", whole, end))
    return parts + _part_of_day(end, end * _HOURS, last)


def _part_of_day(day: int, first: int, last: int) -> list[Part]:
    if last - first <= _HALF_DAY:
        return [Part("hour", first, last, 1, day)] if first < last else []
    start, end = day * _HOURS, (day + 1) * _HOURS
    others = [Part("hour", a, b, -1, day) for a, b in ((start, first), (last, end)) if a < b]
    return [Part("day", day, day + 1, 1, day), *others]


def _months(first: int, last: int) -> list[Part]:
    start, after = _month_around(first)
    whole = month_of(first // _HOURS) + (first > start)
    end = month_of(last // _HOURS)
    if whole > end:
        return _part_of_month(end, first, last)
    parts = _part_of_month(whole - 1, first, after) if first > start else []
    if whole < end:
        parts.append(Part("month", whole, end))
    return parts + _part_of_month(end, first_day(end) * _HOURS, last)


def _part_of_month(month: int, first: int, last: int) -> list[Part]:
    start, end = first_day(month) * _HOURS, first_day(month + 1) * _HOURS
    if last - first <= _HALF_MONTH * _HOURS:
        return [part._replace(within=month) for part in _days(first, last)] if first < last else []
    others = [part for a, b in ((start, first), (last, end)) if a < b for part in _days(a, b)]
    taken = [part._replace(sign=-part.sign, within=month) for part in others]
    return [Part("month", month, month + 1, 1, month), *taken]
