"""Days, weeks and months of time zones, also where clocks are changed."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.limits.periods import ALWAYS, EVER, known_zone, period_at

if TYPE_CHECKING:
    from llmgw_core.domain.limits import BudgetPeriod

HOUR = 3_600 * 10**9
ZONES = (
    "UTC",
    "Europe/Berlin",
    "Asia/Kolkata",
    "America/St_Johns",  # until 2011 clocks were put back at one minute past midnight
    "America/Havana",  # midnight comes twice
    "America/Sao_Paulo",  # midnight was left out
    "Pacific/Apia",  # a whole day was left out
    "Australia/Lord_Howe",  # by half an hour
)
PERIODS: tuple[BudgetPeriod, ...] = ("day", "week", "month")


def ns(text: str, zone: str = "UTC") -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("period", "at", "hours"),
    [
        ("day", "2026-03-29T12:00", 23),
        ("day", "2026-10-25T12:00", 25),
        ("day", "2026-10-26T12:00", 24),
        ("week", "2026-03-29T23:59", 167),
        ("month", "2026-03-01T00:00", 743),
        ("month", "2026-10-31T23:59", 745),
        ("month", "2028-02-29T12:00", 696),
    ],
)
def test_periods_of_berlin_are_as_long_as_its_clocks_say(
    period: BudgetPeriod, at: str, hours: int
) -> None:
    span = period_at(period, "Europe/Berlin", ns(at, "Europe/Berlin"))
    assert (span.end_ns - span.start_ns) / HOUR == hours


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    zone = "Europe/Berlin"
    week = period_at("week", zone, ns("2026-11-22T23:59", zone))
    assert week == (ns("2026-11-16T00:00", zone), ns("2026-11-23T00:00", zone))
    month = period_at("month", zone, ns("2026-12-31T23:59", zone))
    assert month == (ns("2026-12-01T00:00", zone), ns("2027-01-01T00:00", zone))


def test_what_has_no_periods_has_one_for_ever() -> None:
    assert period_at("total", "UTC", ns("2026-11-22T23:59")) == ALWAYS == (0, EVER)


@given(
    st.sampled_from(ZONES),
    st.sampled_from(PERIODS),
    st.integers(0, ns("2040-01-01")) | st.integers(ns("2008-01-01"), ns("2012-12-31")),
)
def test_periods_hold_their_instants_and_follow_each_other_without_a_gap(
    zone: str, period: BudgetPeriod, at: int
) -> None:
    span = period_at(period, zone, at)
    assert span.start_ns <= at < span.end_ns
    assert (
        period_at(period, zone, span.start_ns) == period_at(period, zone, span.end_ns - 1) == span
    )
    assert period_at(period, zone, span.end_ns).start_ns == span.end_ns
    local = dt.datetime.fromtimestamp(span.start_ns / 1e9, ZoneInfo(zone))
    assert period != "week" or local.weekday() == 0
    assert period != "month" or local.day == 1


def test_an_hour_that_is_lived_twice_over_midnight_is_of_the_day_before_it_ended() -> None:
    """In St. John's it was one minute past midnight, and then an hour before."""
    zone = "America/St_Johns"
    change = ns("2009-11-01T02:31")
    for minutes in (-1, 0, 30, 58):
        span = period_at("day", zone, change + minutes * 60 * 10**9)
        assert span.start_ns <= change + minutes * 60 * 10**9 < span.end_ns
    before, after = period_at("day", zone, change - 61 * 10**9), period_at("day", zone, change)
    assert before.end_ns == ns("2009-11-01T02:30") == after.start_ns
    # A day that a zone has left out has no length.
    left_out = period_at("day", "Pacific/Apia", ns("2011-12-30T09:59"))
    assert left_out.end_ns == ns("2011-12-30T10:00")
    assert period_at("day", "Pacific/Apia", left_out.end_ns).start_ns == left_out.end_ns


def test_an_absurd_clock_does_not_end_the_calendar() -> None:
    at = EVER - 1
    span = period_at("month", "Europe/Berlin", at)
    assert span.start_ns <= at


def test_zones_are_known_by_name() -> None:
    assert known_zone("UTC")
    assert known_zone("Europe/Berlin")
    for name in ("", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "Europe", "a\0b"):
        assert not known_zone(name), name
