from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from llmgw_core.accounting.port import RecordsRefused
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import DeliveryRecord, Usage
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_tables import GROUP, SUMS, usage_groups, usage_hours
from llmgw_core.store.ledger_tables import ledger as rows_table
from llmgw_core.testing.usage_records import STARTED_NS, usage_record

if TYPE_CHECKING:
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.engine import Store

HOUR_NS = 3_600 * 10**9


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


async def test_a_record_comes_back_as_it_was(ledger: Ledger) -> None:
    whole = usage_record(1)
    bare = usage_record(2, team_id=None, user_id=None, key_id=None, attempts=(), stream=True)
    assert await ledger.insert([whole, bare], []) == 2
    assert await ledger.get("call-1") == whole
    assert await ledger.get("call-2") == bare
    assert await ledger.get("call-3") is None
    assert await ledger.count() == 2


async def test_nothing_inserted_is_nothing_done(ledger: Ledger) -> None:
    assert await ledger.insert([], []) == 0
    assert await ledger.count() == 0


async def test_a_call_is_stored_and_counted_once_however_often_it_comes(ledger: Ledger) -> None:
    first, second, third = (usage_record(number) for number in range(3))
    assert await ledger.insert([first, first, second], []) == 2
    changed = usage_record(1, charge=999)
    assert await ledger.insert([first, changed, third], []) == 1
    assert await ledger.insert([first, changed, third], []) == 0
    assert await ledger.get("call-1") == second
    (total,) = await ledger.usage([])
    assert (total.calls, total.charge) == (3, 3 * second.charge)


async def test_many_known_calls_are_told_from_new_ones(ledger: Ledger) -> None:
    records = [usage_record(number) for number in range(1_300)]
    assert await ledger.insert(records[:1_200], []) == 1_200
    assert await ledger.insert(records, []) == 100
    (total,) = await ledger.usage([])
    assert total.calls == 1_300


async def test_a_delivery_changes_status_and_duration_and_nothing_else(ledger: Ledger) -> None:
    record = usage_record(1)
    late = DeliveryRecord("call-1", "client_left", 99)
    unknown = DeliveryRecord("call-9", "client_left", 99)
    assert await ledger.insert([record], []) == 1
    assert await ledger.insert([], [late, unknown]) == 0
    assert await ledger.insert([], [late]) == 0
    assert await ledger.get("call-1") == usage_record(1, status="client_left", duration_us=99)


async def test_a_delivery_may_come_with_its_record(ledger: Ledger) -> None:
    late = DeliveryRecord("call-1", "client_left", 99)
    assert await ledger.insert([usage_record(1)], [late]) == 1
    record = await ledger.get("call-1")
    assert record is not None
    assert record.status == "client_left"


async def test_a_cursor_misses_nothing_and_repeats_nothing(ledger: Ledger) -> None:
    seen: list[UsageRecord] = []
    cursor = 0
    for start in range(0, 30, 10):
        await ledger.insert([usage_record(number) for number in range(start, start + 10)], [])
        while page := await ledger.rows(cursor, limit=4):
            seen += [row.record for row in page]
            cursor = page[-1].cursor
    assert seen == [usage_record(number) for number in range(30)]


async def test_a_cursor_is_never_used_again(ledger: Ledger, store: Store) -> None:
    await ledger.insert([usage_record(1)], [])
    (row,) = await ledger.rows()
    async with store.begin() as connection:
        await connection.execute(rows_table.delete())
    await ledger.insert([usage_record(2)], [])
    (later,) = await ledger.rows(row.cursor)
    assert later.record == usage_record(2)


async def test_writers_at_once_count_every_call_once(ledger: Ledger, store: Store) -> None:
    batches = [[usage_record(n) for n in range(start, start + 20)] for start in range(0, 60, 10)]
    new = await asyncio.gather(*(Ledger(store).insert(batch, []) for batch in batches))
    assert sum(new) == await ledger.count() == 70
    (total,) = await ledger.usage([])
    assert total.calls == 70


async def test_a_store_that_is_closed_is_unavailable(ledger: Ledger, store: Store) -> None:
    await ledger.insert([usage_record(1)], [])
    await store.aclose()
    for attempt in (
        ledger.insert([usage_record(2)], []),
        ledger.usage([]),
        ledger.rows(),
        ledger.get("call-1"),
        ledger.count(),
    ):
        with pytest.raises(StoreUnavailable):
            await attempt
    await store.open()
    assert await ledger.count() == 1


async def test_a_batch_that_the_database_refuses_leaves_no_part_of_it(ledger: Ledger) -> None:
    impossible = usage_record(2, organization_id=None)
    with pytest.raises(RecordsRefused):
        await ledger.insert([usage_record(1), impossible], [])
    assert await ledger.count() == 0
    assert await ledger.usage(["organization"]) == []


