"""Meters of one process: what is counted under an id, bound sets of them, and the one check.

Rule of this file: no clock and no waiting; the present is passed in.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from llmgw_core.limits.port import Exceeded, MeterSpec, MeterState, MeterUnit
from llmgw_core.limits.window import Window, tick_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PARALLEL_RETRY = 1.0
"""Seconds to suggest when all parallel slots are taken: nobody knows when a call ends."""


class Parallel:
    """Calls in flight."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Meter:
    """What is counted under one id. `users` is the number of living `BoundMeters`."""

    __slots__ = ("id", "parallel", "unit", "users", "window")

    def __init__(self, spec: MeterSpec, tick: int) -> None:
        self.id = spec.id
        self.unit: MeterUnit = spec.unit
        self.users = 0
        self.window = Window(spec.window, tick)
        self.parallel = Parallel()

    def idle(self, tick: int) -> bool:
        """Nothing is bound to it (a ticket in flight is) and nothing is in its window."""
        if self.users:
            return False
        self.window.advance(tick)
        return not self.window.total


class BoundMeters:
    """Meters that apply to one principal and model, sorted by unit for the hot path. `tick` is the
    time up to which all windows hold at least; call `advance` first when time has moved on."""

    __slots__ = ("barred", "meters", "parallel", "requests", "tick", "tokens")

    def __init__(self, meters: Sequence[tuple[MeterSpec, Meter]]) -> None:
        self.meters = tuple(meters)
        self.requests = tuple((m.window, s.limit) for s, m in meters if s.unit == "requests")
        self.tokens = tuple((m.window, s.limit) for s, m in meters if s.unit == "tokens")
        self.parallel = tuple((m.parallel, s.limit) for s, m in meters if s.unit == "parallel")
        self.barred = any(spec.limit <= 0 for spec, _ in meters)
        self.tick = -1
        for _, meter in meters:
            meter.users += 1

    def __del__(self) -> None:
        for _, meter in self.meters:
            meter.users -= 1

    def advance(self, tick: int) -> None:
        """Let time move on to `tick` in all windows. They are shared, and may be ahead."""
        self.tick = tick
        for window, _ in self.requests:
            if window.tick != tick:
                window.advance(tick)
        for window, _ in self.tokens:
            if window.tick != tick:
                window.advance(tick)

    def count(self, tokens: int) -> None:
        """Count 1 request, `tokens` tokens and 1 parallel call; the windows are up to date."""
        for window, _ in self.requests:
            window.current += 1
        for window, _ in self.tokens:
            window.current += tokens
        for parallel, _ in self.parallel:
            parallel.used += 1


def check(
    now: float,
    tokens: int,
    bound: BoundMeters | None,
    growing: Iterable[tuple[MeterSpec, Window]] = (),
) -> None:
    """Look whether a call with `tokens` fits all meters of `bound`, and its tokens fit `growing`.

    Raises `Exceeded` for the meter with the longest wait.
    """
    longest = 0.0
    culprit: MeterSpec | None = None
    for spec, window in growing:
        wait = _wait_for_window(spec, window, tokens, now)
        if wait > longest:
            longest, culprit = wait, spec
    for spec, meter in bound.meters if bound is not None else ():
        if spec.unit == "parallel":
            wait = _wait_for_slot(spec, meter.parallel)
        else:
            amount = 1 if spec.unit == "requests" else tokens
            wait = _wait_for_window(spec, meter.window, amount, now)
        if wait > longest:
            longest, culprit = wait, spec
    if culprit is not None:
        never = longest == math.inf
        raise Exceeded(culprit, culprit.window if never else longest, never=never)


def _wait_for_window(spec: MeterSpec, window: Window, amount: int, now: float) -> float:
    if spec.limit <= 0:
        return math.inf  # forbidden, even an amount of 0
    window.advance(tick_of(now))
    return window.time_until_room(amount, spec.limit, now)


def _wait_for_slot(spec: MeterSpec, parallel: Parallel) -> float:
    if spec.limit <= 0:
        return math.inf
    return 0.0 if parallel.used < spec.limit else PARALLEL_RETRY


def tightest(meters: tuple[tuple[Window, int], ...], now: float) -> MeterState | None:
    """The state of the meter with the least remaining; `None` when there are none. The windows
    are up to date."""
    if not meters:
        return None
    found, limit_of = meters[0]
    least = sys.maxsize
    for window, limit in meters:
        remaining = limit - (window.past + window.current)
        if remaining < least:
            found, least, limit_of = window, remaining, limit
    remaining = least if least > 0 else 0  # noqa: FURB136 -- a call is dear here
    return MeterState(limit_of, remaining, found.time_until_empty(now))
