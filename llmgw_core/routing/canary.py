"""Is a canary worse than what it is to replace? Pure: calls in, a verdict out.

The test is Page's cumulative sum (E. S. Page, "Continuous inspection schemes", Biometrika 1954):
every call of the canary adds the logarithm of how much likelier its outcome is if the share of bad
calls were `excess` above the baseline's than if it were the same; the sum never falls below 0, and
the canary goes when it reaches `THRESHOLD`. Therefore

- a canary as good as its baseline runs 100,000 calls between two false alarms of each test on
  average, or more;
- one that fails 20 % of its calls beside a baseline that fails 1 % or less is out after 28 calls
  in one half of the cases, and after 100 in 999 of 1,000 (tests/routing/test_canary.py).

Both hold for calls that are independent of one another, beside a baseline whose share is known.

"Bad" is said twice: failed, and slow to its first token. What is slow is measured by the baseline's
own median, and the baseline has a share of slow calls as well: no distribution is assumed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmgw_core.domain.alias import CanaryRules

THRESHOLD: Final = math.log(100_000)
SLOW_EXCESS: Final = 0.3
"""How much larger the share of slow calls is that is looked for: of a canary whose median is where
the slow calls of the baseline begin, one half is slow."""

_FLOOR: Final = 0.01
_PRIOR_CALLS: Final = 20
_FORGET: Final = 2000
_RECENT: Final = 0.1
_BROKEN: Final = 0.9
_REMEMBERED: Final = 200


class Baseline:
    """The share of bad calls of what the canary is compared with. The larger one of two: of the
    last few thousand calls, and of the last ten or so, so that an outage of everything is not
    taken for the canary's fault."""

    __slots__ = ("bad", "calls", "recent")

    def __init__(self) -> None:
        self.bad = 0.0
        self.calls = 0.0
        self.recent = 0.0

    def add(self, *, bad: bool) -> None:
        """One more call."""
        if self.calls >= _FORGET:
            self.calls /= 2
            self.bad /= 2
        self.calls += 1
        self.bad += bad
        self.recent += _RECENT * (bad - self.recent)

    @property
    def share(self) -> float:
        """Between 0.01 and 1. Before there are calls it is taken for 5 %."""
        lasting = (self.bad + 1) / (self.calls + _PRIOR_CALLS)
        return max(_FLOOR, lasting, self.recent)


class ShareTest:
    """Whether the share of bad calls is `excess` above that of `baseline`."""

    __slots__ = ("bad", "baseline", "calls", "excess", "score")

    def __init__(self, excess: float) -> None:
        self.excess = excess
        self.baseline = Baseline()
        self.score = 0.0
        self.calls = 0
        self.bad = 0

    def add(self, *, bad: bool) -> None:
        """One more call of the canary."""
        self.calls += 1
        self.bad += bad
        usual = self.baseline.share
        if usual >= _BROKEN:
            return  # where nothing works nothing can be compared
        worse = min(usual + self.excess, 0.99)
        likelier = worse / usual if bad else (1 - worse) / (1 - usual)
        self.score = max(0.0, self.score + math.log(likelier))

    @property
    def failed(self) -> bool:
        """Whether it is worse beyond doubt."""
        return self.score >= THRESHOLD


class Median:
    """The median of the last values; None until there are `minimum`."""

    __slots__ = ("_minimum", "_order", "_sorted")

    def __init__(self, minimum: int) -> None:
        self._minimum = min(minimum, _REMEMBERED)
        self._order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """One more value."""
        if len(self._order) == _REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._order.popleft())]
        self._order.append(value)
        insort(self._sorted, value)

    @property
    def value(self) -> float | None:
        """The upper one of the two in the middle, if there are two."""
        count = len(self._sorted)
        return self._sorted[count // 2] if count >= self._minimum else None


class CanaryJudge:
    """Watches one canary by `rules`. First tokens of streams and of complete replies (which have
    theirs with their last) are compared among themselves."""

    def __init__(self, rules: CanaryRules) -> None:
        self.rules = rules
        self.errors = ShareTest(1.0 if rules.errors is None else rules.errors)
        self.slow = {stream: ShareTest(SLOW_EXCESS) for stream in (False, True)}
        self._medians = {stream: Median(rules.minimum_calls) for stream in (False, True)}

    def baseline(self, *, failed: bool, stream: bool, first: float | None) -> None:
        """A call of the baseline has ended; `first` is the time to its first token in seconds,
        None if there was none."""
        self.errors.baseline.add(bad=failed)
        if first is not None and not failed:
            slow = self._is_slow(stream, first)
            if slow is not None:
                self.slow[stream].baseline.add(bad=slow)
            self._medians[stream].add(first)

    def canary(self, *, failed: bool, stream: bool, first: float | None) -> str | None:
        """A call of the canary has ended. The reason to take it out, as a sentence, or None."""
        self.errors.add(bad=failed)
        if first is not None and not failed:
            slow = self._is_slow(stream, first)
            if slow is not None:
                self.slow[stream].add(bad=slow)
        return self.verdict()

    def verdict(self) -> str | None:
        """The reason to take the canary out, as a sentence, or None."""
        rules, errors = self.rules, self.errors
        if errors.calls < rules.minimum_calls:
            return None
        if rules.errors is not None and errors.failed:
            return (
                f"{errors.bad} of {errors.calls} calls failed;"
                f" of the baseline's {errors.baseline.share:.1%} or less."
            )
        for stream, test in self.slow.items():
            if test.calls >= rules.minimum_calls and test.failed:
                what = "streams" if stream else "complete replies"
                return (
                    f"{test.bad} of {test.calls} {what} were slower to their first token than"
                    f" {rules.slower:g} times the baseline's median;"
                    f" of the baseline's {test.baseline.share:.1%} or less."
                )
        return None

    def _is_slow(self, stream: bool, first: float) -> bool | None:
        median = self._medians[stream].value
        if self.rules.slower is None or median is None:
            return None
        return first > self.rules.slower * median
