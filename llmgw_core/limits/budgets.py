"""Reserving in budgets: all that apply to a call, or none.

Rule of this file: pure and without waiting, so that a reservation is one step and no race of calls
gets past a budget. What one process admits never reserves more than there is, so what is spent can
exceed a budget only by what calls under way cost beyond their estimates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.limits.budget_counts import Measure
from llmgw_core.limits.periods import EVER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.domain.limits import Budget
    from llmgw_core.limits.budget_counts import Account, Count, Counter

MOMENT = 1.0
"""Seconds to wait where calls under way hold what is left: nobody knows when they end."""


class Need(NamedTuple):
    """What a call may use: `tokens` and `money` (nano-units). Of that, `sure_tokens` and
    `sure_money` are what it has asked for; the rest is a guess, which must not make a call
    impossible that may fit."""

    tokens: int
    money: int
    sure_tokens: int
    sure_money: int

    def beside(self, paid: int) -> Need:
        """The same for a call that has been charged `paid` already."""
        return self._replace(money=self.money + paid, sure_money=self.sure_money + paid)


class Line(NamedTuple):
    """One budget that applies, with what is counted for it."""

    account: Account
    counter: Counter
    budget: Budget


class BudgetExceeded(Exception):
    """No room in the budget of `line`. `spent_out`: what was spent leaves none, so only the end of
    the period helps; else calls under way may give something back. `need` is what the call would
    take, `end_ns` when the period ends, `EVER` if it does not."""

    def __init__(self, line: Line, count: Count, need: int, at_ns: int) -> None:
        super().__init__(name_of(line))
        self.line = line
        self.need = need
        self.end_ns = count.end_ns
        self.spent_out = count.spent + need > line.budget.amount
        self.never = need > line.budget.amount
        self.retry_after = MOMENT
        if self.spent_out:
            self.retry_after = max(MOMENT, (count.end_ns - at_ns) / 1e9)

    @property
    def resets(self) -> bool:
        """Whether the budget has periods."""
        return self.end_ns != EVER


def name_of(line: Line) -> str:
    """What the budget is called where operators read of it: `team:team_1:money:month`."""
    budget = line.budget
    return f"{line.account.kind}:{line.account.id}:{budget.unit}:{budget.period}"


class Purse:
    """The budgets of one principal, whatever it calls. `refused` hears of every line that has no
    room, those in shadow too, and must not raise."""

    __slots__ = ("_counters", "_places", "_refused", "lines")

    def __init__(
        self, lines: Sequence[Line], refused: Callable[[Line, BudgetExceeded], None]
    ) -> None:
        self.lines = tuple(lines)
        least: dict[int, int] = {}
        counters: dict[int, Counter] = {}
        for line in lines:
            place = id(line.counter)
            counters[place] = line.counter
            if not line.budget.shadow:
                least[place] = min(least.get(place, EVER), line.budget.amount)
        self._counters = tuple((each, least.get(place, EVER)) for place, each in counters.items())
        places = {place: index for index, place in enumerate(counters)}
        self._places = tuple(places[id(line.counter)] for line in lines)
        self._refused = refused

    def reserve(self, at_ns: int, need: Need) -> Hold:
        """Reserve for a call that began at `at_ns`. Raises `BudgetExceeded` and reserves nothing
        when a budget has no room."""
        held = self._needs(at_ns, need)
        self.check(at_ns, held, [0] * len(held))
        for count, amount in held:
            count.reserved += amount
        return Hold(self, at_ns, held)

    def examine(self, at_ns: int, need: Need) -> None:
        """Raise what `reserve` would raise now, and change nothing."""
        held = self._needs(at_ns, need)
        self.check(at_ns, held, [0] * len(held), quietly=True)

    def remaining(self, at_ns: int) -> list[tuple[Line, int]]:
        """What is left in each budget that can refuse: amount less spent and reserved, at least
        0."""
        left = []
        for line in self.lines:
            if not line.budget.shadow:
                count = line.counter.at(at_ns)
                left.append((line, max(0, line.budget.amount - count.spent - count.reserved)))
        return left

    def amounts(self, need: Need) -> list[int]:
        """What `need` comes to for each counter."""
        amounts = []
        for counter, least in self._counters:
            amount, sure = (
                (need.money, need.sure_money) if counter.money else (need.tokens, need.sure_tokens)
            )
            if amount > least >= sure:
                amount = least
            amounts.append(amount)
        return amounts

    def _needs(self, at_ns: int, need: Need) -> list[tuple[Count, int]]:
        counts = (counter.at(at_ns) for counter, _ in self._counters)
        return list(zip(counts, self.amounts(need), strict=True))

    def check(
        self,
        at_ns: int,
        held: Sequence[tuple[Count, int]],
        own: Sequence[int],
        *,
        quietly: bool = False,
    ) -> None:
        """Raise `BudgetExceeded` unless there is room for `held`, of which `own` is reserved
        already. `quietly`: nobody hears of it."""
        found: list[BudgetExceeded] = []
        for line, place in zip(self.lines, self._places, strict=True):
            count, amount = held[place]
            more = amount - own[place]
            # What costs nothing exceeds nothing.
            if more <= 0 or count.spent + count.reserved + more <= line.budget.amount:
                continue
            error = BudgetExceeded(line, count, amount, at_ns)
            if not quietly:
                self._refused(line, error)
            if not line.budget.shadow:
                found.append(error)
        if found:
            raise max(found, key=_weight)


def _weight(error: BudgetExceeded) -> tuple[bool, bool, int]:
    """Of several budgets without room the caller hears of the one that lets him through last;
    where one has no model in reserve, the others' do not help."""
    return not error.line.budget.fallback, error.spent_out, error.end_ns


class Hold:
    """What one call has reserved. It is ended once; further ends do nothing."""

    __slots__ = ("_at_ns", "_held", "_open", "_purse")

    def __init__(self, purse: Purse, at_ns: int, held: list[tuple[Count, int]]) -> None:
        self._purse = purse
        self._at_ns = at_ns
        self._held = held
        self._open = True

    def grow(self, need: Need) -> None:
        """Reserve for `need` wherever that is more. Raises `BudgetExceeded`, and changes nothing,
        when there is no room."""
        if not self._open:
            return
        own = [amount for _, amount in self._held]
        wanted = list(map(max, own, self._purse.amounts(need)))
        counts = [count for count, _ in self._held]
        self._purse.check(self._at_ns, list(zip(counts, wanted, strict=True)), own)
        self._set(wanted)

    def shrink(self, need: Need) -> None:
        """Reserve for `need`, which is what is reserved, or less."""
        if self._open:
            self._set(self._purse.amounts(need))

    def end(self) -> None:
        """Give everything back: the call is settled, or never happened."""
        if self._open:
            self._set([0] * len(self._held))
            self._open = False

    def _set(self, amounts: list[int]) -> None:
        for place, (count, before) in enumerate(self._held):
            count.reserved += amounts[place] - before
            self._held[place] = (count, amounts[place])


def lines_of(account: Account, budgets: Sequence[Budget]) -> list[Line]:
    """The lines for `budgets` of a level whose counters have been read."""
    return [Line(account, account.counters[Measure.of(each)], each) for each in budgets]
