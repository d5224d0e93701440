"""The limiter of one process: all meters in memory, decisions without any waiting.

Rule of this file: check everything, then count everything, and never await in between. An
event loop runs one callback at a time, so that alone makes a reservation atomic; an instance
belongs to one event loop and is not safe to share between threads.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from llmgw_core.limits.meters import BoundMeters, Meter, check, tightest
from llmgw_core.limits.ticket import Ticket
from llmgw_core.limits.window import TICKS_PER_SECOND, tick_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.limits.port import MeterSpec, MeterState

_SWEPT_PER_NEW_METER = 4


class MemoryLimiter:
    """Implements `llmgw_core.limits.port.Limiter` for one process.

    `clock` gives seconds and never goes backwards. A meter lives while something is bound to
    it or counted in it; whoever caches the result of `bind` decides how many that are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._meters: dict[str, Meter] = {}
        self._rounds: deque[Meter] = deque()

    def __len__(self) -> int:
        """Meters that are kept."""
        return len(self._meters)

    def bind(self, specs: Sequence[MeterSpec]) -> BoundMeters:
        """Prepare a set of meters. Counts survive: a spec with a known id and another limit is
        held against what is already counted, and another `window` reshapes the meter for all.

        Of several specs with one id the smallest limit holds. Raises `ValueError` when an id
        is already in use for another unit.
        """
        chosen: dict[str, MeterSpec] = {}
        for spec in specs:
            known = chosen.get(spec.id)
            if known is None or spec.limit < known.limit:
                chosen[spec.id] = spec
        tick = tick_of(self.clock())
        known_before = len(self._meters)
        bound = BoundMeters([(spec, self._meter(spec, tick)) for spec in chosen.values()])
        # Only now: a meter that is not bound yet would look idle.
        self._sweep(tick, _SWEPT_PER_NEW_METER * (len(self._meters) - known_before))
        return bound

    async def reserve(self, bound: BoundMeters, tokens: int) -> Ticket:
        """See the port. Never suspends."""
        return self.reserve_now(bound, tokens)

    def reserve_now(self, bound: BoundMeters, tokens: int) -> Ticket:
        """Count 1 request, `tokens` tokens and 1 parallel call in all meters, or in none.

        Raises `Exceeded` for the meter with the longest wait.
        """
        now = self.clock()
        tick = int(now * TICKS_PER_SECOND)
        if bound.tick != tick:
            bound.advance(tick)
        if bound.barred or tokens < 0:
            _refuse(now, tokens, bound)
        for window, limit in bound.requests:
            if window.past + window.current >= limit:
                _refuse(now, tokens, bound)
        for window, limit in bound.tokens:
            if window.past + window.current + tokens > limit:
                _refuse(now, tokens, bound)
        for parallel, limit in bound.parallel:
            if parallel.used >= limit:
                _refuse(now, tokens, bound)
        bound.count(tokens)
        return Ticket(self.clock, bound, tick, tick, tokens)

    def examine(self, bound: BoundMeters, tokens: int) -> None:
        """Raise what `reserve` would raise now, and count nothing."""
        check(self.clock(), tokens, bound)

    def state(self, bound: BoundMeters) -> tuple[MeterState | None, MeterState | None]:
        """The meters with the least remaining of requests, and of tokens."""
        now = self.clock()
        tick = int(now * TICKS_PER_SECOND)
        if bound.tick != tick:
            bound.advance(tick)
        return tightest(bound.requests, now), tightest(bound.tokens, now)

    async def aclose(self) -> None:
        """Forget all meters."""
        self._meters.clear()
        self._rounds.clear()

    def _meter(self, spec: MeterSpec, tick: int) -> Meter:
        meter = self._meters.get(spec.id)
        if meter is None:
            meter = self._meters[spec.id] = Meter(spec, tick)
            self._rounds.append(meter)
        elif meter.unit != spec.unit:
            raise ValueError(f"meter {spec.id!r} counts {meter.unit}, not {spec.unit}")
        elif meter.window.seconds != spec.window:
            meter.window.advance(tick)
            meter.window.reshape(spec.window)
        return meter

    def _sweep(self, tick: int, meters: int) -> None:
        """Look at a few meters for each new one: bounded memory without a long pause."""
        for _ in range(min(meters, len(self._rounds))):
            meter = self._rounds.popleft()
            if meter.idle(tick):
                del self._meters[meter.id]
            else:
                self._rounds.append(meter)


def _refuse(now: float, tokens: int, bound: BoundMeters) -> None:
    """Raise what `reserve` raises, with all meters considered."""
    if tokens < 0:
        raise ValueError("tokens must not be negative")
    check(now, tokens, bound)
