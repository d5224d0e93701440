"""A sliding window counter in slots: what was counted in the last `seconds`, never too little.

Rule of this file: counting is exact, forgetting is late. A slot counts until its last instant
has left the window, so a sum kept below a limit bounds what happened in *any* stretch of
`seconds`. The price is the precision: an amount may stay up to one slot too long.

Time comes in as ticks of half a second (`tick_of`), the same for every window, so that one
reading of the clock serves all meters of a call. Windows of up to two minutes have slots of one
tick; longer ones have slots of 2, 4, 8... ticks, so that no window has more than 241 slots.
"""

from __future__ import annotations

import math

TICKS_PER_SECOND = 2
"""Resolution of time: the finest slot is half a second."""

MAX_SLOTS = 240
"""A longer window gets wider slots rather than more of them."""

ROUNDING = 1e-6
"""Seconds added to a wait so that a caller who waits exactly that long is past the boundary
in spite of floating point."""


def tick_of(now: float) -> int:
    """The tick that the instant `now` (seconds of a monotonic clock) lies in."""
    return int(now * TICKS_PER_SECOND)


def correct_all(windows: tuple[tuple[Window, int], ...], booked: int, amount: int) -> None:
    """Change in all `windows`, which are up to date, what was booked at tick `booked` by
    `amount`. Nearly always that slot is still the present one, which costs no call."""
    for window, _ in windows:
        if booked >> window.shift != window.slot:
            window.correct(booked, amount)
            continue
        total, past = window.total + amount, window.past
        window.total = total if total > past else past  # noqa: FURB136 -- a call is dear here


class Window:
    """Amounts counted over the last `seconds`: `total`, of which `past` in the slots before the
    present one. `tick` is the time up to which that holds; call `advance` first when time has moved
    on.
    `slot` is the number of the present slot (`tick >> shift`), `size` how many slots count.

    These are plain attributes for the hot path of `meters`; nobody else changes them.
    """

    __slots__ = (
        "_at",
        "_last",
        "_slots",
        "past",
        "seconds",
        "shift",
        "size",
        "slot",
        "tick",
        "total",
    )

    def __init__(self, seconds: float, tick: int = 0) -> None:
        self._shape(seconds, tick)

    def _shape(self, seconds: float, tick: int) -> None:
        ticks = max(1, math.ceil(seconds * TICKS_PER_SECOND))
        shift = max(0, math.ceil(math.log2(ticks / MAX_SLOTS)))
        self.seconds = seconds
        self.shift = shift
        # One slot more than the window is long: the current slot is not yet over.
        self.size = -(-ticks >> shift) + 1
        self._slots = [0] * self.size
        """What was counted in the slots before the present one, whose place is `_at`."""
        self.past = self.total = 0
        self.tick = tick
        self.slot = tick >> shift
        self._at = self.slot % self.size
        self._last = self.slot

    @property
    def current(self) -> int:
        """What was counted in the present slot."""
        return self.total - self.past

    @property
    def precision(self) -> float:
        """Seconds that an amount may stay longer than the window.

        One slot, and for windows that are no multiple of a slot the rest of another.
        """
        return (self.size << self.shift) / TICKS_PER_SECOND - self.seconds

    def advance(self, tick: int) -> None:
        """Let time move on to `tick`; an earlier tick changes nothing."""
        if tick <= self.tick:
            return
        self.tick = tick
        slot = tick >> self.shift
        passed = slot - self.slot
        if not passed:
            return
        slots, at = self._slots, self._at
        if self.total > self.past:
            self._last = self.slot
            slots[at] = self.total - self.past
            self.past = self.total
        self.slot = slot
        self._at = slot % self.size
        if not self.past:
            return
        if passed >= self.size:
            for index in range(self.size):
                slots[index] = 0
            self.past = self.total = 0
            return
        for _ in range(passed):
            at += 1
            if at == self.size:
                at = 0
            if slots[at]:
                self.past -= slots[at]
                slots[at] = 0
        self.total = self.past

    def add(self, amount: int) -> None:
        """Count `amount` (not negative) now."""
        self.total += amount

    def correct(self, booked: int, amount: int) -> int:
        """Change what was booked at tick `booked` by `amount`; returns by how much it changed.

        While that slot counts, the change is made there. Afterwards a positive change counts
        from now on (a long stream must not escape) and a negative one is void.
        """
        slot = booked >> self.shift
        if self.slot - slot >= self.size:
            if amount <= 0:
                return 0
            slot = self.slot
        # More than the slot holds was never booked there (a reshaped window may have moved it);
        # a slot below zero would let later traffic through.
        if slot == self.slot:
            amount = max(amount, -self.current)
            self.total += amount
            return amount
        at = slot % self.size
        self._last = max(self._last, slot)
        amount = max(amount, -self._slots[at])
        self.past += amount
        self.total += amount
        self._slots[at] += amount
        return amount

    def _counted_in(self, slot: int) -> int:
        return self.current if slot == self.slot else self._slots[slot % self.size]

    def time_until_room(self, amount: int, limit: int, now: float) -> float:
        """Seconds until `amount` more would fit `limit` if nothing else came; 0.0 = now.

        `inf` when it never fits. `advance` must have been called for `now`.
        """
        if amount > limit:
            return math.inf
        excess = self.total + amount - limit
        if excess <= 0:
            return 0.0
        slot = self.slot - self.size
        while excess > 0:
            slot += 1
            excess -= self._counted_in(slot)
        return self._leaves(slot) - now + ROUNDING

    def time_until_empty(self, now: float) -> float:
        """Seconds until everything has left the window if nothing else came."""
        if self.current:
            return ((self.slot + self.size) << self.shift) / TICKS_PER_SECOND - now
        if not self.past:
            return 0.0
        last = self._last
        while not self._slots[last % self.size]:
            last -= 1
        self._last = last
        return self._leaves(last) - now

    def _leaves(self, slot: int) -> float:
        """The instant at which `slot` stops counting, in seconds of the clock."""
        return ((slot + self.size) << self.shift) / TICKS_PER_SECOND

    def reshape(self, seconds: float) -> None:
        """Take another length and keep what is counted, each amount as late as its slot ends."""
        oldest = self.slot - self.size + 1
        counted = [
            (min(((slot + 1) << self.shift) - 1, self.tick), amount)
            for slot in range(oldest, self.slot + 1)
            if (amount := self._counted_in(slot))
        ]
        self._shape(seconds, self.tick)
        for booked, amount in counted:
            if self.slot - (booked >> self.shift) < self.size:
                self.correct(booked, amount)
