"""Meters of one process: what is counted under an id, bound sets of them, and the one check.

Rule of this file: no clock and no waiting; the present is passed in.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from llmgw_core.limits.bucket import Bucket
from llmgw_core.limits.counters import PARALLEL_RETRY, Parallel, WindowCounter, amount_of
from llmgw_core.limits.port import Exceeded, MeterSpec, MeterState, MeterUnit
from llmgw_core.limits.window import TICKS_PER_SECOND, Window, tick_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.limits.port import Counter, Demand, MeterShape, TokenKind

_Others = tuple[tuple[MeterSpec, "Counter"], ...]


class Meter:
    """What is counted under one id. `users` is the number of living `BoundMeters`; `counter`
    counts what is not on the fast path."""

    __slots__ = (
        "_limited",
        "bucket",
        "counter",
        "id",
        "kind",
        "parallel",
        "shape",
        "unit",
        "users",
        "window",
    )

    def __init__(self, spec: MeterSpec, tick: int) -> None:
        self.id = spec.id
        self.unit: MeterUnit = spec.unit
        self.kind: TokenKind = spec.kind
        self.shape: MeterShape = spec.shape
        self.users = 0
        self.window = Window(spec.window, tick)
        self._limited = (self.window, spec.limit)
        self.parallel = Parallel()
        self.bucket: Bucket | None = None
        self.counter: Counter = WindowCounter(self.window)
        if spec.unit == "parallel":
            self.counter = self.parallel
        elif spec.shape == "bucket":
            self.counter = self.bucket = Bucket(spec, tick / TICKS_PER_SECOND)

    def take_shape(self, spec: MeterSpec, tick: int) -> None:
        """Be what `spec` says from now on. Raises `ValueError` when it counts something else."""
        if self.unit != spec.unit:
            raise ValueError(f"meter {self.id!r} counts {self.unit}, not {spec.unit}")
        if (self.kind, self.shape) != (spec.kind, spec.shape):
            what = f"{spec.kind} tokens by a {spec.shape}"
            raise ValueError(f"meter {self.id!r} counts {self.kind} by a {self.shape}, not {what}")
        if self.bucket is not None:
            self.bucket.shape(spec)
        elif self.window.seconds != spec.window:
            self.window.advance(tick)
            self.window.reshape(spec.window)

    def limited(self, limit: int) -> tuple[Window, int]:
        """Its window and `limit`. One pair for all who have the same limit: what every call looks
        at then stays in the processor's cache, however many callers there are."""
        if self._limited[1] != limit:
            self._limited = (self.window, limit)
        return self._limited

    def idle(self, tick: int) -> bool:
        """Nothing is bound to it (a ticket in flight is) and nothing is in its window."""
        if self.users:
            return False
        if self.bucket is not None:
            return self.bucket.empty(tick / TICKS_PER_SECOND)
        self.window.advance(tick)
        return not self.window.total


class BoundMeters:
    """Meters that apply to one principal and model, sorted by unit for the hot path. `tick` is the
    time up to which all windows hold at least; call `advance` first when time has moved on.
    `others` are all that are not plain, those of the limiter and those that somebody else keeps."""

    __slots__ = ("barred", "meters", "others", "parallel", "plain", "requests", "tick", "tokens")

    def __init__(
        self,
        meters: Sequence[tuple[MeterSpec, Meter]],
        others: Sequence[tuple[MeterSpec, Counter]] = (),
    ) -> None:
        self.meters = tuple(meters)
        self.plain = plain = tuple((s, m) for s, m in meters if s.plain)
        self.requests = tuple(m.limited(s.limit) for s, m in plain if s.unit == "requests")
        self.tokens = tuple(m.limited(s.limit) for s, m in plain if s.unit == "tokens")
        self.parallel = tuple((m.parallel, s.limit) for s, m in plain if s.unit == "parallel")
        self.barred = any(spec.limit <= 0 for spec, _ in plain)
        self.others: _Others = (
            *((s, m.counter) for s, m in meters if not s.plain),
            *others,
        )
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
        """Count 1 request, `tokens` tokens and 1 parallel call in the plain meters; the windows
        are up to date."""
        for window, _ in self.requests:
            window.total += 1
        for window, _ in self.tokens:
            window.total += tokens
        for parallel, _ in self.parallel:
            parallel.used += 1

    def without(self, held: set[str]) -> BoundMeters | None:
        """Those whose ids are not among `held`; None when all are."""
        meters = [(spec, meter) for spec, meter in self.meters if spec.id not in held]
        own = {spec.id for spec, _ in self.meters}
        others = [each for each in self.others if each[0].id not in held | own]
        return BoundMeters(meters, others) if meters or others else None


def check(
    now: float,
    tokens: int,
    bound: BoundMeters | None,
    growing: Iterable[tuple[MeterSpec, Window]] = (),
    demand: Demand | None = None,
    waits: Iterable[tuple[MeterSpec, float]] = (),
) -> None:
    """Look whether a call with `tokens` (and `demand`) fits all meters of `bound`, its tokens fit
    `growing`, and nothing is waited for in `waits`.

    Raises `Exceeded` for the meter with the longest wait.
    """
    longest = 0.0
    culprit: MeterSpec | None = None
    for spec, wait in waits:
        if wait > longest and not spec.shadow:
            longest, culprit = wait, spec
    for spec, window in growing:
        wait = _wait_for_window(spec, window, tokens, now)
        if wait > longest:
            longest, culprit = wait, spec
    for spec, meter in bound.plain if bound is not None else ():
        if spec.unit == "parallel":
            wait = _wait_for_slot(spec, meter.parallel)
        else:
            amount = 1 if spec.unit == "requests" else tokens
            wait = _wait_for_window(spec, meter.window, amount, now)
        if wait > longest:
            longest, culprit = wait, spec
    for spec, counter in bound.others if bound is not None else ():
        if not spec.shadow:
            wait = counter.wait(spec, amount_of(spec, tokens, demand), now)
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
        remaining = limit - window.total
        if remaining < least:
            found, least, limit_of = window, remaining, limit
    remaining = least if least > 0 else 0  # noqa: FURB136 -- a call is dear here
    return MeterState(limit_of, remaining, found.time_until_empty(now))
