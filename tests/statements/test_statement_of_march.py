"""The statement of a March in Berlin, which has 743 hours: it adds up, splits at the instant, never
changes once it is closed, and April hears of what came later."""

from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from llmgw_core.config.schema_statements import StatementsConfig
from llmgw_core.domain.access import Subject
from llmgw_core.domain.usage import Usage
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.export import as_csv, as_json
from llmgw_core.statements.service import Statements
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.principals import StorePrincipals
from llmgw_core.tenancy.costing import Costing
from llmgw_core.testing.bookkeeping import book, priced, rates, repriced, sheet
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.tenants import create_tenant

if TYPE_CHECKING:
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.records import Statement
    from llmgw_core.store.engine import Store

BERLIN = ZoneInfo("Europe/Berlin")
NS = 10**9
BY = "test"


def berlin(*parts: int) -> int:
    """An instant of Berlin's clocks in nanoseconds."""
    return int(dt.datetime(*parts, tzinfo=BERLIN).timestamp()) * NS  # type: ignore[arg-type,misc]


MARCH, APRIL, MAY = berlin(2027, 3, 1), berlin(2027, 4, 1), berlin(2027, 5, 1)
MOVED = berlin(2027, 3, 17, 14, 30)
SMALL = sheet(rates(333_333_333, 777_777_777, cached_input=33_333_333), rates(10**9, 2 * 10**9))
LARGE = sheet(rates(2_500_000_001, 9_999_999_999, reasoning=5_000_000_003, call=1_000_007))
DEARER = sheet(rates(400_000_000, 800_000_000, cached_input=40_000_000), rates(10**9, 3 * 10**9))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(APRIL // NS + 2 * 3600)


@pytest.fixture
def statements(store: Store, clock: FakeClock) -> Statements:
    config = StatementsConfig(timezone="Europe/Berlin")
    return Statements(store, config, currency="EUR", clock=clock)


@pytest.fixture
async def calls(store: Store) -> list[UsageRecord]:
    """A month of calls of a team that changes its cost centre in the middle of it; some exactly at
    the edges, some before and behind the month."""
    tenant = await create_tenant(store)
    costing = Costing(store, clock=lambda: 0.0)
    for code in ("CC-OLD", "CC-NEW"):
        await costing.create(code, name=f"{code} of research", actor=BY)
    await costing.assign("CC-OLD", "team", tenant.team_id, since_ns=0, actor=BY)
    await costing.assign("CC-NEW", "team", tenant.team_id, since_ns=MOVED, actor=BY)
    principal = await StorePrincipals(store).find_subject(Subject(key=tenant.key_id))
    assert principal is not None
    assert principal.cost_centers is not None
    chance = random.Random(743)
    edges = [MARCH - 1, MARCH, MOVED - 1, MOVED, APRIL - 1, APRIL]
    instants = [*edges, *(chance.randrange(MARCH, APRIL) for _ in range(3000))]
    records = []
    for number, instant in enumerate(instants):
        large = chance.random() < 0.3
        tokens = chance.randrange(1, 20_000)
        output = chance.randrange(5_000)
        thought = chance.randrange(output + 1) if large else 0
        usage = Usage(tokens, output, chance.randrange(tokens), thought)
        records.append(
            priced(
                number,
                LARGE if large else SMALL,
                usage,
                started_ns=instant,
                deployment="large/x" if large else "small/local",
                cost_center=principal.cost_centers.at(instant),
            )
        )
    await book(store, Ledger(store), records, SMALL, LARGE, DEARER)
    return records


def within(records: list[UsageRecord], since: int, until: int) -> list[UsageRecord]:
    return [record for record in records if since <= record.started_ns < until]


def total(lines: list[Line], side: str = "cost") -> int:
    return sum(getattr(line, side) for line in lines)


async def closed(statements: Statements, period: str) -> tuple[Statement, list[Line]]:
    await statements.create(period, actor=BY)
    statement = await statements.close(period, actor=BY)
    return statement, await statements.lines(statement)


async def test_743_hours_add_up_to_the_ledger_within_the_stated_rounding(
    statements: Statements, calls: list[UsageRecord]
) -> None:
    statement, lines = await closed(statements, "2027-03")
    assert statement.span.hours == "743"
    of_march = within(calls, MARCH, APRIL)
    [check] = statement.summary.checks
    assert check.ledger_cost == sum(record.cost for record in of_march)
    assert check.ledger_charge == sum(record.charge for record in of_march)
    assert check.lines_cost == total(lines)
    assert check.lines_charge == total(lines, "charge")
    assert statement.summary.calls == len(of_march) == 3004
    assert check.bound_halves == len(of_march) + len(lines) * 1000
    assert check.holds
    print(  # noqa: T201 -- the figures are what this is about
        f"\nhours {statement.span.hours}, calls {statement.summary.calls}, lines {len(lines)};"
        f" ledger {check.ledger_cost / 1e9:.9f}, lines {check.lines_cost / 1e9:.9f},"
        f" difference {check.lines_cost - check.ledger_cost} nano-units,"
        f" bound {check.bound_halves / 2:.1f}"
    )


async def test_a_team_that_is_moved_in_the_middle_of_a_month_is_split_at_the_instant(
    statements: Statements, calls: list[UsageRecord]
) -> None:
    _, lines = await closed(statements, "2027-03")
    for code, since, until in (("CC-OLD", MARCH, MOVED), ("CC-NEW", MOVED, APRIL)):
        counted = sum(
            line.quantity for line in lines if line.code == code and line.token_class == "call"
        )
        tokens = sum(line.quantity for line in lines if line.code == code and line.unit == "token")
        expected = within(calls, since, until)
        assert counted == len(expected)
        assert tokens == sum(record.usage.total_tokens for record in expected)
        print(f"\n{code}: {counted} calls, {tokens} tokens")  # noqa: T201
    assert {line.code for line in lines} == {"CC-OLD", "CC-NEW"}


async def test_exporting_a_closed_one_again_gives_the_same_bytes(
    store: Store, statements: Statements, clock: FakeClock, calls: list[UsageRecord]
) -> None:
    statement, lines = await closed(statements, "2027-03")
    exported = as_csv(statement, lines), as_json(statement, lines)
    await Costing(store).update("CC-OLD", name="Another name", code="CC-X", actor=BY)
    late = priced(9001, SMALL, Usage(5, 5), started_ns=MARCH)
    await book(store, Ledger(store), [late, *repriced(calls[10], DEARER)])
    clock.now = MAY / NS
    other = Statements(store, StatementsConfig(decimals=2), currency="CHF", clock=clock)
    again = await other.get("2027-03")
    assert again == statement
    assert (as_csv(again, await other.lines(again)), as_json(again, await other.lines(again))) == (
        exported
    )
    with pytest.raises(StatementError, match="closed and never changes"):
        await statements.create("2027-03", actor=BY)
    with pytest.raises(StatementError, match="closed already"):
        await statements.close("2027-03", actor=BY)


async def test_re_pricing_of_march_appears_as_an_adjustment_in_april(
    store: Store, statements: Statements, clock: FakeClock, calls: list[UsageRecord]
) -> None:
    march, lines_of_march = await closed(statements, "2027-03")
    anew = [call for call in within(calls, MARCH, APRIL) if call.deployment == "small/local"][:500]
    corrections = [row for call in anew for row in repriced(call, DEARER)]
    late = priced(9001, SMALL, Usage(1_000_000, 0), started_ns=MOVED, cost_center="")
    await book(store, Ledger(store), [*corrections, late])
    clock.now = MAY / NS + 7200
    april, lines_of_april = await closed(statements, "2027-04")
    own, adjustments = (
        [line for line in lines_of_april if line.kind == kind] for kind in ("usage", "adjustment")
    )
    assert {line.period for line in own} == {"2027-04"}
    assert {(line.period, line.about) for line in adjustments} == {("2027-03", march.id)}
    check = next(check for check in april.summary.checks if check.about == march.id)
    rows = [*within(calls, MARCH, APRIL), *corrections, late]
    assert check.ledger_cost == sum(row.cost for row in rows)
    assert check.lines_cost == total(lines_of_march) + total(adjustments)
    assert check.holds
    moved = {line.price: line.quantity for line in adjustments if line.token_class == "output"}
    outputs = sum(call.usage.output_tokens for call in anew)
    assert sum(q for price, q in moved.items() if price == DEARER.id) <= outputs
    assert {line.note for line in adjustments} == {"adjusts 2027-03"}
    by_class: dict[str, int] = {}
    for line in adjustments:
        by_class[line.token_class] = by_class.get(line.token_class, 0) + line.quantity
    # What is taken back and booked anew is as much; the late call is more.
    assert by_class == {"input": 1_000_000, "call": 1} | dict.fromkeys(
        set(by_class) - {"input", "call"}, 0
    )
    print(  # noqa: T201
        f"\nadjustments {len(adjustments)}, together {total(adjustments) / 1e9:.6f};"
        f" difference {check.lines_cost - check.ledger_cost} nano-units,"
        f" bound {check.bound_halves / 2:.1f}"
    )


async def test_an_adjustment_is_made_once(
    store: Store, statements: Statements, clock: FakeClock, calls: list[UsageRecord]
) -> None:
    await closed(statements, "2027-03")
    await book(store, Ledger(store), repriced(calls[20], DEARER))
    clock.now = MAY / NS + 7200
    _, april = await closed(statements, "2027-04")
    assert any(line.kind == "adjustment" for line in april)
    clock.now = berlin(2027, 6, 1) / NS + 7200
    may, lines = await closed(statements, "2027-05")
    assert (lines, len(may.summary.checks)) == ([], 1)
    await book(store, Ledger(store), repriced(calls[20], SMALL, 2)[1:])
    clock.now = berlin(2027, 7, 1) / NS + 7200
    june, lines = await closed(statements, "2027-06")
    assert {line.period for line in lines} == {"2027-03"}
    assert all(check.holds for check in june.summary.checks)
