from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from llmgw_core.accounting.port import RecordsRefused
from llmgw_core.config.schema_retention import RetentionConfig
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_tables import touched_hours, usage_days, usage_hours, usage_months
from llmgw_core.store.retention import Retention
from llmgw_core.store.statement_tables import statements
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from sqlalchemy import Table

    from llmgw_core.store.engine import Store

DAY_NS = 86_400 * 10**9
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
START_NS = int(START.timestamp()) * 10**9
DAYS = 90


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    """A call at six in the morning of every day."""
    found = Ledger(store)
    moments = [START_NS + day * DAY_NS + DAY_NS // 4 for day in range(DAYS)]
    await found.insert(
        [usage_record(n, started_ns=at, charge=1) for n, at in enumerate(moments)], []
    )
    return found


def retention(store: Store, rows: int = 0, hours: int = 0, days: int = 0) -> Retention:
    now = START_NS + DAYS * DAY_NS
    return Retention(store, RetentionConfig(rows, hours, days), lambda: now)


async def count(store: Store, table: Table) -> int:
    async with store.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


async def close(store: Store, start: int, end: int, scope: str = "", state: str = "closed") -> None:
    values = {
        "id": f"{scope}{start}",
        "scope": scope,
        "period": "x",
        "timezone": "UTC",
        "start_ns": START_NS + start * DAY_NS,
        "end_ns": START_NS + end * DAY_NS,
        "state": state,
        "cursor": 0,
        "summary": "{}",
        "digest": "",
        "created_ns": 0,
        "created_by": "",
    }
    async with store.begin() as connection:
        await connection.execute(statements.insert().values(values))


async def test_old_rows_and_hours_go_and_the_sums_stay_right(ledger: Ledger, store: Store) -> None:
    at_work = retention(store, rows=30, hours=60)
    await at_work.prune(0)
    assert await ledger.count() == 30
    assert await count(store, usage_hours) == 60
    assert await count(store, touched_hours) == 60
    assert at_work.deleted == {"ledger": 60, "usage_hours": 30, "touched_hours": 30}
    (total,) = await ledger.usage([])
    assert (total.calls, total.charge) == (DAYS, DAYS)
    assert [row.calls for row in await ledger.usage(["month"])] == [31, 28, 31]
    assert len(await ledger.usage(["day"])) == DAYS


async def test_where_hours_are_gone_a_report_counts_whole_days(
    ledger: Ledger, store: Store
) -> None:
    await retention(store, rows=30, hours=60).prune(0)
    noon = START + dt.timedelta(days=10, hours=12)
    (gone,) = await ledger.usage([], noon, noon + dt.timedelta(days=1))
    assert gone.calls == 2  # of the two days that are touched
    noon += dt.timedelta(days=50)
    (kept,) = await ledger.usage([], noon, noon + dt.timedelta(days=1))
    assert kept.calls == 1


async def test_where_days_are_gone_months_stay(ledger: Ledger, store: Store) -> None:
    await retention(store, rows=20, hours=20, days=20).prune(0)
    assert await count(store, usage_days) == 31
    assert await count(store, usage_months) == 3
    (total,) = await ledger.usage([], START + dt.timedelta(days=3), START + dt.timedelta(days=4))
    assert total.calls == 31
    assert (await ledger.usage([]))[0].calls == DAYS


async def test_nothing_goes_that_is_kept_for_ever(ledger: Ledger, store: Store) -> None:
    await retention(store).prune(0)
    assert await ledger.count() == await count(store, usage_hours) == DAYS


async def test_what_no_statement_has_closed_stays_once_there_are_statements(
    ledger: Ledger, store: Store
) -> None:
    await close(store, 0, 31, state="open")
    at_work = retention(store, rows=1, hours=1)
    await at_work.prune(0)
    assert await ledger.count() == DAYS
    await close(store, 31, 59)
    await at_work.prune(0)
    assert await ledger.count() == DAYS  # the first month is open


async def test_what_statements_have_closed_goes_by_whole_statements(
    ledger: Ledger, store: Store
) -> None:
    await close(store, 0, 31)
    await close(store, 31, 59)
    await retention(store, rows=50, hours=50).prune(0)
    assert await ledger.count() == DAYS - 31
    assert await count(store, usage_hours) == DAYS - 31


async def test_the_statement_of_one_organisation_covers_no_other(
    ledger: Ledger, store: Store
) -> None:
    await close(store, 0, 59, scope="org-1")
    at_work = retention(store, rows=10, hours=10)
    other = usage_record(999, organization_id="org-2", started_ns=START_NS + DAY_NS)
    await ledger.insert([other], [])
    await at_work.prune(0)
    assert await ledger.count() == DAYS + 1
    await close(store, 0, 59, scope="org-2")
    await at_work.prune(0)
    assert await ledger.count() == DAYS - 59


async def test_a_record_from_a_time_that_is_gone_is_not_booked_a_second_time(
    ledger: Ledger, store: Store
) -> None:
    (first, *_) = await ledger.rows(limit=1)
    await retention(store, rows=30, hours=60).prune(0)
    with pytest.raises(RecordsRefused):
        await ledger.insert([first.record], [])
    assert (await ledger.usage([]))[0].calls == DAYS


async def test_a_restart_goes_on_and_what_is_gone_stays_gone(ledger: Ledger, store: Store) -> None:
    at_work = retention(store, rows=30, hours=30)
    await at_work._decide()  # and the process ends
    assert await ledger.count() == DAYS
    await retention(store, rows=60, hours=60).prune(0)
    assert await ledger.count() == 30


async def test_the_file_gives_back_what_is_free(ledger: Ledger, store: Store) -> None:
    await ledger.insert([usage_record(n, started_ns=START_NS + n) for n in range(1_000, 9_000)], [])
    async with store.connect() as connection:
        before = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
    await retention(store, rows=30, hours=60).prune(0)
    async with store.connect() as connection:
        after = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
    assert after < before / 2
