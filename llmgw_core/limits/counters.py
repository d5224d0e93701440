"""The meters of one process that are not on the fast path: windows and parallel calls in shadow
mode, and windows of one kind of tokens. They count in the very windows that the fast path uses, so
that a limit keeps its counts when it leaves the shadow."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.limits.port import MeterState
from llmgw_core.limits.window import tick_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from llmgw_core.limits.port import Counter, Demand, MeterSpec
    from llmgw_core.limits.window import Window

PARALLEL_RETRY = 1.0
"""Seconds to suggest when all parallel slots are taken: nobody knows when a call ends."""


class Parallel:
    """Calls in flight. Implements `limits.port.Counter`."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0

    def wait(self, spec: MeterSpec, amount: int, now: float) -> float:
        """See the port."""
        if spec.limit <= 0:
            return math.inf
        return 0.0 if self.used < spec.limit else PARALLEL_RETRY

    def count(self, amount: int, now: float) -> None:
        """See the port."""
        self.used += amount

    def change(self, booking: None, held: int, amount: int, now: float) -> None:
        """See the port."""
        self.used += amount - held

    def end(self, booking: None, held: int, used: int, now: float) -> None:
        """See the port."""
        self.used += used - held

    def state(self, spec: MeterSpec, now: float) -> MeterState:
        """See the port."""
        return MeterState(spec.limit, max(0, spec.limit - self.used), 0.0)


class WindowCounter:
    """A sliding window as a `limits.port.Counter`. A booking is the tick."""

    __slots__ = ("_window",)

    def __init__(self, window: Window) -> None:
        self._window = window

    def wait(self, spec: MeterSpec, amount: int, now: float) -> float:
        """See the port."""
        if spec.limit <= 0:
            return math.inf  # forbidden, even an amount of 0
        self._window.advance(tick_of(now))
        return self._window.time_until_room(amount, spec.limit, now)

    def count(self, amount: int, now: float) -> int:
        """See the port."""
        tick = tick_of(now)
        self._window.advance(tick)
        self._window.add(amount)
        return tick

    def change(self, booking: int, held: int, amount: int, now: float) -> int:
        """See the port. Less counts where it was booked, more counts anew from now on. When what
        was booked has left the window, only what is more does: nothing else was asked for."""
        tick = tick_of(now)
        self._window.advance(tick)
        if amount <= held:
            self._window.correct(booking, amount - held)
            return booking
        own = -self._window.correct(booking, -held)
        if own == held:
            self._window.add(amount)
            return tick
        self._window.add(own + amount - held)
        return booking

    def end(self, booking: int, held: int, used: int, now: float) -> None:
        """See the port."""
        self._window.advance(tick_of(now))
        self._window.correct(booking, used - held)

    def state(self, spec: MeterSpec, now: float) -> MeterState:
        """See the port."""
        self._window.advance(tick_of(now))
        left = max(0, spec.limit - self._window.total)
        return MeterState(spec.limit, left, self._window.time_until_empty(now))


def amount_of(spec: MeterSpec, tokens: int, demand: Demand | None) -> int:
    """What a call with `tokens` and `demand` asks of a meter: at least 0."""
    if spec.unit == "tokens":
        if demand is not None and spec.kind != "all":
            tokens = demand.input_tokens if spec.kind == "input" else demand.output_tokens
        return max(0, tokens)
    if spec.unit == "money":
        return 0 if demand is None else demand.money
    return 1


class Held(msgspec.Struct, eq=False):
    """What one call has booked in a `Counter`."""

    spec: MeterSpec
    counter: Counter
    booking: Any
    amount: int

    @classmethod
    def of(
        cls, spec: MeterSpec, counter: Counter, tokens: int, demand: Demand | None, now: float
    ) -> Held:
        """Count it."""
        amount = amount_of(spec, tokens, demand)
        return cls(spec, counter, counter.count(amount, now), amount)

    def wait_for(self, amount: int, now: float) -> float:
        """Seconds until what is booked may be `amount`; it is asked only where that is more."""
        more = amount - self.amount
        if more <= 0:
            return 0.0
        wait = self.counter.wait(self.spec, more, now)
        never = self.counter.wait(self.spec, amount, now) == math.inf
        return math.inf if never else wait

    def change(self, amount: int, now: float) -> None:
        """The call needs `amount` from now on."""
        if amount != self.amount:
            self.booking = self.counter.change(self.booking, self.amount, amount, now)
            self.amount = amount

    def settle(self, tokens: int, used: Demand | None, now: float) -> None:
        """The call is over and used that; its request stays counted."""
        amount = 0 if self.spec.unit == "parallel" else amount_of(self.spec, tokens, used)
        self.counter.end(self.booking, self.amount, amount, now)

    def release(self, now: float) -> None:
        """The call never happened."""
        self.counter.end(self.booking, self.amount, 0, now)

    def forget(self, now: float) -> None:
        """Nobody knows what the call has used: what was reserved stays counted."""
        left = 0 if self.spec.unit == "parallel" else self.amount
        self.counter.end(self.booking, self.amount, left, now)


def tightest_of(states: Iterable[MeterState | None]) -> MeterState | None:
    """Of several states the one with the least remaining."""
    found = None
    least = sys.maxsize
    for state in states:
        if state is not None and state.remaining < least:
            found, least = state, state.remaining
    return found
