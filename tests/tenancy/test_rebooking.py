"""An assignment that is dated in the past moves the calls that are on the books."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.prices import PriceBook
from llmgw_core.config.schema import DeploymentConfig, ModelConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import Usage
from llmgw_core.store import statement_queries
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_tables import pruned
from llmgw_core.tenancy.costing import Costing
from llmgw_core.tenancy.errors import TenancyError
from llmgw_core.tenancy.rebooking import rebook
from llmgw_core.tenancy.repricing import Repricing
from llmgw_core.testing.bookkeeping import book, priced, rates, sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.tenants import Tenant

NOW = 1_800_000_000
NS = 10**9
BY = "test"
PRICE = sheet(rates(10**9, 2 * 10**9))


@pytest.fixture
def costing(store: Store) -> Costing:
    return Costing(store, clock=lambda: float(NOW))


async def where(store: Store) -> dict[str, tuple[int, int]]:
    """Net tokens and cost by cost centre."""
    found: dict[str, tuple[int, int]] = {}
    for row in await Ledger(store).rows():
        tokens, cost = found.get(row.record.cost_center, (0, 0))
        found[row.record.cost_center] = (
            tokens + row.record.usage.total_tokens,
            cost + row.record.cost,
        )
    return {center: sums for center, sums in found.items() if any(sums)}


async def called(store: Store, tenant: Tenant, *centers: str) -> None:
    """A call every ten seconds until now, on these cost centres."""
    records = [
        priced(
            number,
            PRICE,
            Usage(10**number, 0),
            started_ns=(NOW - 10 * (len(centers) - number)) * NS,
            organization_id=tenant.organization_id,
            team_id=tenant.team_id,
            user_id=tenant.user_id,
            key_id=tenant.key_id,
            cost_center=center,
        )
        for number, center in enumerate(centers)
    ]
    await book(store, Ledger(store), records, PRICE)


async def test_calls_move_from_the_instant_on_and_what_was_chosen_stays(
    store: Store, tenant: Tenant, costing: Costing
) -> None:
    ids = {code: (await costing.create(code, actor=BY)).id for code in ("A", "B", "P")}
    await costing.assign("A", "team", tenant.team_id, since_ns=0, actor=BY)
    await costing.allow("team", tenant.team_id, ["P"], actor=BY)
    await called(store, tenant, ids["A"], ids["A"], ids["P"], ids["A"])
    since = (NOW - 30) * NS
    await costing.assign("B", "team", tenant.team_id, since_ns=since, actor=BY)
    done = await rebook(store, since, actor=BY, clock=lambda: NOW)
    assert (done.calls, done.moved) == (3, 2)
    expected = {ids["A"]: (1, 1000), ids["B"]: (1010, 1_010_000), ids["P"]: (100, 100_000)}
    assert await where(store) == expected
    again = await rebook(store, since, actor=BY, clock=lambda: NOW)
    assert (again.calls, again.moved) == (3, 0)


async def test_an_assignment_that_was_wrong_from_its_beginning_leaves_nothing_behind(
    store: Store, tenant: Tenant, tenancy: Tenancy, costing: Costing
) -> None:
    ids = {code: (await costing.create(code, actor=BY)).id for code in ("A", "B")}
    since = (NOW - 100) * NS
    await costing.assign("A", "key", tenant.key_id, since_ns=since, actor=BY)
    await called(store, tenant, "", ids["A"])
    await costing.assign("B", "key", tenant.key_id, since_ns=since, actor=BY)
    await rebook(store, since, actor=BY, clock=lambda: NOW)
    assert await where(store) == {ids["B"]: (11, 11_000)}
    await costing.unassign("key", tenant.key_id, since_ns=since, actor=BY)
    await rebook(store, since, actor=BY, clock=lambda: NOW)
    assert await where(store) == {"": (11, 11_000)}
    told = [e for e in reversed(await tenancy.list_audit()) if e.action.startswith("rebook")]
    assert [entry.action for entry in told] == ["rebook", "rebooked"] * 2
    assert [entry.details.get("moved") for entry in told] == [None, 2] * 2


async def test_a_move_that_fails_in_the_middle_is_in_the_audit_log(
    store: Store,
    tenant: Tenant,
    tenancy: Tenancy,
    costing: Costing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await costing.create("A", actor=BY)
    await called(store, tenant, "")
    await costing.assign("A", "team", tenant.team_id, since_ns=0, actor=BY)

    async def gone(_self: Ledger, _entries: object) -> bool:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(Ledger, "correct", gone)
    with pytest.raises(StoreUnavailable):
        await rebook(store, 0, until_ns=(NOW + 1) * NS, actor=BY, clock=lambda: NOW)
    assert "rebook" in [entry.action for entry in await tenancy.list_audit()]


async def test_calls_that_are_re_priced_meanwhile_move_at_their_new_price(
    store: Store, tenant: Tenant, costing: Costing, monkeypatch: pytest.MonkeyPatch
) -> None:
    center = (await costing.create("A", actor=BY)).id
    await called(store, tenant, "", "")
    await costing.assign("A", "team", tenant.team_id, since_ns=0, actor=BY)
    prices = PriceBook(
        {
            "small": ModelConfig(
                (DeploymentConfig(name="local", backend="b", zone="z"),),
                prices=(PriceEntry(cost=TokenPrices(Decimal(3))),),
            )
        }
    )
    correct, reprice = Ledger.correct, Repricing(store, Ledger(store), prices, "EUR").run

    async def beaten(self: Ledger, entries: Sequence[UsageRecord]) -> bool:
        monkeypatch.setattr(Ledger, "correct", correct)
        await reprice(0, NOW * NS, actor=BY)
        return await correct(self, entries)

    monkeypatch.setattr(Ledger, "correct", beaten)
    done = await rebook(store, 0, until_ns=(NOW + 1) * NS, actor=BY, clock=lambda: NOW)
    assert (done.calls, done.moved) == (2, 2)
    assert await where(store) == {center: (11, 33_000)}


async def test_what_retention_is_deleting_is_no_error_and_stays(
    store: Store, tenant: Tenant, costing: Costing
) -> None:
    await costing.create("A", actor=BY)
    await called(store, tenant, "", "")
    async with store.begin() as connection:
        # Of the hour of these calls only the time before them goes.
        before_ns = (NOW - 60) * NS
        await connection.execute(pruned.insert().values(name="ledger", before_ns=before_ns))
    await costing.assign("A", "team", tenant.team_id, since_ns=0, actor=BY)
    done = await rebook(store, 0, until_ns=(NOW + 1) * NS, actor=BY, clock=lambda: NOW)
    assert (done.calls, done.moved) == (0, 0)


async def test_the_time_of_a_closed_statement_is_left_alone(store: Store) -> None:
    start = int(dt.datetime(2026, 12, 1, tzinfo=dt.UTC).timestamp()) * NS
    values = {
        "id": "st_1",
        "scope": "",
        "period": "2026-12",
        "timezone": "UTC",
        "start_ns": start,
        "end_ns": start + 31 * 86_400 * NS,
        "state": "closed",
        "cursor": 0,
        "summary": "{}",
        "digest": "",
        "created_ns": 0,
        "created_by": BY,
    }
    async with store.begin() as connection:
        await statement_queries.put(connection, values)
    with pytest.raises(TenancyError, match="closed for good"):
        await rebook(store, start, actor=BY, clock=lambda: NOW)
