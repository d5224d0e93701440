"""How fast a key spends: the last ten minutes, and what is usual for it.

Usual is the average of the ten minutes in which something was spent, older ones counting less.
Ten minutes in which a call was refused for that very reason teach nothing, unless somebody who
knows has lifted the brake: else a loop would make itself usual. Pure; instants are seconds of a
clock that never goes backwards, amounts nano-units.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from llmgw_core.limits.brake_rules import Speed

WINDOW: Final = 600.0
"""Seconds that are looked back at."""
_MINUTE: Final = 60.0
_DECAY: Final = 0.5 ** (1 / 144)
"""Of a ten minutes' weight after another ten in which something was spent: 24 hours of them count
half."""


class History(NamedTuple):
    """What is usual: the sum of the past, decayed, and the sum of its weights."""

    total: float = 0.0
    weight: float = 0.0

    @property
    def usual(self) -> float:
        """Spent in ten minutes, on average; 0 when nothing is known."""
        return self.total / self.weight if self.weight > 0 else 0.0

    def after(self, spent: float) -> History:
        """With another ten minutes."""
        return History(self.total * _DECAY + spent, self.weight * _DECAY + 1)


UNKNOWN: Final = History()


class Pace:
    """The spending of one key."""

    __slots__ = ("_minutes", "_slot", "_slot_spent", "_teaches", "history", "told")

    def __init__(self, history: History = UNKNOWN) -> None:
        self.history = history
        self.told: set[tuple[str, Speed]] = set()
        """What has been told since it was slow."""
        self._minutes: deque[list[int]] = deque()
        self._slot = 0
        self._slot_spent = 0
        self._teaches = True

    def add(self, amount: int, now: float) -> None:
        """`amount` was spent."""
        self._turn(now)
        self._slot_spent += amount
        minute = int(now / _MINUTE)
        if self._minutes and self._minutes[-1][0] == minute:
            self._minutes[-1][1] += amount
        else:
            self._minutes.append([minute, amount])

    def recent(self, now: float) -> int:
        """Spent in the last ten minutes; a minute that has begun to leave them still counts."""
        self._turn(now)
        minutes = self._minutes
        while minutes and (minutes[0][0] + 1) * _MINUTE + WINDOW <= now:
            minutes.popleft()
        return sum(amount for _, amount in minutes)

    def bar(self, speed: Speed) -> float:
        """What `speed` lets be spent in ten minutes."""
        return max(speed.floor, speed.factor * self.history.usual)

    def below(self, bar: float, now: float) -> float:
        """When less than `bar` will have been spent in ten minutes, if nothing comes."""
        left = self.recent(now)
        for minute, amount in self._minutes:
            if left < bar:
                break
            left -= amount
            now = max(now, (minute + 1) * _MINUTE + WINDOW)
        return now

    def exceeded(self, now: float) -> None:
        """A call was refused: what is spent now is not usual."""
        self._turn(now)
        self._teaches = False

    def _turn(self, now: float) -> None:
        slot = int(now / WINDOW)
        if slot != self._slot:
            if self._slot_spent > 0 and self._teaches:
                self.history = self.history.after(self._slot_spent)
            self._slot, self._slot_spent, self._teaches = slot, 0, True
