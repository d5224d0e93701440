"""How long a deployment takes, as a number that believes bad news at once and good news slowly.

A peak-sensitive moving average ("peak EWMA", known from Finagle and Linkerd): an observation
above the estimate replaces it, one below moves it by how much time has passed. So one slow answer
is enough to be avoided, and a burst of fast ones (of a deployment that answers every call with an
error, say) does not hide it. Nothing is known at first, which is not the same as 0 seconds: who
has never answered must not look like the fastest of all.
"""

from __future__ import annotations

from math import exp

DECAY = 10.0
"""Seconds after which an old observation counts for 1/e."""


class PeakEwma:
    """The estimate in seconds, None until something was observed; `at` is when that was last,
    on a monotonic clock."""

    __slots__ = ("at", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.at = 0.0

    def observe(self, seconds: float, now: float) -> None:
        """A call took `seconds`, and that was seen `now`."""
        known = self.seconds
        if known is None or seconds >= known:
            self.seconds = seconds
        else:
            kept = exp((self.at - now) / DECAY)
            self.seconds = seconds + (known - seconds) * kept
        self.at = now

    def toward(self, other: float, now: float) -> float:
        """What to expect `now` beside somebody who takes `other` seconds. The older the last
        observation, the less it tells the two apart: who was slow is tried again, and nobody who
        is unknown is taken for fast."""
        known = self.seconds
        if known is None:
            return other
        return other + (known - other) * exp((self.at - now) / DECAY)
