"""How many calls of one model may be tried again: a share of its traffic, against storms.

When everything fails, retries multiply the load of what is too weak already. So they are paid from
an account: every call pays `share` of one in, every second `minimum`, and what has not been used
expires after `WINDOW` seconds. Nobody counts calls for this: how many there were is looked up when
one fails.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 10.0
"""Seconds. What is older does not help; the account opens with this many seconds' minimum."""


class RetryBudget:
    """The account of one model."""

    __slots__ = ("_at", "_balance", "_calls", "granted")

    def __init__(self) -> None:
        self._at = 0.0
        self._balance = -1.0
        self._calls = 0
        self.granted = 0
        """Retries so far."""

    def spend(self, calls: int, now: float, *, share: float, minimum: float) -> bool:
        """Take one retry out at `now` (seconds, never running backwards), when there have been
        `calls` since the beginning. False: nothing is left."""
        if self._balance < 0:  # nobody has asked before
            self._balance, elapsed = minimum * WINDOW, 0.0
        else:
            elapsed = now - self._at
            kept = max(0.0, 1.0 - elapsed / WINDOW)
            self._balance *= kept
        new, self._at, self._calls = max(0, calls - self._calls), now, max(calls, self._calls)
        recent = new if elapsed <= WINDOW else new * WINDOW / elapsed
        self._balance += share * recent + minimum * min(elapsed, WINDOW)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        self.granted += 1
        return True
