from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.limits.headers import duration, ratelimit_headers
from llmgw_core.limits.port import MeterState

REPEATABLE = settings(derandomize=True, database=None, deadline=None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, b"0s"),
        (-3.0, b"0s"),
        (0.0001, b"1ms"),
        (0.12, b"120ms"),
        (0.9991, b"1s"),
        (1.0, b"1s"),
        (7.66, b"8s"),
        (33.023, b"34s"),
        (59.9999, b"1m0s"),
        (60.0, b"1m0s"),
        (360.0, b"6m0s"),
        (1396.298, b"23m17s"),
        (3600.0, b"1h0m0s"),
        (86_400.5, b"24h0m1s"),
    ],
)
def test_a_duration_has_the_form_that_openai_documents(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text


@REPEATABLE
@given(st.floats(0, 1e7))
def test_a_duration_reads_back_as_the_same_time_rounded_up(seconds: float) -> None:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", duration(seconds).decode())
    read = sum(float(number) * units[unit] for number, unit in parts)
    grain = 0.001 if seconds < 0.999 else 1.0
    assert -1e-6 <= read - seconds <= grain + 1e-6


def test_each_unit_that_has_a_meter_gets_three_headers() -> None:
    requests = MeterState(limit=60, remaining=59, reset=1.0)
    tokens = MeterState(limit=150_000, remaining=149_984, reset=360.0)
    assert ratelimit_headers(requests, tokens) == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-limit-tokens", b"150000"),
        (b"x-ratelimit-remaining-tokens", b"149984"),
        (b"x-ratelimit-reset-tokens", b"6m0s"),
    ]
    assert len(ratelimit_headers(requests, None)) == 3
    assert len(ratelimit_headers(None, tokens)) == 3
    assert ratelimit_headers(None, None) == []


def test_remaining_is_never_negative() -> None:
    over = MeterState(limit=10, remaining=-5, reset=1.0)
    values = dict(ratelimit_headers(over, over))
    assert values[b"x-ratelimit-remaining-requests"] == b"0"
    assert values[b"x-ratelimit-remaining-tokens"] == b"0"
