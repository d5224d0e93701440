"""A token bucket: at most `capacity` at once, and `limit` in every `window` seconds.

Rule of this file: whole numbers only, so that nothing drifts. The bucket is kept as what has been
poured into it (its level, in units of one amount for one nanosecond of the window) and runs out at
the rate; it is the same as a bucket of tokens that refills (and as GCRA), seen from below. In any
stretch of t seconds at most `capacity + t * limit / window` gets in.

What is given back is given back where it was taken: taking an amount out of the past lowers the
present by no more than the least that has been in the bucket since, because whatever would have
been below the floor would have been no room for later ones. Those least levels are what `_lows`
remembers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

from llmgw_core.limits.port import MeterState
from llmgw_core.limits.window import ROUNDING

if TYPE_CHECKING:
    from llmgw_core.limits.port import MeterSpec

_NANO = 1_000_000_000
_MOST_LOWS = 64
"""More are merged, towards less that is given back."""


class Bucket:
    """Implements `limits.port.Counter`. A booking is the number of the pouring."""

    __slots__ = ("_at", "_level", "_limit", "_lows", "_number", "_window", "capacity")

    def __init__(self, spec: MeterSpec, now: float) -> None:
        self._at = int(now * _NANO)
        self._level = 0
        self._number = 0
        self._lows: list[tuple[int, int]] = []
        """Numbers of pourings with the level just before each, without those that a later one was
        not above: numbers and levels rise, and the first from a number on is the least since."""
        self.shape(spec)

    def shape(self, spec: MeterSpec) -> None:
        """Take the rate and the capacity of `spec`; what is in it stays."""
        window = max(1, round(spec.window * _NANO))
        known = getattr(self, "_window", window)
        if window != known:
            self._level = -(-self._level * window // known)
            self._lows = [(number, low * window // known) for number, low in self._lows]
        self._window = window
        self._limit = max(0, spec.limit)
        self.capacity = spec.capacity

    def wait(self, spec: MeterSpec, amount: int, now: float) -> float:
        """See the port."""
        if spec.limit <= 0 or amount > self.capacity:
            return math.inf
        self._drain(now)
        excess = self._level + (amount - self.capacity) * self._window
        if excess <= 0:
            return 0.0
        return -(-excess // self._limit) / _NANO + ROUNDING if self._limit else math.inf

    def count(self, amount: int, now: float) -> int:
        """See the port."""
        self._drain(now)
        return self._pour(amount * self._window)

    def change(self, booking: int, held: int, amount: int, now: float) -> int:
        """See the port. More is poured in now, less is taken out where it was poured in."""
        self._drain(now)
        if amount > held:
            self._pour((amount - held) * self._window)
        else:
            self._take(booking, (held - amount) * self._window)
        return booking

    def end(self, booking: int, held: int, used: int, now: float) -> None:
        """See the port."""
        self.change(booking, held, used, now)

    def state(self, spec: MeterSpec, now: float) -> MeterState:
        """See the port. `remaining` is what would get in at once."""
        self._drain(now)
        left = (self.capacity * self._window - self._level) // self._window
        reset = -(-self._level // self._limit) / _NANO if self._limit else 0.0
        return MeterState(spec.limit, max(0, left), reset)

    def empty(self, now: float) -> bool:
        """Nothing is in it."""
        self._drain(now)
        return not self._level

    def _drain(self, now: float) -> None:
        at = int(now * _NANO)
        if at > self._at:
            self._level = max(0, self._level - (at - self._at) * self._limit)
            self._at = at

    def _pour(self, units: int) -> int:
        self._number += 1
        self._note(self._number, self._level)
        self._level += units
        return self._number

    def _note(self, number: int, low: int) -> None:
        lows = self._lows
        while lows and lows[-1][1] >= low:
            lows.pop()
        lows.append((number, low))
        if len(lows) > _MOST_LOWS:
            # Two neighbours as one: the number of the later, the level of the lower.
            lows[:2] = [(lows[1][0], lows[0][1])]

    def _take(self, booking: int, units: int) -> None:
        """Take `units` out of what was poured in as number `booking`."""
        lows = self._lows
        # What has been least since just before the next pouring.
        first = self._first_since(booking + 1)
        least = min(self._level, lows[first][1]) if first < len(lows) else self._level
        units = min(units, least)
        self._level -= units
        for index in range(first, len(lows)):
            number, low = lows[index]
            lows[index] = (number, low - units)
        if first < len(lows):
            low = lows[first][1]
            del lows[self._first_not_below(low, first) : first]

    def _first_not_below(self, low: int, end: int) -> int:
        return bisect_left(self._lows, low, 0, end, key=_low)

    def _first_since(self, number: int) -> int:
        return bisect_left(self._lows, (number, -1))


def _low(entry: tuple[int, int]) -> int:
    return entry[1]
