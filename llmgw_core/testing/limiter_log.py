"""An exact log of what a limiter should have counted: the other opinion in its tests.

Rule of this file: brute force. Every amount is an entry with its instant; nothing is summed up
in advance. An implementation counts an entry for the window, and may for `precision` longer; in
between, two sums bound what it can have counted: `least` and `most`.
"""

from __future__ import annotations

import math

TOLERANCE = 1e-4
"""Seconds of slack for floating point and for rounding up."""


class Booking:
    """One amount as the lower and as the upper bound see it."""

    __slots__ = ("at", "least", "most")

    def __init__(self, at: float, amount: int) -> None:
        self.at = at
        self.least = amount
        self.most = amount


class Log:
    """Everything that one meter was told."""

    def __init__(self, window: float, precision: float) -> None:
        self.window = window
        self.longest = window + precision + TOLERANCE
        self.bookings: list[Booking] = []

    def book(self, at: float, amount: int) -> Booking:
        """Count `amount` at the instant `at`."""
        booking = Booking(at, amount)
        self.bookings.append(booking)
        return booking

    def correct(self, booking: Booking, amount: int, now: float) -> None:
        """The rule for corrections: there if it still counts, else now, else (negative) void."""
        age = now - booking.at
        if age <= self.window:
            booking.least += amount
            booking.most += amount
        elif amount > 0:
            late = self.book(now, amount)
            if age <= self.longest:
                late.least = 0  # it may just as well have gone where it was booked

    def least(self, now: float) -> int:
        """What must be counted at `now`."""
        return sum(b.least for b in self.bookings if now - b.at <= self.window)

    def most(self, now: float) -> int:
        """What can at most be counted at `now`."""
        return sum(b.most for b in self.bookings if now - b.at <= self.longest)

    def longest_wait(self, amount: int, limit: int, now: float) -> float:
        """Seconds after which `amount` must fit if nothing else comes; `inf` = never."""
        if amount > limit or limit <= 0:
            return math.inf
        ends = sorted(b.at + self.longest - now for b in self.bookings if b.most)
        for wait in (0.0, *(end + TOLERANCE for end in ends if end >= 0)):
            if self.most(now + wait) + amount <= limit:
                return wait
        raise AssertionError("an empty window has room")

    def resets(self, now: float) -> tuple[float, float]:
        """The shortest and the longest time until the window is empty."""
        soonest = max((b.at + self.window - now for b in self.bookings if b.least), default=0.0)
        latest = max((b.at + self.longest - now for b in self.bookings if b.most), default=0.0)
        return max(0.0, soonest - TOLERANCE), max(0.0, latest)
