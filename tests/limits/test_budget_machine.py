"""Any interleaving of calls, settlements, midnights, changes and restarts: a budget is exceeded by
no more than calls cost beyond their estimates, and has in the end what the ledger has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.limits import Budget
from llmgw_core.domain.usage import Usage
from llmgw_core.limits.budget_book import BudgetBook, BudgetEvent
from llmgw_core.limits.budget_counts import Count, Counter, Mark, Measure
from llmgw_core.limits.budgets import BudgetExceeded, Hold, Need
from llmgw_core.limits.periods import period_at
from llmgw_core.testing.usage_records import STARTED_NS, usage_record

if TYPE_CHECKING:
    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.limits.budgets import Purse

HOUR = 3_600 * 10**9
MEASURES = (
    Measure("money", "day", "Europe/Berlin"),
    Measure("tokens", "day", "UTC"),
    Measure("money", "month", "UTC"),
    Measure("tokens", "total", "UTC"),
)
AMOUNTS = st.integers(1, 300)
TEAMS = ("a", "b")
"""Both of one organisation, whose budgets they share."""


class Open(NamedTuple):
    """A call under way: of which team, when it began, what it holds, for which need."""

    team: str
    started_ns: int
    hold: Hold
    need: Need


class Budgets(RuleBasedStateMachine):
    """One organisation with two teams."""

    def __init__(self) -> None:
        super().__init__()
        self.now = STARTED_NS
        self.ledger: list[UsageRecord] = []
        self.open: list[Open] = []
        self.amounts: dict[tuple[str, Measure], int] = {}
        self.highest: dict[tuple[str, Measure], int] = {}
        """The largest amount that there was since the last restart."""
        self.events: list[BudgetEvent] = []
        self.told: set[tuple[object, ...]] = set()

    @initialize(amounts=st.lists(AMOUNTS, min_size=12, max_size=12))
    def begin(self, amounts: list[int]) -> None:
        owners = ("o", *TEAMS)
        names = [(owner, measure) for owner in owners for measure in MEASURES]
        self.amounts = dict(zip(names, amounts, strict=True))
        self.restart()

    # What the gateway does

    def restart(self) -> None:
        """Calls under way are lost with the process; what is on the books is read."""
        self.open.clear()
        self.book = BudgetBook(self.hear)
        self.highest = dict(self.amounts)
        for owner in ("o", *TEAMS):
            counters = []
            for measure in MEASURES:
                span = period_at(measure.period, measure.timezone, self.now)
                marks = [
                    Mark.of(event.budget, event.percent)
                    for event in self.events
                    if event.owner[1] == owner
                    and Measure.of(event.budget) == measure
                    and event.start_ns == span.start_ns
                ]
                spent = self.booked(owner, measure, span.start_ns, span.end_ns)
                counters.append(Counter(measure, Count(span, spent, marks)))
            account = self.book.put((kind_of(owner), owner), counters, 0)
            assert account.id == owner
            self.book.define((kind_of(owner), owner), owner, self.budgets(owner))
        self.compile()

    def compile(self) -> None:
        """Principals are read anew."""
        self.purses: dict[str, Purse] = {}
        for team in TEAMS:
            levels = tuple(
                Level(kind_of(each), each, budgets=self.budgets(each)) for each in ("o", team)
            )
            purse = self.book.purse(Principal(levels, "o", team))
            assert purse is not None
            self.purses[team] = purse

    def budgets(self, owner: str) -> tuple[Budget, ...]:
        return tuple(
            Budget(measure.unit, self.amounts[owner, measure], measure.period, measure.timezone)
            for measure in MEASURES
        )

    def hear(self, event: BudgetEvent) -> None:
        key = (event.owner, Measure.of(event.budget), event.budget.amount, event.percent)
        assert (*key, event.start_ns) not in self.told
        self.told.add((*key, event.start_ns))
        self.events.append(event)

    @rule(
        team=st.sampled_from(TEAMS),
        tokens=st.integers(0, 60),
        money=st.integers(0, 60),
        guess=st.integers(0, 100),
    )
    def call(self, team: str, tokens: int, money: int, guess: int) -> None:
        need = Need(tokens + guess, money + guess, tokens, money)
        before = self.held()
        try:
            hold = self.purses[team].reserve(self.now, need)
        except BudgetExceeded as error:
            refusal = error
        else:
            self.admitted(Open(team, self.now, hold, need), before)
            return
        assert self.held() == before
        count = refusal.line.counter.at(self.now)
        assert count.spent + count.reserved + refusal.need > refusal.line.budget.amount

    def admitted(self, call: Open, before: dict[int, int]) -> None:
        """It fits every budget in which it reserves anything."""
        self.open.append(call)
        for line in self.purses[call.team].lines:
            count = line.counter.at(self.now)
            grown = count.reserved > before.get(id(count), 0)
            assert not grown or count.spent + count.reserved <= line.budget.amount

    @precondition(lambda self: self.open)
    @rule(data=st.data(), more=st.integers(0, 40))
    def grow(self, data: st.DataObject, more: int) -> None:
        """A dearer candidate is tried."""
        index = data.draw(st.integers(0, len(self.open) - 1))
        call = self.open[index]
        try:
            call.hold.grow(call.need.beside(more))
        except BudgetExceeded:
            return
        self.open[index] = call._replace(need=call.need.beside(more))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(0, 120), money=st.integers(0, 120))
    def settle(self, data: st.DataObject, tokens: int, money: int) -> None:
        call = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        record = usage_record(
            len(self.ledger),
            started_ns=call.started_ns,
            organization_id="o",
            team_id=call.team,
            user_id=None,
            key_id=None,
            usage=Usage(tokens, 0),
            charge=money,
        )
        call.hold.end()
        self.book.settled(record)
        self.ledger.append(record)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.open.pop(data.draw(st.integers(0, len(self.open) - 1))).hold.end()

    # What happens to it

    @rule(hours=st.integers(1, 30))
    def pass_time(self, hours: int) -> None:
        self.now += hours * HOUR

    @rule(owner=st.sampled_from(("o", *TEAMS)), measure=st.sampled_from(MEASURES), amount=AMOUNTS)
    def change(self, owner: str, measure: Measure, amount: int) -> None:
        self.amounts[owner, measure] = amount
        self.highest[owner, measure] = max(amount, self.highest[owner, measure])
        self.book.define((kind_of(owner), owner), owner, self.budgets(owner))
        self.compile()

    @rule()
    def reload(self) -> None:
        self.compile()

    @rule()
    def kill(self) -> None:
        self.restart()

    # What always holds

    def booked(self, owner: str, measure: Measure, start_ns: int, end_ns: int) -> int:
        return sum(
            record.charge if measure.unit == "money" else record.usage.total_tokens
            for record in self.ledger
            if start_ns <= record.started_ns < end_ns and owner in {"o", record.team_id}
        )

    def held(self) -> dict[int, int]:
        """What is reserved in every period in which anything is."""
        return {
            id(count): count.reserved
            for account in self.book.accounts()
            for counter in account.counters.values()
            for count in (counter.current, *counter._earlier)
            if count.reserved
        }

    @invariant()
    def counts_are_what_is_on_the_books_and_under_way(self) -> None:
        if not self.amounts:
            return
        held: dict[int, int] = {}
        for call in self.open:
            for count, amount in call.hold._held:
                held[id(count)] = held.get(id(count), 0) + amount
        for account in self.book.accounts():
            for measure, counter in account.counters.items():
                for count in (counter.current, *counter._earlier):
                    spent = self.booked(account.id, measure, count.start_ns, count.end_ns)
                    assert count.spent == spent
                    assert count.reserved == held.get(id(count), 0)

    @invariant()
    def no_budget_reserves_more_than_there_is(self) -> None:
        """So it can be exceeded only by what calls cost beyond what was reserved for them."""
        for account in self.book.accounts() if self.amounts else ():
            for measure, counter in account.counters.items():
                assert counter.current.reserved <= self.highest[account.id, measure]

    def teardown(self) -> None:
        """All return to zero when idle."""
        for call in self.open:
            call.hold.end()
        if self.amounts:
            assert self.held() == {}


def kind_of(owner: str) -> LevelKind:
    return "organization" if owner == "o" else "team"


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
