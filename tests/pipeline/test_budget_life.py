"""Budgets over time: changes while the gateway runs, periods, corrections."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.limits import Budget
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.limits.periods import period_at
from llmgw_core.tenancy.records import KEY, TEAM
from llmgw_core.testing.budgeted_calls import PRICE, chat, count, count_of, month
from llmgw_core.testing.installation import at, install
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.wire.request import RequestView

BY = "test"


async def down(*_: object) -> None:
    raise StoreUnavailable("down")


# Changes while it runs


async def test_a_new_budget_knows_what_was_spent_before_it(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]})
    for _ in range(2):
        assert (await chat(here)).status == 200
    assert not here.gateway.budgets.book.active
    await here.gateway.budgeting.set(TEAM, here.tenant.team_id, month(3), actor=BY)
    statuses = [(await chat(here)).status for _ in range(2)]
    assert statuses == [200, 429]
    assert count(here).spent == 3 * PRICE == sum(each.charge for each in await here.records())


@pytest.mark.parametrize("stored", [True, False])
async def test_what_is_still_in_the_own_journal_counts_for_a_new_budget_once(
    installed: Install, metered: ModelServer, monkeypatch: pytest.MonkeyPatch, *, stored: bool
) -> None:
    """Also if the store has it, and the mover does not know: the answer was lost."""
    here = await installed({"m": [at(metered)]})
    for _ in range(2):
        assert (await chat(here)).status == 200
    if stored:
        calls = list(here.gateway.mover.unmoved())
        await here.gateway.ledger.insert(calls, [])

    async def nothing() -> int:
        return 0

    monkeypatch.setattr(here.gateway.mover, "move_once", nothing)
    await here.gateway.budgeting.set(TEAM, here.tenant.team_id, month(3), actor=BY)
    assert [(await chat(here)).status for _ in range(2)] == [200, 429]
    assert count(here).spent == 3 * PRICE
    monkeypatch.undo()


async def test_budgets_that_appear_while_calls_run_count_each_of_them_once(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]}, plugins=[("slow", Slow)])
    calls = [asyncio.create_task(chat(here)) for _ in range(40)]
    for number in range(4):
        await asyncio.sleep(0.003)
        budget = Budget("money", (number + 1) * 10**12, "month")
        kind: Any = (TEAM, KEY)[number % 2]
        which = (here.tenant.team_id, here.tenant.key_id)[number % 2]
        await here.gateway.budgeting.set(kind, which, budget, actor=BY)
        await here.gateway.mover.move_once()
        calls += [asyncio.create_task(chat(here)) for _ in range(10)]
    replies = await asyncio.gather(*calls)
    assert {reply.status for reply in replies} == {200}
    charged = sum(record.charge for record in await here.records())
    assert charged == 80 * PRICE
    for owner in (("team", here.tenant.team_id), ("key", here.tenant.key_id)):
        account = here.gateway.budgets.book.account(owner)
        assert account is not None
        [counter] = account.counters.values()
        assert (counter.current.spent, counter.current.reserved) == (charged, 0)


class Slow:
    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        await asyncio.sleep(0.001)


async def test_another_amount_holds_from_then_on_and_what_is_counted_stays(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(1)]})
    assert [(await chat(here)).status for _ in range(2)] == [200, 429]
    await here.gateway.budgeting.set(TEAM, here.tenant.team_id, month(2), actor=BY)
    assert [(await chat(here)).status for _ in range(2)] == [200, 429]
    await here.gateway.budgeting.remove(TEAM, here.tenant.team_id, actor=BY)
    assert (await chat(here)).status == 200
    await here.gateway.budgeting.set(TEAM, here.tenant.team_id, month(4), actor=BY)
    assert [(await chat(here)).status for _ in range(2)] == [200, 429]
    assert count(here).spent == 4 * PRICE


async def test_a_budget_survives_a_reload_and_goes_with_its_level(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(2)]})
    assert (await chat(here)).status == 200
    config = here.gateway.config
    requests = msgspec.structs.replace(config.requests, body_seconds=30.0)
    await here.gateway.reload(msgspec.structs.replace(config, requests=requests))
    assert [(await chat(here)).status for _ in range(2)] == [200, 429]
    await here.gateway.tenancy.delete(TEAM, here.tenant.team_id, actor=BY)
    await here.gateway.principals.poll()
    assert (await chat(here)).status == 401
    await here.gateway._foundation.control.refresh()
    assert here.gateway.budgets.states() == []


async def test_while_the_store_is_down_budgets_that_were_not_read_admit_nobody(
    installed: Install, metered: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(9)]})
    monkeypatch.setattr(here.gateway.mover, "move_once", down)
    reply = await chat(here)
    error = msgspec.json.decode(reply.body)["error"]
    assert (reply.status, error["message"]) == (
        503,
        "The gateway cannot read your budgets at the moment.",
    )
    assert reply.headers["retry-after"] == "1"
    monkeypatch.undo()
    assert (await chat(here)).status == 200
    # From then on they are known, whatever the store does.
    monkeypatch.setattr(here.gateway.mover, "move_once", down)
    assert (await chat(here)).status == 200


# Periods


async def test_a_call_belongs_to_the_period_in_which_it_began(
    installed: Install, metered: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, arrived = asyncio.Event(), asyncio.Event()

    class Waiting:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> None:
            arrived.set()
            await gate.wait()

    here = await installed(
        {"m": [at(metered)]}, tenant={"team_budgets": [month(1)]}, plugins=[("waiting", Waiting)]
    )
    now = {"ns": time.time_ns()}
    monkeypatch.setattr(here.gateway._generation.entrance, "_wall_clock_ns", lambda: now["ns"])
    late = asyncio.create_task(chat(here))
    await arrived.wait()
    before = count(here)
    end = period_at("month", "UTC", now["ns"]).end_ns
    now["ns"] = end
    gate.set()
    assert (await chat(here)).status == 200
    assert (await late).status == 200
    after = count(here)
    assert (before.end_ns, after.start_ns) == (end, end)
    assert (before.spent, before.reserved, after.spent, after.reserved) == (PRICE, 0, PRICE, 0)
    assert (await chat(here)).status == 429
    # The clock is put back a little: what was spent there is still known.
    now["ns"] = end - 1
    assert (await chat(here)).status == 429


async def test_a_clock_that_is_put_back_by_years_has_its_period_read_again(
    installed: Install, metered: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(2)]})
    assert (await chat(here)).status == 200
    entrance = here.gateway._generation.entrance
    years = 10 * 366 * 86_400 * 10**9
    with monkeypatch.context() as future:
        future.setattr(entrance, "_wall_clock_ns", lambda: time.time_ns() + years)
        count(here)
        for _ in range(2):
            assert (await chat(here)).status == 200
        future.setattr(entrance, "_wall_clock_ns", lambda: time.time_ns() + 2 * years)
        assert (await chat(here)).status == 200
    await here.gateway._foundation.control.refresh()
    await here.gateway.budgets.settle_down()
    assert count(here).spent == PRICE
    assert [(await chat(here)).status for _ in range(2)] == [200, 429]


async def test_a_correction_of_the_past_reaches_the_budget(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(2)]})
    assert (await chat(here)).status == 200
    [record] = await here.records()
    await here.gateway._foundation.control.refresh()
    replace = msgspec.structs.replace
    negated = replace(record.usage, input_tokens=-9, output_tokens=-3)
    reversal = replace(
        record,
        call_id=f"{record.call_id}~r1",
        charge=-record.charge,
        cost=-record.cost,
        usage=negated,
        entry="reversal",
        corrects=record.call_id,
        attempts=(),
    )
    rebooking = replace(
        record,
        call_id=f"{record.call_id}~b1",
        charge=2 * PRICE,
        entry="rebooking",
        corrects=record.call_id,
        attempts=(),
    )
    await here.gateway.ledger.insert([reversal, rebooking], [])
    await here.gateway._foundation.control.refresh()
    assert count(here).spent == 2 * PRICE
    await here.gateway._foundation.control.refresh()
    assert count(here).spent == 2 * PRICE
    assert (await chat(here)).status == 429


async def test_half_hours_of_time_zones_are_cut_out_of_the_hour(
    tmp_path: Path, metered: ModelServer
) -> None:
    """The day of Kolkata begins at half past six in the evening, as UTC has it."""
    zone = "Asia/Kolkata"
    budget = Budget("tokens", 10**6, "day", zone)
    models = {"m": [at(metered)]}
    span = period_at("day", zone, time.time_ns())
    assert span.start_ns % (3600 * 10**9)
    async with install(tmp_path, models, tenant={"team_budgets": [budget]}) as first:
        tenant = first.tenant
        instants = (
            span.start_ns - 1,
            span.start_ns,
            span.start_ns + 7_200 * 10**9,
            span.end_ns - 1,
        )
        await first.gateway.ledger.insert(
            [
                usage_record(number, team_id=tenant.team_id, started_ns=started)
                for number, started in enumerate(instants)
            ],
            [],
        )
    async with install(tmp_path, models, tenant={"name": "another"}) as second:
        assert count_of(second.gateway, tenant).spent == 3 * 15
        await second.gateway.budgeting.set(
            TEAM, tenant.team_id, Budget("tokens", 10**6, "total"), actor=BY
        )
        states = {each.period: each for each in await second.gateway.budgeting.states()}
        assert (states["day"].spent, states["total"].spent) == (45, 60)
        assert states["total"].end_ns is None
