"""What is spent and reserved in the periods of budgets.

Rule of this file: pure, and in whole numbers: nano-units of money, or tokens. What was spent comes
from settled calls alone, each in the period in which it began, so that it is what the books say;
what is reserved comes from calls under way. One period more than the present one is remembered,
since calls end later than they begin and clocks are put back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.limits.periods import EVER, Span, period_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.limits import Budget, BudgetPeriod, BudgetUnit
    from llmgw_core.domain.usage import UsageRecord

REFUSED = 0
"""In place of a percentage: a call was refused for the first time."""


class Mark(NamedTuple):
    """What was told: of a budget of this `amount`, which leads to another model or not, and refuses
    or not, that so many `percent` of it are spent, or `REFUSED`."""

    amount: int
    percent: int
    leads: bool
    shadow: bool

    @classmethod
    def of(cls, budget: Budget, percent: int) -> Mark:
        """What is told of `budget`."""
        return cls(budget.amount, percent, bool(budget.fallback), budget.shadow)


def decimal(nano: int) -> str:
    """Nano-units in units of the currency, exactly: `12.5`, `0.000000001`."""
    sign, nano = "-" * (nano < 0), abs(nano)
    whole, rest = divmod(nano, 10**9)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")


class Measure(NamedTuple):
    """What a counter counts: budgets of one level that differ in their amounts only share it."""

    unit: BudgetUnit
    period: BudgetPeriod
    timezone: str

    @classmethod
    def of(cls, budget: Budget) -> Measure:
        """What `budget` needs counted."""
        return cls(budget.unit, budget.period, budget.timezone)


class Count:
    """One period: `spent` by calls that have ended, `reserved` by calls under way. `alert` is the
    amount from which on there is something to tell that has not been; `marks` are what was told."""

    __slots__ = ("alert", "end_ns", "marks", "reserved", "spent", "start_ns")

    def __init__(self, span: Span, spent: int = 0, marks: Iterable[Mark] = ()) -> None:
        self.start_ns, self.end_ns = span
        self.spent = spent
        self.reserved = 0
        self.marks = set(marks)
        self.alert = EVER


class Counter:
    """The counts of one measure at one level; `current` is that of the latest period so far.
    `cursor`: what the ledger has behind it is not in what was read."""

    __slots__ = ("_earlier", "_thresholds", "current", "cursor", "measure", "money")

    def __init__(self, measure: Measure, current: Count) -> None:
        self.measure = measure
        self.money = measure.unit == "money"
        self.current = current
        self.cursor = 0
        self._earlier: tuple[Count, ...] = ()
        self._thresholds: tuple[tuple[int, Mark], ...] = ()

    def at(self, at_ns: int) -> Count:
        """The count of the period that `at_ns` lies in; of the oldest one that is remembered for
        what is older still (whoever sets a clock back by a period has it read again)."""
        count = self.current
        if count.start_ns <= at_ns < count.end_ns:
            return count
        if at_ns >= count.end_ns:
            return self._roll_over(at_ns)
        for count in self._earlier:
            if count.start_ns <= at_ns < count.end_ns:
                break
        return count

    def holds(self, at_ns: int) -> bool:
        """Whether what was spent in the period of `at_ns` is known."""
        count = self.at(at_ns)
        return count.start_ns <= at_ns < count.end_ns

    def _roll_over(self, at_ns: int) -> Count:
        last = self.current
        kept = (count for count in self._earlier if count.reserved)
        self._earlier = (last, *kept)
        self.current = Count(period_at(self.measure.period, self.measure.timezone, at_ns))
        self._watch(self.current)
        return self.current

    def add(self, record: UsageRecord) -> Count:
        """Count what a call was charged, or has used, in the period in which it began."""
        usage = record.usage
        return self.put(record.started_ns, record.charge, usage.input_tokens + usage.output_tokens)

    def put(self, at_ns: int, charge: int, tokens: int) -> Count:
        """Count so much in the period of `at_ns`; not what is older than all that is known."""
        count = self.at(at_ns)
        if count.start_ns <= at_ns:
            count.spent += charge if self.money else tokens
        return count

    def turn_back(self, current: Count, cursor: int) -> None:
        """Go on with `current`, which was read at `cursor`, if that is of an earlier period: the
        clock was put back."""
        if current.start_ns < self.current.start_ns:
            self.current, self._earlier, self.cursor = current, (), cursor
            self._watch(current)

    def watch(self, budgets: Iterable[Budget]) -> None:
        """These are the budgets, of this measure, whose thresholds count from now on."""
        self._thresholds = tuple(
            sorted(
                (-(-budget.amount * percent // 100), Mark.of(budget, percent))
                for budget in budgets
                for percent in budget.alerts
            )
        )
        for count in (self.current, *self._earlier):
            self._watch(count)

    def crossed(self, count: Count) -> list[Mark]:
        """What is to be told of `count` now, each once: the percentages it has come to."""
        told = [
            mark
            for amount, mark in self._thresholds
            if amount <= count.spent and mark not in count.marks
        ]
        count.marks.update(told)
        self._watch(count)
        return told

    def _watch(self, count: Count) -> None:
        pending = [amount for amount, mark in self._thresholds if mark not in count.marks]
        count.alert = min(pending, default=EVER)


class Account:
    """The budgets of one level: what is counted for it, and the `budgets` in force."""

    __slots__ = (
        "__weakref__",
        "_budgets",
        "counters",
        "given",
        "id",
        "kind",
        "name",
        "stored",
    )

    def __init__(self, kind: LevelKind, id: str) -> None:
        self.kind: LevelKind = kind
        self.id = id
        self.name = ""
        self.counters: dict[Measure, Counter] = {}
        self.stored = False
        """Whether the store says what its budgets are."""
        self.given = False
        """Whether somebody who makes principals says so."""
        self._budgets: tuple[Budget, ...] = ()

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Those in force."""
        return self._budgets

    @budgets.setter
    def budgets(self, budgets: tuple[Budget, ...]) -> None:
        if budgets == self._budgets:
            return
        self._budgets = budgets
        self.watch()

    def watch(self) -> None:
        """Have the counters know the thresholds of the budgets in force."""
        for measure, counter in self.counters.items():
            counter.watch(each for each in self._budgets if Measure.of(each) == measure)

    def lacks(self, budgets: Sequence[Budget]) -> set[Measure]:
        """What has to be read before `budgets` can be held."""
        return {Measure.of(each) for each in budgets} - self.counters.keys()

    def add(self, record: UsageRecord, at_cursor: int = 0) -> list[tuple[Counter, Count]]:
        """Count what a settled call was charged, or a row of the ledger at `at_cursor`, unless
        that was there when the level was read. Returns where something is to be told."""
        telling = []
        for counter in self.counters.values():
            if at_cursor and at_cursor <= counter.cursor:
                continue
            count = counter.add(record)
            if count.spent >= count.alert:
                telling.append((counter, count))
        return telling
