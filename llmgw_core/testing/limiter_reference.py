"""What meters of every kind and shape have to count, as naively as it can be written: nothing is
summed up in advance, and everything is a fraction. The other opinion in the tests of limiters.

Rule of this file: time moves on a grid (`GRID` seconds) that no implementation's precision reaches
over, so that an amount counts or does not, and there is one right answer.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from llmgw_core.limits.port import MeterState

if TYPE_CHECKING:
    from llmgw_core.limits.port import MeterSpec

GRID = 8.0


class Reference(Protocol):
    """What one meter should have counted. Bookings are whatever it wants to remember."""

    def fits(self, spec: MeterSpec, amount: int, now: float) -> bool:
        """Whether `amount` more is within the limit."""
        ...

    def book(self, amount: int, now: float) -> Any:
        """Count it."""
        ...

    def change(self, booking: Any, amount: int, now: float) -> Any:
        """It is `amount` from now on."""
        ...

    def empty(self, now: float) -> bool:
        """Nothing counts."""
        ...


class Entry:
    """An amount and its instant."""

    def __init__(self, at: float, amount: int) -> None:
        self.at = at
        self.amount = amount
        self.held = amount


class ReferenceWindow:
    """A sliding window: the entries themselves."""

    def __init__(self, window: float) -> None:
        self.window = window
        self.entries: list[Entry] = []

    def total(self, now: float) -> int:
        """What counts."""
        return sum(each.amount for each in self.entries if now - each.at <= self.window)

    def fits(self, spec: MeterSpec, amount: int, now: float) -> bool:
        """See `Reference`."""
        return self.total(now) + amount <= spec.limit

    def book(self, amount: int, now: float) -> Entry:
        """See `Reference`."""
        entry = Entry(now, amount)
        self.entries.append(entry)
        return entry

    def change(self, booking: Entry, amount: int, now: float) -> Entry:
        """See `Reference`: there, while that counts; more of what has gone counts now."""
        more, booking.held = amount - booking.held, amount
        if now - booking.at <= self.window:
            booking.amount += more
        elif more > 0:
            self.book(more, now)
        return booking

    def regrow(self, booking: Entry, amount: int, now: float, *, plain: bool) -> Entry:
        """More is needed while the call runs, and everything counts from now on; of what has left
        a window that is not `plain`, only what is more."""
        if not plain and now - booking.at > self.window:
            return self.change(booking, amount, now)
        booking.amount = 0
        return self.book(amount, now)

    def empty(self, now: float) -> bool:
        """See `Reference`."""
        return not self.total(now)


class ReferenceBucket:
    """A bucket: every pouring, and the level that follows from all of them, each time anew."""

    def __init__(self, spec: MeterSpec) -> None:
        self.rate = Fraction(spec.limit) / Fraction(spec.window)
        self.pours: list[Entry] = []
        self.loose = False
        """Something was given back of what had grown: an implementation may keep more."""

    def level(self, now: float) -> Fraction:
        """What is in it."""
        level, at = Fraction(0), Fraction(0)
        for pour in self.pours:
            level = max(Fraction(0), level - self.rate * (Fraction(pour.at) - at)) + pour.amount
            at = Fraction(pour.at)
        return max(Fraction(0), level - self.rate * (Fraction(now) - at))

    def fits(self, spec: MeterSpec, amount: int, now: float) -> bool:
        """See `Reference`."""
        return self.level(now) + amount <= spec.capacity

    def book(self, amount: int, now: float) -> list[Entry]:
        """See `Reference`."""
        self.pours.append(Entry(now, amount))
        return [self.pours[-1]]

    def change(self, booking: list[Entry], amount: int, now: float) -> list[Entry]:
        """See `Reference`: more is poured now; less was never poured, the last of it first."""
        more = amount - sum(pour.amount for pour in booking)
        if more > 0:
            return booking + self.book(more, now)
        self.loose |= len(booking) > 1 and more < 0
        for pour in reversed(booking):
            taken = min(pour.amount, -more)
            pour.amount -= taken
            more += taken
        return booking

    def empty(self, now: float) -> bool:
        """See `Reference`."""
        return self.level(now) == 0


class Total:
    """Everything since the beginning: what a budget counts. It is a `limits.port.Counter` that
    minds how it is used, and the reference of itself."""

    def __init__(self) -> None:
        self.used = 0
        self.open: dict[int, int] = {}
        self._number = 0

    def wait(self, spec: MeterSpec, amount: int, now: float) -> float:
        """See the port: it never gets less by waiting."""
        return 0.0 if self.used + amount <= spec.limit else 100.0 * GRID

    def count(self, amount: int, now: float) -> int:
        """See the port."""
        self._number += 1
        self.open[self._number] = amount
        self.used += amount
        return self._number

    def change(self, booking: int, held: int, amount: int, now: float) -> int:
        """See the port."""
        assert self.open[booking] == held, "changed from what it was not"
        self.open[booking] = amount
        self.used += amount - held
        return booking

    def end(self, booking: int, held: int, used: int, now: float) -> None:
        """See the port."""
        assert self.open.pop(booking) == held, "ended twice, or as what it was not"
        self.used += used - held

    def state(self, spec: MeterSpec, now: float) -> MeterState:
        """See the port."""
        return MeterState(spec.limit, max(0, spec.limit - self.used), 0.0)