async def test_an_absurd_figure_is_cut_and_keeps_nobody_off_the_books(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    absurd = usage_record(2, usage=Usage(input_tokens=2**64 - 1), cost=2**63, charge=-(2**63) - 1)
    assert await ledger.insert([usage_record(1), absurd], []) == 2
    assert "too large" in caplog.text
    assert await ledger.get("call-1") == usage_record(1)
    stored = await ledger.get("call-2")
    assert stored is not None
    assert (stored.usage.input_tokens, stored.cost, stored.charge) == (10**15, 10**15, -(10**15))


async def test_sums_never_come_near_the_end_of_64_bits(ledger: Ledger) -> None:
    """SQLite would go on with floating point, in silence."""
    for number in range(3):
        assert await ledger.insert([usage_record(number, charge=6 * 10**18)], []) == 1
    (total,) = await ledger.usage([])
    assert (type(total.charge), total.charge) == (int, 3 * 10**15)
    rows = await ledger.rows()
    assert [row.record.charge for row in rows] == [10**15] * 3


names = st.sampled_from(["a", "b"])
records = st.lists(
    st.builds(
        usage_record,
        st.integers(0, 30),
        started_ns=st.integers(0, 5).map(lambda half: STARTED_NS + half * HOUR_NS // 2),
        organization_id=names,
        team_id=st.none() | names,
        user_id=st.none() | names,
        key_id=st.none() | names,
        model=names,
        served_model=names,
        deployment=names,
        usage=st.builds(
            Usage,
            *[st.integers(0, 10**6)] * 4,
            st.sampled_from(["provider", "estimated", "none"]),
        ),
        cost=st.integers(0, 10**12),
        charge=st.integers(0, 10**12),
    ),
    max_size=12,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(records, max_size=4))
def test_the_hourly_sums_are_the_sums_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[UsageRecord]]
) -> None:
    from llmgw_core.store.engine import Store

    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path_factory.mktemp('sums') / 'llmgw.db'}")
        await store.open()
        for batch in batches:
            await Ledger(store).insert(batch, [])
        assert await _stored_sums(store) == _expected_sums(
            [row.record for row in await Ledger(store).rows()]
        )
        await store.aclose()

    asyncio.run(run())


async def _stored_sums(store: Store) -> dict[tuple[object, ...], list[int]]:
    columns = [usage_groups.c[name] for name in GROUP]
    query = select(usage_hours.c.hour, *columns, *(usage_hours.c[name] for name in SUMS))
    query = query.join(usage_groups, usage_groups.c.id == usage_hours.c.group_id)
    async with store.connect() as connection:
        found = [tuple(row) for row in await connection.execute(query)]
    return {row[:11]: list(row[11:]) for row in found}


def _expected_sums(rows: list[UsageRecord]) -> dict[tuple[object, ...], list[int]]:
    expected: dict[tuple[object, ...], list[int]] = {}
    for row in rows:
        ids = [id or "" for id in (row.organization_id, row.team_id, row.user_id, row.key_id)]
        key = (
            row.started_ns // HOUR_NS,
            *ids,
            row.cost_center,
            row.endpoint,
            row.model,
            row.served_model,
            row.deployment,
            "",
        )
        usage = row.usage
        values = [
            1,
            int(usage.source == "estimated"),
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.reasoning_tokens,
            *[0] * 8,
            row.cost,
            row.charge,
        ]
        sums = expected.setdefault(key, [0] * len(values))
        expected[key] = [old + new for old, new in zip(sums, values, strict=True)]
    return expected


async def test_what_is_read_apart_keeps_nobody_waiting_and_comes_one_after_the_other(
    ledger: Ledger,
) -> None:
    begun, released = threading.Event(), threading.Event()
    running: list[str] = []

    async def slow(other: Ledger) -> int:
        running.append("slow")
        begun.set()
        assert released.wait(30)
        return await other.count()

    async def next_one(other: Ledger) -> int:
        running.append("next")
        return len(await other.usage(("model",)))

    first = asyncio.create_task(ledger.apart(slow))
    second = asyncio.create_task(ledger.apart(next_one))
    await ledger.insert([usage_record(1)], [])
    assert await asyncio.to_thread(begun.wait, 30)
    # Who has gone waits for no answer, and still nobody else begins before the end.
    first.cancel()
    await asyncio.sleep(0)
    assert running == ["slow"]
    released.set()
    assert (await second, running) == (1, ["slow", "next"])
    with pytest.raises(asyncio.CancelledError):
        await first
