"""A clock for tests, to be given wherever a clock is asked for."""

from __future__ import annotations


class FakeClock:
    """Stands still at `now` (seconds) until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The present."""
        return self.now
