"""No nano-unit is lost between records, rows, sums and reports: whatever the records, corrections,
repetitions, batches, retention and groupings."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.config.schema_retention import RetentionConfig
from llmgw_core.domain.usage import AttemptRecord, Usage, UsageDetails, UsageRecord
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_tables import SUMS
from llmgw_core.store.retention import Retention
from llmgw_core.store.usage_report import Dimension
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from llmgw_core.store.usage_report import UsageRow

START = dt.datetime(2026, 1, 20, tzinfo=dt.UTC)
START_NS = int(START.timestamp()) * 10**9
HOUR_NS = 3_600 * 10**9
HOURS = 24 * 45

names = st.sampled_from(["a", "b"])
figures = st.integers(0, 10**6)
details = st.none() | st.builds(UsageDetails, *[figures] * 8)
sources = st.sampled_from(["provider", "estimated"])
usages = st.builds(Usage, *[figures] * 4, sources, st.just(""), details)
amounts = st.integers(0, 10**14)


@st.composite
def calls(draw: st.DrawFn) -> UsageRecord:
    """A call of up to three attempts, of which the failed ones may have been paid."""
    attempts, total = [], draw(usages)
    cost = own_cost = draw(amounts)
    charge = own_charge = draw(amounts)
    for _ in range(draw(st.integers(0, 2))):
        paid = draw(st.none() | usages)
        spent = (draw(amounts), draw(amounts)) if paid is not None else (0, 0)
        place = f"m/{draw(names)}"
        attempts.append(AttemptRecord(place, "m", "timeout", 0, 1, *spent, "", draw(names), paid))
        total = total if paid is None else total.plus(paid)
        cost, charge = cost + spent[0], charge + spent[1]
    last = AttemptRecord("m/a", "m", "ok", 200, 1, own_cost, own_charge, "", draw(names))
    return usage_record(
        draw(st.integers(0, 60)),
        started_ns=START_NS + draw(st.integers(0, HOURS - 1)) * HOUR_NS + draw(st.integers(0, 999)),
        organization_id=draw(names),
        team_id=draw(st.none() | names),
        user_id=draw(st.none() | names),
        key_id=draw(st.none() | names),
        cost_center=draw(names),
        model=draw(names),
        deployment="m/a",
        usage=total,
        cost=cost,
        charge=charge,
        attempts=(*attempts, last),
    )


def negated(usage: Usage) -> Usage:
    found = usage.details
    return Usage(
        -usage.input_tokens,
        -usage.output_tokens,
        -usage.cached_input_tokens,
        -usage.reasoning_tokens,
        usage.source,
        usage.method,
        None if found is None else UsageDetails(*(-n for n in msgspec.structs.astuple(found))),
    )


def corrections(record: UsageRecord, charge: int) -> list[UsageRecord]:
    """The reversal of `record`, and what it is rebooked as."""
    change = msgspec.structs.replace
    reversal = change(
        record,
        call_id=f"{record.call_id}~r1",
        entry="reversal",
        corrects=record.call_id,
        usage=negated(record.usage),
        cost=-record.cost,
        charge=-record.charge,
        attempts=tuple(
            change(
                attempt,
                cost=-attempt.cost,
                charge=-attempt.charge,
                usage=None if attempt.usage is None else negated(attempt.usage),
            )
            for attempt in record.attempts
        ),
    )
    last = change(record.attempts[-1], price="new", charge=charge)
    before = sum(attempt.charge for attempt in record.attempts[:-1])
    rebooking = change(
        record,
        call_id=f"{record.call_id}~b1",
        entry="rebooking",
        corrects=record.call_id,
        charge=before + charge,
        attempts=(*record.attempts[:-1], last),
    )
    return [reversal, rebooking]


def sums(records: list[UsageRecord]) -> tuple[int, ...]:
    totals = [0] * len(SUMS)
    for record in records:
        usage, sign = record.usage, -1 if record.entry == "reversal" else 1
        more = usage.details or UsageDetails()
        values = [
            sign,
            sign * (usage.source == "estimated"),
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.reasoning_tokens,
            *msgspec.structs.astuple(more),
            record.cost,
            record.charge,
        ]
        totals = [old + new for old, new in zip(totals, values, strict=True)]
    return tuple(totals)


def added(report: list[UsageRow]) -> tuple[int, ...]:
    columns = zip(*(msgspec.structs.astuple(row)[2:] for row in report), strict=True)
    return tuple(map(sum, columns)) or (0,) * len(SUMS)


moments = st.none() | st.integers(-5, HOURS + 5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(calls(), max_size=6), max_size=5),
    amounts,
    st.lists(st.sampled_from(get_args(Dimension)), max_size=4, unique=True),
    moments,
    moments,
    names,
)
def test_no_nano_unit_is_lost(
    batches: list[list[UsageRecord]],
    new_charge: int,
    by: list[Dimension],
    since: int | None,
    until: int | None,
    owner: str,
) -> None:
    async def run(file: Path) -> None:
        store = Store(f"sqlite:///{file}")
        await store.open()
        ledger = Ledger(store)
        for batch in [*batches, *batches[:2]]:
            await ledger.insert(batch, [])
        known = [row.record for row in await ledger.rows()]
        await ledger.insert([c for r in known[::2] for c in corrections(r, new_charge)], [])
        records = [row.record async for row in ledger.export(page=5)]
        assert added(await ledger.usage(by)) == sums(records)
        first = None if since is None else START + dt.timedelta(hours=since)
        last = None if until is None else START + dt.timedelta(hours=until)

        def wanted(record: UsageRecord) -> bool:
            hour = (record.started_ns - START_NS) // HOUR_NS
            inside = (since is None or hour >= since) and (until is None or hour < until)
            return inside and record.organization_id == owner

        found = await ledger.usage(by, first, last, {"organization": owner})
        assert added(found) == sums([record for record in records if wanted(record)])
        now = START_NS + HOURS * HOUR_NS
        await Retention(store, RetentionConfig(10, 10, 0), lambda: now).prune(0)
        assert added(await ledger.usage([name for name in by if name != "hour"])) == sums(records)
        await store.aclose()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "llmgw.db"))


def test_every_dimension_can_be_asked_for_with_every_other() -> None:
    async def run(file: Path) -> None:
        store = Store(f"sqlite:///{file}")
        await store.open()
        ledger = Ledger(store)
        records = [usage_record(n, started_ns=START_NS + n * 7 * HOUR_NS) for n in range(150)]
        await ledger.insert(records, [])
        # Parts of days and months that are read as they are, and as the whole without the rest.
        for first, last in ((9, 300), (20, 36 * 24 - 3)):
            span = (START + dt.timedelta(hours=first), START + dt.timedelta(hours=last))
            inside = [r for r in records if first <= (r.started_ns - START_NS) // HOUR_NS < last]
            for by in itertools.combinations(get_args(Dimension), 2):
                assert added(await ledger.usage(by, *span)) == sums(inside), by
        await store.aclose()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "llmgw.db"))
