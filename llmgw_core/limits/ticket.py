"""The reservation of one call in the meters of one process.

Rule of this file: a ticket is ended once. What it holds is either settled, or released, or,
when somebody forgot it, its parallel slots are given back with a warning.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.limits.counters import Held, amount_of
from llmgw_core.limits.meters import BoundMeters, check
from llmgw_core.limits.port import Exceeded
from llmgw_core.limits.window import TICKS_PER_SECOND, Window, correct_all, tick_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.limits.port import Counter, Demand, MeterSpec


class More(msgspec.Struct, eq=False):
    """What not every ticket holds: plain meters that were added (with the tick at which their
    request was counted), and what is booked in meters that are not plain."""

    extra: tuple[tuple[BoundMeters, int], ...]
    held: list[Held]
    demand: Demand | None


class Ticket(msgspec.Struct, eq=False):
    """Implements `llmgw_core.limits.port.Reservation`; the plain meters have counted it already.

    Its tokens are booked at one tick in all its plain meters, its requests where they were
    admitted.
    """

    _clock: Callable[[], float]
    _bound: BoundMeters
    _tick: int
    _booked: int
    _tokens: int
    _more: More | None = None
    _open: bool = True

    async def amend(self, tokens: int, extra: Any = None, demand: Demand | None = None) -> None:
        """Reserve `tokens` (and `demand`) instead, and add the meters of `extra` that are not held
        yet. Without `demand`, what was demanded before is.

        Fewer tokens over the same meters always succeed. Otherwise the tokens count anew from
        now on; meters in which they do not grow are not asked again.
        Raises `Exceeded` (and changes nothing) when a meter has no room.
        """
        if not self._open:
            return
        if tokens < 0:
            raise ValueError("tokens must not be negative")
        now = self._clock()
        more = self._more
        if demand is None and more is not None:
            demand = more.demand
        added = None if extra is None else extra.without(self._ids())
        changes = (
            [] if more is None else [(h, amount_of(h.spec, tokens, demand)) for h in more.held]
        )
        waits = [(held.spec, held.wait_for(amount, now)) for held, amount in changes]
        if added is None and tokens <= self._tokens:
            check(now, tokens, None, waits=waits)
            self._correct(tick_of(now), tokens - self._tokens)
        else:
            self._rebook(now, tokens, added, demand, waits)
        self._tokens = tokens
        for held, amount in changes:
            held.change(amount, now)
        if self._more is not None:
            self._more.demand = demand

    def settle(self, tokens: int, used: Demand | None = None) -> None:
        """The call used `tokens` (below 0 counts as 0), which may exceed the limit."""
        if not self._open:
            return
        self._open = False
        amount = tokens - self._tokens if tokens > 0 else -self._tokens
        if self._more is not None:
            self._settle_more(self._more, amount, tokens, used)
        elif amount:
            tick = int(self._clock() * TICKS_PER_SECOND)
            bound = self._bound
            if bound.tick != tick:
                bound.advance(tick)
            correct_all(bound.tokens, self._booked, amount)
        if self._bound.parallel or self._more is not None:
            self._end_parallel()

    def release(self) -> None:
        """The call never happened: request, tokens and parallel slots are given back."""
        if not self._open:
            return
        self._open = False
        now = self._clock()
        tick = tick_of(now)
        self._correct(tick, -self._tokens)
        for bound, booked in self._all():
            for window, _ in bound.requests:
                window.advance(tick)
                window.correct(booked, -1)
        self._end_parallel()
        for held in self._held():
            held.release(now)

    def hold(
        self,
        others: Sequence[tuple[MeterSpec, Counter]],
        tokens: int,
        demand: Demand | None,
        now: float,
    ) -> None:
        """Count the call in `others`, too, which have been asked."""
        if self._more is None:
            self._more = More((), [], demand)
        self._more.held.extend(Held.of(s, counter, tokens, demand, now) for s, counter in others)

    @property
    def open(self) -> bool:
        """Neither settled nor released, and not expired."""
        return self._open

    def expire(self) -> None:
        """Its holder has gone: parallel slots are free, the rest stays counted. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._end_parallel()
        for held in self._held():
            held.forget(self._clock())

    def __del__(self) -> None:
        if self._open:
            self.expire()
            warnings.warn("a reservation was neither settled nor released", ResourceWarning, 2)

    def _settle_more(self, more: More, amount: int, tokens: int, used: Demand | None) -> None:
        now = self._clock()
        self._correct(tick_of(now), amount)
        for held in more.held:
            held.settle(tokens, used, now)

    def _held(self) -> Sequence[Held]:
        return () if self._more is None else self._more.held

    def _all(self) -> tuple[tuple[BoundMeters, int], ...]:
        """Everything plain that is held, with the tick at which its request was counted."""
        extra = () if self._more is None else self._more.extra
        return ((self._bound, self._tick), *extra)

    def _ids(self) -> set[str]:
        held = {spec.id for bound, _ in self._all() for spec, _ in bound.meters}
        return held.union(held.spec.id for held in self._held())

    def _end_parallel(self) -> None:
        for parallel, _ in self._bound.parallel:
            parallel.used -= 1
        for bound, _ in () if self._more is None else self._more.extra:
            for parallel, _ in bound.parallel:
                parallel.used -= 1

    def _correct(self, tick: int, amount: int) -> None:
        for bound, _ in self._all():
            bound.advance(tick)
            correct_all(bound.tokens, self._booked, amount)

    def _rebook(
        self,
        now: float,
        tokens: int,
        added: BoundMeters | None,
        demand: Demand | None,
        waits: Sequence[tuple[MeterSpec, float]],
    ) -> None:
        """Take the tokens out of where they are booked, check, and count them now."""
        tick = tick_of(now)
        taken = self._take_tokens(tick)
        growing = [(spec, window) for spec, window, own in taken if tokens > own]
        try:
            check(now, tokens, added, growing, demand, waits)
        except Exceeded:
            for _, window, own in taken:
                window.correct(self._booked, own)
            raise
        for _, window, _ in taken:
            window.add(tokens)
        self._booked = tick
        if added is not None:
            self._add(added, tokens, demand, now)

    def _add(self, added: BoundMeters, tokens: int, demand: Demand | None, now: float) -> None:
        added.count(tokens)
        self.hold(added.others, tokens, demand, now)
        assert self._more is not None
        self._more.extra = (*self._more.extra, (added, tick_of(now)))

    def _take_tokens(self, tick: int) -> list[tuple[MeterSpec, Window, int]]:
        """Empty what is booked; with each window the amount that still counted there."""
        taken = []
        for bound, _ in self._all():
            for spec, meter in bound.plain:
                if spec.unit == "tokens":
                    meter.window.advance(tick)
                    own = -meter.window.correct(self._booked, -self._tokens)
                    taken.append((spec, meter.window, own))
        return taken
