"""The limiter of one process: all meters in memory, decisions without any waiting.

Rule of this file: count everything or nothing, and never await in between. An event loop runs one
callback at a time, so that alone makes a reservation atomic; an instance belongs to one event loop
and is not safe to share between threads.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from llmgw_core.limits.counters import amount_of, tightest_of
from llmgw_core.limits.headers import REQUESTS, TOKENS, duration, ratelimit_lines, whole
from llmgw_core.limits.meters import BoundMeters, Meter, check, tightest
from llmgw_core.limits.port import ABILITIES
from llmgw_core.limits.ticket import Ticket
from llmgw_core.limits.window import TICKS_PER_SECOND, Window, tick_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.limits.port import Counter, Demand, MeterSpec, MeterState

_SWEPT_PER_NEW_METER = 4


class MemoryLimiter:
    """Implements `llmgw_core.limits.port.Limiter` for one process.

    `clock` gives seconds and never goes backwards. A meter lives while something is bound to
    it or counted in it; whoever caches the result of `bind` decides how many that are.
    """

    abilities = ABILITIES

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.in_shadow: Callable[[MeterSpec], None] | None = None
        self._meters: dict[str, Meter] = {}
        self._rounds: deque[Meter] = deque()

    def __len__(self) -> int:
        """Meters that are kept."""
        return len(self._meters)

    def bind(
        self, specs: Sequence[MeterSpec], others: Sequence[tuple[MeterSpec, Counter]] = ()
    ) -> BoundMeters:
        """Prepare a set of meters, beside those that somebody else keeps (`others`). Counts
        survive: a spec with a known id and another limit is held against what is already counted,
        and another `window`, or another rate or capacity of a bucket, reshapes the meter for all.

        Of several specs with one id the smallest limit holds, one in shadow mode last. Raises
        `ValueError` when an id is already in use for something else that is counted.
        """
        chosen: dict[str, MeterSpec] = {}
        for spec in specs:
            known = chosen.get(spec.id)
            if known is None or (spec.shadow, spec.limit) < (known.shadow, known.limit):
                chosen[spec.id] = spec
        tick = tick_of(self.clock())
        known_before = len(self._meters)
        bound = BoundMeters([(s, self._meter(s, tick)) for s in chosen.values()], others)
        # Only now: a meter that is not bound yet would look idle.
        self._sweep(tick, _SWEPT_PER_NEW_METER * (len(self._meters) - known_before))
        return bound

    async def reserve(
        self, bound: BoundMeters, tokens: int, demand: Demand | None = None
    ) -> Ticket:
        """See the port. Never suspends."""
        return self.reserve_now(bound, tokens, demand)

    def reserve_now(self, bound: BoundMeters, tokens: int, demand: Demand | None = None) -> Ticket:
        """Count 1 request, `tokens` tokens and 1 parallel call in all meters, or in none.

        Raises `Exceeded` for the meter with the longest wait.
        """
        if demand is not None or bound.others:
            return self._reserve_everything(bound, tokens, demand)
        now = self.clock()
        tick = int(now * TICKS_PER_SECOND)
        if bound.tick != tick:
            bound.advance(tick)
        if bound.barred or tokens < 0:
            _refuse(now, tokens, bound)
        # Checked and counted at once. Where one has no room, what the others have counted is taken
        # back; refusals are few, or else nobody's hurry.
        for window, limit in bound.requests:
            total = window.total + 1
            if total > limit:
                _take_back(bound.requests, window, 1)
                _refuse(now, tokens, bound)
            window.total = total
        for window, limit in bound.tokens:
            total = window.total + tokens
            if total > limit:
                _take_back(bound.requests, None, 1)
                _take_back(bound.tokens, window, tokens)
                _refuse(now, tokens, bound)
            window.total = total
        if bound.parallel:
            for parallel, limit in bound.parallel:
                if parallel.used >= limit:
                    _take_back(bound.requests, None, 1)
                    _take_back(bound.tokens, None, tokens)
                    _refuse(now, tokens, bound)
            for parallel, _ in bound.parallel:
                parallel.used += 1
        return Ticket(self.clock, bound, tick, tick, tokens)

    def _reserve_everything(self, bound: BoundMeters, tokens: int, demand: Demand | None) -> Ticket:
        """The same over meters that are not plain as well."""
        now = self.clock()
        self._examine(now, bound, tokens, demand)
        others = bound.others if demand is None else (*bound.others, *demand.also)
        if self.in_shadow is not None:
            for spec, counter in others:
                if spec.shadow and counter.wait(spec, amount_of(spec, tokens, demand), now) > 0:
                    self.in_shadow(spec)
        tick = tick_of(now)
        bound.advance(tick)
        bound.count(tokens)
        ticket = Ticket(self.clock, bound, tick, tick, tokens)
        ticket.hold(others, tokens, demand, now)
        return ticket

    def examine(self, bound: BoundMeters, tokens: int, demand: Demand | None = None) -> None:
        """Raise what `reserve` would raise now, and count nothing."""
        self._examine(self.clock(), bound, tokens, demand)

    def _examine(self, now: float, bound: BoundMeters, tokens: int, demand: Demand | None) -> None:
        if tokens < 0:
            raise ValueError("tokens must not be negative")
        also = () if demand is None else demand.also
        waits = [(s, c.wait(s, amount_of(s, tokens, demand), now)) for s, c in also]
        check(now, tokens, bound, demand=demand, waits=waits)

    def state(self, bound: BoundMeters) -> tuple[MeterState | None, MeterState | None]:
        """The meters with the least remaining of requests, and of tokens; those in shadow mode
        are not told of."""
        now = self.clock()
        tick = int(now * TICKS_PER_SECOND)
        if bound.tick != tick:
            bound.advance(tick)
        requests, tokens = tightest(bound.requests, now), tightest(bound.tokens, now)
        if not bound.others:
            return requests, tokens
        told = [(s.unit, c.state(s, now)) for s, c in bound.others if not s.shadow]
        return (
            tightest_of((requests, *(state for unit, state in told if unit == "requests"))),
            tightest_of((tokens, *(state for unit, state in told if unit == "tokens"))),
        )

    def lines(self, bound: BoundMeters) -> bytes:
        """`state` as the lines of a head that `headers.ratelimit_lines` makes of it."""
        if bound.others:
            return ratelimit_lines(*self.state(bound))
        now = self.clock()
        tick = int(now * TICKS_PER_SECOND)
        if bound.tick != tick:
            bound.advance(tick)
        lines = b""
        if bound.requests:
            lines = REQUESTS % _tightest(bound.requests, tick, now)
        return lines + TOKENS % _tightest(bound.tokens, tick, now) if bound.tokens else lines

    def states(self, bound: BoundMeters) -> list[tuple[MeterSpec, MeterState]]:
        """Every meter of `bound`, with how full it is."""
        now = self.clock()
        own = [(spec, meter.counter.state(spec, now)) for spec, meter in bound.meters]
        kept = {spec.id for spec, _ in bound.meters}
        return [*own, *((s, c.state(s, now)) for s, c in bound.others if s.id not in kept)]

    def counter(self, spec: MeterSpec) -> Counter:
        """What counts `spec`, for whoever wants to count in it as calls do."""
        meter = self._meter(spec, tick_of(self.clock()))
        return meter.counter

    def restore(self, spec: MeterSpec, amount: int, ago: float) -> None:
        """Count `amount` in the window of `spec` as of `ago` seconds ago: an earlier process has
        let it through."""
        now = self.clock()
        tick = tick_of(now)
        window = self._meter(spec, tick).window
        window.advance(tick)
        if ago < spec.window:
            window.correct(tick_of(now - ago), amount)

    async def aclose(self) -> None:
        """Forget all meters."""
        self._meters.clear()
        self._rounds.clear()

    def _meter(self, spec: MeterSpec, tick: int) -> Meter:
        meter = self._meters.get(spec.id)
        if meter is None:
            meter = self._meters[spec.id] = Meter(spec, tick)
            self._rounds.append(meter)
        else:
            meter.take_shape(spec, tick)
        return meter

    def _sweep(self, tick: int, meters: int) -> None:
        """Look at a few meters for each new one: bounded memory without a long pause."""
        for _ in range(min(meters, len(self._rounds))):
            meter = self._rounds.popleft()
            if meter.idle(tick):
                del self._meters[meter.id]
            else:
                self._rounds.append(meter)


def _tightest(
    meters: tuple[tuple[Window, int], ...], tick: int, now: float
) -> tuple[int, int, bytes]:
    """`meters.tightest` as the values of the lines of a unit."""
    found, limit_of = meters[0]
    least = limit_of - found.total
    for window, limit in meters:
        remaining = limit - window.total
        if remaining < least:
            found, least, limit_of = window, remaining, limit
    ticks = ((found.slot + found.size) << found.shift) - tick if found.total > found.past else 0
    if ticks > TICKS_PER_SECOND:
        # The same as rounding up what is left, which is a whole number of half seconds at a tick.
        text = whole((ticks + 1) >> 1)
    else:
        text = duration(found.time_until_empty(now))
    return limit_of, least if least > 0 else 0, text  # noqa: FURB136 -- a call is dear here


def _take_back(windows: tuple[tuple[Window, int], ...], until: Window | None, amount: int) -> None:
    """What was counted just now in `windows`, in those before `until` if that is given."""
    for window, _ in windows:
        if window is until:
            return
        window.total -= amount


def _refuse(now: float, tokens: int, bound: BoundMeters) -> None:
    """Raise what `reserve` raises, with all meters considered."""
    if tokens < 0:
        raise ValueError("tokens must not be negative")
    check(now, tokens, bound)
