"""The calendar of budgets: in which day, week or month of a time zone an instant lies.

Rule of this file: pure; instants are nanoseconds since the epoch. A period begins with the first
instant of its first day there and ends where the next one begins, so it may be 23 hours long, or
25, and a day that a zone left out has no length. Weeks begin on Monday.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llmgw_core.domain.limits import BudgetPeriod

_SECOND = 10**9
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST_YEAR = 9990
"""What a clock says beyond it is taken for this year: calendars end with the year 9999."""
EVER = 2**63 - 1
"""The end of what has none."""


class Span(NamedTuple):
    """From `start_ns` until just before `end_ns`, both in nanoseconds since the epoch."""

    start_ns: int
    end_ns: int


ALWAYS = Span(0, EVER)
"""The period of a budget in total."""


def known_zone(name: str) -> bool:
    """Whether there is a time zone of this name, such as `Europe/Berlin`."""
    try:
        zone_of(name)
    except (OSError, ValueError, LookupError):
        return False
    return True


def period_at(period: BudgetPeriod, timezone: str, at_ns: int) -> Span:
    """The period that the instant `at_ns` lies in. Raises `LookupError`, `ValueError` or `OSError`
    for a time zone that is none."""
    if period == "total":
        return ALWAYS
    zone = zone_of(timezone)
    first = _first_day(period, _local_day(at_ns, zone))
    start = _begin(first, zone)
    # A clock that is put back over midnight lives through the end of a day twice.
    while at_ns < start:
        first = _first_day(period, first - dt.timedelta(days=1))
        start = _begin(first, zone)
    following = _following(period, first)
    end = _begin(following, zone)
    while end <= at_ns:
        start, following = end, _following(period, following)
        end = _begin(following, zone)
    return Span(start, end)


def zone_of(name: str) -> dt.tzinfo:
    """The time zone of this name. Raises as `period_at`."""
    if name == "UTC":
        return dt.UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415 -- only who has other zones pays for it

    return ZoneInfo(name)


def _local_day(at_ns: int, zone: dt.tzinfo) -> dt.date:
    latest = dt.datetime(_LAST_YEAR, 1, 1, tzinfo=dt.UTC)
    seconds = min(max(0, at_ns // _SECOND), int((latest - _EPOCH).total_seconds()))
    return (_EPOCH + dt.timedelta(seconds=seconds)).astimezone(zone).date()


def _first_day(period: BudgetPeriod, day: dt.date) -> dt.date:
    if period == "day":
        return day
    if period == "week":
        return day - dt.timedelta(days=day.weekday())
    return day.replace(day=1)


def _following(period: BudgetPeriod, first: dt.date) -> dt.date:
    if period == "day":
        return first + dt.timedelta(days=1)
    if period == "week":
        return first + dt.timedelta(days=7)
    return (first.replace(day=28) + dt.timedelta(days=4)).replace(day=1)


def _begin(day: dt.date, zone: dt.tzinfo) -> int:
    """The first instant of `day`. Midnight may come twice (the first counts) or be left out (then
    it is the instant of the change, which is what `fold=0` comes to)."""
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=zone)
    return int((midnight - _EPOCH).total_seconds()) * _SECOND
