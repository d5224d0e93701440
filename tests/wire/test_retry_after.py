from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.wire.retry_after import LONGEST, duration, waiting_time

NOW = 1_800_000_000.0


def wait(*headers: tuple[str, str], resets: bool = True) -> float | None:
    fields = tuple((name.encode(), value.encode("latin-1")) for name, value in headers)
    return waiting_time(fields, NOW, resets=resets)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("0.25", 0.25),
        (" 12 ", 12.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("1800000030", 30.0),
        ("1800000030000", 30.0),
        ("6m0s", 360.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("1e9", None),
        ("9" * 40, None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 9999 99:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_a_date_or_a_moment(value: str, seconds: float | None) -> None:
    assert wait(("retry-after", value)) == seconds


def test_milliseconds_say_it_more_exactly() -> None:
    assert wait(("retry-after", "1"), ("retry-after-ms", "250")) == 0.25
    assert wait(("retry-after", "1"), ("retry-after-ms", "x")) == 1.0


def test_a_wait_that_nobody_can_mean_is_not_believed() -> None:
    assert wait(("retry-after", str(int(LONGEST)))) == LONGEST
    assert wait(("retry-after", str(int(LONGEST) + 1))) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120ms", 0.12),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("1d", 86_400.0),
        ("250us", 0.00025),
        ("s", None),
        ("1", None),
        ("1s ", None),
        ("1s2", None),
        ("x1s", None),
        ("", None),
    ],
)
def test_durations_are_read_part_by_part(text: str, seconds: float | None) -> None:
    found = duration(text)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_of_the_limits_that_are_used_up_the_last_to_be_reset_counts() -> None:
    both = [
        ("x-ratelimit-reset-requests", "1s"),
        ("x-ratelimit-reset-tokens", "6m0s"),
        ("x-ratelimit-remaining-requests", "0"),
    ]
    assert wait(*both, ("x-ratelimit-remaining-tokens", "17")) == 1.0
    assert wait(*both, ("x-ratelimit-remaining-tokens", "0")) == 360.0


def test_when_no_limit_says_that_it_is_used_up_the_first_reset_counts() -> None:
    headers = [("x-ratelimit-reset-requests", "12"), ("x-ratelimit-reset-tokens", "30")]
    assert wait(*headers) == 12.0
    assert wait(headers[1]) == 30.0
    assert wait(("x-ratelimit-reset", "1800000004")) == 4.0


def test_resets_count_only_when_a_limit_is_reached() -> None:
    assert wait(("x-ratelimit-reset-requests", "1s"), resets=False) is None


def test_retry_after_goes_before_resets() -> None:
    assert wait(("x-ratelimit-reset-requests", "1s"), ("retry-after", "3")) == 3.0


@given(st.binary(max_size=40))
def test_whatever_stands_there_is_read_or_passed_over(value: bytes) -> None:
    for name in (b"retry-after", b"retry-after-ms", b"x-ratelimit-reset-tokens"):
        seconds = waiting_time(((name, value),), NOW, resets=True)
        assert seconds is None or 0.0 <= seconds <= LONGEST
