"""Reserving, settling and telling, without any gateway."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.access import Level, LevelKind, Principal
from llmgw_core.domain.limits import Budget
from llmgw_core.limits.budget_book import BudgetBook, BudgetEvent
from llmgw_core.limits.budget_counts import REFUSED, Count, Counter, Measure, decimal
from llmgw_core.limits.budgets import BudgetExceeded, Need, Purse
from llmgw_core.limits.periods import EVER, period_at
from llmgw_core.testing.usage_records import STARTED_NS, usage_record

if TYPE_CHECKING:
    from llmgw_core.limits.budget_counts import Account

OWNER: tuple[LevelKind, str] = ("team", "team-1")
NOW = STARTED_NS


def whole(tokens: int, money: int = 0) -> Need:
    return Need(tokens, money, tokens, money)


class Scene:
    """A book with the budgets of one team."""

    def __init__(self, *budgets: Budget, spent: int = 0) -> None:
        self.events: list[BudgetEvent] = []
        self.book = BudgetBook(self.events.append)
        self.budgets = budgets
        counters = [
            Counter(measure, Count(period_at(measure.period, measure.timezone, NOW), spent))
            for measure in {Measure.of(each) for each in budgets}
        ]
        self.account: Account = self.book.put(("team", "team-1"), counters, 0)
        self.book.define(("team", "team-1"), "research", budgets)
        principal = Principal((Level("team", "team-1", budgets=budgets),), "org-1")
        purse = self.book.purse(principal)
        assert purse is not None
        self.purse: Purse = purse

    def counts(self) -> list[tuple[int, int]]:
        return [
            (counter.current.spent, counter.current.reserved)
            for counter in self.account.counters.values()
        ]


def test_a_reservation_counts_in_all_budgets_or_in_none() -> None:
    scene = Scene(Budget("tokens", 100, "day"), Budget("money", 50, "month"))
    hold = scene.purse.reserve(NOW, whole(60, 30))
    assert sorted(scene.counts()) == [(0, 30), (0, 60)]
    with pytest.raises(BudgetExceeded) as caught:
        scene.purse.reserve(NOW, whole(10, 30))
    assert caught.value.line.budget.unit == "money"
    assert sorted(scene.counts()) == [(0, 30), (0, 60)]
    hold.end()
    hold.end()
    assert scene.counts() == [(0, 0), (0, 0)]


def test_budgets_of_one_measure_share_what_is_counted() -> None:
    soft, hard = Budget("money", 80, "month", fallback="small"), Budget("money", 100, "month")
    scene = Scene(soft, hard)
    assert len(scene.account.counters) == 1
    scene.purse.reserve(NOW, whole(0, 70))
    with pytest.raises(BudgetExceeded) as caught:
        scene.purse.reserve(NOW, whole(0, 20))
    assert caught.value.line.budget is soft
    with pytest.raises(BudgetExceeded) as caught:
        scene.purse.reserve(NOW, whole(0, 40))
    # Where one of them has nobody in reserve, the other's fallback does not help.
    assert caught.value.line.budget is hard


def test_what_grows_needs_room_for_the_difference_alone() -> None:
    scene = Scene(Budget("money", 100, "month"))
    hold = scene.purse.reserve(NOW, whole(0, 60))
    hold.grow(whole(0, 90))
    assert scene.counts() == [(0, 90)]
    with pytest.raises(BudgetExceeded):
        hold.grow(whole(0, 101))
    assert scene.counts() == [(0, 90)]
    hold.grow(whole(0, 10))
    assert scene.counts() == [(0, 90)]
    hold.shrink(whole(0, 10))
    assert scene.counts() == [(0, 10)]
    hold.end()
    hold.grow(whole(0, 10))
    hold.shrink(whole(0, 50))
    assert scene.counts() == [(0, 0)]


def test_a_guess_is_cut_to_the_budget_and_what_is_sure_is_not() -> None:
    scene = Scene(Budget("tokens", 100, "total"))
    hold = scene.purse.reserve(NOW, Need(500, 0, 40, 0))
    assert scene.counts() == [(0, 100)]
    hold.end()
    with pytest.raises(BudgetExceeded) as caught:
        scene.purse.reserve(NOW, Need(500, 0, 140, 0))
    assert caught.value.never


def test_a_refusal_knows_whether_waiting_helps() -> None:
    scene = Scene(Budget("money", 100, "day"), spent=60)
    with pytest.raises(BudgetExceeded) as caught:
        scene.purse.reserve(NOW, whole(0, 50))
    end = period_at("day", "UTC", NOW).end_ns
    assert (caught.value.spent_out, caught.value.end_ns) == (True, end)
    assert caught.value.retry_after == (end - NOW) / 1e9
    scene.purse.reserve(NOW, whole(0, 30))
    with pytest.raises(BudgetExceeded) as caught:
        scene.purse.reserve(NOW, whole(0, 30))
    assert (caught.value.spent_out, caught.value.retry_after) == (False, 1.0)


def test_what_costs_nothing_passes_a_budget_that_is_overdrawn() -> None:
    scene = Scene(Budget("money", 100, "day"), spent=160)
    scene.purse.reserve(NOW, whole(1000, 0)).end()
    scene.purse.examine(NOW, whole(1000, 0))
    [(_, left)] = scene.purse.remaining(NOW)
    assert left == 0


def test_examining_changes_nothing_and_tells_nobody() -> None:
    scene = Scene(Budget("money", 100, "day", alerts=()), spent=100)
    with pytest.raises(BudgetExceeded):
        scene.purse.examine(NOW, whole(0, 50))
    assert (scene.events, scene.book.refused) == ([], {})


def test_settled_calls_are_counted_in_the_period_in_which_they_began() -> None:
    scene = Scene(Budget("money", 10_000, "day", alerts=()))
    [counter] = scene.account.counters.values()
    yesterday = counter.current
    tomorrow = yesterday.end_ns
    late = scene.purse.reserve(NOW, whole(0, 1000))
    scene.purse.reserve(tomorrow, whole(0, 500)).end()
    assert counter.current.start_ns == tomorrow
    late.end()
    scene.book.settled(usage_record(1, charge=900))
    scene.book.settled(usage_record(2, charge=70, started_ns=tomorrow))
    assert (yesterday.spent, yesterday.reserved) == (900, 0)
    assert (counter.current.spent, counter.current.reserved) == (70, 0)
    # What began before anything that is remembered is of no period that counts.
    scene.book.settled(usage_record(3, charge=1, started_ns=yesterday.start_ns - 1))
    assert (yesterday.spent, counter.current.spent) == (900, 70)


def test_periods_that_are_over_are_forgotten() -> None:
    scene = Scene(Budget("tokens", 10_000, "day"))
    [counter] = scene.account.counters.values()
    held = scene.purse.reserve(NOW, whole(5))
    at = NOW
    for _ in range(50):
        at = counter.current.end_ns
        counter.at(at)
    # The last one, and one that a call is still under way in.
    assert len(counter._earlier) == 2
    held.end()
    counter.at(counter.current.end_ns)
    counter.at(counter.current.end_ns)
    assert len(counter._earlier) == 1


def test_thresholds_are_told_once_in_their_order() -> None:
    scene = Scene(Budget("money", 1000, "month", alerts=(100, 50, 80)))
    for number, charge in enumerate((499, 1, 400, 50, 50, 500)):
        scene.book.settled(usage_record(number, charge=charge))
    assert [(event.percent, event.spent) for event in scene.events] == [
        (50, 500),
        (80, 900),
        (100, 1000),
    ]
    end = period_at("month", "UTC", NOW).end_ns
    scene.book.settled(usage_record(9, charge=600, started_ns=end))
    assert [event.percent for event in scene.events][3:] == [50]


def test_thresholds_of_large_amounts_are_exact() -> None:
    scene = Scene(Budget("money", 2**53 + 3, "month", alerts=(100,)))
    scene.book.settled(usage_record(1, charge=2**53 + 2))
    assert scene.events == []
    scene.book.settled(usage_record(2, charge=1))
    assert [event.percent for event in scene.events] == [100]


def test_what_is_reached_when_a_budget_is_set_is_told_then() -> None:
    scene = Scene(Budget("money", 1000, "month"), spent=850)
    assert [event.percent for event in scene.events] == [50, 80]
    scene.book.define(("team", "team-1"), "research", scene.budgets)
    assert len(scene.events) == 2


def test_the_first_refusal_of_a_period_is_told() -> None:
    scene = Scene(Budget("money", 100, "month", alerts=()), spent=95)
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            scene.purse.reserve(NOW, whole(0, 50))
    assert [event.percent for event in scene.events] == [REFUSED]
    # A call that is larger than the whole budget says nothing about what is left.
    other = Scene(Budget("money", 100, "month", alerts=()))
    with pytest.raises(BudgetExceeded):
        other.purse.reserve(NOW, whole(0, 500))
    assert other.events == []
    assert other.book.refused == {("team", "money", "month", False): 1}


def test_corrections_count_unless_they_were_read_already() -> None:
    scene = Scene(Budget("money", 10**6, "month"))
    [counter] = scene.account.counters.values()
    counter.cursor = 10
    scene.book.correct([(10, usage_record(1, charge=7)), (11, usage_record(2, charge=5))])
    assert scene.counts() == [(5, 0)]


def test_a_correction_that_a_later_counter_was_read_with_is_not_counted_there_again() -> None:
    scene = Scene(Budget("money", 10**6, "month"))
    measure = Measure("tokens", "month", "UTC")
    later = Counter(measure, Count(period_at("month", "UTC", NOW), 50))
    scene.book.put(OWNER, [later], 20)
    scene.book.correct([(15, usage_record(1, charge=7))])
    assert scene.counts() == [(7, 0), (50, 0)]


def test_accounts_that_nobody_defines_live_as_long_as_a_purse() -> None:
    book = BudgetBook(lambda _: None)
    budget = Budget("money", 100, "month")
    counter = Counter(Measure.of(budget), Count(period_at("month", "UTC", NOW)))
    kept = book.put(("organization", "app"), [counter], 0)
    principal = Principal((Level("organization", "app", budgets=(budget,)),), "app")
    purse = book.purse(principal, given=True)
    assert purse is not None
    del kept
    book.retain(())
    assert (len(book), book.active) == (1, True)
    hold = purse.reserve(NOW, whole(0, 10))
    del purse
    gc.collect()
    # A call under way holds it.
    assert len(book) == 1
    hold.end()
    del hold
    gc.collect()
    book.retain(())
    assert (len(book), book.active) == (0, False)


def test_amounts_are_written_exactly() -> None:
    assert [decimal(each) for each in (0, 1, 10**9, 12_500_000_000, -(10**8))] == [
        "0",
        "0.000000001",
        "1",
        "12.5",
        "-0.1",
    ]
    assert decimal(100 * 10**9) == "100"
    assert EVER > 10**18
