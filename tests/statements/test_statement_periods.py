"""Months of time zones, and that statements stand side by side without an overlap or a gap."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.periods import HOUR_NS, Standing, fit, month


@pytest.mark.parametrize(
    ("name", "zone", "hours"),
    [
        ("2027-03", "Europe/Berlin", "743"),
        ("2026-10", "Europe/Berlin", "745"),
        ("2026-11", "Europe/Berlin", "720"),
        ("2027-02", "UTC", "672"),
        ("2026-10", "Australia/Lord_Howe", "743.5"),
        ("2026-12", "Asia/Kolkata", "744"),
    ],
)
def test_a_month_is_as_long_as_its_zone_makes_it(name: str, zone: str, hours: str) -> None:
    assert month(name, zone).hours == hours


@given(
    st.integers(1971, 9000),
    st.integers(1, 12),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Pacific/Apia"]),
)
def test_each_month_begins_where_the_one_before_ends(year: int, number: int, zone: str) -> None:
    this = month(f"{year:04}-{number:02}", zone)
    after = month(f"{year + number // 12:04}-{number % 12 + 1:02}", zone)
    assert this.end_ns == after.start_ns
    assert 600 * HOUR_NS < this.end_ns - this.start_ns < 800 * HOUR_NS


def test_beginning_and_end_are_told_with_their_offsets() -> None:
    march = month("2027-03", "Europe/Berlin")
    assert (march.begin, march.end) == ("2027-03-01T00:00+01:00", "2027-04-01T00:00+02:00")
    assert dt.datetime.fromisoformat(march.begin).timestamp() * 10**9 == march.start_ns


@pytest.mark.parametrize("name", ["2027-13", "2027-00", "27-01", "2027-1", "", "1970-01", "x" * 99])
def test_what_is_no_month_is_refused(name: str) -> None:
    with pytest.raises(StatementError, match="is no month"):
        month(name, "UTC")


@pytest.mark.parametrize("zone", ["Berlin", "", "../etc/passwd", "/etc/passwd", "Europe"])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(StatementError, match="is no time zone"):
        month("2027-03", zone)


def standing(name: str, zone: str = "Europe/Berlin", scope: str = "") -> Standing:
    return Standing(scope, month(name, zone), "closed")


def test_the_month_before_and_the_month_behind_fit() -> None:
    there = [standing("2026-10"), standing("2026-11")]
    for name in ("2026-09", "2026-12", "2026-10"):
        fit(month(name, "Europe/Berlin"), "", there)
    fit(month("2020-01", "UTC"), "", [])


def test_a_gap_is_refused() -> None:
    with pytest.raises(StatementError, match="none of the months between it and 2027-01"):
        fit(month("2027-01", "Europe/Berlin"), "", [standing("2026-11")])
    with pytest.raises(StatementError, match=r"2026-11 of America/New_York begins .* a gap"):
        fit(month("2026-11", "America/New_York"), "", [standing("2026-10")])


def test_an_overlap_is_refused() -> None:
    with pytest.raises(
        StatementError, match=r"2026-11 of Asia/Kolkata and 2026-10 of Europe.* twi"
    ):
        fit(month("2026-11", "Asia/Kolkata"), "", [standing("2026-10")])
    with pytest.raises(
        StatementError, match=r"2026-10 of UTC and 2026-10 of Europe/Berlin overlap"
    ):
        fit(month("2026-10", "UTC"), "", [standing("2026-10")])


def test_statements_of_everybody_and_of_an_organisation_exclude_each_other() -> None:
    with pytest.raises(StatementError, match="a statement of everybody of 2026-10"):
        fit(month("2026-10", "Europe/Berlin"), "org_1", [standing("2026-10")])
    with pytest.raises(StatementError, match="a statement of an organisation of 2026-10"):
        fit(month("2026-10", "Europe/Berlin"), "", [standing("2026-10", scope="org_1")])
    fit(month("2026-10", "UTC"), "org_2", [standing("2026-10", scope="org_1")])


def test_two_names_of_one_span_are_one_month() -> None:
    with pytest.raises(StatementError, match=r"twice|already"):
        fit(month("2026-11", "Europe/Paris"), "", [standing("2026-11")])
