"""What stands against the closing of a statement is named; then nothing changes it any more."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy import text

from llmgw_core.accounting.journal import Journal
from llmgw_core.accounting.mover import Mover
from llmgw_core.accounting.prices import PriceBook
from llmgw_core.accounting.refused import RefusedFile, retry
from llmgw_core.config.schema import DeploymentConfig, ModelConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.config.schema_statements import PoolConfig, StatementsConfig
from llmgw_core.domain.usage import Usage
from llmgw_core.statements.closing import NotClosed
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.service import Statements
from llmgw_core.store.ledger import Ledger
from llmgw_core.tenancy.errors import TenancyError
from llmgw_core.tenancy.repricing import Repricing
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.bookkeeping import book, priced, rates, sheet
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.store.engine import Store

BY = "test"
NS = 10**9
PRICE = sheet(rates(10**9, 2 * 10**9))
HOUR = 3600


def utc(*parts: int) -> int:
    return int(dt.datetime(*parts, tzinfo=dt.UTC).timestamp()) * NS  # type: ignore[arg-type,misc]


MARCH, APRIL, MAY = utc(2027, 3, 1), utc(2027, 4, 1), utc(2027, 5, 1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(APRIL // NS + 2 * HOUR)


@pytest.fixture
def statements(store: Store, clock: FakeClock, tmp_path: Path) -> Statements:
    def why(model: str, deployment: str, at_ns: int) -> str:
        return "there is no exchange rate for USD" if at_ns >= APRIL - 1 else ""

    return Statements(
        store,
        StatementsConfig(),
        currency="EUR",
        journal=tmp_path / "journal",
        why=why,
        clock=clock,
    )


async def reasons(statements: Statements, period: str = "2027-03") -> tuple[str, ...]:
    with pytest.raises(NotClosed) as refused:
        await statements.close(period, actor=BY)
    assert all(f"- {reason}" in str(refused.value) for reason in refused.value.reasons)
    return refused.value.reasons


async def test_a_month_that_is_not_over_cannot_be_closed(
    statements: Statements, clock: FakeClock
) -> None:
    clock.now = APRIL / NS - 1
    await statements.create("2027-03", actor=BY)
    assert await reasons(statements) == ("2027-03 is not over; it ends 2027-04-01T00:00+00:00.",)
    clock.now = APRIL / NS + HOUR - 1
    assert await reasons(statements) == (
        (
            "Calls of 2027-03 may still run; it can be closed from 2027-04-01T01:00Z on"
            " (statements.grace)."
        ),
    )
    clock.now = APRIL / NS + HOUR
    assert (await statements.close("2027-03", actor=BY)).closed
    with pytest.raises(StatementError, match="has not begun"):
        await statements.create("2027-05", actor=BY)


async def test_calls_that_lie_in_a_journal_are_named(
    store: Store, statements: Statements, tmp_path: Path
) -> None:
    root = tmp_path / "journal"
    journal = Journal(root)
    ledger = Ledger(store)
    mover = Mover(root, journal, ledger)
    await book(store, ledger, [], PRICE)
    for number, instant in enumerate((MARCH - 1, MARCH, APRIL - 1, APRIL)):
        journal.append_usage(priced(number, PRICE, Usage(1, 1), started_ns=instant))
    await statements.create("2027-03", actor=BY)
    [reason] = await reasons(statements)
    assert reason.startswith(
        f"2 calls of the period lie in the journal {journal.directory.path.name} and are not in the"
        " ledger: call-1, call-2."
    )
    await ledger.insert([priced(2, PRICE, Usage(1, 1), started_ns=APRIL - 1)], ())
    [reason] = await reasons(statements)
    assert reason.startswith("1 call of the period lie")
    await mover.move_once()
    closed = await statements.close("2027-03", actor=BY)
    assert closed.summary.calls == 2
    await mover.aclose()
    journal.close()


async def test_the_journal_of_a_process_that_was_killed_counts_as_well(
    store: Store, statements: Statements, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal")
    for number in range(7):
        journal.append_usage(priced(number, PRICE, Usage(1, 1), started_ns=MARCH))
    journal.directory.close()  # what the kernel does to the lock of a process that is gone
    await statements.create("2027-03", actor=BY)
    [reason] = await reasons(statements)
    assert "call-0, call-1, call-2, call-3, call-4 and 2 more." in reason
    journal.close()


async def test_calls_that_the_ledger_has_refused_are_named(
    store: Store, statements: Statements, tmp_path: Path
) -> None:
    """Those of months before, too: nobody has billed them. What was booked after all is no bar."""
    file = RefusedFile(tmp_path / "journal")
    for number, instant in enumerate((MARCH - 1, APRIL - 1, APRIL)):
        file.add(priced(number, PRICE, Usage(1, 1), started_ns=instant))
    await statements.create("2027-03", actor=BY)
    [reason] = await reasons(statements)
    assert reason.startswith(
        "The ledger has refused 2 calls, which nobody has billed: call-0, call-1."
    )
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1, 1), started_ns=MARCH - 1)], PRICE)
    [reason] = await reasons(statements)
    assert reason.startswith("The ledger has refused 1 call, which nobody has billed: call-1.")
    assert await retry(file, Ledger(store)) == (3, {})
    assert (await statements.close("2027-03", actor=BY)).summary.calls == 1
    assert not file.present()


async def test_usage_without_a_price_is_named_with_the_reason(
    store: Store, statements: Statements
) -> None:
    unpriced = [
        usage_record(number, started_ns=MARCH, cost=0, charge=0, usage=Usage(1000, 200))
        for number in range(2)
    ]
    nothing_used = usage_record(7, started_ns=MARCH, cost=0, charge=0, usage=Usage(0, 0))
    await book(store, Ledger(store), [*unpriced, nothing_used])
    made = await statements.create("2027-03", actor=BY)
    assert {line.note for line in await statements.lines(made)} == {"no price"}
    assert await reasons(statements) == (
        (
            "There is no price for 3 calls with 2,400 tokens on small/local (there is no exchange"
            " rate for USD). Give the model small a price, 0 if it is free, and price that time"
            " anew (`llmgw-server reprice`)."
        ),
    )


async def test_a_late_call_without_a_price_is_not_adjusted_by_nothing(
    store: Store, statements: Statements, clock: FakeClock
) -> None:
    await statements.create("2027-03", actor=BY)
    await statements.close("2027-03", actor=BY)
    late = usage_record(0, started_ns=MARCH, cost=0, charge=0, usage=Usage(1000, 200))
    await book(store, Ledger(store), [late])
    clock.now = MAY / NS + 2 * HOUR
    await statements.create("2027-04", actor=BY)
    [reason] = await reasons(statements, "2027-04")
    assert reason.startswith("There is no price for 1 call with 1,200 tokens on small/local")


async def test_a_price_sheet_that_is_gone_is_named(store: Store, statements: Statements) -> None:
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1000, 0), started_ns=MARCH)])
    await statements.create("2027-03", actor=BY)
    assert await reasons(statements) == (
        f"The price sheet {PRICE.id} of the model small is not in the database any more.",
    )


async def test_amounts_from_before_there_were_price_sheets_are_billed_as_they_are(
    store: Store, statements: Statements
) -> None:
    old = usage_record(0, started_ns=MARCH, cost=1_234_567, charge=2_345_678)
    await book(store, Ledger(store), [old])
    await statements.create("2027-03", actor=BY)
    closed = await statements.close("2027-03", actor=BY)
    lines = {line.token_class: line for line in await statements.lines(closed)}
    assert (lines["other"].cost, lines["other"].charge) == (1_235_000, 2_346_000)
    assert (lines["input"].quantity, lines["input"].cost, lines["call"].quantity) == (10, 0, 1)
    assert closed.summary.checks[0].holds


async def test_a_month_is_billed_in_the_currency_that_it_was_booked_in(
    store: Store, clock: FakeClock
) -> None:
    """`accounting.currency` may be another one by now; 1 EUR is not 1 USD."""
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1000, 0), started_ns=MARCH)], PRICE)
    later = Statements(store, StatementsConfig(), currency="USD", clock=clock)
    made = await later.create("2027-03", actor=BY)
    assert (made.summary.currency, made.summary.cost) == ("EUR", 1_000_000)
    assert (await later.close("2027-03", actor=BY)).summary.currency == "EUR"


async def test_a_pool_in_another_currency_is_not_added_to_what_was_booked(
    store: Store, clock: FakeClock
) -> None:
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1000, 0), started_ns=MARCH)], PRICE)
    pool = PoolConfig(monthly=Decimal(100), models=("small",))
    later = Statements(store, StatementsConfig(pools={"p": pool}), currency="USD", clock=clock)
    with pytest.raises(StatementError, match="is in EUR and in USD"):
        await later.create("2027-03", actor=BY)


async def test_two_currencies_are_not_added_up_until_all_is_booked_in_one(
    store: Store, statements: Statements, clock: FakeClock
) -> None:
    dollars = msgspec.structs.replace(PRICE, currency="USD")
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1, 0), started_ns=MARCH)], PRICE)
    await statements.create("2027-03", actor=BY)
    other = priced(1, dollars, Usage(1, 0), started_ns=MARCH, currency="USD")
    await book(store, Ledger(store), [other], dollars)
    for doing in (statements.create, statements.close):
        with pytest.raises(StatementError, match=r"EUR and in USD.*--from-currency"):
            await doing("2027-03", actor=BY)
    deployment = DeploymentConfig(name="local", backend="b", zone="z")
    entry = PriceEntry(cost=TokenPrices(Decimal(3)))
    prices = PriceBook({"small": ModelConfig((deployment,), prices=(entry,))})
    reprice = Repricing(store, Ledger(store), prices, "USD", clock=clock).run
    await reprice(MARCH, APRIL, actor=BY, from_currency="EUR")
    await statements.create("2027-03", actor=BY)
    closed = await statements.close("2027-03", actor=BY)
    assert (closed.summary.currency, closed.summary.cost) == ("USD", 2 * 3_000)
    assert closed.summary.checks[0].holds
    # What is billed stays in the currency that it was billed in.
    back = Repricing(store, Ledger(store), prices, "EUR", clock=clock).run
    with pytest.raises(TenancyError, match="2027-03 is closed for good"):
        await back(MARCH, APRIL, actor=BY, from_currency="USD")


async def test_figures_that_contradict_themselves_still_add_up(
    store: Store, statements: Statements
) -> None:
    """More cached tokens than there are: the amount is not what the rates say."""
    right = priced(0, PRICE, Usage(1000, 0, 0), started_ns=MARCH)
    record = msgspec.structs.replace(right, cost=5_000_000)
    await book(store, Ledger(store), [record], PRICE)
    await statements.create("2027-03", actor=BY)
    closed = await statements.close("2027-03", actor=BY)
    other = [line for line in await statements.lines(closed) if line.token_class == "other"]
    assert [(line.cost, line.note) for line in other] == [
        (4_000_000, "amounts of the ledger that no rate explains")
    ]
    assert closed.summary.cost == 5_000_000


async def test_months_are_closed_in_their_order(statements: Statements, clock: FakeClock) -> None:
    clock.now = MAY / NS + 2 * HOUR
    await statements.create("2027-03", actor=BY)
    await statements.create("2027-04", actor=BY)
    assert await reasons(statements, "2027-04") == (
        "The statement of 2027-03 is still open; close that one first.",
    )


async def test_an_open_one_is_made_anew_and_stays_the_same_statement(
    store: Store, statements: Statements
) -> None:
    first = await statements.create("2027-03", actor=BY)
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1000, 0), started_ns=MARCH)], PRICE)
    assert await statements.lines(first) == []
    second = await statements.create("2027-03", actor=BY)
    assert second.id == first.id
    assert [line.quantity for line in await statements.lines(second)] == [1000, 1]
    assert [each.id for each in await statements.find_all()] == [first.id]
    assert (await statements.get(first.id)).period == "2027-03"


async def test_who_changes_a_closed_one_in_the_database_is_found_out(
    store: Store, statements: Statements
) -> None:
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1000, 0), started_ns=MARCH)], PRICE)
    await statements.create("2027-03", actor=BY)
    closed = await statements.close("2027-03", actor=BY)
    async with store.begin() as connection:
        await connection.execute(
            text("UPDATE statement_lines SET line = replace(line, '1000000', '1000001')")
        )
    with pytest.raises(StatementError, match="somebody has changed it"):
        await statements.lines(closed)


async def test_making_and_closing_are_audited(store: Store, statements: Statements) -> None:
    await statements.create("2027-03", actor=BY)
    closed = await statements.close("2027-03", actor=BY)
    entries = await Tenancy(store).list_audit(object_id=closed.id)
    assert [(entry.action, entry.actor) for entry in entries] == [("close", BY), ("create", BY)]
    assert entries[0].details["digest"] == closed.digest


async def test_what_retention_has_deleted_is_not_billed_as_nothing(
    store: Store, statements: Statements, clock: FakeClock
) -> None:
    await book(store, Ledger(store), [priced(0, PRICE, Usage(1000, 0), started_ns=MARCH)], PRICE)
    await statements.create("2027-03", actor=BY)
    march = await statements.close("2027-03", actor=BY)
    async with store.begin() as connection:
        for statement in (
            f"INSERT INTO pruned VALUES ('usage_hours', {APRIL})",
            "DELETE FROM usage_hours",
        ):
            await connection.execute(text(statement))
    with pytest.raises(StatementError, match="Retention has deleted"):
        await statements.create("2027-02", actor=BY)
    await book(store, Ledger(store), [priced(1, PRICE, Usage(7, 0), started_ns=MARCH)])
    clock.now = MAY / NS + 2 * HOUR
    april = await statements.create("2027-04", actor=BY)
    lines = await statements.lines(april)
    assert [(line.about, line.token_class, line.quantity) for line in lines] == [
        (march.id, "input", 7),
        (march.id, "call", 1),
    ]
    assert all(check.holds for check in april.summary.checks)
