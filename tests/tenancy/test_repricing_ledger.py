from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy import delete, insert

from llmgw_core.accounting.prices import PriceBook
from llmgw_core.config.schema import DeploymentConfig, ModelConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import AttemptRecord, Usage
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_tables import ledger, pruned
from llmgw_core.store.price_sheets import read_sheets
from llmgw_core.store.repricing_queries import corrections
from llmgw_core.tenancy.errors import TenancyError
from llmgw_core.tenancy.repricing import ModelChange, Repricing
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.usage_records import STARTED_NS, usage_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.engine import Store

END = STARTED_NS + 10**9


def book(input: int, **models: tuple[PriceEntry, ...]) -> PriceBook:
    """The model `small` of the records, at `input` units per million tokens of input."""
    deployments = (DeploymentConfig(name="local", backend="b", zone="z"),)
    prices = {"small": (PriceEntry(cost=TokenPrices(Decimal(input))),), **models}
    return PriceBook({name: ModelConfig(deployments, prices=own) for name, own in prices.items()})


def repricing(store: Store, input: int, ledger: Ledger | None = None) -> Repricing:
    return Repricing(store, ledger or Ledger(store), book(input), "USD", clock=lambda: 1_000.0)


async def entries(store: Store) -> dict[str, int]:
    """The charges of all rows, by call id."""
    rows = await Ledger(store).rows(limit=10_000)
    return {row.record.call_id: row.record.charge for row in rows}


async def total(store: Store) -> tuple[int, int, int]:
    """Calls, tokens of input and charge, as reports have them."""
    [row] = await Ledger(store).usage(("model",))
    return row.calls, row.input_tokens, row.charge


async def test_a_past_period_gets_the_prices_of_today_as_pairs_of_rows(store: Store) -> None:
    ledger = Ledger(store)
    await ledger.insert([usage_record(1), usage_record(2)], [])
    [line] = await repricing(store, 3).run(STARTED_NS, END, actor="me")
    assert line == ModelChange("small", "USD", 2, 2, 0, 3_000, 60_000, 5_000, 60_000)
    assert await entries(store) == {
        "call-1": 2_500,
        "call-2": 2_500,
        "call-1~r1": -2_500,
        "call-1~b1": 30_000,
        "call-2~r1": -2_500,
        "call-2~b1": 30_000,
    }
    assert await total(store) == (2, 20, 60_000)
    rebooked = await ledger.get("call-1~b1")
    assert rebooked is not None
    async with store.connect() as connection:
        sheets = await read_sheets(connection, [rebooked.attempts[0].price])
        original = await ledger.get("call-1")
        assert original is not None
        made = await corrections(connection, original)
    assert [each.call_id for each in made] == ["call-1~r1", "call-1~b1"]
    assert sheets[rebooked.attempts[0].price].cost.input == 3 * 10**9


async def test_doing_it_again_does_nothing_and_later_prices_come_on_top(store: Store) -> None:
    await Ledger(store).insert([usage_record(1)], [])
    await repricing(store, 3).run(STARTED_NS, END, actor="me")
    [line] = await repricing(store, 3).run(STARTED_NS, END, actor="me")
    assert (line.calls, line.changed) == (1, 0)
    assert len(await entries(store)) == 3
    for number, input in enumerate((4, 5, 6, 7, 8, 9, 10, 11, 12), start=2):
        await repricing(store, input).run(STARTED_NS, END, actor="me")
        found = await entries(store)
        assert found[f"call-1~r{number}"] == -(input - 1) * 10_000
        assert found[f"call-1~b{number}"] == input * 10_000
    assert await total(store) == (1, 10, 120_000)


async def test_a_dry_run_says_what_would_happen_and_books_nothing(store: Store) -> None:
    await Ledger(store).insert([usage_record(1)], [])
    found = await repricing(store, 3).run(STARTED_NS, END, actor="me", dry_run=True)
    assert [(line.changed, line.charge_after) for line in found] == [(1, 30_000)]
    assert list(await entries(store)) == ["call-1"]
    assert await Tenancy(store).list_audit() == []


class Failing(Ledger):
    """A ledger that takes one batch and then no more."""

    batches = 0

    async def correct(self, entries: Sequence[UsageRecord]) -> bool:
        self.batches += 1
        if self.batches > 1:
            raise StoreUnavailable("gone")
        return await super().correct(entries)


class Beaten(Ledger):
    """A ledger in which `other` books its corrections first, once."""

    def __init__(self, store: Store, other: Repricing) -> None:
        super().__init__(store)
        self.other: Repricing | None = other

    async def correct(self, entries: Sequence[UsageRecord]) -> bool:
        other, self.other = self.other, None
        if other is not None:
            await other.run(STARTED_NS, STARTED_NS + 2, actor="other")
        return await super().correct(entries)


async def test_who_is_beaten_to_it_books_on_top_and_says_what_it_did(store: Store) -> None:
    await Ledger(store).insert([usage_record(n) for n in range(3)], [])
    ledger = Beaten(store, repricing(store, 3))
    [line] = await repricing(store, 4, ledger).run(STARTED_NS, END, actor="me")
    # Two of the three were at 3 units by then.
    assert line == ModelChange("small", "USD", 3, 3, 0, 61_500, 120_000, 62_500, 120_000)
    assert await total(store) == (3, 30, 120_000)


