"""Limits in the words of HTTP: `x-ratelimit-*`.

Rule of this file: pure, and never kinder than the truth: times are rounded up.
Names and the form of durations follow the section on headers of OpenAI's guide to rate limits
(`6m0s`, `1s`, `120ms`).
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmgw_core.limits.port import MeterState


def ratelimit_headers(
    requests: MeterState | None, tokens: MeterState | None
) -> list[tuple[bytes, bytes]]:
    """The headers of a reply; none for a unit that has no meter. `remaining` is at least 0."""
    headers: list[tuple[bytes, bytes]] = []
    if requests is not None:
        headers += (
            (b"x-ratelimit-limit-requests", b"%d" % requests.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, requests.remaining)),
            (b"x-ratelimit-reset-requests", duration(requests.reset)),
        )
    if tokens is not None:
        headers += (
            (b"x-ratelimit-limit-tokens", b"%d" % tokens.limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, tokens.remaining)),
            (b"x-ratelimit-reset-tokens", duration(tokens.reset)),
        )
    return headers


def ratelimit_lines(requests: MeterState | None, tokens: MeterState | None) -> bytes:
    """The same as lines of an HTTP/1.1 head, each with its end."""
    lines = b"" if requests is None else REQUESTS % _values(requests)
    return lines if tokens is None else lines + TOKENS % _values(tokens)


def _values(state: MeterState) -> tuple[int, int, bytes]:
    left, reset = state.remaining, state.reset
    return state.limit, max(0, left), duration(reset)


REQUESTS = (
    b"x-ratelimit-limit-requests: %d\r\n"
    b"x-ratelimit-remaining-requests: %d\r\n"
    b"x-ratelimit-reset-requests: %b\r\n"
)
TOKENS = REQUESTS.replace(b"requests", b"tokens")
"""The lines of a unit: limit, what remains (at least 0), and `duration` of the reset."""


def duration(seconds: float) -> bytes:
    """`seconds` in OpenAI's form, rounded up: to the millisecond below a second, else to the
    second: `0s`, `120ms`, `8s`, `6m0s`, `1h0m0s`."""
    if seconds > 0.999:
        return whole(ceil(seconds))
    return b"%dms" % ceil(seconds * 1000) if seconds > 0 else b"0s"


@lru_cache(maxsize=4096)
def whole(seconds: int) -> bytes:
    """The same of whole seconds, at least 1."""
    if seconds < 60:
        return b"%ds" % seconds
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return b"%dm%ds" % (minutes, seconds)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, seconds)
