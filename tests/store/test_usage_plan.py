from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.store.usage_plan import Kept, Part, Period, first_day, month_of, plan

JANUARY = 2026 * 12
START = first_day(JANUARY) * 24
EVERYTHING = Kept()


def hours(part: Part) -> range:
    if part.period == "hour":
        return range(part.first, part.last)
    if part.period == "day":
        return range(part.first * 24, part.last * 24)
    return range(first_day(part.first) * 24, first_day(part.last) * 24)


def covered(parts: list[Part]) -> dict[int, int]:
    found: Counter[int] = Counter()
    for part in parts:
        for hour in hours(part):
            found[hour] += part.sign
    return {hour: times for hour, times in found.items() if times}


periods: st.SearchStrategy[Period] = st.sampled_from(["hour", "day", "month"])
moments = st.integers(START, START + 100 * 24)


@given(periods, moments, moments)
def test_every_hour_is_read_once_and_no_other(finest: Period, first: int, last: int) -> None:
    assert covered(plan(finest, first, last, EVERYTHING)) == dict.fromkeys(range(first, last), 1)


@given(st.sampled_from(["day", "month"]), moments, moments)
def test_no_more_is_read_than_half_of_a_period_at_each_edge(
    finest: Period, first: int, last: int
) -> None:
    parts = plan(finest, first, last, EVERYTHING)
    assert sum(part.last - part.first for part in parts if part.period == "hour") <= 2 * 12
    days = sum(part.last - part.first for part in parts if part.period == "day")
    assert finest == "day" or days <= 2 * 17


@given(st.sampled_from(["day", "month"]), moments, moments)
def test_what_is_told_apart_by_days_or_months_stays_within_them(
    finest: Period, first: int, last: int
) -> None:
    for part in plan(finest, first, last, EVERYTHING):
        if part.within is None:
            assert (part.period, part.sign) == (finest, 1)
        else:
            days = {hour // 24 for hour in hours(part)}
            assert {day if finest == "day" else month_of(day) for day in days} == {part.within}


@given(moments, moments)
def test_where_hours_are_gone_whole_days_count(first: int, last: int) -> None:
    kept = Kept(hour=START + 30 * 24)
    parts = plan("month", first, last, kept)
    assert all(part.first >= kept.hour for part in parts if part.period == "hour")
    expected = set(range(first, last))
    for edge in (first, last - 1) if first < last else ():
        day = range(edge // 24 * 24, edge // 24 * 24 + 24)
        expected |= {hour for hour in day if hour < kept.hour}
    assert covered(parts) == dict.fromkeys(expected, 1)


def test_where_days_are_gone_whole_months_count() -> None:
    kept = Kept(hour=first_day(JANUARY + 1) * 24, day=first_day(JANUARY + 1))
    assert plan("month", START + 700, START + 800, kept) == [
        Part("month", JANUARY, JANUARY + 1),
        *plan("month", START + 744, START + 800, EVERYTHING),
    ]


def test_a_year_from_the_middle_of_a_month_reads_months_and_few_days() -> None:
    assert plan("month", START + 20 * 24, START + 385 * 24, EVERYTHING) == [
        Part("day", month_day := first_day(JANUARY) + 20, month_day + 11, 1, JANUARY),
        Part("month", JANUARY + 1, JANUARY + 12),
        Part("month", JANUARY + 12, JANUARY + 13, 1, JANUARY + 12),
        Part("day", first_day(JANUARY + 12) + 20, first_day(JANUARY + 13), -1, JANUARY + 12),
    ]
