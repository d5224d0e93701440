"""A line down to its calls."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy import text

from llmgw_core.config.schema_statements import PoolConfig, StatementsConfig
from llmgw_core.domain.usage import AttemptRecord, Usage
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.explaining import exact, explained, together
from llmgw_core.statements.service import Statements
from llmgw_core.store.ledger import Ledger
from llmgw_core.testing.bookkeeping import amounts, book, priced, rates, repriced, sheet
from llmgw_core.testing.clock import FakeClock

if TYPE_CHECKING:
    from llmgw_core.statements.explaining import CallShare
    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.records import Statement
    from llmgw_core.store.engine import Store

BY = "test"
NS = 10**9
PRICE = sheet(rates(333_333_333, 2 * 10**9), rates(10**9, 2 * 10**9))
DEARER = sheet(rates(10**9, 2 * 10**9))
MARCH = int(dt.datetime(2027, 3, 1, tzinfo=dt.UTC).timestamp()) * NS
APRIL = int(dt.datetime(2027, 4, 1, tzinfo=dt.UTC).timestamp()) * NS


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(APRIL // NS + 7200)


@pytest.fixture
def statements(store: Store, clock: FakeClock) -> Statements:
    return Statements(store, StatementsConfig(), currency="EUR", clock=clock)


async def closed(statements: Statements, period: str) -> tuple[Statement, list[Line]]:
    await statements.create(period, actor=BY)
    made = await statements.close(period, actor=BY)
    return made, await statements.lines(made)


async def calls_of(statements: Statements, made: Statement, line: Line) -> list[CallShare]:
    return [share async for page in explained(statements.store, made, line) for share in page]


async def test_every_line_is_made_of_its_calls_and_of_no_other(
    store: Store, statements: Statements
) -> None:
    records = [
        priced(
            number,
            PRICE,
            Usage(number, number % 7),
            started_ns=MARCH + number,
            cost_center="ab"[number % 2],
            deployment=("small/local", "large/x")[number % 3 == 0],
        )
        for number in range(2500)
    ]
    await book(store, Ledger(store), records, PRICE)
    made, lines = await closed(statements, "2027-03")
    listed = 0
    for line in lines:
        shares = await calls_of(statements, made, line)
        quantity, cost, charge = together(shares)
        assert quantity == line.quantity
        for rounded, numerator in ((line.cost, cost), (line.charge, charge)):
            assert 2 * abs(rounded * 10**6 - numerator) <= 10**9
        expected = {
            record.call_id
            for record in records
            if (record.cost_center, record.served_model) == (line.cost_center, line.model)
        }
        found = {share.call_id for share in shares}
        assert found == expected if line.token_class == "call" else found <= expected
        listed += len(shares)
    assert listed > 5000


async def test_an_adjustment_is_made_of_what_came_after_the_statement_before(
    store: Store, statements: Statements, clock: FakeClock
) -> None:
    records = [priced(number, PRICE, Usage(1000, 10), started_ns=MARCH) for number in range(3)]
    await book(store, Ledger(store), records, PRICE, DEARER)
    await closed(statements, "2027-03")
    late = priced(7, DEARER, Usage(50, 0), started_ns=MARCH)
    await book(store, Ledger(store), [*repriced(records[1], DEARER), late])
    clock.now = APRIL / NS + 40 * 86_400
    made, lines = await closed(statements, "2027-04")
    shares = {}
    for line in lines:
        shares[line.price, line.token_class] = sorted(
            (share.call_id, share.entry, share.corrects, share.quantity)
            for share in await calls_of(statements, made, line)
        )
        assert sum(row[-1] for row in shares[line.price, line.token_class]) == line.quantity
    assert shares[PRICE.id, "input"] == [("call-1~r1", "reversal", "call-1", -1000)]
    assert shares[DEARER.id, "input"] == [
        ("call-1~b1", "rebooking", "call-1", 1000),
        ("call-7", "call", None, 50),
    ]


async def test_a_failed_attempt_that_is_paid_is_explained_at_its_own_price(
    store: Store, statements: Statements
) -> None:
    spent = Usage(500, 0)
    cost, charge = amounts(DEARER, spent, calls=0)
    failed = AttemptRecord("large/x", "large", "cut", 0, 1, cost, charge, "", DEARER.id, spent)
    record = priced(0, PRICE, Usage(1000, 10), started_ns=MARCH)
    record = msgspec.structs.replace(
        record,
        attempts=(failed, *record.attempts),
        usage=record.usage.plus(spent),
        cost=record.cost + cost,
        charge=record.charge + charge,
    )
    await book(store, Ledger(store), [record], PRICE, DEARER)
    made, lines = await closed(statements, "2027-03")
    [line] = [line for line in lines if line.model == "large"]
    [share] = await calls_of(statements, made, line)
    assert (share.call_id, share.deployment, share.quantity) == ("call-0", "large/x", 500)
    assert exact(share.cost) == "0.0005"
    assert sum(each.cost for each in lines) == made.summary.cost
    assert made.summary.checks[0].holds


async def test_amounts_that_no_rate_explains_are_explained_to_the_last_place(
    store: Store, clock: FakeClock
) -> None:
    statements = Statements(store, StatementsConfig(decimals=9), currency="EUR", clock=clock)
    records = [priced(number, PRICE, Usage(1, 0), started_ns=MARCH) for number in range(7)]
    records[3] = msgspec.structs.replace(records[3], cost=records[3].cost + 5000)
    attempts = (msgspec.structs.replace(records[3].attempts[0], cost=records[3].cost),)
    records[3] = msgspec.structs.replace(records[3], attempts=attempts)
    await book(store, Ledger(store), records, PRICE)
    made, lines = await closed(statements, "2027-03")
    [line] = [line for line in lines if line.token_class == "other"]
    # Each of the seven was rounded down by a third of a nano-unit.
    assert line.cost == 4998
    shares = await calls_of(statements, made, line)
    assert (len(shares), together(shares)) == (7, (0, 5000 * 10**6 - 7 * 333_333, 0))


async def test_what_is_not_made_of_calls_says_so(store: Store, clock: FakeClock) -> None:
    pools = {"gpu": PoolConfig(1, models=("small",))}  # type: ignore[arg-type]
    statements = Statements(store, StatementsConfig(pools=pools), currency="EUR", clock=clock)
    made, lines = await closed(statements, "2027-03")
    with pytest.raises(StatementError, match="what gpu costs by the month"):
        await calls_of(statements, made, lines[0])


async def test_calls_that_retention_has_deleted_are_not_missing_without_a_word(
    store: Store, statements: Statements
) -> None:
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1, 1), started_ns=MARCH)], PRICE)
    made, lines = await closed(statements, "2027-03")
    async with store.begin() as connection:
        await connection.execute(text(f"INSERT INTO pruned VALUES ('ledger', {MARCH + 1})"))
    with pytest.raises(StatementError, match="Retention has deleted calls of 2027-03"):
        await calls_of(statements, made, lines[0])


async def test_half_hours_of_a_zone_are_read_from_the_rows(store: Store, clock: FakeClock) -> None:
    """Midnight in Kolkata is half past six in the evening in Greenwich."""
    config = StatementsConfig(timezone="Asia/Kolkata")
    statements = Statements(store, config, currency="EUR", clock=clock)
    begin, end = MARCH - 19_800 * NS, APRIL - 19_800 * NS
    instants = (begin - 1, begin, begin + 1800 * NS, end - 1, end)
    records = [
        priced(number, PRICE, Usage(10**number, 0), started_ns=instant)
        for number, instant in enumerate(instants)
    ]
    await book(store, Ledger(store), records, PRICE)
    made, lines = await closed(statements, "2027-03")
    assert {line.token_class: line.quantity for line in lines} == {"input": 1110, "call": 3}
    assert made.summary.checks[0].ledger_cost == sum(record.cost for record in records[1:4])
    assert len(await calls_of(statements, made, lines[0])) == 3


def test_amounts_before_rounding_are_written_in_full() -> None:
    assert [exact(number) for number in (0, 10**15, -(10**14) - 1, 1)] == [
        "0.0", "1.0", "-0.100000000000001", "0.000000000000001",
    ]  # fmt: skip