async def test_what_retention_has_begun_to_delete_meanwhile_is_refused_with_a_sentence(
    store: Store,
) -> None:
    class Pruning(Ledger):
        async def correct(self, entries: Sequence[UsageRecord]) -> bool:
            async with store.begin() as connection:
                gone = insert(pruned).values(name="ledger", before_ns=END)
                await connection.execute(gone)
            return await super().correct(entries)

    await Ledger(store).insert([usage_record(1)], [])
    with pytest.raises(TenancyError, match="Retention may have begun to delete"):
        await repricing(store, 3, Pruning(store)).run(STARTED_NS, END, actor="me")


async def test_what_was_broken_off_goes_on_where_it_was(store: Store) -> None:
    # Three of them at one moment, so that a batch ends among them.
    records = [usage_record(n, started_ns=STARTED_NS + min(n, 3)) for n in range(6)]
    await Ledger(store).insert(records, [])
    with pytest.raises(StoreUnavailable):
        await repricing(store, 3, Failing(store)).run(STARTED_NS, END, actor="me", batch=2)
    assert len(await entries(store)) == 6 + 4
    [line] = await repricing(store, 3).run(STARTED_NS, END, actor="me", batch=2)
    assert (line.calls, line.changed) == (6, 4)
    assert len(await entries(store)) == 6 + 12
    assert await total(store) == (6, 60, 180_000)


async def test_only_the_calls_of_the_period_and_the_model_are_touched(store: Store) -> None:
    other = usage_record(3, model="other", served_model="other", attempts=())
    late = usage_record(4, started_ns=END)
    await Ledger(store).insert([usage_record(1), other, late], [])
    found = await repricing(store, 3).run(STARTED_NS, END, actor="me", model="small")
    assert [(line.model, line.calls, line.changed) for line in found] == [("small", 1, 1)]
    assert set(await entries(store)) == {"call-1", "call-3", "call-4", "call-1~r1", "call-1~b1"}


async def test_what_cannot_be_re_priced_is_refused_with_a_sentence(store: Store) -> None:
    await Ledger(store).insert([usage_record(1), usage_record(2, currency="EUR")], [])
    with pytest.raises(TenancyError, match="booked in EUR in this period, and prices are in USD"):
        await repricing(store, 3).run(STARTED_NS, END, actor="me")
    with pytest.raises(TenancyError, match="ends before it begins"):
        await repricing(store, 3).run(END, STARTED_NS, actor="me")
    async with store.begin() as connection:
        await connection.execute(insert(pruned).values(name="ledger", before_ns=STARTED_NS + 1))
    with pytest.raises(TenancyError, match="Calls before 2026-02-02 03:00:00 UTC are gone"):
        await repricing(store, 3).run(STARTED_NS, END, actor="me")
    assert len(await entries(store)) == 2


async def test_calls_of_another_currency_are_booked_anew_when_it_is_named(store: Store) -> None:
    paid = usage_record(1)
    failed = AttemptRecord("gone/x", "gone", "cut", 0, 1, 5, 5, "", "sheet", Usage(1, 0))
    mixed = msgspec.structs.replace(
        paid, call_id="call-2", cost=1_505, charge=2_505, attempts=(failed, *paid.attempts)
    )
    free = usage_record(
        3, cost=0, charge=0, attempts=(AttemptRecord("gone/x", "gone", "ok", 200, 1, 0, 0),)
    )
    await Ledger(store).insert([paid, usage_record(4, currency="EUR"), mixed, free], [])
    euro = Repricing(store, Ledger(store), book(3), "EUR")
    found = await euro.run(STARTED_NS, END, actor="me", from_currency="USD")
    assert [(line.currency_before, line.calls, line.changed, line.kept) for line in found] == [
        ("EUR", 1, 1, 0),
        # What cannot be priced as a whole stays as it is: no row has two currencies.
        ("USD", 3, 1, 2),
    ]
    rows = {row.record.call_id: row.record for row in await Ledger(store).rows()}
    assert rows["call-1~r1"].currency == "USD"
    assert (rows["call-1~b1"].currency, rows["call-1~b1"].charge) == ("EUR", 30_000)
    with pytest.raises(TenancyError, match="--from-currency USD"):
        await euro.run(STARTED_NS, END, actor="me")
    async with store.begin() as connection:
        await connection.execute(delete(ledger).where(ledger.c.call_id == "call-2"))
    # Everything else has been taken back, so that there is only one currency on the books.
    assert await euro.run(STARTED_NS, END, actor="me", dry_run=True)


async def test_who_re_priced_what_is_in_the_audit_log(store: Store) -> None:
    await Ledger(store).insert([usage_record(1)], [])
    await repricing(store, 3).run(STARTED_NS, END, actor="me", model="small")
    [entry] = await Tenancy(store).list_audit()
    assert (entry.actor, entry.action, entry.kind, entry.at) == ("me", "reprice", "ledger", 1_000.0)
    assert entry.details == {
        "since": "2026-02-02 02:40:00 UTC",
        "until": "2026-02-02 02:40:01 UTC",
        "model": "small",
    }


async def test_a_deployment_that_has_no_price_now_keeps_what_it_had(store: Store) -> None:
    await Ledger(store).insert([usage_record(1)], [])
    found = await Repricing(store, Ledger(store), PriceBook({}), "USD").run(0, END, actor="me")
    assert [(line.changed, line.kept) for line in found] == [(0, 1)]
