"""The budgets that are known in this process: found by level, fed by settlement, told about once.

Rule of this file: pure. What was spent before is read by whoever has a store (`put`). The accounts
that the store defines are kept; others, of principals that plugins and applications make, live as
long as somebody holds a purse on them.
"""

from __future__ import annotations

from collections import Counter as Tally
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

from llmgw_core.limits.budget_counts import REFUSED, Account, Mark, Measure
from llmgw_core.limits.budgets import Purse, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from llmgw_core.domain.access import LevelKind, Principal
    from llmgw_core.domain.limits import Budget
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.limits.budget_counts import Count, Counter
    from llmgw_core.limits.budgets import BudgetExceeded, Line

LEVEL_KINDS: Final[tuple[LevelKind, ...]] = ("organization", "team", "user", "key")
"""From above downwards."""
Owner = tuple["LevelKind", str]
"""The kind of a level and its id."""


def owners_of(record: UsageRecord) -> Iterator[Owner]:
    """The levels that a call counts for."""
    yield "organization", record.organization_id
    if record.team_id is not None:
        yield "team", record.team_id
    if record.user_id is not None:
        yield "user", record.user_id
    if record.key_id is not None:
        yield "key", record.key_id


class BudgetEvent(NamedTuple):
    """Something that is told once for each period: of the `budget` of a level, `percent` is spent;
    or, with percent 0, a call was refused because of it for the first time (with a budget in
    shadow: would have been). Instants in nanoseconds since the epoch, amounts in nano-units or
    tokens."""

    owner: Owner
    budget: Budget
    percent: int
    start_ns: int
    end_ns: int
    spent: int
    reserved: int


class BudgetBook:
    """See the module. `tell` hears of every event once and must not raise."""

    def __init__(self, tell: Callable[[BudgetEvent], None]) -> None:
        self.tell = tell
        self._alive: WeakValueDictionary[Owner, Account] = WeakValueDictionary()
        self._defined: dict[Owner, Account] = {}
        self.active = False
        """Whether there may be any account. Settlement looks at nothing else if not."""
        self.refused: Tally[tuple[str, str, str, bool]] = Tally()
        """(kind of level, unit, period, shadow) → calls for which a budget had no room."""

    def __len__(self) -> int:
        """Levels whose budgets are known."""
        return len(self._alive)

    def account(self, owner: Owner) -> Account | None:
        """What is known of a level's budgets."""
        return self._alive.get(owner)

    def accounts(self) -> list[Account]:
        """All of them."""
        return list(self._alive.values())

    def missing(self, wanted: Mapping[Owner, tuple[Budget, ...]]) -> dict[Owner, set[Measure]]:
        """What has to be read before the `wanted` budgets can be held."""
        found = {}
        for owner, budgets in wanted.items():
            account = self._alive.get(owner)
            if account is None:
                found[owner] = {Measure.of(each) for each in budgets}
            elif lacking := account.lacks(budgets):
                found[owner] = lacking
        return found

    def put(self, owner: Owner, counters: Iterable[Counter], cursor: int) -> Account:
        """From now on the level has these `counters` as well, which say what was spent until now;
        `cursor` is where the ledger was read. Whoever wants it kept holds the result."""
        account = self._alive.get(owner)
        if account is None:
            account = self._alive[owner] = Account(*owner)
        for counter in counters:
            counter.cursor = cursor
            known = account.counters.setdefault(counter.measure, counter)
            if known is not counter:
                known.turn_back(counter.current, cursor)
        account.watch()
        self.active = True
        return account

    def define(self, owner: Owner, name: str, budgets: tuple[Budget, ...]) -> None:
        """These are the budgets of a level, all of which have been read, as the store says. Tells
        what they have come to already."""
        account = self._alive[owner]
        self._defined[owner] = account
        account.stored, account.name, account.budgets = True, name, budgets
        for counter in account.counters.values():
            if counter.current.spent >= counter.current.alert:
                self._cross(account, counter, counter.current)

    def retain(self, owners: Iterable[Owner]) -> None:
        """Forget the budgets of levels other than `owners` unless something is bound to them."""
        kept = set(owners)
        for owner in self._defined.keys() - kept:
            del self._defined[owner]
        for owner, account in list(self._alive.items()):
            if owner not in kept:
                account.stored = False
                if not account.given:
                    account.budgets = ()
        self.active = bool(self._alive)

    def purse(self, principal: Principal, *, given: bool = False) -> Purse | None:
        """What `principal` may spend from, all of which has been read; None without budgets.
        `given`: a plugin or an application says what its budgets are."""
        lines: list[Line] = []
        for level in principal.levels:
            if level.budgets:
                account = self._alive[level.kind, level.id]
                if not account.stored:
                    account.name, account.budgets = level.name, level.budgets
                    account.given |= given
                lines += lines_of(account, level.budgets)
        return Purse(lines, self.note_refusal) if lines else None

    def settled(self, record: UsageRecord) -> None:
        """A call has been settled, and goes on the books as this."""
        self._add(record, 0)

    def correct(self, rows: Iterable[tuple[int, UsageRecord]]) -> None:
        """The ledger has these corrections, each with its cursor, of which settlement knows
        nothing."""
        for cursor, record in rows:
            self._add(record, cursor)

    def note_refusal(self, line: Line, error: BudgetExceeded) -> None:
        """A call found no room in the budget of `line`."""
        budget = line.budget
        self.refused[line.account.kind, budget.unit, budget.period, budget.shadow] += 1
        mark = Mark.of(budget, REFUSED)
        count = line.counter.current
        if error.spent_out and not error.never and mark not in count.marks:
            count.marks.add(mark)
            self.tell(_event(line.account, budget, REFUSED, count))

    def _add(self, record: UsageRecord, cursor: int) -> None:
        for owner in owners_of(record):
            account = self._alive.get(owner)
            if account is not None:
                for counter, count in account.add(record, cursor):
                    self._cross(account, counter, count)

    def _cross(self, account: Account, counter: Counter, count: Count) -> None:
        for mark in counter.crossed(count):
            budget = next(
                each
                for each in account.budgets
                if Measure.of(each) == counter.measure
                and mark.percent in each.alerts
                and Mark.of(each, mark.percent) == mark
            )
            self.tell(_event(account, budget, mark.percent, count))


def _event(account: Account, budget: Budget, percent: int, count: Count) -> BudgetEvent:
    return BudgetEvent(
        (account.kind, account.id),
        budget,
        percent,
        count.start_ns,
        count.end_ns,
        count.spent,
        count.reserved,
    )
