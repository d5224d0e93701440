"""The reservation of one call in the meters of one process.

Rule of this file: a ticket is ended once. What it holds is either settled, or released, or,
when somebody forgot it, its parallel slots are given back with a warning.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.limits.meters import BoundMeters, check
from llmgw_core.limits.port import Exceeded
from llmgw_core.limits.window import TICKS_PER_SECOND, Window, correct_all, tick_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.limits.port import MeterSpec


class Ticket(msgspec.Struct, eq=False):
    """Implements `llmgw_core.limits.port.Reservation`; the meters have counted it already.

    Its tokens are booked at one tick in all its meters, its requests where they were admitted.
    """

    _clock: Callable[[], float]
    _bound: BoundMeters
    _tick: int
    _booked: int
    _tokens: int
    _extra: tuple[tuple[BoundMeters, int], ...] = ()
    _open: bool = True

    async def amend(self, tokens: int, extra: Any = None) -> None:
        """Reserve `tokens` instead, and add the meters of `extra` that are not held yet.

        Fewer tokens over the same meters always succeed. Otherwise the tokens count anew from
        now on; meters in which they do not grow are not asked again.
        Raises `Exceeded` (and changes nothing) when a meter has no room.
        """
        if not self._open:
            return
        if tokens < 0:
            raise ValueError("tokens must not be negative")
        now = self._clock()
        added = None if extra is None else self._not_held(extra)
        if added is None and tokens <= self._tokens:
            self._correct(tick_of(now), tokens - self._tokens)
        else:
            self._rebook(now, tokens, added)
        self._tokens = tokens

    def settle(self, tokens: int) -> None:
        """The call used `tokens` (below 0 counts as 0), which may exceed the limit."""
        if not self._open:
            return
        self._open = False
        amount = tokens - self._tokens if tokens > 0 else -self._tokens
        if amount:
            tick = int(self._clock() * TICKS_PER_SECOND)
            if self._extra:
                self._correct(tick, amount)
            else:
                bound = self._bound
                if bound.tick != tick:
                    bound.advance(tick)
                correct_all(bound.tokens, self._booked, amount)
        if self._bound.parallel or self._extra:
            self._end_parallel()

    def release(self) -> None:
        """The call never happened: request, tokens and parallel slots are given back."""
        if not self._open:
            return
        self._open = False
        tick = tick_of(self._clock())
        self._correct(tick, -self._tokens)
        for bound, booked in self._all():
            for window, _ in bound.requests:
                window.advance(tick)
                window.correct(booked, -1)
        self._end_parallel()

    def __del__(self) -> None:
        if self._open:
            self._open = False
            self._end_parallel()
            warnings.warn("a reservation was neither settled nor released", ResourceWarning, 2)

    def _all(self) -> tuple[tuple[BoundMeters, int], ...]:
        """Everything held, with the tick at which its request was counted."""
        return ((self._bound, self._tick), *self._extra)

    def _end_parallel(self) -> None:
        for parallel, _ in self._bound.parallel:
            parallel.used -= 1
        for bound, _ in self._extra:
            for parallel, _ in bound.parallel:
                parallel.used -= 1

    def _correct(self, tick: int, amount: int) -> None:
        for bound, _ in self._all():
            bound.advance(tick)
            correct_all(bound.tokens, self._booked, amount)

    def _not_held(self, extra: BoundMeters) -> BoundMeters | None:
        held = {meter.id for bound, _ in self._all() for _, meter in bound.meters}
        added = [(spec, meter) for spec, meter in extra.meters if meter.id not in held]
        return BoundMeters(added) if added else None

    def _rebook(self, now: float, tokens: int, added: BoundMeters | None) -> None:
        """Take the tokens out of where they are booked, check, and count them now."""
        tick = tick_of(now)
        taken = self._take_tokens(tick)
        growing = [(spec, window) for spec, window, own in taken if tokens > own]
        try:
            check(now, tokens, added, growing)
        except Exceeded:
            for _, window, own in taken:
                window.correct(self._booked, own)
            raise
        for _, window, _ in taken:
            window.add(tokens)
        self._booked = tick
        if added is not None:
            added.count(tokens)
            self._extra = (*self._extra, (added, tick))

    def _take_tokens(self, tick: int) -> list[tuple[MeterSpec, Window, int]]:
        """Empty what is booked; with each window the amount that still counted there."""
        taken = []
        for bound, _ in self._all():
            for spec, meter in bound.meters:
                if spec.unit == "tokens":
                    meter.window.advance(tick)
                    own = -meter.window.correct(self._booked, -self._tokens)
                    taken.append((spec, meter.window, own))
        return taken
